"""Errors the user can act on: what happened, what was found, what to do. `hint` is shown beside the message."""

from __future__ import annotations


class ReFLError(Exception):
    """Base class of everything this package raises on purpose."""

    hint = ""


class ConfigError(ReFLError, ValueError):
    """A setting outside its range, of the wrong kind, or with an unknown name."""

    hint = "Change the named setting and start again."


class CheckpointError(ReFLError, RuntimeError):
    """A Stable Diffusion checkpoint that cannot be read or is not of a kind that can be trained here."""

    hint = "Choose another checkpoint: SD 1.x, SD 2.x or SDXL base, as .safetensors."


class PromptDataError(ReFLError, ValueError):
    """Prompts or training images that are missing, empty or malformed."""

    hint = "Check the prompt file or folder."


class RewardError(ReFLError, RuntimeError):
    """A reward that cannot be loaded, has no gradient, or tells nothing apart."""

    hint = "Choose another reward model."


class TrainingDiverged(ReFLError, ArithmeticError):
    """The loss or a gradient became NaN or infinite."""

    hint = "Lower the learning rate, or use --mixed_precision bf16 or no; the last good checkpoint is kept."


class SaveError(ReFLError, OSError):
    """A file of the run could not be written."""

    hint = "Free space on the disk or choose another run folder, then resume: the last complete checkpoint is intact."


class RunBusyError(ReFLError, RuntimeError):
    """Another process is already training in this run folder."""

    hint = "Stop that run first, or start this one in another folder."


class MissingDependency(ReFLError, ImportError):
    """A library that the training process needs is not installed, or not in a version that works here."""

    hint = "Install the named package for the training process; the host's own packages stay as they are."
