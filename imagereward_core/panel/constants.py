"""What a panel's scores are standardised by: the registry's constants, or those of the user's own scores.

Written down with every result, so that a limit means the same in every job: `ImageReward-v1.0 0 1; PickScore 21.2 1.3`.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import registry
from ..errors import ConfigError, ImageRewardError, LibraryError

AUTHORS = "the authors'"
OWN = "own scores"
GIVEN = "given"
FEWEST = 20  # own scores below which mean and SD say little
DIGITS = 6  # significant ones of what is written down; used as written, so that it gives the same again


@dataclass(frozen=True)
class Constants:
    """What a scorer's values are standardised by, and where that comes from."""

    mean: float
    std: float
    source: str = AUTHORS

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ConfigError(f"a mean and a positive standard deviation are wanted, found {self.mean}, {self.std}")

    def standardised(self, value: float) -> float:
        """(value - mean) / std."""
        return (value - self.mean) / self.std


def registry_constants(name: str) -> Constants | None:
    """The constants that the registry has for a scorer; None where its authors published none."""
    try:
        return of_info(registry.get(name))
    except ImageRewardError:
        return None


def of_info(info: registry.ModelInfo) -> Constants | None:
    """The constants of a scorer's entry."""
    return None if info.mean is None or info.std is None else Constants(info.mean, info.std)


def of_infos(
    infos: Mapping[str, registry.ModelInfo], given: Mapping[str, Constants] | None = None
) -> dict[str, Constants]:
    """What is known of these scorers: the constants given for the name or for its entry, else the entry's own."""
    chosen = given or {}
    known = {name: chosen.get(name) or chosen.get(info.name) or of_info(info) for name, info in infos.items()}
    return {name: constants for name, constants in known.items() if constants is not None}


def constants_of(values: Mapping[str, Sequence[float]]) -> dict[str, Constants]:
    """Constants from the user's own scores: name → at least two values that differ. Raises ConfigError."""
    found = {}
    for name, scores in values.items():
        if len(scores) < 2 or statistics.pstdev(scores) == 0:
            raise ConfigError(f"{name}: two scores that differ are wanted, to standardise by; found {len(scores)}")
        found[name] = Constants(statistics.fmean(scores), statistics.pstdev(scores), OWN)
    return found


def from_library(stored: Mapping[str, str], place: str | os.PathLike[str] | None = None) -> dict[str, Constants]:
    """The constants of the scores that the library holds: name → what the scorer is called there. Raises LibraryError,
    naming the scorers that have fewer than FEWEST pictures there.
    """
    from ..library import find, library_place, open_library

    path = library_place(place)
    values: dict[str, list[float]] = {}
    with open_library(path, create=False) as library:
        for name, called in stored.items():
            numbers = find.scorer_ids(library, called)  # several only where one name stood for several weights
            values[name] = list(find.scores_by_picture(library, numbers[0]).values()) if numbers else []
    few = [f"{len(scores)} of {name}" for name, scores in values.items() if len(scores) < FEWEST]
    if few:
        raise LibraryError(
            f"at least {FEWEST} own scores of each scorer are wanted, to standardise by; {path} has {', '.join(few)}."
            " Score a folder of your pictures with each: imagereward score FOLDER --scorer NAME --remember"
        )
    made = constants_of(values)
    return {name: Constants(_rounded(found.mean), _rounded(found.std), OWN) for name, found in made.items()}


def to_text(constants: Mapping[str, Constants]) -> str:
    """Inverse of `from_text`, in one line that infotexts can hold unquoted."""
    return "; ".join(f"{name} {found.mean:.{DIGITS}g} {found.std:.{DIGITS}g}" for name, found in constants.items())


def from_text(text: str) -> dict[str, Constants]:
    """`NAME MEAN SD; NAME MEAN SD`; empty for an empty text. Raises ConfigError."""
    found: dict[str, Constants] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        try:
            name, mean, std = part.rsplit(None, 2)
            pair = float(mean), float(std)
        except ValueError as error:
            raise ConfigError(
                f"constants are NAME MEAN SD; NAME MEAN SD …, as in PickScore 21.2 1.3; found {part!r}"
            ) from error
        found[name] = Constants(*pair, GIVEN)
    return found


def read(path: str | os.PathLike[str]) -> dict[str, Constants]:
    """Constants from a JSON file: {"PickScore": {"mean": 21.2, "std": 1.3}}, or a result of a panel that holds them
    under "constants". Raises ConfigError.
    """
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the constants {os.fspath(path)} cannot be read: {error}") from error
    return from_mapping(found.get("constants", found) if isinstance(found, dict) else found)


def from_mapping(found: Any) -> dict[str, Constants]:
    """{name: {"mean": …, "std": …}} or {name: [mean, SD]}. Raises ConfigError."""
    if not isinstance(found, Mapping):
        raise ConfigError(f'constants are {{"NAME": {{"mean": …, "std": …}}}}; found {found!r:.80}')
    made = {}
    for name, value in found.items():
        pair = (value.get("mean"), value.get("std")) if isinstance(value, Mapping) else value
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(map(_is_number, pair)):
            raise ConfigError(f"the constants of {name} are a mean and a standard deviation; found {value!r:.80}")
        source = value.get("source") if isinstance(value, Mapping) else None
        made[str(name)] = Constants(float(pair[0]), float(pair[1]), source if isinstance(source, str) else GIVEN)
    return made


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
