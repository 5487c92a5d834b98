"""Duels that somebody won, as files: what training on picks reads."""

from __future__ import annotations

from pathlib import Path

from ..prompts import plain_prompt
from .marks import duels
from .records import MY_TASTE
from .store import Library


def won_duels(library: Library, taste: str = MY_TASTE) -> tuple[list[tuple[Path, Path, str]], int]:
    """(winner, loser, prompt in plain words) of each duel of that taste that has a winner and a prompt and whose two
    files are where the library knows them, oldest first; and how many won duels are left out.
    """
    won = [duel for duel in duels(library, taste) if duel.verdict == "win"]
    rows = library.query(
        "SELECT id, path FROM images WHERE missing = 0 AND id IN (SELECT winner_id FROM duels UNION SELECT loser_id"
        " FROM duels)"
    )
    places = {number: Path(path) for number, path in rows if isinstance(path, str)}
    found = []
    for duel in won:
        winner, loser = places.get(duel.winner), places.get(duel.loser)
        prompt = plain_prompt(duel.prompt or "")
        if winner and loser and prompt and winner.is_file() and loser.is_file():
            found.append((winner, loser, prompt))
    return found, len(won) - len(found)
