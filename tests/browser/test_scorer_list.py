"""The list of scorers without weights, and the download below it, on both gradios."""

import pytest

OPTIONS = "#scorer ul.options li"
FETCH = "#scorer_status .imagereward-fetch"
TEXT = f"{FETCH} .imagereward-fetch-text"


def open_list(page):
    page.evaluate("document.activeElement.blur()")
    page.click("#scorer input")
    page.wait_for_selector(OPTIONS)
    page.wait_for_timeout(300)


def choose(page, name):
    open_list(page)
    page.locator(f'{OPTIONS}[aria-label="{name}"]').click()
    page.wait_for_timeout(600)


def entries(page):
    open_list(page)
    return [" ".join(text.replace("✓", "").split()) for text in page.locator(OPTIONS).all_inner_texts()]


def wait_for(page, text):
    page.wait_for_function(
        "([selector, text]) => (document.querySelector(selector) || {textContent: ''}).textContent.includes(text)",
        arg=[TEXT, text],
    )


@pytest.fixture(autouse=True)
def no_script_errors(page):
    yield
    assert page.failures == []


def test_the_list_shows_what_is_here_first_and_the_size_of_the_rest(page, screenshot):
    page.locator("#scorer").scroll_into_view_if_needed()
    found = entries(page)
    assert found[0] == "CLIP" and found[-3:] == [
        "ImageReward-v1.0 · 1.8 GB to download",
        "PickScore · 3.9 GB to download",
        "MPS · 4.2 GB to download",
    ]
    described = page.get_attribute(f'{OPTIONS}[aria-label="MPS"]', "aria-description")
    assert described == "4.2 GB to download"
    screenshot("scorers-open")
    page.keyboard.press("Escape")
    # the default is not here, so another one takes its place, and the page says so
    assert page.input_value("#scorer input") == "CLIP"
    said = page.inner_text("#scorer_status")
    assert said == "ImageReward-v1.0 is not on this machine (1.8 GB to download), so CLIP scores."
    screenshot("scorers-fallen")


def test_a_failed_download_says_why(page):
    choose(page, "MPS")
    wait_for(page, "MPS is not on this machine: 4.2 GB to download, by its first use or now. Licence: MIT.")
    page.click(f"{FETCH} button[data-do=start]")
    wait_for(page, "⚠ MPS could not be downloaded: https://example.org cannot be reached")
    assert page.is_visible(f"{FETCH} button[data-do=start]")


def test_download_with_progress_interrupt_and_by_keyboard(page, screenshot):
    choose(page, "PickScore")
    wait_for(page, "PickScore is not on this machine: 3.9 GB")
    page.focus(f"{FETCH} button[data-do=start]")
    page.keyboard.press("Enter")
    wait_for(page, "Downloading PickScore.")
    page.wait_for_function(f"document.querySelector('{FETCH} progress').value > 0.15")
    assert " % of 3900 MB" in page.inner_text(f"{FETCH} small")
    screenshot("scorers-downloading")
    page.wait_for_function("document.activeElement.dataset.do === 'interrupt'")
    page.keyboard.press("Enter")
    wait_for(page, "Interrupted: what arrived of PickScore is kept, and the next try goes on from there.")
    assert not page.is_visible(f"{FETCH} progress")
    page.click(f"{FETCH} button[data-do=start]")
    wait_for(page, "✓ PickScore is on this machine now.")
    assert not page.is_visible(f"{FETCH} button")
    choose(page, "CLIP")
    choose(page, "PickScore")
    assert page.query_selector(FETCH) is None  # nothing is left to say


def test_a_page_that_comes_back_to_it_follows_the_download(page, screenshot):
    choose(page, "ImageReward-v1.0")
    page.click(f"{FETCH} button[data-do=start]")
    wait_for(page, "Downloading ImageReward-v1.0.")
    choose(page, "MPS")
    assert not page.is_visible(f"{FETCH} progress")  # another scorer's download is not this one's
    choose(page, "ImageReward-v1.0")
    wait_for(page, "Downloading ImageReward-v1.0.")
    page.evaluate("document.body.classList.add('dark')")
    try:
        page.set_viewport_size({"width": 420, "height": 900})
        page.locator(FETCH).scroll_into_view_if_needed()
        box = page.locator(FETCH).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 420
        screenshot("scorers-narrow-dark")
    finally:
        page.set_viewport_size({"width": 1000, "height": 760})
        page.evaluate("document.body.classList.remove('dark')")
    wait_for(page, "✓ ImageReward-v1.0 is on this machine now.")
