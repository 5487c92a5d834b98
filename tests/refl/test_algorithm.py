"""The training step: parity with the paper's Algorithm 1, and invariants of every algorithm."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from refl.backend import load_backend
from refl.config import ReFLConfig
from refl.distributed import Processes
from refl.engine import Engine, PromptTable
from refl.errors import ConfigError
from refl.losses import Batch, RewardLoss, hinge, min_snr_weight
from refl.rollout import Rollout, SampleNoise

from .tiny import PROMPTS, SIZE, colour_mix


def make_engine(models, prompts=PROMPTS, reward=None, **changes):
    config = ReFLConfig(
        **{
            "resolution": SIZE,
            "num_inference_steps": 4,
            "train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "lora_rank": 4,
            "lr_scheduler": "constant",
            "learning_rate": 1e-3,
            "use_ema": False,
            **changes,
        }
    ).resolved()
    backend = load_backend(models["sd1"], clip_bpe=str(models["bpe"]))
    table = PromptTable(backend, [*prompts, ""], SIZE, torch.device("cpu"))
    return Engine(config, backend, reward or colour_mix(), prompts, table, Processes("cpu"))


def gradients(engine):
    return {name: parameter.grad.clone() for name, parameter in engine.params.items()}


def transcription(backend, context, seed):
    """Algorithm 1 of arXiv 2304.05977 with the published script's numbers (T = 40, DDPM, no guidance, phi = relu(2 -
    r), lambda = 1e-3). Shares no code with the package but the loaded networks. Returns the loss; gradients are in the
    UNet.
    """
    from diffusers import DDPMScheduler

    generator = torch.Generator().manual_seed(seed)
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        steps_offset=1,
        clip_sample=False,
    )
    scheduler.set_timesteps(40)
    latents = torch.randn((4, 8, 8), generator=generator)[None]
    mid = int(torch.randint(30, 40, (), generator=generator))
    unet = backend.unet.eval()
    with torch.no_grad():
        for t in scheduler.timesteps[:mid]:
            noise = unet(latents, t, encoder_hidden_states=context).sample
            latents = scheduler.step(noise, t, latents, generator=generator).prev_sample
    t = scheduler.timesteps[mid]
    noise = unet(latents, t, encoder_hidden_states=context).sample
    alpha = scheduler.alphas_cumprod[t]
    x0 = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    image = (backend.vae.decode(x0 / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    reward = 3 * (image[:, 0].mean() - image[:, 1:].mean())
    loss = F.relu(2 - reward).mean() * 1e-3
    unet.zero_grad()
    loss.backward()
    return float(loss.detach())


@pytest.mark.parametrize("update", [0, 3])
def test_algorithm_refl_equals_a_transcription_of_algorithm_1(models, update):
    """Same weights, noise, prompts and step: loss and UNet gradients agree to 1e-4 relative."""
    engine = make_engine(
        models, algorithm="refl", anchor="none", tune="full", train_batch_size=1, num_inference_steps=None
    )
    assert (engine.config.grad_scale, engine.config.eta, engine.config.num_inference_steps) == (1e-3, 1.0, 40)
    loss = engine._reward_gradients(update)[0][0]
    ours = gradients(engine)
    expected = transcription(
        engine.backend, engine.table([engine.prompt_of(update)]).context, engine.seed * 1_000_003 + update
    )
    assert loss == pytest.approx(expected, rel=1e-4)
    scale = max(float(gradient.abs().max()) for gradient in ours.values())
    assert scale > 0
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, engine.params[name].grad, rtol=1e-4, atol=1e-5 * scale)


def test_every_trained_tensor_changes_and_no_frozen_one(models):
    engine = make_engine(models, anchor="kl")
    before = {name: parameter.detach().clone() for name, parameter in engine.backend.unet.named_parameters()}
    vae = {name: parameter.detach().clone() for name, parameter in engine.backend.vae.named_parameters()}
    for step in range(2):  # lora_A starts to move once lora_B is no longer zero
        engine.update(step)
    for name, parameter in engine.backend.unet.named_parameters():
        changed = not torch.equal(parameter.detach(), before[name])
        assert changed == (name in engine.params) == (".lora_" in name), name
    for name, parameter in engine.backend.vae.named_parameters():
        assert torch.equal(parameter, vae[name]) and parameter.grad is None


def test_gradient_reaches_the_first_block_through_vae_and_reward(models):
    engine = make_engine(models, tune="full", anchor="none")
    engine._reward_gradients(0)
    assert float(engine.params["conv_in.weight"].grad.abs().max()) > 0
    assert float(engine.params["down_blocks.0.resnets.0.conv1.weight"].grad.abs().max()) > 0


def test_with_a_tiny_autoencoder_the_gradient_passes_through_it_alone(models, monkeypatch):
    from diffusers import AutoencoderTiny

    engine = make_engine(models, anchor="none")
    torch.manual_seed(0)
    engine.backend.tiny_vae = AutoencoderTiny().eval().requires_grad_(False)
    monkeypatch.setattr(
        engine.backend.vae, "decode", lambda *_, **__: pytest.fail("the VAE decodes nothing that is trained on")
    )
    engine._reward_gradients(0)
    assert all(float(gradient.abs().max()) > 0 for name, gradient in gradients(engine).items() if "lora_B" in name)


@pytest.mark.parametrize("algorithm", ["refl+", "draft-k", "draft-lv", "direct-align"])
def test_one_batch_of_eight_is_eight_batches_of_one(models, algorithm):
    results = []
    for batch, accumulation in ((8, 1), (1, 8)):
        engine = make_engine(
            models, algorithm=algorithm, train_batch_size=batch, gradient_accumulation_steps=accumulation, draft_steps=2
        )
        engine._reward_gradients(0)
        results.append(gradients(engine))
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_checkpointing_changes_memory_not_gradients(models):
    results = []
    for on in (True, False):
        engine = make_engine(models, gradient_checkpointing=on, vae_checkpointing=on, anchor="none")
        engine._reward_gradients(0)
        results.append(gradients(engine))
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_draft_1_is_refl_at_the_last_step(models):
    draft = make_engine(models, algorithm="draft-k", draft_steps=1)
    draft._reward_gradients(0)
    refl = make_engine(models, algorithm="refl+", min_step=3, max_step=3)
    loss = RewardLoss(refl.config, refl.rollout, refl.reward, refl.loss.uncond, refl.base_model)
    numbers = list(refl.sample_numbers(0))
    names = [refl.prompt_of(number) for number in numbers]
    batch = Batch(names, refl.table(names), [SampleNoise(0, number) for number in numbers])
    for term in loss.terms(batch, torch.device("cpu")):
        term.loss.backward()
    for name, gradient in gradients(draft).items():
        torch.testing.assert_close(refl.params[name].grad, gradient, rtol=1e-4, atol=1e-8)


def test_draft_k_through_the_whole_chain_equals_finite_differences(models):
    """K = T: the gradient of the final picture's reward with respect to a weight, in float64."""
    engine = make_engine(
        models,
        algorithm="draft-k",
        draft_steps=2,
        num_inference_steps=2,
        min_step=0,
        max_step=1,
        tune="full",
        anchor="none",
        guidance_scale=1.0,
    )
    backend = engine.backend
    backend.unet.double()
    backend.vae.double()
    backend.predict = lambda x, t, cond: (
        backend.unet(x.double(), t, encoder_hidden_states=cond.context.double()).sample
    )  # fp32 would drown the differences
    backend.decode = lambda latents, tiny=False: (
        backend.vae.decode(latents.double() / backend.latent_scale).sample / 2 + 0.5
    )

    class Sum:
        def differentiable(self, prompts, images):
            return images.square().mean(dim=(1, 2, 3))

    engine.loss.reward = Sum()
    names = [PROMPTS[0]]

    def value():
        return next(
            iter(engine.loss.terms(Batch(names, engine.table(names), [SampleNoise(3, 0)]), torch.device("cpu")))
        ).loss

    parameter = engine.params["conv_out.bias"]
    value().backward()
    step = 1e-4
    for index in range(2):
        with torch.no_grad():
            parameter[index] += step
            high = float(value())
            parameter[index] -= 2 * step
            low = float(value())
            parameter[index] += step
        assert float(parameter.grad[index]) == pytest.approx((high - low) / (2 * step), rel=2e-2)


def test_prefix_keeps_no_graph_and_stops_each_sample_at_its_step(models):
    engine = make_engine(models)
    engine.rollout.guidance = 1.0  # guidance multiplies what kernels round differently for other batch sizes
    cond = engine.table(PROMPTS[:3])
    noises = [SampleNoise(0, number) for number in range(3)]
    start = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    stopped = engine.rollout.prefix(start, cond, engine.loss.uncond, [0, 2, 4], noises)
    assert not stopped.requires_grad
    assert torch.equal(stopped[0], start[0])
    alone = engine.rollout.prefix(start[1:2], cond.rows([1]), engine.loss.uncond, [2], noises[1:2])
    torch.testing.assert_close(stopped[1:2], alone, rtol=1e-4, atol=1e-5)
    assert (stopped[1] - start[1]).abs().max() > 0.01
    whole = engine.rollout.sample(start[2:], cond.rows([2]), engine.loss.uncond, noises[2:])
    torch.testing.assert_close(stopped[2:], whole, rtol=1e-4, atol=1e-5)


def test_guidance_has_its_gradient_in_the_conditional_branch_only(models):
    engine = make_engine(models, guidance_scale=7.0, anchor="none")
    seen = []
    original = engine.backend.predict
    engine.backend.predict = lambda x, t, cond: seen.append(torch.is_grad_enabled()) or original(x, t, cond)
    engine._reward_gradients(0)
    assert seen.count(True) == 1 and seen[-2:] == [False, True]
    rollout, x, t = engine.rollout, torch.randn(1, 4, 8, 8), torch.tensor([500])
    cond = engine.table(PROMPTS[:1])
    with torch.no_grad():
        together = rollout.predict(x, t, cond, engine.loss.uncond).guided
    apart = rollout.predict(x, t, cond, engine.loss.uncond).guided
    torch.testing.assert_close(apart.detach(), together, rtol=1e-4, atol=1e-5)


def test_rewards_above_the_target_give_no_gradient(models):
    engine = make_engine(models, anchor="none", reward_target=-10.0)
    engine._reward_gradients(0)
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients(engine).values())
    assert float(hinge(torch.tensor([1.0, 3.0]), 2.0)) == 0.5


def test_kl_anchor_is_zero_at_the_start_and_pulls_back_later(models):
    engine = make_engine(models, anchor="kl", anchor_weight=1.0)
    first = engine.update(0)
    assert first.anchor == pytest.approx(0.0, abs=1e-12)
    for step in range(1, 4):
        last = engine.update(step)
    assert last.anchor > 0
    free = make_engine(models, anchor="none")
    heavy = make_engine(models, anchor="kl", anchor_weight=1e4)
    for step in range(4):
        free.update(step)
        heavy.update(step)
    moved = [
        sum(float(value.detach().norm()) for name, value in e.params.items() if "lora_B" in name) for e in (free, heavy)
    ]
    assert moved[1] < moved[0]


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_base_model_answers_as_before_training(models, tune):
    engine = make_engine(models, tune=tune, anchor="kl")
    cond, x, t = engine.table(PROMPTS[:1]), torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        before = engine.backend.predict(x, t, cond)
    engine.update(0)
    engine.update(1)
    with torch.no_grad():
        with engine.base_model():
            torch.testing.assert_close(engine.backend.predict(x, t, cond), before, rtol=1e-5, atol=1e-6)
        assert float((engine.backend.predict(x, t, cond) - before).abs().max()) > 1e-4


def test_draft_k_with_kl_on_the_full_model_runs_backward(models):
    """The base model's forward lies between forward and backward of the trained one: it must not disturb the graph."""
    engine = make_engine(models, algorithm="draft-k", draft_steps=3, tune="full", anchor="kl", learning_rate=1e-4)
    engine.update(0)
    assert engine.update(1).anchor > 0


def test_draft_lv_weights_add_up(models):
    engine = make_engine(models, algorithm="draft-lv", lv_repeats=2, anchor="none")
    names = PROMPTS[:2]
    batch = Batch(names, engine.table(names), [SampleNoise(0, 0), SampleNoise(0, 1)])
    terms = [
        (float(term.loss.detach()), hinge(term.reward, 2.0)) for term in engine.loss.terms(batch, torch.device("cpu"))
    ]
    assert len(terms) == 3
    for loss, phi in terms:
        assert loss == pytest.approx(float(phi) / 3, rel=1e-5)


def known_noise(shape, number, step):
    """The noise that direct-align adds to the finished picture of a sample, and the one it was drawn from."""
    random = SampleNoise(0, number)
    start = random.normal(shape)
    assert random.integer(step, step) == step
    return start[None], random.normal(shape)[None]


@pytest.mark.parametrize("off", [0.0, 0.1])
@pytest.mark.parametrize("step", [0, 2, 3])
def test_direct_align_asks_the_network_for_one_steps_noise_only(models, monkeypatch, step, off):
    """By hand, for a network that is wrong by a constant: the picture comes back but for the error of one step."""
    engine = make_engine(
        models, algorithm="direct-align", anchor="none", guidance_scale=1.0, min_step=step, max_step=step
    )
    side = engine.loss.latent_size
    start, noise = known_noise((4, side, side), 5, step)
    names = [PROMPTS[0]]
    batch = Batch(names, engine.table(names), [SampleNoise(0, 5)])
    finished = engine.rollout.sample(start, batch.cond, None, [SampleNoise(0, 5)])
    decoded, honest = [], engine.backend.predict
    monkeypatch.setattr(
        engine.backend,
        "predict",
        lambda x, t, cond: (noise + off).requires_grad_() if torch.is_grad_enabled() else honest(x, t, cond),
    )
    decode = engine.backend.decode
    monkeypatch.setattr(
        engine.backend, "decode", lambda latents, tiny=False: decoded.append(latents) or decode(latents, tiny=tiny)
    )
    list(engine.loss.terms(batch, torch.device("cpu")))
    schedule, steps = engine.rollout.schedule, engine.rollout.timesteps
    ratios = [((1 - alpha) / alpha) ** 0.5 for alpha in schedule.alphas_cumprod[steps].tolist()] + [0.0]
    expected = finished + (ratios[step + 1] - ratios[step]) * off
    torch.testing.assert_close(decoded[0], expected, rtol=1e-4, atol=1e-4)


def test_direct_align_learns_the_early_half_and_refuses_steps_that_the_base_makes():
    assert ReFLConfig(algorithm="direct-align").resolved().max_step == 9
    assert ReFLConfig(algorithm="direct-align").resolved().min_step == 0
    with pytest.raises(ConfigError, match="base_steps 4 must not exceed min_step 0"):
        ReFLConfig(algorithm="direct-align", base_steps=4).resolved()


def test_min_snr_weights():
    alphas = torch.tensor([0.5, 0.99])  # SNR 1 and 99
    torch.testing.assert_close(min_snr_weight(alphas, 5, "epsilon"), torch.tensor([1.0, 5 / 99]))
    torch.testing.assert_close(min_snr_weight(alphas, 5, "v_prediction"), torch.tensor([0.5, 0.05]))


def test_steps_and_prompts_depend_on_the_sample_number_alone():
    a = [SampleNoise(3, number).integer(0, 9) for number in range(200)]
    assert a == [SampleNoise(3, number).integer(0, 9) for number in range(200)]
    assert set(a) == set(range(10)) and a != [SampleNoise(4, number).integer(0, 9) for number in range(200)]


def test_rollout_of_the_scheduler_length(models):
    engine = make_engine(models)
    assert len(Rollout(engine.backend, 20, 1.0, 0.0)) == 20
    assert (
        dataclasses.replace(engine.config, num_inference_steps=20, min_step=None, max_step=None).resolved().max_step
        == 17
    )


def test_the_average_starts_fast_and_ends_at_its_decay(models):
    """decay = min(ema_decay, (1 + step) / (10 + step)): 0.1, 2/11, 3/12, … so that the first updates are not held at
    the start.
    """
    engine = make_engine(models, use_ema=True, ema_decay=0.2, anchor="none", learning_rate=1e-2)
    name = next(name for name in engine.params if "lora_B" in name)
    average = engine.params[name].detach().clone()
    for step, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):
        engine.update(step)
        now = engine.params[name].detach()
        average = decay * average + (1 - decay) * now
        assert not torch.equal(average, now)
        torch.testing.assert_close(engine.ema[name], average, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("base_steps", [0, 2])
def test_the_base_model_makes_the_first_steps(models, base_steps):
    """A LoRA that has been trained shows in a picture unless the base made every step before the one of the gradient,
    and the network is the trained one again afterwards.
    """
    engine = make_engine(models, anchor="none", base_steps=base_steps, min_step=2, max_step=2)
    names = PROMPTS[:2]
    cond, noises = engine.table(names), [SampleNoise(0, number) for number in range(2)]
    x = torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(1))
    before = engine.rollout.prefix(x, cond, engine.loss.uncond, [2, 2], noises)
    for step in range(3):
        engine.update(step)
    trained = {name: parameter.detach().clone() for name, parameter in engine.params.items()}
    after = engine.rollout.prefix(x, cond, engine.loss.uncond, [2, 2], noises)
    assert torch.equal(before, after) == bool(base_steps)
    assert all(torch.equal(parameter, trained[name]) for name, parameter in engine.params.items())
    later = engine.rollout.prefix(x, cond, engine.loss.uncond, [3, 3], noises)
    engine.rollout.base_steps = 3
    assert not torch.equal(later, engine.rollout.prefix(x, cond, engine.loss.uncond, [3, 3], noises))


def test_the_base_model_makes_the_first_steps_of_a_full_run_too(models):
    engine = make_engine(models, anchor="none", tune="full", base_steps=1, min_step=1, max_step=1)
    assert engine.base_copy  # its weights are kept, as the LoRA cannot be switched off
    x = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(1))
    given = (x, engine.table(PROMPTS[:1]), engine.loss.uncond, [1], [SampleNoise(0, 0)])
    before = engine.rollout.prefix(*given)
    engine.update(0)
    assert torch.equal(before, engine.rollout.prefix(*given))
