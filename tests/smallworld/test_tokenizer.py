"""The vocabulary in CLIP's format: the grammar's words are single tokens, everything else falls back to bytes."""

import json

import pytest

from smallworld.pipeline import TINY_SD
from smallworld.tokenizer import BOS, EOS, byte_symbols, grammar_words, learn_merges, vocabulary, write_tokenizer

FOLDER = TINY_SD.with_suffix("") / "tokenizer"


def test_every_word_of_the_grammar_becomes_one_symbol():
    vocab, _ = vocabulary()
    assert all(f"{word}</w>" in vocab for word in grammar_words())


def test_merges_are_applied_most_frequent_first():
    assert learn_merges(["ab", "ab", "cb"]) == [("a", "b</w>"), ("c", "b</w>")]


def test_bytes_come_first_and_markers_last_as_in_clip():
    vocab, merges = vocabulary()
    assert len(byte_symbols()) == len(set(byte_symbols())) == 256
    assert (vocab["!"], vocab["!</w>"]) == (0, 256)
    assert (vocab[BOS], vocab[EOS]) == (len(vocab) - 2, len(vocab) - 1)
    assert len(vocab) == 512 + len(merges) + 2


def test_the_shipped_files_are_what_the_code_writes(tmp_path):
    write_tokenizer(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        assert file.read_text(encoding="utf-8") == (FOLDER / file.name).read_text(encoding="utf-8"), file.name


def test_clip_tokenizer_reads_them():
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(FOLDER)
    vocab = json.loads((FOLDER / "vocab.json").read_text(encoding="utf-8"))
    ids = tokenizer("a large red star", padding="max_length", max_length=77).input_ids
    assert ids[:6] == [vocab[BOS], *(vocab[f"{word}</w>"] for word in ("a", "large", "red", "star")), vocab[EOS]]
    assert ids[6:] == [vocab[EOS]] * 71
    assert len(tokenizer("x " * 200, truncation=True).input_ids) == 77
    assert (
        tokenizer.decode(tokenizer("Hello, wörld!").input_ids, skip_special_tokens=True).replace(" ", "")
        == "hello,wörld!"
    )
