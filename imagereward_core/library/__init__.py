"""A memory of everything scored: one SQLite file on this machine, and what can be said from it.

    from imagereward_core.library import Record, Recorder, Score, library_place
    recorder = Recorder(library_place())
    recorder.remember(Record("00001.png", scores=(Score("ImageReward-v1.0", 0.58),)))

| file | what it holds |
|---|---|
| place, schema, store | where the file lies, its tables, opening and transactions |
| records, pixels, describe, images, marks | what is remembered of a picture, and how it gets there |
| writer, scan | in the background of a job; folder by folder |
| query, conditions, find, export | questions and answers |
| move | a picture's file, the text beside it and its row, to another folder |
| meaning | percentiles, win probability |
| distributions, fixed_effects, leaderboard, compare, plan | which checkpoint scores higher |
"""

from __future__ import annotations

from .place import library_place
from .records import Duel, Features, Made, Picture, Record, Score
from .store import Library, delete_library, open_library
from .writer import Recorder, remember_now

__all__ = [
    "Duel",
    "Features",
    "Library",
    "Made",
    "Picture",
    "Record",
    "Recorder",
    "Score",
    "delete_library",
    "library_place",
    "open_library",
    "remember_now",
]
