"""``python -m smallworld``: demo (score and curate), teach, evaluate, build, flow, install."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from imagereward_core.atomic import write_json
from imagereward_core.errors import DataError, ImageRewardError
from imagereward_core.exit_codes import FAILED, INTERRUPTED, OK
from imagereward_core.printable import harmless
from imagereward_core.prompt_files import read_prompts


def main(arguments: list[str] | None = None) -> int:
    """Parse, run one command, return the exit status: see `imagereward_core.exit_codes`."""
    options = _parser().parse_args(arguments)
    # transformers warns that torchvision is missing; nothing here uses it.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return options.run(options)
    except ImageRewardError as error:
        message = harmless(str(error), keep="\n")
        print(f"error: {message}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m smallworld", description="Score, curate and teach on models small enough for any computer"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="generate, score, filter, write reports")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/smallworld-demo"),  # git ignores outputs/: a demo must leave the checkout as it was
        help="folder for the results (default: %(default)s)",
    )
    demo.add_argument(
        "--draw-with", choices=("tiny-sd", "tiny-flow"), default="tiny-sd", help="what draws (default: %(default)s)"
    )
    demo.add_argument("--prompts", type=Path, help="prompt file: text with a prompt a line, JSON, JSONL, CSV or TSV")
    demo.add_argument("--count", type=_positive, default=16, help="pictures to draw (default: %(default)s)")
    demo.add_argument(
        "--threshold", type=float, default=0.0, help="pictures that score lower are hidden (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=1000, help="seed of the first picture (default: %(default)s)")
    demo.add_argument(
        "--model", help="reward model: a name such as ImageReward-v1.0, or a file (default: tiny-imagereward)"
    )
    demo.add_argument("--images", type=Path, help="score the images in this folder instead of drawing some")
    demo.add_argument("--prompt", help="with --images: score all of them against this prompt, not their own")
    demo.set_defaults(run=_demo)

    teach = commands.add_parser(
        "teach", help="a short ReFL run on tiny-sd or tiny-flow, with pictures and oracle accuracy before and after"
    )
    teach.add_argument(
        "--model", choices=("tiny-sd", "tiny-flow"), default="tiny-sd", help="what is taught (default: %(default)s)"
    )
    teach.add_argument("--flow", type=Path, help="other weights of tiny-flow, as the command flow writes them")
    teach.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/smallworld-teach"),
        help="folder for the results (default: %(default)s)",
    )
    teach.add_argument("--updates", type=_positive, default=40, help="ReFL updates (default: %(default)s)")
    teach.add_argument("--seed", type=int, default=0, help="seed of the run (default: %(default)s)")
    teach.add_argument(
        "--pictures",
        type=_positive,
        default=96,
        help="held-out pictures judged before and after (default: %(default)s)",
    )
    teach.set_defaults(run=_teach)

    evaluate = commands.add_parser("evaluate", help="measure the shipped weights, or those of a build")
    evaluate.add_argument("--weights", type=Path, help="folder that build wrote (default: the shipped weights)")
    evaluate.add_argument(
        "--count", type=_positive, default=200, help="pictures per measurement (default: %(default)s)"
    )
    evaluate.add_argument("--json", type=Path, help="also write the numbers to this file")
    evaluate.add_argument(
        "--update-cards", action="store_true", help="write the numbers into the model cards beside the weights"
    )
    evaluate.set_defaults(run=_evaluate)

    build = commands.add_parser(
        "build",
        help="train all weights from their seeds (hours; cut off, it goes on); --short checks the recipe in a minute",
    )
    build.add_argument("--out", type=Path, required=True, help="folder for the weights")
    build.add_argument("--short", action="store_true", help="a handful of steps per stage")
    build.set_defaults(run=_build)

    flow = commands.add_parser(
        "flow",
        help="train and measure tiny-flow, the flow-matching model, on tiny-sd's latents (15 minutes of one core; cut"
        " off, it goes on)",
    )
    flow.add_argument("--out", type=Path, required=True, help="folder for the weights")
    flow.add_argument("--short", action="store_true", help="a handful of steps")
    flow.set_defaults(run=_flow)

    install = commands.add_parser(
        "install", help="put tiny-sd and its reward model where a Stable Diffusion WebUI finds them"
    )
    install.add_argument("webui", type=Path, help="the WebUI's folder")
    install.set_defaults(run=_install)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


def _say(line: str) -> None:
    print(line, flush=True)


def _demo(options: argparse.Namespace) -> int:
    from .demo import DemoConfig, ranked_table, run_demo
    from .errors import SmallWorldError

    started = time.monotonic()
    prompts = None
    if options.prompts is not None:
        try:
            prompts = tuple(read_prompts(options.prompts))
        except DataError as error:
            raise SmallWorldError(f"cannot read the prompts: {error}") from error
    config = DemoConfig(
        out=options.out,
        prompts=prompts,
        count=options.count,
        threshold=options.threshold,
        seed=options.seed,
        model=options.model,
        images=options.images,
        prompt=options.prompt,
        generator=options.draw_with,
    )
    result = run_demo(config, _say)
    for line in ranked_table(result):
        _say(line)
    _say(
        f"kept {len(result.kept)}, hidden {len(result.hidden)}; report: {result.report}"
        f" ({time.monotonic() - started:.0f} s)"
    )
    return OK


def _teach(options: argparse.Namespace) -> int:
    from .flow_pipeline import TINY_FLOW
    from .teach import TeachConfig, run_teach

    outcome = run_teach(
        TeachConfig(
            out=options.out,
            model=options.model,
            flow=options.flow or TINY_FLOW,
            updates=options.updates,
            seed=options.seed,
            pictures=options.pictures,
        ),
        _say,
    )
    for line in outcome.table():
        _say(line)
    _say(f"report: {outcome.report}")
    return OK


def _evaluate(options: argparse.Namespace) -> int:
    from .errors import SmallWorldError
    from .evaluate import evaluate_all
    from .pipeline import WEIGHTS

    weights = options.weights or WEIGHTS
    missing = [
        name for name in ("oracle", "tiny-sd", "tiny-imagereward") if not (weights / f"{name}.safetensors").is_file()
    ]
    if missing:
        raise SmallWorldError(f"{weights} has no {missing[0]}.safetensors: give a folder that 'build' has finished")
    if options.update_cards and options.weights:
        raise SmallWorldError("--update-cards writes the cards of the shipped weights: leave out --weights")
    result = evaluate_all(_say, count=options.count, weights=weights)
    if options.json is not None:
        write_json(options.json, result, indent=2)
    if options.update_cards:
        from .cards import update_cards

        _say("updated " + ", ".join(card.name for card in update_cards(WEIGHTS, result)))
    return OK


def _build(options: argparse.Namespace) -> int:
    from .build import SHORT, BuildConfig, build

    record = build(options.out, SHORT if options.short else BuildConfig(), _progress)
    _say(json.dumps(record["sha256"], indent=2))
    return OK


def _flow(options: argparse.Namespace) -> int:
    from .train_flow import NAME, RECORD, SHORT, FlowTraining, train_flow

    weights = options.out / f"{NAME}.safetensors"
    record = train_flow(SHORT if options.short else FlowTraining(), options.out, _progress)
    _say(f"wrote {weights} after {record['cpu_seconds']} CPU seconds")
    if not options.short:
        from .demo import ORACLE
        from .evaluate import measure_flow
        from .oracle import Oracle

        _say("measuring it")
        record[NAME] = measure_flow(weights, Oracle.load(ORACLE))
        write_json(options.out / RECORD, record, indent=2)
        one = record[NAME]["one object"]
        low, high = one["interval"]
        _say(
            f"every attribute right in {one['all_right']:.1%} of {one['pictures']} held-out pictures (95 % over"
            f" {one['combinations']} combinations: {low:.1%} to {high:.1%}); all figures: {options.out / RECORD}"
        )
    return OK


def _progress(stage: str, done: int, total: int, values: dict[str, float]) -> None:
    _say(f"{stage} {done}/{total} " + " ".join(f"{name} {value:.4g}" for name, value in values.items()))


def _install(options: argparse.Namespace) -> int:
    from .errors import SmallWorldError
    from .pipeline import TINY_REWARD, TINY_SD

    folder = options.webui / "models" / "Stable-diffusion"
    if not folder.is_dir():
        raise SmallWorldError(f"{options.webui} is no WebUI folder: it has no models/Stable-diffusion")
    for suffix in (".safetensors", ".yaml"):
        shutil.copy2(TINY_SD.with_suffix(suffix), folder / TINY_SD.with_suffix(suffix).name)
    shutil.copytree(TINY_SD.with_suffix(""), folder / TINY_SD.stem, dirs_exist_ok=True)
    rewards = options.webui / "models" / "ImageReward"
    rewards.mkdir(exist_ok=True)
    shutil.copy2(TINY_REWARD, rewards / TINY_REWARD.name)
    _say(f"installed tiny-sd in {folder}; choose it as checkpoint and draw at 64x64 with CFG 4")
    _say(f"installed its reward model in {rewards}; choose {TINY_REWARD.name} as the scorer")
    return OK


if __name__ == "__main__":
    sys.exit(main())
