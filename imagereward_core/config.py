"""The architecture as data.

The defaults describe the published ImageReward-v1.0 (Xu et al. 2023, arXiv 2304.05977): BLIP-large's ViT-L/16 at
224 pixels, BERT-base with cross-attention, a linear head. Smaller networks of the same form are the same classes with
other numbers; a checkpoint carries its config as JSON in the safetensors metadata, so that a path is all it takes to
load it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from .errors import ConfigError

METADATA_KEY = "imagereward.config"


@dataclass(frozen=True)
class VisionConfig:
    """Vision transformer (Dosovitskiy et al. 2021). Sizes in pixels; `stem` is "patch" or "conv"."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    stem: str = "patch"

    @property
    def tokens(self) -> int:
        """Number of image tokens, the class token included."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class TextConfig:
    """BERT encoder with a cross-attention to the image tokens in every layer (Li et al. 2022, BLIP)."""

    vocab_size: int = 30524
    width: int = 768
    depth: int = 12
    heads: int = 12
    intermediate: int = 3072
    max_positions: int = 512


@dataclass(frozen=True)
class ModelConfig:
    """A reward model. `mean` and `std` standardise the head's output: score = (head - mean) / std.

    `head_activation` is "none" (ImageReward) or "gelu" between all of the head's layers (CycleReward).
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    projection: int = 256
    head: tuple[int, ...] = (1024, 128, 64, 16)
    head_activation: str = "none"
    mean: float = 0.16717362830052426
    std: float = 1.0333394966054072
    max_tokens: int = 35

    def __post_init__(self) -> None:
        vision, text = self.vision, self.text
        if vision.image_size % vision.patch_size:
            raise ConfigError(
                f"vision.image_size {vision.image_size} is not a multiple of vision.patch_size {vision.patch_size}"
            )
        if vision.stem not in ("patch", "conv"):
            raise ConfigError(f'vision.stem must be "patch" or "conv", found {vision.stem!r}')
        if vision.stem == "conv" and vision.patch_size & (vision.patch_size - 1):
            raise ConfigError(
                "vision.stem conv halves the image step by step: patch_size must be a power of two, found"
                f" {vision.patch_size}"
            )
        for name, part in (("vision", vision), ("text", text)):
            if part.width % part.heads:
                raise ConfigError(f"{name}.width {part.width} is not a multiple of {name}.heads {part.heads}")
        if not 2 <= self.max_tokens <= text.max_positions:
            raise ConfigError(
                f"max_tokens must lie between 2 and text.max_positions {text.max_positions}, found {self.max_tokens}"
            )
        if not self.std > 0:
            raise ConfigError(f"std must be positive, found {self.std}")
        if self.head_activation not in ("none", "gelu"):
            raise ConfigError(f'head_activation must be "none" or "gelu", found {self.head_activation!r}')

    def to_json(self) -> str:
        """The config as one JSON object; `from_json` is its inverse."""
        data = dataclasses.asdict(self)
        if self.head_activation == "none":
            del data["head_activation"]  # earlier releases read the checkpoints that need nothing newer
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote. Unknown or missing names raise ConfigError."""
        try:
            data = json.loads(text)
            return cls(
                **{
                    **data,
                    "vision": VisionConfig(**data.get("vision", {})),
                    "text": TextConfig(**data.get("text", {})),
                    "head": tuple(data.get("head", cls().head)),
                }
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"not a reward model config: {error}") from error
