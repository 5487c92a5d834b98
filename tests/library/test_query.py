"""The language of --where: what it finds, what it refuses, and that nothing of it becomes SQL."""

import time
from datetime import datetime

import pytest

from imagereward_core.errors import LibraryError
from imagereward_core.library import Made, Score, find, images, marks
from imagereward_core.library.records import Seen

PICTURES = {
    "fox": Made(
        prompt="a Red FOX, <lora:fur:0.8>",
        negative="blurry",
        seed=2**64 - 1,
        sampler="Euler a",
        steps=20,
        cfg=7.0,
        checkpoint="juggernautXL",
        checkpoint_hash="abcdef1234",
        loras=(("fur", 0.8),),
        program="v1.10.1",
    ),
    "box": Made(prompt='a "foxy" box 100%_', seed=5, sampler="DPM++ 2M", steps=30, cfg=4.5, checkpoint="sdxl"),
    "cat": Made(prompt="eine Kätzchen-Straße, 狐の絵", seed=7, sampler="euler A", steps=25, program="f2.0"),
    "bare": Made(),
}


@pytest.fixture
def four(library):
    """The four pictures; fox and box have scores, cat has stars, bare has a mark."""
    numbers = {}
    with library.transaction():
        for index, (name, made) in enumerate(PICTURES.items()):
            seen = Seen(f"/out/{name}.png", name.encode().ljust(16), 512, 768 + index, 1000, index)
            when = datetime(2025, 6, 10 + index, 12, 30).timestamp()
            numbers[name] = images.put_picture(library, seen, made, when)
        images.put_scores(library, numbers["fox"], [Score("ImageReward-v1.0", 1.5), Score("CLIP", 0.2)])
        images.put_scores(library, numbers["box"], [Score("ImageReward-v1.0", -0.5)])
    marks.set_stars(library, numbers["cat"], 4)
    marks.set_mark(library, numbers["bare"], "reject")
    return library


def found(library, text):
    pictures = find.newest(library, find.where_of(library, text), None)
    return sorted(picture.path.split("/")[-1].removesuffix(".png") for picture in pictures)


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("", "bare box cat fox"),
        ("   ", "bare box cat fox"),
        ("seed=5", "box"),
        (f"seed={2**64 - 1}", "fox"),
        ("steps>=25", "box cat"),
        ("steps<25 and steps>10", "fox"),
        ("cfg=4.5", "box"),
        ("cfg<=7", "box fox"),
        ("sampler='euler a'", "cat fox"),
        ("sampler~dpm", "box"),
        ('sampler!="Euler a"', "bare box"),
        ("checkpoint=juggernautxl", "fox"),
        ("checkpoint=juggernautXL.safetensors", "fox"),
        ("checkpoint=abcdef", "fox"),
        ("checkpoint=ABCDEF1234", "fox"),
        ("checkpoint=abcde", ""),
        ("checkpoint~XL", "box fox"),
        ("checkpoint=none", "bare cat"),
        ("checkpoint!=none", "box fox"),
        ("lora=fur", "fox"),
        ("lora~u", "fox"),
        ("lora=none", "bare box cat"),
        ("lora!=fur", "bare box cat"),
        ("prompt~fox", "box fox"),
        ("prompt~FOX", "box fox"),
        ('prompt~"red fox"', "fox"),
        ('prompt~"\\"foxy\\""', "box"),
        ("prompt~fo", "box fox"),
        ("prompt~100%_", "box"),
        ("prompt~%", "box"),
        ("prompt~STRASSE", "cat"),
        ("prompt~狐", "cat"),
        ("prompt~狐の絵", "cat"),
        ("prompt!~fox", "bare cat"),
        ("prompt=none", "bare"),
        ("negative~blur", "fox"),
        ("path~cat", "cat"),
        ("program=v1.10.1", "fox"),
        ("stars>=4", "cat"),
        ("stars=none", "bare box fox"),
        ("mark=reject", "bare"),
        ("mark!=reject", "box cat fox"),
        ("missing=no", "bare box cat fox"),
        ("height>768 width=512", "bare box cat"),
        ("date=2025-06-11", "box"),
        ("date>2025-06-11", "bare cat"),
        ("date>=2025-06-11", "bare box cat"),
        ("date<2025-06-11", "fox"),
        ("date<=2025-06-11", "box fox"),
        ("date=2025-06", "bare box cat fox"),
        ("date=2024", ""),
        ('date="2025-06-12 12:30"', "cat"),
        ("ImageReward-v1.0>0", "fox"),
        ("imagereward<0", "box"),
        ("CLIP=none", "bare box cat"),
        ("CLIP!=none", "fox"),
        ("not prompt~fox", "bare cat"),
        ("not (steps>20 or stars=4)", "bare fox"),
        ("steps=20 or steps=30 sampler~DPM", "box fox"),
        ("(steps=20 or steps=30) sampler~DPM", "box"),
        ("NOT steps=20 AND NOT steps=25", "bare box"),
        ("steps = 20", "fox"),
    ],
)
def test_found(four, question, names):
    assert found(four, question) == names.split()


def test_without_the_index_the_same_is_found(four):
    questions = ["prompt~fox", 'prompt~"red fox"', "prompt~STRASSE", "prompt~狐の絵", "prompt~100%_", "prompt!~fox"]
    assert four.search
    with_index = [found(four, question) for question in questions]
    four.search = False
    assert [found(four, question) for question in questions] == with_index


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("colour=red", "no field and no scorer 'colour'; fields are path, prompt"),
        ("steps", "an operator is missing"),
        ("steps=", "a value is missing"),
        ("steps=many", "a number, found 'many'"),
        ("steps=nan", "a number"),
        ("steps~2", "not by ~"),
        ("prompt>fox", "is a text"),
        ("seed>5", "by = or != only"),
        ("(steps=1", "not closed"),
        ("steps=1)", "one bracket too many"),
        ('prompt~"fox', "a quote is not closed"),
        ("=5", "a field's name is missing"),
        ("steps=1 or", "a field's name is missing"),
        ("date=yesterday", "a date is written"),
        ("steps>none", "by = or !="),
        ("(" * 200 + "steps=1" + ")" * 200, "nested deeper"),
        ("not " * 5000 + "steps=1", "too long"),
        ("prompt~" + "x" * 20_000, "too long"),
    ],
)
def test_refused(four, question, reason):
    with pytest.raises(LibraryError, match=reason.replace("(", "\\(")):
        find.where_of(four, question)


@pytest.mark.parametrize(
    "text",
    [
        "'; DROP TABLE images; --",
        "x' OR '1'='1",
        '" OR 1=1 --',
        "fox* OR NEAR(a b)",
        "-fox",
        "fox^2:",
        "%",
        "\\",
        "\0",
    ],
)
@pytest.mark.parametrize("field", ["prompt", "path", "checkpoint", "lora", "sampler", "negative"])
def test_values_stay_values(four, field, text):
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    for operator in ("~", "="):
        assert len(found(four, f'{field}{operator}"{quoted}"')) in (0, 1)
    assert len(find.newest(four)) == 4


def test_fields_are_looked_up(four):
    for field in ("i.id", "1", "images", '"i.steps; --"'):
        with pytest.raises(LibraryError, match="no field and no scorer"):
            find.where_of(four, f"{field}=1")


def test_values_of_any_size(four):
    for value in ("9" * 29, "1e308", "-5", str(2**63), "0x10"):
        for field in ("steps", "seed", "cfg", "width"):
            try:
                assert found(four, f"{field}={value}") == []
            except LibraryError as error:
                assert "number" in str(error)


def test_long_questions_take_no_time(four):
    start = time.process_time()
    find.where_of(four, " or ".join(f"steps={number}" for number in range(300)))
    find.where_of(four, "(" * 40 + "steps=1" + ")" * 40)
    assert time.process_time() - start < 5
