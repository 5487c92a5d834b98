"""Human choices in the layouts of their data sets, through `bench preference`; own models through `bench models`."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from imagereward_core.errors import DataError
from imagereward_train.formats import read_items
from imagereward_train.tables.judges import Judge
from imagereward_train.tables.models import read_wins, run_models
from imagereward_train.tables.preference import run_preference


def encoded(red, form="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (red, 0, 0)).save(buffer, form)
    return buffer.getvalue()


def pictures(folder, reds):
    folder.mkdir(parents=True, exist_ok=True)
    for name, red in reds.items():
        (folder / name).write_bytes(encoded(red, "PNG"))


def redness(item):
    return [float(np.asarray(Image.open(path).convert("RGB"))[0, 0, 0]) for path in item.images]


def accuracy(data, out, **options):
    judge = [lambda world: Judge("red", redness, True)]
    return run_preference(data, "", judge, out, repeats=10, plot=False, **options)


@pytest.mark.parametrize(
    ("better", "worse"), [("better", "worse"), ("chosen", "rejected"), ("path1", "path2"), ("Chosen", "Rejected")]
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_pairs_by_any_of_their_names(tmp_path, better, worse, form):
    pictures(tmp_path, {"a.png": 200, "b.png": 100, "c.png": 50, "d.png": 60})
    rows = [("a fox", "a.png", "b.png"), ("a fox", "b.png", "c.png"), ("a cat", "c.png", "d.png")]
    data = tmp_path / f"pairs.{form}"
    named = [{"prompt": prompt, better: first, worse: second} for prompt, first, second in rows]
    if form == "csv":
        data.write_text("\n".join([f"prompt,{better},{worse}", *(",".join(row) for row in rows)]))
    else:
        data.write_text(json.dumps(named) if form == "json" else "\n".join(map(json.dumps, named)))
    results = accuracy(data, tmp_path / "out")
    found = results["scorers"]["red"]
    assert (results["prompts"], results["pairs"]) == (2, 3)
    assert (found["accuracy"]["pair"], found["accuracy"]["prompt"]) == (pytest.approx(2 / 3), 0.5)
    assert found["selection"] is None


def test_hpdv3(tmp_path):
    """Its own fields; the first path is the preferred picture."""
    pictures(tmp_path / "images", {"x.png": 10, "y.png": 90})
    row = {"prompt": "a fox", "path1": "images/y.png", "path2": "images/x.png", "model1": "flux", "model2": "kolors"}
    (tmp_path / "test.json").write_text(json.dumps([{**row, "choice_dist": [10, 2], "confidence": 0.99}]))
    assert accuracy(tmp_path / "test.json", tmp_path / "out")["scorers"]["red"]["accuracy"]["pair"] == 1.0


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet")


def pickapic(red, other, label, **changes):
    names = {"image_0_uid": f"u{red}", "image_1_uid": f"u{other}", "caption": "a fox"}
    return {**names, "jpg_0": encoded(red), "jpg_1": encoded(other), "label_0": label, "has_label": True, **changes}


def write(parquet, path, rows):
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_pickapic_in_parquet(tmp_path, parquet):
    rows = [
        pickapic(200, 100, 1.0),
        pickapic(100, 50, 0.0),
        pickapic(60, 70, 0.5),
        pickapic(1, 2, 0.0, has_label=False),
    ]
    path = write(parquet, tmp_path / "validation.parquet", rows)
    results = accuracy(path, tmp_path / "out")
    assert results["scorers"]["red"]["accuracy"]["pair"] == 0.5 and results["human_ties"] == 1
    reading = read_items(path)
    assert "1 pairs were judged by nobody" in str(reading.problems[0]) and not reading.problems[0].fatal
    unpacked = sorted(entry.name for entry in (tmp_path / "unpacked").iterdir())
    assert unpacked == ["u1.jpg", "u100.jpg", "u2.jpg", "u200.jpg", "u50.jpg", "u60.jpg", "u70.jpg"]
    before = (tmp_path / "unpacked" / "u200.jpg").stat().st_mtime_ns
    read_items(path)
    assert (tmp_path / "unpacked" / "u200.jpg").stat().st_mtime_ns == before  # written once


def test_a_folder_of_parquet_files_and_the_hubs_own_pictures(tmp_path, parquet):
    for number, (first, second) in enumerate(((90, 10), (20, 80))):
        row = {"prompt": f"p{number}", "chosen": {"bytes": encoded(first), "path": None}}
        write(
            parquet, tmp_path / f"train-{number}.parquet", [{**row, "rejected": {"bytes": encoded(second), "path": ""}}]
        )
    assert accuracy(tmp_path, tmp_path / "out")["scorers"]["red"]["accuracy"]["pair"] == 0.5


def test_a_uid_names_no_file_elsewhere(tmp_path, parquet):
    (tmp_path / "data").mkdir()
    read_items(write(parquet, tmp_path / "data" / "x.parquet", [pickapic(200, 100, 1.0, image_0_uid="../../outside")]))
    assert not list(tmp_path.rglob("outside*"))


def test_what_cannot_be_read_is_named_with_what_was_found(tmp_path, parquet):
    for rows, said in (
        ([{"caption": "a fox", "embedding": [1.0, 2.0]}], r"no known format has the fields \['caption', 'embedding'\]"),
        ([pickapic(1, 2, 1.0, jpg_0=b"no picture")], "jpg_0 holds 10 bytes that are no picture"),
    ):
        with pytest.raises(DataError, match=said):
            read_items(write(parquet, tmp_path / "x.parquet", rows))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_items(tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("prompt,left,right\na,b,c\n")
    with pytest.raises(DataError, match="left"):
        read_items(tmp_path / "x.csv")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pip install pyarrow"):
        read_items(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.json", '{"red": 30, "dark": 20, "green": 10}'),
        ("w.json", '[{"model": "red", "wins": 30}, {"model": "dark", "wins": 20}, {"model": "green", "wins": 10}]'),
        ("w.csv", "model,wins\nred,30\ndark,20\ngreen,10\n"),
    ],
)
def test_spearman_on_own_models(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    wins = read_wins(tmp_path / name)
    assert wins == {"red": 30, "dark": 20, "green": 10}
    (tmp_path / "prompts.json").write_text('[{"id": "1", "prompt": "a fox"}]')
    for model, red in (("red", 200), ("dark", 90), ("green", 5)):
        pictures(tmp_path / "made" / model, {"1_0.png": red})
    judge = [lambda world: Judge("red", redness, True)]
    options = {"wins": wins, "repeats": 10, "plot": False}
    found = run_models(tmp_path / "prompts.json", tmp_path / "made", judge, tmp_path / "out", **options)
    assert found["scorers"]["red"]["spearman"]["value"] == pytest.approx(1.0)
    with pytest.raises(DataError, match="at least 3 of the models; dark, green, red have images"):
        run_models(tmp_path / "prompts.json", tmp_path / "made", judge, tmp_path / "o", wins={"red": 1.0})


@pytest.mark.parametrize(
    "text", ['{"red": "many"}', '[{"model": "red"}]', '[{"model": "a", "wins": 1}, {"model": "a", "wins": 2}]']
)
def test_wrong_wins_name_the_model(tmp_path, text):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(DataError, match="needs its number of wins"):
        read_wins(tmp_path / "w.json")
