"""CLIP and Aesthetic against the original code (OpenAI's, packaged as clip-anytorch) on small random networks."""

import importlib.util
import pathlib
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from imagereward_core import clip_bpe as clip_tokenizer
from imagereward_core import registry
from imagereward_core.model.reward import RewardHead
from tests.conftest import shared

pytest.importorskip("transformers", reason="the CLIP scorer needs transformers")


def original(module: str):
    """A module of the original package, loaded by file: its __init__ imports torchvision, which nothing here needs."""
    spec = importlib.util.find_spec("clip")
    if spec is None or not spec.origin:
        pytest.skip("needs clip-anytorch")
    for name in ("ftfy", "regex"):
        pytest.importorskip(name)
    path = pathlib.Path(spec.origin).with_name(f"{module}.py")
    if not path.exists():
        pytest.skip("needs clip-anytorch")
    loaded = types.ModuleType(f"original_clip_{module}")
    loaded.__file__ = str(path)
    sys.modules[loaded.__name__] = loaded
    exec(compile(path.read_text(), str(path), "exec"), loaded.__dict__)
    return loaded


SIZES = {"text": (64, 2, 1), "vision": (64, 2, 1)}


@pytest.fixture(scope="module")
def pair():
    """(the original network, our scorer with the same weights)."""
    from imagereward_core.scorers.clip import ClipScorer, build_clip, clip_config

    torch.manual_seed(0)
    theirs = (
        original("model")
        .CLIP(
            embed_dim=48,
            image_resolution=56,
            vision_layers=2,
            vision_width=64,
            vision_patch_size=14,
            context_length=77,
            vocab_size=49408,
            transformer_width=64,
            transformer_heads=1,
            transformer_layers=2,
        )
        .float()
        .eval()
    )
    for parameter in theirs.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2 if parameter.shape[0] != 49408 else 1.0)
    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision = {**text, "patch_size": 14, "image_size": 56}
    net = build_clip(
        hub_names(theirs.state_dict()), clip_config(text, vision, 48), torch.float32, torch.device("cpu"), "original"
    )
    scorer = ClipScorer(net, registry.get("CLIP"), torch.device("cpu"), size=56)
    return theirs, scorer


def hub_names(state):
    """The original's key names → Hugging Face's."""
    out = {
        "logit_scale": state["logit_scale"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    for old, new in (
        ("ln_final", "text_model.final_layer_norm"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
    ):
        for part in ("weight", "bias"):
            out[f"{new}.{part}"] = state[f"{old}.{part}"]
    for old, new in (("transformer", "text_model"), ("visual.transformer", "vision_model")):
        for layer in range(2):
            source, target = f"{old}.resblocks.{layer}", f"{new}.encoder.layers.{layer}"
            for part in ("weight", "bias"):
                for name, chunk in zip("qkv", state[f"{source}.attn.in_proj_{part}"].chunk(3)):
                    out[f"{target}.self_attn.{name}_proj.{part}"] = chunk.contiguous()
                for a, b in (
                    ("attn.out_proj", "self_attn.out_proj"),
                    ("ln_1", "layer_norm1"),
                    ("ln_2", "layer_norm2"),
                    ("mlp.c_fc", "mlp.fc1"),
                    ("mlp.c_proj", "mlp.fc2"),
                ):
                    out[f"{target}.{b}.{part}"] = state[f"{source}.{a}.{part}"]
    return out


PROMPTS = [
    "a photo of a cat",
    "",
    "A “curly” quote’s café, naïve — 東京 &amp; 😀",
    "it's 42!! <|endoftext|> x",
    "word " * 200,
]


def test_token_ids():
    tokenizer = original("simple_tokenizer").SimpleTokenizer()
    prompts = list(PROMPTS)
    path = shared("data", "imagereward", "test.json")
    import json

    prompts += [item["prompt"] for item in json.loads(path.read_text())]
    for prompt in prompts:
        theirs = [49406, *tokenizer.encode(prompt), 49407]
        if len(theirs) > 77:
            theirs = [*theirs[:76], 49407]
        assert clip_tokenizer.tokenize([prompt])[0].tolist() == theirs, prompt


def test_vocabulary_has_every_token():
    vocab, merges = clip_tokenizer.vocabulary()
    assert len(vocab) == 49408 and len(merges) == 48894
    assert vocab["<|startoftext|>"] == 49406 and vocab["<|endoftext|>"] == 49407


def padded(prompts):
    ids = clip_tokenizer.tokenize(prompts)
    return F.pad(ids, (0, 77 - ids.shape[1]))


def test_cosines(pair):
    theirs, scorer = pair
    pixels = torch.randn(len(PROMPTS), 3, 56, 56)
    with torch.no_grad():
        text = F.normalize(theirs.encode_text(padded(PROMPTS)), dim=-1)
        image = F.normalize(theirs.encode_image(pixels), dim=-1)
        ours = scorer.combine(PROMPTS, scorer.encode_images(pixels))
    expected = (text * image).sum(-1)
    assert expected.std() > 0.05
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_gradient_reaches_the_image(pair):
    _, scorer = pair
    images = torch.rand(2, 3, 80, 64, requires_grad=True)
    scorer.differentiable(["a cat", "a dog"], images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_aesthetic_head_on_real_embeddings():
    import json

    import numpy as np

    from imagereward_core import weights
    from imagereward_core.scorers.aesthetic import build_head

    folder = shared("data", "aesthetic")
    path = str(folder / "sac+logos+ava1-l14-linearMSE.pth")
    head = build_head(weights.read_state(path)[0], torch.device("cpu"), path)
    expected = [1.6555, 2.3593, 3.0698, 3.6725, 4.2380, 4.7010, 5.0731, 5.3654, 5.5767, 5.7468]
    rows = torch.from_numpy(
        np.concatenate([np.load(folder / f"rating{n}.npy").reshape(1, -1) for n in range(10)])
    ).float()
    with torch.no_grad():
        assert head(rows)[:, 0].tolist() == pytest.approx(expected, abs=2e-4)
    assert json.loads((folder / "golden.json").read_text())


def test_aesthetic_scores_ignore_the_prompt(pair, tmp_path):
    from PIL import Image

    from imagereward_core.scorers.aesthetic import AestheticScorer

    theirs, clip_scorer = pair
    torch.manual_seed(1)
    head = RewardHead(48, (16, 8)).eval()
    scorer = AestheticScorer(clip_scorer.net, head, registry.get("Aesthetic"), torch.device("cpu"))
    scorer.size = 56
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    from imagereward_core.preprocess import pil_to_pixels

    with torch.no_grad():
        expected = head(F.normalize(theirs.encode_image(pil_to_pixels(image, 56)[None]), dim=-1)).item()
    assert scorer.score("a", image) == pytest.approx(expected, abs=1e-5)
    assert scorer.score_pairs(["a", "b"], [image, image]) == pytest.approx([expected] * 2, abs=1e-5)
