"""The generator's training set: pictures of the world with the flaws that ReFL is later asked to remove."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .world import ERROR_TYPES, corrupt_scene, render, sample_scene

CLUTTER_SHARE = 0.45
WRONG_CAPTION_SHARE = 0.2


@dataclass(frozen=True)
class CaptionedPictures:
    """``pictures`` is uint8 [N, 64, 64, 3] in RGB; ``captions`` holds one text per picture."""

    pictures: np.ndarray
    captions: list[str]


def captioned_pictures(
    count: int,
    seed: int,
    *,
    held_out: bool = False,
    clutter_share: float = CLUTTER_SHARE,
    wrong_share: float = WRONG_CAPTION_SHARE,
    spread: float = 1.0,
) -> CaptionedPictures:
    """Draw ``count`` captioned pictures.

    A ``clutter_share`` of the pictures carries clutter and a ``wrong_share`` of the captions names one wrong
    attribute, so that a model trained on them has room to improve.
    """
    rng = np.random.default_rng(seed)
    pictures, captions = [], []
    for _ in range(count):
        scene = sample_scene(rng, held_out=held_out)
        pictures.append(np.asarray(render(scene, rng, clutter=rng.random() < clutter_share, spread=spread)))
        described = scene
        if rng.random() < wrong_share:
            kinds = ERROR_TYPES if scene.relation is not None else ERROR_TYPES[:3]
            changed = corrupt_scene(scene, str(rng.choice(kinds)), rng)
            if changed is not None and changed.held_out == held_out:
                described = changed
        captions.append(described.caption)
    return CaptionedPictures(np.stack(pictures), captions)
