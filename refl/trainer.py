"""A whole run: set up, train, evaluate, save, obey commands, stop in time, export, report."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imagereward_core.runs import Command, EventKind, Name, State

from . import checkpoint, kept, output
from .backend import Backend
from .config import ReFLConfig
from .control import Control, StopNow, StopReason, StopRequested
from .dial import Dial, turn
from .distributed import Processes
from .engine import UpdateStats
from .errors import CheckpointError, ReFLError
from .journal import Journal
from .log import kept_in, logger
from .metrics import Evaluation, StopRule, changes
from .preparation import Given, Preparation
from .report import write_report
from .rewards import DifferentiableScorer, RewardMix
from .runfiles import RunFolder


@dataclass(frozen=True)
class RunResult:
    """How a run ended: "finished", "stopped" (resumable) or "stop_rule"; the exported file or folder, if any."""

    state: str
    step: int
    reason: str
    exported: Path | None
    evaluations: list[Evaluation]


class Trainer:
    """`Trainer(checkpoint, prompts, args=parse_args()).train()`; backend, rewards and judges may be passed in.

    name_reserved: the result's name was promised to this run when it was queued; a file that has appeared since makes
    it `name-2` instead of refusing the run.
    """

    def __init__(
        self,
        pretrained_model_name_or_path: str | os.PathLike[str] = "",
        train_data: str | os.PathLike[str] = "",
        args: ReFLConfig | None = None,
        *,
        backend: Backend | None = None,
        rewards: RewardMix | None = None,
        judges: Sequence[DifferentiableScorer] | None = None,
        name_reserved: bool = False,
    ):
        given = {"pretrained_model_name_or_path": pretrained_model_name_or_path, "train_data": train_data}
        own: dict[str, Any] = {name: os.fspath(value) for name, value in given.items() if value}
        self.asked = dataclasses.replace(args or ReFLConfig(), **own)
        self._given = Given(backend, rewards, judges, name_reserved)
        self.control, self.journal = Control(), Journal()
        self._interruptible = False
        self._held = ""  # why the stop rule asked for a pause
        self._wants_dial = False
        self.dial: Dial | None = None
        self.step = 0
        self._sampling, self._samples = -1, 0  # the update that is being made, and how many of its samples are
        self.history: list[Evaluation] = []
        self.best: tuple[int, float] | None = None
        self._written: dict[int, Path] = {}

    # --- a run -----------------------------------------------------------------------------------------------------

    def train(self, args: ReFLConfig | None = None) -> RunResult:
        """Run to the end. Raises ReFLError for what the user can act on; the event log names it too."""
        if args is not None:
            own = {name: getattr(self.asked, name) for name in ("pretrained_model_name_or_path", "train_data")}
            self.asked = dataclasses.replace(args, **{name: value for name, value in own.items() if value})
        self.processes = Processes(self.asked.device)
        with RunFolder(self.asked.output_dir) if self.processes.is_main else nullcontext() as folder:
            self.journal = Journal(folder)
            self.control.listen_to(folder, alone=self.processes.count == 1)
            with kept_in(folder.path / Name.LOG) if folder else nullcontext():
                with self.journal.reporting():
                    result = self._run()
                message = " ".join(filter(None, (result.reason, *self.journal.notes)))
                self.journal.say(State(result.state), message=message, result=str(result.exported or ""))
            return result

    def _run(self) -> RunResult:
        try:
            self._setup()
            return self._fit()
        except StopNow:
            return RunResult(State.STOPPED.value, self.step, "stopped at once", None, self.history)
        except StopRequested:  # before the first update
            return self._left()
        except Exception:
            # a library, in whose middle the stop was raised, may have made an error of its own of it
            if not self._interruptible or self.control.stopping is not StopReason.SIGNAL:
                raise
            return self._left()
        finally:
            self._interruptible = False
            self.journal.tracker.close()

    def _left(self) -> RunResult:
        reason = (self.control.stopping or StopReason.SIGNAL).value
        return RunResult(State.STOPPED.value, self.step, reason, None, self.history)

    def request_stop(self, reason: StopReason = StopReason.HOST_ENDED) -> None:
        """Save and stop at the next micro-step; may be called from another thread."""
        self.control.stop(reason)

    def interrupt(self) -> None:
        """Save and stop as soon as possible, from a signal handler. While there is nothing to save, leave at once."""
        self.control.stop(StopReason.SIGNAL)
        if self._interruptible:
            raise StopRequested

    def _setup(self) -> None:
        self._interruptible = True
        if self.control.stopping is StopReason.SIGNAL:  # it came while the run's folder was being opened
            raise StopRequested
        self.journal.say(State.PREPARING)
        made = Preparation(self.asked, self.processes, self.control, self.journal, self._given)
        made.run(self._pause_point)
        self.asked, self.config, self.backend = made.asked, made.config, made.backend
        self.prompts, self.picks = made.prompts, made.picks
        self.rewards, self.judges, self.engine, self.evaluator = made.rewards, made.judges, made.engine, made.evaluator
        if self.processes.is_main:
            self.base = made.base
        self._resume()  # last: until here the UNet is the base model
        if self.processes.is_main:
            made.keep_settings()  # no saved state has refused them
        self._interruptible = False

    def _at(self, step: int) -> None:
        self.step = self.journal.step = step

    @property
    def _states(self) -> Path:
        return Path(self.config.output_dir) / Name.CHECKPOINTS

    def _resume(self) -> None:
        wanted = self.config.resume_from_checkpoint
        if wanted == "latest":
            found = checkpoint.load_newest(self._states)
            if found is None:
                logger.info("there is no saved state in %s yet: starting from the beginning", self._states)
            else:
                self._take_over(*found)
        elif wanted:
            self._take_over(checkpoint.load(Path(wanted)), [])
        if not self.history and self.processes.is_main:
            self.history = [self.base]
            self.journal.event(EventKind.EVALUATION, **self.base.summary())

    def _kept(self) -> dict[str, Any]:
        return kept.of(self.config, self.picks, self.config.samples_per_step * self.processes.count)

    def _take_over(self, state: checkpoint.TrainingState, torn: list[str]) -> None:
        info = state.info
        kept.check(info, self._kept())
        try:
            self.engine.restore(state)
            self.rewards.restore(info["calibration"])
            self.history = [Evaluation(**item) for item in info["history"]]
            self.best = (int(info["best"][0]), float(info["best"][1])) if info["best"] else None
        except (KeyError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, ReFLError):
                raise
            raise CheckpointError(f"the saved state of update {state.step} cannot be taken over: {error!r}") from error
        self._at(state.step)
        for text in torn:
            self.journal.note(f"{text}. Resumed from update {self.step}, the last sound state.")
        self.journal.event(EventKind.RESUMED, **({"torn": torn} if torn else {}))

    # --- the loop --------------------------------------------------------------------------------------------------

    def _fit(self) -> RunResult:
        config = self.config
        started, done = time.monotonic(), self.step
        self.journal.say(State.TRAINING, max_steps=config.max_train_steps, message="")
        try:
            if self._evaluation_is_due():
                outcome = self._after_update()
                if outcome:
                    return outcome
            while self.step < config.max_train_steps:
                if self.processes.agree(self._obey()):
                    return self._stop()
                stats = self.engine.update(self.step)
                self._at(self.step + 1)
                self._log_step(stats, (time.monotonic() - started) / (self.step - done))
                outcome = self._after_update()
                if outcome:
                    return outcome
                self.journal.say(State.TRAINING)
        except StopRequested:  # the unfinished update or evaluation is given up
            return self._stop()
        return self._finish(State.FINISHED, "")

    def _evaluation_is_due(self) -> bool:
        """Whether the last update lacks its evaluation, which a stop has cut off."""
        last = max((item.step for item in self.history), default=0)
        due = last < self.step and (self.step % self.config.eval_steps == 0 or self.step == self.config.max_train_steps)
        return bool(self.processes.agree(due))

    def _after_update(self) -> RunResult | None:
        """Evaluate and save if it is time; the result if the stop rule ends the run."""
        config, last = self.config, self.step == self.config.max_train_steps
        verdict, improved = "", False
        if last or self.step % config.eval_steps == 0:
            verdict, improved = self.processes.agree(self._evaluate() if self.processes.is_main else None)
        if last or improved or verdict or self.step % config.checkpointing_steps == 0:
            self._save()
        if verdict and config.stop_rule == "stop":
            return self._finish(State.STOP_RULE, verdict)
        if verdict and config.stop_rule == "pause":
            if last:  # nothing is left to pause
                return self._finish(State.FINISHED, verdict)
            self._hold(verdict)
        return None

    def _log_step(self, stats: UpdateStats, seconds: float) -> None:
        cuda = self.processes.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
        data = {**dataclasses.asdict(stats), "seconds_per_update": round(seconds, 3), "peak_memory_gib": peak}
        self.journal.event(EventKind.STEP, **data)
        left = (self.config.max_train_steps - self.step) * seconds
        self.journal.say(State.TRAINING, reward=stats.reward, loss=stats.loss, seconds_left=round(left), message="")

    def _evaluate(self) -> tuple[str, bool]:
        """(verdict of the stop rule, whether this is the best so far)."""
        self.journal.say(State.EVALUATING)
        with self.engine.averaged():
            images, _ = self.evaluator.draw()
            result = self.evaluator.evaluate(self.step, images, self.evaluator.score(images))
        self.history.append(result)
        config, verdict = self.config, ""
        if config.stop_rule != "off":
            verdict = self._rule.verdict(self.base, result)
            verdict = "; ".join(filter(None, [verdict, *self._failures(result)]))
        improved = not verdict and (self.best is None or result.reward > self.best[1])
        if improved:
            self.best = (self.step, result.reward)
        told = changes(self.base, result)
        self.journal.event(EventKind.EVALUATION, **result.summary(), verdict=verdict, changes=told)
        self.journal.pictures(images, self.config.eval_seeds, f"step-{self.step:06d}")
        return verdict, improved

    @property
    def _rule(self) -> StopRule:
        return StopRule(self.config.min_diversity, self.config.max_eps_mse, self.config.max_inflation)

    def _failures(self, result: Evaluation) -> list[str]:
        """What the judges say that could not score this evaluation's pictures."""
        failed = [judge for judge in self.judges if judge.failure and math.isnan(result.judges[judge.name])]
        return [f"{judge.name} failed with {judge.failure}" for judge in failed]

    # --- the end ---------------------------------------------------------------------------------------------------

    def _finish(self, state: State, reason: str) -> RunResult:
        """Export the best evaluated weights (the last ones if none were sound) and write the report."""
        exported = None
        if self.processes.is_main:
            self._wants_dial = self.config.dial and self.config.output == "lora"
            if reason:
                exported, advice = self._rescue(state, reason)
                reason += f". {advice}"
                self.journal.event(EventKind.STOP_RULE, reason=reason)
            else:
                self.journal.note(self._nothing_gained())
                exported = self._export(self.best[0] if self.best else self.step, state, reason)
        return RunResult(state.value, self.step, reason, exported, self.history)

    def _nothing_gained(self) -> str:
        """What to say where no evaluation was better than the base model; empty where one was."""
        if self.best is None or self.best[1] > self.base.reward:
            return ""
        held_out = "picks" if self.config.learns_picks else "prompts"
        return (
            f"No evaluation did better on held-out {held_out} than the base model ({self.base.reward:.3f}): the result,"
            f" update {self.best[0]} ({self.best[1]:.3f}), is the least bad and nothing to use."
        )

    def _stop(self) -> RunResult:
        """Save the state. Whoever stops early wants what there is, so the best evaluated weights are exported too, or
        the present ones if none were; not after a signal, which leaves seconds.
        """
        self._save()
        reason = self.control.stopping or StopReason.COMMAND
        exported = None
        if self.processes.is_main:
            if self.step == 0:
                self.journal.note("No update was complete, so there is nothing to write yet.")
            elif reason is StopReason.SIGNAL:
                self.journal.note("`python -m refl export` writes the result so far.")
            else:
                exported = self._export_stopped()
        return RunResult(State.STOPPED.value, self.step, reason.value, exported, self.history)

    def _export_stopped(self) -> Path:
        if self.best:
            return self._export(self.best[0], State.STOPPED, "")
        seen = any(item.step for item in self.history)
        why = "no evaluation so far was sound" if seen else "no evaluation has been made yet"
        reason = f"The result is update {self.step}, which nothing vouches for: {why}."
        self.journal.note(reason)
        return self._export(self.step, State.STOPPED, reason)

    def _hold(self, verdict: str) -> None:
        """The stop rule asks for a pause: the best weights so far are exported, and the run waits to be told what to
        do.
        """
        if not self.processes.is_main:
            return
        exported, advice = self._rescue(State.PAUSED, verdict)
        # exporting took over the best state
        self.engine.restore(checkpoint.load(self._states / f"step-{self.step:06d}"))
        reason = f"Paused: {verdict}. {advice} Resume goes on all the same, Stop ends the run."
        self.journal.event(EventKind.STOP_RULE, reason=reason)
        self.journal.say(State.TRAINING, message=reason, result=str(exported))
        self._held = reason
        self.control.ask(Command.PAUSE)

    def _rescue(self, state: State, reason: str) -> tuple[Path, str]:
        """(what was exported, what to tell the user) when the stop rule speaks."""
        if self.best is None:
            advice = (
                f"No evaluation before that was sound: the result is update {self.step} itself, probably worse than the"
                " base model."
            )
            return self._export(self.step, state, reason), advice + " Lower the learning rate or strengthen the anchor."
        return self._export(self.best[0], state, reason), f"The result is update {self.best[0]}, the best before that."

    def _export(self, chosen: int, state: State, reason: str) -> Path:
        """Export the averaged weights of update `chosen` and write the report. The engine then holds that update's
        state. What this process has exported before is not written twice.
        """
        self.journal.say(State.EXPORTING)
        chosen = self._take_back(chosen)
        exported = self._written.get(chosen)
        if exported is None or not exported.exists():
            with self.engine.averaged():
                self.dial = self._turn_dial(chosen)
                exported, note = output.write(self.asked, self.backend, chosen, self.dial)
            self._written[chosen] = exported
            self.journal.note(note)
            self.journal.event(EventKind.EXPORTED, exported_step=chosen, path=str(exported))
        folder = Path(self.config.output_dir)
        write_report(folder, self.asked, self.base, self.history, chosen, state.value, reason, self.prompts, self.dial)
        return exported

    def _turn_dial(self, chosen: int) -> Dial | None:
        """Measure the result at several strengths where the run has come to its end; whoever stops it does not wait."""
        if not self._wants_dial:
            return None
        self.journal.say(State.EVALUATING, message="measuring the LoRA at several strengths")
        whole = next((item for item in self.history if item.step == chosen and item.step), None)
        stopping = lambda: self.control.stopping is not None  # noqa: E731
        try:
            dial = turn(self.backend, self.evaluator, self._rule, self.base, whole, stopping)
        except StopRequested:
            return None
        if dial is not None:
            self.journal.event(EventKind.DIAL, use=dial.use, marks=dial.rows(), exported_step=chosen)
            self.journal.tell(dial.advice)
        self.journal.say(State.EXPORTING, message="")
        return dial

    def _take_back(self, chosen: int) -> int:
        """Put the weights of update `chosen` into the engine; the present ones stay if its state is gone or torn."""
        if chosen == self.step:
            return chosen
        try:
            self.engine.restore(checkpoint.load(self._states / f"step-{chosen:06d}"))
        except CheckpointError as error:
            self.journal.note(
                f"The best state, of update {chosen}, is lost ({error}): the result is update {self.step}."
            )
            return self.step
        return chosen

    # --- commands --------------------------------------------------------------------------------------------------

    def _obey(self) -> bool:
        """Do what was asked for; returns whether the run is to end."""
        command = self.control.next()
        if command is Command.SAVE:
            self._save()
        elif command is Command.SAMPLE:
            with self.engine.averaged():
                self.journal.pictures(self.evaluator.draw()[0], self.config.eval_seeds, f"step-{self.step:06d}-now")
        elif command is Command.PAUSE:
            command = self._pause()
        if command in (Command.SAVE, Command.SAMPLE, Command.RESUME):
            self.journal.say(State.TRAINING, message="")
        return command is Command.STOP

    def _pause_point(self, step: int) -> None:
        """Between micro-steps. Nothing of the unfinished update is lost by a pause, nor kept by a stop."""
        self._samples = self._samples + self.config.train_batch_size if self._sampling == step else 0
        self._sampling = step
        if self.processes.count == 1 and self._obey():
            raise StopRequested
        self.journal.progress(self._samples, self.config.samples_per_step)  # anew after a pause, whose state has none

    def _pause(self) -> Command:
        """Free the GPU and wait. Returns RESUME or STOP, whichever ended the pause."""
        self._save()
        self._move(torch.device("cpu"))
        self.journal.say(State.PAUSED, message=self._held)
        self._held = ""
        command = self.control.wait_for_end_of_pause()
        if command is Command.RESUME:
            self._move(self.processes.device)
        return command

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
            **self._kept(),
            "calibration": self.rewards.calibration(),
            "history": [dataclasses.asdict(item) for item in self.history],
            "best": self.best,
        }
        path = checkpoint.save(self.engine.state(self.step, info), self._states)
        checkpoint.prune(self._states, self.config.checkpoints_total_limit, self.best[0] if self.best else None)
        self.journal.event(EventKind.CHECKPOINT, path=path.name)
