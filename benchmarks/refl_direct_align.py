"""Early denoising steps learnt in one shot or by direct-align (Shen et al. 2025), beside late steps in one shot.

    python benchmarks/refl_direct_align.py --out docs/refl

The runs are those of refl_anchors.py with its anchor kl, and so are the measures: only the step that carries the
gradient, and how the picture is had from it, differ. Runs that the file holds already are kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from benchmarks.refl_anchors import compared  # noqa: E402

EARLY = {"anchor": "kl", "min_step": 0, "max_step": 4}
RUNS: dict[str, dict[str, Any]] = {
    "one shot, late steps": {"anchor": "kl"},
    "one shot, early steps": EARLY,
    "direct-align, early steps": {**EARLY, "algorithm": "direct-align"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    compared(RUNS, args.out / "refl_direct_align.json", args.seeds, args.updates)


if __name__ == "__main__":
    main()
