"""The alignment dial: what a LoRA does at each strength on held-out prompts, and at which to use it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from imagereward_core.runs.measures import dial_verdict

from . import lora
from .backend import Backend
from .evaluate import Evaluator
from .metrics import Evaluation, StopRule, changes

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True)
class Dial:
    """Evaluations by strength, the weakest first and the base model's among them as strength 0, each with the stop
    rule's verdict; and the strength to use, None if none is better than the base.
    """

    marks: tuple[tuple[float, Evaluation, str], ...]
    use: float | None

    def rows(self) -> list[dict[str, Any]]:
        """As JSON: what was measured at each strength."""
        names = ("reward", "diversity", "eps_mse", "inflation", "judges")
        return [
            {
                "strength": strength,
                **{name: found.summary()[name] for name in names},
                "changes": changes(self.marks[0][1], found),
                "verdict": verdict,
            }
            for strength, found, verdict in self.marks
        ]

    def metadata(self) -> dict[str, str]:
        """What a LoRA file says of it."""
        told = {} if self.use is None else {"modelspec.usage_hint": self.advice, "refl.strength": f"{self.use:g}"}
        return {**told, "refl.dial": json.dumps(self.rows())}

    @property
    def advice(self) -> str:
        """In a sentence."""
        return dial_verdict(self.rows(), self.use).text


def recommend(base: Evaluation, found: Sequence[tuple[float, Evaluation, str]]) -> float | None:
    """The strength of the largest gain below the first at which the rule objects; None without a gain."""
    best, use = base.reward, None
    for strength, evaluation, verdict in found:
        if verdict:
            break
        if evaluation.reward > best:
            best, use = evaluation.reward, strength
    return use


def turn(
    backend: Backend,
    evaluator: Evaluator,
    rule: StopRule,
    base: Evaluation,
    whole: Evaluation | None,
    stopping: Callable[[], bool],
) -> Dial | None:
    """Measure the LoRA in the network at each strength; None if a stop came meanwhile. whole: its evaluation at
    strength 1, if there is one; step: as there.
    """
    marks: list[tuple[float, Evaluation, str]] = []
    for strength in STRENGTHS:
        if stopping():
            return None
        found = base if strength == 0 else whole if strength == 1 else None
        if found is None:
            with lora.at_strength(backend.unet, strength):
                images, _ = evaluator.draw()
                found = evaluator.evaluate(whole.step if whole else 0, images, evaluator.score(images))
        marks.append((strength, found, "" if strength == 0 else rule.verdict(base, found)))
    return Dial(tuple(marks), recommend(base, marks[1:]))
