"""The noise schedule's formulas against diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch

from refl.schedule import NoiseSchedule

SD = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [20, 40])
def test_ddim_equals_diffusers(prediction, steps):
    from diffusers import DDIMScheduler

    ours = NoiseSchedule(SD, prediction)
    theirs = DDIMScheduler(**SD, prediction_type=prediction, clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(steps)
    assert ours.timesteps(steps).tolist() == theirs.timesteps.tolist()
    x = theirs_x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    times = [*ours.timesteps(steps).tolist(), -1]
    for index, t in enumerate(times[:-1]):
        output = torch.sin(x + index)
        theirs_step = theirs.step(torch.sin(theirs_x + index), t, theirs_x)
        x0 = ours.predict_x0(x, output, torch.tensor([t, t]))
        torch.testing.assert_close(x0, theirs_step.pred_original_sample, rtol=2e-5, atol=2e-4)
        x = ours.step(x, output, torch.tensor([t, t]), torch.tensor([times[index + 1]] * 2))
        theirs_x = theirs_step.prev_sample
        # diffusers steps by 1000 / T also past the end, where it takes alpha = 1 as well
        torch.testing.assert_close(x, theirs_x, rtol=2e-5, atol=2e-4)


def test_eta_one_is_ancestral_ddpm():
    from diffusers import DDPMScheduler

    ours = NoiseSchedule(SD, "epsilon")
    theirs = DDPMScheduler(**SD, clip_sample=False)
    theirs.set_timesteps(40)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    output = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    t, t_next = ours.timesteps(40)[10:12]
    generator = torch.Generator().manual_seed(7)
    expected = theirs.step(output, int(t), x, generator=generator).prev_sample
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(ours.step(x, output, t[None], t_next[None], 1.0, noise), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_target_is_what_predict_x0_inverts(prediction):
    schedule = NoiseSchedule(SD, prediction)
    x0, noise = torch.randn(2, 3, 4, 4, 4)
    t = torch.tensor([1, 500, 998])
    x = schedule.add_noise(x0, noise, t)
    target = schedule.target(x0, noise, t)
    torch.testing.assert_close(schedule.predict_x0(x, target, t), x0, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(schedule.predict_noise(x, target, t), noise, rtol=1e-3, atol=1e-3)


def test_zero_snr_ends_in_pure_noise_and_starts_there():
    schedule = NoiseSchedule({**SD, "rescale_betas_zero_snr": True}, "v_prediction")
    assert schedule.alphas_cumprod[-1] < 1e-7
    assert schedule.timesteps(20)[0] == 999
    plain = NoiseSchedule(SD)
    torch.testing.assert_close(schedule.alphas_cumprod[0], plain.alphas_cumprod[0])


def test_last_reference_step_has_almost_no_gradient():
    """Why the default drops the last steps: d x0 / d eps = sigma / alpha."""
    schedule = NoiseSchedule(SD)
    a, s = schedule.levels(schedule.timesteps(40)[[30, 39]], torch.zeros(1))
    ratio = (s / a).flatten()
    assert ratio[0] == pytest.approx(0.635, abs=0.01) and ratio[1] == pytest.approx(0.041, abs=0.002)
