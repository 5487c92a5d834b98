"""tiny-imagereward, evaluated on held-out captions, and as what ReFL needs: calibrated and differentiable."""

import numpy as np
import pytest

from smallworld.preferences import PENALTIES, sample_item
from smallworld.train_reward import pair_accuracy
from smallworld.world import parse_caption, render

torch = pytest.importorskip("torch")


def test_held_out_pairs_are_ordered(reward):
    accuracy = pair_accuracy(reward, 50, seed=700)
    assert set(accuracy) == {*PENALTIES, "all"}
    assert accuracy["all"] >= 0.95, accuracy
    assert min(accuracy.values()) >= 0.9, accuracy  # relations among them: which of two things is above


def test_scores_are_calibrated(reward):
    rng = np.random.default_rng(701)
    items = [sample_item(rng, held_out=True) for _ in range(80)]
    prompts = [item.scene.caption for item in items for _ in item.pictures]
    scores = np.array(reward.score_pairs(prompts, [picture for item in items for picture in item.pictures]))
    assert abs(scores.mean()) < 0.35
    assert 0.75 < scores.std() < 1.3


def test_the_right_caption_scores_higher_than_a_wrong_one(reward):
    rng = np.random.default_rng(702)
    scene = parse_caption("a large green star on a black background")
    pictures = [render(scene, rng) for _ in range(10)]
    right, wrong = (
        np.array(reward.score(caption, pictures))
        for caption in (scene.caption, "a large purple circle on a white background")
    )
    assert (right > wrong).mean() >= 0.9


def test_the_gradient_reaches_the_picture_and_improves_the_score(reward):
    scene = parse_caption("a large green star on a black background")
    picture = render(scene, np.random.default_rng(703), clutter=True)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
    pixels.requires_grad_(True)
    before = reward.differentiable([scene.caption], pixels)
    before.sum().backward()
    slope = pixels.grad.norm()
    assert slope > 0
    with torch.no_grad():  # a small step along the gradient gains what the gradient promises
        gain = reward.differentiable([scene.caption], pixels + 0.002 * pixels.grad / slope) - before
    assert gain.item() == pytest.approx(0.002 * slope.item(), rel=0.3)


def test_it_has_imagerewards_form(reward):
    names = set(dict(reward.net.named_parameters()))
    assert {
        "mlp.layers.0.weight",
        "blip.visual_encoder.cls_token",
        "blip.text_encoder.encoder.layer.0.crossattention.self.query.weight",
    } <= names
    assert 1e6 < sum(parameter.numel() for parameter in reward.net.parameters()) < 3e6
    assert reward.net.config.vision.image_size == 64


def test_any_prompt_can_be_scored(reward):
    score = reward.score(
        "Ein Bär, 🐻 and 日本語 (masterpiece:1.2)",
        render(parse_caption("a red star on a white background"), np.random.default_rng(0)),
    )
    assert np.isfinite(score)
