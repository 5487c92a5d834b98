"""From the duels in a library to a fitted taste: features found or computed, head fitted, verdict measured, file
written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError, LibraryError
from ..library import Features, Library, Score, images, marks
from ..library.features import features_of
from ..library.images import path_from_row
from ..library.records import EMBEDDING, LOOKS, MY_TASTE
from . import files, head, place, verdict
from .basis import Basis, Material, basis_of
from .duels import weak_duels
from .files import Taste
from .place import About, Base

if TYPE_CHECKING:
    from ..scorers.base import Scorer

TOGETHER = 500
BOTH_WAYS = 0.5  # weight of each direction of a duel that nobody won
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Learnt:
    """A fitted taste. `left_out`: duels whose pictures have no features, and why, one reason each."""

    taste: Taste
    measured: verdict.Measured | None
    weak: int = 0
    left_out: dict[int, str] = field(default_factory=dict)

    @property
    def about(self) -> About:
        """What is said of it."""
        return self.taste.about


def learn(
    library: Library,
    base: Base,
    load: Callable[[], Scorer],
    name: str = MY_TASTE,
    *,
    uses_prompt: bool = True,
    progress: Progress = lambda done, total: None,
    clock: Callable[[], float] = time.time,
) -> Learnt:
    """Fit the taste `name` on all its duels and write it beside the library.

    `base`: the scorer it is learnt on; `load` is called only if a picture lacks features. Marks and stars count as weak
    duels of MY_TASTE. Raises what loading and scoring raise, LibraryError, ConfigError.
    """
    files.check_free(name)
    duels = marks.duels(library, name)
    weak = weak_duels(library) if name == MY_TASTE else []
    wanted = {number for duel in duels for number in (duel.winner, duel.loser)}
    wanted |= {number for pair in weak for number in (pair.winner, pair.loser)}
    index, material = material_of(library, base, wanted)
    problems: dict[int, str] = {}
    if lacking := sorted(wanted - set(index)):
        problems = compute(library, base, lacking, load, uses_prompt, progress)
        index, material = material_of(library, base, wanted)
    basis = basis_of(material) if index else _empty_basis()
    features = basis.features(material) if index else np.zeros((0, basis.size))
    rows = _Rows(index, features, material.prompts)
    for duel in duels:
        clear = duel.verdict == "win"
        rows.put(duel.winner, duel.loser, 1.0 if clear else BOTH_WAYS, clear)
        if not clear:
            rows.put(duel.loser, duel.winner, BOTH_WAYS, False)
    for pair in weak:
        rows.put(pair.winner, pair.loser, pair.weight, False)
    seen = rows.duels(basis.size)
    starts: dict[float, np.ndarray] = {}
    fitted = head.fit(seen.differences, seen.weights, starts)
    measured = verdict.measure(seen, starts=starts)
    looks = _look(library, name, base, measured, clock())
    about = _about(name, base, len(duels), measured, looks, fitted.width, clock())
    taste = Taste(about, fitted, basis, *_units(basis, fitted, material))
    files.write(taste, place.path_of(name, library.place))
    left_out = {
        duel.id: problems.get(duel.winner) or problems.get(duel.loser) or ""
        for duel in duels
        if duel.winner not in index or duel.loser not in index
    }
    return Learnt(taste, measured, len(weak), left_out)


def _about(
    name: str,
    base: Base,
    count: int,
    measured: verdict.Measured | None,
    looks: list[verdict.Look],
    width: float,
    when: float,
) -> About:
    """What a taste's file says of it."""
    return About(
        name,
        base,
        duels=count,
        state=verdict.state(measured, looks, width),
        accuracy=measured.accuracy if measured else None,
        interval=measured.interval if measured else None,
        scorer_accuracy=measured.scorer_accuracy if measured else None,
        p=measured.p if measured else None,
        more=verdict.more(count, measured, looks, width),
        time=when,
    )


def _empty_basis() -> Basis:
    from .appearance import NAMES

    return Basis(1.0, np.zeros((0, 0)), np.ones(len(NAMES)))


def _units(basis: Basis, fitted: head.Head, material: Material) -> tuple[float, float]:
    """(factor, constant) that give the duels' pictures the mean and the spread that they have by the scorer, so that
    limits and the colours of badges mean what they did. Exactly (1, 0) where the head is the scorer.
    """
    if not len(material.scores):
        return 1.0, 0.0
    score, embedding, looks = basis.linear(fitted.mean)
    found = material.scores * score + material.embeddings @ embedding + material.appearance @ looks
    factor = float(material.scores.std() / found.std()) if found.std() > 0 else 1.0
    return factor, float(material.scores.mean() - factor * found.mean())


class _Rows:
    """Duels as rows of differences, as far as both pictures have features."""

    def __init__(self, index: dict[int, int], features: np.ndarray, prompts: np.ndarray):
        self.index = index
        self.features = features
        self.prompts = prompts
        self.found: list[tuple[int, int, float, bool]] = []

    def put(self, winner: int, loser: int, weight: float, clear: bool) -> None:
        """One more, unless a picture has no features."""
        if winner in self.index and loser in self.index:
            self.found.append((self.index[winner], self.index[loser], weight, clear))

    def duels(self, size: int) -> verdict.Duels:
        """All of them."""
        if not self.found:
            none = np.zeros(0)
            return verdict.Duels(np.zeros((0, size)), none, none.astype(bool), none, none)
        winner, loser, weight, clear = (np.array(column) for column in zip(*self.found))
        pairs = np.minimum(winner, loser) * len(self.features) + np.maximum(winner, loser)
        return verdict.Duels(self.features[winner] - self.features[loser], weight, clear, self.prompts[winner], pairs)


def _look(
    library: Library, name: str, base: Base, measured: verdict.Measured | None, when: float
) -> list[verdict.Look]:
    """All looks, with one more if enough duels came since the last."""
    rows = library.query(
        "SELECT duels, p, level FROM looks WHERE taste = ? AND scorer = ? ORDER BY duels", (name, base.name)
    )
    looks = [verdict.Look(*row) for row in rows]
    if measured is None:
        return looks
    level = verdict.next_level(measured.duels, looks)
    if level is None:
        return looks
    with library.transaction() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO looks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (name, base.name, measured.duels, measured.head_only, measured.scorer_only, measured.p, level, when),
        )
    return [*looks, verdict.Look(measured.duels, measured.p, level)]


def material_of(library: Library, base: Base, wanted: Iterable[int]) -> tuple[dict[int, int], Material]:
    """(row by picture, material) of the pictures that have all it takes."""
    looks = features_of(library, wanted, LOOKS, LOOKS)
    embeddings = features_of(library, looks, base.name, EMBEDDING)
    scores = _scores(library, embeddings, base.name)
    prompts = _prompts(library, scores)
    numbers = sorted(scores)
    index = {number: row for row, number in enumerate(numbers)}
    return index, Material(
        np.array([scores[number] for number in numbers], float),
        _stacked(embeddings, numbers),
        _stacked(looks, numbers),
        np.array([prompts[number][0] for number in numbers], int),
    )


def _stacked(rows: dict[int, np.ndarray], numbers: Sequence[int]) -> np.ndarray:
    """[N, D] of these pictures."""
    return np.array([rows[number] for number in numbers], float) if numbers else np.zeros((0, 0))


def _scores(library: Library, numbers: Iterable[int], scorer: str) -> dict[int, float]:
    """A scorer's scores of pictures against their own prompts."""
    return {
        row[0]: row[1]
        for row in _asked(
            library,
            "SELECT s.image_id, s.value FROM scores s JOIN scorers r ON r.id = s.scorer_id"
            " WHERE s.prompt = '' AND r.name = ? AND s.image_id IN ({})",
            numbers,
            scorer,
        )
    }


def _prompts(library: Library, numbers: Iterable[int]) -> dict[int, tuple[int, str | None]]:
    """(number of the prompt, its plain words) by picture; pictures without one are each on their own."""
    rows = _asked(
        library,
        "SELECT i.id, p.same, p.words FROM images i LEFT JOIN prompts p ON p.id = i.prompt_id WHERE i.id IN ({})",
        numbers,
    )
    return {number: (-number if same is None else same, words) for number, same, words in rows}


def _asked(library: Library, sql: str, numbers: Iterable[int], *values: Any) -> Iterable[tuple[Any, ...]]:
    """Rows of some pictures, asked for in parts: SQLite allows only so many parameters."""
    wanted = sorted(set(numbers))
    for start in range(0, len(wanted), TOGETHER):
        part = wanted[start : start + TOGETHER]
        yield from library.query(sql.format(", ".join("?" * len(part))), (*values, *part))


def compute(
    library: Library,
    base: Base,
    lacking: Sequence[int],
    load: Callable[[], Scorer],
    uses_prompt: bool,
    progress: Progress,
) -> dict[int, str]:
    """Compute and keep the features of pictures; returns what is wrong with those that cannot be used, by picture.

    Of a picture that was remembered as it was scored only the looks are lacking: the scorer is loaded for others alone.
    """
    prompts = _prompts(library, lacking)
    places = dict(_asked(library, "SELECT id, path FROM images WHERE id IN ({})", lacking))
    encoded = _scores(library, features_of(library, lacking, base.name, EMBEDDING), base.name)
    problems = {}
    todo = []
    for number in lacking:
        if uses_prompt and prompts[number][1] is None:
            problems[number] = f"no prompt is known of {path_from_row(places[number])}"
        else:
            todo.append(number)
    scorer: Scorer | None = None
    for done, number in enumerate(sorted(todo, key=lambda number: number not in encoded), start=1):
        path, words = path_from_row(places[number]), prompts[number][1] or ""
        try:
            if number in encoded:
                _keep_looks(library, number, path)
            else:
                scorer = scorer or load()
                _compute_one(library, base, scorer, number, path, words)
        except ImageError as error:
            problems[number] = str(error)
        progress(done, len(todo))
    return problems


def _keep_looks(library: Library, number: int, path: str) -> None:
    """How one picture looks; what the scorer made of it is known."""
    from ..preprocess import open_image
    from .appearance import appearance_of

    looks = appearance_of(open_image(path)).numpy()
    with library.transaction():
        images.put_features(library, number, [Features(LOOKS, {LOOKS: looks})])


def _compute_one(library: Library, base: Base, scorer: Scorer, number: int, path: str, words: str) -> None:
    """Score one picture and keep its features."""
    from ..preprocess import open_image
    from .appearance import appearance_of

    image = open_image(path)
    looks = appearance_of(image)
    found, features = embedded(scorer, [words], [image])
    with library.transaction():
        images.put_scores(library, number, [Score(base.name, found[0])])
        images.put_features(library, number, features_kept(base.name, features[0], looks.numpy()))


def embedded(scorer: Scorer, prompts: Sequence[str], pictures: Sequence[Any]) -> tuple[list[float], np.ndarray]:
    """(scores, embeddings [N, D]) of N prompts with N PIL images, in one batch. Raises ScoreError for NaN."""
    import torch

    from ..errors import ScoreError

    with torch.no_grad():
        pixels = torch.stack([scorer.pixels_from_image(image) for image in pictures])
        encoded = scorer.encode_images(pixels.to(scorer.device, scorer.dtype))
        scores, embedding = scorer.with_embeddings(prompts, encoded)
    if not (torch.isfinite(scores).all() and torch.isfinite(embedding).all()):
        raise ScoreError(f"{scorer.name} returned values that are no numbers; try precision fp32")
    return scores.float().tolist(), embedding.float().cpu().numpy()


def features_kept(scorer: str, embedding: np.ndarray, looks: np.ndarray) -> list[Features]:
    """What the library keeps of a picture so that a taste can be learnt without a second look at it."""
    return [Features(scorer, {EMBEDDING: embedding}), Features(LOOKS, {LOOKS: looks})]


def forget(library: Library, name: str) -> tuple[int, bool]:
    """Delete a taste: (number of its duels, whether there was a fitted file). Marks and stars stay: they are the
    pictures'. Raises LibraryError, ConfigError.
    """
    if library.read_only:
        raise LibraryError(f"{library.place} can only be read: nothing is forgotten")
    count = marks.forget_taste(library, name)
    return count, files.forget(name, library.place)
