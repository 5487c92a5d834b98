"""THE reader of duel files: JSON lines, each one choice between two pictures of one prompt.

    {"winner": "a.png", "loser": "b.png", "prompt": "a red fox"}

A relative path is looked for beside the file, then from the current folder. Without a prompt the winner's own counts.
`verdict`, where nobody won, is "neither" or "both".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError, MetadataError
from .library.records import VERDICTS

LINE = '{"winner": path, "loser": path, "prompt": words} with, if nobody won, "verdict": "neither" or "both"'


@dataclass(frozen=True)
class Line:
    """One duel of a file."""

    winner: Path
    loser: Path
    prompt: str | None
    verdict: str


def read_duels(source: str | os.PathLike[str]) -> Iterator[tuple[int, Line | str]]:
    """(number, duel or what is wrong with it) of each line that is not blank. DataError for an unreadable file."""
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the duels in {source} cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _line(line, path.parent)


def won(source: str | os.PathLike[str]) -> list[tuple[Path, Path, str]]:
    """(winner, loser, prompt) of each duel of a file that a picture has won. DataError names the line that cannot be
    used: torn, a picture that is not there, or no prompt in it nor in the winner's file.
    """
    found = []
    for number, line in read_duels(source):
        where = f"{source}, line {number}"
        if isinstance(line, str):
            raise DataError(f"{where}: {line}")
        if line.verdict != "win":
            continue
        for picture in (line.winner, line.loser):
            if not picture.is_file():
                raise DataError(f"{where}: no such picture: {picture}")
        prompt = " ".join((line.prompt or stored_prompt(line.winner)).split())
        if not prompt:
            raise DataError(f"{where}: no prompt, and {line.winner.name} stores none")
        found.append((line.winner, line.loser, prompt))
    return found


def stored_prompt(picture: Path) -> str:
    """The prompt that an image file or the text file beside it holds, in plain words; "" if there is none."""
    from .metadata import FoundPrompt, prompt_of

    try:
        found = prompt_of(picture)
    except MetadataError:
        return ""
    return found.words if isinstance(found, FoundPrompt) else ""


def _line(text: str, folder: Path) -> Line | str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"no JSON ({error}); a line is {LINE}"
    if not isinstance(found, dict):
        return f"a line is {LINE}, found {text.strip()[:60]}"
    winner, loser = found.get("winner"), found.get("loser")
    prompt, verdict = found.get("prompt"), found.get("verdict", "win")
    if not (isinstance(winner, str) and winner and isinstance(loser, str) and loser):
        return f"winner and loser must be paths of pictures; a line is {LINE}"
    if prompt is not None and not isinstance(prompt, str):
        return f"prompt must be a text, found {prompt!r}"
    if verdict not in VERDICTS:
        return f"verdict must be {', '.join(VERDICTS)}, found {verdict!r}"
    return Line(_place(winner, folder), _place(loser, folder), prompt or None, str(verdict))


def _place(name: str, folder: Path) -> Path:
    """A path of a file: from the file's own folder, or else from the current one."""
    path = Path(name).expanduser()
    beside = folder / path
    return beside if not path.is_absolute() and beside.exists() else path
