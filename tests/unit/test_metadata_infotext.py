"""The text format: parse and build are inverses, a score goes in without disturbing anything, AUTOMATIC1111 reads it
all.
"""

import dataclasses
import re
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imagereward_core.errors import MetadataError
from imagereward_core.metadata.infotext import (
    Infotext,
    StoredScore,
    build_infotext,
    get_score,
    parse_infotext,
    quote,
    unquote,
    with_score,
)
from imagereward_core.naming import score_key
from imagereward_core.prompts import plain_prompt
from imagereward_core.registry import MODELS

A1111 = """a cat, (sharp:1.2), <lora:fur:0.8>
second line: with a colon
Negative prompt: blurry, (low quality:1.4)
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, \
Model hash: 45dee52b, \
Hires prompt: "a dog, sharp: very\\nnew line", \
Lora hashes: "fur: 8f2e", Hashes: {"vae": "735e4c3a44", "model": "c0d1994c73"}, Version: v1.10.1"""
SCORE = StoredScore(0.58116, "ImageReward-v1.0", "a cat, sharp, second line: with a colon")


def host_pairs(text):
    """What AUTOMATIC1111's documented grammar finds in the last line, written down apart from our reader."""
    line = text.strip().split("\n")[-1]
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', line)
    return found if len(found) >= 3 else []


def test_parse():
    info = parse_infotext(A1111)
    assert info.prompt == "a cat, (sharp:1.2), <lora:fur:0.8>\nsecond line: with a colon"
    assert info.negative_prompt == "blurry, (low quality:1.4)"
    assert info.get("Steps") == "20"
    assert info.get("Hires prompt") == "a dog, sharp: very\nnew line"
    assert info.get("Version") == "v1.10.1"
    assert info.get("Nothing") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Infotext()),
        ("a cat", Infotext("a cat")),
        ("a cat\n", Infotext("a cat")),
        ("a cat\nNegative prompt: dog", Infotext("a cat", "dog")),
        (
            "Negative prompt: dog\nSteps: 1, Seed: 2, Size: 3x3",
            Infotext("", "dog", (("Steps", "1"), ("Seed", "2"), ("Size", "3x3"))),
        ),
        (
            "a cat\nSteps: 1, Seed: 2",
            Infotext("a cat\nSteps: 1, Seed: 2"),
        ),  # two pairs are prompt text for the host too
        ("cat\nSteps: 1, Seed: 2, Size: 3x3\n", Infotext("cat", "", (("Steps", "1"), ("Seed", "2"), ("Size", "3x3")))),
    ],
)
def test_parse_corners(text, expected):
    assert parse_infotext(text) == expected


def test_a_score_goes_into_the_settings_line_and_nothing_else_changes():
    text = with_score(A1111, SCORE)
    assert text == A1111 + ", ImageReward: 0.5812, ImageReward model: ImageReward-v1.0"
    assert host_pairs(text) == [
        *host_pairs(A1111),
        ("ImageReward", "0.5812"),
        ("ImageReward model", "ImageReward-v1.0"),
    ]
    assert get_score(text) == StoredScore(0.5812, "ImageReward-v1.0", plain_prompt(parse_infotext(A1111).prompt))


def test_rewriting_replaces_the_old_score():
    once = with_score(A1111, SCORE)
    other = StoredScore(-1.5, "mine, v2 [0123456789]", "another: prompt,\nquite")
    text = with_score(once, other)
    assert text.count("ImageReward: ") == 1
    assert 'ImageReward model: "mine, v2 [0123456789]", ImageReward prompt: "another: prompt,\\nquite"' in text
    assert get_score(text) == other
    assert with_score(text, SCORE) == once


def test_scorers_do_not_disturb_each_other():
    text = with_score(with_score(A1111, SCORE), StoredScore(0.25, "CLIP", SCORE.prompt, key="CLIP"))
    again = with_score(text, StoredScore(0.5, "ImageReward-v1.0", SCORE.prompt))
    assert get_score(again, "CLIP").value == 0.25
    assert get_score(again).value == 0.5


def test_a_score_in_the_middle_is_replaced():
    text = "cat\nSteps: 1, ImageReward: 0.1, ImageReward model: x, Seed: 2, Size: 3x3"
    assert (
        with_score(text, StoredScore(0.2, "y", "cat"))
        == "cat\nSteps: 1, Seed: 2, Size: 3x3, ImageReward: 0.2000, ImageReward model: y"
    )


def test_an_image_without_infotext_gets_prompt_and_true_facts_only():
    text = with_score("", StoredScore(1, "ImageReward-v1.0", "a cat, two: dogs"), (640, 480))
    assert text == "a cat, two: dogs\nSize: 640x480, ImageReward: 1.0000, ImageReward model: ImageReward-v1.0"
    assert len(host_pairs(text)) == 3
    assert with_score(text, StoredScore(1, "ImageReward-v1.0", "a cat, two: dogs"), (640, 480)) == text


def test_without_a_size_the_prompt_is_the_third_pair():
    text = with_score("", StoredScore(1, "m", "a cat"))
    assert text == "a cat\nImageReward: 1.0000, ImageReward model: m, ImageReward prompt: a cat"
    assert len(host_pairs(text)) == 3


def test_a_prompt_that_infotext_cannot_hold_is_kept_as_a_setting():
    prompt = "a cat\nNegative prompt: not really"
    text = with_score("", StoredScore(1, "m", prompt), (1, 1))
    assert parse_infotext(text).prompt == ""
    assert get_score(text).prompt == prompt


def test_template_lines_of_dynamic_prompts_stay_below_the_settings():
    text = A1111 + "\nTemplate: a {cat|dog}\nNegative Template: x, y: z, w: v, u: t"
    scored = with_score(text, SCORE)
    assert scored.endswith(
        "ImageReward model: ImageReward-v1.0\nTemplate: a {cat|dog}\nNegative Template: x, y: z, w: v, u: t"
    )
    assert get_score(scored).value == 0.5812
    assert build_infotext(parse_infotext(text)).split("\n")[-2:] == text.split("\n")[-2:]


def test_the_original_scripts_extra_line_is_read_and_repaired():
    broken = A1111 + "\nImageReward Score: 0.1234"
    assert host_pairs(broken) == []
    assert get_score(broken) == StoredScore(0.1234, "", plain_prompt(parse_infotext(A1111).prompt))
    assert with_score(broken, SCORE) == with_score(A1111, SCORE)


def test_json_of_another_program_is_refused():
    with pytest.raises(MetadataError, match="JSON"):
        with_score('{"prompt": "a cat", "seed": 1}', SCORE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_finite_scores(value):
    with pytest.raises(MetadataError, match="finite"):
        with_score(A1111, StoredScore(value, "m", ""))


@pytest.mark.parametrize("raw", ["", "abc", "nan"])
def test_a_damaged_score_is_no_score(raw):
    assert get_score(f"cat\nSteps: 1, Seed: 2, ImageReward: {raw}") is None


def test_settings_that_would_swallow_the_score_are_refused():
    with pytest.raises(MetadataError, match="read back"):
        with_score('cat\nSteps: 1, Seed: 2, Note: "never closed', StoredScore(1, "m", ", cat"))


def test_score_keys_are_ones_the_host_can_read():
    assert [score_key(info) for info in MODELS[:4]] == ["ImageReward", "CLIP score", "BLIP score", "Aesthetic score"]
    assert score_key(dataclasses.replace(MODELS[1], name="HPSv2.1 (best)", key="HPSv2-1")) == "HPSv2-1"
    assert [score_key(info, "Mine") for info in MODELS[:2]] == ["Mine", "CLIP score"]
    for info in MODELS:
        assert host_pairs(f"Steps: 1, Seed: 2, {score_key(info)}: 0.5")[-1] == (score_key(info), "0.5")


def test_no_negative_zero():
    assert "ImageReward: 0.0000," in with_score(A1111, StoredScore(-0.00001, "m", "x"))


def test_a_long_prompt_line_takes_linear_time():
    start = time.perf_counter()
    parse_infotext("word " * 2_000_000)
    assert time.perf_counter() - start < 30


# --- properties -----------------------------------------------------------------------------------

TEXT = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs",)), max_size=60),
    st.text('abc ,:"\\\n\t{}()ü猫', max_size=60),
    st.sampled_from(
        [
            A1111,
            "Steps: 1, Seed: 2, Size: 3x3",
            "x\nSteps: 1, Seed: 2, Size: 3x3\nTemplate: y",
            "a\n\nb",
            "Template: x",
            '"a"',
            "ImageReward: 1, ab: c, de: f",
        ]
    ),
)
KEYS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_ \-/]*[A-Za-z0-9_]", fullmatch=True)
SETTINGS = st.lists(st.tuples(KEYS, TEXT), min_size=3, max_size=6).map(tuple)


@given(TEXT)
def test_quote_and_unquote_are_inverses(value):
    assert unquote(quote(value)) == value


@given(TEXT, TEXT, SETTINGS)
def test_build_and_parse_are_inverses(prompt, negative, settings):
    assume(not re.search(r"(?m)^\s*Negative prompt:", prompt))
    info = Infotext(prompt, negative, settings)
    text = build_infotext(info)
    assert parse_infotext(text) == info
    assert [key for key, _ in host_pairs(text)] == [key for key, _ in settings]


@given(TEXT, TEXT)
def test_without_settings_the_result_is_the_same_or_an_error(prompt, negative):
    info = Infotext(prompt, negative)
    try:
        text = build_infotext(info)
    except MetadataError:
        return
    assert parse_infotext(text) == info


SCORES = st.builds(
    StoredScore,
    st.floats(-9, 9).map(lambda v: round(v, 4) + 0.0),
    TEXT.filter(bool),
    TEXT,
    st.sampled_from(["ImageReward", "CLIP", "HPSv2_1"]),
)


@given(TEXT, TEXT, st.one_of(st.just(()), SETTINGS), SCORES, SCORES)
def test_scores_round_trip_in_any_text_and_leave_the_rest_alone(prompt, negative, settings, first, second):
    try:
        text = build_infotext(Infotext(prompt, negative, settings))
        once = with_score(text, first, (8, 8))
        twice = with_score(once, second, (8, 8))
    except MetadataError:
        return
    assert get_score(once, first.key) == first
    assert get_score(twice, second.key) == second
    if first.key != second.key:
        assert get_score(twice, first.key) == first
    ours = {f"{score.key}{suffix}" for score in (first, second) for suffix in ("", " model", " prompt")} | {"Size"}
    before, after = parse_infotext(text), parse_infotext(twice)
    if text.strip():
        assert after.prompt == before.prompt
        assert after.negative_prompt == before.negative_prompt
    assert [pair for pair in after.settings if pair[0] not in ours] == [
        pair for pair in before.settings if pair[0] not in ours
    ]
    assert len(host_pairs(twice)) >= 3 or after.trailer


@given(TEXT)
def test_pairs_are_those_of_the_host(text):
    line = text.replace("\n", " ") + ", ab: 1, cd: 2, ef: 3"
    ours = [(key, value) for key, value in parse_infotext(line).settings]
    assert ours == [(key, unquote(value)) for key, value in host_pairs(line)]
