"""README and documents quote figures of committed benchmark runs; they must be those of the files."""

import json

from tests.conftest import ROOT


def test_what_remembering_costs():
    cost = json.loads((ROOT / "benchmarks/results/remember.json").read_text())
    page = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    assert all(cost["bars"].values()) and f"spends {cost['job']['median_ms']:.1f} ms a picture on it" in page


def test_speed_figures():
    figures = json.loads((ROOT / "benchmarks/results/speed.json").read_text())
    ours, theirs, ratios = figures["ours"], figures["reference"], figures["ratios"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in (
        f"| load the model | {ours['load_s']:.2f} s | {theirs['load_s']:.2f} s | {ratios['load_time']:.2f} |",
        (
            f"| peak memory after loading | {ours['peak_load_mb']:.0f} MB | {theirs['peak_load_mb']:.0f} MB |"
            f" {ratios['load_memory']:.2f} |"
        ),
        (
            f"| peak memory while scoring | {ours['peak_mb']:.0f} MB | {theirs['peak_mb']:.0f} MB |"
            f" {ratios['memory_while_scoring']:.2f} |"
        ),
        (
            f"| images per second | {ours['images_per_s']:.2f} | {theirs['images_per_s']:.2f} |"
            f" {ratios['throughput']:.2f} |"
        ),
    ):
        assert row in readme
