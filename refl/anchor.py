"""Pictures for the pre-training loss: the user's own, or the base model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .backend import Backend
from .data import captioned_images, load_images, sample_prompt
from .errors import PromptDataError
from .rollout import SampleNoise

STREAM = 7_777_777_777  # keeps the anchor's random numbers apart from the rollout's


class AnchorSet:
    """Latents with captions. `latents(index)` → [4, h, w]; each is computed at its first use and kept on the CPU."""

    def __init__(self, captions: Sequence[str], latents: Callable[[int], Tensor], timesteps: int):
        self.captions = list(captions)
        self._compute = latents
        self._cache: dict[int, Tensor] = {}
        self.timesteps = timesteps

    def __len__(self) -> int:
        return len(self.captions)

    def latents(self, index: int) -> Tensor:
        """Clean latents of one picture, on the CPU."""
        if index not in self._cache:
            self._cache[index] = self._compute(index).cpu()
        return self._cache[index]

    def draw(self, samples: Sequence[int], seed: int, device: torch.device) -> tuple[Tensor, list[str], Tensor, Tensor]:
        """(latents [B, 4, h, w], captions, timesteps [B], noise) of training samples; a function of seed and sample
        number.
        """
        chosen = [sample_prompt(seed + 1, len(self), sample) for sample in samples]
        noises = [SampleNoise(seed, STREAM + sample) for sample in samples]
        t = torch.tensor([noise.integer(0, self.timesteps - 1) for noise in noises])
        x0 = torch.stack([self.latents(index) for index in chosen])
        noise = torch.stack([noise.normal(x0.shape[1:]) for noise in noises])
        return x0.to(device), [self.captions[index] for index in chosen], t, noise.to(device)


def image_anchor(backend: Backend, folder: str, resolution: int, held_out: int) -> tuple[AnchorSet, AnchorSet]:
    """(training, held-out) sets from a folder of captioned images. A tenth, at most `held_out`, is held out, spread
    over the folder.

    Raises PromptDataError for a folder without captioned images.
    """
    if not Path(folder).is_dir():
        raise PromptDataError(f"anchor_data: no such folder: {folder}")
    images = captioned_images(folder)
    if len(images) < 2:
        raise PromptDataError(
            f"anchor_data: {folder} holds {len(images)} images with a caption (a .txt beside them or a stored prompt);"
            " at least 2 are needed"
        )
    count = max(1, min(held_out, len(images) // 10))
    every = (
        len(images) // count
    )  # neighbours in an outputs folder are often variants of one picture: the first few would judge one prompt
    held = range(0, every * count, every)
    parts = ([image for index, image in enumerate(images) if index not in held], [images[index] for index in held])

    def encoder(part: list[tuple[Path, str]]) -> Callable[[int], Tensor]:
        def encode(index: int) -> Tensor:
            pixels = load_images([part[index][0]], resolution).to(next(backend.vae.parameters()).device)
            with torch.no_grad():
                return backend.encode_images(pixels)[0]

        return encode

    made = [AnchorSet([caption for _, caption in part], encoder(part), len(backend.schedule)) for part in parts]
    return made[0], made[1]
