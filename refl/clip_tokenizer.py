"""CLIP's byte-pair tokeniser (Radford et al. 2021), built from a file that every host has on disk.

transformers' own class is not used: what it accepts and how it truncates differs between the versions hosts pin.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .log import logger

LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
BPE_NAME = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # of the published file only so many lines belong to the vocabulary
MARKS = rf"{START.replace('|', chr(92) + '|')}|{END.replace('|', chr(92) + '|')}"
WORDS = rf"{MARKS}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"


class ClipTokenizer:
    """Prompts → token ids [B, 77]. `pad` is the padding token (SDXL's second encoder pads with "!")."""

    def __init__(self, vocab: dict[str, int], merges: Sequence[tuple[str, str]], pad: str = END):
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        bpe = models.BPE(
            vocab, list(merges), continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False, unk_token=END
        )
        self._tokenizer = Tokenizer(bpe)
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        self._tokenizer.add_special_tokens([START, END])
        self.start, self.end = vocab[START], vocab[END]
        self.pad = vocab[f"{pad}</w>"] if f"{pad}</w>" in vocab and pad != END else vocab.get(pad, self.end)
        self.pad_text = pad
        self._vocab, self._merges = vocab, list(merges)

    def padded_with(self, pad: str) -> ClipTokenizer:
        """The same tokeniser with another padding token."""
        twin = ClipTokenizer(self._vocab, self._merges, END)
        twin.pad, twin.pad_text = self._vocab.get(pad, self.end), pad
        return twin

    def __call__(self, prompts: Sequence[str]) -> list[list[int]]:
        """77 ids per prompt: start, at most 75 tokens, end, padding. What is cut off is logged."""
        rows = []
        for prompt in prompts:
            ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
            if len(ids) > LENGTH - 2:
                logger.info(
                    "prompt has %d tokens, the last %d are not seen: %.60s…", len(ids), len(ids) - LENGTH + 2, prompt
                )
            row = [self.start, *ids[: LENGTH - 2], self.end]
            rows.append(row + [self.pad] * (LENGTH - len(row)))
        return rows


def from_bpe_file(path: str | os.PathLike[str]) -> ClipTokenizer:
    """Rebuild vocabulary and merges from CLIP's published merge list."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise CheckpointError(f"cannot read CLIP's token file {os.fspath(path)}: {error}") from error
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : MERGES + 1] if line.strip())]
    letters = list(_byte_letters().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return ClipTokenizer({token: index for index, token in enumerate(tokens)}, merges)


def from_folder(folder: str | os.PathLike[str]) -> ClipTokenizer:
    """The tokeniser in a diffusers folder: vocab.json with merges.txt, or tokenizer.json."""
    folder = Path(folder)
    try:
        if (folder / "vocab.json").is_file():
            vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
        else:
            model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
            vocab = model["vocab"]
            merges = [tuple(pair.split()) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        pad: Any = END
        special = folder / "special_tokens_map.json"
        settings = special if special.is_file() else folder / "tokenizer_config.json"
        if settings.is_file():
            pad = json.loads(settings.read_text(encoding="utf-8")).get("pad_token") or END
        pad = pad["content"] if isinstance(pad, dict) else pad
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} holds no CLIP tokenizer (vocab.json with merges.txt, or tokenizer.json): {error}"
        ) from error
    tokenizer = ClipTokenizer(vocab, merges)  # type: ignore[arg-type]
    return tokenizer if pad == END else tokenizer.padded_with(pad)


def find_bpe_file(path: str = "") -> Path:
    """CLIP's token file: the one given, or that of an installed open_clip or clip package (which are not imported)."""
    if path:
        if not Path(path).is_file():
            raise CheckpointError(f"clip_bpe: no such file: {path}")
        return Path(path)
    for package in ("open_clip", "clip"):
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / BPE_NAME).is_file():
                return Path(folder) / BPE_NAME
    raise CheckpointError(
        f"a single-file checkpoint needs CLIP's token file {BPE_NAME}, and neither open_clip nor clip is installed"
        " here: install open-clip-torch or give the file with --clip_bpe"
    )


def _byte_letters() -> dict[int, str]:
    """Byte → printable letter, the table GPT-2's byte-level BPE starts from."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    spare = 256
    for byte in range(256):
        if byte not in table:
            table[byte], spare = chr(spare), spare + 1
    return table
