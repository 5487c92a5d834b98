"""The network: torch only, no files, no devices chosen, no tokeniser."""

from .reward import ALLOWED_MISSING, RewardModel

__all__ = ["ALLOWED_MISSING", "RewardModel"]
