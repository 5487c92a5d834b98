"""Checkpoints in: both layouts, three families, parity with diffusers and transformers, and what is refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from imagereward_core import clip_bpe as clip_tokenizer
from refl import clip_text, ldm
from refl.backend import load_backend, probe_prediction
from refl.checkpoints.single import open_checkpoint, recognise
from refl.conditioning import Conditioning
from refl.errors import CheckpointError

from .tiny import SIZE, text_encoder, tiny_modules, to_open_clip, tokenizer_files, write_bpe, write_tokenizer


def test_single_file_and_folder_are_the_same_model(models):
    file = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    folder = load_backend(models["folder"])
    assert file.family.key == folder.family.key == "sd1"
    prompts = ["a red cat", "", "a dog on the hill"]
    a, b = file.text.encode(prompts, SIZE), folder.text.encode(prompts, SIZE)
    torch.testing.assert_close(a.context, b.context)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([1, 300, 900])
    with torch.no_grad():
        torch.testing.assert_close(file.predict(x, t, a), folder.predict(x, t, b))
        torch.testing.assert_close(file.decode(x), folder.decode(x))
        images = torch.rand(2, 3, SIZE, SIZE)
        torch.testing.assert_close(file.encode_images(images), folder.encode_images(images))
    assert file.latent_factor == 2


def test_sdxl_single_file_equals_its_parts(models):
    backend = load_backend(models["sdxl"], clip_bpe=str(models["bpe"]))
    unet, vae, texts = tiny_modules(0, sdxl=True)
    cond = backend.text.encode(["a red cat", ""], SIZE)
    ids = torch.tensor(backend.text.parts[1][1](["a red cat"]))
    with torch.no_grad():
        context, pooled = texts[1].encode(ids, 2, False, backend.text.parts[1][1].end)
        torch.testing.assert_close(cond.context[:1, :, 64:], context)
        torch.testing.assert_close(cond.pooled[:1], pooled)
        assert not cond.context[1].any() and not cond.pooled[1].any()  # an empty prompt is zeros
        assert cond.time_ids[0].tolist() == [SIZE, SIZE, 0, 0, SIZE, SIZE]
        x, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
        extra = {"text_embeds": cond.pooled, "time_ids": cond.time_ids}
        expected = unet.eval()(x, t, encoder_hidden_states=cond.context, added_cond_kwargs=extra).sample
        torch.testing.assert_close(backend.predict(x, t, cond), expected)


FULL_SIZES = {
    "sd1": (
        {
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        686,
    ),
    "sdxl": (
        {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        1680,
    ),
}


@pytest.mark.parametrize("kind", FULL_SIZES)
def test_full_size_names_equal_diffusers_own_conversion(kind):
    """Names of every tensor of the real architectures, against the converter inside diffusers (meta tensors)."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config, count = FULL_SIZES[kind]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    state = dict(unet.state_dict().items())
    layout = ldm.UNetLayout.of(unet.config)
    ours = {f"{ldm.unet_module_to_ldm(layout, key.rsplit('.', 1)[0])}.{key.rsplit('.', 1)[1]}": key for key in state}
    assert len(ours) == len(state) == count
    theirs = convert_ldm_unet_checkpoint({ldm.UNET_PREFIX + key: key for key in ours}, config=unet.config)
    assert {ldm_key: name for name, ldm_key in theirs.items()} == ours
    assert ldm.unet_names(ours, layout) == ours
    # and the configuration can be read off the shapes alone
    inferred = ldm.unet_config(
        {key: state[name] for key, name in ours.items()}, 8 if kind == "sd1" else None, 64 if kind == "sdxl" else None
    )
    for name, value in inferred.items():
        found = unet.config[name]
        assert (list(found) if isinstance(found, tuple) else found) == value or (
            name == "transformer_layers_per_block" and found == 1
        ), name


def test_text_encoder_equals_transformers(models):
    from transformers import CLIPTextConfig, CLIPTextModel

    ours = text_encoder(64)
    theirs = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer_files()[0]),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=1,
            eos_token_id=5,
        )
    ).eval()
    state = clip_text.canonical(theirs.state_dict())
    ours.load_state_dict(state)
    ids = torch.randint(0, 500, (2, 77))
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
        norm = getattr(theirs, "text_model", theirs).final_layer_norm
        torch.testing.assert_close(ours.encode(ids, 1, True, 0)[0], expected.last_hidden_state, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            ours.encode(ids, 2, True, 0)[0], norm(expected.hidden_states[-2]), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(ours.encode(ids, 2, False, 0)[0], expected.hidden_states[-2], rtol=1e-4, atol=1e-5)


def test_open_clip_names_are_read(models):
    encoder = text_encoder(32, "gelu", 32)
    state = clip_text.canonical(to_open_clip(encoder.state_dict()))
    assert state.keys() == encoder.state_dict().keys()
    for key, tensor in encoder.state_dict().items():
        torch.testing.assert_close(state[key], tensor)


def test_tokenizer_equals_transformers(tmp_path):
    from transformers import CLIPTokenizer

    folder = write_tokenizer(tmp_path / "tokenizer")
    theirs = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, pad_token="<|endoftext|>"
    )
    ours = clip_tokenizer.from_folder(folder)
    same = clip_tokenizer.from_merge_list(write_bpe(tmp_path / "bpe.txt.gz"))
    prompts = ["a red cat", "A  RED,cat's (house)! 42", "émigré ☃ <|endoftext|>", "", "tree " * 100]
    expected = [theirs(prompt, padding="max_length", truncation=True, max_length=77)["input_ids"] for prompt in prompts]
    assert ours(prompts) == same(prompts) == expected


def test_published_bpe_file_has_clips_vocabulary():
    tokenizer = clip_tokenizer.published()
    assert (tokenizer.start, tokenizer.end) == (49406, 49407)
    assert tokenizer(["a photo of a cat"])[0][:8] == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    assert tokenizer.padded_with("!")(["a"])[0][:5] == [49406, 320, 49407, 0, 0]


@pytest.mark.parametrize(("prediction", "expected"), [("eps", "epsilon"), ("v", "v_prediction")])
def test_probe_tells_epsilon_from_v(models, prediction, expected):
    backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))

    class Oracle(torch.nn.Module):
        config = backend.unet.config

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t, **_):
            return (x if prediction == "eps" else torch.sin(torch.arange(x.numel()).view_as(x).float()),)

    backend.unet = Oracle()
    assert probe_prediction(backend) == expected


def change(models, tmp_path, name="changed.safetensors", drop=(), **tensors):
    state = {
        key: value for key, value in load_file(models["sd1"]).items() if not key.startswith(tuple(drop) or ("\0",))
    }
    save_file({**state, **tensors}, str(tmp_path / name))
    return tmp_path / name


def refused(path, *words, **options):
    with pytest.raises(CheckpointError) as caught:
        load_backend(path, **options)
    for word in words:
        assert word in str(caught.value), caught.value


def test_refusals_name_the_cause(models, tmp_path):
    first = "model.diffusion_model.input_blocks.0.0.weight"
    refused(change(models, tmp_path, **{first: torch.zeros(32, 9, 3, 3)}), "inpainting", "9 input channels")
    refused(change(models, tmp_path, name="model-lightning.safetensors"), "few-step", "lightning")
    refused(change(models, tmp_path, drop=["first_stage_model."]), "no VAE", "--vae", clip_bpe=str(models["bpe"]))
    refused(change(models, tmp_path, drop=["cond_stage_model."]), "no text encoder")
    refused(change(models, tmp_path, drop=["model.diffusion_model.middle_block"]), "form", clip_bpe=str(models["bpe"]))
    refused(
        change(models, tmp_path, **{first: torch.zeros(32, 4, 3, 3).to(torch.float8_e4m3fn)}), "quantised", "float8"
    )
    refiner = change(
        models,
        tmp_path,
        drop=["cond_stage_model."],
        **{"conditioner.embedders.0.model.ln_final.weight": torch.zeros(2)},
    )
    refused(refiner, "refiner")
    refused(tmp_path / "absent.safetensors", "no such checkpoint")
    refused("runwayml/stable-diffusion-v1-5", "nothing is fetched", "huggingface-cli download runwayml/stable-diff")
    refused(tmp_path, "unet/config.json")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, str(tmp_path / "l.safetensors"))
    refused(tmp_path / "l.safetensors", "a LoRA")
    save_file({"double_blocks.0.x": torch.zeros(1)}, str(tmp_path / "f.safetensors"))
    refused(tmp_path / "f.safetensors", "FLUX")
    (tmp_path / "broken.safetensors").write_bytes(b"not a checkpoint")
    refused(tmp_path / "broken.safetensors", "damaged")


def test_hyperrealistic_is_not_mistaken_for_hyper_sd(models, tmp_path):
    path = change(models, tmp_path, name="hyperrealisticTurbine_v3.safetensors")
    assert open_checkpoint(path).family.key == "sd1"


def test_pickled_checkpoint_is_never_executed(models, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with open(tmp_path / "evil.ckpt", "wb") as file:
        pickle.dump({"state_dict": {"x": Evil()}}, file)
    refused(tmp_path / "evil.ckpt", "not opened", ".safetensors")
    torch.save({"state_dict": {"x": Evil()}}, tmp_path / "evil2.ckpt")
    refused(tmp_path / "evil2.ckpt", "not opened")
    assert not (tmp_path / "ran").exists()


def test_ckpt_with_tensors_only_is_read(models, tmp_path):
    torch.save({"state_dict": load_file(models["sd1"]), "global_step": 3}, tmp_path / "old.ckpt")
    backend = load_backend(tmp_path / "old.ckpt", clip_bpe=str(models["bpe"]))
    assert backend.family.key == "sd1"


def test_old_text_encoder_names_are_read(models, tmp_path):
    state = {
        key.replace("transformer.text_model.", "transformer."): value for key, value in load_file(models["sd1"]).items()
    }
    save_file(state, str(tmp_path / "old.safetensors"))
    new = load_backend(models["sd1"], clip_bpe=str(models["bpe"])).text.encode(["a cat"], SIZE)
    old = load_backend(tmp_path / "old.safetensors", clip_bpe=str(models["bpe"])).text.encode(["a cat"], SIZE)
    torch.testing.assert_close(old.context, new.context)


def test_separate_vae_and_v_prediction_marker(models, tmp_path):
    vae = {
        key.removeprefix("first_stage_model."): value
        for key, value in load_file(models["sd1"]).items()
        if key.startswith("first_stage_model.")
    }
    save_file(vae, str(tmp_path / "vae.safetensors"))
    path = change(models, tmp_path, drop=["first_stage_model."], v_pred=torch.zeros(1), ztsnr=torch.zeros(1))
    backend = load_backend(path, vae=str(tmp_path / "vae.safetensors"), clip_bpe=str(models["bpe"]))
    assert backend.schedule.prediction_type == "v_prediction" and backend.schedule.zero_snr


def test_configuration_beside_the_file_is_used(models, tmp_path):
    """Heads, latent scale, noise schedule and vocabulary of models that are not of the published sizes."""
    path = tmp_path / "small.safetensors"
    shutil.copy(models["sd1"], path)
    path.with_suffix(".yaml").write_text(
        "model: {params: {parameterization: v, linear_start: 0.0015, linear_end: 0.0195, scale_factor: 0.5,"
        " unet_config: {params: {num_heads: 4}}}}"
    )
    backend = load_backend(path, clip_bpe=str(models["bpe"]))
    assert backend.latent_scale == 0.5 and backend.schedule.prediction_type == "v_prediction"
    assert float(1 - backend.schedule.alphas_cumprod[0]) == pytest.approx(0.0015)
    assert backend.unet.config.attention_head_dim == 4
    shutil.copytree(models["folder"], path.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    backend = load_backend(path)  # no token file needed: the folder has its own
    assert backend.latent_scale == 0.18215 and backend.unet.config.attention_head_dim == 8


def test_sd2_is_recognised():
    first = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}
    kind = recognise({**first, "cond_stage_model.model.ln_final.weight": torch.zeros(1)}, {}, Path("x"))
    assert kind.key == "sd2" and kind.clip_skip == 2 and kind.lora_metadata["ss_v2"] == "True"


def test_sd2_text_comes_from_the_last_but_one_layer(tmp_path):
    from refl.families import family
    from refl.families.sd1 import SDPrompts

    encoder = text_encoder(32, "gelu")
    tokenizer = clip_tokenizer.from_folder(write_tokenizer(tmp_path / "t")).padded_with("!")
    cond: Conditioning = SDPrompts(encoder, tokenizer, family("sd2").clip_skip).encode(["a cat"], SIZE)
    ids = torch.tensor(tokenizer(["a cat"]))
    torch.testing.assert_close(cond.context, encoder.encode(ids, 2, True, 0)[0])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_tiny_autoencoder_is_read_from_the_decoders_file(models, tmp_path, suffix):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    whole = AutoencoderTiny().eval()
    # the original numbers its layers from a clamp without weights on
    state = {
        f"{int(key.split('.')[1]) + 1}.{key.split('.', 2)[2]}": value
        for key, value in whole.decoder.state_dict().items()
    }
    assert "1.weight" in state and "3.conv.0.weight" in state
    path = tmp_path / f"taesd_decoder{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]), taesd=str(path))
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            backend.decode(latents, tiny=True), whole.decode(latents, return_dict=False)[0] / 2 + 0.5
        )
        assert not torch.equal(
            backend.decode(latents)[0, 0], backend.decode(latents, tiny=True)[0, 0, :16, :16]
        )  # evaluation keeps the real VAE
    del state["1.weight"]
    torch.save(state, tmp_path / "broken.pth")
    for bad, message in (
        ("broken.pth", "is no decoder of a tiny autoencoder"),
        ("nothing", "neither a decoder's file nor a diffusers folder"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_backend(models["sd1"], clip_bpe=str(models["bpe"]), taesd=str(tmp_path / bad))
