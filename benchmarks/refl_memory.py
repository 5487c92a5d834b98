"""The memory that one update needs, for each family at its published sizes: estimated on tensors without data.

    python benchmarks/refl_memory.py [--out benchmarks/results/refl_memory.json]

No weight is read and no GPU is needed: refl.memory runs the real update on fake tensors. Everything else is as a run
on a GPU would decide it: bf16, LoRA of the default rank, gradient checkpointing, one sample at once, no text encoders.
The base is in bf16, in 8 bit or in nf4 (`--base_precision`): the estimate puts layers of the stored size in the place
of those that the run quantises (refl/quantised.py), which need the room for the moment that bitsandbytes' need.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

GIB = 2**30
ALGORITHMS = ("refl+", "dpo")
FORMS = {"bf16": "auto", "8 bit": "int8", "nf4": "nf4"}  # as the table says it: base_precision
SIZES: dict[str, tuple[str, dict]] = {  # name: (family, what differs from the family's own sizes)
    "SD 1.5": ("sd1", {}),
    "SD 2.1": ("sd2", {}),
    "SDXL": ("sdxl", {}),
    "SD 3.5 medium": (
        "sd3",
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "qk_norm": "rms_norm",
         "dual_attention_layers": list(range(13)), "pos_embed_max_size": 384},
    ),
    "SD 3.5 large": (
        "sd3",
        {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm",
         "dual_attention_layers": []},
    ),
    "FLUX.1 dev": ("flux", {}),
    "FLUX.2 klein 4B": ("flux2", {}),
    "FLUX.2 klein 9B": (
        "flux2", {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
    ),
    "Lumina 2": ("lumina2", {}),
    "Z-Image": ("z-image", {}),
    "Qwen-Image": ("qwen-image", {}),
    "Anima": ("anima", {}),
}  # fmt: skip


def row(name: str, algorithm: str) -> dict:
    """One size's figures."""
    from refl.checkpoints.modules import empty
    from refl.families import family
    from refl.fitting import smallest
    from refl.memory import estimate
    from refl.quantised import layers
    from refl.resolved import resolve
    from refl.settings import Settings

    key, changes = SIZES[name]
    kind = family(key)
    sizes = {**kind.unet, **changes}
    learned = {"picks": "library"} if algorithm == "dpo" else {}
    settings = Settings(
        algorithm=algorithm, train_batch_size=1, mixed_precision="bf16", gradient_checkpointing=True, **learned
    )
    config = resolve(settings, kind.usual, "cuda")
    net = empty(kind.network, sizes)
    weights = sum(part.numel() for part in net.parameters())
    linear = sum(part.weight.numel() for part in layers(net).values())
    del net
    totals = {
        form: estimate(dataclasses.replace(config, base_precision=base), kind, sizes).total
        for form, base in FORMS.items()
    }
    return {
        "model": name,
        "family": kind.name,
        "resolution": config.resolution,
        "algorithm": algorithm,
        "network_weights": weights,
        "of_these_linear_in_blocks": linear,
        "gib": {form: round(total / GIB, 2) for form, total in totals.items()},
        "smallest_card_gb": {form: smallest(total) for form, total in totals.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--out", help="written after every row; rows that it has, of the same versions, are kept")
    args = parser.parse_args()
    import diffusers
    import torch

    report: dict = {"torch": torch.__version__, "diffusers": diffusers.__version__, "rows": []}
    out = pathlib.Path(args.out) if args.out else None
    if out is not None and out.is_file():
        before = json.loads(out.read_text())
        report["rows"] = before["rows"] if {**before, "rows": []} == report else []
    known = {(found["model"], found["algorithm"]) for found in report["rows"]}
    for algorithm in ALGORITHMS:
        for name in args.only:
            if (name, algorithm) in known:
                continue
            report["rows"].append(row(name, algorithm))
            print(json.dumps(report["rows"][-1]), flush=True)
            if out is not None:
                out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
