"""The settings page section: one table of options, read everywhere through `host.option(name)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PREFIX = "imagereward_"
SECTION = ("imagereward", "ImageReward")

POLICY_AUTO, POLICY_KEEP, POLICY_CPU, POLICY_UNLOAD = "automatic", "stay loaded", "move to CPU", "unload"
PANEL_AUTO, PANEL_TOGETHER, PANEL_ONE = "automatic", "together", "one after another"

FRAME_MIDDLE, FRAME_FIRST, FRAME_LAST, FRAME_NONE = "middle", "first", "last", "none"


@dataclass(frozen=True)
class Option:
    """One setting: `name` without the prefix, its default, label, and choices, a (min, max, step) range, or the list of
    scorers.
    """

    name: str
    default: Any
    label: str
    choices: tuple[str, ...] = ()
    span: tuple[float, float, float] | None = None
    colour: bool = False
    info: str = ""
    scorers: bool = False


OPTIONS: tuple[Option, ...] = (
    Option("default_scorer", "ImageReward-v1.0", "Scorer of the dropdown script", scorers=True),
    Option(
        "models_dir", "", "Folder with reward models", info="empty: models/ImageReward; --imagereward-models-path wins"
    ),
    Option("device", "auto", "Device for scoring", choices=("auto", "cpu", "cuda", "mps")),
    Option(
        "precision", "auto", "Precision", choices=("auto", "fp32", "fp16", "bf16"), info="auto: fp16 on CUDA, else fp32"
    ),
    Option(
        "policy",
        POLICY_AUTO,
        "After each job the scorer should",
        choices=(POLICY_AUTO, POLICY_KEEP, POLICY_CPU, POLICY_UNLOAD),
        info="automatic: move to CPU on GPUs below 12 GB, else stay loaded",
    ),
    Option(
        "panel_memory",
        PANEL_AUTO,
        "A panel's scorers are on the device",
        choices=(PANEL_AUTO, PANEL_TOGETHER, PANEL_ONE),
        info="automatic: together if they fit; one after another is slower, as each image waits for all of them",
    ),
    Option("decimals", 4, "Decimals of the score in the infotext", span=(1, 8, 1)),
    Option(
        "key",
        "ImageReward",
        "Name of the score in the infotext",
        info="of reward models; letters, digits, space, - and /, at least two, and no name of the WebUI's own",
    ),
    Option("badges", True, "Show scores on gallery thumbnails"),
    Option("colour_low", "#b3261e", "Badge colour of low scores", colour=True),
    Option("colour_middle", "#8a6100", "Badge colour half-way", colour=True),
    Option("colour_high", "#146c2e", "Badge colour of high scores", colour=True),
    Option("low_subfolder", "low-score", "Subfolder for low scorers that are moved"),
    Option(
        "write_aesthetic_score",
        False,
        "Also write aesthetic_score (0 to 10)",
        info="for image browsers that sort by it",
    ),
    Option(
        "video_frame",
        FRAME_MIDDLE,
        "Frame of a video that is scored",
        choices=(FRAME_MIDDLE, FRAME_FIRST, FRAME_LAST, FRAME_NONE),
        info="a video's frames are never filtered or sorted",
    ),
    Option(
        "remember",
        True,
        "Remember scored pictures",
        info=(
            "in the library, on this machine alone: path, prompts, settings, scores and what the scorer saw of each"
            " picture that is scored and saved; never where the WebUI has several accounts"
        ),
    ),
    Option(
        "library_folders",
        "",
        "More folders of the library tab",
        info=(
            "separated by semicolons. The tab shows and moves pictures below these and the WebUI's own output folders,"
            " and no others"
        ),
    ),
    Option(
        "trusted_hosts",
        "",
        "Trusted hosts",
        info=(
            "names, separated by commas, of your own proxy or pages that may use the extension's routes; pages of other"
            " sites are refused"
        ),
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}
