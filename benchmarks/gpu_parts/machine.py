"""The machine that is measured: its device, timers, and models of seeded random weights at full size or tiny."""

from __future__ import annotations

import gc
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from imagereward_core.config import METADATA_KEY, ModelConfig, TextConfig, VisionConfig

ROUNDS = 5


class Missing(Exception):
    """This machine lacks what the section needs; the message says what."""


class Machine:
    """Device, sizes and helpers that every section uses. `dry`: tiny models, so that a CPU shows the code runs."""

    def __init__(self, device: str, dry: bool = False):
        self.device = torch.device(device)
        self.dry = dry
        self.deadline = float("inf")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="imagereward-gpu-"))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise SystemExit("there is no CUDA device here; --dry-run shows on a CPU that the code runs")

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def describe(self) -> dict[str, Any]:
        """Name, memory and capability of the device."""
        if not self.cuda:
            return {"name": "CPU", "threads": torch.get_num_threads()}
        found = torch.cuda.get_device_properties(self.device)
        return {
            "name": found.name,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
            "cuda": torch.version.cuda,
        }

    # --- time and memory ---------------------------------------------------------------------------

    def wait(self) -> None:
        """Until everything queued on the device is done."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], rounds: int = ROUNDS) -> float:
        """Median seconds of `work`, after one call to warm up."""
        work()
        self.wait()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def clean(self) -> None:
        """Forget what a section left behind."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def allocated(self) -> int:
        """Bytes that tensors take on the device now."""
        return torch.cuda.memory_allocated(self.device) if self.cuda else 0

    def reserved(self) -> int:
        """Bytes that torch holds on the device now."""
        return torch.cuda.memory_reserved(self.device) if self.cuda else 0

    def peak(self) -> int:
        """Most bytes that tensors took since the last `clean`."""
        return torch.cuda.max_memory_allocated(self.device) if self.cuda else 0

    # --- models ------------------------------------------------------------------------------------

    @cached_property
    def config(self) -> ModelConfig:
        """The published size, or a tiny one."""
        if not self.dry:
            return ModelConfig()
        return ModelConfig(
            vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2),
            text=TextConfig(width=32, depth=2, heads=2, intermediate=64, max_positions=64),
            projection=16,
            head=(16, 8),
        )

    @cached_property
    def weights(self) -> pathlib.Path:
        """A reward model of seeded random weights whose scores differ from image to image."""
        from safetensors.torch import save_file

        from imagereward_core.model import RewardModel

        generator = torch.Generator().manual_seed(101)
        with torch.device("meta"):
            shapes = dict(RewardModel(self.config).state_dict())
        state = {}
        for key, tensor in shapes.items():
            if not tensor.is_floating_point():
                state[key] = torch.arange(tensor.shape[-1]).expand(tensor.shape).clone()
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            norm = "norm" in key.lower() and key.endswith("weight")
            fan_in = max(1, tensor[0].numel())
            scale = 0.02 if key.endswith("bias") else 0.05 if "embed" in key else fan_in**-0.5
            state[key] = 1 + 0.1 * noise if norm else scale * noise
        path = self.folder / "reward.safetensors"
        save_file(state, path, metadata={METADATA_KEY: self.config.to_json()})
        return path

    def scorer(self, precision: str, device: str | None = None) -> Any:
        """The reward model in that precision."""
        import imagereward_core as RM

        return RM.load(self.weights, device=device or str(self.device), precision=precision)

    def pixels(self, count: int, dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
        """Preprocessed pictures [count, 3, S, S], the same on every machine."""
        size = self.config.vision.image_size
        noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
        return noise.to(device or self.device, dtype)
