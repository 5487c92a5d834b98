"""What the paper prints (Xu et al. 2023, arXiv 2304.05977, Tables 1 and 3) and where its data is published."""

from __future__ import annotations

from dataclasses import dataclass

from imagereward_core.registry import Source

PROMPTS, PAIRS = 466, 6399  # of the public test.json: prompts, and pairs on which people had a preference

# Table 3, in per cent: preference accuracy, Recall@1/2/4, Filter@1/2/4. The table's baselines' recall is not repeated
# here.
ACCURACY = {"CLIP": 54.82, "Aesthetic": 57.35, "BLIP": 57.76, "ImageReward-v1.0": 65.14}
SELECTION = {
    "ImageReward-v1.0": {
        "recall@1": 39.62,
        "recall@2": 63.07,
        "recall@4": 90.84,
        "filter@1": 49.06,
        "filter@2": 70.89,
        "filter@4": 88.95,
    },
}
LOST = (
    "The paper's Recall and Filter columns were computed on 371 prompts with 8 images each, which its authors have lost"
    " (github.com/THUDM/ImageReward issue 78). They cannot be reproduced. The values here are of another set: the"
    " prompts of the given data that have at least 8 images (66 in the public test.json)."
)


@dataclass(frozen=True)
class Generator:
    """A text-to-image model of Table 1: folder of its images, human wins, the paper's mean ImageReward.

    aliases: other names of the folder, and of its zip: the authors' script and their README do not agree on one.
    """

    folder: str
    name: str
    wins: int
    mean: float
    aliases: tuple[str, ...] = ()


GENERATORS = (
    Generator("openjourney", "Openjourney", 507, 0.2614),
    Generator("sd2-1", "Stable Diffusion 2.1-base", 463, 0.2458),
    Generator("dalle2", "DALL-E 2", 390, 0.2114),
    Generator("sd1-4", "Stable Diffusion 1.4", 362, 0.1344),
    Generator("vd", "Versatile Diffusion", 340, -0.2470, ("versatile-diffusion",)),
    Generator("cogview2", "CogView 2", 74, -1.2376),
)
SPEARMAN = {"ImageReward-v1.0": 1.00, "CLIP": 0.60}  # against the human wins

_RAW = "https://raw.githubusercontent.com/THUDM/ImageReward/main"
TEST_JSON = Source(
    "test.json",
    url=f"{_RAW}/data/test.json",
    about=391_362,
    size=391_362,
    sha256="77cff6c2d0522006f52f0b637ef8302db1782b2b761e378c124a012a3c7fc58e",
)
PROMPTS_JSON = Source(
    "benchmark-prompts.json",
    url=f"{_RAW}/benchmark/benchmark-prompts.json",
    about=14_558,
    size=14_558,
    sha256="34682e824ebb3ad8e2531b3cde1b362dc72e1e29946ff6fab77bb49e9edb4b21",
)
TEST_IMAGES = Source("test_images.zip", repo="THUDM/ImageReward", about=1_160_000_000)


def generations(generator: Generator) -> list[Source]:
    """The zip of one model's images, under each name it may have."""
    names = (generator.folder, *generator.aliases)
    return [Source(f"generations/{name}.zip", repo="THUDM/ImageReward", about=400_000_000) for name in names]
