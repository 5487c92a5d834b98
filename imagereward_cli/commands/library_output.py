"""How the library's actions print what they found."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from imagereward_core.library import Library

from . import options, output


def say(args: argparse.Namespace, library: Library, summary: dict[str, Any], words: str) -> None:
    """What was done: in words, or as JSON with the library's place."""
    if args.json:
        print(json.dumps({"library": os.fspath(library.place), **summary}, indent=2))
    else:
        print(words)
        options.say(f"library {library.place}")


def show_table(library: Library, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, and where it comes from."""
    print(output.table(header, rows))
    options.say(f"library {library.place}")
