"""Learning from picks: the paper's loss, what is read as picks, and a run from beginning to end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from imagereward_core.runs import read_status
from refl import Trainer, lora
from refl.errors import ConfigError, PromptDataError
from refl.memory import estimate
from refl.metrics import MIXED
from refl.picks import EncodedPicks, Pairs, Pick, read_picks, split_picks
from refl.preference import PickLoss
from refl.runfiles import read_events, read_json
from refl.schedule import NoiseSchedule

from .tiny import PROMPTS, SIZE, ColourReward

# --- the loss --------------------------------------------------------------------------------------------------------


def equation_14(network, reference, x_w, x_l, t, noise, beta, kind, alphas_cumprod):
    """Eq. 14 of arXiv 2311.12908, term by term and sample by sample, in float64; shares no code with the package.

    L = -E log sigmoid(-beta T omega(lambda_t) (|e - e_theta(x_t^w, t)|^2 - |e - e_ref(x_t^w, t)|^2
                                               - (|e - e_theta(x_t^l, t)|^2 - |e - e_ref(x_t^l, t)|^2)))

    with T omega(lambda_t) = 1 / (2 D), D numbers in a latent. v-prediction and rectified flow (x_t = (1 - s) x_0 + s e,
    target e - x_0) replace what is predicted, nothing else.
    """
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(x_w)):
        errors = []
        for x0 in (x_w[row].double(), x_l[row].double()):
            e = noise[row].double()
            if kind == "flow":
                sigma = float(t[row] + 1) / 1000
                x_t, target = (1 - sigma) * x0 + sigma * e, e - x0
            else:
                a, s = alphas_cumprod[t[row]].sqrt(), (1 - alphas_cumprod[t[row]]).sqrt()
                x_t = a * x0 + s * e
                target = e if kind == "epsilon" else a * e - s * x0
            for model in (network, reference):
                prediction = model(x_t[None].float(), t[row : row + 1])[0].double()
                errors.append(((target - prediction) ** 2).sum())
        w_theta, w_ref, l_theta, l_ref = errors
        t_omega = 1 / (2 * x_w[row].numel())
        inside = -beta * t_omega * ((w_theta - w_ref) - (l_theta - l_ref))
        total = total + torch.log1p(torch.exp(-inside))
    return total / len(x_w)


class Flow:
    """Rectified flow as a schedule: all that the loss asks of one."""

    prediction_type = "flow"

    def add_noise(self, x0, noise, t):
        sigma = ((t + 1) / 1000).view(-1, 1, 1, 1)
        return (1 - sigma) * x0 + sigma * noise

    def target(self, x0, noise, t):
        return noise - x0


def small_network(seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(5, 16, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(16, 4, 3, padding=1)
    )

    def answer(x, t):
        return net(torch.cat((x, (t / 1000).view(-1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])), dim=1))

    return net, answer


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_loss_and_gradients_are_the_papers(kind):
    net, network = small_network(0)
    _, reference = small_network(1)
    schedule = Flow() if kind == "flow" else NoiseSchedule({}, kind)
    active = [network]
    backend = SimpleNamespace(predict=lambda x, t, cond: active[0](x, t))

    class AsBase:
        def __enter__(self):
            active[0] = reference

        def __exit__(self, *_):
            active[0] = network

    generator = torch.Generator().manual_seed(2)
    x_w, x_l, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(3))
    t, beta = torch.tensor([3, 400, 950]), 20.0
    loss = PickLoss(SimpleNamespace(schedule=schedule, backend=backend), lambda prompts: None, beta, AsBase)
    (term,) = loss.terms(Pairs(x_w, x_l, ["a"] * 3, t, noise))
    ours = torch.autograd.grad(term.loss, list(net.parameters()))
    alphas = None if kind == "flow" else schedule.alphas_cumprod
    expected = equation_14(network, reference, x_w, x_l, t, noise, beta, kind, alphas)
    theirs = torch.autograd.grad(expected, list(net.parameters()))
    assert float(term.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert abs(float(term.loss.detach()) - 0.6931) > 0.01  # the two networks differ, and it shows
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.fixture()
def duels(tmp_path):
    """A file of 24 duels: for each prompt the redder of two pairs of pictures won."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for number, prompt in enumerate(PROMPTS):
        for pair in range(2):
            names = []
            for name, colour in (("won", (255, 0, 10 * pair)), ("lost", (0, 255, 255 - 10 * pair))):
                path = folder / f"{number}-{pair}-{name}.png"
                Image.new("RGB", (24, 20), colour).save(path)
                names.append(f"pictures/{path.name}")
            lines.append({"winner": names[0], "loser": names[1], "prompt": prompt})
    path = tmp_path / "duels.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def test_picks_of_a_file(duels):
    with duels.open("a", encoding="utf-8") as file:
        undecided = {"winner": "pictures/0-0-won.png", "loser": "pictures/0-1-won.png", "prompt": "x"}
        file.write(json.dumps({**undecided, "verdict": "both"}) + "\n")
    found = read_picks(duels)
    assert len(found) == 24 and found[0].prompt == PROMPTS[0]
    assert found[0].winner.is_file() and found[0].winner.name == "0-0-won.png"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nonsense", "line 25: no JSON"),
        ('{"winner": "a.png"}', "line 25: winner and loser"),
        ('{"winner": "a.png", "loser": "b.png", "prompt": "x"}', "line 25: no such picture: a.png"),
        ('{"winner": "pictures/0-0-won.png", "loser": "pictures/0-0-lost.png"}', "line 25: no prompt"),
    ],
)
def test_a_line_that_is_no_pick_is_named(duels, line, told):
    with duels.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(PromptDataError, match=told):
        read_picks(duels)


def test_no_picks_at_all(tmp_path):
    with pytest.raises(PromptDataError, match="cannot be read"):
        read_picks(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(PromptDataError, match="holds no duel"):
        read_picks(tmp_path / "empty.jsonl")


def test_picks_of_the_library(duels, tmp_path, monkeypatch):
    from imagereward_core.library import Record, open_library, remember_now
    from imagereward_core.library.marks import add_duel

    place = tmp_path / "library.sqlite"
    monkeypatch.setenv("IMAGEREWARD_LIBRARY", str(place))
    with pytest.raises(PromptDataError):
        read_picks("library")
    of_file = read_picks(duels)[:3]
    with open_library(place) as library:
        for pick in of_file:
            numbers = [remember_now(library, Record(path)) for path in (pick.winner, pick.loser)]
            add_duel(library, *numbers, prompt=f"({pick.prompt}:1.2)")
        add_duel(library, *numbers, verdict="neither", prompt="x")
    assert [(pick.winner.name, pick.loser.name, pick.prompt) for pick in read_picks("library")] == [
        (pick.winner.name, pick.loser.name, pick.prompt) for pick in of_file
    ]
    of_file[0].winner.unlink()
    assert len(read_picks("library")) == 2


def test_no_held_out_picture_is_trained_on():
    picks = [Pick(Path(f"w{n}"), Path(f"l{n}"), f"prompt {n % 4}") for n in range(20)]
    parts = split_picks(picks, {"prompt 1"})
    assert {pick.prompt for pick in parts.held_out} == {"prompt 1"} and len(parts.train) == 15
    again = split_picks(picks, ())
    assert len(again.held_out) == 2 and len(again.train) == 18  # a tenth, when no prompt is held out
    chain = [Pick(Path(f"p{n}"), Path(f"p{n + 1}"), "x") for n in range(20)]  # each picture in two duels
    parts = split_picks(chain, ())
    pictures = [{path for pick in part for path in (pick.winner, pick.loser)} for part in (parts.train, parts.held_out)]
    assert parts.train and not pictures[0] & pictures[1]
    with pytest.raises(PromptDataError, match="2 picks are too few"):
        split_picks(picks[:2], ())


def test_pairs_are_a_function_of_seed_and_sample():
    latents = {Path(name): torch.full((4, 2, 2), float(value)) for value, name in enumerate("abcd")}
    picks = EncodedPicks([Pick(Path("a"), Path("b"), "x"), Pick(Path("c"), Path("d"), "y")], latents, 1000)
    together, alone = (picks.draw(numbers, 3, torch.device("cpu")) for numbers in ([5, 6], [6]))
    assert together.prompts[1] == alone.prompts[0] and int(together.t[1]) == int(alone.t[0])
    torch.testing.assert_close(together.noise[1], alone.noise[0])
    torch.testing.assert_close(together.winners[1] + 1, together.losers[1])


# --- a run -----------------------------------------------------------------------------------------------------------


def asked(settings, duels, **changes):
    values = {"algorithm": "dpo", "picks": str(duels), "prompts": [], "dpo_beta": 500.0, **changes}
    return dataclasses.replace(settings, **values)


def test_a_run_from_picks_to_lora(settings, duels):
    config = asked(
        settings,
        duels,
        max_train_steps=20,
        eval_steps=20,
        learning_rate=1e-2,
        lora_targets="all",
        dpo_beta=2000.0,
        use_ema=False,
    )
    result = Trainer(args=config, judges=[ColourReward()]).train()
    assert result.state == "finished" and result.exported.is_file()
    first, last = result.evaluations
    assert first.reward == pytest.approx(-0.6931, abs=1e-4) and first.pick_accuracy == 0.5
    assert last.reward > first.reward + 0.2 and last.pick_accuracy > 0.9  # it has learnt what won
    assert len(last.scores[MIXED]) == 6 and len(last.scores["redness"]) == 3 * settings.eval_seeds
    assert any(float(tensor.abs().max()) > 0 for key, tensor in load_file(result.exported).items() if "lora_up" in key)
    assert "did better" not in read_status(config.output_dir).message
    page = (Path(config.output_dir) / "report.html").read_text(encoding="utf-8")
    assert "Fine-tuning on picks" in page and "held-out picks that come true" in page
    assert read_json(Path(config.output_dir) / "config.json")["anchor"] == "none"


def test_a_run_that_nothing_was_learnt_in_says_so(settings, duels):
    config = asked(settings, duels, max_train_steps=2, eval_steps=2, learning_rate=1e-30)
    result = Trainer(args=config, judges=[]).train()
    assert result.state == "finished" and result.evaluations[-1].pick_accuracy == 0.5
    message = read_status(config.output_dir).message
    assert "No evaluation did better on held-out picks than the base model (-0.693)" in message


@pytest.mark.newest
def test_stopped_and_resumed_it_is_the_same_run(settings, duels, tmp_path):
    straight, parts = (asked(settings, duels, output_dir=str(tmp_path / name)) for name in ("straight", "parts"))
    Trainer(args=straight, judges=[]).train()
    Trainer(args=dataclasses.replace(parts, max_train_steps=2), judges=[]).train()
    Trainer(args=dataclasses.replace(parts, resume_from_checkpoint="latest"), judges=[]).train()
    rows = []
    for config in (straight, parts):
        events = read_events(Path(config.output_dir) / "events.jsonl")
        rows.append([(e["loss"], e["reward"]) for e in events if e["type"] == "step" and e["step"] == 3])
    assert rows[0] == rows[1]
    lines = duels.read_text(encoding="utf-8").splitlines()
    duels.write_text("\n".join(lines[:-2]) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="begun with picks 18 picks .* cannot go on with [0-9]+ picks"):
        Trainer(args=dataclasses.replace(parts, resume_from_checkpoint="latest"), judges=[]).train()


def test_a_whole_unet_learns_picks_too(settings, duels):
    config = asked(settings, duels, tune="full", output="single-file", max_train_steps=2, learning_rate=1e-4)
    trainer = Trainer(args=config, judges=[])
    result = trainer.train()
    assert result.state == "finished" and not lora.layers(trainer.backend.unet)
    assert result.evaluations[-1].pick_accuracy != 0.5


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"picks": ""}, "give a file of duels with --picks"),
        ({"algorithm": "refl+"}, "with algorithm dpo only"),
        ({"anchor": "kl"}, "keeps near the base model by dpo_beta"),
        ({"dpo_beta": 0.0}, "dpo_beta must be greater than 0"),
    ],
)
def test_settings_that_do_not_go_together(settings, duels, changes, told):
    with pytest.raises(ConfigError, match=told):
        asked(settings, duels, **changes).resolved()


@pytest.mark.newest
def test_picks_need_less_memory_than_a_reward():
    from refl.config import ReFLConfig
    from refl.families import family

    sizes = {
        name: estimate(ReFLConfig(algorithm=name, picks="x" if name == "dpo" else "").resolved(), family("sd1"))
        for name in ("refl+", "dpo")
    }
    assert 2e9 < sizes["dpo"].tensors < sizes["refl+"].tensors
    assert SIZE == 16 and sizes["dpo"].unet_calls == 16 * 2 * 5
