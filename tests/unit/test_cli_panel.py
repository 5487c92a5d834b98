"""`--scorer A,B,C`: each scorer's value is that of a run of its own; what they have in common is recorded with how."""

import csv
import json
import shutil
import statistics

import pytest

from imagereward_cli import main as cli
from imagereward_core import exit_codes
from imagereward_core.errors import ConfigError, LibraryError
from imagereward_core.library import Record, Score, open_library, remember_now
from imagereward_core.metadata import prompt_of, read_score
from imagereward_core.panel import Constants, from_library, from_mapping, from_text, to_text
from imagereward_core.panel.constants import FEWEST
from tests.golden import sets
from tests.unit.test_cli import save

pytest.importorskip("transformers")
THREE = ("pickscore", "hpsv2", "cyclereward")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three scorers as files with a JSON beside each."""
    folder = tmp_path_factory.mktemp("scorers")
    paths = []
    for name in THREE:
        paths.append(str(sets.write(name, folder)))
        config = {"scorer": sets.NAMES[name], **sets.read(name, "config.json")}
        (folder / f"{name}.json").write_text(json.dumps(config))
    return paths


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for number, prompt in enumerate(("a cat", "a cat", "a dog", "a (red:1.2) fox", "a cat")):
        save(folder / f"{number}.png", number, prompt)
    return folder


@pytest.fixture
def run(capsys):
    def run(command, *arguments):
        code = cli.main([command, *map(str, arguments), "--device", "cpu", "-q"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def of(images, what):
    return {image["file"]: what(image) for image in images}


@pytest.mark.parametrize("memory", ["together", "one by one"])
def test_each_value_is_that_of_a_single_run(run, files, pictures, memory):
    single = {}
    for path in files:
        data = json.loads(run("score", pictures, "--scorer", path, "--json")[1])
        single[data["model"]] = of(data["images"], lambda image: image["score"])
    code, out, _ = run("score", pictures, "--scorer", ",".join(files), "--json", "--panel-memory", memory)
    data = json.loads(out)
    assert code == exit_codes.OK and data["panel"] == list(single)
    assert [name.partition(" [")[0] for name in single] == [sets.NAMES[name] for name in THREE]
    for name, values in single.items():
        assert of(data["images"], lambda image, name=name: image["by_scorer"][name]) == pytest.approx(values, abs=1e-6)
    assert data["standardised_by"] == "ranks within the prompt" and data["constants"] == {}
    alone = next(image for image in data["images"] if image["prompt"] == "a dog")
    assert (alone["score"], alone["disagreement"]) == (0.0, 0.0)  # one picture has no rank among others


def test_constants_are_recorded_and_give_the_same_again(run, files, pictures, tmp_path):
    given = {"PickScore": {"mean": 20, "std": 2}, "HPSv2.1": [0.25, 0.05], "CycleReward": {"mean": 0, "std": 1}}
    (tmp_path / "constants.json").write_text(json.dumps(given))
    panel = ("--scorer", ",".join(files), "--standardise", tmp_path / "constants.json")
    data = json.loads(run("score", pictures, *panel, "--json")[1])
    assert data["standardised_by"] == "constants" and {c["mean"] for c in data["constants"].values()} == {20, 0.25, 0}
    first = data["images"][0]
    standard = [(first["by_scorer"][name] - c["mean"]) / c["std"] for name, c in data["constants"].items()]
    assert first["score"] == pytest.approx(statistics.fmean(standard))
    assert first["disagreement"] == pytest.approx(statistics.pstdev(standard))
    (tmp_path / "result.json").write_text(json.dumps(data))
    again = ("--scorer", ",".join(files), "--standardise", tmp_path / "result.json")
    one = json.loads(run("score", first["file"], *again, "--json")[1])["images"][0]
    assert one["score"] == pytest.approx(first["score"], abs=1e-5)
    scores = sorted(image["score"] for image in data["images"])
    kept = json.loads(run("score", pictures, *panel, "--json", "--min-score", scores[2] - 1e-4)[1])["images"]
    assert sorted(image["score"] for image in kept) == pytest.approx(scores[2:], abs=1e-5)


def test_a_limit_needs_constants(run, files, pictures):
    code, _, err = run("score", pictures, "--scorer", ",".join(files), "--min-score", "0")
    assert code == exit_codes.USAGE
    assert "no mean and SD are published of PickScore [" in err and "--standardise library" in err
    code, out, _ = run("score", pictures, "--scorer", ",".join(files), "--top", "2", "--json")
    assert code == exit_codes.OK and len(json.loads(out)["images"]) == 2


def test_each_value_is_written_under_its_own_key_and_not_computed_again(run, files, pictures, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({name: [1, 2] for name in ("PickScore", "HPSv2.1", "CycleReward")}))
    panel = ("--scorer", ",".join(files), "--standardise", tmp_path / "c.json", "--json")
    first = json.loads(run("score", pictures, *panel, "--write")[1])
    path = pictures / "3.png"
    values = next(image for image in first["images"] if image["file"] == str(path))
    for name, key in zip(first["panel"], ("PickScore", "HPSv2-1", "CycleReward")):
        stored = read_score(path, key)
        assert stored.model == name and stored.value == pytest.approx(values["by_scorer"][name], abs=6e-5)
    assert read_score(path, "Panel score").value == pytest.approx(values["score"], abs=6e-5)
    assert from_text(read_score(path, "Panel score").model).keys() == set(first["panel"])
    assert prompt_of(path).words == "a red fox"
    again = json.loads(run("score", pictures, *panel)[1])
    assert all(image["stored"] for image in again["images"])
    assert json.loads(run("score", pictures, "--scorer", files[0], "--json")[1])["images"][0]["stored"]


def test_csv_has_a_column_for_each_scorer_and_the_table_too(run, files, pictures, tmp_path):
    target = tmp_path / "scores.csv"
    run("score", pictures, "--scorer", ",".join(files), "-o", target)
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0])
    assert columns[:3] == ["file", "score", "disagreement"]
    assert [column.partition(" [")[0] for column in columns[3:6]] == [sets.NAMES[name] for name in THREE]
    assert rows[0]["standardised_by"] == "ranks within the prompt"
    header = run("score", pictures, "--scorer", ",".join(files))[1].splitlines()[0]
    assert header.split()[:3] == ["score", "disagreement", "PickScore"] and header.endswith("prompt")


def test_a_picture_that_one_scorer_cannot_judge_is_an_error_and_keeps_the_other_values(run, files, pictures):
    save(pictures / "bare.png", 9)
    (pictures / "broken.png").write_bytes(b"no picture")
    code, out, err = run("score", pictures, "--scorer", ",".join(files[:2]), "--json")
    data = json.loads(out)
    assert code == exit_codes.SOME_FAILED and len(data["images"]) == 5
    assert {failed["file"] for failed in data["failed"]} == {str(pictures / n) for n in ("bare.png", "broken.png")}
    assert err.count("bare.png: no prompt") == 1


def test_ranking_with_a_panel(run, files, pictures):
    _, out, _ = run("rank", pictures, "-p", "a cat", "--scorer", ",".join(files), "--json")
    images = json.loads(out)["images"]
    assert [image["rank"] for image in images] == [1, 2, 3, 4, 5]
    assert [image["score"] for image in images] == sorted((image["score"] for image in images), reverse=True)
    assert set(images[0]["by_scorer"]) == set(json.loads(out)["panel"])


def test_own_scores_out_of_the_library(run, files, pictures, tmp_path):
    place = tmp_path / "library.sqlite"
    values = [0.1 * number for number in range(FEWEST)]
    with open_library(place) as library:
        for number, value in enumerate(values):
            path = tmp_path / "old" / f"{number}.png"
            save(path, number, "a cat")
            remember_now(library, Record(path, scores=(Score("PickScore", value),)))
    found = from_library({"PickScore": "PickScore"}, place)
    assert found["PickScore"].source == "own scores"
    assert found["PickScore"].mean == pytest.approx(statistics.fmean(values), abs=1e-5)
    assert found["PickScore"].std == pytest.approx(statistics.pstdev(values), abs=1e-5)
    with pytest.raises(LibraryError, match=r"at least 20 own scores .* has 0 of MPS"):
        from_library({"PickScore": "PickScore", "MPS": "MPS"}, place)


def test_what_is_remembered_are_the_scorers_own_values(run, files, pictures, tmp_path):
    place = tmp_path / "library.sqlite"
    _, out, _ = run("score", pictures, "--scorer", ",".join(files[:2]), "--remember", "--library", place, "--json")
    with open_library(place) as library:
        names = [
            row[0] for row in library.query("SELECT DISTINCT r.name FROM scores s JOIN scorers r ON r.id = s.scorer_id")
        ]
    assert sorted(names) == sorted(json.loads(out)["panel"])


def test_constants_as_text():
    made = {"waifu-scorer v3": Constants(5.25, 1.5, "given"), "PickScore": Constants(21.2, 0.0013, "given")}
    assert from_text(to_text(made)) == made and from_text("") == {}
    for text in ("PickScore", "PickScore 1", "PickScore a b"):
        with pytest.raises(ConfigError, match="NAME MEAN SD"):
            from_text(text)
    for text in ("PickScore 1 0", "PickScore nan 1"):
        with pytest.raises(ConfigError, match="positive"):
            from_text(text)
    for wrong in ([1], {"a": 1}, {"a": {"mean": 1}}, {"a": [1, True]}):
        with pytest.raises(ConfigError):
            from_mapping(wrong)


def test_wrong_panels_say_what_is_wrong(run, files, pictures, tmp_path):
    for arguments, words in (
        (("--scorer", "CLIP,clip"), "names a scorer twice: CLIP"),
        (("--scorer", "CLIP,nobody"), "no model is called 'nobody'"),
        (("--scorer", ",".join(files), "--weights", files[0]), "of one scorer"),
        (("--scorer", ",".join(files), "--standardise", "nowhere.json"), "there is no file nowhere.json"),
    ):
        code, _, err = run("score", pictures, *arguments)
        assert code in (exit_codes.USAGE, exit_codes.MODEL) and words in err
    comma = tmp_path / "a,b.safetensors"
    shutil.copy(files[0], comma)
    shutil.copy(files[0].replace(".safetensors", ".json"), tmp_path / "a,b.json")
    assert "by_scorer" not in run("score", pictures, "--scorer", comma, "--json")[1]


@pytest.mark.newest
def test_fifty_pictures_of_the_small_world(run, files, tmp_path):
    """Its own reward model beside two others; what each gives alone is what the panel has, to the last digit shown."""
    import numpy as np

    from smallworld.world import render, sample_scene
    from tests.conftest import ROOT

    rng = np.random.default_rng(5)
    for number in range(50):
        scene = sample_scene(rng)
        render(scene, rng).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(scene.caption)
    three = [ROOT / "smallworld" / "weights" / "tiny-imagereward.safetensors", *files[:2]]
    together = json.loads(run("score", tmp_path, "--scorer", ",".join(map(str, three)), "--json")[1])
    assert len(together["images"]) == 50 and together["failed"] == []
    for name, path in zip(together["panel"], three):
        alone = json.loads(run("score", tmp_path, "--scorer", path, "--json")[1])
        assert alone["model"] == name
        assert of(together["images"], lambda image, name=name: f"{image['by_scorer'][name]:.4f}") == of(
            alone["images"], lambda image: f"{image['score']:.4f}"
        )
