"""Pictures of the library scored from the tab: with a scorer loaded apart from the one that scores jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import host
from ..core import logger, plain_prompt, registry
from ..core import module as core_module
from ..judges import stored_name
from ..lifecycle import load_scorer
from .pictures import library_place
from .work import Progress


def score(numbers: Sequence[int], name: str, progress: Progress) -> str:
    """Score those pictures that this scorer (as the host calls it) has not scored yet; says what became of them."""
    find = core_module("library.find")
    folder = host.models_dir()
    stored = stored_name(name, folder)
    source = str(folder / name) if (folder / name).is_file() else name
    uses_prompt = registry.describe(source).uses_prompt
    with core_module("library").open_library(library_place(), create=False) as library:
        lacking = [one for one in find.by_ids(library, numbers) if stored not in one.scores]
        able = [one for one in lacking if not uses_prompt or plain_prompt(one.made.prompt or "")]
        failed = 0
        if able:
            scorer = load_scorer(name, host.device(), host.option("precision"), folder)
            rows = [
                core_module("bulk.rows").Row(str(one.id), one.path, plain_prompt(one.made.prompt or "")) for one in able
            ]
            seen = 0
            for batch in core_module("bulk.scoring").score_rows(rows, scorer):
                failed += _keep(library, stored, batch)
                seen += len(batch)
                progress(seen, len(able))
    done, without = len(able) - failed, len(lacking) - len(able)
    known = len(numbers) - len(lacking)
    notes = [f"{known} had a score already"] if known else []
    notes += [f"{without} have no prompt"] if without else []
    notes += [f"{failed} cannot be read"] if failed else []
    return ", ".join([f"{done} scored by {name}", *notes])


def _keep(library: Any, stored: str, batch: Sequence[Any]) -> int:
    """Write a batch's scores down, under the scorer's stored name; how many could not be read."""
    images, records = core_module("library.images"), core_module("library.records")
    with library.transaction():
        for one in batch:
            if one.score is None:
                logger.info("not scored: %s", one.error)
            else:
                images.put_scores(library, int(one.row.id), [records.Score(stored, one.score)])
    return sum(one.score is None for one in batch)
