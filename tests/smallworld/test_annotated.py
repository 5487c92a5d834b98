"""What the pre-training of tiny-imagereward is told about a picture is true."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from smallworld.annotated import FLAWS, annotated_pictures, canonical, patch_labels  # noqa: E402
from smallworld.pretrain_reward import KINDS, describe, mismatches  # noqa: E402
from smallworld.world import COLOURS, ERROR_TYPES, SHAPES, Placed, Thing, corrupt_scene, parse_caption  # noqa: E402

PAIR = parse_caption("a large red star below a small blue circle on a black background")


def test_one_picture_has_one_description():
    turned = canonical(PAIR)
    assert turned.caption == "a small blue circle above a large red star on a black background"
    assert canonical(turned) == turned


@pytest.mark.parametrize("error", ERROR_TYPES)
def test_a_mismatch_is_marked_by_its_kind(error):
    changed = corrupt_scene(PAIR, error, np.random.default_rng(0))
    assert mismatches(PAIR, changed) == [int(kind == error) for kind in ERROR_TYPES]
    assert mismatches(PAIR, PAIR) == [0] * 5


def test_patches_name_what_covers_them():
    shapes, colours = patch_labels(
        (Placed(Thing("square", "blue"), 12, 52, 8, 0), Placed(Thing("circle", "red"), 48, 12, 4, 0))
    )
    assert shapes.reshape(8, 8)[6, 1] == SHAPES.index("square") + 1  # x 12 is column 1, y 52 is row 6
    assert colours.reshape(8, 8)[6, 1] == list(COLOURS).index("blue") + 1
    assert shapes.reshape(8, 8)[1, 6] == SHAPES.index("circle") + 1
    assert shapes.reshape(8, 8)[3, 3] == colours.reshape(8, 8)[3, 3] == 0
    assert {0, SHAPES.index("square") + 1, SHAPES.index("circle") + 1} == set(shapes)


@pytest.fixture(scope="module")
def data():
    return annotated_pictures(300, 5, view=lambda pictures: [picture.rotate(0) for picture in pictures])


def test_the_centres_lie_on_the_objects(data):
    checked = 0
    between = 0
    for scene, wrong, degree, picture, centres, flaws in zip(
        data.scenes, data.others, data.degrees, data.pictures, data.centres, data.flaws
    ):
        for thing, other, (x, y) in zip(scene.things, wrong.things, centres):
            if np.isnan(x):
                assert flaws[list(FLAWS).index("missing")]
                continue
            found = picture[round((y + 1) * 32), round((x + 1) * 32)].astype(int)
            if not flaws[list(FLAWS).index("noise")]:
                wanted = (1 - degree) * np.array(COLOURS[thing.colour]) + degree * np.array(COLOURS[other.colour])
                assert np.abs(found - wanted).max() <= 60, (scene.caption, found)
                checked += 1
                between += thing.colour != other.colour
    assert checked > 200 and between > 15


def test_flaws_come_at_their_rates_and_the_second_centre_of_a_single_is_what_was_added(data):
    assert np.allclose(data.flaws.mean(axis=0), list(FLAWS.values()), atol=0.08)
    single = np.array([scene.relation is None for scene in data.scenes])
    extra = data.flaws[:, list(FLAWS).index("extra")] > 0
    assert (np.isnan(data.centres[single, 1]).any(axis=1) == ~extra[single]).all()
    assert 0.2 < data.redrawn.mean() < 0.5


def test_a_mismatch_comes_in_degrees(data):
    index = np.flatnonzero(data.degrees > 0)
    assert 0.15 < len(index) / len(data.degrees) < 0.35
    batch = describe(data, index, np.random.default_rng(0))
    missing = data.flaws[index, list(FLAWS).index("missing")] > 0
    right = [row for row, i in enumerate(index) if batch.captions[row] == data.scenes[i].caption and not missing[row]]
    assert len(right) > 10
    for row in right:
        expected = np.multiply(data.degrees[index[row]], mismatches(data.others[index[row]], data.scenes[index[row]]))
        assert np.allclose(batch.kinds[row, : len(ERROR_TYPES)], expected) and 0 < expected.max() < 1


def test_what_cannot_be_said_is_not_asked(data):
    index = np.arange(len(data.scenes))
    batch = describe(data, index, np.random.default_rng(0))
    missing = data.flaws[:, list(FLAWS).index("missing")] > 0
    kinds = batch.kinds.numpy()
    assert np.isnan(kinds[missing][:, [KINDS.index("colour"), KINDS.index("relation")]]).all()
    assert np.isnan(kinds[data.redrawn][:, [KINDS.index("blur"), KINDS.index("noise")]]).all()
    assert not np.isnan(kinds[~missing & ~data.redrawn]).any()
    wrong = 0
    for row, scene in enumerate(data.scenes):
        told = parse_caption(batch.captions[row])
        assert told.held_out == scene.held_out
        for number, (one, other) in enumerate(zip(scene.things, told.things)):
            if (one.colour, one.shape) != (other.colour, other.shape):
                assert torch.isnan(batch.centres[row, number]).all()
                wrong += 1
    assert wrong > 30
