"""Reward fine-tuning (ReFL, Xu et al. 2023) of Stable Diffusion checkpoints.

    import refl
    args = refl.parse_args()
    trainer = refl.Trainer("model.safetensors", "refl_data.json", args=args)
    trainer.train(args=args)

Runs in a process of its own (`python -m refl train --config run.json`). Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagereward_core.version import VERSION as __version__

__all__ = ["ReFLConfig", "Trainer", "__version__", "parse_args"]

if TYPE_CHECKING:
    from .config import ReFLConfig
    from .trainer import Trainer


def __getattr__(name: str) -> Any:
    if name == "Trainer":
        from .trainer import Trainer

        return Trainer
    if name == "ReFLConfig":
        from .config import ReFLConfig

        return ReFLConfig
    raise AttributeError(f"module 'refl' has no attribute {name!r}")


def parse_args(argv: list[str] | None = None) -> ReFLConfig:
    """Read the training settings from the command line; the reference's flag names are understood."""
    from .options import config_from_argv

    return config_from_argv(argv)
