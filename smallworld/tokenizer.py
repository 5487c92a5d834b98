"""A byte-level BPE vocabulary in CLIP's file format, small enough to ship.

CLIP's own vocabulary has 49,408 entries, which at any useful width is larger than the rest of tiny-sd together. This
one is learnt from the grammar's words alone: each of them is one token, and any other text still falls back to bytes.
``CLIPTokenizer`` reads it unchanged.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from .world import BACKGROUNDS, COLOURS, RADIUS, RELATIONS, SHAPES

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77


def grammar_words() -> list[str]:
    """Every word that occurs in a caption, without repetition, in a fixed order."""
    relations = " ".join(RELATIONS).split()
    words = ["a", "an", "on", "background", *RADIUS, *COLOURS, *SHAPES, *relations, *BACKGROUNDS]
    return list(dict.fromkeys(words))


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is a single symbol."""
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while any(len(word) > 1 for word in pieces):
        pairs = Counter(pair for word in pieces for pair in zip(word, word[1:], strict=False))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged, index = [], 0
    while index < len(word):
        if tuple(word[index : index + 2]) == pair:
            merged.append(word[index] + word[index + 1])
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return merged


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes that GPT-2 and CLIP use, in their vocabulary order.

    Printable Latin-1 bytes stand for themselves; the others are moved to code points from 256 up.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(hidden))]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token to id, and the merges in rank order; the two markers come last, as in CLIP."""
    merges = learn_merges(grammar_words())
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *map("".join, merges), BOS, EOS]
    return {token: index for index, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path) -> None:
    """Write the four files that ``CLIPTokenizer.from_pretrained(folder)`` reads."""
    vocab, merges = vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": EOS,
        "pad_token": EOS,
    }
    special = {key: config[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    _write(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False))
    _write(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2))
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2))


def _write(path: Path, text: str) -> None:
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8", newline="\n")
