"""Keep, sort and cut a job's images together with everything that belongs to each of them.

Pure list work on the host's `Processed`: no host import, so that every case can be tested exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .judges import Judged


@dataclass(frozen=True)
class Meaning:
    """What an image's scores mean: the percentile of each scorer's among the user's own pictures, as far as there are
    enough, and how often people would prefer it to the best other one of its prompt in the job. `compared`: there is
    such another, `win` is None where nobody knows.
    """

    percentiles: Mapping[str, Any] = field(default_factory=dict)
    win: float | None = None
    compared: bool = False


@dataclass
class Entry:
    """One generated image and what the host knows of it at the moment it is finished.

    `image` is the object the host goes on with; identity, not position, tells it from masks and control maps.
    `path` is where the host wrote it, if it did. `unfinished`: the user pressed Interrupt or Skip while it was drawn;
    it is shown, and neither scored nor ranked. Of a panel `score` is the common value, None while ranks are open.
    `embeddings` are what the scorers' networks made of it, `saved` the file as it was written, `record` what waits to
    be remembered of it.
    """

    iteration: int
    batch_index: int
    prompt: str
    negative_prompt: str
    seed: int
    subseed: int
    image: Any
    score: float | None = None
    path: str | None = None
    unfinished: bool = False
    disagreement: float | None = None
    by_scorer: dict[str, float] = field(default_factory=dict)
    embeddings: dict[str, Any] = field(default_factory=dict)
    saved: Any = None
    record: Any = None
    meaning: Meaning = Meaning()

    def take(self, judged: Judged) -> None:
        """What the judges say of it. The picture carries its score with it."""
        self.score, self.disagreement, self.by_scorer = judged.score, judged.disagreement, dict(judged.by_scorer)
        setattr(self.image, SCORE, self.score)
        setattr(self.image, JUDGED, judged)

    def unscored(self) -> Entry:
        """The same image before anybody judged it."""
        return replace(self, score=None, disagreement=None, by_scorer={}, embeddings={}, record=None, meaning=Meaning())

    def means(self, meaning: Meaning) -> None:
        """What its scores mean. The picture carries that with it, too."""
        self.meaning = meaning
        setattr(self.image, MEANING, meaning)


# A picture carries its score as an attribute: wherever a script puts it in its own result, the score goes with it.
SCORE = "imagereward_score"
JUDGED = "imagereward_judged"
MEANING = "imagereward_meaning"


class Misaligned(Exception):
    """The result no longer maps to the scored images one to one; it must be left as it is."""


def group_images(images: Sequence[Any], mains: Sequence[Any], extras_each: int) -> tuple[list[list[Any]], list[Any]]:
    """Split a gallery (without its grid) into one group per main image, and a tail.

    A group is the image followed by its own masks; the tail is what other scripts appended for the whole job
    (ControlNet maps). `extras_each` is how many masks the host adds per image, used where only one image can't show it.
    Raises Misaligned when the main images can't be found.
    """
    positions = []
    for main in mains:
        found = [i for i, image in enumerate(images) if image is main]
        if len(found) != 1:
            if len(images) == len(mains):  # nothing but main images: order is enough, even if some were replaced
                return [[image] for image in images], []
            raise Misaligned("another script replaced images after they were scored")
        positions.append(found[0])
    if positions != sorted(positions) or (positions and positions[0] != 0):
        raise Misaligned("another script reordered the images")
    gaps = [after - before - 1 for before, after in zip(positions, positions[1:])]
    each = min(gaps) if gaps else min(extras_each, len(images) - len(mains))
    ends = [*positions[1:], *([positions[-1] + 1 + each] if positions else [])]
    groups = [list(images[start:end]) for start, end in zip(positions, ends)]
    return groups, list(images[ends[-1] :] if ends else images)


def rearrange(processed: Any, entries: Sequence[Entry], order: Sequence[int], extras_each: int = 0) -> list[Any]:
    """Reduce `processed` to the entries in `order`, in that order; entries are in the host's order.

    Cuts and permutes `images, infotexts, all_prompts, all_negative_prompts, all_seeds, all_subseeds` together, into new
    lists (the old ones belong to the job). A grid at the head stays there, control maps at the tail stay there.
    With nothing left the four `all_*` lists keep one element: the host reads their first one.
    Returns the images that belong into a grid: the kept ones and their masks. Raises Misaligned, having changed
    nothing.
    """
    first = processed.index_of_first_image
    head, images = list(processed.images[:first]), processed.images[first:]
    groups, tail = group_images(images, [entry.image for entry in entries], extras_each)
    infotexts = processed.infotexts[first:]
    if len(groups) != len(entries) or len(infotexts) != len(entries):
        raise Misaligned(f"{len(entries)} images were scored, but the host reports {len(infotexts)} infotexts")

    kept = [image for k in order for image in groups[k]]
    processed.images = head + kept + (tail if order else [])
    processed.infotexts = processed.infotexts[:first] + [infotexts[k] for k in order]
    named = order if order else range(min(1, len(entries)))
    processed.all_prompts = [entries[k].prompt for k in named]
    processed.all_negative_prompts = [entries[k].negative_prompt for k in named]
    processed.all_seeds = [entries[k].seed for k in named]
    processed.all_subseeds = [entries[k].subseed for k in named]
    for k in list(named)[:1]:
        processed.prompt, processed.negative_prompt = entries[k].prompt, entries[k].negative_prompt
        processed.seed, processed.subseed = entries[k].seed, entries[k].subseed
    processed.info = processed.infotexts[0] if processed.infotexts else ""
    return kept


def insert_grid(processed: Any, grid: Any, infotext: str) -> None:
    """Put a grid image at the head, where the host keeps it."""
    processed.images = [grid, *processed.images]
    processed.infotexts = [infotext, *processed.infotexts]
    processed.index_of_first_image = 1
    processed.info = infotext


def gallery_scores(processed: Any) -> list[float | None]:
    """One entry for each image that the host returns: its score, None for grids, masks and control maps."""
    images = [*processed.images, *(getattr(processed, "extra_images", None) or [])]
    return [getattr(image, SCORE, None) for image in images]


def gallery_disagreements(processed: Any) -> list[float | None]:
    """The same of a panel's disagreement."""
    return [getattr(judged, "disagreement", None) for judged in _gallery_judged(processed)]


def gallery_by_scorer(processed: Any, names: Sequence[str]) -> dict[str, list[float | None]]:
    """The same of each scorer's own value."""
    found = [getattr(judged, "by_scorer", {}) for judged in _gallery_judged(processed)]
    return {name: [values.get(name) for values in found] for name in names}


def gallery_meanings(processed: Any) -> list[Meaning | None]:
    """The same of what scores mean."""
    images = [*processed.images, *(getattr(processed, "extra_images", None) or [])]
    return [getattr(image, MEANING, None) for image in images]


def _gallery_judged(processed: Any) -> list[Judged | None]:
    images = [*processed.images, *(getattr(processed, "extra_images", None) or [])]
    return [getattr(image, JUDGED, None) for image in images]


def summary(entries: Sequence[Entry], kept: int, filtered: bool) -> str:
    """ "scored 8 · kept 5 · hidden 3 · mean 0.41 · best 1.22 (seed 1234)"."""
    scored = [entry for entry in entries if entry.score is not None]
    unfinished = sum(entry.unfinished for entry in entries)
    parts = [f"scored {len(scored)}"]
    if len(scored) + unfinished < len(entries):
        parts.append(f"not scored {len(entries) - len(scored) - unfinished}")
    if unfinished:
        parts.append(f"unfinished {unfinished}")
    if filtered:
        parts += [f"kept {kept}", f"hidden {len(entries) - kept}"]
    if scored:
        scores = [entry.score for entry in scored if entry.score is not None]
        best = scored[scores.index(max(scores))]
        parts.append(f"mean {sum(scores) / len(scores):.2f}")
        parts.append(f"best {max(scores):.2f} (seed {best.seed})")
    if disagreements := [entry.disagreement for entry in scored if entry.disagreement is not None]:
        parts.append(f"disagreement {sum(disagreements) / len(disagreements):.2f}")
    return " · ".join(parts)


def yield_summary(entries: Sequence[Entry], kept: Sequence[int]) -> str:
    """How many images it took: kept / generated, and how far the kept lie above the mean, in standard deviations."""
    scores = [entry.score for entry in entries if entry.score is not None]
    passed = sum(not entries[k].unfinished for k in kept)
    text = f"{passed} of {len(entries)} generated"
    chosen = [score for k in kept if (score := entries[k].score) is not None]
    if len(scores) < 2 or not chosen:
        return text
    mean = sum(scores) / len(scores)
    sigma = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5
    return text if sigma == 0 else f"{text}, {(sum(chosen) / len(chosen) - mean) / sigma:+.2f} σ over the mean"
