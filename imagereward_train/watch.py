"""Notice a run that is dead, and say what it died of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

from imagereward_core.errors import TrainingError

LN2 = math.log(2)
STALL_LOSS = 1e-3  # distance from ln 2
STALL_SPREAD = 1e-4  # standard deviation of the rewards in an update
EXPLODED = 1e4  # |reward|; trained models stay below 10
SKIPS = 40  # updates in a row; each halves fp16's loss scale, which starts at 2^16


class Watch:
    """Called with every update's loss and rewards; raises TrainingError for NaN, exploding rewards and the stall."""

    def __init__(self, stall_steps: int, stalled: int = 0, skipped: int = 0):
        self.stall_steps, self.stalled, self.skipped = stall_steps, stalled, skipped

    def check(self, update: int, loss: float, spread: float, largest: float, skipped: bool = False) -> None:
        """`spread`: standard deviation of the update's rewards; `largest`: the largest |reward|; `skipped`: the
        gradients overflowed fp16 and the weights stayed as they were.
        """
        if not (math.isfinite(loss) and math.isfinite(spread)):
            raise TrainingError(
                f"the loss became {loss} at update {update}: lower lr, set max_grad_norm 1, or use precision bf16 or"
                " fp32 instead of fp16"
            )
        if largest > EXPLODED:
            raise TrainingError(
                f"a reward reached {largest:.3g} at update {update}: the run is exploding; lower lr or set"
                " max_grad_norm 1"
            )
        self.skipped = self.skipped + 1 if skipped else 0
        if self.skipped >= SKIPS:
            raise TrainingError(
                f"the gradients overflowed fp16 in {self.skipped} updates in a row, whatever the loss scale: use"
                " precision bf16 or fp32"
            )
        self.stalled = self.stalled + 1 if abs(loss - LN2) < STALL_LOSS and spread < STALL_SPREAD else 0
        if self.stall_steps and self.stalled >= self.stall_steps:
            raise TrainingError(
                f"the loss has stayed at ln 2 = {LN2:.4f} for {self.stalled} updates and all images get the same reward"
                f" (spread {spread:.1e}): nothing is learnt. The paper's head initialisation does this; use head_init"
                " fan_in, a higher lr, or a warm-up"
            )


def no_better_than_chance(found: Mapping[str, tuple[float, int]], looks: int = 1) -> str:
    """What to tell about a best checkpoint that a coin could match, or "" (one-sided 95 %, pairs taken as independent).

    found: accuracy and number of pairs of each set, "validation" and perhaps "test". looks: how many accuracies the
    best was chosen from, each set's counted; the best of many coins is right more often than one (Sidak's correction).
    """
    z = NormalDist().inv_cdf(0.95 ** (1 / max(looks, 1)))
    sets = {name: values for name, values in found.items() if values[1]}
    if not sets or any(accuracy > 0.5 + z * math.sqrt(0.25 / pairs) for accuracy, pairs in sets.values()):
        return ""
    told = " and ".join(f"{accuracy:.0%} of {pairs} {name} pairs" for name, (accuracy, pairs) in sets.items())
    many = f" (the best of {looks} looks)" if looks > 1 else ""
    return (
        f"the best checkpoint orders {told} rightly{many}, which a coin could do too: its scores mean nothing yet."
        " Train longer, raise lr, lower dropout, start from trained weights, or judge on more validation pairs"
    )
