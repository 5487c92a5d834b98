"""Pictures of the library scored from the tab: with a scorer loaded apart from the one that scores jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import host
from ..core import ImageRewardError, logger, plain_prompt, registry
from ..core import module as core_module
from ..judges import stored_name
from ..lifecycle import load_scorer
from .pictures import library_place
from .work import Progress

TOGETHER = 8  # pictures of one pass


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
            for start in range(0, len(able), TOGETHER):
                part = able[start : start + TOGETHER]
                failed += len(part) - _score(library, scorer, stored, part)
                progress(min(start + TOGETHER, len(able)), len(able))
    done, without = len(able) - failed, len(lacking) - len(able)
    known = len(numbers) - len(lacking)
    notes = [f"{known} had a score already"] if known else []
    notes += [f"{without} have no prompt"] if without else []
    notes += [f"{failed} cannot be read"] if failed else []
    return ", ".join([f"{done} scored by {name}", *notes])


def _score(library: Any, scorer: Any, stored: str, part: Sequence[Any]) -> int:
    """Score some pictures and write it down; how many it were."""
    images, preprocess = core_module("library.images"), core_module("preprocess")
    records = core_module("library.records")
    read = []
    for picture in part:
        try:
            read.append((picture, preprocess.open_image(picture.path)))
        except ImageRewardError as error:
            logger.info("not scored: %s", error)
    if not read:
        return 0
    prompts = [plain_prompt(picture.made.prompt or "") for picture, _ in read]
    values = scorer.score_pairs(prompts, [image for _, image in read])
    with library.transaction():
        for (picture, _), value in zip(read, values):
            images.put_scores(library, picture.id, [records.Score(stored, float(value))])
    return len(read)
