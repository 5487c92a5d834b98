"""The memory of everything scored: one SQLite file on this machine.

    imagereward library add outputs/ -r                    read pictures, their settings and the scores in them
    imagereward library top --by ImageReward --where 'checkpoint=juggernaut prompt~"red fox" steps>=20'
    imagereward library compare --by checkpoint            which scores higher, or that it cannot be told yet

Fields of --where: path, prompt, negative, seed, sampler, steps, cfg, checkpoint, lora, program, width, height, date,
mark, stars, missing, and every scorer's name; = != < <= > >=, ~ for "contains", !~; and, or, not, brackets; `none` for
what is not known.

The file: --library, else IMAGEREWARD_LIBRARY, else the user's data folder; it is named in the output."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from imagereward_core.errors import ConfigError
from imagereward_core.exit_codes import INTERRUPTED, OK, SOME_FAILED
from imagereward_core.library import Library, Picture, delete_library, library_place, open_library
from imagereward_core.registry import caveat

from . import library_compare, options, output
from .library_output import say, show_table

FORMATS = ("csv", "jsonl", "parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    add = _action(actions, "add", "read pictures into the library; run again to go on, or to read only what is new")
    add.add_argument("images", nargs="+", help="image files, folders or patterns such as 'out/*.png'")
    add.add_argument("-r", "--recursive", action="store_true", help="folders with everything below them")
    add.add_argument("-q", "--quiet", action="store_true", help="no progress bar")

    listing = _action(actions, "list", "the newest pictures")
    _choice(listing, 20)

    top = _action(actions, "top", "the best pictures of a scorer")
    top.add_argument("--by", metavar="SCORER", help="which scorer (default: the one with the most scores)")
    top.add_argument("--unscored", action="store_true", help="pictures that this scorer has not scored yet instead")
    _choice(top, 20)

    show = _action(actions, "show", "all that is known of one picture")
    show.add_argument("image", help="a picture's path")

    win = _action(actions, "win", "how often people would prefer the one of two pictures of a prompt to the other")
    win.add_argument("images", nargs="*", metavar="FILE", help="two pictures")
    win.add_argument("--by", metavar="SCORER", help="which scorer (default: the one with the most scores)")
    win.add_argument(
        "--learn", metavar="FILE", help="results.json of `imagereward bench preference`: use the k that it fitted"
    )

    library_compare.add_arguments(
        _action(actions, "compare", "which checkpoint, LoRA, sampler, guidance or number of steps scores higher")
    )

    prune = _action(actions, "prune", "take out pictures whose files are gone; what was marked or duelled stays")
    prune.add_argument("--folders-too", action="store_true", help="also those whose whole folder is gone")
    prune.add_argument("-n", "--dry-run", action="store_true", help="only say what would be taken out")

    export = _action(actions, "export", "the library as a table")
    export.add_argument("--format", choices=FORMATS, help="default: what the file's name says, else csv")
    export.add_argument("-o", "--output", required=True, metavar="FILE")
    export.add_argument("--where", default="", metavar="QUESTION", help="only these pictures")

    _action(actions, "stats", "what the library holds")

    delete = _action(actions, "delete", "delete the library: scores, marks, duels, features, thumbnails; no picture")
    delete.add_argument("--yes", action="store_true", help="do it")


def _action(actions: Any, name: str, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=about, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", metavar="FILE", help="the library's file, or its folder")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _choice(parser: argparse.ArgumentParser, limit: int) -> None:
    parser.add_argument("--where", default="", metavar="QUESTION", help="only these pictures")
    parser.add_argument(
        "--limit", type=int, default=limit, metavar="N", help="at most so many, 0 for all (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    place = library_place(args.library)
    if args.action == "delete":
        return _delete(args, place)
    library = open_library(place, create=args.action == "add")
    try:
        for note in library.notes:
            options.say(note)
        if args.action == "add" and library.read_only:
            raise ConfigError(f"{place} can only be read: check its permissions, or name another file with --library")
        return ACTIONS[args.action](args, library)
    finally:
        library.close()


def _add(args: argparse.Namespace, library: Library) -> int:
    from tqdm import tqdm

    from imagereward_core.library.scan import Added, add_files

    failed: list[dict[str, str]] = []
    result, interrupted = Added(), False
    with tqdm(
        unit="img", disable=True if args.quiet or args.json else None, file=sys.stderr, dynamic_ncols=True
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        def not_read(path: Path, reason: str) -> None:
            failed.append({"file": os.fspath(path), "error": reason})
            with bar.external_write_mode(sys.stderr):
                options.say(reason if os.fspath(path) in reason else f"{path}: {reason}")

        try:
            add_files(library, args.images, args.recursive, progress=progress, failed=not_read, result=result)
        except KeyboardInterrupt:
            interrupted = True
    if not interrupted and not (result.read or result.known or result.failed):
        raise ConfigError(f"no images in {', '.join(args.images)}; --recursive also looks in the folders below")
    summary = {"read": result.read, "known": result.known, "failed": failed, "interrupted": interrupted}
    words = f"{result.read} read, {result.known} known already, {result.failed} not readable"
    say(args, library, summary, ("interrupted: run it again to go on. " if interrupted else "") + words)
    return INTERRUPTED if interrupted else SOME_FAILED if failed else OK


def _list(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import find

    pictures = find.newest(library, find.where_of(library, args.where), args.limit if args.limit > 0 else None)
    return _pictures(args, library, pictures, None)


def _top(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import find

    where, limit = find.where_of(library, args.where), args.limit if args.limit > 0 else None
    if args.unscored:
        found = find.scorer_ids(library, args.by) if args.by else []
        if args.by and not found:
            return _pictures(args, library, find.newest(library, where, limit), args.by)
        return _pictures(args, library, find.unscored(library, found[0] if found else None, where, limit), args.by)
    number, name = find.scorer_named(library, args.by)
    return _pictures(args, library, find.top(library, number, where, limit), name, number)


def _pictures(
    args: argparse.Namespace, library: Library, pictures: list[Picture], scorer: str | None, number: int | None = None
) -> int:
    from imagereward_core.library import export

    records = [export.as_dict(picture) for picture in pictures]
    if number is not None:
        _add_percentiles(library, number, str(scorer), pictures, records)
    rows = []
    for picture, record in zip(pictures, records):
        made = picture.made
        score = picture.scores.get(scorer) if scorer else next(iter(picture.scores.values()), None)
        percentile = record.get("percentile")
        rows.append(
            (
                "" if score is None else f"{score:.4f}",
                f"{percentile['percent']} %" if percentile else "",
                made.checkpoint or "",
                record["file"],
                made.prompt or "",
            )
        )
    if args.json:
        answer = {"library": os.fspath(library.place), "scorer": scorer, "images": records}
        print(json.dumps({**answer, "caveat": caveat(scorer) if scorer else ""}, indent=2))
    else:
        show_table(library, ("score", "above", "checkpoint", "file", "prompt"), rows)
        if any(record.get("percentile") for record in records) and (text := caveat(str(scorer))):
            options.say(text)
    return OK


def _add_percentiles(
    library: Library, number: int, scorer: str, pictures: list[Picture], records: list[dict[str, Any]]
) -> None:
    """Beside each picture's record, where its score stands."""
    from imagereward_core.library.meaning import Percentiles

    percentiles = Percentiles(library, number)
    for picture, record in zip(pictures, records):
        made = picture.made
        found = percentiles.of(picture.scores[scorer], made.checkpoint, made.checkpoint_hash)
        record["percentile"] = found and found.as_dict()


def _show(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import export, find
    from imagereward_core.library.meaning import Percentiles

    picture = find.by_path(library, args.image)
    if picture is None:
        raise ConfigError(f"{args.image} is not in {library.place}: `imagereward library add` reads it in")
    record = export.as_dict(picture)
    record["percentiles"] = {}
    record["standings"] = {}
    record["caveats"] = {name: text for name in picture.scores if (text := caveat(name))}
    for name, score in picture.scores.items():
        number, _ = find.scorer_named(library, name)
        found = Percentiles(library, number).of(score, picture.made.checkpoint, picture.made.checkpoint_hash)
        record["percentiles"][name] = found.sentence if found else None
        record["standings"][name] = found and found.as_dict()
    if args.json:
        print(json.dumps({"library": os.fspath(library.place), **record}, indent=2))
        return OK
    sentences = record.pop("percentiles")
    caveats = record.pop("caveats")
    del record["standings"]
    scores = record.pop("scores")
    rows = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in record.items() if value]
    rows += [
        (name, f"{score:.4f}" + (f", {sentences[name]}" if sentences[name] else "")) for name, score in scores.items()
    ]
    rows += [(f"of {name}", text) for name, text in caveats.items()]
    show_table(library, ("what", "value"), rows)
    return OK


def _win(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import find, meaning

    if args.learn:
        slopes = _slopes(args.learn)
        for scorer, slope in slopes.items():
            meaning.keep_k(library, scorer, slope)
        learnt = ", ".join(f"{scorer} {slope:.3f}" for scorer, slope in slopes.items())
        if not args.images:
            say(args, library, {"learnt": slopes}, f"learnt k of {learnt}")
            return OK
    if len(args.images) != 2:
        raise ConfigError(f"two pictures are compared, found {len(args.images)}")
    _, name = find.scorer_named(library, args.by)
    scores = [_score_of(library, image, name) for image in args.images]
    difference = scores[0] - scores[1]
    k = meaning.known_k(name, library)
    better = args.images[0] if difference >= 0 else args.images[1]
    summary = {
        "scorer": name,
        "scores": scores,
        "k": k,
        "probability": meaning.win_probability(difference, k),
    }
    say(args, library, summary, f"{better}: {meaning.win_sentence(abs(difference), k)}")
    return OK


def _slopes(path: str) -> dict[str, float]:
    """k by scorer out of a table's results.json."""
    try:
        with open(path, encoding="utf-8") as file:
            scorers = json.load(file)["scorers"]
        found = {str(name): float(one["win"]["k"]) for name, one in scorers.items() if one.get("win")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no results.json of `imagereward bench preference`: {error}") from error
    if not found:
        raise ConfigError(f"{path} has no k: its scorers order all pairs as people do, or none")
    return found


def _score_of(library: Library, image: str, scorer: str) -> float:
    from imagereward_core.library import find

    picture = find.by_path(library, image)
    if picture is None or scorer not in picture.scores:
        raise ConfigError(f"{image} has no score of {scorer} in {library.place}: `imagereward score --remember`")
    return picture.scores[scorer]


def _prune(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library.scan import prune

    found = prune(library, folders_too=args.folders_too, dry_run=args.dry_run)
    summary = {
        "removed": found.removed,
        "kept": found.kept,
        "folder_gone": found.folder_gone,
        "dry_run": args.dry_run,
    }
    words = (
        f"{found.removed} {'would be ' if args.dry_run else ''}taken out, {found.kept} kept for their marks or duels"
    )
    if found.folder_gone:
        words += (
            f"; {found.folder_gone} lie in folders that are not there (is a drive not connected?) and were left:"
            " --folders-too takes them out"
        )
    say(args, library, summary, words)
    return OK


def _export(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import export, find

    suffix = Path(args.output).suffix.lower().lstrip(".")
    form = args.format or (suffix if suffix in FORMATS else "csv")
    rows = export.export(library, args.output, form, find.where_of(library, args.where))
    summary = {"rows": rows, "output": args.output, "format": form}
    say(args, library, summary, f"{rows} pictures written to {args.output}")
    return OK


def _stats(args: argparse.Namespace, library: Library) -> int:
    from imagereward_core.library import find

    found = find.stats(library)
    if args.json:
        print(json.dumps({"library": os.fspath(library.place), **found}, indent=2))
        return OK
    scorers = found.pop("scorers")
    print(output.table(("what", "number"), [(key, str(value)) for key, value in found.items()]))
    rows = [
        (str(row["pictures"]), f"{row['mean']:.3f}", f"{row['lowest']:.3f}", f"{row['highest']:.3f}", row["scorer"])
        for row in scorers
    ]
    if rows:
        print("\n" + output.table(("pictures", "mean", "lowest", "highest", "scorer"), rows))
    options.say(f"library {library.place}")
    return OK


def _delete(args: argparse.Namespace, place: Path) -> int:
    if not args.yes:
        raise ConfigError(f"this deletes {place} with all scores, marks and duels (no picture): add --yes to do it")
    there = place.exists()
    delete_library(place)
    words = f"{place} was deleted" if there else f"there was no library at {place}"
    print(json.dumps({"library": os.fspath(place), "deleted": there}) if args.json else words)
    return OK


ACTIONS = {
    "add": _add,
    "list": _list,
    "top": _top,
    "show": _show,
    "win": _win,
    "compare": library_compare.run,
    "prune": _prune,
    "export": _export,
    "stats": _stats,
}
