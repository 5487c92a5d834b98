"""Files as they circulate: compiled, variants, incomplete, foreign, without a word on what they predict."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from imagereward_core.atomic import replacing
from refl.backend import load_backend, open_model, probe_prediction
from refl.checkpoints.folder import read_part
from refl.checkpoints.prediction import probe
from refl.checkpoints.single import open_checkpoint
from refl.errors import CheckpointError
from refl.families import FAMILIES, FLOWS, UNETS, family
from refl.schedule import NoiseSchedule

from .tiny import SIZE, ldm_vae_state, tiny_modules

UNET, VAE, PROJECTION = "model.diffusion_model.", "first_stage_model.", "conditioner.embedders.1.model.text_projection"


def saved(tmp_path, state, metadata=None, name="changed.safetensors") -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, str(tmp_path / name), metadata)
    return tmp_path / name


def refusal(path, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_backend(path, **options)
    return str(caught.value)


@pytest.fixture()
def folder(models, tmp_path) -> Path:
    """A copy of the diffusers folder, to be changed."""
    return Path(shutil.copytree(models["folder"], tmp_path / "model"))


def rewrite(file: Path, change) -> None:
    changed = {key: tensor.contiguous() for key, tensor in change(load_file(file)).items()}
    with replacing(file) as temporary:  # tensors read from the file may be a map of it: it must live on
        save_file(changed, str(temporary))


def same_unet(backend, models) -> bool:
    wanted = load_backend(models["folder"]).unet.state_dict()
    found = backend.unet.state_dict()
    return wanted.keys() == found.keys() and all(torch.equal(wanted[key], found[key]) for key in wanted)


# names


def test_a_models_own_size_is_read_from_its_files(models, folder, tmp_path):
    """tiny is drawn at 16 pixels: 8 cells of a side, and its autoencoder halves once."""
    assert open_model(models["sd1"]).usual.resolution == 512  # nothing says so: as its family
    alone = tmp_path / "alone.safetensors"
    shutil.copy(models["sd1"], alone)
    alone.with_suffix(".yaml").write_text("model: {params: {image_size: 8, unet_config: {params: {image_size: 32}}}}")
    assert open_model(alone).usual.resolution == SIZE
    described = tmp_path / "described.safetensors"
    shutil.copy(models["sd1"], described)
    (tmp_path / "described" / "unet").mkdir(parents=True)
    shutil.copy(folder / "unet" / "config.json", tmp_path / "described" / "unet")
    assert open_model(described).usual.resolution == SIZE
    assert open_model(folder).usual.resolution == SIZE and open_model(folder).usual.guidance == 7.0


@pytest.mark.parametrize("mark", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_left_by_compiling_are_taken_off_wherever_they_stand(models, tmp_path, mark):
    state = load_file(models["sd1"])
    for changed in (
        {key.replace(UNET, UNET + mark): tensor for key, tensor in state.items()},
        {mark + key: tensor for key, tensor in state.items()},
    ):
        path = saved(tmp_path, changed)
        assert same_unet(load_backend(path, clip_bpe=str(models["bpe"])), models)


@pytest.mark.parametrize("mark", ["_orig_mod.", "module."])
def test_names_left_by_compiling_are_taken_off_in_folders(models, folder, mark):
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        rewrite(
            folder / part / f"{name}.safetensors",
            lambda state: {mark + key: tensor for key, tensor in state.items()},
        )
    backend = load_backend(folder)
    assert same_unet(backend, models)
    wanted = load_backend(models["folder"]).text.encode(["a red cat"], SIZE)
    torch.testing.assert_close(backend.text.encode(["a red cat"], SIZE).context, wanted.context)


def test_the_suffix_may_be_in_capitals(models, tmp_path):
    path = tmp_path / "UPPER.SAFETENSORS"
    shutil.copy(models["sd1"], path)
    assert load_backend(path).family.key == "sd1"


# folders, strictly


@pytest.mark.parametrize(
    ("part", "file", "key"),
    [
        ("unet", "diffusion_pytorch_model", "conv_in.weight"),
        ("vae", "diffusion_pytorch_model", "decoder.conv_out.bias"),
        ("text_encoder", "model", "text_model.encoder.layers.1.mlp.fc1.weight"),
    ],
)
def test_a_missing_or_reshaped_tensor_of_any_part_is_named(folder, part, file, key):
    weights = folder / part / f"{file}.safetensors"
    whole = load_file(weights)
    rewrite(weights, lambda state: {name: tensor for name, tensor in state.items() if name != key})
    plain = key.removeprefix("text_model.encoder.")
    message = refusal(folder)
    assert "1 missing" in message and plain in message and part in message
    rewrite(weights, lambda _: {**whole, key: torch.zeros(3, 3)})
    message = refusal(folder)
    assert "of another shape" in message and f"{plain} [3, 3] where" in message and part in message


def test_a_text_encoder_without_its_last_layer_is_refused(folder):
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": 2}))
    rewrite(
        folder / "text_encoder" / "model.safetensors",
        lambda state: {key: tensor for key, tensor in state.items() if ".layers.1." not in key},
    )
    assert "have 1 layers, config.json says 2" in refusal(folder)


@pytest.mark.parametrize("variant", ["fp16", "non_ema", "bf16", "mine"])
def test_variants_are_found_and_said(models, folder, caplog, variant):
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{name}.safetensors").rename(folder / part / f"{name}.{variant}.safetensors")
    with caplog.at_level(logging.INFO):
        assert same_unet(load_backend(folder), models)
    assert f"diffusion_pytorch_model.{variant}.safetensors is taken" in caplog.text


def test_the_plain_file_comes_before_a_variant(models, folder):
    save_file({"x": torch.zeros(1)}, str(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"))
    assert same_unet(load_backend(folder), models)


@pytest.mark.parametrize("index", ["diffusion_pytorch_model.safetensors.index{}.json"])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_in_several_files(models, folder, index, variant):
    unet = folder / "unet"
    state = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names = [f"diffusion_pytorch_model{variant}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    placed = {key: names[number % 2] for number, key in enumerate(state)}
    for name in names:
        save_file({key: tensor for key, tensor in state.items() if placed[key] == name}, str(unet / name))
    (unet / index.format(variant)).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    assert same_unet(load_backend(folder), models)
    (unet / names[1]).unlink()
    assert f"{names[1]}, which is not there" in refusal(folder)
    (unet / index.format(variant)).write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    assert "does not lie in this folder" in refusal(folder)


def test_a_part_without_weights_says_what_is_there(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "flax_model.msgpack")
    message = refusal(folder)
    assert "no diffusion_pytorch_model.safetensors" in message and "found flax_model.msgpack" in message


def test_old_names_of_the_autoencoders_attention(models, folder):
    """diffusers' first versions: query, key, value, proj_attn. The published SD 1.5 folder has them."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(key):
        for new, name in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        return key

    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    wanted = load_file(weights)
    rewrite(weights, lambda state: {rename(key): tensor for key, tensor in state.items()})
    assert load_file(weights).keys() != wanted.keys()
    found = load_backend(folder).vae.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


# what is missing


def test_incomplete_files_say_what_is_missing(models, tmp_path):
    sd1, sdxl = load_file(models["sd1"]), load_file(models["sdxl"])
    no_projection = {key: tensor for key, tensor in sdxl.items() if key != PROJECTION}
    assert f"lacks {PROJECTION}" in refusal(saved(tmp_path, no_projection))
    label = f"{UNET}label_emb.0.0.weight"
    assert "label_emb" in refusal(saved(tmp_path, {key: t for key, t in sdxl.items() if key != label}))
    unet = {key: tensor for key, tensor in sd1.items() if key.startswith(UNET)}
    message = refusal(saved(tmp_path, unet))
    assert "holds a UNet" in message and "no text encoder and no VAE" in message
    bare = {key.removeprefix(UNET): tensor for key, tensor in unet.items()}
    assert "holds a UNet" in refusal(saved(tmp_path, bare))
    wide = {**bare, "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 2048)}
    wide = {key: t for key, t in wide.items() if "attn2.to_k" not in key or t.shape[1] == 2048}
    assert "looks like SDXL" in refusal(saved(tmp_path, wide))
    text = {key: tensor for key, tensor in sd1.items() if not key.startswith(UNET)}
    assert "no UNet" in refusal(saved(tmp_path, text))


@pytest.mark.parametrize("family_name", ["sd1", "sdxl"])
def test_no_single_missing_tensor_is_a_key_error(models, tmp_path, family_name):
    """Every tensor that sizes are read off, and a few others, taken away one at a time."""
    state = load_file(models[family_name])
    marks = (
        "input_blocks.0.0.weight",
        "out.2.weight",
        "out_layers.3.weight",
        "decoder.conv_in.weight",
        "decoder.conv_out.weight",
        "decoder.up.0.block.0.conv1.weight",
        "encoder.conv_in.weight",
        "token_embedding.weight",
        "layers.0.mlp.fc1.weight",
        "positional_embedding",
        "position_embedding.weight",
        "ln_final.weight",
        "proj_in.weight",
        "time_embed.0.weight",
    )
    tried = 0
    for key in [key for key in state if key.endswith(marks)]:
        path = saved(tmp_path, {name: tensor for name, tensor in state.items() if name != key})
        assert str(path) in refusal(path, clip_bpe=str(models["bpe"])), key
        tried += 1
    assert tried > 20


def test_what_the_unet_lacks_is_named_as_in_the_file(models, tmp_path):
    key = f"{UNET}middle_block.0.in_layers.2.weight"
    state = {name: tensor for name, tensor in load_file(models["sd1"]).items() if name != key}
    assert f"1 missing ({key})" in refusal(saved(tmp_path, state))


# what is something else

FOREIGN = {
    "FLUX": [
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
        "single_transformer_blocks.0.proj_out.weight",
    ],
    "Stable Diffusion 3": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
    "PixArt": ["adaln_single.linear.weight", "t_block.1.weight"],
    "HunyuanDiT": ["model.diffusion_model.mlp_t5.0.weight"],
    "Lumina": ["model.diffusion_model.cap_embedder.1.weight"],
    "Z-Image": ["model.diffusion_model.x_pad_token", "all_x_embedder.2-1.weight"],
    "Cosmos-Predict2": ["net.blocks.0.adaln_modulation_self_attn.1.weight"],
    "Wan": ["model.diffusion_model.head.modulation"],
    "Cascade": ["model.diffusion_model.clip_txt_mapper.weight"],
    "Qwen-Image": ["transformer_blocks.0.img_mod.1.weight"],
    "AuraFlow": ["model.cond_seq_linear.weight"],
    "T5": ["encoder.block.0.layer.0.SelfAttention.q.weight"],
    "a VAE": ["decoder.up_blocks.0.resnets.0.conv1.weight"],
    "ControlNet": ["control_model.input_blocks.0.0.weight"],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_models_are_refused_by_name(tmp_path, name):
    for key in FOREIGN[name]:
        message = refusal(saved(tmp_path, {key: torch.zeros(2, 2)}))
        assert name in message and "diffusion transformer" not in message, message


def test_relatives_of_sdxl_are_refused_by_name(models, tmp_path):
    sdxl = load_file(models["sdxl"])
    edm = {**sdxl, "edm_mean": torch.zeros(1), "edm_std": torch.zeros(1)}
    assert "Playground v2.5" in refusal(saved(tmp_path, edm))
    kolors = {**sdxl, f"{UNET}encoder_hid_proj.weight": torch.zeros(1)}
    assert "Kolors" in refusal(saved(tmp_path, kolors))
    kolors = {**sdxl, f"{UNET}label_emb.0.0.weight": torch.zeros(8, 5632)}
    assert "Kolors" in refusal(saved(tmp_path, kolors))
    ssd = {key: tensor for key, tensor in sdxl.items() if not key.startswith(f"{UNET}middle_block.1.")}
    assert "SSD-1B" in refusal(saved(tmp_path, ssd))


@pytest.mark.parametrize(
    ("file", "changes", "word"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "FLUX"),
        ("model_index.json", {"_class_name": "KolorsPipeline"}, "Kolors"),
        ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}, "Stable Diffusion 3"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMDPMSolverMultistepScheduler"}, "Playground v2.5"),
        ("vae/config.json", {"latents_mean": [0.0, 0.0, 0.0, 0.0]}, "Playground v2.5"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow-matching"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "'sample' is not supported"),
        ("unet/config.json", {"mid_block_type": None}, "SSD-1B"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "latent consistency"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"encoder_hid_dim_type": "text_proj"}, "Kolors"),
    ],
)
def test_folders_of_other_models_are_refused_by_name(folder, file, changes, word):
    path = folder / file
    data = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**data, **changes}))
    assert word in refusal(folder)


def test_a_vae_of_other_latents_is_refused(models, tmp_path):
    from diffusers import AutoencoderKL

    from .tiny import VAE_CONFIG

    wide = AutoencoderKL(**{**VAE_CONFIG, "latent_channels": 16})
    path = saved(tmp_path, ldm_vae_state(wide), name="flux-ae.safetensors")
    message = refusal(models["sd1"], vae=str(path), clip_bpe=str(models["bpe"]))
    assert "latents of 16 channels and the UNet takes 4" in message


@pytest.mark.parametrize("form", ["ldm", "diffusers names", "folder"])
def test_a_vae_of_ones_own_is_the_one_used(models, tmp_path, form):
    _, vae, _ = tiny_modules(5)
    if form == "folder":
        vae.save_pretrained(tmp_path / "vae")
        path = tmp_path / "vae"
    else:
        path = saved(tmp_path, ldm_vae_state(vae) if form == "ldm" else vae.state_dict(), name="vae.safetensors")
    for source in ("sd1", "folder"):
        found = load_backend(models[source], vae=str(path), clip_bpe=str(models["bpe"])).vae.state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in vae.state_dict().items())


# what is predicted


def said(caplog, path, **options):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        backend = load_backend(path, **options)
    return backend.schedule.prediction_type, backend.schedule.zero_snr, caplog.text


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_what_is_predicted_is_told_by_keys_metadata_yaml_or_folder(models, tmp_path, caplog, kind):
    state = load_file(models[kind])
    path = saved(tmp_path, state, {"modelspec.prediction_type": "v"})
    prediction, snr, text = said(caplog, path)
    assert (prediction, snr) == ("v_prediction", False) and "the metadata modelspec.prediction_type" in text
    path = saved(
        tmp_path, {**state, "v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, {"a.zero_terminal_snr": "False"}
    )
    prediction, snr, text = said(caplog, path)
    assert (prediction, snr) == ("v_prediction", True) and "the key v_pred" in text and "the key ztsnr" in text
    assert "the first is taken" in text  # the metadata contradicts the key
    path = saved(tmp_path, state)
    path.with_suffix(".yaml").write_text("model: {params: {parameterization: v, zero_terminal_snr: true}}")
    prediction, snr, text = said(caplog, path)
    assert (prediction, snr) == ("v_prediction", True) and "changed.yaml beside it" in text
    prediction, _, text = said(caplog, path, prediction_type="epsilon")
    assert prediction == "epsilon" and "the setting prediction_type" in text


def test_what_a_folder_predicts_is_its_schedulers_word(folder, caplog):
    config = folder / "scheduler" / "scheduler_config.json"
    data = json.loads(config.read_text())
    prediction, snr, text = said(caplog, folder)
    assert (prediction, snr) == ("epsilon", False) and "scheduler_config.json, which names none" in text
    config.write_text(json.dumps({**data, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}))
    prediction, snr, text = said(caplog, folder)
    assert (prediction, snr) == ("v_prediction", True) and "scheduler/scheduler_config.json" in text


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_network_that_shows_neither_is_taken_for_what_is_usual(models, tmp_path, caplog, kind):
    prediction, _, text = said(caplog, models[kind])
    assert prediction == "epsilon" and "its files do not say" in text


@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
def test_probe_finds_out_what_a_perfect_network_predicts(predicted):
    """The exact answer of a network that knows its picture: a smooth one of small amplitude."""
    schedule = NoiseSchedule({}, predicted)
    picture = torch.linspace(-0.4, 0.4, 16).repeat(1, 4, 16, 1)

    def network(x, t):
        a, s = schedule.levels(t, x)
        noise = (x - a * picture) / s
        return schedule.target(picture, noise, t)

    assert probe(network, schedule, (1, 4, 16, 16)) == predicted
    assert probe(lambda x, t: torch.full_like(x, 0.1), schedule, (1, 4, 16, 16)) is None


def test_probe_tells_what_the_shipped_model_predicts():
    from smallworld.pipeline import TINY_SD

    backend = load_backend(TINY_SD)
    assert backend.schedule.prediction_type == "v_prediction" == probe_prediction(backend)
    assert backend.prediction_source == "the metadata modelspec.prediction_type"


# one interface


def test_every_family_answers_for_itself():
    assert set(UNETS) == {"sd1", "sd2", "sdxl"}
    assert set(FLOWS) == {"sd3", "flux", "flux2", "z-image", "lumina2", "qwen-image", "anima"}
    assert {**UNETS, **FLOWS} == FAMILIES
    for key, kind in FAMILIES.items():
        assert kind.key == key and kind is family(key) and kind.licence
    for key, kind in UNETS.items():
        blank = kind.blank(kind.unet, torch.float32)
        assert blank.context.shape == (1, 77, kind.unet["cross_attention_dim"])
        assert (blank.pooled is not None) == (key == "sdxl")
    assert family("sdxl").blank(family("sdxl").unet, torch.float32).pooled.shape == (1, 1280)
    v = NoiseSchedule({}, "v_prediction")
    assert family("sd2").lora_facts(v)["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert family("sd1").lora_facts(v)["modelspec.architecture"] == "stable-diffusion-v1/lora"


def test_the_estimate_opens_what_the_loader_opens(models, tmp_path, folder):
    """Sizes and refusals are the loader's: one code for both."""
    single, diffusers_folder = open_model(models["sd1"]), open_model(folder)
    loaded = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    for name, value in single.unet_config.items():
        found = loaded.unet.config[name]
        assert (list(found) if isinstance(found, tuple) else found) == value, name
    assert diffusers_folder.unet_config["block_out_channels"] == single.unet_config["block_out_channels"]
    assert diffusers_folder.vae_config["block_out_channels"] == single.vae_config["block_out_channels"]
    inpainting = {**load_file(models["sd1"]), f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    with pytest.raises(CheckpointError, match="inpainting"):
        open_model(saved(tmp_path, inpainting))


def test_a_plain_install_needs_no_token_file(models, monkeypatch):
    """CLIP's vocabulary is shipped by the core; ids are those of transformers' tokeniser with its padding."""
    tokenizer = open_checkpoint(models["sd1"])._tokenizer("")
    assert tokenizer(["a photo of a cat"])[0] == [49406, 320, 1125, 539, 320, 2368, *[49407] * 71]
    second = tokenizer.padded_with("!")
    assert second(["a photo of a cat"])[0] == [49406, 320, 1125, 539, 320, 2368, 49407, *[0] * 70]
    assert tokenizer.pad == 49407 and second._tokenizer is tokenizer._tokenizer  # its vocabulary is not made twice
    assert tokenizer.padded_with("no such token").pad == 49407
    known = {
        "A  RED,cat's (house)! 42": [320, 736, 267, 2368, 568, 263, 1212, 7805, 275, 273],
        "émigré ☃ <|endoftext|>": [3459, 3736, 4166, 1741, 481, 49407],
        "<|STARTOFTEXT|> x": [27, 347, 993, 6659, 4160, 91, 285, 343],
        "ΟΔΟΣ": [138, 123, 138, 112, 138, 123, 139, 481],
        "": [],
    }
    for prompt, ids in known.items():
        assert tokenizer([prompt])[0] == [49406, *ids, *[49407] * (76 - len(ids))], prompt
    assert len(tokenizer(["tree " * 100])[0]) == 77


def test_weights_of_a_part_are_read_with_its_configuration(models):
    config, state = read_part(models["folder"] / "vae", "diffusion_pytorch_model")
    assert config["latent_channels"] == 4 and "decoder.conv_in.weight" in state
