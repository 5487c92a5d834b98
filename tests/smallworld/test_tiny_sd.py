"""tiny-sd, evaluated: pictures are drawn from held-out captions and read by the oracle."""

import numpy as np
import pytest

from smallworld import generate
from smallworld.evaluate import evaluate_autoencoder, evaluate_generator, held_out_scenes
from smallworld.oracle import summarise
from smallworld.pipeline import WEIGHTS, load_pipeline

pytest.importorskip("diffusers")
PROMPTS = ["a large red circle on a white background", "a small blue square on a gray background"]


def test_held_out_captions_are_recognisable(pipeline, oracle):
    """The goals are 85, 75 and 65 %; the bounds lie two standard errors of 90 pictures below them."""
    verdict = evaluate_generator(pipeline, oracle, held_out_scenes(90, 500, pair_share=0.0), 500)
    assert verdict.accuracy["background"] >= 0.78, verdict
    assert verdict.accuracy["colour"] >= 0.66, verdict
    assert verdict.accuracy["shape"] >= 0.55, verdict


def test_a_picture_fits_its_own_caption_and_no_other(pipeline, oracle):
    scenes = held_out_scenes(32, 501, pair_share=0.0)
    readings = oracle.read(generate(pipeline, [scene.caption for scene in scenes], range(501, 533)))
    own, other = summarise(scenes, readings), summarise(scenes[1:] + scenes[:1], readings)
    assert own.accuracy["colour"] > 0.6
    assert other.accuracy["colour"] < 0.45  # chance is a sixth


def test_the_autoencoder_keeps_what_the_oracle_reads(pipeline, oracle):
    result = evaluate_autoencoder(pipeline, oracle, 60, 502)
    assert result["mse"] < 0.012
    assert result["accuracy"]["background"] >= 0.97
    assert result["accuracy"]["colour"] >= 0.95
    assert result["accuracy"]["shape"] >= 0.9


def test_a_picture_depends_on_its_own_seed_alone(pipeline):
    together = generate(pipeline, PROMPTS, [3, 4], steps=4)
    alone = generate(pipeline, PROMPTS[1:], [4], steps=4)
    difference = np.abs(np.asarray(together[1]).astype(int) - np.asarray(alone[0]).astype(int))
    assert difference.max() <= 2
    assert not np.array_equal(np.asarray(together[1]), np.asarray(generate(pipeline, PROMPTS[1:], [5], steps=4)[0]))


def test_a_missing_file_is_named(tmp_path):
    from smallworld.errors import SmallWorldError

    with pytest.raises(SmallWorldError, match=r"nothing\.safetensors is not there"):
        load_pipeline(tmp_path / "nothing.safetensors", config=WEIGHTS / "tiny-sd")
