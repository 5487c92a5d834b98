"""Flow-matching families, on diffusers' real classes with tiny random weights."""

from __future__ import annotations

import inspect
import json
import math

import numpy as np
import pytest
import torch

from refl import lora
from refl.backend import load_backend
from refl.conditioning import Conditioning
from refl.config import ReFLConfig
from refl.distributed import Processes
from refl.engine import Engine, PromptTable
from refl.errors import CheckpointError, ConfigError
from refl.families import FLOWS
from refl.families.names import places
from refl.flow import FlowSchedule
from refl.losses import Batch
from refl.preference import PickLoss
from refl.rollout import Rollout, SampleNoise

from . import flows
from .flows import SIDE
from .tiny import PROMPTS, colour_mix

KEYS = list(flows.NETWORKS)
PLAIN = ("is_distilled",)  # arguments of pipelines that are no parts


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A diffusers folder by family, made when it is first asked for."""
    made: dict = {}

    def of(key: str):
        if key not in made:
            made[key] = flows.write(tmp_path_factory.mktemp("flows"), key)
        return made[key]

    return of


def settings(folder, **changes) -> ReFLConfig:
    return ReFLConfig(
        **{
            "pretrained_model_name_or_path": str(folder),
            "prompts": PROMPTS,
            "held_out": 2,
            "resolution": SIDE,
            "num_inference_steps": 4,
            "guidance_scale": 2.0,
            "train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "max_train_steps": 1,
            "eval_steps": 1,
            "lora_rank": 2,
            "lora_targets": "attention+ff",
            "learning_rate": 1e-2,
            "lr_warmup_steps": 0,
            "stop_rule": "off",
            "dial": False,
            "device": "cpu",
            "judges": ["none"],
            **changes,
        }
    )


def engine_of(folder, **changes) -> Engine:
    config = settings(folder, **changes).resolved()
    backend = load_backend(folder)
    backend.draws_at(SIDE)
    table = PromptTable(backend, [*PROMPTS, ""], SIDE, torch.device("cpu"))
    backend.text = None
    return Engine(config, backend, colour_mix(), PROMPTS, table, Processes("cpu"))


# --- noise -----------------------------------------------------------------------------------------------------------


def test_the_schedule_is_that_of_diffusers():
    """Sampling takes the nearest of a thousand levels."""
    diffusers = pytest.importorskip("diffusers")
    for family, tokens in ((FLOWS["flux"], 1024), (FLOWS["flux"], 4096), (FLOWS["sd3"], 64)):
        theirs = diffusers.FlowMatchEulerDiscreteScheduler(**family.scheduler)
        mu = {"mu": 0.5 + 0.65 * (tokens - 256) / (4096 - 256)} if "max_shift" in family.scheduler else {}
        theirs.set_timesteps(sigmas=(20 - np.arange(20)) / 20, **mu)  # older ones take no list
        ours = FlowSchedule(family.scheduler, tokens)
        found = ours.sigmas[ours.timesteps(20)]
        assert torch.allclose(found.float(), theirs.sigmas[:-1].cpu(), atol=2e-3), family.key


def test_a_flows_formulas_undo_each_other():
    schedule = FlowSchedule({"shift": 3.0})
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(2))
    t = torch.tensor([0, 500, 999])
    x, v = schedule.add_noise(x0, noise, t), schedule.target(x0, noise, t)
    assert torch.allclose(schedule.predict_x0(x, v, t), x0, atol=1e-5)
    assert torch.allclose(schedule.predict_noise(x, v, t), noise, atol=1e-5)
    assert torch.equal(schedule.levels(torch.tensor([999]), x)[1].flatten(), torch.ones(1))
    last = torch.full((3,), -1)
    assert torch.allclose(schedule.step(x, v, t, last), x0, atol=1e-5)
    euler = x + (schedule.levels(t - 100, x)[1] - schedule.levels(t, x)[1]) * v
    assert torch.allclose(schedule.step(x, v, t, t - 100)[1:], euler[1:], atol=1e-5)


def test_ancestral_steps_keep_the_level_of_noise():
    schedule, generator = FlowSchedule({}), torch.Generator().manual_seed(0)
    x0 = torch.zeros(1, 1, 200, 200)
    noise, fresh = (torch.randn(x0.shape, generator=generator) for _ in range(2))
    t, following = torch.tensor([799]), torch.tensor([399])
    x = schedule.add_noise(x0, noise, t)
    stepped = schedule.step(x, schedule.target(x0, noise, t), t, following, eta=1.0, noise=fresh)
    assert float(stepped.std()) == pytest.approx(0.4, abs=0.01)
    assert not torch.allclose(stepped, 0.4 * noise, atol=0.05)


def test_contexts_of_several_lengths_are_put_together():
    one = Conditioning(torch.ones(1, 2, 3), mask=torch.ones(1, 2, dtype=torch.bool))
    two = Conditioning(torch.ones(2, 4, 3), mask=torch.ones(2, 4, dtype=torch.bool))
    both = Conditioning.cat((one, two))
    assert both.context.shape == (3, 4, 3) and both.mask.sum(dim=1).tolist() == [2, 4, 4]
    assert not both.context[0, 2:].any()


# --- one family after another ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_one_step_of_refl_reaches_every_lora_tensor(folders, key):
    """And its gradient is the loss's, by central differences."""
    engine = engine_of(folders(key), anchor="none")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in engine.params.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    names = PROMPTS[:2]
    config = engine.config

    def loss():
        batch = Batch(names, engine.table(names), [SampleNoise(0, number) for number in range(2)])
        (term,) = engine.loss.terms(batch, torch.device("cpu"))
        return term.loss

    assert engine.backend.schedule.prediction_type == "flow" and config.guidance_scale == 2.0
    engine.rollout.guidance = 1.0  # with guidance the unconditional branch is a constant, by design
    loss().backward()
    gradients = {name: parameter.grad for name, parameter in engine.params.items()}
    silent = [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 0]
    assert not silent and len(gradients) > 8, silent
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    # the prefix is without gradient: its end must stay where it is, so one step from pure noise is compared
    first = [SampleNoise(0, number) for number in range(2)]
    x = torch.stack([noise.normal((engine.backend.latent_channels, 8, 8)) for noise in first])
    batch = Batch(names, engine.table(names), first)
    t = engine.rollout.timesteps[torch.tensor([0, 0])]
    engine.optimizer.zero_grad(set_to_none=True)
    engine.loss._from(x, t, batch, 1.0)[0].loss.backward()
    direction = {name: parameter.grad.clone() for name, parameter in engine.params.items()}
    norm = math.sqrt(sum(float(part.square().sum()) for part in direction.values()))
    values = []
    step = 2e-2 / norm
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in engine.params.items():
                parameter.add_(sign * step * direction[name])
            values.append(engine.loss._from(x, t, batch, 1.0)[0].loss.item())
            for name, parameter in engine.params.items():
                parameter.sub_(sign * step * direction[name])
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(norm**2, rel=0.02)


def with_network(kind, network):
    """A pipeline of diffusers with this network and nothing else."""
    if hasattr(kind, "update_components"):  # modular: it begins without parts
        made = kind()
        made.update_components(transformer=network)
        return made
    absent = set(inspect.signature(kind.__init__).parameters) - {"self", "transformer"}
    return kind(transformer=network, **{name: None if name not in PLAIN else False for name in absent})


@pytest.mark.parametrize("key", KEYS)
def test_the_lora_that_is_saved_is_the_one_that_diffusers_loads(folders, key, tmp_path):
    import diffusers
    from safetensors.torch import save_file

    folder, family = folders(key), FLOWS[key]
    backend = load_backend(folder)
    lora.inject(backend.unet, 2, 4.0, "attention+ff", 0, family)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in backend.unet.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    save_file(lora.file_state(backend.unet, family, torch.float32), str(tmp_path / "l.safetensors"))
    plain = getattr(diffusers, family.network).from_pretrained(folder / "transformer")
    plain.load_state_dict(lora.merged_state(backend.unet))
    kind = getattr(diffusers, family.pipelines[0], None)
    if not hasattr(kind, "load_lora_weights"):
        pytest.skip(f"this diffusers ({diffusers.__version__}) loads no LoRA into {family.pipelines[0]}")
    other = getattr(diffusers, family.network).from_pretrained(folder / "transformer")
    pipeline = with_network(kind, other)
    pipeline.load_lora_weights(str(tmp_path), weight_name="l.safetensors", local_files_only=True)
    context = backend.family.blank(backend.unet.config, torch.float32)
    context = Conditioning(
        torch.randn(context.context.shape),
        None if context.pooled is None else torch.randn(context.pooled.shape),
        mask=context.mask,
    )
    x, sigma = torch.randn(1, backend.latent_channels, 8, 8), torch.tensor([0.7])
    with torch.no_grad():
        base = family.predict(load_backend(folder).unet, x, sigma, context)
        wanted, found = (family.predict(net, x, sigma, context) for net in (plain, other))
        own = family.predict(backend.unet, x, sigma, context)
    assert (wanted - base).abs().max() > 1e-2
    assert torch.allclose(own, wanted, atol=1e-4) and torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("key", KEYS)
def test_pictures_survive_the_autoencoders_scale_and_shift(folders, key):
    """As the pipelines of diffusers scale them: latents of unit variance in training, the VAE's own in decoding."""
    backend = load_backend(folders(key))
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    latents = backend.encode_images(picture)
    assert latents.shape == (1, backend.latent_channels, SIDE // backend.latent_factor, SIDE // backend.latent_factor)
    assert backend.decode(latents).shape == picture.shape
    if key not in flows.VAES:
        raw = backend.vae.encode(picture * 2 - 1).latent_dist.mean
        assert torch.allclose(latents, (raw - 0.06) * 1.5, atol=1e-5)
        assert torch.allclose(backend.decode(latents), backend.vae.decode(raw).sample / 2 + 0.5, atol=1e-5)


# --- sampling as diffusers does --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sd3", "flux", "flux2"])
def test_prompts_are_encoded_as_the_pipeline_does(folders, key):
    import diffusers

    folder, family = folders(key), FLOWS[key]
    backend = load_backend(folder)
    ours = backend.text.encode(PROMPTS[:2], SIDE)
    parts = {part.name: part for part in folder.iterdir() if part.is_dir()}
    from refl.text_models import load_text_model

    models = {name: load_text_model(folder, name, torch.float32) for name in family.text}
    given = {name: model.net for name, model in models.items()}
    given |= {name.replace("text_encoder", "tokenizer"): model.tokenizer for name, model in models.items()}
    pipeline = getattr(diffusers, family.pipelines[0])(
        transformer=backend.unet,
        vae=backend.vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(parts["scheduler"]),
        **given,
    )
    if key == "sd3":
        context, _, pooled, _ = pipeline.encode_prompt(PROMPTS[:2], None, None, do_classifier_free_guidance=False)
    elif key == "flux2":
        (context, _), pooled = pipeline.encode_prompt(PROMPTS[:2]), None
    else:
        context, pooled, _ = pipeline.encode_prompt(PROMPTS[:2], None)
    assert torch.allclose(ours.context, context, atol=1e-5)
    assert ours.pooled is pooled or torch.allclose(ours.pooled, pooled, atol=1e-5)


def test_klein_samples_and_decodes_as_its_pipeline_does(folders):
    """From the same noise and prompts: levels, places, guidance, statistics of the latents, and the picture."""
    import diffusers

    from refl.text_models import load_text_model

    folder = folders("flux2")
    backend = load_backend(folder)
    backend.draws_at(SIDE)
    text = load_text_model(folder, "text_encoder", torch.float32)
    pipeline = diffusers.Flux2KleinPipeline(
        transformer=backend.unet,
        vae=backend.vae,
        text_encoder=text.net,
        tokenizer=text.tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(0))
    said = {"prompt": PROMPTS[0], "height": SIDE, "width": SIDE, "num_inference_steps": 4, "guidance_scale": 3.0}
    wanted = pipeline(latents=noise, output_type="pt", **said).images
    conds, x = backend.text.encode([PROMPTS[0], ""], SIDE), noise
    times = [*backend.schedule.timesteps(4).tolist(), -1]
    with torch.no_grad():
        for t, following in zip(times, times[1:]):
            one = torch.tensor([t])
            with_prompt, without = (backend.predict(x, one, conds.rows([row])) for row in (0, 1))
            v = without + 3.0 * (with_prompt - without)
            x = backend.schedule.step(x, v, one, torch.tensor([following]))
        found = backend.decode(x)
    assert wanted.std() > 0.01 and torch.allclose(found.clamp(0, 1), wanted, atol=2e-2)


def test_klein_distilled_to_few_steps_is_refused(folders, tmp_path):
    import shutil

    copy = shutil.copytree(folders("flux2"), tmp_path / "klein-4b")
    (copy / "model_index.json").write_text('{"_class_name": "Flux2KleinPipeline", "is_distilled": true}')
    with pytest.raises(CheckpointError, match=r"few-step model \(is_distilled\)"):
        load_backend(copy)


def test_klein_from_the_files_that_the_webuis_keep(folders, tmp_path):
    """Forge Neo's folder of klein has a tokeniser without a chat template and is that of the distilled model; the VAE's
    file has LDM's names, and the statistics of the latents.
    """
    import shutil

    import diffusers
    from safetensors.torch import load_file, save_file

    from refl.ldm import vae_name_to_ldm

    folder = folders("flux2")
    configurations = tmp_path / "huggingface" / "somebody" / "klein"
    shutil.copytree(folder, configurations, ignore=shutil.ignore_patterns("*.safetensors", "transformer"))
    index = {"_class_name": "Flux2KleinPipeline", "is_distilled": True}
    (configurations / "model_index.json").write_text(json.dumps(index))
    (configurations / "tokenizer" / "chat_template.jinja").unlink(missing_ok=True)
    words = configurations / "tokenizer" / "tokenizer_config.json"
    words.write_text(json.dumps({**json.loads(words.read_text()), "chat_template": None}))
    save_file(load_file(folder / "text_encoder" / "model.safetensors"), str(tmp_path / "qwen.safetensors"))
    wanted = load_backend(folder)
    save_file(wanted.unet.state_dict(), str(tmp_path / "klein.safetensors"))
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLFlux2(**{**flows.KLEIN_VAE, "block_out_channels": [32] * 3, "norm_num_groups": 32})
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    named = {vae_name_to_ldm(name, 3): tensor for name, tensor in vae.state_dict().items()}
    assert "decoder.up.2.block.0.conv1.weight" in named and "bn.running_var" in named
    save_file(named, str(tmp_path / "vae.safetensors"))
    parts = [str(tmp_path / "qwen.safetensors"), str(tmp_path / "huggingface")]
    found = load_backend(tmp_path / "klein.safetensors", parts=parts, vae=str(tmp_path / "vae.safetensors"))
    asked = [wanted.text.parts[0].tokenizer, found.text.parts[0].tokenizer]
    assert asked[1].chat_template is None
    asked[0].chat_template = (  # Qwen3's, for one who speaks first and is not to be thought about
        "{% for said in messages %}<|im_start|>user\n{{ said['content'] }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    )
    one, two = (backend.text.encode([*PROMPTS[:2], ""], SIDE) for backend in (found, wanted))
    assert torch.allclose(one.context, two.context, atol=1e-6)
    wanted.vae = vae.eval()
    pictures = torch.rand(1, 3, SIDE, SIDE)
    latents = found.encode_images(pictures)
    assert torch.allclose(latents, wanted.encode_images(pictures), atol=1e-5)
    assert torch.allclose(found.decode(latents), wanted.decode(latents), atol=1e-5)


def test_klein_latents_are_standardised_and_undone(folders):
    backend = load_backend(folders("flux2"))
    pictures = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    raw = backend.vae.encode(pictures * 2 - 1).latent_dist.mean
    assert torch.allclose(
        backend.decode(backend.encode_images(pictures)), backend.vae.decode(raw).sample / 2 + 0.5, atol=1e-4
    )


# --- DPO -------------------------------------------------------------------------------------------------------------


def test_dpo_on_a_flow_is_the_papers_equation(folders):
    """Eq. 14 of Wallace et al. 2024 with a flow's squared errors, written out: loss and gradients."""
    from refl.picks import Pairs

    engine = engine_of(folders("sd3"), anchor="none")
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in engine.params.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    winners, losers, noise = (torch.randn(2, 16, 8, 8) for _ in range(3))
    pairs = Pairs(winners, losers, PROMPTS[:2], torch.tensor([200, 700]), noise)
    loss = PickLoss(Rollout(engine.backend, 4, 1.0, 0.0), engine.table, 30.0, engine.base_model)
    (term,) = loss.terms(pairs)
    term.loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in engine.params.items()}
    engine.optimizer.zero_grad(set_to_none=True)

    sigma = 3 * (pairs.t + 1) / 1000 / (1 + 2 * (pairs.t + 1) / 1000)
    cond, level = engine.table(PROMPTS[:2]), sigma.view(-1, 1, 1, 1)

    def error(x0):
        v = engine.backend.unet(
            hidden_states=(1 - level) * x0 + level * noise,
            timestep=sigma * 1000,
            encoder_hidden_states=cond.context,
            pooled_projections=cond.pooled,
        ).sample
        return (v - (noise - x0)).square().mean(dim=(1, 2, 3))

    with torch.no_grad(), engine.base_model():
        reference = error(winners) - error(losers)
    inside = -0.5 * 30.0 * (error(winners) - error(losers) - reference)
    wanted = -torch.nn.functional.logsigmoid(inside).mean()
    wanted.backward()
    assert term.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for name, parameter in engine.params.items():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-5, atol=1e-5), name


# --- a whole run, files, refusals ------------------------------------------------------------------------------------


def test_a_run_on_a_flow_writes_a_lora_with_the_bases_licence(folders, tmp_path):
    from safetensors import safe_open

    from refl.trainer import Trainer

    folder = folders("sd3")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: a-licence-of-ours\n---\n# A model\n")
    trainer = Trainer(args=settings(folder, output_dir=str(tmp_path / "run")), rewards=colour_mix(), judges=[])
    result = trainer.train()
    assert result.state == "finished" and math.isfinite(result.evaluations[-1].eps_mse)
    with safe_open(result.exported, "pt") as file:
        metadata, keys = file.metadata(), list(file.keys())
    assert metadata["modelspec.license"] == "as the base model's: a-licence-of-ours"
    assert metadata["modelspec.prediction_type"] == "flow"
    assert metadata["modelspec.architecture"] == "stable-diffusion-3-medium/lora"
    assert "transformer.transformer_blocks.0.attn.to_q.lora_A.weight" in keys  # for diffusers
    assert "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight" in keys  # for the hosts, which know no others
    assert all(key.startswith(("transformer.", "lora_unet_joint_blocks_")) for key in keys)


@pytest.mark.parametrize("key", KEYS)
def test_the_memory_estimate_runs_the_families_own_step(folders, key):
    from refl.memory import estimate_config

    found = estimate_config(settings(folders(key)))
    assert found.tensors > found.weights > 0


def test_what_does_not_fit_a_flow_is_refused(folders, tmp_path):
    folder = folders("sd3")
    with pytest.raises(CheckpointError, match="leave it at auto"):
        load_backend(folder, prediction_type="epsilon")
    with pytest.raises(ConfigError, match="multiple of 8"):
        load_backend(folder).draws_at(SIDE + 4)
    from refl.export import check_output

    with pytest.raises(ConfigError, match="use output lora"):
        check_output(settings(folder, output="single-file"), folder, FLOWS["sd3"])


def test_a_library_that_is_too_old_is_named_with_what_is_needed(folders, monkeypatch):
    import diffusers

    folder = folders("sd3")
    monkeypatch.setattr(diffusers, "__version__", "0.11.0")
    monkeypatch.setattr("refl.checkpoints.modules.diffusers", lambda: type("Old", (), {"__version__": "0.11.0"}))
    with pytest.raises(CheckpointError, match=r"needs diffusers ≥ 0\.31\.0, here 0\.11\.0 \(it has no SD3"):
        load_backend(folder)
    monkeypatch.undo()
    monkeypatch.setattr(diffusers, "__version__", "0.30.3")  # has the classes, as they first were
    with pytest.raises(CheckpointError, match=r"needs diffusers ≥ 0\.31\.0, here 0\.30\.3$"):
        load_backend(folder)


def test_parts_that_are_not_in_the_folder_are_named(folders, tmp_path):
    import shutil

    copy = shutil.copytree(folders("sd3"), tmp_path / "copy")
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(CheckpointError, match="text_encoder_2"):
        load_backend(copy)
    index = copy / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusion3InpaintPipeline"}))
    with pytest.raises(CheckpointError, match="not a text-to-image model"):
        load_backend(copy)


# --- single files ----------------------------------------------------------------------------------------------------


def as_in_a_file(state, rules, last_text=""):
    """Diffusers' weights under the names of single files, fused: the rules backwards."""
    result, used = {}, set()
    for place, parts in places(rules, [*state, *(name.rpartition(".")[0] for name in state)]):
        for kind in ("weight", "bias", ""):
            names = [f"{part}.{kind}" if kind else part for part in parts]
            if not all(name in state for name in names):
                continue
            tensor = torch.cat([state[name] for name in names])
            swapped = next(rule for rule in rules if rule.number(place) is not None).swapped
            if swapped or names[0].rpartition(".")[0] == last_text:
                scale, shift = tensor.chunk(2)
                tensor = torch.cat((shift, scale))
            kind = "scale" if ".norm." in f".{place}" and place.endswith(("query_norm", "key_norm")) else kind
            result[f"{place}.{kind}" if kind else place] = tensor
            used.update(names)
    return {**result, **{name: tensor for name, tensor in state.items() if name not in used}}


FILES = {"sd3": "transformer_blocks.1.norm1_context.linear", "flux": "", "flux2": "", "z-image": "", "lumina2": ""}


@pytest.mark.parametrize("key", FILES)
def test_a_single_file_is_the_folders_network(folders, key, tmp_path):
    """Sizes and names are read off the tensors; text encoders and VAE come from a folder."""
    import importlib

    from safetensors.torch import save_file

    folder = folders(key)
    rules = importlib.import_module(f"refl.families.{key.replace('-', '_')}").RULES
    wanted = load_backend(folder)
    state = as_in_a_file(wanted.unet.state_dict(), rules, FILES[key])
    path = tmp_path / "model.safetensors"
    prefixed = {f"model.diffusion_model.{name}": tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(prefixed, str(path), {"modelspec.license": "ours"})
    assert not set(state) & set(wanted.unet.state_dict()) or key != "flux"
    found = load_backend(path, parts=[str(folder)])
    assert found.family is wanted.family and found.licence == "ours" and found.latent_scale == wanted.latent_scale
    own, other = found.unet.state_dict(), wanted.unet.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    cond, x = found.text.encode(PROMPTS[:1], SIDE), torch.randn(1, found.latent_channels, 8, 8)
    with torch.no_grad():
        one, two = (kind.predict(x, torch.tensor([700]), cond) for kind in (found, wanted))
    assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize(("key", "name"), [("sd3", "sd3"), ("flux2", "flux2"), ("z-image", "z_image")])
def test_single_files_are_renamed_as_diffusers_does(folders, key, name):
    import importlib

    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    convert = getattr(utils, f"convert_{name}_transformer_checkpoint_to_diffusers", None)
    if convert is None:
        pytest.skip("this diffusers converts no such files")
    rules = importlib.import_module(f"refl.families.{name}").RULES
    state = as_in_a_file(load_backend(folders(key)).unet.state_dict(), rules, FILES[key])
    ours, theirs = FLOWS[key].renamed(state), convert(dict(state))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[part], theirs[part]) for part in ours)


def test_a_file_without_text_encoders_says_what_it_needs(folders, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file(load_backend(folders("sd3")).unet.state_dict(), str(path))
    with pytest.raises(CheckpointError, match=r"holds no VAE: give a diffusers folder .* text_encoder, text_encoder_2"):
        load_backend(path)


@pytest.mark.parametrize("key", ["sd3", "lumina2"])
def test_hosts_that_know_other_names_get_the_same_adapters(folders, key):
    """One fused matrix: its change is that of its parts, one below the other."""
    backend = load_backend(folders(key))
    lora.inject(backend.unet, 2, 4.0, "attention+ff", 0, FLOWS[key])
    with torch.no_grad():
        for name, parameter in backend.unet.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    state = lora.file_state(backend.unet, FLOWS[key], torch.float32)
    fused = [name.rpartition(".lora_down")[0] for name in state if name.endswith(".lora_down.weight")]
    assert len(fused) > 4
    changes = {name: lora.delta(*parts) for name, parts in lora.weights(backend.unet).items()}
    told = 0
    for place, parts in places(FLOWS[key].rules_for_hosts, list(changes)):
        name = "lora_unet_" + place.replace(".", "_")
        down, up = state[f"{name}.lora_down.weight"], state[f"{name}.lora_up.weight"]
        found = lora.delta(down, up, float(state[f"{name}.alpha"]))
        rows = [backend.unet.get_submodule(part).weight for part in parts]
        wanted = [changes.get(part, torch.zeros(row.shape)) for part, row in zip(parts, rows)]
        assert torch.allclose(found, torch.cat(wanted), atol=1e-4), name
        told += sum(part in changes for part in parts)
    assert told == len(changes)


@pytest.mark.parametrize("targets", ["attention", "attention+ff"])
@pytest.mark.parametrize("key", ["sd3", "lumina2"])
def test_such_hosts_know_at_least_half_of_the_names_in_the_file(folders, key, targets):
    """Forge Neo uses nothing of a file whose names are more than half unknown to it; what makes up the number is whole
    numbers that are the sizes of the weights.
    """
    backend = load_backend(folders(key))
    lora.inject(backend.unet, 2, 2.0, targets, 0, FLOWS[key])
    state = lora.file_state(backend.unet, FLOWS[key])
    known = {name for name in state if name.startswith("lora_unet_")}
    assert 2 * len(known) >= len(state)
    sizes = {name: size.tolist() for name, size in state.items() if name.endswith(".reshape_weight")}
    for name, size in sizes.items():
        place = name.rpartition(".")[0]
        assert size == [state[f"{place}.lora_up.weight"].shape[0], state[f"{place}.lora_down.weight"].shape[1]]
    assert len(sizes) == sum(name.endswith(".alpha") for name in state)


def test_text_encoders_and_vae_may_be_files_of_their_own(folders, tmp_path):
    """As Forge Neo keeps them: weights in files, configurations and tokenisers in its folder two levels down."""
    import shutil

    import diffusers
    from safetensors.torch import load_file, save_file

    folder, files = folders("flux"), []
    configurations = tmp_path / "huggingface" / "somebody" / "a-model"
    shutil.copytree(folder, configurations, ignore=shutil.ignore_patterns("*.safetensors", "transformer", "vae"))
    for part in ("text_encoder", "text_encoder_2"):
        files.append(str(tmp_path / f"{part}.safetensors"))
        state = load_file(folder / part / "model.safetensors")
        bare = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
        old = {f"text_model.{name}": tensor for name, tensor in bare.items()}  # with a level that version 5 has not
        save_file(old if part == "text_encoder" else state, files[-1])
    path = tmp_path / "model.safetensors"
    wanted = load_backend(folder)
    save_file(wanted.unet.state_dict(), str(path))
    torch.manual_seed(0)
    wide = {**flows.KL, "block_out_channels": [32, 32, 32], "norm_num_groups": 32, "scaling_factor": 1.0}
    vae = diffusers.AutoencoderKL(**wide)
    save_file(vae.state_dict(), str(tmp_path / "ae.safetensors"))
    parts = [*files, str(tmp_path / "huggingface")]
    found = load_backend(path, parts=parts, vae=str(tmp_path / "ae.safetensors"))
    one, two = (backend.text.encode(PROMPTS[:2], SIDE) for backend in (found, wanted))
    assert torch.allclose(one.context, two.context, atol=1e-6) and torch.allclose(one.pooled, two.pooled, atol=1e-6)
    assert found.latent_scale == 0.3611 and found.vae.config.shift_factor == 0.1159  # FLUX.1's: no tensor tells
    raw = vae.encode(torch.zeros(1, 3, SIDE, SIDE)).latent_dist.mean
    assert torch.allclose(found.encode_images(torch.full((1, 3, SIDE, SIDE), 0.5)), (raw - 0.1159) * 0.3611, atol=1e-5)
    with pytest.raises(CheckpointError, match=r"no file holds the weights of text_encoder_2 \(t5\)"):
        load_backend(path, parts=[files[0], str(tmp_path / "huggingface")], vae=str(tmp_path / "ae.safetensors"))
