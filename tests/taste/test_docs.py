"""docs/taste.md quotes a committed run of benchmarks/taste.py; its table must be that of the file, and no bar is passed
over in silence.
"""

import json

from tests.conftest import ROOT


def row(user, found):
    """A user's line in the table."""
    gain, ready = found["gain"], found["ready"]
    shown = [f"{100 * gain[count]:+.1f}" for count in ("50", "200", "1000")]
    told = [f"{100 * ready[count]:.0f} %" for count in ("200", "1000")]
    to_win = f"{100 * (found['ceiling'] - found['scorer']):+.1f}"
    return f"| {user} | {100 * found['scorer']:.1f} % | {to_win} | {' | '.join([*shown, *told])} |"


def test_the_table_is_that_of_the_results():
    results = json.loads((ROOT / "benchmarks/results/taste.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/taste.md").read_text(encoding="utf-8")
    for user, found in results["users"].items():
        assert row(user, found) in page
    for bar in results["missed"]:
        assert bar in page
