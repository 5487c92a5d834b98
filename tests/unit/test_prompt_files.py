"""Prompt files: one reader, and what it must not guess."""

import json

import pytest

from imagereward_core.errors import DataError
from imagereward_core.prompt_files import UnknownColumns, describe, prompts_in, read_prompts

FOX = ["a red fox", "cats"]


def read(tmp_path, name, content, column=""):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_prompts(path, column)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("line-break.csv", 'text,n\r\n"a red\nfox",1\r\n"cats",2\r\n'),
        ("id-first.csv", "id,prompt\n1,a red fox\n2,cats\n"),
        ("one-column.csv", "prompt\r\na red fox\r\ncats\r\n"),
        ("spelling.csv", "n; Caption \n1;a red fox\n2;cats\n"),
        ("semicolon.csv", "text;n\na red fox;1\ncats;2\n"),
        ("tab.tsv", "text\tn\na red fox\t1\ncats\t2\n"),
        ("tab.csv", "text\tn\na red fox\t1\ncats\t2\n"),
        ("bar.csv", "n|text\n1|a red fox\n2|cats\n"),
        ("told.csv", "sep=;\ntext;n\na red fox;1\ncats;2\n"),
        ("no-header.csv", "a red fox\ncats\n"),
        ("quoted-delimiter.csv", '"text";"a;b"\n"a red fox";1\ncats;2\n'),
        ("short-rows.csv", "id,prompt,note\n1,a red fox\n2,cats,x\n3\n"),
        ("old-mac.csv", "text,n\ra red fox,1\rcats,2\r"),
        ("u2028.jsonl", '{"text": "a red\u2028fox"}\n{"text": "cats"}\n'),
        ("u0085.jsonl", '{"text": "a red\u0085fox"}\r\n\r\n{"Prompt": "cats"}'),
        ("strings.jsonl", '"a red fox"\n"cats"\n'),
        ("captions.json", '[{"caption": ["a red fox", "an animal"]}, {"text": "", "prompt": "cats"}]'),
        ("utf-16-le.csv", "\ufefftext,n\na red fox,1\ncats,2\n".encode("utf-16-le")),
        ("utf-16-be.txt", "\ufeffa red fox\ncats".encode("utf-16-be")),
        ("utf-32.txt", "a red fox\ncats".encode("utf-32")),
        ("bom.jsonl", b"\xef\xbb\xbf" + b'{"text": "a red fox"}\n{"text": "cats"}'),
        ("lines.txt", "a red\u2028fox\r\n\r\n  cats\r"),
        ("no ending", "a red fox\ncats"),
    ],
)
def test_what_is_read(tmp_path, name, content):
    assert read(tmp_path, name, content) == FOX


def test_a_named_column(tmp_path):
    assert read(tmp_path, "a.csv", "title,prompt\na red fox,x\ncats,y\n", "Title") == FOX
    assert read(tmp_path, "a.json", '[{"my title": "a red fox", "text": "x"}, {"my title": "cats"}]', "my title") == FOX
    with pytest.raises(UnknownColumns, match=r"no text under title; found \['prompt'\]"):
        read(tmp_path, "a.jsonl", '{"prompt": "a red fox"}', "title")


def test_commas_belong_to_the_prompt_where_there_is_one_column(tmp_path):
    assert read(tmp_path, "a.csv", 'prompt\na fox, red\n"a cat, ""black"""\n') == ["a fox, red", 'a cat, "black"']


def test_windows_1252_and_nothing_that_only_looks_like_it(tmp_path):
    assert read(tmp_path, "a.csv", "prompt;n\nein blauer Käfer – schön;1\n".encode("cp1252")) == [
        "ein blauer Käfer – schön"
    ]
    for encoding, text in (("cp1251", "рыжая лиса"), ("gbk", "一只红色的狐狸"), ("shift_jis", "赤い狐と白い猫")):
        with pytest.raises(DataError, match="save it as UTF-8"):
            read(tmp_path, "a.txt", text.encode(encoding))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,title\n1,a red fox\n", r"entry 1: no text under text, prompt, caption; found \['id', 'title'\]"),
        ("a.csv", "title\na red fox\ntwo cats\n", r"found \['title'\]"),
        ("a.csv", "a red fox, sitting\ncats\n", r"found \['a red fox', 'sitting'\]"),
        ("a.csv", "text,n\na red fox, sitting,1\n", "line 2: 3 fields under a header of 2; put a text .* in double"),
        ("a.csv", 'text,n\n"a red fox,1\ncats,2\n', "line 2: unexpected end of data"),
        ("a.csv", 'text,n\n\n"a" red fox,1\n', "line 3: ',' expected after"),
        ("a.csv", "text,n\n" + "x" * 140_000 + ",1\n", "line 2: field larger than field limit"),
        ("a.csv", "text,x;prompt\na,b;c\n", "can be read with ',' and ';'"),
        ("a.json", '[{"text": NaN}]', "entry 1: the prompt must be text, found float"),
        ("a.json", '["a", 1e999]', "entry 2: .* found float"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": ' + "[" * 100_000 + "\n", "line 3: .*nested too deeply"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2: this is not JSON"),
        ("a.json", '["a", "\\ud800"]', "entry 2: .* half a character"),
        ("a.json", "9" * 5000, "a.json"),
        ("a.txt", b"\xff\xfea\x00b", "save it as UTF-8"),
        ("a.txt", "a fox".encode("utf-16-le"), "not text in a known encoding"),
        ("a.txt", b"fox \x81", "neither UTF-8 nor Windows-1252"),
        ("a.xlsx", b"PK\x03\x04\x14\x00\x08\x00", "not text in a known encoding"),
    ],
)
def test_what_is_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, name, content)
    assert name in str(caught.value)


def test_text_that_a_browser_could_not_decode():
    with pytest.raises(DataError, match="save it as UTF-8"):
        prompts_in("a.txt", "ein K\ufffdfer")


def test_only_files_are_read(tmp_path):
    import os

    with pytest.raises(DataError, match="no such file"):
        read_prompts(tmp_path / "none.txt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.txt")
        with pytest.raises(DataError, match="is not a file"):
            read_prompts(tmp_path / "pipe.txt")


NEXT_TO_NOTHING = ["", "\n", ";", ",;\t|", "\x1f", "sep=;", "sep=;\n", "sep=;\n;;\n", "text\n", '"', '""', '"";""\n']


@pytest.mark.parametrize("content", NEXT_TO_NOTHING)
def test_tables_of_next_to_nothing(tmp_path, content):
    try:
        found = read(tmp_path, "a.csv", content)
    except DataError:
        return
    assert all(prompt.strip() for prompt in found)


def test_describe():
    assert describe(["a fox"]) == '1 prompt: "a fox"'
    assert describe(["a", "b", "c", "d"]) == '4 prompts: "a", "b", "c", …'
    assert len(describe(["x" * 1000])) < 100
    assert describe(["a\x1b[2J\x9b\u202efox"]) == '1 prompt: "a\\u001b[2J??fox"'  # no terminal is driven by a prompt


def test_ten_thousand_rows(tmp_path):
    rows = "".join(f"{number},prompt {number}\n" for number in range(10_000))
    assert read(tmp_path, "a.csv", "id,prompt\n" + rows)[-1] == "prompt 9999"
    lines = "".join(json.dumps({"text": f"prompt {number}"}) + "\n" for number in range(10_000))
    assert len(read(tmp_path, "a.jsonl", lines)) == 10_000
