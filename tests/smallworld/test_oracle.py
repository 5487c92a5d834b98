"""The oracle: its weights are measured here, on renders whose truth is known, and its rules one by one."""

import numpy as np
import pytest

from smallworld.evaluate import evaluate_oracle
from smallworld.oracle import Reading, SeenThing, judge, regions, segment, summarise
from smallworld.world import SIZE, parse_caption, render

PAIR = parse_caption("a large red star above a small blue circle on a black background")
STAR = SeenThing("star", "red", "large", 32, 16, 300)
CIRCLE = SeenThing("circle", "blue", "small", 32, 48, 200)


def test_the_shipped_weights_read_every_attribute(oracle):
    for name, verdict in evaluate_oracle(oracle, 120, seed=31).items():
        assert min(verdict.accuracy.values()) >= 0.98, (name, verdict)


def test_clutter_is_measured_where_there_is_some(oracle):
    verdicts = evaluate_oracle(oracle, 60, seed=32)
    assert verdicts["clean"].clutter < 0.0005
    assert verdicts["cluttered"].clutter > 0.005


def test_it_reads_a_given_picture(oracle):
    reading = oracle.read([render(PAIR, np.random.default_rng(0))])[0]
    assert reading.background == "black"
    assert {(thing.shape, thing.colour, thing.size) for thing in reading.things} == {
        ("star", "red", "large"),
        ("circle", "blue", "small"),
    }


def test_an_empty_picture_holds_nothing(oracle):
    reading = oracle.read(np.full((1, SIZE, SIZE, 3), 243, np.uint8))[0]
    assert reading == Reading("white", (), 0.0)
    assert judge(PAIR, reading) == {"background": 0, "count": 0, "colour": 0, "shape": 0, "size": 0, "relation": 0}


def test_a_colour_outside_the_world_is_no_background(oracle):
    picture = np.full((1, SIZE, SIZE, 3), (255, 0, 255), np.uint8)
    assert oracle.read(picture)[0].background is None


def test_a_right_picture_is_right_in_everything():
    result = judge(PAIR, Reading("black", (STAR, CIRCLE), 0.0))
    assert result == {"background": 1, "count": 1, "colour": 1, "shape": 1, "size": 1, "relation": 1}


@pytest.mark.parametrize(
    ("reading", "wrong"),
    [
        (Reading("white", (STAR, CIRCLE), 0.0), {"background": 0.0}),
        (Reading("black", (STAR, SeenThing("circle", "green", "small", 32, 48, 200)), 0.0), {"colour": 0.5}),
        (Reading("black", (STAR, SeenThing("circle", "blue", "large", 32, 48, 200)), 0.0), {"size": 0.5}),
        (Reading("black", (STAR, SeenThing("circle", "blue", "small", 32, 8, 200)), 0.0), {"relation": 0.0}),
        (Reading("black", (STAR, CIRCLE, CIRCLE), 0.0), {"count": 0.0}),
        (Reading("black", (STAR,), 0.0), {"colour": 0.5, "shape": 0.5, "size": 0.5, "relation": 0.0, "count": 0.0}),
    ],
)
def test_each_fault_is_found(reading, wrong):
    right = {"background": 1.0, "count": 1.0, "colour": 1.0, "shape": 1.0, "size": 1.0, "relation": 1.0}
    assert judge(PAIR, reading) == {**right, **wrong}


def test_attributes_that_the_caption_does_not_name_are_not_judged():
    scene = parse_caption("a red star on a black background")
    assert set(judge(scene, Reading("black", (STAR,), 0.0))) == {"background", "count", "colour", "shape"}


def test_regions_are_connected_over_corners_and_sorted_by_size():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[2, 2] = mask[3, 3] = mask[4, 4] = True
    mask[30:34, 30:34] = True
    mask[60, 60] = True
    assert [int(region.sum()) for region in regions(mask)] == [16, 3, 1]


def test_small_regions_are_clutter():
    picture = np.full((SIZE, SIZE, 3), 243, np.uint8)
    picture[10:12, 10:13] = 0
    picture[30:50, 30:50] = (220, 40, 40)
    parts = segment(picture)
    assert [int(region.sum()) for region in parts.objects] == [400]
    assert parts.clutter == pytest.approx(6 / SIZE**2)


def test_a_mean_runs_over_the_captions_that_name_the_attribute():
    single = parse_caption("a red star on a black background")
    verdict = summarise([PAIR, single], [Reading("black", (STAR, CIRCLE), 0.2), Reading("black", (CIRCLE,), 0.0)])
    assert verdict.accuracy["relation"] == 1.0
    assert verdict.accuracy["shape"] == 0.5
    assert (verdict.all_right, verdict.clutter, verdict.pictures) == (0.5, 0.1, 2)
