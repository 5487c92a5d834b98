"""A LoRA learnt on a base in fp32, in 8 bit and in nf4, with the same seeds: what it gains, and what the base weighs.

    PYTHONPATH=FOLDER_OF_BITSANDBYTES python benchmarks/refl_quantised.py --out docs/refl

The runs are those of refl_anchors.py with its anchor kl, and so are the measures: the same held-out captions and seeds
before and after. A quantised run is measured twice: on the base it learnt on, beside that same base, and as it is used,
its LoRA on the unquantised base, beside that one. Runs that the file holds already are kept. What 8 bit does with the
inputs of its layers on a CPU is the library's choice: 0.46 rounds them as GPUs do, 0.50 does not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.refl_anchors import MEASURES, compare, row, settings, watching  # noqa: E402
from refl import Trainer, lora, setup  # noqa: E402
from refl.metrics import MIXED, Evaluation  # noqa: E402
from refl.rewards import load_rewards  # noqa: E402
from refl.settings import BASES  # noqa: E402
from smallworld.demo import ORACLE, TINY_REWARD  # noqa: E402
from smallworld.oracle import Oracle  # noqa: E402

NAMES = {"auto": "fp32", "int8": "8 bit", "nf4": "nf4"}
ROUNDED = "8 bit, inputs too"
USED = ", LoRA on the fp32 base"


def name_of(form: str) -> str:
    """What a run on such a base is called, with the bitsandbytes that is here."""
    from bitsandbytes.autograd import _functions

    rounded = form == "int8" and not hasattr(_functions, "MatMul8bitFp")
    return ROUNDED if rounded else NAMES[form]


def weighed(net: nn.Module) -> dict[str, int]:
    """Bytes of a network's weights without its adapters, and of these in quantised layers, scales included."""
    plain = {name: part for name, part in net.named_parameters() if ".lora_" not in name}
    every, quantised = sum(part.nbytes for part in plain.values()), 0
    for part in plain.values():
        if not part.is_floating_point():
            state = getattr(part, "quant_state", None)
            extra = 4 * part.shape[0] if state is None else state.absmax.nbytes + state.code.nbytes
            if state is not None and state.nested:
                extra += state.state2.absmax.nbytes + state.state2.code.nbytes + state.offset.nbytes
            quantised += part.nbytes + extra
            every += extra
    return {"bytes of the network": every, "bytes of quantised layers": quantised}


def evaluated(trainer: Trainer, step: int) -> Evaluation:
    images, _ = trainer.evaluator.draw()
    return trainer.evaluator.evaluate(step, images, trainer.evaluator.score(images))


def scores_of(found: Evaluation) -> dict[str, list[float]]:
    return {name: values for name, values in found.scores.items() if name == MIXED or name in found.judges}


def measured(form: str, seed: int, updates: int, oracle: Oracle, work: Path) -> list[dict[str, Any]]:
    """One run, as one or two rows."""
    config = settings({"anchor": "kl", "base_precision": form}, seed, updates, work, work / f"run-{form}-{seed}")
    started = time.process_time()
    trainer = Trainer(args=config, rewards=load_rewards([str(TINY_REWARD)], "cpu"), judges=watching(oracle))
    result = trainer.train()
    base, last = trainer.base, result.evaluations[-1]
    shared = {"seed": seed, "seconds of CPU": round(time.process_time() - started, 1)}
    shared |= {} if form == "auto" else {"bitsandbytes": importlib.metadata.version("bitsandbytes")}
    name = name_of(form)
    ratios = {"diversity ratio": last.diversity / base.diversity, "error ratio": last.eps_mse / base.eps_mse}
    own = {"name": name, **shared, **weighed(trainer.backend.unet), **ratios}
    rows = [{**own, "inflation": last.inflation, **compare(scores_of(base), scores_of(last))}]
    if form != "auto":
        plain = setup.load(trainer.asked).unet
        with trainer.engine.averaged():
            merged = lora.merged_state(trainer.backend.unet, base=plain)
        trainer.backend.unet = plain.train()
        before = evaluated(trainer, 0)
        plain.load_state_dict(merged)
        after = evaluated(trainer, result.step)
        rows.append({"name": name + USED, "seed": seed, **compare(scores_of(before), scores_of(after))})
    return rows


def row_of_base(run: dict[str, Any]) -> str:
    """The base before training, as a row of the table in docs/findings.md."""
    cells = [run["name"], f"{run['bytes of the network'] / 1e6:.2f}"]
    cells += [f"{run[name]['before']:.{max(3, digits)}f}".replace("-", "−") for name, digits in MEASURES]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bases", choices=BASES, nargs="+", default=BASES)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    target = args.out / "refl_quantised.json"
    rows: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else []
    done = {(one["name"], one["seed"]) for one in rows}
    oracle = Oracle.load(ORACLE)
    with tempfile.TemporaryDirectory() as work:
        shared = settings({"anchor": "kl"}, 0, args.updates, Path(work), Path(work))
        for seed in args.seeds:
            for form in args.bases:
                if (name_of(form), seed) in done:
                    continue
                fresh = measured(form, seed, args.updates, oracle, Path(work))
                rows += fresh
                document = {
                    "machine": f"{platform.machine()}, one thread",
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "settings": {**shared.shareable(), "prompts": len(shared.prompts)},
                    "runs": rows,
                }
                target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                for one in fresh:
                    print(row(one), flush=True)


if __name__ == "__main__":
    main()
