"""Code written for image-reward runs with only the import changed."""

import pytest
import torch
from PIL import Image

import imagereward_core as RM
from imagereward_core.errors import ConfigError


def by_hand(model, prompts, image, length=35):
    """A reward as callers compute it who keep the gradient: tokenise, both encoders, head, standardise."""
    tokens = model.blip.tokenizer(
        prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).to(model.device)
    seen = model.blip.visual_encoder(image)
    everything = torch.ones(seen.size()[:-1], dtype=torch.long).to(image.device)
    read = model.blip.text_encoder(
        tokens.input_ids,
        attention_mask=tokens.attention_mask,
        encoder_hidden_states=seen,
        encoder_attention_mask=everything,
        return_dict=True,
    )
    return (model.mlp(read.last_hidden_state[:, 0, :]) - model.mean) / model.std


def test_the_reward_by_hand_is_the_score_and_has_its_gradient(tiny_file):
    model = RM.load(tiny_file, device="cpu").to(device="cpu", dtype=torch.float32)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    picture = Image.effect_noise((48, 40), 80).convert("RGB")
    pixels = model.preprocess(picture).unsqueeze(0).requires_grad_()
    reward = by_hand(model, "a cat on a mat", pixels)
    assert reward.shape == (1, 1)
    assert reward.item() == pytest.approx(model.score("a cat on a mat", picture), abs=1e-5)
    reward.sum().backward()
    tokens = model.blip.tokenizer("a cat on a mat", max_length=35)
    again = model.preprocess(picture).unsqueeze(0).requires_grad_()
    model.score_gard(tokens.input_ids, tokens.attention_mask, again).sum().backward()
    assert float(pixels.grad.abs().sum()) > 0
    torch.testing.assert_close(pixels.grad, again.grad, atol=1e-5, rtol=1e-4)
    called = model(tokens["input_ids"], tokens["attention_mask"], pixels)
    assert torch.equal(called, model.reward(*(tokens[name] for name in tokens), pixels))
    assert model("a cat on a mat", picture) == model.score("a cat on a mat", picture)


def test_half_precision_keeps_the_head_in_fp32(tiny_file):
    model = RM.load(tiny_file, device="cpu")
    exact = model.score("a cat", picture := Image.effect_noise((48, 40), 80).convert("RGB"))
    assert model.bfloat16() is model
    assert {weight.dtype for weight in model.mlp.parameters()} == {torch.float32}
    assert {weight.dtype for weight in model.blip.parameters()} == {torch.bfloat16}
    reward = by_hand(model, ["a cat"], model.preprocess(picture)[None].to(torch.bfloat16))
    assert reward.dtype is torch.float32 and reward.item() == pytest.approx(exact, abs=0.2)
    assert model.half().dtype is torch.float16 and model.float().dtype is torch.float32


def test_a_scorer_is_handled_like_a_module(tiny_file):
    model = RM.load(tiny_file, device="cpu")
    names = dict(model.named_parameters())
    assert names.keys() <= model.state_dict().keys() and "mlp.layers.0.weight" in names
    assert {name for name, _ in model.named_modules()} >= {"blip.visual_encoder", "mlp"}
    assert model.train().training and not model.eval().training
    model.requires_grad_(True)
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.cpu() is model and model.to("cpu", torch.float32).device == torch.device("cpu")
    assert model.to(torch.zeros(1)) is model
    with pytest.raises(ConfigError, match="floating-point"):
        model.to(torch.int64)
    with pytest.raises(ConfigError, match="memory"):
        model.to("cpu", memory="fast")


def test_weights_go_out_and_in(tiny_file):
    model = RM.load(tiny_file, device="cpu")
    picture = Image.effect_noise((48, 40), 80).convert("RGB")
    before = model.score("a cat", picture)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    last = max(key for key in state if key.startswith("mlp.") and key.endswith("bias"))
    model.load_state_dict({**state, last: state[last] + 1})
    assert model.score("a cat", picture) == pytest.approx(before + 1, abs=1e-5)


def test_what_the_views_do_not_give_is_said(tiny_file):
    model = RM.load(tiny_file, device="cpu")
    with pytest.raises(ConfigError, match="return_tensors"):
        model.blip.tokenizer("a cat", return_tensors="np")
    pixels = torch.zeros(1, 3, 32, 32)
    seen = model.blip.visual_encoder(pixels)
    tokens = model.blip.tokenizer("a cat", padding=True)
    with pytest.raises(ConfigError, match="all ones"):
        model.blip.text_encoder(
            tokens.input_ids,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.zeros(seen.shape[:2], dtype=torch.long),
        )
    alone = model.blip.text_encoder(tokens.input_ids, tokens.attention_mask, mode="text", return_dict=False)[0]
    assert alone.shape == (1, 4, 32)
    assert dict(model.blip.text_encoder.named_parameters())
