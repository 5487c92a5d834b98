"""tiny-sd's file against diffusers' own reader of Stable Diffusion checkpoints."""

import json

import pytest
import yaml

from smallworld.ldm_layout import (
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    ldm_yaml,
    text_key,
    to_ldm,
    unet_key,
    vae_key,
    write_config_folder,
)
from smallworld.pipeline import TINY_SD

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def networks():
    from smallworld.architecture import build_text_encoder, build_unet, build_vae

    return build_unet(), build_vae(), build_text_encoder()


def test_names_are_those_of_diffusers_own_converter(networks):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet, vae, _ = networks
    ours = {name: unet_key(name) for name in unet.state_dict()}
    assert convert_ldm_unet_checkpoint({key: key for key in ours.values()}, config=dict(unet.config)) == ours
    ldm = to_ldm({}, vae.state_dict(), {})
    assert set(convert_ldm_vae_checkpoint(ldm, config=dict(vae.config))) == set(vae.state_dict())


def test_every_tensor_is_in_the_file_once(networks):
    unet, vae, text = networks
    tensors = to_ldm(unet.state_dict(), vae.state_dict(), text.state_dict())
    count = sum(len(network.state_dict()) for network in networks) - sum(
        "position_ids" in name for name in text.state_dict()
    )
    assert len(tensors) == count
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(key.startswith((UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX)) for key in tensors)
    assert tensors["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (64, 64, 1, 1)


def test_names_that_transformers_changed_end_up_the_same():
    assert (
        text_key("text_model.final_layer_norm.bias")
        == text_key("final_layer_norm.bias")
        == TEXT_PREFIX + "final_layer_norm.bias"
    )
    assert vae_key("decoder.up_blocks.0.resnets.0.norm1.weight") == VAE_PREFIX + "decoder.up.3.block.0.norm1.weight"


def test_an_unknown_tensor_is_an_error():
    with pytest.raises(KeyError, match="add_embedding"):
        unet_key("add_embedding.linear_1.weight")


def test_diffusers_loads_the_shipped_file_to_the_same_weights(pipeline, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    theirs = diffusers.StableDiffusionPipeline.from_single_file(
        str(TINY_SD), config=str(TINY_SD.with_suffix("")), local_files_only=True, safety_checker=None
    )
    for part in ("unet", "vae", "text_encoder"):
        ours, other = getattr(pipeline, part).state_dict(), getattr(theirs, part).state_dict()
        assert ours.keys() == other.keys()
        assert all(torch.equal(ours[name], other[name].float()) for name in ours), part
    assert theirs.scheduler.config.prediction_type == "v_prediction"
    assert theirs.scheduler.config.beta_end == pipeline.scheduler.config.beta_end
    assert theirs.vae.config.scaling_factor == pipeline.vae.config.scaling_factor


def test_the_shipped_folder_and_yaml_are_what_the_code_writes(tmp_path, pipeline):
    scale = pipeline.vae.config.scaling_factor
    write_config_folder(tmp_path / "tiny-sd", scale)
    written = {path.relative_to(tmp_path / "tiny-sd") for path in (tmp_path / "tiny-sd").rglob("*.json")}
    assert written == {path.relative_to(TINY_SD.with_suffix("")) for path in TINY_SD.with_suffix("").rglob("*.json")}
    for name in written:
        assert json.loads((tmp_path / "tiny-sd" / name).read_text(encoding="utf-8")) == json.loads(
            (TINY_SD.with_suffix("") / name).read_text(encoding="utf-8")
        ), name
    assert TINY_SD.with_suffix(".yaml").read_text(encoding="utf-8") == ldm_yaml("tiny-sd", scale)


def test_the_yaml_describes_the_networks(pipeline):
    params = yaml.safe_load(TINY_SD.with_suffix(".yaml").read_text(encoding="utf-8"))["model"]["params"]
    unet = params["unet_config"]["params"]
    assert [unet["model_channels"] * factor for factor in unet["channel_mult"]] == list(
        pipeline.unet.config.block_out_channels
    )
    assert unet["context_dim"] == pipeline.text_encoder.config.hidden_size
    assert params["scale_factor"] == pipeline.vae.config.scaling_factor
    assert params["parameterization"] == "v"
    assert (params["linear_start"], params["linear_end"]) == (
        pipeline.scheduler.config.beta_start,
        pipeline.scheduler.config.beta_end,
    )
    assert len(params["first_stage_config"]["params"]["ddconfig"]["ch_mult"]) == 4


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_a_lora_of_tiny_sd_loads_in_diffusers(tmp_path, targets):
    """Beside the hosts' names the file has diffusers' own, as this UNet has other blocks than the published one."""
    pytest.importorskip("peft")
    from refl import lora
    from refl.backend import load_backend
    from refl.checkpoints.write import save_tensors
    from refl.ldm import UNetLayout
    from smallworld.pipeline import load_pipeline

    backend = load_backend(TINY_SD)
    lora.inject(backend.unet, 4, 2.0, targets, 0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in backend.unet.named_parameters():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    assert backend.family.needs_ldm_names(UNetLayout.of(backend.unet.config))
    state = lora.file_state(backend.unet, backend.family, torch.float32)
    assert len(state) == 5 * len(lora.layers(backend.unet))
    save_tensors(state, tmp_path / "l.safetensors")
    cond = backend.text.encode(["a red circle"], 64)
    x, t = torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([500])
    pipe = load_pipeline()
    with torch.no_grad():
        expected = backend.predict(x, t, cond)
        before = pipe.unet(x, t, encoder_hidden_states=cond.context).sample
        pipe.load_lora_weights(str(tmp_path / "l.safetensors"))
        found = pipe.unet(x, t, encoder_hidden_states=cond.context).sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((before - expected).abs().max()) > 1e-2
