"""Check this installation: versions, device, vocabulary, a golden self-test, and which weights are here.

Every problem comes with its fix. Exit code 3 if there is one."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from imagereward_core import registry
from imagereward_core.doctor import examine
from imagereward_core.exit_codes import MODEL, OK
from imagereward_core.printable import harmless

from . import options, output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=options.DEFAULT_MODEL,
        metavar="NAME",
        help="the model that must be here (default %(default)s)",
    )
    parser.add_argument("--download-root", metavar="DIR", help="folder to look for weights in first")
    parser.add_argument("--device", help="check this device (default: cuda if there is one, else cpu)")
    parser.add_argument(
        "--online",
        action="store_true",
        help="compare weights with the checksum their source announces (uses the network)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON list instead of lines, for bug reports")


def run(args: argparse.Namespace) -> int:
    model = registry.get(args.model).name
    found = []
    for finding in examine(model, args.device, args.download_root, args.online):
        found.append(finding)
        if not args.json:
            print(harmless(f"{finding.status:8}{finding.name}: {finding.detail}", keep="\n"))
            if finding.fix:
                print(harmless(f"{'':8}fix: {finding.fix}", keep="\n"))
            sys.stdout.flush()  # hashing weights takes a while
    problems = sum(finding.status == "problem" for finding in found)
    if args.json:
        print(output.as_json([dataclasses.asdict(finding) for finding in found], ascii_only=True))
    else:
        print(f"\n{problems} problem{'s' if problems != 1 else ''} found" if problems else "\nall well")
    return MODEL if problems else OK
