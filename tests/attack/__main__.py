"""`python -m tests.attack --minutes 30 --seed 1`: prints every finding and the totals; exit code 1 if there is any."""

from __future__ import annotations

import argparse
import random
import sys

from . import faults, fuzz
from .targets import available

FUZZING = 0.7  # of the time; the rest is for faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long, all parts together (default 2)")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--only", action="append", help="a target or a fault; may be repeated")
    parser.add_argument("--input", type=int, default=None, help="try this one input of the target named by --only")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if args.seed is None else args.seed
    targets = [name for name in available() if not args.only or name in args.only]
    kinds = [name for name in faults.FAULTS if not args.only or name in args.only]
    if args.only and len(targets) + len(kinds) < len(set(args.only)):
        parser.error(f"there are {', '.join([*available(), *faults.FAULTS])}")
    print(f"seed {seed}\n\n{'target':14}{'inputs':>9}{'refused':>9}{'slowest':>10}{'memory':>10}  findings", flush=True)
    findings: list[str] = []
    if args.input is not None:
        for name in targets:
            findings += told(fuzz.attack(name, seed, 600, args.input, args.input + 1))
        return conclusion(findings)
    seconds = args.minutes * 60
    for name in targets:
        findings += told(fuzz.attack(name, seed, seconds * (FUZZING if kinds else 1.0) / len(targets)))
    for name in kinds:
        one = faults.inject(name, seed, seconds * (1 - FUZZING if targets else 1.0) / len(kinds))
        print(f"{one.name:14}{one.rounds:9} rounds{'':>22}  {one.note or len(one.findings)}", flush=True)
        findings += one.findings
    return conclusion(findings)


def told(result: fuzz.Result) -> list[str]:
    """The findings of a target, whose figures are printed."""
    print(
        f"{result.name:14}{result.done:9}{result.refused:9}{result.slowest:8.2f} s{result.peak >> 20:7} MB"
        f"  {len(result.findings)}",
        flush=True,
    )
    return result.findings


def conclusion(findings: list[str]) -> int:
    """The exit code, once everything found is printed."""
    print("\n" + "\n".join(findings) + f"\n{len(findings)} findings" if findings else "\nno finding")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
