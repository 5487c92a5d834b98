"""`imagereward library compare`: a table that says "cannot tell" where it cannot, and the pairs that would tell."""

from __future__ import annotations

import argparse
import json
import os

from imagereward_core.exit_codes import OK
from imagereward_core.library import Library

from . import options, output
from .library_output import say

FACTORS = ("checkpoint", "lora", "sampler", "cfg", "steps")
BAR = 25  # characters of an interval's picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=FACTORS, default="checkpoint", help="what to compare (default %(default)s)")
    parser.add_argument("--scorer", metavar="NAME", help="by which scorer (default: the one with the most scores)")
    parser.add_argument("--where", default="", metavar="QUESTION", help="only these pictures")
    parser.add_argument("--planned", action="store_true", help="count only pictures that a --plan asked for")
    parser.add_argument(
        "--plan",
        metavar="FILE",
        help="write the pairs to be made for a claim without reservation, as JSON lines: same prompts and seeds",
    )
    parser.add_argument(
        "--levels", nargs="+", default=(), metavar="NAME", help="what the plan compares (default: the table's two best)"
    )
    parser.add_argument("--prompts", type=options.positive, metavar="N", help="prompts of the plan")


def run(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import compare as comparing
    from imagereward_core.library import find

    if args.plan:
        return _plan(args, library)
    found = comparing.compare(library, args.by, args.scorer, find.where_of(library, args.where), planned=args.planned)
    record = comparing.as_dict(found)
    if args.json:
        print(json.dumps({"library": os.fspath(library.place), **record}, indent=2))
        return OK
    title = f"{found.scorer} by {found.factor}, {found.source}: {found.images} pictures, {found.prompts} prompts"
    if found.board is None:
        print(f"{title}\ncannot tell yet: no two have at least 3 prompts in common")
        options.say(f"library {library.place}")
        return OK
    scale = max(max(abs(row.low), abs(row.high)) for row in found.board.effects)
    rows = [
        (
            f"{row.effect:+.3f}",
            f"{row.low:+.3f} to {row.high:+.3f}",
            _bar(row.low, row.effect, row.high, scale),
            str(row.prompts),
            found.labels[row.level],
        )
        for row in found.board.effects
    ]
    print(title)
    print(output.table(("effect", "95 % interval", "", "prompts", found.factor), rows))
    claimed = [pair for pair in found.board.pairs if pair.claimed]
    best = found.board.effects[0].level
    open_ones = [pair for pair in found.board.pairs if not pair.claimed and best in (pair.first, pair.second)]
    for pair in [*claimed, *open_ones]:
        print(found.sentence(pair))
    for against in found.disagreements:
        first, second = found.labels[against.first], found.labels[against.second]
        print(f"{against.scorer} sees {first} and {second} the other way round ({against.difference:+.2f})")
    if found.board.left_out:
        names = ", ".join(found.labels[level] for level in found.board.left_out)
        print(f"nothing can be said of {names}: too few prompts in common with the others")
    options.say(f"library {library.place}")
    return OK


def _bar(low: float, middle: float, high: float, scale: float) -> str:
    """An interval as text, -scale at its left end, +scale at its right one: `---o---`, `:` at zero."""

    def place(value: float) -> int:
        return round((value / (scale or 1) + 1) / 2 * (BAR - 1))

    marks = ["."] * BAR
    marks[place(0)] = ":"
    marks[place(low) : place(high) + 1] = "-" * (place(high) - place(low) + 1)
    marks[place(middle)] = "o"
    return "".join(marks)


def _plan(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import plan as planning

    made = planning.plan(library, args.by, args.levels, scorer=args.scorer, prompts=args.prompts)
    planning.write_plan(made, args.plan)
    summary = {
        "plan": args.plan,
        "by": made.factor,
        "levels": list(made.levels),
        "prompts": made.prompts,
        "made": made.made,
        "missing": len(made.missing),
    }
    words = (
        f"{len(made.missing)} pictures to be made in {args.plan}: {made.prompts} prompts with"
        f" {' and '.join(made.levels)}; {made.made} are there already. Score them with --remember, then:"
        f" compare --by {made.factor} --planned"
    )
    say(args, library, summary, words)
    return OK
