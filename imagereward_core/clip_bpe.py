"""CLIP's byte-pair tokeniser (Radford et al. 2021) through the `tokenizers` library: OpenAI's merges shipped in this
package, a merge list of one's own, or the vocabulary of a diffusers folder. No network.

transformers' own class is not used: what it accepts and how it truncates differs between the versions hosts pin.
"""

from __future__ import annotations

import copy
import functools
import gzip
import html
import importlib.resources
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import WeightsError
from .log import logger
from .tokenizer import check_prompt

START, END, LENGTH = 49406, 49407, 77
START_TEXT, END_TEXT = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2  # the file lists more than CLIP was trained with
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'})
CHARACTERS = 20_000  # far beyond what can fill 77 tokens; a longer prompt is cut before it is looked at

Merges = Sequence[tuple[str, str]]


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in vocabulary order (printable Latin-1 first, then the rest)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token → id, merges in order) of CLIP's 49,408 tokens."""
    packed = importlib.resources.files(__package__).joinpath("data/bpe_simple_vocab_16e6.txt.gz").read_bytes()
    return _from_lines(gzip.decompress(packed).decode("utf-8").split("\n"))


def _from_lines(lines: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a published merge list, whose first line is a comment."""
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : MERGES + 1] if line.strip())]
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(left + right for left, right in merges)]
    tokens += [START_TEXT, END_TEXT]
    return {token: index for index, token in enumerate(tokens)}, merges


class ClipTokenizer:
    """Prompts → token ids of CLIP's form.

    cleaned: what is done to a prompt first; None does what transformers' tokeniser, and so every Stable Diffusion host,
    does: NFC, single spaces, lower case. pad: the token that fills a row up; SD 2 and SDXL's second encoder pad with
    "!" (id 0), the others with the end token.
    """

    def __init__(
        self, vocab: dict[str, int], merges: Merges, pad: str = END_TEXT, cleaned: Callable[[str], str] | None = None
    ):
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

        self.start, self.end = vocab[START_TEXT], vocab[END_TEXT]
        self._cleaned = cleaned
        model = models.BPE(vocab, list(merges), end_of_word_suffix="</w>", unk_token=END_TEXT, fuse_unk=False)
        self._tokenizer = Tokenizer(model)
        if cleaned is None:
            self._tokenizer.normalizer = normalizers.Sequence(
                [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
            )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cleaned is None),
            ]
        )
        self._tokenizer.add_special_tokens([START_TEXT, END_TEXT])
        self._pad_with(pad)

    def _pad_with(self, pad: str) -> None:
        number = self._tokenizer.token_to_id(pad)
        self.pad_text, self.pad = pad, self.end if number is None else number

    def padded_with(self, pad: str) -> ClipTokenizer:
        """The same tokeniser with another padding token; the two share their vocabulary."""
        other = copy.copy(self)
        other._pad_with(pad)
        return other

    def ids(self, prompt: str) -> list[int]:
        """All ids of a prompt, without start and end."""
        text = prompt[:CHARACTERS]
        return self._tokenizer.encode(self._cleaned(text) if self._cleaned else text, add_special_tokens=False).ids

    def row(self, prompt: str) -> list[int]:
        """Start, at most 75 ids, end. What is cut off is logged."""
        ids = self.ids(prompt)
        if len(ids) > LENGTH - 2:
            logger.info(
                "prompt has %d tokens, the last %d are not seen: %.60s…", len(ids), len(ids) - LENGTH + 2, prompt
            )
        return [self.start, *ids[: LENGTH - 2], self.end]

    def __call__(self, prompts: Sequence[str]) -> list[list[int]]:
        """Rows of 77 ids each, filled up with the padding token."""
        rows = [self.row(prompt) for prompt in prompts]
        return [row + [self.pad] * (LENGTH - len(row)) for row in rows]


@functools.lru_cache(maxsize=1)
def published() -> ClipTokenizer:
    """CLIP's own vocabulary, with prompts cleaned as Stable Diffusion's hosts do."""
    return ClipTokenizer(*vocabulary())


def from_merge_list(path: str | os.PathLike[str]) -> ClipTokenizer:
    """The tokeniser of a merge list in the form of bpe_simple_vocab_16e6.txt.gz. Raises WeightsError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found = _from_lines(file.read().split("\n"))
    except (OSError, ValueError, EOFError) as error:
        raise WeightsError(f"cannot read CLIP's token file {os.fspath(path)}: {error}") from error
    return ClipTokenizer(*found)


def from_folder(folder: str | os.PathLike[str]) -> ClipTokenizer:
    """The tokeniser in a diffusers folder: vocab.json with merges.txt, or tokenizer.json. Raises WeightsError."""
    folder = Path(folder)
    try:
        if (folder / "vocab.json").is_file():
            vocab = _json(folder / "vocab.json")
            lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
            pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
        else:
            model = _json(folder / "tokenizer.json")["model"]
            vocab = model["vocab"]
            pairs = [pair.split() if isinstance(pair, str) else pair for pair in model["merges"]]
        merges = [(left, right) for left, right in pairs]
        special = folder / "special_tokens_map.json"
        settings = special if special.is_file() else folder / "tokenizer_config.json"
        pad = _json(settings).get("pad_token") if settings.is_file() else None
        pad = pad["content"] if isinstance(pad, dict) else pad
        return ClipTokenizer(vocab, merges, pad or END_TEXT)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{folder} holds no CLIP tokenizer (vocab.json with merges.txt, or tokenizer.json): {error}"
        ) from error


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


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


@functools.lru_cache(maxsize=1)
def _original() -> ClipTokenizer:
    """CLIP's own vocabulary, with prompts cleaned as OpenAI's code does."""
    return ClipTokenizer(*vocabulary(), cleaned=clean)


def tokenize(prompts: Sequence[str], *, as_hub: bool = False, pad: int = 0, pad_to_max: bool = False):
    """Prompts → input_ids int64 [B, T], T = the longest of them, at most 77, or 77 if `pad_to_max`; cut prompts keep
    the end token. as_hub: cleaned as transformers' tokeniser does, for models whose authors used that.
    """
    import torch

    tokenizer = published() if as_hub else _original()
    rows = []
    for prompt in prompts:
        ids = tokenizer.ids(check_prompt(prompt))
        rows.append([START, *ids[: LENGTH - 2], END])
    length = LENGTH if pad_to_max else max(map(len, rows), default=2)
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.int64)
