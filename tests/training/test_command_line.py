"""`imagereward dataset`, `train` and `bench`, one after the other, as the documentation has them."""

import json

import pytest

from imagereward_cli import main as cli
from imagereward_train.formats import read_items

from .drawn import write_rankings
from .small import TINY


def test_build_train_and_bench(tmp_path, capsys):
    data = write_rankings(tmp_path / "pictures", 12, size=16, k=3)
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    built, run, bench = (str(tmp_path / name) for name in ("mydata", "run1", "bench"))
    assert (
        cli.main(["dataset", "build", "--data", str(data), "--out", built, "--size", "16", "--test-fraction", "0.2"])
        == 0
    )
    manifest = json.loads(capsys.readouterr().out)
    assert sum(part["items"] for part in manifest["parts"].values()) == 12 and manifest["parts"]["test"]["items"] >= 1

    words = (
        f"train --data {built} --savepath {run} --model {tmp_path}/tiny.json --init random --fix_rate 0 --lr 1e-3"
        " --train_iters 2 --total_batch 4 --device cpu --tensorboard false --curve false"
    )
    assert cli.main(words.split()) == 0
    assert capsys.readouterr().out == f"{run}/best.safetensors\n"
    assert len(list((tmp_path / "mydata/cache").iterdir())) == 1 and not (tmp_path / "run1/cache").exists()
    assert json.loads((tmp_path / "run1/result.json").read_text())["test"]["pairs"] == sum(
        len(i.pairs) for i in read_items(f"{built}/test.json").items
    )

    assert (
        cli.main(
            [
                "bench",
                "preference",
                "--data",
                f"{built}/test.json",
                "--scorers",
                f"{run}/best.safetensors,oracle",
                "--out",
                bench,
                "--device",
                "cpu",
                "--bootstrap",
                "20",
            ]
        )
        == 0
    )
    assert "| oracle | 100.00 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("train --savepath x", 2, "--data is missing"),
        ("train --data x --lr fast", 2, "lr must be float, found 'fast'"),
        ("dataset build --data nowhere.json --out x", 2, "no such data set"),
        ("bench models --prompts x", 2, "--prompts and --generations are needed"),
    ],
)
def test_mistakes_end_with_a_message_and_a_code(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == code
    assert message in capsys.readouterr().err


def test_a_dead_run_ends_with_its_own_code(tmp_path, capsys):
    data = write_rankings(tmp_path / "pictures", 8, size=16, k=3)
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    words = (
        f"train --data {data} --savepath {tmp_path}/run --model {tmp_path}/tiny.json --init random --lr 1e30 --fix_rate"
        " 0 --total_batch 2 --batch_size 2 --device cpu --tensorboard false --curve false"
    )
    assert cli.main(words.split()) == 3
    assert "the validation loss is NaN at update 1: lower lr" in capsys.readouterr().err
