"""A panel's badges: the common value, how much the scorers disagree, and each one's own where the pointer rests."""

import json

import pytest

from .conftest import ROOT
from .test_gallery import GRID, badges, generate, tell

RESULT = {
    "panel": ["ImageReward-v1.0", "PickScore"],
    "disagreements": [0.5, 0.25, None, 0.0],
    "by_scorer": {"ImageReward-v1.0": [0.3, -0.7, None, 0.2], "PickScore": [21.0, 20.123, None, 19.0]},
}


@pytest.fixture
def told(page):
    """Generates four pictures, of which the server then says what it is given here."""
    page.add_script_tag(content=(ROOT / "javascript" / "imagereward_panel.js").read_text(encoding="utf-8"))

    def tell_all(**result):
        generate(page, "second", 4)
        tell(page, **{**RESULT, **result})

    return tell_all


def attribute(page, name):
    return page.eval_on_selector_all(
        GRID, f"all => all.map(b => b.querySelector('.imagereward-badge').getAttribute('{name}'))"
    )


def test_disagreement_and_own_values(page, told):
    told(ranks=False)
    assert badges(page) == ["0.30", "-0.70", "★ 1.10", "0.20"]  # of the infotexts
    assert attribute(page, "data-disagreement") == ["0.50", "0.25", None, "0.00"]
    assert attribute(page, "title")[1] == "ImageReward-v1.0 -0.70, PickScore 20.12"
    shown = page.eval_on_selector(f"{GRID} .imagereward-badge", "b => getComputedStyle(b, '::after').content")
    assert json.loads(shown.split(" attr")[0]) in (" ±0.50", " ±")
    generate(page, "first", 9)  # one scorer: nothing is left of it
    assert set(
        page.eval_on_selector_all(".imagereward-badge", "all => all.map(b => b.hasAttribute('data-disagreement'))")
    ) == {False}


def test_ranks_come_from_the_server(page, told):
    told(ranks=True, scores=[-1.0, 0.0, 1.5, 0.5])
    assert badges(page) == ["-1.00", "0.00", "★ 1.50", "0.50"]
