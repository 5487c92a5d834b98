"""BERT uncased WordPiece through the `tokenizers` library, with the vocabulary shipped in this package (no network)."""

from __future__ import annotations

import functools
import importlib.resources
import unicodedata
from collections.abc import Sequence

from .errors import PromptError

PAD, CLS, SEP = 0, 101, 102
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")  # BLIP adds the last two: 30522 and 30523
CHUNK = 4096  # characters looked at first; a prompt is read further only while it has not filled the tokens


@functools.lru_cache(maxsize=1)
def _wordpiece():
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    text = (
        importlib.resources.files(__package__).joinpath("data/bert-base-uncased-vocab.txt").read_text(encoding="utf-8")
    )
    vocab = {token: index for index, token in enumerate(text.splitlines())}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def check_prompt(prompt: object) -> str:
    """The prompt itself, or PromptError naming what came instead of a string."""
    if not isinstance(prompt, str):
        raise PromptError(
            f'a prompt must be a string, found {type(prompt).__name__}: pass "" to score an image without one'
        )
    return prompt


def _visible(text: str) -> str:
    """Without control, format, private and unassigned characters, as BERT's own clean-up does; the library keeps some
    of them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if char in "\t\n\r" or not unicodedata.category(char).startswith("C"))


def token_ids(prompt: str, limit: int | None = None) -> list[int]:
    """WordPiece ids without [CLS] and [SEP], at most `limit` of them (all if None).

    Words are the unit of WordPiece, so a long prompt is read in pieces that end at white space: ten megabytes of text
    cost no more than the words that are kept.
    """
    prompt = check_prompt(prompt)
    size = len(prompt) if limit is None else CHUNK
    while True:
        piece, rest = prompt[:size], size < len(prompt)
        if rest:
            piece = piece[: max(piece.rfind(" "), piece.rfind("\n"), 0)]
        ids = _wordpiece().encode(_visible(piece), add_special_tokens=False).ids
        if not rest or len(ids) >= (limit or 0):
            return ids if limit is None else ids[:limit]
        size *= 8


def tokenize(prompts: Sequence[str], max_tokens: int = 35, pad_to_max: bool = False):
    """Prompts → (input_ids, attention_mask), int64 [B, T] with T = the longest prompt, or `max_tokens` if `pad_to_max`.

    Padding beyond the longest prompt changes no score: padded positions are masked.
    """
    import torch

    rows = [[CLS, *token_ids(prompt, max_tokens - 2), SEP] for prompt in prompts]
    length = max_tokens if pad_to_max else max(map(len, rows), default=2)
    ids = torch.full((len(rows), length), PAD, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask


def ignored_tokens(prompt: str, max_tokens: int = 35) -> int:
    """How many tokens of the prompt the model never sees because of its length limit."""
    return max(0, len(token_ids(prompt)) - (max_tokens - 2))
