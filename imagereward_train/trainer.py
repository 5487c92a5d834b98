"""The training loop. Reads top to bottom: setup → validate → update, update, … → test."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from imagereward_core import __version__
from imagereward_core.atomic import write_text
from imagereward_core.errors import ConfigError, TrainingError
from imagereward_core.log import logger
from imagereward_core.pipeline import ahead

from .batches import Collator, Plan
from .cache import FeatureCache, Progress
from .config import TrainConfig
from .dataset import DataSets, counts, load_datasets
from .dropout import apply_dropout
from .ema import Ema
from .evaluate import batch_loss, summarise, validate
from .export import save_checkpoint
from .freezing import HeadOnly, freeze
from .initial import initial_model
from .interruption import Interrupted, Interruption
from .launched import make_accelerator
from .records import Records, draw_curve
from .resume import Position, find_state, only_run, save_state
from .schedule import learning_rate
from .sharding import start_adam, whole_state
from .watch import Watch, no_better_than_chance

DISK = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Trainer:
    """One run. `progress(stage, done, total, seconds left)`; `should_stop()` is asked after every update; an
    `interruption` does not wait for its end, nor for a validation.
    """

    def __init__(
        self,
        config: TrainConfig,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
        interruption: Interruption | None = None,
    ):
        self.config, self.progress, self.should_stop, self.interruption = config, progress, should_stop, interruption
        self.folder = Path(config.savepath)
        self.accelerator = make_accelerator(config)
        found = find_state(config)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "config.json", json.dumps(config.to_dict(), indent=1) + "\n")
        if config.preload_path:  # it may bring an architecture of its own, whose image size the data is cached at
            self.net = initial_model(config)
            config = dataclasses.replace(config, model=self.net.config)
        with self.accelerator.main_process_first():
            self.data = load_datasets(config, self._main_progress)
        if (
            not config.preload_path
        ):  # after the data: what is wrong with that should show before gigabytes are downloaded
            self.net = initial_model(config)
        self.trained = freeze(self.net, config.fix_rate, config.fix_base)
        self.collate, self.collate_valid = self._collators(self.data)
        self._prepare()
        self.plan = Plan.of(config, self.data.train, self.accelerator.num_processes)
        self.updates = config.train_iters or config.epochs * self.plan.updates_per_epoch
        self.valid_every = max(1, self.plan.updates_per_epoch // config.valid_per_epoch)
        self.position = Position()
        if found is not None:
            self.accelerator.load_state(str(found[0]))
            if self.ema is not None:
                self.ema.load(found[0] / "ema.safetensors")
            self.position = found[1]
        self.watch = Watch(config.stall_steps, self.position.stalled, self.position.skipped)
        self.records = (
            Records(self.folder, config.tensorboard, None if found is None else self.position.update)
            if self.accelerator.is_main_process
            else None
        )
        self.started_at = None if found is None else self.position.update

    def _collators(self, data: DataSets) -> tuple[Collator, Collator]:
        features = None
        if self.config.fix_base:
            features = FeatureCache(data.pixels.store.folder.parent, self.net, data.pixels)
            with self.accelerator.main_process_first():
                features.store.reload()
                features.build(data.train + data.valid, self.accelerator.device, self._main_progress)
            self.net.to("cpu")
        tokens = self.net.config.max_tokens
        return Collator(data.train, data.pixels, tokens, features), Collator(
            data.valid, data.pixels, tokens, features, all_images=True
        )

    def _prepare(self) -> None:
        config = self.config
        apply_dropout(self.net, config.dropout)
        self.net.blip.visual_encoder.gradient_checkpointing = config.gradient_checkpointing
        self.net.blip.text_encoder.encoder.gradient_checkpointing = config.gradient_checkpointing
        # What is not trained at all needs no place on the device nor in the resume state.
        module: nn.Module = HeadOnly(self.net) if config.fix_base else self.net
        self.frozen = (
            {f"blip.{key}": tensor for key, tensor in self.net.blip.state_dict().items()} if config.fix_base else {}
        )
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        if not weights:
            raise ConfigError("nothing is left to train")
        optimizer = torch.optim.AdamW(
            weights, config.lr, (config.adam_beta1, config.adam_beta2), config.adam_eps, config.weight_decay
        )
        self.model, self.optimizer = self.accelerator.prepare(module, optimizer)
        if getattr(self.accelerator, "is_fsdp2", False):
            start_adam(self.optimizer)
        self.ema = Ema(self.accelerator.unwrap_model(self.model), config.ema) if config.ema else None

    def fit(self) -> Path:
        """Run to the end, early stop or `should_stop`; the path of the best checkpoint."""
        config, position = self.config, self.position
        logger.info(
            "%d of %d tensors train; %s; %d updates of %d %s",
            len(self.trained),
            sum(1 for _ in self.net.named_parameters()),
            ", ".join(f"{name} {dict(counts(getattr(self.data, name)))}" for name in ("train", "valid", "test")),
            self.updates,
            self.plan.total,
            "pairs" if config.rank_pair else "prompts",
        )
        if self.started_at is None:
            position.due = True
        try:
            with self._interruptible():
                self._train()
            if not self._interrupted():
                self._finish()
        except Interrupted:
            self.optimizer.zero_grad()
            save_state(self.folder, self.accelerator, position, config, self.ema)
        finally:
            if self.records is not None:
                self.records.close()
        return self.folder / "best.safetensors"

    def _train(self) -> None:
        """Update after update, to the end or until it is to stop."""
        config, position = self.config, self.position
        if position.due:
            self._validate()
        begun, first = time.monotonic(), position.update
        while position.update < self.updates and not (
            config.patience and position.without_improvement >= config.patience
        ):
            self._update()
            done = position.update - first
            self._main_progress(
                "updates",
                position.update,
                self.updates,
                (time.monotonic() - begun) / done * (self.updates - position.update),
            )
            position.due = position.update % self.valid_every == 0 or position.update == self.updates
            if self._interrupted():
                raise Interrupted
            stop = self._stop()
            if position.due:
                self._validate()
            elif stop or position.update % config.save_every == 0:
                save_state(self.folder, self.accelerator, position, self.config, self.ema)
            if stop:
                break

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Within, an interruption is noticed before every pass through the network; several processes notice it
        together, between updates.
        """
        if self.interruption is None:
            yield
            return
        hook = None
        if self.accelerator.num_processes == 1:
            hook = self.model.register_forward_pre_hook(self.interruption.check)
        self.interruption.training = True
        try:
            yield
        finally:
            self.interruption.training = False
            if hook is not None:
                hook.remove()

    def _interrupted(self) -> bool:
        """Whether any process was asked to end."""
        if self.interruption is None:
            return False
        asked = torch.tensor([float(self.interruption.asked)], device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            asked = self.accelerator.reduce(asked)
        return bool(asked.item())

    def _update(self) -> None:
        position, accelerator = self.position, self.accelerator
        rate = learning_rate(self.config, position.update, self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = self.plan.share(position.update, accelerator.process_index)
        total = sum(len(pairs) for _, pairs in self.plan.update(position.update))
        tally = torch.zeros(5, dtype=torch.float64)  # loss, right pairs, rewards, their sum, their squares' sum
        largest = torch.zeros(1, dtype=torch.float64)
        self.model.train()
        for index, batch in enumerate(ahead(parts, self.collate, workers=1)):
            batch = batch.to(accelerator.device)
            waiting = contextlib.nullcontext() if index == len(parts) - 1 else accelerator.no_sync(self.model)
            with waiting, self._randomness(index):
                with accelerator.autocast():  # FSDP2 has none of its own
                    loss, rewards = batch_loss(self.model, batch, total)
                accelerator.backward(
                    loss * accelerator.num_processes
                )  # processes' gradients are averaged: make it a sum
            r = rewards.detach().cpu().double()
            if len(batch.pairs):
                better, worse = r[batch.pairs.cpu()].unbind(-1)
                tally += torch.stack(
                    (loss.detach().cpu().double(), (better > worse).sum(), torch.tensor(len(r)), r.sum(), (r * r).sum())
                )
                largest = torch.maximum(largest, r.abs().max())
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm or float("inf"))
        self.optimizer.step()
        skipped = bool(
            self.optimizer.step_was_skipped
        )  # fp16: a gradient overflowed, the next loss scale is half this one
        self.optimizer.zero_grad()
        if self.ema is not None and not skipped:
            self.ema.update()
        self._record_update(rate, total, float(norm), tally, largest, skipped)

    def _record_update(
        self, rate: float, pairs: int, norm: float, tally: Tensor, largest: Tensor, skipped: bool
    ) -> None:
        position, accelerator = self.position, self.accelerator
        if accelerator.num_processes > 1:
            tally = accelerator.reduce(tally.to(accelerator.device)).cpu()
            largest = accelerator.gather(largest.to(accelerator.device)).max().cpu()
        loss, right, count, first, second = tally.tolist()
        spread = max(0.0, second / count - (first / count) ** 2) ** 0.5
        position.update += 1
        if self.records is not None:
            scale = {} if accelerator.scaler is None else {"scale": accelerator.scaler.get_scale(), "skipped": skipped}
            gradient = None if skipped else norm  # JSON knows no infinity
            self.records.write(
                "train",
                position.update,
                loss=loss,
                accuracy=right / pairs,
                lr=rate,
                grad_norm=gradient,
                spread=spread,
                pairs=pairs,
                **scale,
            )
        self.watch.check(position.update, loss, spread, float(largest), skipped)
        position.stalled, position.skipped = self.watch.stalled, self.watch.skipped

    @contextlib.contextmanager
    def _randomness(self, index: int) -> Iterator[None]:
        """Dropout drawn from the place in the run, not from what ran before: a resumed run draws the same."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(((self.config.seed * 1_000_003 + self.position.update) * 8191 + index) * world + rank)
            yield

    def _validate(self) -> None:
        position, config = self.position, self.config
        with self.ema.applied() if self.ema is not None else contextlib.nullcontext():
            result = validate(self.model, self.collate_valid, self.accelerator, config.batch_size)
            state = {**self.frozen, **whole_state(self.accelerator, self.model)}
        logger.info(
            "update %d: validation loss %.4f, accuracy %.4f, rewards %.3f ± %.3f",
            position.update,
            result.loss,
            result.accuracy,
            result.mean,
            result.std,
        )
        if result.loss != result.loss:
            raise TrainingError(
                f"the validation loss is NaN at update {position.update}: lower lr, or set max_grad_norm 1"
            )
        position.validations += 1
        value = -result.loss if config.best_by == "loss" else result.accuracy
        improved = position.best is None or value > position.best
        position.without_improvement = 0 if improved else position.without_improvement + 1
        if improved:
            position.best, position.best_update, position.best_accuracy = value, position.update, result.accuracy
        if self.records is not None:
            facts = {
                "update": position.update,
                **dataclasses.asdict(result),
                "train": dict(counts(self.data.train)),
                "version": __version__,
            }
            self.records.write("valid", position.update, **dataclasses.asdict(result))
            for name in ("last", "best") if improved else ("last",):
                save_checkpoint(
                    self.folder / f"{name}.safetensors", state, self.net.config, result.mean, result.std, facts
                )
        position.due = False
        save_state(self.folder, self.accelerator, position, self.config, self.ema)

    def _finish(self) -> None:
        """Test the best checkpoint through the same door scoring uses, write result.json, draw the curve."""
        if self.accelerator.is_main_process:
            result: dict[str, Any] = {
                "updates": self.position.update,
                "best_update": self.position.best_update,
                "best": str(self.folder / "best.safetensors"),
                "best_accuracy": self.position.best_accuracy,
                "processes": self.accelerator.num_processes,
            }
            found = {"validation": (self.position.best_accuracy, sum(len(item.pairs) for item in self.data.valid))}
            if self.data.test:
                tested = result["test"] = self._test()
                found["test"] = (tested["accuracy"], tested["pairs"])
            if warning := no_better_than_chance(found, self.position.validations + len(found) - 1):
                result["warning"] = warning
                logger.warning("%s", warning)
            write_text(self.folder / "result.json", json.dumps(result, indent=1) + "\n")
            if self.config.curve:
                draw_curve(self.folder / "metrics.jsonl", self.folder / "curve.png")
        self.accelerator.wait_for_everyone()

    def _test(self) -> dict[str, Any]:
        from imagereward_core.scorers.imagereward import load_imagereward

        scorer = load_imagereward(self.folder / "best.safetensors", device=self.accelerator.device, precision="fp32")
        rewards = [scorer.score_pairs([item.prompt] * len(item.images), list(item.images)) for item in self.data.test]
        values = dataclasses.asdict(summarise(self.data.test, rewards))
        logger.info("test of the best checkpoint: accuracy %.4f on %d pairs", values["accuracy"], values["pairs"])
        return {key: values[key] for key in ("accuracy", "pairs")}

    def _stop(self) -> bool:
        if self.should_stop is None:
            return False
        if self.should_stop():
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _main_progress(self, stage: str, done: int, total: int, left: float) -> None:
        if self.progress is not None and self.accelerator.is_main_process:
            self.progress(stage, done, total, left)


def train(
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    interruption: Interruption | None = None,
) -> Path:
    """Train a reward model and return the path of the best checkpoint, `savepath`/best.safetensors.

    Also in savepath: last.safetensors, metrics.jsonl, config.json, result.json, curve.png, tensorboard/ and state/
    (resume). After an `interruption` the state of the last complete update is saved, and nothing else is done. Raises
    ConfigError, DataError, TrainingError (also where another run is training in savepath),
    ModelNotFoundError.
    """
    try:
        with only_run(config):
            return Trainer(config, progress, should_stop, interruption).fit()
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in DISK:
            raise
        raise TrainingError(
            f"a file of the run in {config.savepath} cannot be written: {error}. Free space or choose another savepath;"
            " what was saved before is intact"
        ) from error
