"""Keep and reject marks beside picks: is Diffusion-KTO on them better than leaving them out?

    python benchmarks/kto_small_world.py --out docs/refl

The user of dpo_small_world.py sees the same pictures. Of each caption's eight, four are dealt in two duels (picks) and
the four others are kept or rejected, each by itself: kept the more likely, the more its subject's area exceeds what the
user has seen on average. Six runs make the same number of updates of sixteen pictures each and export the update that
foretells the same held-out picks best:

    picks alone               DPO; the marks are dropped
    picks, marks by KTO       half of each update's pictures are pairs, half are marked pictures
    marks alone by KTO        no pair is trained on
    shuffled marks by KTO     the control: likewise, with the marks dealt anew among the pictures
    picks, marks as pairs     DPO; besides, a caption's first kept picture won over its first rejected one, and so on
    marks alone as pairs      DPO from those pairs of marks

The loss of marks (:class:`MarkLoss`) lives here and not in the package, which has it only if it is worth having.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import dpo_small_world as dpo  # noqa: E402
from benchmarks.over_seeds import over_seeds  # noqa: E402
from refl import Trainer  # noqa: E402
from refl.data import load_images, sample_prompt, split  # noqa: E402
from refl.losses import LossTerm, denoising_loss  # noqa: E402
from refl.picks import EncodedPicks, Pairs  # noqa: E402
from refl.preference import PickLoss  # noqa: E402
from refl.rollout import SampleNoise  # noqa: E402
from smallworld.pipeline import TINY_SD  # noqa: E402

DROPPED, MIXED, ALONE = "picks alone", "picks, marks by KTO", "marks alone by KTO"
PAIRED, PAIRED_ALONE = "picks, marks as pairs", "marks alone as pairs"
SHUFFLED = "shuffled marks by KTO"
KINDS = (DROPPED, MIXED, ALONE, SHUFFLED, PAIRED, PAIRED_ALONE)
HALF = dpo.EACH // 2  # of a caption's pictures are dealt in duels, the others marked
HELD_OUT = dpo.settings(TINY_SD, Path(), 0, 4, Path()).held_out
MARK_STREAM = 4_444_444_444  # the marked pictures' noise, used nowhere else


@dataclass(frozen=True)
class Mark:
    """One picture, judged by itself."""

    picture: Path
    prompt: str
    kept: bool


@dataclass(frozen=True)
class Marks:
    """A batch of marked pictures: latents x0 [B, C, h, w], prompts, timesteps t [B], noise, and which are kept [B]."""

    x0: Tensor
    prompts: list[str]
    t: Tensor
    noise: Tensor
    kept: Tensor


class MarkLoss:
    """Diffusion-KTO (Li et al. 2024, arXiv 2404.04465), eq. 8, with the sigmoid as the utility:

        loss = 1 - sigmoid(w (beta g - Q)),    w = 1 where kept, -1 where rejected,    Q = max(0, mean of beta g)

    g = e_base - e, the network's squared errors as means over a latent's numbers, stands for the log ratio, the factors
    of the timestep taken into beta; Q, the batch's estimate of the divergence from the base, has no gradient.
    """

    def __init__(self, loss: PickLoss):
        self.rollout, self.table, self.beta, self.base_model = loss.rollout, loss.table, loss.beta, loss.base_model

    def terms(self, marks: Marks) -> Iterator[LossTerm]:
        """One graph for the micro-batch; its reward is w (beta g - Q)."""
        cond = self.table(marks.prompts)
        with torch.no_grad(), self.base_model():
            reference = denoising_loss(self.rollout, marks.x0, cond, marks.t, marks.noise)
        gain = self.beta * (reference - denoising_loss(self.rollout, marks.x0, cond, marks.t, marks.noise))
        sign = torch.where(marks.kept, 1.0, -1.0)
        utility = sign * (gain - gain.detach().mean().clamp(min=0))
        yield LossTerm((1 - torch.sigmoid(utility)).mean(), utility.detach(), utility.new_zeros(()))


class EncodedMarks:
    """Marks whose pictures are latents, drawn with training samples as EncodedPicks are."""

    def __init__(self, marks: Sequence[Mark], latents: Sequence[Tensor], timesteps: int):
        self.marks, self.latents, self.timesteps = list(marks), list(latents), timesteps

    def draw(self, samples: Sequence[int], seed: int, device: torch.device) -> Marks:
        """The marks of training samples; a function of seed and sample number."""
        chosen = [sample_prompt(seed, len(self.marks), sample) for sample in samples]
        noises = [SampleNoise(seed, MARK_STREAM + sample) for sample in samples]
        t = torch.tensor([noise.integer(0, self.timesteps - 1) for noise in noises])
        x0 = torch.stack([self.latents[index] for index in chosen])
        noise = torch.stack([noise.normal(x0.shape[1:]) for noise in noises])
        prompts = [self.marks[index].prompt for index in chosen]
        kept = torch.tensor([self.marks[index].kept for index in chosen])
        return Marks(x0.to(device), prompts, t, noise.to(device), kept.to(device))


class Dealt:
    """In place of an engine's picks: of each update's samples, pairs and marks, or marks alone."""

    def __init__(self, picks: EncodedPicks, marks: EncodedMarks, pairs: bool):
        self.picks, self.marks, self.pairs = picks, marks, pairs

    def draw(self, samples: Sequence[int], seed: int, device: torch.device) -> tuple[Pairs | None, Marks]:
        """N samples are 2 N pictures: N / 2 pairs and N marked pictures, or 2 N marked pictures."""
        if self.pairs:
            halves = [sample // 2 for sample in samples if sample % 2 == 0]
            return self.picks.draw(halves, seed, device), self.marks.draw(samples, seed, device)
        return None, self.marks.draw([2 * sample + side for sample in samples for side in (0, 1)], seed, device)


class DealtLoss:
    """In place of an engine's loss: each of the two losses is a mean over its own samples."""

    def __init__(self, picks: PickLoss):
        self.picks, self.marks = picks, MarkLoss(picks)

    def terms(self, dealt: tuple[Pairs | None, Marks]) -> Iterator[LossTerm]:
        """Independent graphs: that of the pairs, if there are any, and that of the marks."""
        pairs, marks = dealt
        if pairs is not None:
            yield from self.picks.terms(pairs)
        yield from self.marks.terms(marks)


class Marked(Trainer):
    """A run on picks that trains on marks too, or on them alone. Its held-out picks are those of the run on picks."""

    def __init__(self, marks: Sequence[Mark], *, pairs: bool, **options: Any):
        super().__init__(**options)
        self.marks, self.pairs = marks, pairs

    def _setup(self) -> None:
        super()._setup()
        with torch.no_grad():
            pictures = [load_images([mark.picture], self.config.resolution) for mark in self.marks]
            latents = [self.backend.encode_images(picture)[0] for picture in pictures]
        engine: Any = self.engine
        marks = EncodedMarks(self.marks, latents, len(self.backend.schedule))
        engine.picks = Dealt(engine.picks, marks, self.pairs)
        engine.pick_loss = DealtLoss(engine.pick_loss)


def judging(captions: int) -> list[str]:
    """The captions that a run on picks holds out."""
    return split([scene.caption for scene in dpo.scenes(captions, held_out=False)], HELD_OUT).held_out


def judged_alone(folder: Path, captions: int, seed: int, read: Any) -> list[Mark]:
    """The marks of the second half of each caption's pictures, with logistic noise of the duels' temperature; without
    those of the captions that a run on picks holds out.
    """
    shown = [scene for scene in dpo.scenes(captions, held_out=False) for _ in range(dpo.EACH)]
    paths = [folder / f"{index:04d}.png" for index in range(len(shown))]
    area = read(shown, [Image.open(path).convert("RGB") for path in paths])[0]
    rng = np.random.default_rng([seed, 3])
    held_out = judging(captions)
    chances = 1 / (1 + np.exp((area.mean() - area) / dpo.TEMPERATURE))
    kept = rng.random(len(paths)) < chances
    return [
        Mark(path, scene.caption, bool(kept[index]))
        for index, (path, scene) in enumerate(zip(paths, shown, strict=True))
        if index % dpo.EACH >= HALF and scene.caption not in held_out
    ]


def shuffled(marks: Sequence[Mark], seed: int) -> list[Mark]:
    """As many pictures kept as before, whichever they are."""
    order = np.random.default_rng([seed, 4]).permutation(len(marks))
    return [dataclasses.replace(mark, kept=marks[other].kept) for mark, other in zip(marks, order, strict=True)]


def half_of(picks: Path) -> list[str]:
    """The lines of dpo.write_picks whose pictures are in the first half of their caption's."""
    lines = picks.read_text(encoding="utf-8").splitlines()
    each = dpo.EACH // 2
    return [line for number, line in enumerate(lines) if number % each < each // 2]


def as_pairs(marks: Sequence[Mark]) -> list[str]:
    """Lines of a duel file: within a prompt the first kept over the first rejected, and so on, no picture twice."""
    found = []
    for prompt in dict.fromkeys(mark.prompt for mark in marks):
        kept, rejected = (
            [mark.picture.name for mark in marks if mark.prompt == prompt and mark.kept == wanted]
            for wanted in (True, False)
        )
        for winner, loser in zip(kept, rejected, strict=False):
            found.append(json.dumps({"winner": winner, "loser": loser, "prompt": prompt}))
    return found


def worth(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By how much the area, as a share of the base's, changes over the training seeds of each kind, by how much more
    than where marks are dropped, and for marks alone than shuffled and than as pairs. Intervals (95 %, Welch's t) are
    over seeds.
    """
    of = {name: np.array([run["area"]["relative"] for run in runs if run["name"] == name]) for name in KINDS}
    found = {name: over_seeds(values) for name, values in of.items() if len(values) > 1}
    for name, other in (
        *((name, DROPPED) for name in KINDS[1:] if name != SHUFFLED),
        (ALONE, SHUFFLED),
        (ALONE, PAIRED_ALONE),
    ):
        if min(len(of[other]), len(of[name])) > 1:
            found[f"{name}, minus {other}"] = over_seeds(of[name], of[other])
    return found


def row(run: dict[str, Any]) -> str:
    """A run as a row of the table in docs/findings.md."""
    picks = 0 if run["name"] in (ALONE, SHUFFLED, PAIRED_ALONE) else run["picks"]
    parts = {"picks": picks, "pairs of marks": run["pairs of marks"]}
    if run["name"] in (MIXED, ALONE, SHUFFLED):
        parts["marks"] = run["marks"]
    return dpo.row(run, ", ".join(f"{count} {name}" for name, count in parts.items() if count))


def main() -> None:
    parser = dpo.arguments(60, KINDS, "two picks and four marks of each")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = dpo.Runs(args.out / "kto_small_world.json", KINDS)
    read = dpo.Reader()
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        judged = dpo.Judged(TINY_SD, args.judged, read)
        for seed in args.seeds:
            duels = half_of(dpo.write_picks(TINY_SD, work, args.captions, seed, read)[dpo.PICKS][0])
            marks = judged_alone(work, args.captions, seed, read)
            implied, held_out = as_pairs(marks), judging(args.captions)
            for name in args.only:
                if (name, seed) in runs:
                    continue
                picks = work / f"duels-{KINDS.index(name)}-{seed}.jsonl"
                lines = [line for line in duels if name != PAIRED_ALONE or json.loads(line)["prompt"] in held_out]
                lines += implied if name in (PAIRED, PAIRED_ALONE) else []
                picks.write_text("\n".join(lines) + "\n", encoding="utf-8")
                asked = dataclasses.replace(
                    dpo.settings(TINY_SD, picks, seed, args.updates, work / f"marks-{KINDS.index(name)}-{seed}"),
                    eval_steps=args.updates // 2,
                )
                trainer = Trainer(args=asked)
                if name in (MIXED, ALONE, SHUFFLED):
                    trained_on = shuffled(marks, seed) if name == SHUFFLED else marks
                    trainer = Marked(trained_on, pairs=name == MIXED, args=asked)
                _, found = judged.run(trainer)
                learnt_from = {
                    "picks": len(duels),
                    "marks": 0 if name == DROPPED else len(marks),
                    "kept": sum(mark.kept for mark in marks) / len(marks),
                    "pairs of marks": len(implied) if name in (PAIRED, PAIRED_ALONE) else 0,
                }
                run = {"name": name, "seed": seed, **learnt_from, **found}
                runs.keep(run, worth, settings=asked.shareable(), judged=[args.judged, dpo.EACH])
                print(row(run), flush=True)


if __name__ == "__main__":
    main()
