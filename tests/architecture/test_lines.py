"""Scripts and styles of the page keep the line length that the linter holds Python to."""

from .graph import ROOT

LONGEST = 120


def test_page_scripts_and_styles_have_no_long_line():
    files = [*sorted((ROOT / "javascript").glob("*.js")), ROOT / "style.css"]
    assert len(files) > 10
    long = [
        f"{path.name}:{number}: {len(line)}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > LONGEST
    ]
    assert not long, f"npx prettier --write, then by hand: {long}"
