"""Manifests of every form are the same rows."""

import csv
import io
import json
import tarfile

import pytest

from imagereward_core.bulk import read_rows
from imagereward_core.errors import DataError


def as_seen(path):
    return [(row.id, row.file, row.prompt, row.error) for row in read_rows(path)]


ROWS = [{"id": "a", "image": "a.png", "prompt": "a cat"}, {"id": "b", "image": "sub/b.png", "prompt": "a, dog"}]


@pytest.fixture
def expected(tmp_path):
    return [("a", str(tmp_path / "a.png"), "a cat", ""), ("b", str(tmp_path / "sub" / "b.png"), "a, dog", "")]


def test_lines_tables_and_lists_are_the_same_rows(tmp_path, expected):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "image", "prompt"])
        writer.writeheader()
        writer.writerows(ROWS)
    for name in ("rows.jsonl", "rows.json", "rows.csv"):
        assert as_seen(tmp_path / name) == expected, name


def test_parquet_rows_hold_paths_or_encoded_files(tmp_path, expected):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert as_seen(tmp_path / "rows.parquet") == expected
    held = [{"id": "a", "image": {"bytes": b"png", "path": "a.png"}, "caption": "a cat"}]
    parquet.write_table(arrow.Table.from_pylist(held), tmp_path / "held.parquet")
    (row,) = read_rows(tmp_path / "held.parquet")
    assert (row.id, row.image, row.prompt) == ("a", b"png", "a cat")


def test_an_image_folders_metadata_is_a_manifest(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat"}\n')
    assert as_seen(tmp_path / "metadata.jsonl") == [("a.png", str(tmp_path / "a.png"), "a cat", "")]


def test_files_of_a_shard_that_share_a_name_are_one_row(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, data in (
            ("000/a.png", b"first"),
            ("000/a.txt", b"a cat\n"),
            ("b.JPG", b"second"),
            ("b.json", b'{"caption": "a dog"}'),
            ("c.txt", b"no picture"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    rows = list(read_rows(tmp_path / "shard.tar"))
    assert [(row.id, row.image, row.prompt) for row in rows[:2]] == [
        ("000/a", b"first", "a cat"),
        ("b", b"second", "a dog"),
    ]
    assert rows[2].id == "c" and "no image" in rows[2].error


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"prompt": "a cat"}, "no image"),
        ({"image": 7, "prompt": "a cat"}, "path or an encoded file"),
        ({"image": "a.png", "prompt": ["a"]}, "prompt must be text"),
        (["a.png"], "must be an object"),
    ],
)
def test_a_bad_row_is_a_row_with_an_error(tmp_path, record, told):
    (tmp_path / "rows.jsonl").write_text(json.dumps(record) + '\n{"image": "b.png"}\n')
    bad, good = read_rows(tmp_path / "rows.jsonl")
    assert told in bad.error and good.error == ""


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.txt", b"a.png", "should end in"),
        ("rows.jsonl", b"{oops\n", "line 1"),
        ("rows.jsonl", b'{"image": "\xff"}\n', "UTF-8"),
        ("rows.tar", b"no tar at all", "tar"),
    ],
)
def test_what_is_no_manifest_is_said(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        list(read_rows(tmp_path / name))
    with pytest.raises(DataError, match="no file"):
        list(read_rows(tmp_path / "absent.jsonl"))
