"""docs/findings.md quotes committed figures; they must be those of the files."""

import json

import pytest

from imagereward_core.hashing import file_digest
from tests.conftest import ROOT

DOC = (ROOT / "docs/findings.md").read_text(encoding="utf-8")


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


def test_speed_against_the_reference():
    figures = json.loads((ROOT / "benchmarks/results/refl_speed.json").read_text(encoding="utf-8"))
    ratios = {"reference": {"seconds_per_sample": 1, "peak_growth_mib": 1}, **figures["ratio_to_reference"]}
    for name, values in figures["measured"].items():
        time, memory = ratios[name]["seconds_per_sample"], ratios[name]["peak_growth_mib"]
        shown = [f"{ratio:.2f}" if name != "reference" else "1" for ratio in (time, memory)]
        assert (
            f"| {values['seconds_per_sample']:.2f} | {shown[0]} | {values['peak_growth_mib']:.0f} | {shown[1]} |" in DOC
        )


@pytest.mark.parametrize("name", ["dpo_small_world", "dpo_tiny_flow"])
def test_learning_from_picks(name):
    pytest.importorskip("torch")
    from benchmarks.dpo_small_world import less_controls, over_row, row

    found = json.loads((ROOT / f"docs/refl/{name}.json").read_text(encoding="utf-8"))
    for run in found["runs"]:
        assert row(run) in DOC
    assert less_controls(found["runs"]).keys() == found["area over all seeds"].keys()
    for what, values in found["area over all seeds"].items():
        assert over_row(what, values) in DOC


def test_anchors():
    pytest.importorskip("torch")
    from benchmarks.refl_anchors import KL, RUNS, less_first, less_row, row

    found = json.loads((ROOT / "docs/refl/refl_anchors.json").read_text(encoding="utf-8"))
    for run in found["runs"]:
        assert row(run) in DOC
    assert {(run["name"], run["seed"]) for run in found["runs"]} >= {(name, seed) for name in RUNS for seed in range(3)}
    less = less_first(found["runs"], KL)
    assert less == found["less the first, over all seeds"]
    for name, values in less.items():
        assert less_row(name, KL, values) in DOC


@pytest.mark.parametrize("name", ["dpo_taste", "kto_small_world"])
def test_other_ways_to_learn_from_the_same_user(name):
    pytest.importorskip("torch")
    import importlib

    from benchmarks import dpo_small_world as dpo

    results = {
        file: json.loads((ROOT / f"docs/refl/{file}.json").read_text(encoding="utf-8"))
        for file in (name, "dpo_small_world")
    }
    runs, over = results[name]["runs"], results[name]["area over all seeds"]
    module = importlib.import_module(f"benchmarks.{name}")
    again = module.worth(runs, results["dpo_small_world"]["runs"]) if name == "dpo_taste" else module.worth(runs)
    assert again.keys() == over.keys()
    for what, values in again.items():
        assert dpo.over_row(what, values) == dpo.over_row(what, over[what])
        assert dpo.over_row(what, values) in DOC
    for run in runs:
        assert getattr(module, "row", dpo.row)(run) in DOC


def test_length_of_the_output():
    found = json.loads((ROOT / "docs/refl/refl_inflation.json").read_text(encoding="utf-8"))
    for run in found["runs"]:
        base, *later = run["evaluations"]
        cells = [f"{run['name']}, seed {run['seed']}"]
        for item in later:
            cells += [f"{item['inflation']:.3f}", f"{item['eps_mse'] / base['eps_mse']:.2f} ×"]
        cells += [f"{base['judges']['oracle']:.2f} → {later[-1]['judges']['oracle']:.2f}"]
        assert f"| {' | '.join(cells)} |" in DOC


def test_a_flow_matching_model():
    pytest.importorskip("torch")
    from benchmarks.flow_small_world import SOUND, row
    from refl.resolved import FLOW_INFLATION

    found = json.loads((ROOT / "docs/refl/refl_tiny_flow.json").read_text(encoding="utf-8"))
    assert found["tiny-flow"] == file_digest(ROOT / "smallworld/weights/tiny-flow.safetensors")[:10]
    for run in found["runs"]:
        assert row(f"{run['name']}, seed {run['seed']}", run, run["evaluations"]) in DOC
        length = max(item["inflation"] for item in run["evaluations"])
        assert (length <= FLOW_INFLATION) == (run["name"] == SOUND)  # the rule would end the control, and no sound run


def test_memory_by_size():
    """Every row of the table is a row of the file, and the other way round."""
    rows = json.loads((ROOT / "benchmarks/results/refl_memory.json").read_text(encoding="utf-8"))["rows"]
    shown = DOC.partition("| size, resolution |")[2].partition("\n\n")[0].splitlines()[2:]
    found = []
    for row in rows:
        figures = " | ".join(f"{row['gib'][form]:.1f}" for form in ("bf16", "8 bit", "nf4"))
        cards = ", ".join(str(row["smallest_card_gb"][form] or "–") for form in ("bf16", "8 bit", "nf4"))
        found.append(f"| {row['model']}, {row['resolution']} | {row['algorithm']} | {figures} | {cards} |")
    assert shown == found


def test_a_quantised_base():
    pytest.importorskip("torch")
    from benchmarks.refl_anchors import row
    from benchmarks.refl_quantised import NAMES, ROUNDED, USED, row_of_base

    runs = json.loads((ROOT / "docs/refl/refl_quantised.json").read_text(encoding="utf-8"))["runs"]
    shown = DOC.partition("| base, training seed |")[2].partition("\n\n")[0].splitlines()[2:]
    names = [NAMES["auto"], *(name + USED for name in (NAMES["int8"], NAMES["nf4"], ROUNDED))]
    assert shown == [row(run) for name in names for run in runs if run["name"] == name] and len(shown) == 12
    for name in (*NAMES.values(), ROUNDED):
        assert row_of_base(next(run for run in runs if run["name"] == name)) in DOC


def test_where_a_forward_on_the_cpu_goes():
    figures = json.loads((ROOT / "benchmarks/results/forward.json").read_text(encoding="utf-8"))
    for batch, cost in figures["batches"].items():
        faults = f"{cost['page_faults_per_image']:,}"
        cells = (batch, f"{cost['processor_s_per_image']:.3f}", f"{cost['share_of_gemm']:.2f}", faults)
        assert f"| {' | '.join(cells)} |" in DOC
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"at {100 * figures['batches']['4']['share_of_gemm']:.0f} % of one thread's" in readme
    parts = figures["ms_per_image_of_parts_at_batch_4"]
    for name, said in (("attention", "attention {} ms"), ("gelu_if_it_were_not_fused", "GELU by itself would cost {}")):
        assert said.format(f"{parts[name]:.0f}") in " ".join(DOC.split())
