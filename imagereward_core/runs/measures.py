"""What a run's events say of the model so far: one curve per measure, and the verdict in words. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .protocol import EventKind
from .reading import settled

Event = Mapping[str, Any]
Point = tuple[float, float, float]  # update, value, standard error (0: unknown or none)
MIXED = "(mixed reward)"  # the mix among the scores of a saved state; no file name and no model has this name
REWARD = "reward"  # the mixed reward among the changes of an evaluation; judges stand beside it by name
# Share of the untrained model's value that the axis of a ratio shows at least; the stop rule's limits lie within.
DIVERSITY, ERROR, PICTURE = (0.0, 1.2), (0.0, 2.0), (0.0, 2.0)


@dataclass(frozen=True)
class Curve:
    """One measure over the updates, or along something else, whose points are few and drawn each. low, high: what the
    axis shows at least, so that noise looks like noise.
    """

    title: str
    points: tuple[Point, ...]
    low: float
    high: float
    percent: bool = False
    along: str = "update"
    mark: float | None = None  # a place along it that is drawn out

    @property
    def axis(self) -> tuple[float, float]:
        """(bottom, top): `low` and `high`, widened to hold every point with its error."""
        lows = [value - error for _, value, error in self.points]
        highs = [value + error for _, value, error in self.points]
        return min([self.low, *lows]), max([self.high, *highs])

    def text(self, value: float) -> str:
        """A value as the axis writes it."""
        return f"{value:.0%}" if self.percent else f"{value:.3g}"


def curves(steps: Sequence[Event], evaluations: Sequence[Event]) -> list[Curve]:
    """The curves of a run. steps, evaluations: its events of these kinds, or an evaluation's `summary()`.

    A score's axis spans at least two standard deviations of the scores themselves; ratios to the untrained model have
    a fixed one. An event that lacks a measure leaves a gap; a measure of fewer than two points makes no curve.
    """
    found = [
        _score("reward of training samples", _series(steps, "reward"), _first(steps, "reward_std")),
        _score("held-out reward", _with_errors(evaluations, REWARD), _first(evaluations, "reward_std")),
    ]
    for name in dict(evaluations[0].get("judges") or {}) if evaluations else ():
        found.append(_score(f"judge: {name}", _with_errors(evaluations, name), 0.0))
    for title, name, (low, high) in (
        ("seed diversity", "diversity", DIVERSITY),
        ("denoising error", "eps_mse", ERROR),
        ("length of the output as velocity", "inflation", ERROR),
        ("saturation", "saturation", PICTURE),
        ("contrast", "contrast", PICTURE),
    ):
        found.append(Curve(f"{title}, before = 100%", _ratios(evaluations, name), low, high, percent=True))
    found += [_score(name, _series(steps, key), 0.0) for name, key in (("anchor", "anchor"), ("gradient", "grad_norm"))]
    return [curve for curve in found if len(curve.points) > 1]


def by_strength(marks: Sequence[Event], use: float | None) -> list[Curve]:
    """The alignment dial: reward, judges and diversity over the strength of a LoRA. marks: an event of kind `dial` has
    them, with what each strength measured; use: the strength that is recommended.
    """
    judges = list(dict(marks[0].get("judges") or {})) if marks else []
    series = {"reward": _along(marks, lambda mark: _value(mark, REWARD))}
    series |= {f"judge: {name}": _along(marks, partial(_value, name=name)) for name in judges}
    series["seed diversity"] = _along(marks, lambda mark: mark.get("diversity"))
    curves = []
    for title, points in series.items():
        values = [value for _, value, _ in points]
        if len(values) > 1:
            curves.append(Curve(title, points, min(values), max(values), along="strength", mark=use))
    return curves


def _along(marks: Sequence[Event], value: Callable[[Event], Any]) -> tuple[Point, ...]:
    pairs: list[tuple[Any, Any]] = [(mark.get("strength"), value(mark)) for mark in marks]
    return tuple((float(x), float(y), 0.0) for x, y in pairs if _number(x) and _number(y))


def of_run(events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
    """(steps, evaluations) of an event log, without what a killed process had done after its last saved state."""
    kept: list[Event] = [*settled([dict(event) for event in events])]
    steps = [event for event in kept if event["type"] == EventKind.STEP]
    return steps, [event for event in kept if event["type"] == EventKind.EVALUATION]


@dataclass(frozen=True)
class Verdict:
    """`sound`: whether training may go on, None while nothing can be told yet."""

    text: str
    sound: bool | None


def verdict(evaluations: Sequence[Event]) -> Verdict | None:
    """What the newest evaluation says of the model, against the untrained one; None before there is one.

    A change counts when it exceeds two standard errors of the paired difference.
    """
    if len(evaluations) < 2:
        return None
    base, now = evaluations[0], evaluations[-1]
    parts, change, error = [changes_in_words(base, now)], None, 0.0
    for name, value, spread in _changes(base, now):
        if name == REWARD:
            change, error = value, spread
    diversity = _ratio(base, now, "diversity")
    if diversity is not None:
        parts.append(f"diversity {diversity:.0%}")
    measured = f"After {_count(now)}: {', '.join(filter(None, parts))}"
    if now.get("verdict"):
        return Verdict(
            f"{measured}: not sound any more. {str(now['verdict'])[:1].upper()}{str(now['verdict'])[1:]}.", False
        )
    if change is None or not error or abs(change) < 2 * error:
        return Verdict(f"{measured}: the reward has not moved by more than its error yet.", None)
    return Verdict(f"{measured}: still sound.", True)


def dial_verdict(marks: Sequence[Event], use: float | None) -> Verdict:
    """At which strength to use a LoRA, and whether its gain there exceeds two standard errors of the paired difference.

    marks, use: as in `by_strength`; the first mark is the untrained model.
    """
    if use is None:
        return Verdict("At no strength is it better than the base model on held-out prompts.", None)
    now = next((mark for mark in marks if mark.get("strength") == use), None)
    for name, value, error in _changes(marks[0], now) if now else ():
        if name == REWARD and value < 2 * error:
            told = f"its gain there may be chance ({value:+.2g} ± {error:.1g})"
            return Verdict(f"Use it at strength {use:g} if at all: {told}.", None)
    return Verdict(f"Use it at strength {use:g}: the largest gain before a judge or diversity falls.", True)


def changes_in_words(base: Event, now: Event) -> str:
    """How far reward and judges have moved since the untrained model: "reward +0.12 ± 0.04, CLIP -0.001"."""
    return ", ".join(
        f"{name} {value:+.2g} ± {spread:.1g}" if spread else f"{name} {value:+.2g}"
        for name, value, spread in _changes(base, now)
    )


def _count(event: Event) -> str:
    step = int(event["step"])
    return f"{step} update{'' if step == 1 else 's'}"


def _changes(base: Event, now: Event) -> list[tuple[str, float, float]]:
    """(name, change since the untrained model, its standard error or 0) of the reward and of each judge."""
    told = now.get("changes") or {}
    found = []
    for name in (REWARD, *dict(now.get("judges") or {})):
        pair = told.get(name)
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and _number(pair[0]):
            found.append((name, float(pair[0]), float(pair[1]) if _number(pair[1]) else 0.0))
        elif _number(_value(base, name)) and _number(_value(now, name)):  # a run of before there were changes
            found.append((name, float(_value(now, name)) - float(_value(base, name)), 0.0))
    return found


def _value(event: Event, name: str) -> Any:
    return event.get("reward") if name == REWARD else dict(event.get("judges") or {}).get(name)


def _with_errors(evaluations: Sequence[Event], name: str) -> tuple[Point, ...]:
    points = []
    for event in evaluations:
        value, pair = _value(event, name), (event.get("changes") or {}).get(name)
        error = pair[1] if isinstance(pair, (list, tuple)) and len(pair) == 2 and _number(pair[1]) else 0.0
        if _number(value):
            points.append((float(event["step"]), float(value), float(error)))
    return tuple(points)


def _series(events: Sequence[Event], name: str) -> tuple[Point, ...]:
    return tuple((float(event["step"]), float(event[name]), 0.0) for event in events if _number(event.get(name)))


def _ratios(evaluations: Sequence[Event], name: str) -> tuple[Point, ...]:
    base = evaluations[0] if evaluations else {}
    pairs = ((event, _ratio(base, event, name)) for event in evaluations)
    return tuple((float(event["step"]), ratio, 0.0) for event, ratio in pairs if ratio is not None)


def _ratio(base: Event, now: Event, name: str) -> float | None:
    before: Any = base.get(name)
    after: Any = now.get(name)
    return float(after) / float(before) if _number(before) and _number(after) and before else None


def _first(events: Sequence[Event], name: str) -> float:
    return next((float(event[name]) for event in events if _number(event.get(name))), 0.0)


def _score(title: str, points: tuple[Point, ...], spread: float) -> Curve:
    """spread: standard deviation of single scores; where it is unknown, a tenth of the first value stands in."""
    start = points[0][1] if points else 0.0
    spread = spread or abs(start) / 10 or 1e-6
    return Curve(title, points, start - spread, start + spread)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
