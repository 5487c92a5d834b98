"""What a score means, where the pointer rests on a picture of the gallery: its percentile and what to think of it."""

import pytest

from imagereward_core import registry
from imagereward_core.library.meaning import Percentile

from .test_gallery import GRID, LARGE, THUMBS, generate, tell

SCORER = "ImageReward-v1.0"
SCORES = [0.3, -0.7, 1.1, 0.2]  # of the page's four infotexts
UNDER_POINTER = """([x, y]) => {
    const found = document.elementFromPoint(x, y).closest("[title]");
    return found && found.title;
}"""


def words(below, pictures, checkpoint):
    """A tooltip as the server words it."""
    return f"{Percentile(below, pictures, checkpoint).sentence}\n{registry.caveat(SCORER)}"


MEANINGS = [words(342, 412, True), "", words(411, 412, True), words(9, 25, False)]


@pytest.fixture
def told(page):
    """Four pictures with what the server says of them."""
    generate(page, "second", 4)
    tell(page, scores=SCORES, meanings=MEANINGS)
    yield page
    assert page.failures == []


def shown(page, selector):
    """What the browser would show where the pointer rests on this."""
    place = page.locator(selector)
    place.hover()
    box = place.bounding_box()
    return page.evaluate(UNDER_POINTER, [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])


def test_each_picture_tells_where_it_stands(told, screenshot):
    found = [shown(told, f"{GRID} >> nth={position}") for position in range(4)]
    assert found == [meaning or None for meaning in MEANINGS]
    assert found[0].startswith(
        "better than 83 % of your 412 pictures with this checkpoint\non pictures of generators of"
    )
    assert found[2].startswith("better than 99 %") and found[3].startswith("better than 36 % of your 25 pictures\n")
    assert shown(told, f"{GRID} >> nth=2 >> .imagereward-badge") == MEANINGS[2]  # a badge does not hide it
    screenshot("percentile")


def test_so_does_the_one_in_large(told):
    told.click(f"{GRID} >> nth=2")
    told.wait_for_selector(THUMBS)
    told.wait_for_selector(LARGE)
    image = "#txt2img_gallery [data-testid='detailed-image']"
    told.wait_for_function(
        "([selector, title]) => document.querySelector(selector).title === title", arg=[image, MEANINGS[2]]
    )
    told.click(f"{THUMBS} >> nth=1")
    told.wait_for_function("selector => !document.querySelector(selector).title", arg=image)


def test_a_list_of_another_length_is_not_believed(told):
    """It is of another gallery."""
    tell(told, scores=SCORES, meanings=MEANINGS[:3])
    assert {shown(told, f"{GRID} >> nth={position}") for position in range(4)} == {None}


def test_the_next_job_starts_without(told):
    generate(told, "first", 9)
    titles = told.eval_on_selector_all(GRID, "all => all.map(button => button.getAttribute('title'))")
    assert set(titles) == {None}
