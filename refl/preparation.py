"""From settings to a model that is ready to train: small steps in the one order that works."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagereward_core.runs import Name, State, write_settings

from . import checkpoint, output, quantised, setup
from .anchor import AnchorSet
from .backend import Backend
from .config import ReFLConfig
from .control import Control
from .data import PromptSet
from .distributed import Processes
from .engine import Engine, PromptTable
from .evaluate import Evaluator
from .export import check_output
from .journal import Journal
from .judges import Judge, check_measured, here, nobody
from .log import logger
from .metrics import Evaluation
from .picks import EncodedPicks, PickSet, encode, read_picks, split_picks
from .preference import HeldOutPicks
from .resolved import ResolvedConfig, resolve
from .rewards import DifferentiableScorer, RewardMix
from .runfiles import own_errors
from .trackers import Careful, open_tracker


@dataclass(frozen=True)
class Given:
    """What the caller brings instead of having it loaded; name_reserved: see Trainer."""

    backend: Backend | None = None
    rewards: RewardMix | None = None
    judges: Sequence[DifferentiableScorer] | None = None
    name_reserved: bool = False


class Preparation:
    """Holds what the steps make: asked and config, prompts, backend, rewards and judges, table, engine, evaluator, and
    base, the evaluation of the untrained model (None in all processes but the first).
    """

    asked: ReFLConfig
    config: ResolvedConfig
    prompts: PromptSet
    picks: PickSet | None
    backend: Backend
    rewards: RewardMix
    judges: list[Judge]
    table: PromptTable
    engine: Engine
    evaluator: Evaluator
    base: Evaluation

    def __init__(self, asked: ReFLConfig, processes: Processes, control: Control, journal: Journal, given: Given):
        self.asked, self.processes, self.control, self.journal, self.given = asked, processes, control, journal, given

    def run(self, pause_point: Callable[[int], None]) -> None:
        """All steps. What can be refused cheaply comes first; the text encoders are dropped once every prompt is
        encoded; pictures of the base model are drawn while the UNet still is the base model.
        """
        self._check_settings()
        picked = read_picks(self.config.picks) if self.config.learns_picks else []
        prompts = self.prompts = setup.read_prompts(self.config, picked)
        self.picks = split_picks(picked, prompts.held_out) if picked else None
        self._load_model()
        self._settle_config()
        self.journal.say(State.PREPARING, message="loading rewards and judges")
        self._load_scorers()
        self.journal.say(State.PREPARING, message="encoding the prompts")
        setup.place(self.config, self.backend, self.processes.device)
        train_set, held_out_set = setup.anchor_images(self.config, self.backend)
        self.table = setup.encode_prompts(
            self.config, self.backend, self.processes, prompts, self.picks, train_set, held_out_set
        )
        self._make_engine(prompts, self._encode_picks(), pause_point)
        if self.processes.is_main:
            self._check_room()
            self._draw_base(held_out_set)
        self.rewards.restore(self.processes.agree(self.rewards.calibration()))
        self._place_anchor(prompts, train_set)

    def _check_settings(self) -> None:
        """Refuse what can be refused before anything is loaded, and keep what was asked."""
        self.asked = setup.with_precision(self.asked, self.processes.device)
        self.config = self.asked.resolved(device_type=self.processes.device.type)
        quantised.check(self.config.base_precision)
        if not self.processes.is_main:
            return
        new = not self.given.name_reserved and not self.config.resume_from_checkpoint
        output.check_start(self.asked, name_is_new=new)
        if not (Path(self.config.output_dir) / Name.ASKED).exists():
            self._write_settings(dataclasses.asdict(self.asked), Name.ASKED)

    def _load_model(self) -> None:
        self.backend = self.given.backend or setup.load(self.asked)
        check_output(self.asked, self.backend.source, self.backend.family)
        kind = f"{self.backend.family.name} ({self.backend.schedule.prediction_type})"
        self.journal.say(State.PREPARING, message=f"loaded {kind} from {self.backend.source.name}")

    def _settle_config(self) -> None:
        """The model is known now, and with it every default."""
        self.named = bool(self.asked.judges)
        usual = self.backend.usual or self.backend.family.usual
        self.config = setup.with_judges(resolve(self.asked, usual, self.processes.device.type))
        self.backend.draws_at(self.config.resolution)
        self.asked = ReFLConfig(**self.config.decided())
        if self.processes.is_main:
            folder = Path(self.config.output_dir)
            # a saved state may refuse these settings: then those of the run that saved it must still be there
            if not (self.config.resume_from_checkpoint and (folder / Name.CONFIG).exists()):
                self.keep_settings()
            resume_at = (checkpoint.resumable(folder) or 0) if self.config.resume_from_checkpoint else 0
            tracker = open_tracker(self.config.report_to, folder, self.asked.shareable(), resume_at)
            self.journal.tracker = Careful(tracker)

    def _load_scorers(self) -> None:
        """Rewards, and in the process that evaluates the judges. That nobody judges is said while the run lasts, and at
        its end.
        """
        config, device = self.config, self.processes.device
        self.rewards = self.given.rewards or setup.rewards(config, device)
        self.judges = []
        if self.given.judges is not None:
            self.judges = [Judge(scorer) for scorer in self.given.judges]
            setup.check_judges(self.judges, self.rewards)
        elif self.processes.is_main:
            self.judges = setup.judges(config, device, self.rewards, named=self.named)
            if not self.judges:
                self.journal.stand_by(nobody(config.aims, here(config.models_dir)))

    def keep_settings(self) -> None:
        """Write down the settings as used."""
        self._write_settings(dataclasses.asdict(self.asked), Name.CONFIG)

    def _write_settings(self, values: dict[str, Any], name: str) -> None:
        with own_errors():
            write_settings(Path(self.config.output_dir), values, name)

    def _encode_picks(self) -> tuple[EncodedPicks, EncodedPicks] | None:
        if self.picks is None:
            return None
        self.journal.say(State.PREPARING, message=f"encoding the pictures of {len(self.picks)} picks")
        return encode(self.backend, self.picks, self.config.resolution, self.control.check)

    def _make_engine(
        self,
        prompts: PromptSet,
        picks: tuple[EncodedPicks, EncodedPicks] | None,
        pause_point: Callable[[int], None],
    ) -> None:
        check, device = self.control.check, self.processes.device
        self.engine = Engine(
            self.config,
            self.backend,
            self.rewards,
            prompts.train,
            self.table,
            self.processes,
            check,
            pause_point,
            picks[0] if picks else None,
        )
        self.evaluator = Evaluator(
            self.config, self.backend, self.table, prompts.held_out, self.rewards, self.judges, device, check
        )
        self.evaluator.progress = self.journal.progress
        if picks and self.engine.pick_loss:
            self.evaluator.picks = HeldOutPicks(self.engine.pick_loss, picks[1], self.evaluator.batch, device)

    def _check_room(self) -> None:
        parameters = sum(parameter.numel() for parameter in self.engine.params.values())
        output.check_room(self.asked, self.backend, parameters)

    def _draw_base(self, held_out_set: AnchorSet | None) -> None:
        """Pictures and metrics of the base model. Drawn again on resume: they are the same, and cost less than storing
        them.
        """
        self.journal.say(State.EVALUATING, message="drawing the base model's pictures")
        images, latents = self.evaluator.draw()
        self.evaluator.hold_out(latents, held_out_set)
        scores = self.evaluator.score(images)
        self.rewards.calibrate(scores)
        check_measured(self.judges, scores)
        self.base = self.evaluator.evaluate(0, images, scores)
        held_out = self.prompts.held_out  # a row each
        self.journal.pictures(images, self.config.eval_seeds, "step-000000", prompts=held_out)

    def _place_anchor(self, prompts: PromptSet, train_set: AnchorSet | None) -> None:
        config = self.config
        self.engine.anchor_set = train_set if config.anchor == "pretrain" else None
        if config.anchor == "samples":
            message = f"drawing {config.anchor_samples} pictures of the base model for the anchor"
            self.journal.say(State.PREPARING, message=message)
            self.engine.anchor_set = setup.base_samples(
                config, self.backend, self.table, self.processes.device, prompts.train, self.control.check
            )
        if config.anchor == "none" and not config.learns_picks:
            logger.warning(
                "no anchor: nothing holds the model near its base, and it usually gets worse while the reward rises"
            )
