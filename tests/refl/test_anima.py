"""Anima: what no other family has. Its step, LoRA and estimate are tested with the others (test_flows.py)."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from imagereward_core.weights import kinds
from refl.backend import load_backend
from refl.conditioning import Conditioning
from refl.errors import CheckpointError
from refl.families import FLOWS
from refl.families.anima import RULES
from refl.llm_adapter import LlmAdapter
from refl.memory import estimate_config
from refl.text_models import load_text_model

from . import flows
from .flows import SIDE
from .test_flows import as_in_a_file, settings
from .tiny import PROMPTS, colour_mix

ANIMA = FLOWS["anima"]
WEIGHTS = "diffusion_pytorch_model.safetensors"
LEFT_OVER = {name: torch.zeros(1) for name in ("pos_embedder.seq", "accum_iteration", "blocks.0._extra_state")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return flows.write(tmp_path_factory.mktemp("anima"), "anima")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def file_of(folder, path, prefix: str = "net."):
    """The folder's network and adapter in one file, as Anima is published."""
    state = as_in_a_file(load_file(folder / "transformer" / WEIGHTS), RULES)
    adapter = load_file(folder / "text_conditioner" / WEIGHTS)
    state |= {f"llm_adapter.{name}": tensor for name, tensor in adapter.items()} | LEFT_OVER
    save_file({f"{prefix}{name}": tensor for name, tensor in state.items()}, str(path))
    return path


def made_different(net) -> None:
    """Weights as training leaves them: none is zero or one."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


# --- files and folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["net.", "model.diffusion_model.", ""])
def test_a_single_file_brings_network_and_adapter(folder, copy, tmp_path, prefix):
    """Qwen3, both tokenisers and VAE come from a folder, which has Forge Neo's name for the second tokeniser."""
    path = file_of(folder, tmp_path / "anima.safetensors", prefix)
    shutil.rmtree(copy / "text_conditioner")
    (copy / "t5_tokenizer").rename(copy / "tokenizer_2")
    wanted, found = load_backend(folder), load_backend(path, parts=[str(copy)])
    assert found.family is ANIMA and kinds.find(load_file(path)).key == "anima"
    own, other = found.unet.state_dict(), wanted.unet.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    said = [*PROMPTS[:2], ""]
    one, two = (each.text.encode(said, SIDE).context for each in (found, wanted))
    assert torch.allclose(one, two, atol=1e-6) and one.abs().sum() > 0
    assert found.schedule.shift == 3.0 and found.licence.startswith("CircleStone Labs Non-Commercial")


def test_single_files_are_renamed_as_diffusers_does(folder):
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    state = as_in_a_file(load_file(folder / "transformer" / WEIGHTS), RULES) | LEFT_OVER
    assert not set(state) & set(load_file(folder / "transformer" / WEIGHTS))
    named = {f"net.{name}": tensor for name, tensor in state.items()}
    theirs = utils.convert_cosmos_transformer_checkpoint_to_diffusers(dict(named))
    ours = ANIMA.renamed(named)
    theirs.pop("accum_iteration", None)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_published_network_has_the_sizes_that_are_read_off_it():
    from refl.checkpoints.modules import empty

    if not hasattr(pytest.importorskip("diffusers"), ANIMA.network):
        pytest.skip(f"this diffusers has no {ANIMA.network}")
    net = empty(ANIMA.network, ANIMA.unet)
    assert ANIMA.sizes(net.state_dict()) == ANIMA.unet
    assert sum(part.numel() for part in net.parameters()) == 1956405248  # two billion, as its name says


def test_a_folder_of_diffusers_own_making_gives_the_same_without_torchvision(folder, copy):
    """There the channel of the mask is one that diffusers adds."""
    config = copy / "transformer" / "config.json"
    sizes = json.loads(config.read_text())
    config.write_text(json.dumps({**sizes, "in_channels": 16, "concat_padding_mask": True}))
    one, two = load_backend(folder), load_backend(copy)
    assert two.latent_channels == one.latent_channels == 16
    x, t = torch.randn(2, 16, 8, 8), torch.tensor([700, 100])
    context = Conditioning(torch.randn(2, ANIMA.tokens_of_text, 32))
    with torch.no_grad():
        found, wanted = two.predict(x, t, context), one.predict(x, t, context)
    assert torch.equal(found, wanted) and wanted.std() > 0.01


def test_the_mask_that_diffusers_adds_is_the_channel_given_here(folder, copy):
    pytest.importorskip("torchvision")
    import diffusers

    config = copy / "transformer" / "config.json"
    sizes = json.loads(config.read_text())
    config.write_text(json.dumps({**sizes, "in_channels": 16, "concat_padding_mask": True}))
    theirs = diffusers.CosmosTransformer3DModel.from_pretrained(copy / "transformer")
    x, sigma, context = torch.randn(2, 16, 8, 8), torch.tensor([0.7, 0.1]), Conditioning(torch.randn(2, 512, 32))
    with torch.no_grad():
        found, wanted = (ANIMA.velocity(net, x, sigma, context) for net in (load_backend(folder).unet, theirs))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_what_is_missing_is_named(folder, copy, tmp_path):
    path = file_of(folder, tmp_path / "anima.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no VAE: .* text_encoder, tokenizer, t5_tokenizer and vae"):
        load_backend(path)
    torn = tmp_path / "torn.safetensors"
    state = load_file(path)
    del state["net.llm_adapter.out_proj.bias"]
    save_file(state, str(torn))
    with pytest.raises(CheckpointError, match=r"LLM adapter does not have Anima's form: 1 missing \(out_proj.bias\)"):
        load_backend(torn, parts=[str(copy)])
    shutil.rmtree(copy / "t5_tokenizer")
    with pytest.raises(CheckpointError, match="cannot encode prompts for Anima: it lacks t5_tokenizer"):
        load_backend(path, parts=[str(copy)])
    shutil.rmtree(copy / "text_conditioner")
    with pytest.raises(CheckpointError, match="it lacks text_conditioner"):
        load_backend(copy)
    (copy / "model_index.json").write_text('{"_class_name": "Cosmos2TextToImagePipeline"}')
    with pytest.raises(CheckpointError, match="not a text-to-image model of Anima"):
        load_backend(copy)


def test_an_older_library_is_named_with_what_is_needed(folder, monkeypatch):
    import diffusers

    monkeypatch.setattr(diffusers, "__version__", "0.34.0")
    with pytest.raises(CheckpointError, match=r"Anima model, needs diffusers ≥ 0\.35\.0, here 0\.34\.0"):
        load_backend(folder)


def test_a_text_encoder_whose_configuration_tells_too_little(folder, copy):
    """Forge Neo keeps the width alone, and the weights in a file."""
    usual = json.loads((copy / "text_encoder" / "config.json").read_text())
    (copy / "text_encoder" / "config.json").write_text('{"hidden_size": 32}')
    file = copy / "qwen.safetensors"
    shutil.move(copy / "text_encoder" / "model.safetensors", file)
    found = load_text_model(copy, "text_encoder", torch.float32, [file], usual)
    wanted = load_text_model(folder, "text_encoder", torch.float32)
    numbers = torch.tensor([wanted.numbers(PROMPTS[0], 8)])
    with torch.no_grad():
        one, two = (each.net(input_ids=numbers).last_hidden_state for each in (found, wanted))
    assert torch.equal(one, two)
    with pytest.raises(CheckpointError, match="of the type 'None'"):
        load_text_model(copy, "text_encoder", torch.float32, [file])


def test_all_parts_as_forge_neo_keeps_them(folder, copy, tmp_path, monkeypatch):
    """Network, Qwen3 and VAE in a file each; configurations and tokenisers two levels down in its own folder."""
    usual = json.loads((folder / "text_encoder" / "config.json").read_text())
    monkeypatch.setitem(FLOWS, "anima", dataclasses.replace(ANIMA, usual_text=usual))
    files = [tmp_path / f"{name}.safetensors" for name in ("anima", "qwen", "vae")]
    file_of(folder, files[0])
    qwen = load_file(folder / "text_encoder" / "model.safetensors")
    save_file({f"model.{name}": tensor for name, tensor in qwen.items()}, str(files[1]))
    save_file(as_wan_names(load_file(folder / "vae" / WEIGHTS), 1), str(files[2]))
    for name in ("text_conditioner", "transformer", "text_encoder", "vae"):
        shutil.rmtree(copy / name)
    for name, told in (("text_encoder", {"hidden_size": 32}), ("vae", {"temporal_downsample": [False, False]})):
        (copy / name).mkdir()
        (copy / name / "config.json").write_text(json.dumps(told))
    (copy / "model_index.json").write_text('{"_class_name": "AnimaPipeline"}')
    (copy / "t5_tokenizer").rename(copy / "tokenizer_2")
    tree = tmp_path / "huggingface"
    shutil.copytree(copy, tree / "circlestone-labs" / "Anima")
    found = load_backend(files[0], vae=str(files[2]), parts=[str(tree), str(files[1])])
    wanted = load_backend(folder)
    said, latents = [PROMPTS[0], ""], torch.randn(1, 16, 8, 8)
    one, two = (each.text.encode(said, SIDE).context for each in (found, wanted))
    assert torch.allclose(one, two, atol=1e-6) and found.schedule.shift == 3.0
    with torch.no_grad():
        assert torch.allclose(found.decode(latents), wanted.decode(latents), atol=1e-6)
    estimate = estimate_config(settings(files[0], vae=str(files[2]), parts=[str(tree), str(files[1])]))
    assert estimate.tensors > estimate.weights > 0


def test_the_usual_text_encoder_is_qwen3_of_its_published_size():
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Qwen3Model"):
        pytest.skip("this transformers has no Qwen3")
    sizes = dict(ANIMA.usual_text)
    with torch.device("meta"):
        net = transformers.Qwen3Model(transformers.AutoConfig.for_model(sizes.pop("model_type"), **sizes))
    assert sum(part.numel() for part in net.parameters()) == 596049920


def as_wan_names(state, blocks: int):
    """diffusers' names of the autoencoder → the original ones, written out for levels of `blocks` resnets."""
    result = {}
    for key, tensor in state.items():
        for level in range(4):
            up = (blocks + 2) * level
            for number in range(blocks + 1):
                key = key.replace(f"up_blocks.{level}.resnets.{number}.", f"upsamples.{up + number}.")
            key = key.replace(f"up_blocks.{level}.upsamplers.0.", f"upsamples.{up + blocks + 1}.")
        key = key.replace("down_blocks.", "downsamples.").replace("mid_block.attentions.0.", "middle.1.")
        key = key.replace("mid_block.resnets.0.", "middle.0.").replace("mid_block.resnets.1.", "middle.2.")
        if "samples." in key or "middle." in key:
            for ours, theirs in (("norm1", 0), ("conv1", 2), ("norm2", 3), ("conv2", 6)):
                key = key.replace(f".{ours}.", f".residual.{theirs}.")
        for ours, theirs in (("conv_in", "conv1"), ("norm_out", "head.0"), ("conv_out", "head.2")):
            key = key.replace(f".{ours}.", f".{theirs}.")
        key = (
            key.replace("conv_shortcut", "shortcut").replace("post_quant_conv", "conv2").replace("quant_conv", "conv1")
        )
        result[key] = tensor
    return result


@pytest.mark.parametrize("names", ["wan", "diffusers"])
@pytest.mark.parametrize("sizes", [flows.QWEN_VAE, {**flows.QWEN_VAE, "dim_mult": [1, 2, 2, 4], "num_res_blocks": 2}])
def test_the_vae_may_be_a_file_as_the_webuis_keep_it(folder, tmp_path, names, sizes):
    from diffusers import AutoencoderKLQwenImage

    sizes = {**sizes, "temperal_downsample": [False, True, True][: len(sizes["dim_mult"]) - 1]}
    theirs = AutoencoderKLQwenImage(**sizes).eval()
    state = theirs.state_dict()
    if names == "wan":
        state = as_wan_names(state, sizes["num_res_blocks"])
        assert "decoder.upsamples.0.residual.2.weight" in state and not any("_" in key.split(".")[1] for key in state)
    assert kinds.find(state).key == "vae"
    save_file(state, str(tmp_path / "vae.safetensors"))
    found = load_backend(folder, vae=str(tmp_path / "vae.safetensors"))
    latents = torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        assert torch.equal(found.decode(latents), ANIMA.decode(theirs, latents, 1.0) / 2 + 0.5)
        assert torch.equal(
            found.encode_images(torch.zeros(1, 3, 32, 32)), ANIMA.encode(theirs, -torch.ones(1, 3, 32, 32), 1)
        )


def test_another_vae_is_refused(folder, tmp_path):
    save_file({"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)}, str(tmp_path / "vae.safetensors"))
    with pytest.raises(CheckpointError, match="not the VAE of Qwen-Image, Anima or Wan 2.1: it lacks 'decoder.conv_in"):
        load_backend(folder, vae=str(tmp_path / "vae.safetensors"))


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_the_adapter_is_diffusers_one(folder):
    """Where diffusers has it: the same tensors, the same rows."""
    import diffusers

    if not hasattr(diffusers, "AnimaTextConditioner"):
        pytest.skip(f"this diffusers ({diffusers.__version__}) has no AnimaTextConditioner")
    theirs = diffusers.AnimaTextConditioner.from_pretrained(folder / "text_conditioner")
    made_different(theirs)
    ours = LlmAdapter.of(theirs.state_dict(), torch.float32)
    words, source = torch.randint(0, len(theirs.embed.weight), (2, 7)), torch.randn(2, 5, 32)
    with torch.no_grad():
        wanted, found = theirs(source, words), ours(words, source)
    assert wanted.std() > 0.01 and torch.allclose(found, wanted[:, :7], atol=1e-5)
    assert not wanted[:, 7:].any()  # the rest is zeros there, too


def test_prompts_are_qwens_rows_seen_by_t5s_words(folder):
    """Each prompt for itself; both tokenisers without marks, but for T5's end. Nothing said is one filling token."""
    text = load_backend(folder).text
    qwen, adapter = text.parts
    said = ["a red fox", "blue", ""]
    found = text.encode(said, SIDE)
    assert found.mask is None and found.context.shape == (3, 512, 32)
    for row, prompt in zip(found.context, said):
        words = prompt.split()
        source = qwen.tokenizer.convert_tokens_to_ids(words) or [qwen.tokenizer.pad_token_id]
        wanted = [*adapter.tokenizer.convert_tokens_to_ids(words), 1]
        assert not words or source != wanted[:-1]  # the two have other numbers for the same words
        with torch.no_grad():
            states = qwen.net(torch.tensor([source])).last_hidden_state
            rows = adapter.net(torch.tensor([wanted]), states)[0]
        assert torch.allclose(row[: len(rows)], rows, atol=1e-6) and rows.abs().min() > 0
        assert not row[len(rows) :].any()
    assert text.encode([" ".join(["red"] * 700)], SIDE).context.shape == (1, 512, 32)


# --- training --------------------------------------------------------------------------------------------------------


def duels(folder):
    """Twelve picks of red pictures before blue ones."""
    from PIL import Image

    lines = []
    for number in range(12):
        names = {part: f"{part}-{number}.png" for part in ("winner", "loser")}
        for part, colour in (("winner", (255, number, 0)), ("loser", (0, number, 255))):
            Image.new("RGB", (SIDE, SIDE), colour).save(folder / names[part])
        lines.append(json.dumps({**names, "prompt": PROMPTS[number % len(PROMPTS)]}))
    (folder / "duels.jsonl").write_text("\n".join(lines))
    return folder / "duels.jsonl"


@pytest.mark.parametrize("algorithm", ["refl+", "dpo"])
def test_a_run_writes_a_lora_by_the_names_of_single_files(folder, tmp_path, algorithm):
    """Those that Forge Neo (test_neo_keys.py) and diffusers (test_flows.py) read."""
    from safetensors import safe_open

    from refl.trainer import Trainer

    changes = {"output_dir": str(tmp_path / "run"), "max_train_steps": 3, "eval_steps": 3, "algorithm": algorithm}
    if algorithm == "dpo":
        changes |= {"picks": str(duels(tmp_path))}
    given = {} if algorithm == "dpo" else {"rewards": colour_mix()}
    result = Trainer(args=settings(folder, **changes), judges=[], **given).train()
    assert result.state == "finished" and all(math.isfinite(each.eps_mse) for each in result.evaluations)
    with safe_open(result.exported, "pt") as file:
        metadata, names = file.metadata(), sorted(file.keys())
        ups = [file.get_tensor(name) for name in names if name.endswith(".lora_B.weight")]
    assert metadata["modelspec.architecture"] == "anima/lora" and metadata["modelspec.prediction_type"] == "flow"
    assert metadata["modelspec.license"].startswith("as the base model's: CircleStone Labs Non-Commercial License")
    assert names[0] == "diffusion_model.blocks.0.cross_attn.k_proj.lora_A.weight"
    parts = ("self_attn.", "cross_attn.", "mlp.layer1.", "mlp.layer2.")
    assert len(names) == 2 * 2 * 10 and all(any(part in name for part in parts) for name in names)
    assert all(up.abs().max() > 0 for up in ups)
