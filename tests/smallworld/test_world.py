"""The grammar and the renderer: one caption per scene, one picture per seed, a clean split."""

import numpy as np
import pytest

from smallworld.dataset import captioned_pictures
from smallworld.world import (
    BACKGROUNDS,
    COLOURS,
    ERROR_TYPES,
    RELATIONS,
    SHAPES,
    SIZE,
    Placed,
    Scene,
    Thing,
    corrupt_scene,
    draw,
    outline,
    parse_caption,
    place,
    render,
    sample_scene,
    single_scenes,
)

EXAMPLE = "a large red star above a blue circle on a black background"


def test_the_issues_example_is_a_caption():
    scene = parse_caption(EXAMPLE)
    assert scene == Scene("black", (Thing("star", "red", "large"), Thing("circle", "blue")), "above")
    assert scene.caption == EXAMPLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "a red star",
        "a red star on a pink background",
        "a red star above a blue circle",
        EXAMPLE + " and a cat",
    ],
)
def test_other_texts_are_no_captions(text):
    assert parse_caption(text) is None


def test_every_caption_is_read_back():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, held_out=index % 2 == 0, pair_share=0.5) for index in range(300)]
    assert [parse_caption(scene.caption) for scene in scenes] == scenes
    assert parse_caption("  An orange  star on a WHITE background. ") == Scene("white", (Thing("star", "orange"),))


def test_the_same_seed_draws_the_same_picture_and_another_one_does_not():
    scene = parse_caption(EXAMPLE)
    first, again, other = (np.asarray(render(scene, np.random.default_rng(seed), clutter=True)) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (SIZE, SIZE, 3)


def test_captioned_pictures_repeat_and_take_shares_as_given():
    one, two = captioned_pictures(40, 3), captioned_pictures(40, 3)
    assert np.array_equal(one.pictures, two.pictures)
    assert one.captions == two.captions
    clean = captioned_pictures(40, 3, clutter_share=0, wrong_share=0)
    assert not np.array_equal(one.pictures, clean.pictures)


def test_the_split_is_disjoint_and_complete():
    train, held_out = ({scene.caption for scene in single_scenes(held_out=side)} for side in (False, True))
    assert not train & held_out
    assert len(train | held_out) == len(BACKGROUNDS) * len(COLOURS) * len(SHAPES) * 3
    assert 0.15 < len(held_out) / len(train | held_out) < 0.25
    words = " ".join(held_out)
    assert all(word in words for word in (*COLOURS, *SHAPES, *BACKGROUNDS))


def test_training_captions_never_hold_a_held_out_combination():
    assert not any(parse_caption(caption).held_out for caption in captioned_pictures(400, 9).captions)


@pytest.mark.parametrize("relation", RELATIONS)
def test_objects_lie_as_the_relation_says_and_apart(relation):
    rng = np.random.default_rng(2)
    scene = Scene("white", (Thing("star", "red", "large"), Thing("star", "blue", "large")), relation)
    for _ in range(50):
        first, second = place(scene, rng)
        gap = {
            "above": second.y - first.y,
            "below": first.y - second.y,
            "left of": second.x - first.x,
            "right of": first.x - second.x,
        }[relation]
        assert gap >= 31.6  # two reaches of 12 * 1.32
        assert all(-1 <= value <= SIZE + 1 for item in (first, second) for point in outline(item) for value in point)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_drawn_in_its_colour_at_its_place(shape):
    item = Placed(Thing(shape, "green"), 20, 40, 9, 0)
    picture = np.asarray(draw("black", (item,), np.random.default_rng(0))).astype(int)
    assert np.abs(picture[40, 20] - np.array(COLOURS["green"])).max() <= 12
    assert np.abs(picture[5, 60] - np.array(BACKGROUNDS["black"])).max() <= 8


@pytest.mark.parametrize("error", ERROR_TYPES)
def test_a_corruption_changes_its_attribute_and_nothing_else(error):
    rng = np.random.default_rng(4)
    scene = parse_caption("a large red star above a small blue circle on a black background")
    for _ in range(20):
        changed = corrupt_scene(scene, error, rng)
        assert changed != scene
        same = {
            "background": changed.background == scene.background,
            "relation": changed.relation == scene.relation,
            **{
                name: [getattr(t, name) for t in changed.things] == [getattr(t, name) for t in scene.things]
                for name in ("colour", "shape", "size")
            },
        }
        assert [name for name, equal in same.items() if not equal] == [error]


def test_what_a_caption_does_not_name_cannot_be_wrong():
    scene = parse_caption("a red star on a black background")
    assert corrupt_scene(scene, "size", np.random.default_rng(0)) is None
    assert corrupt_scene(scene, "relation", np.random.default_rng(0)) is None


def test_clutter_stays_clear_of_the_objects():
    rng = np.random.default_rng(8)
    item = Placed(Thing("circle", "red"), 32, 32, 14, 0)
    for _ in range(20):
        clean = np.asarray(draw("white", (item,), np.random.default_rng(1))).astype(int)
        cluttered = np.asarray(draw("white", (item,), rng, clutter=True)).astype(int)
        rows, columns = np.mgrid[:SIZE, :SIZE]
        near = np.hypot(columns + 0.5 - 32, rows + 0.5 - 32) < 15
        assert np.abs(cluttered - clean)[near].max() <= 24  # the shade, no speck
        assert (np.abs(cluttered - clean)[~near].max(axis=-1) > 40).sum() > 4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("other", SHAPES)
def test_an_object_between_two_is_drawn_between_them(shape, other):
    def area(share):
        item = Placed(Thing(shape, "red"), 32, 32, 12, 0, Thing(other, "blue"), share)
        return np.asarray(draw("white", (item,), np.random.default_rng(0))).astype(int)

    plain, turned = (
        np.asarray(draw("white", (Placed(thing, 32, 32, 12, 0),), np.random.default_rng(0))).astype(int)
        for thing in (Thing(shape, "red"), Thing(other, "blue"))
    )
    assert (
        np.abs(area(0.0) - plain).mean() < 0.5 and np.abs(area(1.0) - turned).mean() < 0.5
    )  # corners between two of the 3-degree rays are cut
    middle = area(0.5)[32, 32]
    assert np.abs(middle - (np.array(COLOURS["red"]) + COLOURS["blue"]) / 2).max() <= 13
    if shape != other:
        covered = [(np.abs(area(share) - 243).max(axis=2) > 60).sum() for share in (0.0, 0.5, 1.0)]
        assert min(covered[0], covered[2]) * 0.8 < covered[1] < max(covered[0], covered[2]) * 1.1
