"""Table 3 on the public rankings with scorers whose result is known, and on drawn pictures with a trained model."""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from imagereward_cli.commands import bench as cli_bench
from imagereward_core.errors import ConfigError, DataError, ImageError
from imagereward_train import train
from imagereward_train.formats import read_items
from imagereward_train.items import Item
from imagereward_train.tables import published
from imagereward_train.tables.judges import Judge, labels, scorer_judge, scripted, weights_digest
from imagereward_train.tables.preference import run_preference
from imagereward_train.tables.scoring import World, score_items
from tests.conftest import shared
from tests.training.drawn import write_rankings
from tests.training.small import quick

LAUNCH = str(pathlib.Path(__file__).parent / "launch.py")


def bench(*words):
    parser = argparse.ArgumentParser()
    cli_bench.add_arguments(parser)
    return cli_bench.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def public():
    return shared("data", "imagereward", "test.json")


def test_public_rankings_with_known_scorers(public, tmp_path):
    names = ("oracle", "inverted", "constant", "random")
    results = run_preference(
        public, "", [lambda world, name=name: scripted(name) for name in names], tmp_path, repeats=100
    )
    assert (
        (results["prompts"], results["pairs"], results["human_ties"])
        == (published.PROMPTS, published.PAIRS, 831)
        == (466, 6399, 831)
    )
    accuracy = {name: found["accuracy"] for name, found in results["scorers"].items()}
    for key, wanted in (("oracle", (1, 1, 1, 1)), ("inverted", (0, 0, 0, 0)), ("constant", (0, 0.5, 0, 0.5))):
        assert tuple(accuracy[key][rule] for rule in ("pair", "pair_half", "prompt", "prompt_half")) == wanted
        assert (accuracy[key]["prompts"], accuracy[key]["pairs"]) == (466, 6399)
    assert abs(accuracy["random"]["pair"] - 0.5) < 0.03 and accuracy["random"]["equal"] == 0
    selection = {name: found["selection"] for name, found in results["scorers"].items()}
    assert selection["oracle"] == {
        "prompts": 66,
        **{f"{metric}@{k}": 1.0 for metric in ("recall", "filter") for k in (1, 2, 4)},
    }
    assert selection["inverted"]["recall@4"] == 0


def test_report_says_what_it_is(public, tmp_path, capsys):
    assert bench("preference", "--data", public, "--scorers", "oracle", "--out", tmp_path, "--bootstrap", 20) == 0
    text = (tmp_path / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert (
        "371 prompts with 8 images each, which its authors have lost" in text
        and "at least 8 images (66 in the public test.json)" in text
    )
    assert (
        "| ImageReward-v1.0, paper (371 prompts, lost) | 39.62 | 63.07 | 90.84 | 49.06 | 70.89 | 88.95 | 371 |" in text
    )
    results = json.loads((tmp_path / "results.json").read_text())
    manifest = results["manifest"]
    assert manifest["settings"]["data_sha256"] == published.TEST_JSON.sha256
    assert manifest["settings"]["tie_rules"]["reference"] == "equal scores count as wrong"
    assert manifest["packages"]["numpy"] == np.__version__ and manifest["judges"]["oracle"] == {
        "scripted": "oracle",
        "seed": 0,
    }
    assert results["published"]["accuracy"] == {
        "CLIP": 54.82,
        "Aesthetic": 57.35,
        "BLIP": 57.76,
        "ImageReward-v1.0": 65.14,
    }


def test_a_trained_small_model_on_drawn_pictures(tmp_path, capsys):
    """The whole way: draw, train, benchmark in one and in two processes, resume."""
    checkpoint = train(quick(tmp_path, prompts=24, epochs=6, lr=2e-3))
    data = write_rankings(tmp_path / "other", 9, seed=77, size=16, k=8)
    options = ("--data", data, "--scorers", f"{checkpoint},random", "--device", "cpu", "--bootstrap", 50)
    assert bench("preference", *options, "--out", tmp_path / "one") == 0
    one = json.loads((tmp_path / "one/results.json").read_text())
    scorer_name = checkpoint.stem
    facts = one["manifest"]["judges"][scorer_name]
    assert facts["precision"] == "fp32" and len(facts["weights_sha256"]) == 64

    import imagereward_core as RM

    scorer = RM.load(checkpoint, device="cpu")
    assert facts["weights_sha256"] == weights_digest(scorer)
    right = pairs = 0
    for item in read_items(data).items:  # the reference's counting, written out
        scores = scorer.score(item.prompt, list(item.images))
        for i in range(8):
            for j in range(i + 1, 8):
                if item.ranking[i] != item.ranking[j]:
                    pairs += 1
                    right += (item.ranking[i] - item.ranking[j]) * (scores[i] - scores[j]) < 0
    assert one["scorers"][scorer_name]["accuracy"]["pair"] == pytest.approx(right / pairs)
    assert one["scorers"][scorer_name]["selection"]["prompts"] == 9

    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        LAUNCH,
        "preference",
        *map(str, options),
        "--out",
        str(tmp_path / "two"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two/results.json").read_text())
    assert (one["manifest"]["settings"]["processes"], two["manifest"]["settings"]["processes"]) == (1, 2)
    assert two["scorers"] == one["scorers"]
    assert two["manifest"]["settings"]["images_sha256"] == one["manifest"]["settings"]["images_sha256"]
    assert sorted(path.name for path in (tmp_path / "two/scores").iterdir()) == [
        "best.0.jsonl",
        "best.1.jsonl",
        "random.0.jsonl",
        "random.1.jsonl",
    ]


def test_batches_go_on_over_prompts(tiny_model, tmp_path):
    """All images of a table go through the pipeline of folders and manifests; a prompt's end ends no batch."""
    generator, items = np.random.default_rng(0), []
    for number, count in enumerate((3, 1, 4)):
        images = [str(tmp_path / f"{number}-{index}.png") for index in range(count)]
        for image in images:
            Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(image)
        items.append(Item(str(number), f"prompt {number}", tuple(images), ()))
    expected = [tiny_model.score_pairs([item.prompt] * len(item.images), list(item.images)) for item in items]
    sizes, encode = [], tiny_model.encode_images
    tiny_model.encode_images = lambda pixels: sizes.append(len(pixels)) or encode(pixels)
    tiny_model.batch_size = 4
    found = list(scorer_judge(tiny_model, "fp32").scores(items))
    assert sizes == [4, 4] and [len(row) for row in found] == [3, 1, 4]
    assert sum(found, []) == pytest.approx(sum(expected, []), abs=1e-5)
    pathlib.Path(items[1].images[0]).write_bytes(b"nothing")
    with pytest.raises(ImageError, match="1-0.png"):
        list(scorer_judge(tiny_model, "fp32").scores(items))


def counting(calls, name="counted"):
    return Judge(
        name, lambda item: calls.append(item.id) or [0.5] * len(item.images), needs_images=False, facts={"weights": 1}
    )


def test_resume_scores_only_what_is_missing(public, tmp_path):
    items = read_items(public).items[:6]
    calls = []

    def dies(item):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(item.id)
        return [float(len(calls))] * len(item.images)

    with pytest.raises(KeyboardInterrupt):
        score_items(items, Judge("counted", dies, False, {"weights": 1}), tmp_path, "data", False, World())
    file = tmp_path / "counted.0.jsonl"
    file.write_bytes(file.read_bytes()[:-3])  # and the last line was torn
    again = []
    scores = score_items(items, counting(again), tmp_path, "data", True, World())
    assert again == [item.id for item in items[3:]]
    assert [scores[item.id][0] for item in items] == [1.0, 2.0, 3.0, 0.5, 0.5, 0.5]
    score_items(items, counting(again), tmp_path, "data", False, World())
    assert len(again) == 3 + 6


@pytest.mark.parametrize(
    ("judge", "data", "named"),
    [(Judge("counted", lambda item: [], False, {"weights": 2}), "data", "weights"), (counting([]), "other", "data")],
)
def test_resume_refuses_other_weights_or_data(public, tmp_path, judge, data, named):
    items = read_items(public).items[:2]
    score_items(items, counting([]), tmp_path, "data", False, World())
    with pytest.raises(ConfigError, match=rf"scores of another run \({named} differ\): run without --resume"):
        score_items(items, judge, tmp_path, data, True, World())


def test_missing_images_are_named_or_left_out(tmp_path):
    data = write_rankings(tmp_path, 3, size=16, k=3)
    (tmp_path / "1-2.png").unlink()
    judge = [lambda world: Judge("all", lambda item: [-rank for rank in item.ranking], True)]
    with pytest.raises(DataError, match=r"1 images are missing: .*1-2\.png\. Check --images"):
        run_preference(data, "", judge, tmp_path / "out")
    results = run_preference(data, "", judge, tmp_path / "out", skip_missing=True, repeats=10)
    assert results["left_out"] == ["0001"] and results["scorers"]["all"]["accuracy"]["prompts"] == 2
    assert (
        "1 prompts are left out because images are missing: these are not the paper's numbers"
        in (tmp_path / "out/report.md").read_text()
    )


def test_pairs_have_no_ranking_to_know(tmp_path):
    (tmp_path / "p.json").write_text('[{"prompt": "x", "better": "a.png", "worse": "b.png"}]')
    with pytest.raises(ConfigError, match="pairs and no ranking"):
        run_preference(tmp_path / "p.json", "", [lambda world: scripted("oracle")], tmp_path)


def test_checkpoints_of_the_same_name_are_told_apart():
    assert labels(["CLIP", "x/run1/best.safetensors", "run2/best.safetensors", "a.pt"]) == [
        "CLIP",
        "run1/best",
        "run2/best",
        "a",
    ]
    assert labels(["u/run/best.pt", "v/run/best.pt"]) == ["u/run/best", "v/run/best"]
    for twice in (["CLIP", "CLIP"], ["run/best.pt", "run/best.pt"]):
        with pytest.raises(ConfigError, match="named twice"):
            labels(twice)


def test_command_line_mistakes(tmp_path):
    with pytest.raises(ConfigError, match="--data is missing"):
        bench("preference", "--scorers", "oracle")
    with pytest.raises(ConfigError, match="--scorers is empty"):
        bench("preference", "--data", "x", "--scorers", ",")
