"""CLIP's byte-pair tokeniser through the `tokenizers` library, with OpenAI's merges shipped in this package (no
network).
"""

from __future__ import annotations

import functools
import gzip
import html
import importlib.resources
import unicodedata
from collections.abc import Sequence

from .tokenizer import check_prompt

START, END, LENGTH = 49406, 49407, 77
MERGES = 49152 - 256 - 2  # the file lists more than CLIP was trained with
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'})
CHARACTERS = 20_000  # far beyond what can fill 77 tokens; a longer prompt is cut before it is looked at


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in vocabulary order (printable Latin-1 first, then the rest)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token → id, merges in order) of CLIP's 49,408 tokens."""
    packed = importlib.resources.files(__package__).joinpath("data/bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : MERGES + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(first + second for first, second in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges


@functools.lru_cache(maxsize=1)
def _bpe():
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    vocab, merges = vocabulary()
    model = models.BPE(vocab, merges, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return tokenizer


def clean(text: str) -> str:
    """The original's clean-up: ftfy's repair where ftfy is installed (else straight quotes and NFC), entities, spaces,
    lower case.
    """
    try:
        from ftfy import fix_text
    except ImportError:
        text = unicodedata.normalize("NFC", text.translate(QUOTES))
    else:
        text = fix_text(text)
    text = html.unescape(html.unescape(text))
    return " ".join(text.split()).lower()


def tokenize(prompts: Sequence[str]):
    """Prompts → input_ids int64 [B, T], T = the longest of them, at most 77; cut prompts keep the end token."""
    import torch

    rows = []
    for prompt in prompts:
        ids = _bpe().encode(clean(check_prompt(prompt)[:CHARACTERS]), add_special_tokens=False).ids
        rows.append([START, *ids[: LENGTH - 2], END])
    length = max(map(len, rows), default=2)
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.int64)
