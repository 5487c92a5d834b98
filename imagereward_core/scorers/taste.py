"""A taste of one's own: a scorer's score, corrected by what its features and the picture's looks say of the user."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import weights
from ..errors import ConfigError, ModelNotFoundError, WeightsError
from ..naming import own_model_name
from ..registry import describe
from ..taste import files, place
from ..taste.appearance import NAMES, appearance, appearance_of
from .base import Scorer, building


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A batch of encoded images: the scorer's features and the appearance [B, 16]. It is cut as one tensor would be."""

    features: Tensor
    appearance: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> Encoded:
        return Encoded(self.features[rows], self.appearance[rows])


class TasteHead(nn.Module):
    """score · `score` + embedding · `embedding` + appearance · `appearance` + `constant`, in fp32."""

    score: Tensor
    embedding: Tensor
    appearance: Tensor
    constant: Tensor

    def __init__(self, score: float, embedding: Tensor, appearance: Tensor, constant: float):
        super().__init__()
        self.register_buffer("score", torch.tensor(score))
        self.register_buffer("embedding", embedding)
        self.register_buffer("appearance", appearance)
        self.register_buffer("constant", torch.tensor(constant))

    def forward(self, scores: Tensor, embedding: Tensor, looks: Tensor) -> Tensor:
        """Scores [N], embeddings [N, D], appearance [N, 16] → [N]."""
        with torch.autocast(scores.device.type, enabled=False):
            found = scores.float() * self.score + looks.float() @ self.appearance + self.constant
            return found + embedding.float() @ self.embedding if len(self.embedding) else found


class TasteScorer(Scorer):
    """In the units of its base; without any duel it is the base.

    What stands for pixels is one row [3 S S + 16] an image: the base's pixels, and the appearance of the whole picture,
    which the base may see cropped and small.
    """

    def __init__(self, base: Scorer, head: TasteHead, info: Any):
        super().__init__(base.net, info, base.device, batch_size=base.batch_size, size=base.size)
        self.base = base
        self.head = head

    def parts(self) -> dict[str, nn.Module]:
        return {**self.base.parts(), "taste": self.head}

    def heads(self) -> list[nn.Module]:
        return [*self.base.heads(), self.head]

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def pixels_from_image(self, image: Any) -> Tensor:
        return torch.cat([self.base.pixels_from_image(image).flatten(), appearance_of(image)])

    def pixels_from_tensor(self, images: Tensor) -> Tensor:
        looks = appearance(images.to(self.device))
        return torch.cat([self.base.pixels_from_tensor(images).flatten(1), looks.to(self.dtype)], dim=1)

    def encode_images(self, pixels: Tensor) -> Any:
        edge = self.size
        own = pixels[:, : -len(NAMES)].view(-1, 3, edge, edge)
        return Encoded(self.base.encode_images(own), pixels[:, -len(NAMES) :])

    def combine(self, prompts: Sequence[str], images: Any) -> Tensor:
        scores, embedding = self.base.with_embeddings(prompts, images.features)
        return self.head(scores, embedding, images.appearance.expand(len(scores), -1))

    def with_embeddings(self, prompts: Sequence[str], images: Any) -> tuple[Tensor, Tensor]:
        raise ConfigError(f"{self.name} is a taste: another one is learnt on its scorer, {self.base.name}")

    def remembering_prompts(self) -> contextlib.AbstractContextManager[Any]:
        return self.base.remembering_prompts()


@building()
def load_taste(name: str | os.PathLike[str], **options: Any) -> TasteScorer:
    """See `imagereward_core.load_score`; `name` is the file of a taste. Its scorer is loaded with the same options.

    Raises WeightsError for a damaged file, ModelNotFoundError where the scorer that it was learnt on is not there.
    """
    from . import load_scorer

    if options.get("weights") is not None:
        raise ConfigError(f"a taste brings its own scorer: {name} takes no weights")
    taste = files.read(name)
    base = load_scorer(_source(taste.about, options.get("models_dir")), **options)
    score, embedding, looks = taste.basis.linear(taste.head.mean)
    head = TasteHead(
        taste.factor * score,
        torch.tensor(taste.factor * embedding, dtype=torch.float32),
        torch.tensor(taste.factor * looks, dtype=torch.float32),
        taste.constant,
    ).to(base.device)
    scorer = TasteScorer(base, head, describe(os.fspath(name)))
    _check_width(scorer, name)
    return scorer


def _source(about: place.About, models_dir: Any) -> str:
    """What to load as the base: a name, or the file where it was or in the models folder. Its digest must fit."""
    source = about.base.source
    if not weights.is_path(source):
        return source
    places = [Path(source), *([Path(models_dir) / Path(source).name] if models_dir else [])]
    for path in places:
        if path.is_file():
            if own_model_name(path) == about.base.name:
                return os.fspath(path)
            raise WeightsError(
                f"the taste {about.name} was learnt on {about.base.name}, but {path} is now {own_model_name(path)}:"
                " `imagereward taste fit` learns it anew"
            )
    raise ModelNotFoundError(
        f"the taste {about.name} was learnt on {about.base.name}, whose weights are not at {source}: put them there,"
        " or import the taste again with --base"
    )


def _check_width(scorer: TasteScorer, name: Any) -> None:
    """Raises WeightsError if the base's embeddings are not those the taste was learnt on."""
    wanted = len(scorer.head.embedding)
    if not wanted:
        return
    blank = torch.full((1, 3, 64, 64), 0.5, device=scorer.device)
    with torch.no_grad():
        found = scorer.base.with_embeddings([""], scorer.base.encode_images(scorer.base.pixels_from_tensor(blank)))[1]
    if found.shape[1] != wanted:
        raise WeightsError(
            f"the taste {name} was learnt on {wanted} features, {scorer.base.name} has {found.shape[1]}: fit it anew"
        )
