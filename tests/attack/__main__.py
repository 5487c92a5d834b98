"""`python -m tests.attack --minutes 30 --seed 1`: prints every finding and the totals; exit code 1 if there is any."""

from __future__ import annotations

import argparse
import random
import sys
import time

from . import faults, fuzz
from .targets import available


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
    print(f"seed {seed}", flush=True)
    if args.input is not None:
        results = [fuzz.attack(name, seed, 600, args.input, args.input + 1) for name in targets]
        return report(results, [])
    seconds = args.minutes * 60
    share = seconds * (0.7 if kinds else 1.0) / max(len(targets), 1)
    results = [fuzz.attack(name, seed, share) for name in targets]
    injected = []
    share = seconds * (0.3 if targets else 1.0) / max(len(kinds), 1)
    for name in kinds:
        injected.append(faults.inject(name, seed, share))
    return report(results, injected)


def report(results: list[fuzz.Result], injected: list[faults.Injected]) -> int:
    findings = [finding for result in results for finding in result.findings]
    print(f"\n{'target':14}{'inputs':>9}{'refused':>9}{'slowest':>10}{'memory':>10}  findings")
    for result in results:
        memory = f"{result.peak >> 20} MB"
        print(
            f"{result.name:14}{result.done:9}{result.refused:9}{result.slowest:8.2f} s{memory:>10}"
            f"  {len(result.findings)}"
        )
    for one in injected:
        print(f"{one.name:14}{one.rounds:9} rounds{'':>22}  {one.note or len(one.findings)}")
        findings += one.findings
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings in {time.process_time():.0f} s of this process" if findings else "no finding")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
