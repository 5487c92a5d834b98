"""The full-size network against the reference implementation's recorded results (image-reward 1.5, fp32, CPU)."""

import pytest
import torch

from imagereward_core.preprocess import open_image, pil_to_pixels
from imagereward_core.scorers.blip import from_state
from imagereward_core.tokenizer import tokenize

pytestmark = pytest.mark.usefixtures("all_cores")
TOLERANCE = 1e-4


def difference(rows, golden, key):
    return max(abs(ours - theirs) for row, case in zip(rows, golden["cases"]) for ours, theirs in zip(row, case[key]))


def test_token_ids(golden):
    for case in golden["cases"]:
        ids, mask = tokenize([case["prompt"]], pad_to_max=True)
        assert ids[0].tolist() == case["input_ids"]
        assert mask[0].tolist() == case["attention_mask"]


def test_scores_and_rankings(golden, golden_model):
    rows = golden_model.score_matrix([case["prompt"] for case in golden["cases"]], golden["paths"])
    assert difference(rows, golden, "imagereward") <= TOLERANCE
    for row, case in zip(rows, golden["cases"]):
        order = sorted(range(len(row)), key=lambda index: -row[index])
        assert [order.index(index) + 1 for index in range(len(row))] == case["ranking"]


@pytest.mark.newest
def test_single_images_equal_the_batch(golden, golden_model):
    case, paths = golden["cases"][0], golden["paths"][:2]
    assert [golden_model.score(case["prompt"], path) for path in paths] == pytest.approx(
        case["imagereward"][:2], abs=TOLERANCE
    )
    ranking, scores = golden_model.inference_rank(case["prompt"], paths)
    assert ranking == [2, 1]
    assert scores == pytest.approx(case["imagereward"][:2], abs=TOLERANCE)


@pytest.mark.newest
def test_pixel_gradients(golden, golden_model):
    expected = golden["gradient"]
    paths = golden["paths"][: len(expected["images"])]
    pixels = torch.stack([pil_to_pixels(open_image(path)) for path in paths]).requires_grad_()
    rewards = golden_model.reward(*golden_model.tokenize([expected["prompt"]] * len(paths)), pixels)
    assert rewards.shape == (2, 1)
    assert rewards[:, 0].tolist() == pytest.approx(expected["rewards"], abs=TOLERANCE)
    rewards.sum().backward()
    assert pixels.grad.flatten(1).norm(dim=1).tolist() == pytest.approx(expected["grad_l2"], rel=1e-3)
    sample, wanted = pixels.grad[:, :, ::56, ::56].reshape(2, -1), torch.tensor(expected["grad_sample"])
    assert (sample - wanted).norm() <= 1e-3 * wanted.norm()


@pytest.mark.newest
def test_blip_contrast(golden, golden_model):
    state = golden_model.net.blip.state_dict()
    state["text_decoder.bert.embeddings.word_embeddings.weight"] = torch.zeros(
        1
    )  # parts of BLIP's file with no place here
    state["visual_encoder_m.cls_token"] = torch.zeros(1)
    state["image_queue"] = torch.zeros(1)
    scorer = from_state(state, golden_model.info, "cpu", "fp32", "golden")
    rows = scorer.score_matrix([case["prompt"] for case in golden["cases"]], golden["paths"])
    assert difference(rows, golden, "blip") <= TOLERANCE


def test_state_dict_is_the_published_one(golden_model, golden):
    import json

    from tests.conftest import GOLDEN

    shapes = json.loads((GOLDEN / "shapes.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in golden_model.net.state_dict().items()} == shapes
    assert len(shapes) == 625
