"""Keep and reject marks on the small world: the loss is the paper's, and who is dealt what."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import dpo_small_world as dpo
from benchmarks import kto_small_world as kto
from refl.picks import EncodedPicks, Pick
from refl.preference import PickLoss
from refl.schedule import NoiseSchedule
from tests.refl.test_picks import Flow, small_network


def equation_8(network, reference, x0, t, noise, kept, beta, kind, alphas_cumprod):
    """Eq. 8 of arXiv 2404.04465, term by term and sample by sample, in float64; shares no code with the benchmark.

    max E U(w (beta log(pi_theta / pi_ref) - Q_ref)), U the sigmoid, w = +1 or -1, Q_ref = max(0, the batch's mean), as
    the loss E (1 - U). The log ratio of a denoising step is what the model's squared error is less than the base's,
    with the timestep's factor taken to be 1 / D, D numbers in a latent.
    """
    ratios = []
    for row in range(len(x0)):
        clean, e = x0[row].double(), noise[row].double()
        if kind == "flow":
            sigma = float(t[row] + 1) / 1000
            x_t, target = (1 - sigma) * clean + sigma * e, e - clean
        else:
            a, s = alphas_cumprod[t[row]].sqrt(), (1 - alphas_cumprod[t[row]]).sqrt()
            x_t = a * clean + s * e
            target = e if kind == "epsilon" else a * e - s * clean
        theta, base = (
            ((target - model(x_t[None].float(), t[row : row + 1])[0].double()) ** 2).sum()
            for model in (network, reference)
        )
        ratios.append(beta * (base - theta) / clean.numel())
    q_ref = max(0.0, float(sum(ratios).detach()) / len(ratios))
    utilities = [1 / (1 + torch.exp(-(1 if sign else -1) * (ratio - q_ref))) for ratio, sign in zip(ratios, kept)]
    return sum(1 - utility for utility in utilities) / len(utilities), q_ref


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("better", [True, False])
def test_loss_and_gradients_are_the_papers(kind, better):
    """With a batch that the network fits better than its base, so that Q_ref counts, and with the two exchanged."""
    nets = [small_network(seed) for seed in (0, 1)]
    x0, noise = (torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    t, kept = torch.tensor([3, 200, 400, 700, 950]), torch.tensor([True, False, True, True, False])
    schedule = Flow() if kind == "flow" else NoiseSchedule({}, kind)
    alphas = None if kind == "flow" else schedule.alphas_cumprod
    if (equation_8(nets[0][1], nets[1][1], x0, t, noise, kept, 1.0, kind, alphas)[1] > 0) != better:
        nets.reverse()
    (net, network), (_, reference) = nets
    active = [network]

    class AsBase:
        def __enter__(self):
            active[0] = reference

        def __exit__(self, *_):
            active[0] = network

    backend, beta = SimpleNamespace(predict=lambda x, t, cond: active[0](x, t)), 20.0
    picks = PickLoss(SimpleNamespace(schedule=schedule, backend=backend), lambda prompts: None, beta, AsBase)
    (term,) = kto.MarkLoss(picks).terms(kto.Marks(x0, ["a"] * 5, t, noise, kept))
    ours = torch.autograd.grad(term.loss, list(net.parameters()))
    expected, q_ref = equation_8(network, reference, x0, t, noise, kept, beta, kind, alphas)
    theirs = torch.autograd.grad(expected, list(net.parameters()))
    assert (q_ref > 0) == better
    assert float(term.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert abs(float(term.loss.detach()) - 0.5) > 0.005  # the two networks differ, and it shows
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_of_each_caption_half_is_marked_by_its_size_and_half_dealt_in_duels(tmp_path, monkeypatch):
    area = np.random.default_rng(0).random(40 * dpo.EACH) * 0.1
    monkeypatch.setattr(dpo, "draw", lambda model, shown, first: [Image.new("RGB", (4, 4))] * len(shown))
    read = lambda shown, pictures: (area,)  # noqa: E731
    picks = dpo.write_picks(tmp_path / "no model", tmp_path, 40, 0, read)[dpo.PICKS][0]
    duels = [json.loads(line) for line in kto.half_of(picks)]
    marks = kto.judged_alone(tmp_path, 40, 0, read)
    assert len(duels) == 80 and len(marks) == 4 * (40 - kto.HELD_OUT)
    dealt = {duel[side] for duel in duels for side in ("winner", "loser")}
    assert len(dealt) == 160 and not dealt & {mark.picture.name for mark in marks}
    sizes = {kept: np.mean([area[int(mark.picture.stem)] for mark in marks if mark.kept == kept]) for kept in (0, 1)}
    assert sizes[True] - sizes[False] > 0.02
    implied = [json.loads(line) for line in kto.as_pairs(marks)]
    kept = {mark.picture.name: mark.kept for mark in marks}
    assert 20 < len(implied) <= 64 and all(kept[pair["winner"]] and not kept[pair["loser"]] for pair in implied)
    assert len({pair[side] for pair in implied for side in ("winner", "loser")}) == 2 * len(implied)


@pytest.mark.parametrize("pairs", [True, False])
def test_every_kind_of_update_sees_as_many_pictures(pairs):
    latents = [torch.full((4, 2, 2), float(number)) for number in range(12)]
    paths = [Path(f"{number}.png") for number in range(12)]
    picks = EncodedPicks(
        [Pick(paths[0], paths[1], "a"), Pick(paths[2], paths[3], "b")], dict(zip(paths, latents)), 1000
    )
    marks = kto.EncodedMarks(
        [kto.Mark(path, "a", index % 2 == 0) for index, path in enumerate(paths[4:])], latents, 1000
    )
    found, marked = kto.Dealt(picks, marks, pairs).draw(range(8, 16), 0, torch.device("cpu"))
    assert (2 * len(found.winners) if found else 0) + len(marked.x0) == 16
    index = marked.x0[:, 0, 0, 0].int().tolist()
    assert sorted(index) == sorted(list(range(8)) * (1 if pairs else 2))  # an epoch each goes through all
    assert marked.kept.tolist() == [number % 2 == 0 for number in index]
    assert len({float(noise[0, 0, 0]) for noise in marked.noise}) == len(marked.noise)


def test_what_marks_are_worth_is_their_change_less_that_without_them():
    stats = pytest.importorskip("scipy.stats")
    changes = {kto.DROPPED: [0.02, 0.05, 0.01], kto.MIXED: [0.09, 0.05, 0.12]}
    runs = [{"name": name, "area": {"relative": value}} for name, values in changes.items() for value in values]
    found = kto.worth(runs)
    less = found[f"{kto.MIXED}, minus {kto.DROPPED}"]
    wanted = stats.ttest_ind(changes[kto.MIXED], changes[kto.DROPPED], equal_var=False).confidence_interval()
    assert less["change 95 %"] == pytest.approx([wanted.low, wanted.high])
    assert set(found) == {kto.DROPPED, kto.MIXED, f"{kto.MIXED}, minus {kto.DROPPED}"}


def test_shuffled_marks_keep_as_many_of_the_same_pictures():
    marks = [kto.Mark(Path(f"{number}.png"), "a", number < 30) for number in range(60)]
    dealt = kto.shuffled(marks, 0)
    assert [mark.picture for mark in dealt] == [mark.picture for mark in marks]
    assert sum(mark.kept for mark in dealt) == 30 and 8 <= sum(mark.kept for mark in dealt[:30]) <= 22
