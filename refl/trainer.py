"""A whole run: set up, train, evaluate, save, obey commands, stop in time, export, report."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoint, setup
from . import rewards as reward_models
from .anchor import AnchorSet, image_anchor
from .backend import Backend
from .config import ReFLConfig
from .data import load_prompts, split
from .distributed import Processes
from .engine import Engine, UpdateStats
from .errors import ConfigError, ReFLError, SaveError
from .evaluate import Evaluator, save_sheet
from .export import check_output, export
from .log import logger
from .metrics import Evaluation, StopRule
from .report import write_report
from .rewards import DifferentiableScorer, RewardMix
from .runfiles import RunFolder, write_json


class StopNow(Exception):
    """Leave at once, whatever is in progress."""


class StopRequested(Exception):
    """A stop arrived in the middle of an update, which is given up."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended: "finished", "stopped" (resumable) or "stop_rule"; the exported file or folder, if any."""

    state: str
    step: int
    reason: str
    exported: Path | None
    evaluations: list[Evaluation]


class Trainer:
    """`Trainer(checkpoint, prompts, args=parse_args()).train()`; backend, rewards and judges may be passed in."""

    def __init__(
        self,
        pretrained_model_name_or_path: str | os.PathLike[str] = "",
        train_data: str | os.PathLike[str] = "",
        args: ReFLConfig | None = None,
        *,
        backend: Backend | None = None,
        rewards: RewardMix | None = None,
        judges: Sequence[DifferentiableScorer] | None = None,
    ):
        config = args or ReFLConfig()
        changes: dict[str, Any] = (
            {"pretrained_model_name_or_path": os.fspath(pretrained_model_name_or_path)}
            if pretrained_model_name_or_path
            else {}
        )
        if train_data:
            changes["train_data"] = os.fspath(train_data)
        self.config = dataclasses.replace(config, **changes)
        self._given = (backend, rewards, judges)
        self.host_gone = False
        self._stop_now = False
        self._pending: str | None = None
        self.step = 0
        self.history: list[Evaluation] = []
        self.best: tuple[int, float] | None = None

    # --- a run -----------------------------------------------------------------------------------------------------

    def train(self, args: ReFLConfig | None = None) -> RunResult:
        """Run to the end. Raises ReFLError for what the user can act on; the event log names it too."""
        if args is not None:
            own = {
                name: getattr(self.config, name)
                for name in ("pretrained_model_name_or_path", "train_data")
                if getattr(self.config, name)
            }
            self.config = dataclasses.replace(args, **own)
        self.processes = Processes(self.config.device)
        with RunFolder(self.config.output_dir) if self.processes.is_main else nullcontext() as folder:
            self.folder: RunFolder | None = folder  # type: ignore[assignment]
            try:
                self._say("preparing")
                self._setup()
                result = self._fit()
            except StopNow:
                result = RunResult("stopped", self.step, "stopped at once", None, self.history)
            except torch.cuda.OutOfMemoryError as error:
                hint = (
                    "Lower resolution or train_batch_size, use --taesd, or free the WebUI's memory first; the last"
                    " saved state can be resumed."
                )
                self._fail(error, hint)
                raise ReFLError(f"the GPU ran out of memory: {error}. {hint}") from error
            except ReFLError as error:
                self._fail(error, error.hint)
                raise
            except Exception as error:  # reported to the controlling process, then raised as it is
                self._fail(error, "This is a defect: please report it with log.txt.")
                raise
            self._say(result.state, message=result.reason, result=str(result.exported or ""))
            return result

    def _setup(self) -> None:
        device = self.processes.device
        early = self.config.resolved(device_type=device.type)
        if device.type == "cpu" and early.mixed_precision == "fp16":
            raise ConfigError("mixed_precision fp16 does not work on the CPU: use no or bf16")
        if device.type == "cuda" and self.config.mixed_precision is None and not torch.cuda.is_bf16_supported():
            early = dataclasses.replace(early, mixed_precision="fp16")
        if early.allow_tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
        prompts = split(
            load_prompts(early.train_data, early.prompts, early.dataset_name, early.caption_column),
            early.held_out,
            early.max_train_samples,
        )
        self.prompts = prompts
        self.backend = self._given[0] or setup.load(early)
        check_output(early, self.backend.source)
        self._say(
            "preparing",
            message=(
                f"loaded {self.backend.family.name} ({self.backend.schedule.prediction_type}) from"
                f" {self.backend.source.name}"
            ),
        )
        self.config = dataclasses.replace(self.config, mixed_precision=early.mixed_precision).resolved(
            self.backend.family.is_sdxl, device.type
        )
        config = self.config
        if self.processes.is_main:
            write_json(Path(config.output_dir) / "config.json", dataclasses.asdict(config))
        self.rewards = self._given[1] or reward_models.load_rewards(
            config.rewards, device, config.reward_precision, config.models_dir
        )
        judges = self._given[2]
        self.judges = (
            list(judges)
            if judges is not None
            else reward_models.load_judges(config.judges, device, config.reward_precision, config.models_dir)
        )
        twice = {judge.name for judge in self.judges} & {part.name for part in self.rewards.components}
        if twice:
            raise ConfigError(
                f"judges names {', '.join(sorted(twice))}, which is trained on: a judge must be another scorer"
            )
        self.backend.to(device)
        if config.tune == "full" and config.mixed_precision != "no":
            self.backend.autocast = setup.DTYPES[config.mixed_precision or "no"]
        train_set, held_out_set = (
            image_anchor(self.backend, config.anchor_data, config.resolution or 512, config.held_out)
            if config.anchor_data
            else (None, None)
        )
        self.table = setup.encode_prompts(config, self.backend, self.processes, prompts, train_set, held_out_set)
        self.engine = Engine(
            config,
            self.backend,
            self.rewards,
            prompts.train,
            self.table,
            self.processes,
            self._check,
            self._pause_point,
        )
        self.evaluator = Evaluator(
            config, self.backend, self.table, prompts.held_out, self.rewards, self.judges, device, self._check
        )
        if self.processes.is_main:
            self._baseline(held_out_set)
        self.rewards.restore(self.processes.agree(self.rewards.calibration()))
        self.engine.anchor_set = train_set if config.anchor == "pretrain" else None
        if config.anchor == "samples":
            self._say("preparing", message=f"drawing {config.anchor_samples} pictures of the base model for the anchor")
            self.engine.anchor_set = setup.base_samples(
                config, self.backend, self.table, device, prompts.train, self._check
            )
        self._resume()  # last: until here the UNet is the base model
        if config.anchor == "none":
            logger.warning(
                "no anchor: nothing holds the model near its base, and it usually gets worse while the reward rises"
            )

    # --- start and resume ------------------------------------------------------------------------------------------

    @property
    def _states(self) -> Path:
        return Path(self.config.output_dir) / "checkpoints"

    def _resume(self) -> None:
        wanted = self.config.resume_from_checkpoint
        found = checkpoint.saved(self._states)
        path = (found[-1] if found else None) if wanted == "latest" else Path(wanted) if wanted else None
        if path is not None:
            state = checkpoint.load(path)
            if (
                state.info["seed"] != self.config.seed
                or state.info["samples"] != self.config.samples_per_step * self.processes.count
            ):
                raise ConfigError(
                    "a resumed run must keep seed, train_batch_size, gradient_accumulation_steps and the number of"
                    " processes"
                )
            self.engine.restore(state)
            self.step = state.step
            self.rewards.restore(state.info["calibration"])
            self.history = [Evaluation(**item) for item in state.info["history"]]
            self.best = tuple(state.info["best"]) if state.info["best"] else None
            self._event("resumed", step=self.step)
        elif wanted == "latest":
            logger.info("there is no saved state in %s yet: starting from the beginning", self._states)
        if not self.history and self.processes.is_main:
            self.history = [self.base]
            self._event("evaluation", **self.base.summary())

    def _baseline(self, held_out_set: AnchorSet | None) -> None:
        """Pictures and metrics of the base model. Drawn again on resume: they are the same, and cost less than storing
        them.
        """
        self._say("evaluating", message="drawing the base model's pictures")
        images, latents = self.evaluator.draw()
        self.evaluator.hold_out(latents, held_out_set)
        scores = self.evaluator.score(images)
        self.rewards.calibrate(scores)
        self.base = self.evaluator.evaluate(0, images, scores)
        self._save_images(images, "step-000000")

    # --- the loop --------------------------------------------------------------------------------------------------

    def _fit(self) -> RunResult:
        config = self.config
        started, done = time.monotonic(), self.step
        self._say("training", max_steps=config.max_train_steps)
        while self.step < config.max_train_steps:
            command = self.processes.agree(self._take_command())
            if command == "stop":
                return self._stop()
            try:
                stats = self.engine.update(self.step)
            except StopRequested:
                continue
            self.step += 1
            seconds = (time.monotonic() - started) / (self.step - done)
            self._log_step(stats, seconds)
            last = self.step == config.max_train_steps
            verdict, improved = "", False
            if last or self.step % config.eval_steps == 0:
                verdict, improved = self.processes.agree(self._evaluate() if self.processes.is_main else None)
            if last or improved or verdict or self.step % config.checkpointing_steps == 0:
                self._save()
            if verdict and config.stop_rule == "stop":
                return self._finish("stop_rule", verdict)
            if verdict and config.stop_rule == "pause":
                if last:  # nothing is left to pause
                    return self._finish("finished", verdict)
                self._hold(verdict)
        return self._finish("finished", "")

    def _log_step(self, stats: UpdateStats, seconds: float) -> None:
        cuda = self.processes.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
        data = {**dataclasses.asdict(stats), "seconds_per_update": round(seconds, 3), "peak_memory_gib": peak}
        self._event("step", step=self.step, **data)
        left = (self.config.max_train_steps - self.step) * seconds
        self._say(
            "training", step=self.step, reward=stats.reward, loss=stats.loss, seconds_left=round(left), message=""
        )

    def _evaluate(self) -> tuple[str, bool]:
        """(verdict of the stop rule, whether this is the best so far)."""
        self._say("evaluating")
        with self.engine.averaged():
            images, _ = self.evaluator.draw()
            result = self.evaluator.evaluate(self.step, images, self.evaluator.score(images))
        self.history.append(result)
        config = self.config
        verdict = (
            StopRule(config.min_diversity, config.max_eps_mse).verdict(self.base, result)
            if config.stop_rule != "off"
            else ""
        )
        improved = not verdict and (self.best is None or result.reward > self.best[1])
        if improved:
            self.best = (self.step, result.reward)
        self._event("evaluation", **result.summary(), verdict=verdict)
        self._save_images(images, f"step-{self.step:06d}")
        return verdict, improved

    def _finish(self, state: str, reason: str) -> RunResult:
        """Export the best evaluated weights (the last ones if none were sound) and write the report."""
        exported = None
        if self.processes.is_main:
            if reason:
                exported, advice = self._rescue(state, reason)
                reason += f". {advice}"
                self._event("stop_rule", step=self.step, reason=reason)
            else:
                exported = self._export(self.best[0] if self.best else self.step, state, reason)
        return RunResult(state, self.step, reason, exported, self.history)

    def _stop(self) -> RunResult:
        """Save the state; whoever stops early wants what there is, so the best evaluated weights are exported too."""
        self._save()
        exported = self._export(self.best[0], "stopped", "") if self.best and self.processes.is_main else None
        return RunResult("stopped", self.step, "stopped on request; the run can be resumed", exported, self.history)

    def _hold(self, verdict: str) -> None:
        """The stop rule asks for a pause: the best weights so far are exported, and the run waits to be told what to
        do.
        """
        if not self.processes.is_main:
            return
        exported, advice = self._rescue("paused", verdict)
        self.engine.restore(
            checkpoint.load(self._states / f"step-{self.step:06d}")
        )  # exporting took over the best state
        reason = f"Paused: {verdict}. {advice} Resume goes on all the same, Stop ends the run."
        self._event("stop_rule", step=self.step, reason=reason)
        self._say("training", message=reason, result=str(exported))
        self._pending = "pause"

    def _rescue(self, state: str, reason: str) -> tuple[Path, str]:
        """(what was exported, what to tell the user) when the stop rule speaks."""
        if self.best is None:
            advice = (
                f"No evaluation before that was sound: the result is update {self.step} itself, probably worse than the"
                " base model."
            )
            return self._export(self.step, state, reason), advice + " Lower the learning rate or strengthen the anchor."
        return self._export(self.best[0], state, reason), f"The result is update {self.best[0]}, the best before that."

    def _export(self, chosen: int, state: str, reason: str) -> Path:
        """Export the averaged weights of update `chosen` and write the report. The engine then holds that update's
        state.
        """
        self._say("exporting")
        saved = self._states / f"step-{chosen:06d}"
        if chosen != self.step and saved.is_dir():
            self.engine.restore(checkpoint.load(saved))
        with self.engine.averaged():
            exported = export(self.config, self.backend, Path(self.config.export_dir or self.config.output_dir), chosen)
        self._event("exported", step=self.step, exported_step=chosen, path=str(exported))
        folder = Path(self.config.output_dir)
        write_report(folder, self.config, self.base, self.history, chosen, state, reason, self.prompts)
        return exported

    # --- commands --------------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Save and stop at the next micro-step; may be called from another thread."""
        self.host_gone = True

    def _check(self) -> None:
        if self.folder is None or self.processes.count > 1:
            return
        command = self.folder.command()
        if command == "stop_now":
            raise StopNow
        if command:
            self._pending = command

    def _take_command(self) -> str | None:
        """Handle what was asked for; returns "stop" if the run is to end."""
        if self.folder is None:
            return None
        command = "stop" if self.host_gone else self._pending or self.folder.command()
        self._pending = None
        if command == "stop_now":
            raise StopNow
        if command == "save":
            self._save()
        elif command == "sample":
            with self.engine.averaged():
                self._save_images(self.evaluator.draw()[0], f"step-{self.step:06d}-now")
        elif command == "pause":
            return self._pause()
        return "stop" if command == "stop" else None

    def _pause_point(self, step: int) -> None:
        """Between micro-steps. Nothing of the unfinished update is lost by a pause, nor kept by a stop."""
        if self.processes.count == 1 and self._take_command() == "stop":
            self.host_gone = True
            raise StopRequested

    def _pause(self) -> str | None:
        """Free the GPU and wait. Returns "stop" if that is how the pause ended."""
        self._save()
        device = self.processes.device
        self._move(torch.device("cpu"))
        self._say("paused")
        while True:
            command = "stop" if self.host_gone else self.folder.command() if self.folder else "resume"
            if command in ("resume", "stop", "stop_now"):
                break
            time.sleep(0.2)
        if command == "stop_now":
            raise StopNow
        if command == "resume":
            self._move(device)
            self._say("training")
            return None
        return "stop"

    def _move(self, device: torch.device) -> None:
        self.engine.move(device)
        self.rewards.to(device)
        for judge in self.judges:
            judge.to(device)
        if self.processes.device.type == "cuda":
            torch.cuda.empty_cache()

    # --- files -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """A resumable state of the last complete update."""
        if not self.processes.is_main or (self.step == 0 and not self.history):
            return
        info = {
            "seed": self.config.seed,
            "samples": self.config.samples_per_step * self.processes.count,
            "calibration": self.rewards.calibration(),
            "history": [dataclasses.asdict(item) for item in self.history],
            "best": self.best,
        }
        path = checkpoint.save(self.engine.state(self.step, info), self._states)
        checkpoint.prune(self._states, self.config.checkpoints_total_limit, self.best[0] if self.best else None)
        self._event("checkpoint", step=self.step, path=path.name)

    def _save_images(self, images: Tensor, name: str) -> None:
        path = Path(self.config.output_dir) / "samples" / f"{name}.png"
        try:
            save_sheet(images, self.config.eval_seeds, path)
            self._event("samples", step=self.step, path=f"samples/{path.name}")
        except SaveError as error:  # pictures are not worth a run
            logger.warning("%s", error)

    def _event(self, kind: str, **data: Any) -> None:
        if self.folder:
            self.folder.event(kind, **data)

    def _say(self, state: str, **changes: Any) -> None:
        if self.folder:
            if self.folder.state != state:
                self.folder.event("state", state=state, step=self.step)
            self.folder.status(
                state=state, step=self.step, **{name: value for name, value in changes.items() if name != "step"}
            )

    def _fail(self, error: BaseException, hint: str) -> None:
        logger.error("%s", error)
        self._event("error", step=self.step, error=type(error).__name__, message=str(error), hint=hint)
        self._say("failed", message=str(error), hint=hint)
