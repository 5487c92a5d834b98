"""Every data format, and the message of every data error."""

import csv
import json

import pytest
from PIL import Image, ImageFile

from imagereward_cli.main import main
from imagereward_core.errors import DataError
from imagereward_train.dataset import build_dataset, keep_images
from imagereward_train.formats import read_items
from imagereward_train.items import Item, pairs_of, tied_pairs
from tests.conftest import shared


def picture(path, colour=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), colour).save(path)
    return path


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def row(**changes):
    return {"id": "1", "prompt": "a cat", "generations": ["a.png", "b.png", "c.png"], "ranking": [2, 1, 2], **changes}


def test_pairs_of_a_ranking_are_all_but_the_ties():
    assert pairs_of([2, 1, 2]) == ((1, 0), (1, 2))
    assert pairs_of([1, 2, 3, 4]) == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert tied_pairs([2, 1, 2]) == 1 and tied_pairs([1, 1, 1]) == 3


def test_public_test_set_counts():
    reading = read_items(shared("data", "imagereward", "test.json"))
    assert (len(reading.items), sum(len(item.images) for item in reading.items)) == (466, 2720)
    assert (sum(len(item.pairs) for item in reading.items), reading.ties, reading.problems) == (6399, 831, [])


def test_ranking_json_and_jsonl(tmp_path):
    path = write(tmp_path / "r.json", [row()])
    (item,) = read_items(path, tmp_path / "pics").items
    assert item == Item(
        "1",
        "a cat",
        tuple(str(tmp_path / "pics" / n) for n in ("a.png", "b.png", "c.png")),
        ((1, 0), (1, 2)),
        (2, 1, 2),
        ("a.png", "b.png", "c.png"),
    )
    lines = tmp_path / "r.jsonl"
    lines.write_text(json.dumps(row()) + "\n\n" + json.dumps(row(id="2", ranking=[1, 2, 3])) + "\n")
    assert [len(item.pairs) for item in read_items(lines).items] == [2, 3]


def test_explicit_pairs(tmp_path):
    one = row(pairs=[[0, 2], [2, 1]])
    del one["ranking"]
    (item,) = read_items(write(tmp_path / "r.json", [one])).items
    assert item.pairs == ((0, 2), (2, 1)) and item.ranking is None


def test_imagerewarddb_records(tmp_path):
    records = [
        {"prompt_id": "7", "prompt": "a dog", "image_path": f"{k}.webp", "rank": rank, "overall_rating": 4}
        for k, rank in enumerate((3, 1, 3))
    ]
    (item,) = read_items(write(tmp_path / "train_1.json", records)).items
    assert (item.id, item.pairs, item.ranking) == ("7", ((1, 0), (1, 2)), (3.0, 1.0, 3.0))


def test_pair_csv_groups_a_prompt_into_one_item(tmp_path):
    path = tmp_path / "pairs.csv"
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "better", "worse"])
        table.writerows([["a, b", "1.png", "2.png"], ["c", "3.png", "1.png"], ["a, b", "2.png", "4.png"]])
    first, second = read_items(path).items
    assert (first.prompt, first.names, first.pairs) == ("a, b", ("1.png", "2.png", "4.png"), ((0, 1), (1, 2)))
    assert (second.names, second.pairs) == (("3.png", "1.png"), ((0, 1),))


def test_pickapic_drops_ties_and_finds_uids(tmp_path):
    picture(tmp_path / "u1.jpg")
    rows = [
        {"caption": "x", "image_0_uid": "u1", "image_1_uid": "u2.png", "label_0": "0", "label_1": "1"},
        {"caption": "x", "image_0_uid": "u1", "image_1_uid": "u3.png", "label_0": 0.5, "label_1": 0.5},
        {"caption": "x", "image_0": "u3.png", "image_1": "u1.jpg", "label_0": 1},
    ]
    reading = read_items(write(tmp_path / "p.json", rows))
    (item,) = reading.items
    assert reading.ties == 1
    assert [(item.names[a], item.names[b]) for a, b in item.pairs] == [("u2.png", "u1"), ("u3.png", "u1.jpg")]
    assert item.images[item.names.index("u1")] == str(tmp_path / "u1.jpg")


def test_hpdv2_test_and_training_records(tmp_path):
    test = {"prompt": "a fox", "image_path": ["0.png", "1.png", "2.png"], "rank": [2, 1, 3], "raw_annotations": [[1]]}
    (item,) = read_items(write(tmp_path / "test.json", [test])).items
    assert (item.prompt, item.ranking, item.pairs) == ("a fox", (2, 1, 3), ((1, 0), (0, 2), (1, 2)))
    train = [
        {"prompt": "a fox", "image_path": ["0.png", "1.png"], "human_preference": [1, 0], "user_hash": "x"},
        {"prompt": "a fox", "file_path": ["0.png", "2.png"], "human_preference": [0, 1], "user_hash": "y"},
        {"prompt": "a cat", "image_path": ["3.png", "4.png"], "human_preference": [1, 1], "user_hash": "y"},
    ]
    reading = read_items(write(tmp_path / "train.json", train))
    (item,) = reading.items
    assert [(item.names[a], item.names[b]) for a, b in item.pairs] == [("0.png", "1.png"), ("2.png", "0.png")]
    assert reading.ties == 1 and not reading.problems


def test_dataset_build_of_hpdv2(tmp_path, capsys):
    records = []
    for number in range(4):
        names = [f"{number}-{image}.png" for image in range(2)]
        for name in names:
            picture(tmp_path / name, (40 * number, int(name[2]), 0))
        records.append({"prompt": f"a fox {number}", "image_path": names, "human_preference": [1, 0], "user_hash": "x"})
    data = write(tmp_path / "train.json", records)
    words = ["dataset", "build", "--data", str(data), "--out", str(tmp_path / "out"), "--size", "16", "--workers", "1"]
    assert main([*words, "--valid-fraction", "0.25"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["train"] == {"items": 3, "images": 6, "pairs": 3}
    data.write_text('[{"prompt": "a", "label": 1}]')
    assert main(words) == 2
    assert "no known format has the fields ['label', 'prompt']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_path": "0.png"}, "record 1: prompt and a list of images as image_path are needed"),
        ({"human_preference": [1]}, "record 1: human_preference has 1 entries for 2 images"),
        ({"human_preference": [2, 0]}, "record 1: human_preference must be 0 or 1 for each image, found [2, 0]"),
        ({"human_preference": "1"}, "record 1: rank or human_preference must be a list of numbers, found '1'"),
    ],
)
def test_bad_hpdv2_records(tmp_path, changes, message):
    record = {"prompt": "a fox", "image_path": ["0.png", "1.png"], "human_preference": [1, 0], **changes}
    (problem,) = read_items(write(tmp_path / "train.json", [record])).problems
    assert str(problem).startswith(message)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "Prompt;Better;Worse\na fox;1.png;2.png\n"),
        ("p.tsv", "caption\tbetter\tworse\na fox\t1.png\t2.png\n"),
        ("p.csv", 'better,worse,text\r\n1.png,2.png,"a fox"\r\n'),
        ("p.jsonl", '{"prompt": "a fox", "better": "1.png", "worse": "2.png", "note": "x\u2028y"}\n'),
    ],
)
def test_pairs_as_prompt_files_are_read(tmp_path, name, text):
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        (item,) = read_items(tmp_path / name).items
        assert (item.prompt, item.names, item.pairs) == ("a fox", ("1.png", "2.png"), ((0, 1),))


def test_hidden_files_are_no_images_of_a_folder(tmp_path):
    for name in ("1_x.png", "2_y.png", "._1_x.png"):  # macOS puts the last one on disks of other systems
        picture(tmp_path / "a red house" / name)
    (item,) = read_items(tmp_path).items
    assert item.names == ("1_x.png", "2_y.png")


def test_folder_per_prompt(tmp_path):
    for name in ("1_x.png", "2-y.png", "2.png"):
        picture(tmp_path / "a red house" / name)
    for name in ("p.png", "q.png"):
        picture(tmp_path / "second" / name)
    (tmp_path / "second" / "prompt.txt").write_text("a blue house\n")
    write(tmp_path / "second" / "ranking.json", {"q.png": 1, "p.png": 2})
    first, second = read_items(tmp_path).items
    assert (first.prompt, first.names, first.ranking) == (
        "a red house",
        ("1_x.png", "2-y.png", "2.png"),
        (1.0, 2.0, 2.0),
    )
    assert (second.prompt, second.names, second.pairs) == ("a blue house", ("q.png", "p.png"), ((0, 1),))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(ranking=[1, 2])], "item 1: ranking has 2 entries for 3 generations"),
        ([row(), row()], "item 1: its id occurs twice"),
        ([row(ranking=[1, "x", 2])], "item 1: ranking must be a list of numbers, 1 = best"),
        ([row(generations="a.png")], "item 1: generations must be a list of image files"),
        ([row(prompt=3)], "item 1: prompt must be a string, found int"),
        ([row(prompt=" ")], "item 1: the prompt is empty: the model judges pictures by how well they fit one"),
        ([row(ranking=[1, float("nan"), 2])], "item 1: every rank must be a finite number, found [1, nan, 2]"),
        ([row(ranking=[1, 10**400, 2])], f"item 1: every rank must be a finite number, found {[1, 10**400, 2]}"),
        (
            [row(generations=["a.png", "b\0.png", "c"])],
            "item 1: this text cannot be a prompt or the name of a file: 'b\\x00.png'",
        ),
        ([row(prompt="\ud800")], "item 1: this text cannot be a prompt or the name of a file: '\\ud800'"),
        ([row(ranking=None, pairs=[[0, 9]])], "item 1: pairs must be [better, worse] indices below 3"),
        ([{"prompt": "a", "better": "x.png", "worse": "x.png"}], "pair 1: x.png is compared with itself"),
        (
            [{"prompt": "a", "better": "x.png", "worse": ""}],
            "pair 1: prompt, better and worse are needed, found ['a', 'x.png', '']",
        ),
        (
            [{"caption": "a", "image_0": "x", "image_1": "y", "label_0": 7}],
            "pair 1: label_0 must be 0, 0.5 or 1, found 7",
        ),
    ],
)
def test_messages_of_bad_entries(tmp_path, rows, message):
    assert [str(problem) for problem in read_items(write(tmp_path / "r.json", rows)).problems if problem.fatal] == [
        message
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "cannot read"),
        ("a.json", '{"a": 1}', "must hold a JSON list of items, found dict"),
        ("a.json", "[1]", "item 0 must be an object with named fields, found int"),
        ("a.json", '[{"foo": 1}]', "no known format has the fields ['foo']"),
        ("a.csv", "prompt,good,bad\nx,1,2\n", "no known format has the fields ['bad', 'good', 'prompt']"),
        ("a.csv", "prompt,better,worse\na,b,c\n\na fox, red,1,2\n", "line 4: 4 fields under a header of 3"),
        ("a.csv", "prompt,better,worse\n" + "x" * 140_000 + ",1,2\n", "line 2: field larger than field limit"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '[{"prompt": "a", "images": ["0.png"]}]', "no known format has the fields ['images', 'prompt']"),
        ("a.json", "[]", "holds no items"),
        ("a.jsonl", "[]\n", "line 1 must be an object with named fields, found list"),
    ],
)
def test_files_that_are_no_data_set(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_items(tmp_path / name)
    assert message in str(caught.value)


def test_missing_data_set(tmp_path):
    with pytest.raises(DataError, match="no such data set"):
        read_items(tmp_path / "none.json")


def test_build_lists_missing_and_corrupt_files_by_name(tmp_path):
    picture(tmp_path / "a.png")
    Image.effect_noise((40, 40), 50).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:600])
    path = write(tmp_path / "r.json", [row()])
    with pytest.raises(DataError) as caught:
        build_dataset(path, tmp_path / "out", size=16)
    text = str(caught.value)
    assert "3 problems in the data" in text  # b, c, and no pair left of the item
    assert f"cannot read {tmp_path / 'b.png'}" in text and f"no such image: {tmp_path / 'c.png'}" in text


def test_whatever_a_decoder_raises_counts_for_its_image(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    load = ImageFile.ImageFile.load

    def failing(self):
        if str(getattr(self, "filename", "")).endswith("b.png"):
            raise ZeroDivisionError("in the decoder")
        return load(self)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", failing)
    with pytest.raises(DataError, match=r"1 problems in the data[^\n]*\n.*b\.png: in the decoder"):
        build_dataset(write(tmp_path / "r.json", [row(ranking=[1, 2, 3])]), tmp_path / "out", size=16)


def test_skip_bad_keeps_what_can_be_used(tmp_path):
    for name in ("a.png", "b.png", "d.png"):
        picture(tmp_path / name)
    rows = [
        row(),
        row(id="2", prompt="a dog", generations=["a.png", "b.png"], ranking=[1, 1]),
        row(id="3", prompt="an owl", generations=["d.png", "e.png", "c.png"]),
    ]
    rows.append(
        row(
            id="4",
            prompt="a cow",
            generations=[str(picture(tmp_path / "f.png")), str(picture(tmp_path / "g.png"))],
            ranking=[1, 2],
        )
    )
    manifest = build_dataset(
        write(tmp_path / "r.json", rows), tmp_path / "out", size=16, skip_bad=True, valid_fraction=0.5
    )
    parts = manifest["parts"]
    assert sum(parts[name]["items"] for name in parts) == 2 and sum(parts[name]["pairs"] for name in parts) == 2
    assert manifest["left_out"] == [
        "item 2: all images tie: it says nothing about preference and is left out",
        f"item 1: no such image: {tmp_path / 'c.png'}",
        f"item 3: no such image: {tmp_path / 'e.png'}",
        f"item 3: no such image: {tmp_path / 'c.png'}",
        "item 3: no pair is left without the images that cannot be read",
    ]
    back = read_items(tmp_path / "out" / "train.json").items + read_items(tmp_path / "out" / "valid.json").items
    assert sorted((item.id, item.pairs) for item in back) == [("1", ((1, 0),)), ("4", ((0, 1),))]


def test_keep_images_renumbers_the_pairs():
    item = Item("1", "p", ("a", "b", "c"), ((2, 0), (0, 1), (2, 1)), (2, 3, 1), ("a", "b", "c"))
    assert keep_images(item, [True, False, True]) == Item("1", "p", ("a", "c"), ((1, 0),), (2, 1), ("a", "c"))
