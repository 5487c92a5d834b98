"""Ten times the input takes about ten times as long: nobody's text makes a reader work by the square of its length.

Processors that others use as well add noise to every measurement; so the limit lies between ten and a hundred.
"""

import time

import pytest

from imagereward_core.errors import MetadataError
from imagereward_core.metadata.infotext import StoredScore, get_score, parse_infotext, with_score
from imagereward_core.metadata.own_words import own_words
from imagereward_core.metadata.programs import readings
from imagereward_core.prompts import plain_prompt

SMALL = 3_000  # characters
LINEAR = 35.0  # times as long for ten times the input; by the square it would be a hundred
TRIES = 5
UNITS = (
    [
        "1",
        "(a:1",
        "[a:1.",
        ".",
        "1.1",
        "(",
        "[",
        ")",
        "]",
        "(a",
        "[a|",
        "[a:b:",
        "a:1)",
        "\\",
        " ",
        "\t",
        "\n",
        ",",
        ", ",
    ]
    + [
        "<",
        "<a",
        "<a:",
        "<lora:x:1>",
        "<a:b<",
        ":",
        "|",
        "BREAK ",
        "AND ",
        "BREAK",
        "a:1 AND ",
        '"',
        "ab: ",
        "ab",
        "ab:1,",
    ]
    + [
        'ab: "',
        'ab: "\\',
        'ab: "x", ',
        "Steps: 1, ",
        "Steps: 1\n",
        "Negative prompt:",
        "\nNegative prompt: ",
        "-/",
        "猫",
    ]
    + [
        "ImageReward: 1\n",
        "ImageReward: 1, ImageReward model: x\n",
        "\nTemplate: ",
        "\nImageReward Score:",
        "Size: 1x1, ",
    ]
    + ["\nImageReward Score: 1\nTemplate: a", "Postprocess x: 1, ", "{", '{"a":', "[{", "\ufffd"]
)


def seconds(function, text):
    start = time.process_time()
    function(text)
    return time.process_time() - start


def growth(function, unit, tail, size=SMALL):
    """How many times as long ten times the input takes: the least of several tries, as noise only adds."""
    texts = [unit * (size * times // len(unit)) + tail for times in (1, 10)]
    least = float("inf")
    for _ in range(TRIES):
        small = min(seconds(function, texts[0]) for _ in range(3))
        least = min(least, seconds(function, texts[1]) / max(small, 5e-5))
        if least <= LINEAR:
            break
    return least


def scored(text):
    try:
        return get_score(with_score(text, StoredScore(0.5, "m", "x"), (8, 8)))
    except MetadataError:
        return None


def read(text):
    return list(readings({"parameters": text, "prompt": text, "Dream": text, "sd-metadata": text}))


@pytest.mark.parametrize("tail", ["x)", "\nSteps: 1, Seed: 2, Size: 3x3"], ids=["closed", "settings"])
@pytest.mark.parametrize("function", [plain_prompt, parse_infotext, own_words, scored, read])
def test_time_grows_with_the_length(function, tail):
    slow = {unit: factor for unit in UNITS if (factor := growth(function, unit, tail)) > LINEAR}
    assert not slow


@pytest.mark.parametrize("start", ["(a:", "[a:", "[a:b:", "a :", "(a|b:"])
def test_long_numbers(start):
    def closed(digits):
        return plain_prompt(f"{start}{digits}x) AND b")

    assert growth(closed, "1", "", size=500) <= LINEAR
