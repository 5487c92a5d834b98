"""The main job, end to end, with the shipped weights."""

import shutil

import pytest
from PIL import Image

from imagereward_core import metadata
from imagereward_core.hashing import file_digest
from imagereward_core.metadata.infotext import parse_infotext
from smallworld.__main__ import main
from smallworld.demo import DEFAULT_PROMPTS, FLOW_PROMPTS, DemoConfig, ranked_table, run_demo
from smallworld.errors import SmallWorldError
from smallworld.flow_pipeline import TINY_FLOW
from smallworld.pipeline import TINY_REWARD, TINY_SD
from smallworld.world import parse_caption
from tests.conftest import ROOT

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, reward):
    out = tmp_path_factory.mktemp("demo") / "results"
    lines = []
    config = DemoConfig(out=out, prompts=DEFAULT_PROMPTS[:3], count=6, steps=8)
    return config, run_demo(config, lines.append, scorer=reward), lines


def test_the_default_prompts_are_captions_that_no_training_saw():
    assert all(parse_caption(prompt).held_out for prompt in DEFAULT_PROMPTS)


def test_every_picture_is_kept_or_hidden_by_the_threshold(finished):
    config, result, _ = finished
    assert len(result.kept) + len(result.hidden) == 6
    assert all(entry.score >= 0 for entry in result.kept)
    assert all(entry.score < 0 for entry in result.hidden)
    assert sorted(path.parent.name for path in config.out.rglob("*.png") if path.name != "report.png") == sorted(
        ["kept"] * len(result.kept) + ["hidden"] * len(result.hidden)
    )


def test_the_files_carry_everything(finished):
    _, result, _ = finished
    for entry in (*result.kept, *result.hidden):
        info = parse_infotext(metadata.read_infotext(entry.path))
        assert info.prompt == entry.prompt
        assert info.get("ImageReward") == f"{entry.score:.4f}"
        assert info.get("ImageReward model") == "tiny-imagereward"
        assert (info.get("Steps"), info.get("Sampler"), info.get("Size"), info.get("Model")) == (
            "8",
            "DDIM",
            "64x64",
            "tiny-sd",
        )
        assert info.get("Model hash") == file_digest(TINY_SD)[:10]
        assert int(info.get("Seed")) in range(1000, 1006)
        assert Image.open(entry.path).size == (64, 64)


def test_tiny_flow_draws_too(tmp_path, reward):
    run_demo(DemoConfig(out=tmp_path, count=2, steps=4, generator="tiny-flow"), lambda line: None, scorer=reward)
    infos = [parse_infotext(metadata.read_infotext(path)) for path in tmp_path.rglob("0*.png")]
    assert sorted(info.prompt for info in infos) == sorted(FLOW_PROMPTS[:2])
    assert {(info.get("Steps"), info.get("Sampler"), info.get("Model")) for info in infos} == {
        ("4", "Euler", "tiny-flow")
    }
    assert {info.get("Model hash") for info in infos} == {file_digest(TINY_FLOW)[:10]}
    assert len(FLOW_PROMPTS) == 5 and not any(parse_caption(prompt).relation for prompt in FLOW_PROMPTS)
    assert "tiny-flow, 4 Euler steps" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_progress_table_and_reports(finished):
    config, result, lines = finished
    assert any("6 of 6 drawn" in line for line in lines)
    assert "read back 6 scores from the files: all equal" in lines
    table = ranked_table(result)
    assert len(table) == 7
    scores = [float(line.split()[1]) for line in table[1:]]
    assert scores == sorted(scores, reverse=True)
    page = (config.out / "report.html").read_text(encoding="utf-8")
    assert all(entry.path.name in page for entry in (*result.kept, *result.hidden))
    assert Image.open(config.out / "report.png").width > 900


def test_a_folder_of_images_is_scored_and_left_as_it_was(finished, tmp_path, capsys):
    _, result, _ = finished
    source = tmp_path / "mine"
    source.mkdir()
    for entry in (*result.kept, *result.hidden):
        shutil.copy(entry.path, source)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    assert (
        main(
            [
                "demo",
                "--images",
                str(source),
                "--out",
                str(tmp_path / "out"),
                "--threshold",
                "100",
                "--prompt",
                "a red star",
            ]
        )
        == 0
    )
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    hidden = list((tmp_path / "out" / "hidden").iterdir())
    assert len(hidden) == 6
    assert metadata.read_score(hidden[0]).prompt == "a red star"
    assert "kept 0, hidden 6" in capsys.readouterr().out


def test_a_second_run_replaces_the_first(finished, reward):
    config, result, _ = finished
    again = run_demo(config, lambda line: None, scorer=reward)
    assert [entry.score for entry in again.kept] == pytest.approx([entry.score for entry in result.kept], abs=1e-4)
    assert len(list(config.out.rglob("*.png"))) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "absent.txt"], "cannot read the prompts"),
        (["--images", "absent"], "is not a folder of images"),
        (["--images", "empty"], "holds no images"),
        (["--images", "plain"], "carries no prompt: pass --prompt"),
    ],
)
def test_what_is_missing_is_said(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "plain" / "a.png")
    assert main(["demo", "--out", "out", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_results_go_where_git_does_not_look(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no line break within the folder's name
    for command in ("demo", "teach"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"(default: outputs/smallworld-{command})" in " ".join(capsys.readouterr().out.split())
    assert "/outputs/" in (ROOT / ".gitignore").read_text().split()


def test_prompts_of_any_known_file(tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text("id;Prompt\n1;a large red circle on a white background\n", encoding="utf-8")
    seen = []
    monkeypatch.setattr("smallworld.demo.run_demo", lambda config, say: seen.append(config) or _stop())
    with pytest.raises(StopIteration):
        main(["demo", "--prompts", str(tmp_path / "p.csv")])
    assert seen[0].prompts == ("a large red circle on a white background",)


def _stop():
    raise StopIteration


def test_other_peoples_files_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(SmallWorldError, match=r"already holds other files \(thesis\.txt\)"):
        run_demo(DemoConfig(out=tmp_path), lambda line: None)


def test_install_puts_tiny_sd_into_a_webui(tmp_path, capsys):
    folder = tmp_path / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    assert main(["install", str(tmp_path)]) == 0
    assert (folder / "tiny-sd.safetensors").read_bytes() == TINY_SD.read_bytes()
    assert (folder / "tiny-sd.yaml").is_file()
    assert (folder / "tiny-sd" / "tokenizer" / "vocab.json").is_file()
    reward = tmp_path / "models" / "ImageReward" / "tiny-imagereward.safetensors"
    assert reward.read_bytes() == TINY_REWARD.read_bytes()
    assert main(["install", str(tmp_path)]) == 0  # once more: nothing is in the way
    assert main(["install", str(tmp_path / "nowhere")]) == 1
    assert "no WebUI folder" in capsys.readouterr().err
