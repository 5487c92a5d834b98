"""Errors the user can act on. Each message says what happened, what was found and what to do."""


class ImageRewardError(Exception):
    """Base class of everything this package raises on purpose."""


class ImageError(ImageRewardError, ValueError):
    """An image that cannot be read or is not an image."""


class PromptError(ImageRewardError, TypeError):
    """A prompt that is not a string, or prompts and images that do not match in number."""


class ModelNotFoundError(ImageRewardError, RuntimeError):
    """An unknown model name, or weights that are not on this machine and may not be downloaded."""


class WeightsError(ImageRewardError, RuntimeError):
    """A weights file that is damaged, of another architecture, or not a weights file at all."""


class DownloadError(ImageRewardError, RuntimeError):
    """A download that failed or whose result does not match what the source announced."""


class ScoreError(ImageRewardError, ArithmeticError):
    """The network returned NaN or infinity."""


class ConfigError(ImageRewardError, ValueError):
    """A setting outside its range or with an unknown name."""


class MetadataError(ImageRewardError, ValueError):
    """Image metadata that cannot be read or written without losing something."""


class DataError(ImageRewardError, ValueError):
    """A data set (rankings, prompts, pairs) with missing, contradictory or damaged entries."""


class TrainingError(ImageRewardError, RuntimeError):
    """A training run that cannot go on or whose result would be worthless: NaN, a stalled loss, exploding rewards."""


class LibraryError(ImageRewardError, RuntimeError):
    """A library of pictures that cannot be opened, read or written."""
