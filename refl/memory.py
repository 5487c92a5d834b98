"""How much memory a run needs, computed before it starts.

The real training step runs on fake tensors (shapes without data), while every storage that comes to life and dies is
counted. So the estimate follows whatever the code does, for any architecture and setting; there is no table to go
stale. Not visible to it: the CUDA context, library workspaces and fragmentation, for which OVERHEAD is added.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from . import lora
from .backend import Backend, open_model, vae_config
from .checkpoints.modules import empty
from .config import ReFLConfig
from .distributed import Processes
from .errors import CheckpointError
from .families.base import Family
from .picks import EncodedPicks, Pick
from .quantised import hollow
from .resolved import ResolvedConfig, resolve
from .settings import Settings

GIB = 2**30
OVERHEAD = 1.25 * GIB


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes. `tensors` is the peak of one update, `total` adds what no tensor shows; `free` is None without a GPU."""

    weights: int
    tensors: int
    total: int
    free: int | None
    unet_calls: int

    @property
    def fits(self) -> bool | None:
        """Whether the run fits into what is free now."""
        return None if self.free is None else self.total <= self.free

    def sentence(self) -> str:
        """For people: "needs 5.5 GB, free 7.2 GB"."""
        free = "" if self.free is None else f", free {self.free / GIB:.1f} GB"
        return f"needs {self.total / GIB:.1f} GB{free}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "fits": self.fits, "text": self.sentence()}


def _objects_last() -> bool:
    """Whether a storage keeps its Python object as long as it lives itself."""
    tensor = torch.zeros(1)
    return tensor.untyped_storage() is tensor.untyped_storage()


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of living storages. Each is seen when an operation returns it, and dies with its last tensor.

    Before torch 2.2 a storage's Python object dies before the storage does, so its end cannot be waited for. There the
    dead are looked for whenever the sum is about to exceed the peak, which gives the same figures more slowly.
    """

    def __init__(self, lasting: bool | None = None) -> None:
        super().__init__()
        self.peak = 0
        self.answer: int | None = None  # to who asks a fake tensor for its number
        self._sum = 0
        self._seen: dict[int, int] = {}
        self._weak: dict[int, StorageWeakRef] = {}
        self._lasting = _objects_last() if lasting is None else lasting

    @property
    def now(self) -> int:
        """Bytes alive."""
        self._bury()
        return self._sum

    def add(self, tensor: Tensor) -> None:
        """Start counting the storage of a tensor."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        self._seen[key] = storage.nbytes()
        self._sum += storage.nbytes()
        if self._lasting:
            weakref.finalize(storage, self._drop, key)
        else:
            self._weak[key] = StorageWeakRef(storage)
            if self._sum > self.peak:
                self._bury()
        self.peak = max(self.peak, self._sum)

    def _drop(self, key: int) -> None:
        self._sum -= self._seen.pop(key, 0)

    def _bury(self) -> None:
        for key in [key for key, reference in self._weak.items() if reference.expired()]:
            del self._weak[key]
            self._drop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and self.answer is not None:
            return self.answer  # a network asks how long the text is
        result = func(*args, **(kwargs or {}))
        for item in tensors_in(result):
            self.add(item)
        return result


def tensors_in(result: Any) -> Iterator[Tensor]:
    """The tensors in what an operation returns: one, or lists and tuples of them."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for item in result:
            yield from tensors_in(item)


def _meta_modules(
    config: ResolvedConfig, kind: Family, unet: dict[str, Any], vae: dict[str, Any]
) -> tuple[nn.Module, nn.Module, nn.Module | None]:
    """UNet (with its LoRA), VAE and tiny VAE without storage. Adapters cannot be added to fake tensors, so they are
    now.
    """
    net = empty(kind.network, unet)
    if config.base_precision != "auto":
        hollow(net, config.base_precision)
    if config.tune == "lora":
        lora.inject(net, config.lora_rank, config.lora_alpha, config.lora_targets, 0, kind)
    tiny = empty("AutoencoderTiny", {}) if config.taesd else None
    return net, empty(kind.autoencoder, vae), tiny


def _fake_backend(
    config: ResolvedConfig, kind: Family, modules: tuple[nn.Module, nn.Module, nn.Module | None]
) -> Backend:
    half = torch.bfloat16 if config.mixed_precision != "no" else torch.float32
    unet, vae = _filled(modules[0], torch.float32 if config.tune == "full" else half), _filled(modules[1], half)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    backend = Backend(unet, vae, kind.schedule({}), kind, kind.latent_scale, source=None)  # type: ignore[arg-type]
    backend.tiny_vae = _filled(modules[2], half) if modules[2] is not None else None
    if config.tune == "full" and config.mixed_precision != "no":
        backend.autocast = half
    return backend


def _filled(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A meta module with (fake) tensors in its place, frozen. Adapters are fp32 whatever the base is."""
    state = {}
    for key, tensor in net.state_dict(keep_vars=True).items():  # else each is detached, and counted, on torch 2.1
        kind = torch.float32 if ".lora_" in key else dtype if tensor.is_floating_point() else tensor.dtype
        state[key] = torch.empty(tensor.shape, dtype=kind)
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


class _FakeReward:
    """The rewards and judges of a run without their weights: real ones that were loaded, a reward model of the
    published size in the place of those that are not on this machine.
    """

    def __init__(self, rewards: Sequence[Any], judges: Sequence[Any] = (), missing: int = 0) -> None:
        from .rewards import published_reward_model

        self.rewards, self.judges = list(rewards), list(judges)
        self.published = [published_reward_model("meta") for _ in range(missing)]

    def fill(self, dtype: torch.dtype) -> None:
        """Put (fake) weights in. The modules of loaded scorers are emptied for good."""
        self.published = [_filled(net, dtype) for net in self.published]
        for scorer in (*self.rewards, *self.judges):
            for module in vars(scorer).values():
                if isinstance(module, nn.Module):
                    _emptied(module, dtype)

    def differentiable(self, prompts: Sequence[str], images: Tensor) -> Tensor:
        """The sum of all rewards [B]."""
        parts = [_score(scorer, list(prompts), images) for scorer in self.rewards]
        return torch.stack([*parts, *(_published_score(net, prompts, images) for net in self.published)]).sum(dim=0)


def _score(scorer: Any, prompts: list[str], images: Tensor) -> Tensor:
    """`Scorer.differentiable` without its look at the values, which fake tensors have not."""
    pixels = scorer.pixels_from_tensor(images)
    return scorer.combine(prompts, scorer.encode_images(pixels)).float()


def _published_score(net: nn.Module, prompts: Sequence[str], images: Tensor) -> Tensor:
    pixels = torch.nn.functional.interpolate(images.float(), (224, 224), mode="bilinear", antialias=True)
    ids = torch.ones(len(prompts), 35, dtype=torch.int64)
    tokens = net.encode_image(pixels.to(next(net.parameters()).dtype))  # type: ignore[operator]
    found = net.blip.text_encoder(ids, torch.ones_like(ids), tokens)  # type: ignore[union-attr,operator]
    return found[:, 0].float().mean(dim=1)


def _emptied(net: nn.Module, dtype: torch.dtype) -> None:
    """Replace every weight by a (fake) tensor of its shape, floating ones in `dtype`."""
    for module in net.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]  # type: ignore[list-item]
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None:
                    kind = dtype if tensor.is_floating_point() else tensor.dtype
                    fake = torch.empty(tensor.shape, dtype=kind)
                    table[name] = nn.Parameter(fake, False) if isinstance(tensor, nn.Parameter) else fake


def reward_of(config: Settings) -> _FakeReward:
    """The configured rewards and judges as far as they are on this machine: an estimate downloads nothing."""
    from .judges import NONE
    from .rewards import is_here, load_scorer, parse_reward

    rewards = [parse_reward(text)[0] for text in config.rewards]
    judges = [name for name in config.judges if name != NONE]
    here = [name for name in (*rewards, *judges) if is_here(name, config.models_dir)]
    loaded = {name: load_scorer(name, "cpu", "fp32", config.models_dir) for name in here}
    missing = [name for name in (*rewards, *judges) if name not in loaded]
    trained = [loaded[name] for name in rewards if name in loaded]
    return _FakeReward(trained, [loaded[name] for name in judges if name in loaded], len(missing))


def estimate(
    config: ResolvedConfig,
    kind: Family,
    unet: dict[str, Any] | None = None,
    vae: dict[str, Any] | None = None,
    *,
    free: int | None = None,
    reward: _FakeReward | None = None,
) -> MemoryEstimate:
    """Memory of one update of a resolved configuration. unet, vae: diffusers configurations; default the family's
    own. reward: default a reward model of the published size.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from .engine import Engine

    unet, vae = unet or kind.unet, vae or kind.vae
    # two denoising steps show the same peak as twenty: the prefix keeps nothing
    short = dataclasses.replace(
        config,
        num_inference_steps=config.draft_steps + 1,
        min_step=1,
        max_step=1,
        gradient_accumulation_steps=1,
        max_train_steps=1,
    )
    modules = _meta_modules(short, kind, unet, vae)
    reward = reward or _FakeReward((), missing=1)
    with FakeTensorMode(allow_non_fake_inputs=True), StorageTracker() as tracker:
        backend = _fake_backend(short, kind, modules)
        dtype = torch.bfloat16 if short.mixed_precision != "no" else torch.float32
        if not short.learns_picks:
            reward.fill(dtype)
        row = kind.blank(unet, dtype)
        tracker.answer = row.context.shape[1] if row.mask is not None else None
        tracker.peak = tracker.now
        engine = Engine(
            short,
            backend,
            reward,
            [""],
            lambda prompts: row.expand(len(prompts)),  # type: ignore[arg-type]
            Processes("cpu"),
            picks=_fake_picks(backend, short) if short.learns_picks else None,
        )
        weights = tracker.now
        tracker.peak = tracker.now
        _fake_update(engine)
        tensors = tracker.peak
    calls = _unet_calls(config)
    return MemoryEstimate(weights, tensors, int(tensors + OVERHEAD), free, calls)


def _fake_update(engine: Any) -> None:
    """The parts of `Engine.update` that need memory; reading numbers out of fake tensors is not possible."""
    from .losses import Batch

    size = engine.config.train_batch_size
    if engine.picks is not None:
        t, noises = torch.zeros(size, dtype=torch.int64), [_FakeNoise()] * size
        pairs = engine.picks.pairs(engine.picks.picks * size, t, noises, engine.device)
        terms = engine.pick_loss.terms(pairs)
    else:
        batch = Batch([""] * size, engine.table([""] * size), [_FakeNoise()] * size)  # type: ignore[list-item]
        terms = engine.loss.terms(batch, engine.device)
    for term in terms:
        term.loss.backward()
    gradients = [parameter.grad for parameter in engine.params.values()]
    torch.nn.utils.clip_grad_norm_(list(engine.params.values()), engine.config.max_grad_norm, foreach=False)
    moments = 0.25 if engine.config.use_8bit_adam else 1.0
    engine.moments = [
        torch.zeros(int(gradient.numel() * moments * 2), dtype=gradient.dtype)
        for gradient in gradients
        if gradient is not None
    ]


def _fake_picks(backend: Backend, config: ResolvedConfig) -> EncodedPicks:
    """One pick, of latents without values."""
    size = config.resolution // backend.latent_factor
    pick = Pick(Path("winner"), Path("loser"), "")
    latents = {path: torch.zeros(backend.latent_channels, size, size) for path in (pick.winner, pick.loser)}
    return EncodedPicks([pick], latents, len(backend.schedule))


class _FakeNoise:
    """Stands in for SampleNoise: the last step but one, and noise without values."""

    def integer(self, low: int, high: int) -> int:
        return high

    def normal(self, shape: Any) -> Tensor:
        return torch.zeros(tuple(shape))


def _unet_calls(config: ResolvedConfig) -> int:
    """Evaluations of the UNet per update on one process, a backward pass counted as two."""
    if config.learns_picks:  # winner and loser: forward, backward, perhaps forward again, and the base's
        return round(config.samples_per_step * 2 * (4 + int(config.gradient_checkpointing)))
    forward = 2 if config.guidance_scale > 1 else 1  # with and without the prompt
    if config.algorithm == "direct-align":
        without_gradient = float(config.num_inference_steps)
    elif config.algorithm.startswith("refl"):
        without_gradient = (config.min_step + config.max_step) / 2  # the step is drawn: its mean
    else:
        without_gradient = config.num_inference_steps - config.draft_steps
    with_gradient = {"draft-k": config.draft_steps, "draft-lv": 1 + config.lv_repeats}.get(config.algorithm, 1)
    # a step with gradient: forward, backward, forward again where activations were not kept, and the frozen UNet's
    per_gradient = forward + 2 + int(config.gradient_checkpointing) + int(config.anchor == "kl")
    anchor = 4 if config.anchor in ("pretrain", "samples") else 0
    per_sample = without_gradient * forward + with_gradient * per_gradient + anchor
    return round(config.samples_per_step * per_sample)


@dataclass(frozen=True)
class Subject:
    """What is estimated: a configuration resolved for its checkpoint, of which no weight was read."""

    config: ResolvedConfig
    family: Family
    unet: dict[str, Any]
    vae: dict[str, Any]
    free: int | None
    reward: _FakeReward

    def estimate(self, **changes: Any) -> MemoryEstimate:
        """With some settings changed, rewards and judges excepted."""
        config = dataclasses.replace(self.config, **changes)
        return estimate(config, self.family, self.unet, self.vae, free=self.free, reward=self.reward)


def subject(config: ReFLConfig) -> Subject:
    """A configuration as the user gave it. The checkpoint is opened as the loader opens it, so its sizes, and what is
    refused, are the loader's.
    """
    path = config.pretrained_model_name_or_path
    if not path:
        raise CheckpointError("no checkpoint was given: pretrained_model_name_or_path is empty")
    model = open_model(path, config.parts)
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    device = "cuda" if torch.cuda.is_available() and not config.device.startswith("cpu") else "cpu"
    resolved = resolve(config, model.usual, device)
    vae = vae_config(model, config.vae)
    return Subject(resolved, model.family, model.unet_config, vae, free, reward_of(resolved))


def estimate_config(config: ReFLConfig) -> MemoryEstimate:
    """The estimate for a configuration as the user gave it; no weight of the checkpoint is read."""
    return subject(config).estimate()
