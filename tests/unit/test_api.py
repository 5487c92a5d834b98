import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import imagereward_core as RM
from imagereward_core import registry
from imagereward_core.config import METADATA_KEY, ModelConfig, TextConfig, VisionConfig
from imagereward_core.errors import ConfigError, ImageError, ModelNotFoundError, PromptError, ScoreError
from imagereward_core.model.cpu import OneDnnLinear
from imagereward_core.preprocess import pil_to_pixels
from imagereward_core.scorers.base import pick_dtype
from imagereward_core.scorers.blip import BlipScorer
from tests.conftest import ROOT, random_state, tiny_config


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.fixture
def pictures():
    return [picture(seed) for seed in range(5)]


def test_one_image_gives_a_float_and_a_list_gives_a_list(tiny_model, pictures):
    single = tiny_model.score("a cat", pictures[0])
    assert isinstance(single, float)
    assert tiny_model.score("a cat", [pictures[0]]) == [pytest.approx(single, abs=1e-5)]
    assert tiny_model.score("a cat", []) == []
    assert tiny_model.inference_rank("a cat", []) == ([], [])
    ranking, rewards = tiny_model.inference_rank("a cat", [pictures[0]])
    assert ranking == [1] and rewards == [pytest.approx(single, abs=1e-5)]


def test_every_kind_of_image_gives_the_same_score(tiny_model, pictures, tmp_path):
    path = tmp_path / "1.png"
    pictures[0].save(path)
    kinds = [pictures[0], str(path), path, np.array(pictures[0])]
    scores = [tiny_model.score("a cat", kind) for kind in kinds]
    assert scores == pytest.approx([scores[0]] * 4, abs=1e-6)


def test_ranking(tiny_model, pictures):
    ranking, scores = tiny_model.inference_rank("a cat", pictures)
    assert len(set(scores)) == 5 and sorted(ranking) == [1, 2, 3, 4, 5]
    assert [scores[ranking.index(rank)] for rank in range(1, 6)] == sorted(scores, reverse=True)
    ranking, _ = tiny_model.inference_rank("a cat", [pictures[0], pictures[0]])
    assert ranking == [1, 2]  # equal scores: order of appearance


def test_scores_do_not_depend_on_their_neighbours(tiny_model, pictures):
    alone = [tiny_model.score("a cat on a mat", image) for image in pictures]
    for batch_size in (1, 2, 8):
        tiny_model.batch_size = batch_size
        assert tiny_model.score("a cat on a mat", pictures) == pytest.approx(alone, abs=1e-5)


def test_pairs_and_matrix(tiny_model, pictures):
    prompts = ["a", "a much longer prompt about a cat", ""]
    matrix = tiny_model.score_matrix(prompts, pictures)
    expected = [[tiny_model.score(prompt, image) for image in pictures] for prompt in prompts]
    for row, wanted in zip(matrix, expected):
        assert row == pytest.approx(wanted, abs=1e-5)
    pairs = [(0, 0), (1, 0), (2, 1), (0, 2), (0, 2), (1, 3)]
    scores = tiny_model.score_pairs([prompts[p] for p, _ in pairs], [pictures[i] for _, i in pairs])
    assert scores == pytest.approx([expected[p][i] for p, i in pairs], abs=1e-5)


def test_images_are_encoded_once(tiny_model, pictures, monkeypatch):
    seen = []
    encode = tiny_model.encode_images
    monkeypatch.setattr(tiny_model, "encode_images", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    tiny_model.score_matrix(["a", "b", "c"], pictures)
    assert sum(seen) == len(pictures)


def test_progress_reaches_the_total(tiny_model, pictures):
    steps = []
    tiny_model.batch_size = 2
    tiny_model.score("a", pictures, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(2, 5), (4, 5), (5, 5)]


def test_bad_input(tiny_model, pictures):
    with pytest.raises(PromptError, match="2 prompts and 1 images"):
        tiny_model.score_pairs(["a", "b"], pictures[:1])
    with pytest.raises(PromptError, match="list of prompts"):
        tiny_model.score_pairs("ab", pictures[:2])
    for prompt in (None, 7, ["a"]):
        with pytest.raises(PromptError, match="must be a string"):
            tiny_model.score(prompt, pictures)
    with pytest.raises(ImageError, match="found NoneType"):
        tiny_model.score("a", None)


def test_a_string_is_no_list_of_prompts(tiny_model, pictures):
    images = torch.rand(3, 3, 32, 32)
    for call in (tiny_model.differentiable, tiny_model.score_matrix, tiny_model.score_pairs):
        for prompts in ("fox", b"fox", None, 7):
            with pytest.raises(PromptError, match=f"{call.__name__} takes a list of prompts, found"):
                call(prompts, images if call == tiny_model.differentiable else pictures[:3])
        with pytest.raises(PromptError, match="must be a string, found int"):
            call(["a", 1, "b"], images if call == tiny_model.differentiable else pictures[:3])
    with pytest.raises(PromptError, match=r"score takes one prompt.*score_pairs"):
        tiny_model.score(["a", "b"], pictures[:2])
    with pytest.raises(PromptError, match="inference_rank takes one prompt"):
        tiny_model.inference_rank(["a"], [])


def test_numbers_of_prompts_and_images_must_agree(tiny_model, pictures):
    for prompts, count in ((3, 1), (1, 3), (2, 3), (0, 1)):
        with pytest.raises(PromptError, match=f"differentiable needs one prompt per image, found {prompts} prompts"):
            tiny_model.differentiable(["a"] * prompts, torch.rand(count, 3, 32, 32))
        with pytest.raises(PromptError, match=f"score_pairs needs one prompt per image, found {prompts} prompts"):
            tiny_model.score_pairs(["a"] * prompts, pictures[:count])
    assert tiny_model.score("a", pictures[:3]) == pytest.approx(tiny_model.score_pairs(["a"] * 3, pictures[:3]))


def test_one_image_where_a_list_is_wanted(tiny_model, pictures, tmp_path):
    pictures[0].save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for image in (
        pictures[0],
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        np.array(pictures[0]),
        data,
        io.BytesIO(data),
    ):
        for call in (tiny_model.score_pairs, tiny_model.score_matrix):
            with pytest.raises(PromptError, match="takes a list of images, found one .*: write \\[image\\]"):
                call(["x"], image)
    for images in (None, 7, {"a": 1}):
        with pytest.raises(PromptError, match="takes a list of images, found"):
            tiny_model.score_pairs(["x"], images)


def test_encoded_images_are_read(tiny_model, pictures, tmp_path):
    pictures[0].save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    stream = io.BytesIO(data)
    expected = tiny_model.score("a", pictures[0])
    for image in (data, bytearray(data), memoryview(data), stream, stream):  # the second time it stands at its end
        assert tiny_model.score("a", image) == pytest.approx(expected, abs=1e-6)
    with open(tmp_path / "a.png", "rb") as file:
        assert tiny_model.score_pairs(["a", "a", "a"], [file, stream, data]) == pytest.approx([expected] * 3, abs=1e-6)
    for broken in (b"", b"not an image", data[:100], io.BytesIO(b"x")):
        with pytest.raises(ImageError, match="the image given as"):
            tiny_model.score("a", broken)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(1, 3, 32, 32) * 255, "found values from .* images / 255"),
        (torch.rand(1, 3, 32, 32) * 2 - 1, "found values from .* images / 2"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "found torch.uint8"),
        (torch.rand(3, 32, 32), r"found the shape \[3, 32, 32\]"),
        (torch.rand(1, 32, 32, 3), r"found the shape \[1, 32, 32, 3\]"),
        (torch.rand(1, 3, 0, 32), r"found the shape \[1, 3, 0, 32\]"),
        (np.zeros((1, 3, 32, 32)), "found ndarray"),
        ([Image.new("RGB", (8, 8))], "found list"),
    ],
)
def test_tensors_of_another_shape_or_range(tiny_model, images, message):
    with pytest.raises(ImageError, match=message):
        tiny_model.differentiable(["a"], images)


def test_token_batches(tiny_model):
    ids, mask = tiny_model.tokenize(["a", "b"])
    with pytest.raises(ImageError, match=r"preprocessed float pixels \[B, 3, 32, 32\], found .* \[2, 3, 64, 64\]"):
        tiny_model.reward(ids, mask, torch.rand(2, 3, 64, 64))
    with pytest.raises(PromptError, match="as many rows as pixels, found .* and 1 images"):
        tiny_model.reward(ids, mask, torch.rand(1, 3, 32, 32))
    with pytest.raises(PromptError, match="found list as input_ids"):
        tiny_model.score_gard([1, 2], mask, torch.rand(2, 3, 32, 32))


def test_blip_rewards_are_its_scores(tiny_model, pictures):
    blip = BlipScorer(tiny_model.net, registry.get("BLIP"), torch.device("cpu"), size=32)
    prompts = ["a cat", "a dog", "a bird"]
    pixels = torch.stack([pil_to_pixels(image, 32) for image in pictures[:3]]).requires_grad_()
    rewards = blip.reward(*blip.tokenize(prompts), pixels)
    assert rewards[:, 0].tolist() == pytest.approx(blip.score_pairs(prompts, pictures[:3]), abs=1e-5)
    assert len(set(rewards[:, 0].tolist())) == 3 and rewards.shape == (3, 1)
    assert torch.equal(blip.score_gard(*blip.tokenize(prompts), pixels), rewards)
    rewards.sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_a_conversion_that_pillow_lacks_is_an_image_error(tiny_model):
    with pytest.raises(ImageError, match="cannot convert an image of mode La: "):
        tiny_model.score("a", Image.new("La", (40, 40)))


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, MemoryError, OverflowError, SyntaxError, KeyError])
def test_whatever_a_decoder_raises_is_an_image_error(tiny_model, pictures, tmp_path, monkeypatch, error):
    pictures[0].save(tmp_path / "a.png")

    def load(self):
        raise error("decoder")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(ImageError, match="a.png"):
        tiny_model.score("a", tmp_path / "a.png")


def test_nan_weights_are_an_error(tmp_path, pictures):
    config = tiny_config()
    state = random_state(config)
    state["blip.visual_encoder.norm.weight"][0] = float("nan")
    path = tmp_path / "nan.safetensors"
    save_file(state, path, metadata={METADATA_KEY: config.to_json()})
    with pytest.raises(ScoreError, match="damaged"):
        RM.load(path, device="cpu").score("a", pictures[0])


def test_reward_is_differentiable_and_score_builds_no_graph(tiny_model, pictures):
    ids, mask = tiny_model.tokenize(["a cat", "a dog"])
    pixels = torch.randn(2, 3, 32, 32, requires_grad=True)
    rewards = tiny_model.reward(ids, mask, pixels)
    assert rewards.shape == (2, 1)
    rewards.sum().backward()
    assert pixels.grad.abs().sum() > 0
    assert torch.equal(tiny_model.score_gard(ids, mask, pixels), rewards)
    images = torch.rand(2, 3, 40, 50, requires_grad=True)
    tiny_model.differentiable(["a", "b"], images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in tiny_model.net.parameters())


def test_gradient_checkpointing_changes_nothing(tiny_model):
    pixels = torch.randn(1, 3, 32, 32, requires_grad=True)
    ids, mask = tiny_model.tokenize(["a cat"])
    tiny_model.reward(ids, mask, pixels).sum().backward()
    plain, pixels.grad = pixels.grad.clone(), None
    tiny_model.net.blip.visual_encoder.gradient_checkpointing = True
    tiny_model.net.blip.text_encoder.encoder.gradient_checkpointing = True
    tiny_model.reward(ids, mask, pixels).sum().backward()
    torch.testing.assert_close(pixels.grad, plain)


def test_half_precision_keeps_the_head_in_fp32(tiny_file, pictures):
    exact = RM.load(tiny_file, device="cpu").score("a cat", pictures)
    model = RM.load(tiny_file, device="cpu", precision="bf16")
    assert model.net.mlp.layers[0].weight.dtype == torch.float32
    assert model.net.blip.visual_encoder.cls_token.dtype == torch.bfloat16
    spread = max(exact) - min(exact)
    assert max(abs(a - b) for a, b in zip(model.score("a cat", pictures), exact)) < 0.1 * spread


def test_int8(tiny_file, pictures):
    exact = RM.load(tiny_file, device="cpu").score("a cat", pictures)
    model = RM.load(tiny_file, device="cpu", precision="int8")
    assert model.quantized and isinstance(model.net.mlp.layers[0], torch.nn.Linear)
    scores = model.score("a cat", pictures)
    assert 0 < max(abs(a - b) for a, b in zip(scores, exact)) < 0.2 * (max(exact) - min(exact))
    with pytest.raises(ConfigError, match="CPU only"):
        model.to("cuda")
    for call in (
        lambda: model.differentiable(["a"], torch.rand(1, 3, 32, 32)),
        lambda: model.reward(*model.tokenize(["a"]), torch.rand(1, 3, 32, 32)),
    ):
        with pytest.raises(ConfigError, match="no gradients"):
            call()
    with pytest.raises(ConfigError, match="for the CPU"):
        RM.load(tiny_file, device="cuda", precision="int8")


def test_onednn_changes_the_speed_only(tiny_model, pictures):
    layers = [module for module in tiny_model.net.blip.modules() if isinstance(module, torch.nn.Linear)]
    assert {type(layer) for layer in layers} == {OneDnnLinear}
    fast = tiny_model.score("a cat", pictures)
    for layer in layers:
        layer.__class__ = torch.nn.Linear
    assert tiny_model.score("a cat", pictures) == pytest.approx(fast, abs=1e-5)
    layer, x = OneDnnLinear(3, 2), torch.randn(4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.double()(x.double()).dtype == torch.float64


def test_precision_names():
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.float16
    with pytest.raises(ConfigError, match="'int4'"):
        pick_dtype("int4", torch.device("cpu"))


def test_a_model_loaded_in_inference_mode_can_be_moved_and_differentiated(tiny_file):
    with torch.inference_mode():
        model = RM.load(tiny_file, device="cpu")
    model.to("cpu")
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    model.differentiable(["a"], images).sum().backward()
    assert images.grad is not None


def test_names():
    assert RM.available_models() == ["ImageReward-v1.0"]
    assert RM.available_scores()[:3] == ["CLIP", "BLIP", "Aesthetic"]
    for load in (RM.load, RM.load_score):
        with pytest.raises(ModelNotFoundError, match="ImageReward-v1.0, CLIP, BLIP, Aesthetic"):
            load("no-such-model")


def test_clip_without_transformers_says_what_to_do(monkeypatch):
    from imagereward_core.scorers.clip import clip_config

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelNotFoundError, match="need the package transformers.*install transformers"):
        clip_config({}, {}, 8)


def test_config_round_trip_and_errors():
    config = tiny_config(
        head=(8,), vision=VisionConfig(image_size=64, patch_size=16, width=24, depth=1, heads=2, stem="conv")
    )
    assert ModelConfig.from_json(config.to_json()) == config
    for wrong, message in (
        ({"vision": VisionConfig(patch_size=15)}, "not a multiple"),
        ({"vision": VisionConfig(stem="other")}, '"patch" or "conv"'),
        ({"vision": VisionConfig(patch_size=14, stem="conv")}, "power of two"),
        ({"text": TextConfig(width=10, heads=3)}, "text.width 10"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"std": 0.0}, "std must be positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            ModelConfig(**wrong)
    for text in ("{", '{"vision": {"depht": 3}}', "[]"):
        with pytest.raises(ConfigError, match="not a reward model config"):
            ModelConfig.from_json(text)


def test_conv_stem(tmp_path, pictures):
    config = tiny_config(vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=1, heads=2, stem="conv"))
    path = tmp_path / "conv.safetensors"
    save_file(random_state(config), path, metadata={METADATA_KEY: config.to_json()})
    scores = RM.load(path, device="cpu").score("a cat", pictures)
    assert len(set(scores)) == len(pictures)


def test_med_config(tmp_path, pictures):
    config = tiny_config(vision=VisionConfig(), head=ModelConfig().head, projection=256)
    path = tmp_path / "m.json"
    path.write_text(
        '{"vocab_size": 30524, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,'
        ' "intermediate_size": 64, "max_position_embeddings": 64}'
    )
    from imagereward_core.scorers.imagereward import text_config

    assert text_config(path) == config.text
    path.write_text("{}")
    with pytest.raises(ConfigError, match="m.json is not a BERT config"):
        text_config(path)


def test_importing_is_free():
    code = (
        "import sys, imagereward_core; bad = {'torch', 'numpy', 'PIL', 'transformers', 'tokenizers', 'huggingface_hub'}"
        " & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_twenty_load_cycles_leave_nothing_behind(tiny_file):
    import gc

    def tensors():
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    RM.load(tiny_file, device="cpu").score("a", picture(0))
    before = tensors()
    for _ in range(20):
        RM.load(tiny_file, device="cpu").score("a", picture(0))
    assert tensors() <= before


def test_the_package_ships_its_data():
    folder = pathlib.Path(RM.__file__).parent / "data"
    assert {path.name for path in folder.iterdir()} >= {"bert-base-uncased-vocab.txt", "bpe_simple_vocab_16e6.txt.gz"}
