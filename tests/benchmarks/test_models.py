"""Table 1: text-to-image models by mean score."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from imagereward_cli.commands import bench as cli_bench
from imagereward_core.errors import DataError
from imagereward_train import train
from imagereward_train.tables import published
from imagereward_train.tables.judges import Judge
from imagereward_train.tables.models import evaluate, read_generations, read_prompts, run_models
from tests.training.drawn import draw
from tests.training.small import quick

NAMES = [generator.folder for generator in published.GENERATORS]


def write(folder, models, prompts=3, images=2):
    """One-colour pictures: model m, prompt p, image k has red = 40 m + 3 p + k."""
    path = folder / "prompts.json"
    path.write_text(json.dumps([{"id": f"{p:04d}-x", "prompt": f"prompt {p}"} for p in range(prompts)]))
    for m, name in enumerate(models):
        (folder / "generations" / name).mkdir(parents=True)
        for p in range(prompts):
            for k in range(images):
                Image.new("RGB", (8, 8), (40 * m + 3 * p + k, 0, 0)).save(
                    folder / "generations" / name / f"{p:04d}-x_{k}.png"
                )
    return path, folder / "generations"


def redness(sign=1.0, name="red"):
    def score(item):
        values = []
        for path in item.images:
            with Image.open(path) as image:
                values.append(sign * image.getpixel((0, 0))[0])
        return values

    return lambda world: Judge(name, score)


def test_means_ranks_and_correlation(tmp_path):
    prompts, folder = write(tmp_path, NAMES)
    results = run_models(
        prompts, folder, [redness(-1, "like people"), redness(1, "contrary")], tmp_path / "out", repeats=200
    )
    like, contrary = (results["scorers"][name] for name in ("like people", "contrary"))
    assert [like["models"][name]["mean"] for name in NAMES] == pytest.approx([-(40 * m + 3.5) for m in range(6)])
    assert [like["models"][name]["rank"] for name in NAMES] == [1, 2, 3, 4, 5, 6]
    assert like["spearman"] == {
        "value": pytest.approx(1.0),
        "low": pytest.approx(1.0),
        "high": pytest.approx(1.0),
        "models": 6,
    }
    assert contrary["spearman"]["value"] == pytest.approx(-1.0)
    assert (results["prompts"], results["images"]) == (3, 36)
    assert results["human_wins"] == dict(zip(NAMES, (507, 463, 390, 362, 340, 74)))
    text = (tmp_path / "out/report.md").read_text()
    assert (
        "| Openjourney | -3.5000 |" in text and "Spearman's ρ to human wins over 6 models: 1.00 (1.00 to 1.00)." in text
    )


def test_the_papers_own_means_have_the_papers_correlation():
    means = {generator.folder: np.full(5, generator.mean) for generator in published.GENERATORS}
    human = {generator.folder: generator.wins for generator in published.GENERATORS}
    assert evaluate(means, human, repeats=20)["spearman"]["value"] == pytest.approx(
        published.SPEARMAN["ImageReward-v1.0"]
    )


def test_intervals_draw_prompts_jointly():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 5, 40)  # hard and easy prompts, the same for both models
    found = evaluate({"a": shared + 0.5, "b": shared, "c": shared - 0.5}, {"a": 3, "b": 2, "c": 1}, repeats=300)
    assert found["models"]["a"]["high"] - found["models"]["a"]["low"] > 2
    assert found["spearman"]["low"] == found["spearman"]["high"] == pytest.approx(1.0)  # the order never changes


def test_folders_of_ones_own_and_aliases(tmp_path):
    prompts, folder = write(tmp_path, ["versatile-diffusion", "mine"])
    read = read_prompts(prompts)
    assert list(read_generations(read, folder)) == ["vd"]
    assert list(read_generations(read, folder, ["mine", "versatile-diffusion"])) == ["mine", "vd"]
    assert [len(item.images) for item in read_generations(read, folder)["vd"]] == [2, 2, 2]
    results = run_models(prompts, folder, [redness()], tmp_path / "out", models=["mine"], repeats=10)
    assert results["scorers"]["red"]["spearman"] is None and results["human_wins"] == {}


def test_what_is_missing_is_named(tmp_path):
    prompts, folder = write(tmp_path, ["a", "b"])
    for k in range(2):
        (folder / "b" / f"0001-x_{k}.png").unlink()
    read = read_prompts(prompts)
    with pytest.raises(DataError, match="1 prompts have no image called <id>_<number>: b/0001-x"):
        read_generations(read, folder)
    with pytest.raises(DataError, match="has no folder 'c'; there are a, b"):
        read_generations(read, folder, ["c"])
    with pytest.raises(DataError, match="no such folder of generations"):
        read_generations(read, tmp_path / "none")
    (tmp_path / "bad.json").write_text('[{"id": 1}]')
    with pytest.raises(DataError, match="must be a JSON list of objects with id and prompt: KeyError"):
        read_prompts(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text('[{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}]')
    with pytest.raises(DataError, match="each needs an id of its own"):
        read_prompts(tmp_path / "bad.json")


def test_command_with_a_trained_model(tmp_path, capsys):
    checkpoint = train(quick(tmp_path, train_iters=2))
    path, folder = tmp_path / "prompts.json", tmp_path / "g"
    path.write_text(json.dumps([{"id": "p", "prompt": "a red circle"}, {"id": "q", "prompt": "a blue square"}]))
    for name, colour in (("one", "red"), ("two", "blue")):
        (folder / name).mkdir(parents=True)
        for key in "pq":
            draw(colour, "circle", 3, 16).save(folder / name / f"{key}_0.png")
    parser = argparse.ArgumentParser()
    cli_bench.add_arguments(parser)
    words = [
        "models",
        "--prompts",
        path,
        "--generations",
        folder,
        "--scorers",
        checkpoint,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        "--bootstrap",
        10,
    ]
    assert cli_bench.run(parser.parse_args(list(map(str, words)))) == 0

    import imagereward_core as RM

    scorer = RM.load(checkpoint, device="cpu")
    results = json.loads((tmp_path / "out/results.json").read_text())
    for name in ("one", "two"):
        wanted = np.mean(
            [
                scorer.score(prompt, str(folder / name / f"{key}_0.png"))
                for key, prompt in (("p", "a red circle"), ("q", "a blue square"))
            ]
        )
        assert results["scorers"]["best"]["models"][name]["mean"] == pytest.approx(wanted, abs=1e-6)
    assert (tmp_path / "out/plot.png").stat().st_size > 1000


def test_results_are_json_also_where_a_number_is_none(tmp_path):
    prompts, folder = write(tmp_path, NAMES)
    constant = [lambda world: Judge("constant", lambda item: [0.0] * len(item.images))]  # no ranks, so no correlation
    results = run_models(prompts, folder, constant, tmp_path / "out", repeats=20)
    assert np.isnan(results["scorers"]["constant"]["spearman"]["low"])

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "out" / "results.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse)["scorers"]["constant"]["spearman"]["low"] is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "plot.png",
        "report.md",
        "results.json",
        "scores",
    ]


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", '[{"id": 1}]', "\x00", '[{"id": 1, "prompt": "a"}'])
def test_prompts_that_cannot_be_read(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DataError, match="p.json"):
        read_prompts(tmp_path / "p.json")
