"""One update: samples → losses → averaged, clipped gradients → optimizer → moving average. No files, no commands."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import lora
from .anchor import AnchorSet
from .backend import Backend
from .checkpoint import TrainingState
from .conditioning import Conditioning
from .control import StopRequested
from .data import sample_prompt
from .distributed import Processes
from .errors import CheckpointError, TrainingDiverged
from .losses import Batch, LossTerm, Reward, RewardLoss, denoising_loss
from .picks import EncodedPicks
from .preference import PickLoss
from .quantised import bitsandbytes, move
from .resolved import ResolvedConfig
from .rollout import Rollout, SampleNoise

LAST_RATE = 1e-7  # where a polynomial schedule ends, as in diffusers


class PromptTable:
    """Conditionings of prompts, kept on the CPU so that the text encoders can be dropped."""

    def __init__(self, backend: Backend, prompts: Sequence[str], resolution: int, device: torch.device):
        unique = list(dict.fromkeys(prompts))
        if backend.text is None:
            raise CheckpointError("the text encoder was dropped already")
        rows = [backend.text.encode(unique[at : at + 16], resolution).to("cpu") for at in range(0, len(unique), 16)]
        self._rows = Conditioning.cat(rows)
        self._index = {prompt: index for index, prompt in enumerate(unique)}
        self.device = device

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The conditionings of some prompts, on the device."""
        return self._rows.rows([self._index[prompt] for prompt in prompts]).to(self.device)


@dataclass(frozen=True)
class UpdateStats:
    """Means over all samples of an update, of all processes."""

    loss: float
    reward: float
    reward_std: float
    anchor: float
    grad_norm: float
    lr: float


class Engine:
    """Trains `backend.unet` to please `reward`, or to follow `picks`. `check()` is called between UNet calls,
    `pause_point(step)` between micro-steps.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        backend: Backend,
        reward: Reward,
        prompts: Sequence[str],
        table: PromptTable,
        processes: Processes,
        check: Callable[[], None] | None = None,
        pause_point: Callable[[int], None] | None = None,
        picks: EncodedPicks | None = None,
    ):
        self.config, self.backend, self.reward, self.prompts, self.table, self.processes = (
            config,
            backend,
            reward,
            list(prompts),
            table,
            processes,
        )
        self.device = processes.device
        self.seed = config.seed
        self.pause_point = pause_point or _no_pause
        self.anchor_set: AnchorSet | None = None
        self.anchor_weight: float | None = None if config.anchor_measured else config.anchor_weight
        self.params = self._make_trainable()
        self.base_copy: dict[str, Tensor] = {}
        if config.tune == "full" and (config.anchor == "kl" or config.learns_picks or config.base_steps):
            self.base_copy = {name: parameter.detach().clone() for name, parameter in self.params.items()}
        self.optimizer = self._optimizer()
        self.ema = (
            {name: parameter.detach().clone().float() for name, parameter in self.params.items()}
            if config.use_ema
            else {}
        )
        self.scaler = _scaler(config.mixed_precision == "fp16" and self.device.type == "cuda")
        self.rollout = Rollout(
            backend,
            config.num_inference_steps,
            config.guidance_scale,
            config.eta,
            check,
            config.base_steps,
            self.base_model,
        )
        uncond = table([config.negative_prompt]) if config.guidance_scale > 1 else None
        self.loss = RewardLoss(config, self.rollout, reward, uncond, self.base_model)
        self.picks = picks
        self.pick_loss = PickLoss(self.rollout, table, config.dpo_beta, self.base_model) if picks else None

    def _make_trainable(self) -> dict[str, nn.Parameter]:
        config, unet = self.config, self.backend.unet
        if config.tune == "lora" and not lora.layers(unet):
            family = self.backend.family
            lora.inject(unet, config.lora_rank, config.lora_alpha, config.lora_targets, self.seed, family)
        elif config.tune == "full":
            unet.requires_grad_(True)
        if next(unet.parameters()).device != self.device:
            move(unet, self.device)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()  # type: ignore[operator]
        if config.vae_checkpointing and getattr(self.backend.vae, "_supports_gradient_checkpointing", False):
            self.backend.vae.enable_gradient_checkpointing()  # type: ignore[operator]
        # older diffusers checkpoint activations in training mode only; nothing in these networks drops out
        unet.train()
        self.backend.vae.train()
        return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        kind: Any = torch.optim.AdamW
        if config.use_8bit_adam:
            kind = bitsandbytes("use_8bit_adam").optim.AdamW8bit
        betas = (config.adam_beta1, config.adam_beta2)
        return kind(
            list(self.params.values()),
            lr=self.learning_rate(0),
            betas=betas,
            eps=config.adam_epsilon,
            weight_decay=config.adam_weight_decay,
        )

    def learning_rate(self, step: int) -> float:
        """The learning rate of update `step` (from 0)."""
        config = self.config
        rate = config.learning_rate
        if config.scale_lr:
            rate *= config.samples_per_step * self.processes.count
        warmup = 0 if config.lr_scheduler == "constant" else config.lr_warmup_steps
        if step < warmup:
            return rate * (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(config.max_train_steps - warmup, 1)
        if config.lr_scheduler == "linear":
            return rate * max(1 - progress, 0.0)
        if config.lr_scheduler.startswith("cosine"):  # the reference's restarts are one cycle
            return rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        if config.lr_scheduler == "polynomial":  # of the first degree, as the reference asks diffusers for it
            return LAST_RATE + max(rate - LAST_RATE, 0.0) * max(1 - progress, 0.0)
        return rate

    def sample_numbers(self, step: int) -> range:
        """Numbers of the training samples that this process sees in update `step`."""
        own = self.config.samples_per_step
        start = step * own * self.processes.count + self.processes.rank * own
        return range(start, start + own)

    def prompt_of(self, sample: int) -> str:
        """The prompt of a training sample."""
        return self.prompts[sample_prompt(self.seed, len(self.prompts), sample)]

    # --- one update ------------------------------------------------------------------------------------------------

    def update(self, step: int) -> UpdateStats:
        """Train on the samples of update `step`. Raises TrainingDiverged for NaN or infinite losses and gradients."""
        if self.config.is_paper and self.anchor_set:
            return self._two_updates(step)
        return self._update(step)

    def _two_updates(self, step: int) -> UpdateStats:
        """Algorithm 1 of the paper alternates an update of the anchor and one of the reward. Between them nothing can
        be saved, and a stop takes the first one back.
        """
        before = copy.deepcopy(self.state(step, {}))
        self.optimizer.zero_grad(set_to_none=True)
        self._anchor_gradients(step, self.anchor_weight if self.anchor_weight is not None else 1.0)
        self._apply(step)
        pause_point, self.pause_point = self.pause_point, _no_pause
        try:
            return self._update(step)
        except StopRequested:
            self.restore(before)
            raise
        finally:
            self.pause_point = pause_point

    def _update(self, step: int) -> UpdateStats:
        self.optimizer.zero_grad(set_to_none=True)
        losses, rewards, anchors = self._reward_gradients(step)
        if self.anchor_set and not self.config.is_paper:
            anchors = self._add_anchor(step)
        norm = self._apply(step)
        if self.ema:
            self._average_weights(step)
        loss, reward, anchor = (
            self.processes.gather(torch.tensor(values, device=self.device)).float().cpu()
            for values in (losses, rewards, anchors)
        )
        return UpdateStats(
            float(loss.mean()),
            float(reward.mean()),
            float(reward.std(unbiased=False)),
            float(anchor.mean()),
            norm,
            self.learning_rate(step),
        )

    def _reward_gradients(self, step: int) -> tuple[list[float], list[float], list[float]]:
        losses, rewards, anchors = [], [], []
        for numbers in self._micro_batches(step):
            self.pause_point(step)
            total = 0.0
            for term in self._terms(numbers):
                if not torch.isfinite(term.loss):
                    raise TrainingDiverged(
                        f"the loss became {float(term.loss)} at update {step + 1} (rewards {term.reward.tolist()})"
                    )
                self.scaler.scale(term.loss / self.config.gradient_accumulation_steps).backward()
                total += float(term.loss.detach())
                rewards += term.reward.float().cpu().tolist()
                anchors.append(float(term.anchor))
            losses.append(total)
        return losses, rewards, anchors

    def _terms(self, numbers: Sequence[int]) -> Iterator[LossTerm]:
        """The graphs of these training samples."""
        if self.picks is not None and self.pick_loss is not None:
            return self.pick_loss.terms(self.picks.draw(numbers, self.seed, self.device))
        names = [self.prompt_of(number) for number in numbers]
        batch = Batch(names, self.table(names), [SampleNoise(self.seed, number) for number in numbers])
        return self.loss.terms(batch, self.device)

    def _micro_batches(self, step: int) -> Iterator[list[int]]:
        numbers, size = list(self.sample_numbers(step)), self.config.train_batch_size
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]

    def _anchor_gradients(self, step: int, weight: float) -> list[float]:
        values = []
        for numbers in self._micro_batches(step):
            self.pause_point(step)
            x0, captions, t, noise = self.anchor_set.draw(numbers, self.seed, self.device)  # type: ignore[union-attr]
            loss = denoising_loss(self.rollout, x0, self.table(captions), t, noise, self.config.snr_gamma).mean()
            if not torch.isfinite(loss):
                raise TrainingDiverged(f"the anchor loss became {float(loss)} at update {step + 1}")
            self.scaler.scale(loss * weight / self.config.gradient_accumulation_steps).backward()
            values.append(float(loss.detach()))
        return values

    def _add_anchor(self, step: int) -> list[float]:
        if self.anchor_weight is not None:
            return self._anchor_gradients(step, self.anchor_weight)
        # first update: weigh the anchor so that its gradient is anchor_ratio times the reward's
        self.processes.average(self._gradients())
        reward_gradients = [gradient.clone() for gradient in self._gradients()]
        self.optimizer.zero_grad(set_to_none=True)
        values = self._anchor_gradients(step, 1.0)
        self.processes.average(self._gradients())
        anchor_norm = _norm(self._gradients())
        if not anchor_norm > 0:
            raise TrainingDiverged("the anchor has no gradient: its images or captions are empty")
        self.anchor_weight = self.config.anchor_ratio * _norm(reward_gradients) / anchor_norm
        for gradient, reward in zip(self._gradients(), reward_gradients):
            gradient.mul_(self.anchor_weight).add_(reward)
        return values

    def _gradients(self) -> list[Tensor]:
        for parameter in self.params.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.params.values()]  # type: ignore[misc]

    def _apply(self, step: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.processes.average(self._gradients())
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.params.values()), self.config.max_grad_norm))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise TrainingDiverged(f"the gradient became {norm} at update {step + 1}")
        self.scaler.step(self.optimizer)  # with fp16 an overflowing update is skipped and the scale lowered
        self.scaler.update()
        return norm if math.isfinite(norm) else 0.0

    # --- weights ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _average_weights(self, step: int) -> None:
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        for name, parameter in self.params.items():
            self.ema[name].lerp_(parameter.float(), 1 - decay)

    @contextlib.contextmanager
    def _holding(self, weights: dict[str, Tensor]) -> Iterator[None]:
        # storages are exchanged, not overwritten: a graph built outside keeps the weights it was built with
        kept = {name: self.params[name].data for name in weights}
        for name, tensor in weights.items():
            self.params[name].data = tensor.to(kept[name].dtype)
        try:
            yield
        finally:
            for name, tensor in kept.items():
                self.params[name].data = tensor

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within, the UNet has the averaged weights, which are what is evaluated and exported."""
        return self._holding(self.ema) if self.ema else contextlib.nullcontext()

    def base_model(self) -> contextlib.AbstractContextManager[None]:
        """Within, the UNet answers as the untrained model."""
        if self.config.tune == "lora":
            return lora.disabled(self.backend.unet)
        return self._holding(self.base_copy)

    def state(self, step: int, info: dict[str, Any]) -> TrainingState:
        """Everything needed to go on after `step` updates."""
        weights = {name: parameter.detach().cpu() for name, parameter in self.params.items()}
        ema = {name: tensor.cpu() for name, tensor in self.ema.items()}
        extra = {
            "anchor_weight": self.anchor_weight,
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else {},
        }
        return TrainingState(step, weights, ema, self.optimizer.state_dict(), {**info, **extra})

    def restore(self, state: TrainingState) -> None:
        """Take over a saved state. CheckpointError if it is of another run or lacks what an optimizer needs."""
        lora.assign(self.backend.unet, state.weights)
        if self.ema:
            self.ema = {name: tensor.to(self.device) for name, tensor in (state.ema or state.weights).items()}
        try:
            self.optimizer.load_state_dict(state.optimizer)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the optimizer's state of update {state.step} is damaged: {error}") from error
        self.anchor_weight = state.info["anchor_weight"]
        if state.info["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state.info["scaler"])

    def move(self, device: torch.device) -> None:
        """Move models, averages and optimizer, to free a GPU while paused and to take it back."""
        self.backend.to(device)
        self.ema = {name: tensor.to(device) for name, tensor in self.ema.items()}
        self.base_copy = {name: tensor.to(device) for name, tensor in self.base_copy.items()}
        for entry in self.optimizer.state.values():
            for key, value in entry.items():
                if isinstance(value, Tensor) and key != "step":
                    entry[key] = value.to(device)


def _no_pause(step: int) -> None:
    """For engines that nobody controls."""


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.float().square().sum()) for tensor in tensors))


def _scaler(enabled: bool) -> Any:
    kind = getattr(torch.amp, "GradScaler", None)
    return kind("cuda", enabled=enabled) if kind else torch.cuda.amp.GradScaler(enabled=enabled)
