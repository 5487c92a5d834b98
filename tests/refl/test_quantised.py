"""LoRAs on a base in 8 bit or nf4. What needs bitsandbytes is skipped without it; the rest holds without."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from refl import Trainer, lora, quantised, setup
from refl.backend import load_backend
from refl.checkpoints.modules import empty
from refl.config import ReFLConfig
from refl.distributed import Processes
from refl.engine import Engine, PromptTable
from refl.errors import CheckpointError, ConfigError, MissingDependency
from refl.export import export_state
from refl.families import FLOWS, family
from refl.losses import Batch
from refl.memory import StorageTracker, estimate
from refl.resolved import resolve
from refl.rollout import SampleNoise
from refl.settings import BASES, Settings
from tests.conftest import ROOT

from . import flows
from .test_export import outputs
from .tiny import PROMPTS, colour_mix

FORMS = BASES[1:]
CPU = torch.device("cpu")


@pytest.fixture()
def library():
    """bitsandbytes, where it is here and new enough."""
    found = pytest.importorskip("bitsandbytes")
    try:
        quantised.check("nf4")
    except MissingDependency as error:
        pytest.skip(str(error))
    return found


def needs_exact_int8(library) -> None:
    """Skip where the CPU quantises the input of int8 as GPUs do."""
    if not hasattr(library.autograd._functions, "MatMul8bitFp"):
        pytest.skip(f"bitsandbytes {library.__version__} quantises the input of int8 on the CPU too")


def run(settings, **changes):
    return Trainer(args=dataclasses.replace(settings, **changes), rewards=colour_mix(), judges=[]).train()


# --- without the library ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_library_is_named_before_anything_is_loaded(settings, monkeypatch, form):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("refl.setup.load_backend", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(MissingDependency, match=rf"base_precision {form} needs .* 0\.46 or newer.*pip install") as told:
        run(settings, base_precision=form)
    assert "cannot be imported" in str(told.value)


def test_a_library_that_is_too_old_is_named_with_its_version(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.SimpleNamespace(__version__="0.45.5"))
    with pytest.raises(MissingDependency, match=r"0\.46 or newer, here 0\.45\.5: .*'bitsandbytes>=0\.46'"):
        quantised.check("nf4")
    quantised.check("auto")


def test_the_library_fetches_nothing_as_it_is_imported(monkeypatch, tmp_path):
    """0.50 takes machine code from the hub where the package kernels is installed."""
    (tmp_path / "kernels.py").write_text("")
    (tmp_path / "bitsandbytes").mkdir()
    code = "__version__, fetched = '99', True\ntry:\n    import kernels\nexcept ImportError:\n    fetched = False\n"
    (tmp_path / "bitsandbytes" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("bitsandbytes", "kernels"):
        monkeypatch.setitem(sys.modules, name, None)  # what is there now comes back
        del sys.modules[name]
    assert quantised.bitsandbytes("a setting").fetched is False
    import kernels

    assert kernels.__file__ == str(tmp_path / "kernels.py")


ADAPTED = """
import sys
from refl import lora
from refl.checkpoints.modules import empty
from tests.refl.tiny import unet_config

net = empty("UNet2DConditionModel", unet_config()).to_empty(device="cpu")
lora.inject(net, 4, 4.0, "attention", 0)
print("bitsandbytes" in sys.modules)
"""


def test_adapters_are_made_without_fetching_anything(tmp_path):
    """peft and diffusers import bitsandbytes, if it is there, for a base in any form."""
    pytest.importorskip("bitsandbytes")
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    raise SystemExit('fetched')\n")
    places = os.pathsep.join((str(ROOT), str(tmp_path)))
    command = [sys.executable, "-c", ADAPTED]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": places}, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["True"]), done.stderr
    assert "gemm_4bit" not in done.stderr


def test_settings_that_do_not_go_together_are_named():
    with pytest.raises(ConfigError, match="base_precision nf4 .* take tune lora"):
        ReFLConfig(base_precision="nf4", tune="full", output="single-file").resolved()
    with pytest.raises(ConfigError, match="base_precision must be one of auto, int8, nf4; found 'fp4'"):
        ReFLConfig(base_precision="fp4").resolved()


@pytest.mark.parametrize("key", ["sd1", "sdxl", *flows.NETWORKS])
def test_the_linear_layers_inside_the_blocks_are_quantised_and_no_others(key):
    kind = family(key)
    if not hasattr(pytest.importorskip("diffusers"), kind.network):
        pytest.skip(f"this diffusers has no {kind.network}")
    net = empty(kind.network, flows.NETWORKS.get(key, kind.unet))
    found = quantised.layers(net)
    linear = {name for name, part in net.named_modules() if isinstance(part, nn.Linear)}
    starts = (
        "time",
        "t_embedder",
        "patch_embed",
        "add_embedding",
        "context_embedder",
        "cap_embedder",
        "x_embedder",
        "all_x_embedder",
    )
    starts += ("proj_out", "norm_out", "all_final_layer", "txt_in", "img_in", "double_stream", "single_stream")
    outside = linear - set(found)
    assert outside and all(name.startswith(starts) for name in outside), outside
    targets = {name for name in linear if name.endswith(("to_q", "to_k", "to_v", "to_out.0"))}
    assert targets and targets <= set(found)  # what gets a LoRA is among them
    if key in ("sd1", "sdxl"):
        share = sum(part.weight.numel() for part in found.values()) / sum(part.numel() for part in net.parameters())
        assert share == pytest.approx({"sd1": 0.3, "sdxl": 0.8}[key], abs=0.1)  # the rest is convolutions


def test_hollow_layers_take_four_bits_and_an_eighth_and_are_adapted():
    kind = family("sdxl")
    net = empty(kind.network, kind.unet)
    sizes = {name: part.weight.numel() for name, part in quantised.layers(net).items()}
    quantised.hollow(net, "nf4")
    stored = sum(net.get_submodule(name).weight.nbytes for name in sizes)
    assert 8 * stored / sum(sizes.values()) == pytest.approx(4.127, abs=0.01) and quantised.is_quantised(net)
    lora.inject(net, 4, 4.0, "attention", 0, kind)
    assert len(lora.layers(net)) > 90 and set(lora.layers(net)) <= set(sizes)


@pytest.mark.parametrize("form", FORMS)
def test_a_hollow_product_holds_what_bitsandbytes_holds(form):
    """nf4 dequantises for the moment; int8 keeps its input for the backward pass."""
    layer = quantised.Hollow(nn.Linear(256, 512, device="meta"), form)
    layer.bias = nn.Parameter(torch.zeros(512), requires_grad=False)
    x = torch.zeros(8, 256, requires_grad=True)
    with StorageTracker() as tracker:
        kept = x * 1.0
        out = layer(kept)
        del kept
        assert tracker.now == out.nbytes + (8 * 256 * 4 if form == "int8" else 0)
        whole = 256 * 512 * 4
        assert (tracker.peak > whole) == (form == "nf4")
        out.sum().backward()
        assert tracker.peak > whole and x.grad.shape == x.shape


@pytest.mark.newest
def test_the_estimate_counts_the_layers_that_the_run_quantises():
    kind = family("sd1")
    usual = Settings(mixed_precision="bf16", algorithm="dpo", picks="library")
    found = {
        form: estimate(resolve(dataclasses.replace(usual, base_precision=form), kind.usual, "cuda"), kind)
        for form in BASES
    }
    sizes = {name: part.weight for name, part in quantised.layers(empty(kind.network, kind.unet)).items()}
    for form in FORMS:
        stored = sum(quantised.stored_bytes(form, weight.numel(), len(weight)) for weight in sizes.values())
        saved = 2 * sum(weight.numel() for weight in sizes.values()) - stored
        assert found["auto"].weights - found[form].weights == pytest.approx(saved, rel=1e-3)
    assert found["nf4"].tensors < found["int8"].tensors < found["auto"].tensors


def test_a_saved_state_belongs_to_its_base(settings):
    """Also one from before there was such a setting, whose base was not quantised."""
    run(settings, max_train_steps=1)
    (path,) = Path(settings.output_dir, "checkpoints").glob("step-*/state.json")
    state = json.loads(path.read_text())
    assert state["info"]["kept"].pop("base_precision") == "auto"
    path.write_text(json.dumps(state))
    trainer = Trainer(args=settings)
    trainer.config = dataclasses.replace(settings.resolved(), base_precision="nf4")
    trainer.processes, trainer.picks = Processes("cpu"), None
    from refl import checkpoint

    with pytest.raises(ConfigError, match="begun with base_precision auto and cannot go on with nf4"):
        trainer._take_over(checkpoint.load(path.parent), [])


# --- with it ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_is_stored_is_what_is_counted(library, form):
    torch.manual_seed(0)
    net = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(256, 384)]), "last": nn.Linear(384, 8)})
    quantised.quantise(net, form, torch.float32, CPU)
    layer = net["blocks"][0]
    assert type(net["last"]) is nn.Linear and type(layer) is not nn.Linear
    if form == "int8":
        parts = [layer.weight, layer.weight.SCB]
    else:
        state = layer.weight.quant_state
        parts = [layer.weight, state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset]
    assert sum(part.nbytes for part in parts) == quantised.stored_bytes(form, 256 * 384, 384)


@pytest.mark.parametrize("form", FORMS)
def test_the_run_quantises_the_layers_that_the_estimate_makes_hollow(library, models, form):
    """Also where the same network is given to a second run, adapters and all."""
    backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    counted = empty("UNet2DConditionModel", backend.unet.config)
    quantised.hollow(counted, form)
    quantised.quantise(backend.unet, form, torch.float32, CPU)
    kinds = (library.nn.Linear8bitLt, library.nn.Linear4bit)
    own = {name: part for name, part in backend.unet.named_modules() if isinstance(part, kinds)}
    assert own and own.keys() == {n for n, part in counted.named_modules() if isinstance(part, quantised.Hollow)}
    lora.inject(backend.unet, 2, 2.0, "attention", 0)
    before = {name: parameter.clone() for name, parameter in backend.unet.named_parameters()}
    quantised.quantise(backend.unet, form, torch.float32, CPU)
    assert all(torch.equal(value, before[name]) for name, value in backend.unet.named_parameters())
    assert not any(".lora_" in name for name in quantised.layers(backend.unet))


def engine_of(backend, side: int, **changes) -> Engine:
    given = {"resolution": side, "num_inference_steps": 4, "guidance_scale": 1.0, "train_batch_size": 2}
    given |= {"gradient_accumulation_steps": 1, "lora_rank": 2, "anchor": "none", "use_ema": False}
    config = ReFLConfig(**{**given, **changes}).resolved()
    backend.draws_at(side)
    table = PromptTable(backend, [*PROMPTS, ""], side, CPU)
    backend.text = None
    setup.place(config, backend, CPU)
    return Engine(config, backend, colour_mix(), PROMPTS, table, Processes("cpu"))


def slopes(engine) -> tuple[float, float]:
    """(central difference along the gradient of all LoRA tensors, the gradient's own) at one step from pure noise."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in engine.params.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    noises, names = [SampleNoise(0, number) for number in range(2)], PROMPTS[:2]
    size = engine.loss.latent_size
    x = torch.stack([noise.normal((engine.backend.latent_channels, size, size)) for noise in noises])
    t = engine.rollout.timesteps[torch.tensor([0, 0])]
    batch = Batch(names, engine.table(names), noises)
    engine.loss._from(x, t, batch, 1.0)[0].loss.backward()
    direction = {name: parameter.grad.clone() for name, parameter in engine.params.items()}
    assert all(part.abs().max() > 0 for part in direction.values())
    norm = math.sqrt(sum(float(part.square().sum()) for part in direction.values()))
    values, step = [], 2e-2 / norm
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in engine.params.items():
                parameter.add_(sign * step * direction[name])
            values.append(engine.loss._from(x, t, batch, 1.0)[0].loss.item())
            for name, parameter in engine.params.items():
                parameter.sub_(sign * step * direction[name])
    return (values[0] - values[1]) / (2 * step), norm**2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", ["sd1", *flows.NETWORKS])
def test_gradients_are_the_losss_by_central_differences(library, models, tmp_path, key, form):
    """In fp32, of every LoRA tensor, on UNets and transformers. On the CPU newer libraries quantise no input, so that
    both forms are exact functions of the LoRA.
    """
    if form == "int8":
        needs_exact_int8(library)
    if key == "sd1":
        backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    else:
        backend = load_backend(flows.write(tmp_path, key))
    side = 16 if key == "sd1" else flows.SIDE
    engine = engine_of(backend, side, base_precision=form, lora_targets="attention+ff")
    kinds = {"int8": library.nn.Linear8bitLt, "nf4": library.nn.Linear4bit}
    bases = [layer.base_layer for layer in lora.layers(backend.unet).values()]
    assert all(isinstance(base, (kinds[form], nn.Conv2d)) for base in bases)
    assert any(isinstance(base, kinds[form]) for base in bases)
    assert all(".lora_" in name and value.dtype is torch.float32 for name, value in engine.params.items())
    found, wanted = slopes(engine)
    assert found == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_on_a_quantised_base_writes_a_lora_for_the_plain_one(library, settings, models, form):
    result = run(settings, base_precision=form, max_train_steps=2, learning_rate=1e-2, anchor="kl", dial=True)
    assert result.state == "finished" and result.exported
    with safe_open(result.exported, "pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
    assert metadata["refl.base_precision"] == form and json.loads(metadata["refl.config"])["base_precision"] == form
    state = load_file(result.exported)
    assert all(tensor.dtype is torch.float16 for tensor in state.values())
    plain = run(settings, max_train_steps=2, output_dir=settings.output_dir + "-plain")
    with safe_open(plain.exported, "pt") as file:
        assert set(file.keys()) == keys and file.metadata()["refl.base_precision"] == "fp32"


def test_a_whole_checkpoint_is_the_unquantised_one_with_the_lora_in_it(library, settings, models):
    """Whether it is written by the run or again by `export`."""
    settings = dataclasses.replace(
        settings, base_precision="nf4", output="single-file", max_train_steps=2, learning_rate=1e-2
    )
    written = run(settings).exported
    folder = Path(settings.output_dir)
    again = export_state(folder, None, {"output": "single-file", "output_name": "again"})
    adapters = export_state(folder, None, {"output": "lora", "output_name": "adapters"})
    original, found = load_file(models["sd1"]), load_file(written)
    for name, tensor in load_file(again).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert found.keys() == original.keys()
    changed = {name for name in found if not torch.equal(found[name], original[name])}
    assert changed and all(".attn" in name and name.endswith("weight") for name in changed)
    changes = {name: tensor - original[name] for name, tensor in found.items() if name in changed}
    assert all(torch.linalg.matrix_rank(change, rtol=1e-3) <= settings.lora_rank for change in changes.values())
    assert len(changed) * 3 == sum(name.startswith("lora_unet_") for name in load_file(adapters))
    backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    quantised.quantise(backend.unet, "nf4", torch.float32, CPU)
    lora.inject(backend.unet, 4, 4.0, "attention", 0)
    with pytest.raises(CheckpointError, match="quantised"):
        lora.merged_state(backend.unet)


@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_run_is_the_unbroken_one_and_keeps_its_base(library, settings, form):
    whole = run(settings, base_precision=form, output_dir=settings.output_dir + "-whole")
    first = dataclasses.replace(settings, base_precision=form)
    run(first, max_train_steps=2)
    again = dataclasses.replace(first, resume_from_checkpoint="latest")
    other = next(name for name in BASES if name != form)
    with pytest.raises(ConfigError, match=f"base_precision {form} and cannot go on with {other}"):
        run(again, base_precision=other)
    told = export_state(Path(settings.output_dir), None, {"output_name": "told"})
    with safe_open(told, "pt") as file:
        assert file.metadata()["refl.base_precision"] == form  # not what the refused run left in the folder
    result = run(again)
    assert result.evaluations[-1].reward == whole.evaluations[-1].reward
    mine, theirs = load_file(result.exported), load_file(whole.exported)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("form", FORMS)
def test_the_base_is_the_quantised_model_and_answers_after_a_pause_as_before(library, models, form):
    """A used 8-bit layer keeps a copy of its weights and scales beside its parameter, which `module.to` leaves."""
    backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    exact = outputs(load_backend(models["sd1"], clip_bpe=str(models["bpe"])))
    text = backend.text
    engine = engine_of(backend, 16, base_precision=form, anchor="kl")
    backend.text = text
    with engine.base_model():
        base = outputs(backend)
    off = float((base - exact).norm() / exact.norm())
    assert 1e-5 < off < (0.02 if form == "int8" else 0.2)
    with torch.no_grad():
        for parameter in engine.params.values():
            parameter.add_(0.1)
    before = outputs(backend)
    assert not torch.equal(before, base)
    engine.move(CPU)
    eight = [part for part in backend.unet.modules() if isinstance(part, library.nn.Linear8bitLt)]
    assert bool(eight) == (form == "int8")
    for part in eight:  # used already, and yet nothing is left where the module was
        assert part.state.CB is None and part.state.SCB is None and len(part.weight.SCB) == part.out_features
    assert torch.equal(outputs(backend), before)
    with engine.base_model():
        assert torch.equal(outputs(backend), base)


def test_a_transformers_folder_is_written_from_the_weights_in_the_file(library, tmp_path):
    """A whole run on a flow-matching model: LoRA on its quantised base, the result a folder without a quantised
    weight.
    """
    from .test_flows import settings as flow_settings

    folder = flows.write(tmp_path, "sd3")
    given = {"base_precision": "nf4", "output": "diffusers", "output_dir": str(tmp_path / "run")}
    result = run(flow_settings(folder, **given))
    assert result.state == "finished" and math.isfinite(result.evaluations[-1].reward)
    name = "transformer/diffusion_pytorch_model.safetensors"
    original, found = load_file(folder / name), load_file(result.exported / name)
    assert found.keys() == original.keys()
    for key, tensor in found.items():
        assert tensor.dtype is original[key].dtype and tensor.shape == original[key].shape
    changed = {key for key in found if not torch.equal(found[key], original[key])}
    adapted = {key for key in found if key.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight"))}
    assert adapted & changed and all("transformer_blocks" in key for key in changed)


def test_hosts_get_fused_adapters_of_a_quantised_transformer(library, tmp_path):
    """One fused matrix is as tall as the layers it is made of, whose stored weights have another shape."""
    backend = load_backend(flows.write(tmp_path, "sd3"))
    kind = FLOWS["sd3"]
    plain = load_backend(tmp_path / "tiny-sd3")
    quantised.quantise(backend.unet, "nf4", torch.float32, CPU)
    states = []
    for one in (backend, plain):
        lora.inject(one.unet, 2, 2.0, "attention+ff", 0, kind)
        states.append(lora.file_state(one.unet, kind))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_gradients_where_the_input_is_quantised_too(library, models):
    """As GPUs do with int8, and a CPU in evaluation mode: the loss has steps, so that its differences say nothing, and
    the gradient, for which the rounding is not there, points where the exact one does.
    """
    needs_exact_int8(library)
    found = {}
    for mode in (True, False):
        engine = engine_of(load_backend(models["sd1"], clip_bpe=str(models["bpe"])), 16, base_precision="int8")
        for part in engine.backend.unet.modules():
            if isinstance(part, library.nn.Linear8bitLt):
                part.train(mode)
        slopes(engine)
        found[mode] = torch.cat([parameter.grad.flatten() for parameter in engine.params.values()])
    assert not torch.equal(found[True], found[False])
    assert torch.cosine_similarity(found[True], found[False], dim=0) > 0.999
    assert float(found[False].norm() / found[True].norm()) == pytest.approx(1, abs=0.02)
