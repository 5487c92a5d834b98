"""A taste of your own: a scorer that is corrected by your choices between two pictures of one prompt.

    imagereward taste add duels.jsonl                      {"winner": path, "loser": path, "prompt": words} a line
    imagereward taste fit                                  learn it, and say whether it is better than the scorer
    imagereward score outputs/ -r --scorer my-taste        it is among the scorers from now on

Duels, marks and stars are kept in the library; all of it stays on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from imagereward_core.errors import ConfigError, LibraryError
from imagereward_core.exit_codes import OK, SOME_FAILED
from imagereward_core.library import Library, library_place, open_library
from imagereward_core.library.records import MY_TASTE
from imagereward_core.taste import files

from . import options
from .library_output import say, show_table

SHOWN = 3  # reasons that are printed of duels that were left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    add = _action(actions, "add", "put duels into the library; a file that is added again adds what is new")
    add.add_argument("duels", nargs="+", metavar="FILE", help="JSON lines of winner, loser, prompt")

    fit = _action(actions, "fit", "learn the taste from its duels, and say how well it foretells them")
    fit.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    options.add_model_arguments(fit)
    fit.set_defaults(model=None, exif_rotation=False)

    _action(actions, "status", "all tastes: how many duels, how good", named=False)

    export = _action(actions, "export", "a taste as one file: numbers only, no picture, prompt or path")
    export.add_argument("file", metavar="FILE", help="a .safetensors file, or a folder")

    take_in = _action(actions, "import", "take in an exported taste", default=None)
    take_in.add_argument("file", metavar="FILE")
    take_in.add_argument("--base", metavar="FILE", help="weights of its scorer, if they are a file of your own")
    take_in.add_argument("--overwrite", action="store_true", help="in place of a taste of the same name")

    forget = _action(actions, "forget", "delete a taste with its duels; no picture, no mark, no star")
    forget.add_argument("--yes", action="store_true", help="do it")


def _action(
    actions: Any, name: str, about: str, *, named: bool = True, default: str | None = MY_TASTE
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=about, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if named:
        told = "default: %(default)s" if default else "default: the one in the file"
        parser.add_argument("--name", default=default, metavar="TASTE", help=f"which taste ({told})")
    parser.add_argument("--library", metavar="FILE", help="the library's file, or its folder")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    if getattr(args, "name", None):
        files.check_name(args.name)
    place = library_place(args.library)
    if args.action in ("export", "import"):
        return _export(args, place) if args.action == "export" else _import(args, place)
    library = open_library(place, create=args.action == "add")
    try:
        for note in library.notes:
            options.say(note)
        if args.action in ("add", "fit", "forget") and library.read_only:
            raise ConfigError(f"{place} can only be read: check its permissions, or name another file with --library")
        return ACTIONS[args.action](args, library)
    finally:
        library.close()


def _add(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import marks
    from imagereward_core.taste.duels import add_file

    failed: list[str] = []
    added = known = 0
    for source in args.duels:
        found = add_file(library, source, args.name, failed.append)
        added, known = added + found.added, known + found.known
    for reason in failed:
        options.say(reason)
    total = len(marks.duels(library, args.name))
    summary = {"taste": args.name, "added": added, "known": known, "failed": failed, "duels": total}
    words = f"{added} duels added, {known} known already, {len(failed)} not usable; {args.name} has {total}"
    say(args, library, summary, words)
    return SOME_FAILED if failed else OK


def _fit(args: argparse.Namespace, library: Library) -> int:
    from tqdm import tqdm

    from imagereward_core.taste.learning import learn

    base, uses_prompt = _base(args, library.place)
    with tqdm(
        unit="img", disable=True if args.quiet or args.json else None, file=sys.stderr, dynamic_ncols=True
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        learnt = learn(library, base, options.loader_of(args), args.name, uses_prompt=uses_prompt, progress=progress)
    if learnt.left_out:
        reasons = list(dict.fromkeys(learnt.left_out.values()))
        options.say(f"{len(learnt.left_out)} duels were left out: " + "; ".join(reasons[:SHOWN]))
    summary = {
        **as_dict(learnt.about),
        "weak": learnt.weak,
        "left_out": len(learnt.left_out),
        "file": os.fspath(files.path_of(args.name, library.place)),
    }
    say(args, library, summary, sentences(learnt.about))
    return OK


def _base(args: argparse.Namespace, place: Path) -> tuple[files.Base, bool]:
    """(scorer to learn on, whether it reads prompts): the one named, else the one of last time, else the default."""
    if args.model is None:
        path = files.find(args.name, place)
        told = files.about(path) if path else None
        args.model = told.base.source if told else options.DEFAULT_MODEL
    if args.weights or args.scorer_config or ":" in args.model or args.precision == "int8":
        raise ConfigError(
            "a taste is learnt on a scorer that can be loaded again by its name or path alone: no --weights,"
            " --scorer-config, package.module:function or precision int8"
        )
    job = options.job_of(args, None)
    if job.info.kind == "taste":
        raise ConfigError(f"{args.model} is a taste: one is learnt on a scorer, which --scorer names")
    path = options.model_path(args.model, args.library)
    source = os.path.abspath(path) if path else job.info.name
    return files.Base(job.model, source), job.info.uses_prompt


def as_dict(about: files.About) -> dict[str, Any]:
    """What is known of a taste, as JSON."""
    return {
        "taste": about.name,
        "scorer": about.base.name,
        "duels": about.duels,
        "accuracy": about.accuracy,
        "interval": about.interval and list(about.interval),
        "scorer_accuracy": about.scorer_accuracy,
        "p": about.p,
        "state": about.state,
        "more": about.more,
    }


def sentences(about: files.About) -> str:
    """The same in words."""
    from imagereward_core.taste.verdict import EXPECTATION, READY

    lines = [f"{about.name} on {about.base.name}: {about.state}"]
    if about.accuracy is not None and about.interval and about.scorer_accuracy is not None and about.p is not None:
        low, high = about.interval
        lines.append(
            f"foretells {about.accuracy:.1%} of your duels it was not shown ({low:.1%} to {high:.1%}); the scorer alone"
            f" {about.scorer_accuracy:.1%} (p = {about.p:.2g})"
        )
    if about.state == READY:
        lines.append(f"use it: imagereward score FOLDER --scorer {about.name}")
    elif about.more is None:
        lines.append(f"{about.duels} duels, and nothing suggests that more would set it apart from the scorer")
    else:
        lines.append(f"{about.duels} duels, about {about.more} more; {EXPECTATION}")
    return "\n".join(lines)


def _status(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import marks

    counts = marks.duels_by_taste(library)
    fitted = {name: files.about(files.existing(name, library.place)) for name in files.names(library.place)}
    found = []
    for name in dict.fromkeys([*fitted, *counts]):
        about = fitted.get(name)  # None too where its file is damaged
        record = as_dict(about) if about else {"taste": name, "scorer": None, "state": "not fitted yet"}
        found.append({**record, "duels": counts.get(name, 0), "fitted_duels": about.duels if about else 0})
    if args.json:
        print(json.dumps({"library": os.fspath(library.place), "tastes": found}, indent=2))
        return OK
    if not found:
        options.say("no duels yet: `imagereward taste add duels.jsonl` puts some in")
    rows = [
        (
            str(row["taste"]),
            str(row["duels"]),
            str(row["fitted_duels"]),
            "" if row.get("accuracy") is None else f"{row['accuracy']:.1%}",
            "" if row.get("scorer_accuracy") is None else f"{row['scorer_accuracy']:.1%}",
            str(row["state"]),
            str(row["scorer"] or ""),
        )
        for row in found
    ]
    show_table(library, ("taste", "duels", "fitted", "foretold", "scorer", "state", "learnt on"), rows)
    return OK


def _export(args: argparse.Namespace, place: Path) -> int:
    written = files.export(args.name, args.file, place)
    return _done(args, {"taste": args.name, "file": os.fspath(written)}, f"{args.name} was written to {written}")


def _import(args: argparse.Namespace, place: Path) -> int:
    about = files.take_in(args.file, args.name, place, base=args.base, overwrite=args.overwrite)
    return _done(args, dataclasses.asdict(about), f"{about.name} was taken in; it was learnt on {about.base.name}")


def _forget(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.taste.learning import forget

    if not args.yes:
        raise ConfigError(f"this deletes the taste {args.name} and all its duels (no picture): add --yes to do it")
    count, fitted = forget(library, args.name)
    if not count and not fitted:
        raise LibraryError(f"there is no taste called {args.name!r} in {library.place}")
    say(args, library, {"taste": args.name, "duels": count, "fitted": fitted}, f"{args.name}: {count} duels forgotten")
    return OK


def _done(args: argparse.Namespace, summary: dict[str, Any], words: str) -> int:
    print(json.dumps(summary, indent=2) if args.json else words)
    return OK


ACTIONS = {"add": _add, "fit": _fit, "status": _status, "forget": _forget}
