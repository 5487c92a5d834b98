"""Inputs are validated where they enter; messages name the field and the value."""

import math

import pytest


@pytest.fixture
def request_module(host):
    return host.part("request")


@pytest.mark.parametrize(("value", "number"), [(0, 0.0), (0.5, 0.5), ("0.5", 0.5), (" -1 ", -1.0), ("1e-1", 0.1)])
def test_numbers_and_numbers_as_text(request_module, value, number):
    assert request_module.parse_number("Lower score limit", value) == number


@pytest.mark.parametrize("value", ["", "abc", "0,5", None, math.nan, math.inf, "nan", True, [], {}])
def test_no_number(request_module, value):
    with pytest.raises(request_module.InvalidRequest, match='"Lower score limit" is') as caught:
        request_module.parse_number("Lower score limit", value)
    assert value in ("", None) or repr(value) in str(caught.value)


def test_switched_off_ignores_the_rest(request_module):
    assert request_module.ScoreRequest.from_ui([False, None, "nonsense"]) == request_module.ScoreRequest()
    assert request_module.ScoreRequest.from_ui([]) == request_module.ScoreRequest()


def test_fewer_arguments_keep_defaults(request_module):
    made = request_module.ScoreRequest.from_ui([True, "CLIP", "score"])
    assert (made.enabled, made.scorer, made.filter_by, made.limit) == (True, "CLIP", "score", 0.0)


def test_named_arguments(request_module):
    made = request_module.ScoreRequest.from_ui([{"filter_by": "top k", "top_k": 3.0}])
    assert (made.enabled, made.filter_by, made.top_k) == (True, "top k", 3)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"limt": 1}, "unknown field 'limt'; known: enabled, scorer"),
        ({"filter_by": "maybe"}, "\"Filter gallery by\" is 'maybe'; choose one of: none, score, top k"),
        ({"top_k": 1.5}, '"Images to keep (top k)" is 1.5; it needs a whole number'),
        ({"top_k": 0}, "it must lie between 1 and 1000"),
        ({"enabled": "perhaps"}, "\"Score generated images\" is 'perhaps'; it needs true or false"),
        ({"scorer": " "}, "\"Scorer\" is ' '; it needs a name"),
    ],
)
def test_bad_named_arguments(request_module, named, message):
    with pytest.raises(request_module.InvalidRequest) as caught:
        request_module.ScoreRequest.from_api(named)
    assert message in str(caught.value)


def test_keep_is_inclusive_and_stable(request_module):
    keep = request_module.ScoreRequest(filter_by="score", limit=0.5).keep
    assert keep([0.5, 0.49, 1.0, None]) == [0, 2, 3]  # an unscored image is never lost
    copied = request_module.ScoreRequest(
        filter_by="score", limit=0.5812
    ).keep  # what the infotext shows for the first two
    assert copied([0.58116, 0.58124, 0.58114]) == [0, 1]
    best = request_module.ScoreRequest(filter_by="top k", top_k=2, sort=True).keep
    assert best([1.0, 3.0, 3.0, 2.0, None]) == [1, 2, 4]
    assert request_module.ScoreRequest(sort=True).keep([None, 1.0, 2.0, 1.0]) == [2, 1, 3, 0]
