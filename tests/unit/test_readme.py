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
    assert f"at {100 * ours['forward_share_of_gemm']:.0f} % of the measured" in readme


def test_what_int8_gains_and_costs():
    """Both halves of the pair, of seeded and of trained weights."""
    full, two, trained = (
        json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        for name in ("int8", "int8_two_threads", "int8_trained")
    )
    page = " ".join((ROOT / "docs/scorers.md").read_text(encoding="utf-8").split())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert full["images"] == trained["images"] == 200 and full["rounds"] >= 5
    for said in (
        f"{full['speed_up_processor']:.2f} times the images per second of the processor",
        f"({full['speed_up_clock']:.2f} by the clock",
        f"{two['speed_up_processor']:.2f} and {two['speed_up_clock']:.2f})",
        f"Spearman {full['spearman']:.4f} against fp32, largest difference {full['largest_difference']:.3f} with scores"
        f" of standard deviation {full['standard_deviation_of_the_scores']:.2f}",
        f"Spearman is {trained['spearman']:.4f}",
        f"({trained['speed_up_processor']:.2f} times the speed)",
    ):
        assert said in page, said
    gains = f"{full['speed_up_processor']:.1f} times the images per second with one thread, {two['speed_up_clock']:.1f}"
    assert f"gives {gains} with two" in readme
    assert f"Spearman {full['spearman']:.3f} (seeded weights" in readme
