"""docs/refl.md quotes committed figures; they must be those of the files."""

import json

from tests.conftest import ROOT

DOC = (ROOT / "docs/refl.md").read_text(encoding="utf-8")


def test_runs_without_brakes():
    runs = json.loads((ROOT / "docs/refl/too_fast.json").read_text(encoding="utf-8"))["runs"]
    for run in runs.values():
        base, last = run["evaluations"][0], run["evaluations"][-1]
        stops = [item["step"] for item in run["evaluations"] if item["rule_would_stop"]]
        cells = [
            f"{last['reward']:.2f}".replace("-", "−"),
            f"{last['diversity'] / base['diversity']:.2f} ×",
            f"{last['eps_mse'] / base['eps_mse']:.2f} ×",
            f"{last['judges']['oracle']:.2f}",
            str(stops[0]) if stops else "–",
        ]
        assert f"| {' | '.join(cells)} |" in DOC
