"""The one error of this package that a user can act on."""

from __future__ import annotations

from imagereward_core.errors import ImageRewardError


class SmallWorldError(ImageRewardError):
    """Something is missing or cannot be used; the message says what was found and what to change."""
