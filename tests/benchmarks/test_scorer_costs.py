"""The costs in the registry and in the documentation are those that were measured."""

import json

from imagereward_core import registry
from imagereward_core.doctor import Finding, _with_cost
from tests.conftest import ROOT


def test_costs_are_the_measured_ones():
    measured = json.loads((ROOT / "benchmarks" / "results" / "scorers.json").read_text())["scorers"]
    known = {info.name: info.cost for info in registry.MODELS if info.cost is not None}
    assert known == {name: registry.Cost(one["megabytes"], one["seconds"]) for name, one in measured.items()}
    page = (ROOT / "docs" / "scorers.md").read_text(encoding="utf-8")
    for name, one in measured.items():
        row = f"| {name} | {one['megabytes']:,} MB | {one['peak_megabytes']:,} MB | {one['seconds']:g} s |"
        assert row in page


def test_doctor_says_what_a_scorer_takes():
    info = registry.get("ImageReward-v1.0")
    found = _with_cost(Finding("weights", "ok", "here"), info)
    assert (
        found.detail
        == f"here; in memory {info.cost.megabytes} MB as fp32; {info.cost.seconds:g} s of one CPU core an image"
    )
