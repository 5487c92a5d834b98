"""ONE table of models: where each comes from, what it weighs, what its numbers mean. A new scorer is one entry here and
one file in `scorers/`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import ConfigError, ModelNotFoundError
from .naming import REWARD_KEY, TASTE_KEY, check_key


@dataclass(frozen=True)
class Source:
    """One file of a model. `repo` is a Hugging Face repository id, or empty where `url` says it all.

    `local` is the file's name in our own folders (the hub calls many files model.safetensors); default `filename`.

    `size` in bytes and `sha256` are what we know of the file ourselves; what is None is taken from the hub's own
    metadata at download. `about` is the rounded size in bytes, for messages and the free-space check before anything is
    asked.
    """

    filename: str
    repo: str = ""
    url: str = ""
    local: str = ""
    revision: str = "main"
    about: int = 0
    size: int | None = None
    sha256: str | None = None

    @property
    def local_name(self) -> str:
        """The file's name in a models folder."""
        return self.local or self.filename


@dataclass(frozen=True)
class Scale:
    """What a scorer's numbers mean. `low` and `high` are where badges are fully the colour of a bad and of a good
    picture; `mean` and `std` those of its raw scores on the data it was standardised on, None where nobody published
    them. `out_of_ten`: the scores are what image browsers call aesthetic_score.
    """

    low: float
    high: float
    mean: float | None = None
    std: float | None = None
    out_of_ten: bool = False


@dataclass(frozen=True)
class Cost:
    """What a scorer takes, as benchmarks/scorers.py measured it: megabytes of weights in fp32, its backbone's included,
    and seconds of CPU time for an image on one core.
    """

    megabytes: int
    seconds: float


STANDARD = Scale(-2.0, 2.0, mean=0.0, std=1.0)  # reward models of ImageReward's form are standardised by their authors


@dataclass(frozen=True)
class ModelInfo:
    """A scorer. `kind` names its file in `scorers/`; `key` is the name of its score in an image's infotext: a word of
    letters, digits, space, - and /, as web UIs read no other.

    `settings` are the (name, default) that change its numbers beside the weights. `advice` says
    what the scorer is good for. `aliases`: other names that `get` knows. `modern`: the share of pairs of pictures by
    generators of 2025 that it orders as people do (MMRB2, docs/scorers.md), None where nobody measured it.
    """

    name: str
    kind: str
    sources: tuple[Source, ...]
    licence: str
    description: str
    key: str = REWARD_KEY
    scale: Scale = STANDARD
    higher_is_better: bool = True
    uses_prompt: bool = True
    differentiable: bool = True
    settings: tuple[tuple[str, Any], ...] = ()
    aliases: tuple[str, ...] = ()
    advice: str = ""
    cost: Cost | None = None
    modern: float | None = None

    def __post_init__(self) -> None:
        check_key(self.key)

    @property
    def mean(self) -> float | None:
        """The scale's mean."""
        return self.scale.mean

    @property
    def std(self) -> float | None:
        """The scale's standard deviation."""
        return self.scale.std


CLIP_L14 = Source(
    "model.safetensors",
    repo="openai/clip-vit-large-patch14",
    local="clip-vit-large-patch14.safetensors",
    about=1_710_000_000,
)

MODELS = (
    ModelInfo(
        name="ImageReward-v1.0",
        kind="imagereward",
        sources=(Source("ImageReward.pt", repo="THUDM/ImageReward", about=1_790_000_000),),
        licence="Apache-2.0",
        description=(
            "ImageReward (Xu et al. 2023): BLIP-large trained on 137k expert comparisons; mean 0, std 1 on the authors'"
            " data"
        ),
        cost=Cost(1787, 0.65),
        modern=0.540,
    ),
    ModelInfo(
        name="CLIP",
        kind="clip",
        key="CLIP score",
        scale=Scale(0.1, 0.35),
        sources=(CLIP_L14,),
        licence="MIT",
        description="Cosine of CLIP ViT-L/14 text and image features (Radford et al. 2021)",
        cost=Cost(1710, 1.63),
        modern=0.510,
    ),
    ModelInfo(
        name="BLIP",
        kind="blip",
        key="BLIP score",
        scale=Scale(0.1, 0.5),
        sources=(
            Source(
                "model_large.pth",
                url="https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_large.pth",
                about=1_920_000_000,
            ),
        ),
        licence="BSD-3-Clause",
        description="Cosine of BLIP-large's image-text contrast (Li et al. 2022)",
        cost=Cost(1787, 0.61),
    ),
    ModelInfo(
        name="Aesthetic",
        kind="aesthetic",
        key="Aesthetic score",
        scale=Scale(4.0, 7.0, out_of_ten=True),
        sources=(
            Source(
                "sac+logos+ava1-l14-linearMSE.pth",
                url="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
                "sac%2Blogos%2Bava1-l14-linearMSE.pth",
                about=3_714_759,
                size=3_714_759,
                sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            ),
            CLIP_L14,
        ),
        licence="Apache-2.0",
        description="LAION aesthetic head (1 to 10) on CLIP ViT-L/14 image features; it does not read the prompt",
        uses_prompt=False,
        cost=Cost(1714, 1.67),
    ),
    ModelInfo(
        name="PickScore",
        kind="pickscore",
        key="PickScore",
        scale=Scale(18.0, 24.0),
        sources=(
            Source(
                "model.safetensors",
                repo="yuvalkirstain/PickScore_v1",
                local="PickScore_v1.safetensors",
                about=3_944_517_836,
            ),
        ),
        licence="code MIT; the weights' licence is not stated",
        description="PickScore (Kirstain et al. 2023): CLIP-H/14 tuned on choices of Pick-a-Pic's users",
        advice="The best of the small scorers on pictures of today's generators (MMRB2).",
        cost=Cost(3944, 3.3),
        modern=0.586,
    ),
    ModelInfo(
        name="HPSv2.1",
        kind="hpsv2",
        key="HPSv2-1",
        scale=Scale(0.2, 0.33),
        sources=(Source("HPS_v2.1_compressed.pt", repo="xswu/HPSv2", about=1_972_000_000),),
        licence="Apache-2.0",
        description="Human Preference Score v2.1 (Wu et al. 2023): CLIP-H/14 tuned on HPDv2; sees the whole image",
        settings=(("antialias", True),),
        aliases=("HPSv2",),
        advice="Sees the whole picture, whatever its shape; style and photography prompts.",
        cost=Cost(3944, 3.44),
    ),
    ModelInfo(
        name="CycleReward",
        kind="cyclereward",
        key="CycleReward",
        scale=Scale(-2.0, 2.0),
        sources=(
            Source(
                "CycleReward-Combo.pth",
                url="https://github.com/hjbahng/cyclereward/releases/download/v1.0.0/CycleReward-Combo.pth",
                about=1_790_000_000,
            ),
        ),
        licence="MIT",
        description="CycleReward (Bahng et al. 2025): BLIP-large trained on cycle consistency, without human labels",
        aliases=("CycleReward-Combo",),
        advice="Trained without human labels: an independent judge of whether the picture shows what the prompt says.",
        cost=Cost(1787, 0.65),
    ),
    ModelInfo(
        name="MPS",
        kind="mps",
        key="MPS score",
        scale=Scale(4.0, 16.0),
        sources=(Source("model.safetensors", repo="RE-N-Y/mpsv1", local="mpsv1.safetensors", about=4_200_000_000),),
        licence="MIT",
        description="Multi-dimensional Preference Score (Zhang et al. 2024): CLIP-H/14 and the prompt's words",
        settings=(("threshold", 0.01),),
        advice="The closest to people's choices on ImageReward's and HPDv2's test sets.",
        cost=Cost(4892, 4.8),
    ),
    ModelInfo(
        name="waifu-scorer v3",
        kind="waifu",
        key="Waifu score",
        scale=Scale(3.0, 8.0),
        sources=(
            Source(
                "model.safetensors",
                repo="Eugeoter/waifu-scorer-v3",
                local="waifu-scorer-v3.safetensors",
                about=11_300_000,
            ),
            CLIP_L14,
        ),
        licence="OpenRAIL in the repository's metadata, Apache-2.0 in its text",
        description="Anime aesthetics, 0 to 10, on CLIP ViT-L/14 image features; it does not read the prompt",
        uses_prompt=False,
        aliases=("waifu-scorer", "waifu"),
        advice="Anime and illustration, where ImageReward's scores say little.",
        cost=Cost(1722, 1.57),
    ),
    ModelInfo(
        name="Aesthetic v2.5",
        kind="aesthetic_v25",
        key="Aesthetic v2-5",
        scale=Scale(3.0, 7.0),
        sources=(
            Source(
                "aesthetic_predictor_v2_5.pth",
                url="https://github.com/discus0434/aesthetic-predictor-v2-5/raw/main/models/"
                "aesthetic_predictor_v2_5.pth",
                about=5_300_000,
            ),
            Source(
                "model.safetensors",
                repo="google/siglip-so400m-patch14-384",
                local="siglip-so400m-patch14-384.safetensors",
                about=3_510_000_000,
            ),
        ),
        licence="head AGPL-3.0 (its repository's), backbone Apache-2.0",
        description="Aesthetic predictor v2.5 (1 to 10) on SigLIP so400m at 384 pixels; it does not read the prompt",
        uses_prompt=False,
        advice="Looks alone; takes illustrations as well as photographs.",
        cost=Cost(1718, 6.59),
    ),
)


def names(kind: str | None = None) -> list[str]:
    """Names in the order of the table, of one kind or of all."""
    return [info.name for info in MODELS if kind in (None, info.kind)]


def keys() -> list[str]:
    """The infotext keys of all scorers, each once, in the order of the table; that of tastes at the end."""
    return list(dict.fromkeys([*(info.key for info in MODELS), TASTE_KEY]))


def check_own_key(key: str) -> str:
    """`key` itself, if reward models' scores can be kept under it. Raises ConfigError, saying why, for what web UIs
    cannot read back, for their own names, and for another scorer's key.
    """
    check_key(key)
    for info in MODELS:
        if info.key != REWARD_KEY and info.key.lower() == key.lower():
            raise ConfigError(f"the name of a score cannot be used: {key!r} is that of {info.name}")
    if key.lower() == TASTE_KEY.lower():
        raise ConfigError(f"the name of a score cannot be used: {key!r} is that of tastes of one's own")
    return key


def describe(name: str) -> ModelInfo:
    """The entry of that name; for a taste, or its file, one like its scorer's; for the file of an own reward model one
    like the first's, named after it.
    """
    from .taste import place as tastes  # its library knows scorers by this table

    if name in names():
        return get(name)
    taste = tastes.find(name) or name
    if (told := tastes.about(taste)) is not None:
        return replace(
            describe(told.base.source),
            name=Path(taste).stem,
            kind="taste",
            sources=(),
            key=TASTE_KEY,
            description=f"A taste of one's own, learnt from {told.duels} duels on {told.base.name}",
            aliases=(),
            advice="",
            modern=None,
        )
    return replace(MODELS[0], name=Path(name).name, sources=(), description="An own reward model", modern=None)


def caveat(name: str) -> str:
    """What must stand beside a scorer's number, "" where nothing is known: how little the small scorers say of today's
    pictures. `name` as it is stored beside scores.
    """
    info = next((info for info in MODELS if info.name == name), None)
    if info is None or info.modern is None:
        return ""
    return (
        f"on pictures of generators of 2025, {info.name} agrees with people on {100 * info.modern:.0f} % of pairs"
        " (MMRB2; chance is 50 %)"
    )


def weights_digest(stored: str, info: ModelInfo) -> str:
    """What is known of the weights behind a score: the digest in the name of a model of one's own, as it is `stored`
    beside the score, else that of the entry's published file; "" where neither is known.
    """
    own = re.search(r"\[([0-9a-f]{10,64})\]", stored)
    return own[1] if own else (info.sources[0].sha256 or "" if info.sources else "")


def labelled(info: ModelInfo, settings: Mapping[str, Any]) -> str:
    """The name that is stored beside a score: the entry's, with the settings that are not its own.

    "HPSv2.1" was computed with antialiasing, "HPSv2.1 antialias off" without.
    """
    changed = [(name, settings[name]) for name, default in info.settings if settings.get(name, default) != default]
    shown = [
        f"{name} {('off', 'on')[value] if isinstance(value, bool) else format(value, 'g')}" for name, value in changed
    ]
    return " ".join([info.name, *shown])


def get(name: str) -> ModelInfo:
    """The entry of that name: exact, then by its letters and digits alone, then by another name of it. Raises
    ModelNotFoundError naming what there is.
    """
    for info in MODELS:
        if info.name == name:
            return info
    wanted = _bare(name)
    for info in MODELS:
        if wanted and wanted in (_bare(info.name), *map(_bare, info.aliases)):
            return info
    raise ModelNotFoundError(
        f"no model is called {name!r}; there are {', '.join(names())}, and any path to a .pt or .safetensors file"
    )


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
