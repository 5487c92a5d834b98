import hashlib
import importlib.resources

import pytest

from imagereward_core.errors import PromptError
from imagereward_core.tokenizer import ignored_tokens, token_ids, tokenize

# Ids of transformers' BertTokenizer (4.27, slow) with [DEC] and [ENC] added, for the cases where tokenisers differ.
REFERENCE = {
    "a painting of an ocean": [1037, 4169, 1997, 2019, 4153],
    "[ENC] hi [DEC]": [30523, 7632, 30522],
    "a [MASK] cat [sep]": [1037, 103, 4937, 1031, 19802, 1033],
    "fa\u2065ed": [17282, 2094],  # an unassigned character vanishes, it does not split the word
    "caf\u00e9 na\u00efve": [7668, 15743],
    "cafe\u0301": [7668],
}


@pytest.mark.parametrize("prompt", REFERENCE)
def test_ids_of_the_reference(prompt):
    assert token_ids(prompt) == REFERENCE[prompt]


def test_vocabulary_is_the_published_one():
    data = importlib.resources.files("imagereward_core").joinpath("data/bert-base-uncased-vocab.txt").read_bytes()
    assert hashlib.sha256(data).hexdigest() == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


def test_padding_goes_to_the_longest_or_to_the_limit():
    ids, mask = tokenize(["a cat", "a"])
    assert ids.tolist() == [[101, 1037, 4937, 102], [101, 1037, 102, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert tokenize(["a"], pad_to_max=True)[0].shape == (1, 35)
    assert tokenize([])[0].shape == (0, 2)


def test_long_prompts_keep_the_end_token():
    ids, mask = tokenize(["cat " * 100])
    assert ids.shape == (1, 35) and ids[0, -1] == 102 and mask.all()
    assert ignored_tokens("cat " * 100) == 67
    assert ignored_tokens("cat") == 0


@pytest.mark.parametrize(
    "prompt", ["cat " * 2_500_000, "x" * 10_000_000, " " * 10_000_000 + "cat"], ids=["words", "one word", "spaces"]
)
@pytest.mark.newest
def test_ten_megabytes(prompt):
    short = {"c": "cat " * 40, "x": "x" * 200, " ": "cat"}[prompt[0]]
    assert tokenize([prompt])[0].tolist() == tokenize([short])[0].tolist()


def test_lone_surrogates_do_not_break_it():
    assert token_ids("a \ud800cat") == token_ids("a cat")


@pytest.mark.parametrize("prompt", [None, 3, b"cat", ["cat"]])
def test_a_prompt_must_be_a_string(prompt):
    with pytest.raises(PromptError, match="must be a string, found"):
        tokenize([prompt])
