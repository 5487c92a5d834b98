"""ImageReward: human-preference scores for generated images.

    import imagereward_core as RM
    model = RM.load("ImageReward-v1.0")
    model.score("a cat", ["1.png", "2.png"])

Importing this package imports neither torch nor anything else heavy; models load at the first call.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .version import VERSION as __version__

if TYPE_CHECKING:
    from .scorers.base import Scorer
    from .scorers.imagereward import ImageRewardScorer

__all__ = ["__version__", "available_models", "available_scores", "load", "load_score"]


def load(
    name: str | os.PathLike[str] = "ImageReward-v1.0",
    device: Any = None,
    download_root: str | os.PathLike[str] | None = None,
    med_config: str | os.PathLike[str] | None = None,
    *,
    precision: str = "auto",
    models_dir: str | os.PathLike[str] | None = None,
) -> ImageRewardScorer:
    """Load a reward model by registry name or from a .pt/.safetensors file.

    device: torch device or its name; default CUDA if there is one, else CPU. precision: "auto" (fp16 on CUDA, else
    fp32), "fp32", "fp16", "bf16", "int8" (CPU only, no gradients: about three times as fast, scores move by about a
    tenth). download_root, models_dir: folders to look in first, then IMAGEREWARD_HOME, ~/.cache/ImageReward and the
    Hugging Face cache; what is in none of them is downloaded to the first that is set. A .pt is kept as safetensors
    beside itself for the next time, where its folder allows. med_config: BERT config JSON as the reference takes it;
    only needed for a checkpoint of another text size that carries no config of its own. Raises ModelNotFoundError,
    WeightsError, DownloadError, ConfigError.
    """
    from .scorers.imagereward import load_imagereward

    return load_imagereward(
        name,
        device=device,
        download_root=download_root,
        med_config=med_config,
        precision=precision,
        models_dir=models_dir,
    )


def load_score(
    name: str = "CLIP",
    device: Any = None,
    download_root: str | os.PathLike[str] | None = None,
    *,
    precision: str = "auto",
    models_dir: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> Scorer:
    """Load one of `available_scores()`; the arguments are those of `load`.

    weights: a file of this scorer to load instead of the published one, whatever its layout (fp16, open_clip's or
    Hugging Face's names, prefixes). config: a JSON file or a mapping with what the file's shapes do not tell, its
    numbers of attention heads, and with the scorer's settings: `antialias` of HPSv2.1, `threshold` and `condition` of
    MPS, `backbone` (a path) of the scorers that are a head. docs/scorers.md has all of them.
    """
    from .scorers import load_scorer

    places = {"device": device, "download_root": download_root, "precision": precision, "models_dir": models_dir}
    return load_scorer(name, **places, **_given(weights=weights, config=config))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def available_models() -> list[str]:
    """Names of the reward models `load` knows."""
    from .registry import names

    return names("imagereward")


def available_scores() -> list[str]:
    """Names of the other scorers `load_score` knows; those of installed packages and one's own tastes at the end."""
    from importlib.metadata import entry_points

    from .registry import names
    from .taste.place import names as tastes

    ours = [name for name in names() if name not in names("imagereward")]
    installed = {point.name for point in entry_points(group="imagereward.scorers")} - set(ours)
    return [*ours, *sorted(installed), *(name for name in tastes() if name not in installed)]


def __getattr__(name: str) -> Any:
    """`ReFL`, as the reference package exports its trainer: the package `refl`, imported when it is asked for."""
    if name == "ReFL":
        import refl

        return refl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
