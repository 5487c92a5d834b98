"""Everything this project claims of a GPU, in one prepared command that needs no network.

    python benchmarks/gpu.py --minutes 10 --out results/          on a CUDA machine
    python benchmarks/gpu.py --dry-run --out results/             the same code, tiny, on a CPU

Weights are seeded random ones of the published sizes, made there. Sections are ordered by worth, and each writes its
result as it ends, so that a run that is cut off still counts. A section that needs what this machine lacks says so and
is left out. Results: gpu.json and gpu.md in the output folder.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import platform
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_parts import memory, scoring, teaching  # noqa: E402
from benchmarks.gpu_parts.machine import Machine, Missing  # noqa: E402

# name → function of a Machine that returns JSON; the first are worth most
SECTIONS = {
    "gemm": scoring.gemm,
    "parity": scoring.parity,
    "throughput": scoring.throughput,
    "clip": scoring.clip_throughput,
    "refl_update": teaching.update,
    "unload": memory.unload,
    "overlap": scoring.overlap,
    "pause": memory.pause,
    "out_of_memory": memory.out_of_memory,
    "adam_8bit": teaching.adam_8bit,
}
PACKAGES = ("torch", "transformers", "timm", "diffusers", "peft", "accelerate", "safetensors", "Pillow", "bitsandbytes")


def versions() -> dict[str, str]:
    """Installed versions of what matters here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def run(machine: Machine, names: list[str], out: pathlib.Path, deadline: float) -> dict:
    """Run the sections in order until the time is up; the result file is written anew after each."""
    result: dict = {"device": machine.describe(), "versions": versions(), "dry_run": machine.dry, "sections": {}}
    for name in names:
        left = deadline - time.monotonic()
        if left < 15 and not machine.dry:
            result["sections"][name] = {"skipped": "no time was left"}
            continue
        machine.deadline = deadline
        started = time.monotonic()
        try:
            found = SECTIONS[name](machine)
        except Missing as reason:
            found = {"skipped": str(reason)}
        except Exception as error:  # noqa: BLE001 - one broken section must not cost the others: its result is why
            found = {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-2000:]}
        found["seconds"] = round(time.monotonic() - started, 1)
        result["sections"][name] = found
        machine.clean()
        write(result, out)
        print(f"{name}: {json.dumps(found)[:300]}", flush=True)
    return result


def write(result: dict, out: pathlib.Path) -> None:
    """gpu.json, and the same as a page to read."""
    from imagereward_core import atomic

    out.mkdir(parents=True, exist_ok=True)
    atomic.write_json(out / "gpu.json", result, indent=1)
    atomic.write_text(out / "gpu.md", page(result))


def page(result: dict) -> str:
    """A Markdown table a section."""
    lines = [f"# {result['device'].get('name', 'device')}", ""]
    lines += [", ".join(f"{name} {version}" for name, version in result["versions"].items()), ""]
    for name, found in result["sections"].items():
        lines += [f"## {name}", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in found.items() if key not in ("rows", "trace")]
        rows = found.get("rows") or []
        if rows:
            keys = list(rows[0])
            lines += ["", f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}"]
            lines += [f"| {' | '.join(_cell(row.get(key)) for key in keys)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all sections together")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-results"))
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU: shows that the code runs")
    parser.add_argument("--device", default="", help="torch device; default cuda")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    args = parser.parse_args()
    machine = Machine(args.device or ("cpu" if args.dry_run else "cuda"), dry=args.dry_run)
    result = run(machine, args.only, args.out, time.monotonic() + 60 * args.minutes)
    failed = [name for name, found in result["sections"].items() if "failed" in found]
    print(f"failed: {', '.join(failed)}" if failed else f"done: {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
