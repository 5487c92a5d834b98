"""ONE table of the ReFL form: each field, what the page shows, and how it becomes settings of the training process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import host
from . import checkpoints
from . import host as refl_host
from .codecs import (
    FROM_PICKS,
    FROM_REWARD,
    MY_TASTE,
    PRESETS,
    Algorithm,
    Anchor,
    AnchorFolder,
    Checkpoint,
    FromOutputs,
    Judge,
    LearnFrom,
    OutputName,
    PicksFile,
    Plain,
    Preset,
    Promised,
    Reward,
    SecondReward,
    SecondWeight,
    SettingError,
    Taste,
    ZeroIsNone,
    learns_picks,
)
from .field import Field

BASIC, REWARD, ANCHOR, OPTIMISER, SAMPLING, STOP, OUTPUT = GROUPS = (
    "Basic",
    "Reward and judges",
    "What holds it near its base",
    "Optimiser",
    "Sampling",
    "Evaluation and stop rule",
    "Output",
)
FIELDS: tuple[Field, ...] = (
    Field(
        "checkpoint",
        Checkpoint(),
        "Checkpoint",
        "choice",
        "",
        help="SD 1.x, 2.x, SDXL base or a flow-matching model; by default the one that is selected",
    ),
    Field(
        "output_name",
        OutputName(),
        "Name of the result",
        "text",
        "",
        help="empty: the checkpoint's name with -refl, and a number if that is taken",
        group=OUTPUT,
    ),
    Field(
        "prompts",
        Plain("prompts", "prompts"),
        "Prompts, one per line",
        "lines",
        "",
        help="like those you use, at least 50, better 500; a part is held out to judge by",
    ),
    Field("from_outputs", FromOutputs(), "Also take the prompts of my generated images", "bool", False),
    Field(
        "reward",
        Reward(),
        "Reward",
        "choice",
        "ImageReward-v1.0",
        help="the scorer whose taste is learnt: pictures come to score higher with it",
        group=REWARD,
    ),
    Field(
        "second_reward",
        SecondReward(),
        "Second reward",
        "choice",
        "",
        help="mixed with the first, each in its own standard deviations; two are harder to cheat than one",
        group=REWARD,
    ),
    Field(
        "second_weight",
        SecondWeight(),
        "Weight of the second",
        "float",
        0.5,
        low=0.0,
        high=100.0,
        help="the first has 1",
        group=REWARD,
    ),
    Field(
        "judge",
        Judge(),
        "Judge",
        "choice",
        "",
        help="only watched; training stops if it falls while the reward rises",
        group=REWARD,
    ),
    Field(
        "preset",
        Preset(),
        "GPU memory",
        "choice",
        "8 GB",
        tuple(PRESETS),
        help="how many of an update's 16 samples are made at once; more is faster, less needs less memory",
        group=OPTIMISER,
    ),
    Field(
        "algorithm",
        Algorithm("algorithm", "algorithm"),
        "Algorithm",
        "choice",
        "refl+",
        ("refl+", "refl", "draft-k", "draft-lv", "direct-align"),
        help="where a reward's gradient is taken: refl+ our way, refl the paper's arithmetic, draft-… the last steps,"
        " direct-align the early ones",
        group=OPTIMISER,
    ),
    Field(
        "steps",
        Plain("steps", "max_train_steps"),
        "Updates",
        "int",
        100,
        low=1,
        high=100_000,
        help="how often the model is changed, each time by what 16 pictures show",
        group=OPTIMISER,
    ),
    Field(
        "learning_rate",
        Plain("learning_rate", "learning_rate"),
        "Learning rate",
        "float",
        1e-4,
        low=1e-8,
        high=1.0,
        help="how far one update goes; too high breaks pictures, too low changes nothing",
        group=OPTIMISER,
    ),
    Field(
        "rank",
        Plain("rank", "lora_rank"),
        "LoRA rank",
        "int",
        16,
        low=1,
        high=512,
        help="how much the LoRA can hold; its file grows with it",
        group=OPTIMISER,
    ),
    Field(
        "guidance",
        Plain("guidance", "guidance_scale"),
        "CFG scale",
        "float",
        7.0,
        low=1.0,
        high=30.0,
        help="as you generate with: what is learnt holds for that",
        group=SAMPLING,
    ),
    Field(
        "resolution",
        ZeroIsNone("resolution", "resolution"),
        "Resolution",
        "int",
        0,
        low=0,
        high=2048,
        multiple=64,
        help="pixels of a side; 0: what the model was made for",
        group=SAMPLING,
    ),
    Field(
        "anchor",
        Anchor("anchor", "anchor"),
        "Anchor",
        "choice",
        "kl",
        ("kl", "samples", "pretrain", "none"),
        help="kl: keeps its predictions near the base's; samples: its own pictures; pretrain: yours; none: it breaks",
        group=ANCHOR,
    ),
    Field(
        "anchor_folder",
        AnchorFolder(),
        "Images for the anchor pretrain",
        "text",
        "",
        help="a folder inside the WebUI's, of images with captions; empty: my generated images",
        group=ANCHOR,
    ),
    Field(
        "held_out",
        Plain("held_out", "held_out"),
        "Held-out prompts",
        "int",
        16,
        low=2,  # of one, nothing can be told from chance: the trainer refuses it
        high=500,
        help="never trained on; drawn with the same seeds every 10 updates, to see what changed",
        group=STOP,
    ),
    Field(
        "stop_rule",
        Plain("stop_rule", "stop_rule"),
        "When it over-optimises",
        "choice",
        "pause",
        ("pause", "stop", "off"),
        help="when judge, diversity or denoising break: wait for you with the best so far written, end, or go on",
        group=STOP,
    ),
    Field(
        "seed",
        Plain("seed", "seed"),
        "Seed",
        "int",
        0,
        low=0,
        high=2**31,
        help="the same seed and settings give the same run",
        group=SAMPLING,
    ),
    Field(
        "output",
        Plain("output", "output"),
        "Result",
        "choice",
        "lora",
        ("lora", "single-file"),
        help="a LoRA of some MB to switch on and off, or a whole checkpoint",
        group=OUTPUT,
    ),
    Field(
        "learn",
        LearnFrom(),
        "Learn from",
        "choice",
        FROM_REWARD,
        (FROM_REWARD, FROM_PICKS),
        help="a reward: a scorer says what is good; my picks: which of two pictures you chose, in the library's duels",
    ),
    Field(
        "picks",
        Taste(),
        "Whose picks",
        "choice",
        MY_TASTE,
        help="the duels of this taste, made in the tab ImageReward library",
    ),
    Field(
        "picks_file",
        PicksFile(),
        "Or a file of duels",
        "text",
        "",
        help='a .jsonl inside the WebUI\'s folder, on each line {"winner": "a.png", "loser": "b.png", "prompt": "…"}',
    ),
    Field(
        "beta",
        Plain("beta", "dpo_beta"),
        "Beta of picks",
        "float",
        500.0,
        low=1.0,
        high=1e6,
        help="how firmly a pick is believed; more keeps nearer to the base model",
        group=OPTIMISER,
    ),
    Field(
        "base",
        Plain("base", "base_precision"),
        "Base model in memory",
        "choice",
        "auto",
        ("auto", "int8", "nf4"),
        help="auto: in half precision; int8, nf4: quantised, in less memory, for a LoRA; needs bitsandbytes",
        group=OPTIMISER,
    ),
)
BY_NAME = {field.name: field for field in FIELDS}
# How far a run goes, in fields of the form. Large models take several times as long for an update, and learn in fewer.
HOW_FAR: dict[str, dict[str, Any]] = {
    "quick try": {"steps": 20, "learning_rate": 1e-4, "held_out": 8},
    "normal": {"steps": 100, "learning_rate": 1e-4, "held_out": 16},
    "careful": {"steps": 300, "learning_rate": 5e-5, "held_out": 32},
}
LARGE_STEPS = {"quick try": 10, "normal": 60, "careful": 200}
GUIDANCE = {
    **{"sdxl": 5.0, "sd3": 4.5, "flux": 1.0},
    **dict.fromkeys(("flux2", "z-image", "lumina2", "qwen-image", "anima"), 4.0),
}
LARGE = ("sdxl", *checkpoints.FLOWS)  # families that a step takes long for


def how_far(name: str, family: str) -> dict[str, Any]:
    """The fields that a budget decides for a family ("sd1", "sdxl", "" where it is unknown)."""
    found = dict(HOW_FAR[name])
    return {**found, "steps": LARGE_STEPS[name]} if family in LARGE else found


def usual_guidance(family: str) -> float:
    """The CFG scale that a family is sampled with where the host has none of its own."""
    return GUIDANCE.get(family, float(BY_NAME["guidance"].default))


def build_config(settings: Mapping[str, Any], promised: Promised = (), *, needs_prompts: bool = True) -> dict[str, Any]:
    """The run configuration of a filled form. SettingError names the field that is wrong.

    promised: (folder, name) of results that belong to runs which have not ended. needs_prompts: false for what does not
    depend on them, as the memory of a run.
    """
    unknown = sorted(str(name) for name in settings.keys() - BY_NAME.keys())
    if unknown:
        raise SettingError(f"unknown field {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    form = {field.name: field.checked(settings.get(field.name, field.default)) for field in FIELDS}
    config = BY_NAME["checkpoint"].codec.to_config(form, promised)  # first: without one nothing else makes sense
    if needs_prompts and not (form["prompts"] or form["from_outputs"] or learns_picks(form)):
        raise SettingError("Prompts: there are none; write some, load a file, or take those of your generated images")
    for field in FIELDS:
        config |= field.codec.to_config(form, promised)
    flow = checkpoints.family(str(config["pretrained_model_name_or_path"])) in checkpoints.FLOWS
    return {
        **config,
        **({"parts": refl_host.selected_parts()} if flow else {}),
        "models_dir": str(host.models_dir()),
        "vae": refl_host.selected_vae(),
        "device": "cpu" if host.device() == "cpu" else "",
    }


def prompts_in(value: Any) -> list[str]:
    """The prompts in a text or list as a run would take them. SettingError for what cannot be used."""
    return list(BY_NAME["prompts"].checked(value))


def form_settings(config: Mapping[str, Any], promised: Promised = ()) -> dict[str, Any]:
    """A run's configuration in the form's terms, for a clone. What the configuration does not tell has the form's
    default.
    """
    found = {field.name: field.codec.from_config(config, promised) for field in FIELDS}
    return {name: BY_NAME[name].default if value is None else value for name, value in found.items()}
