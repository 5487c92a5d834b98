"""The hosts' own environments: each on its own Python and torch, with its own pins, for the tests that run in a host.

Made by `dev.py test` below .venvs where that Python is found, kept while their requirements stay the same. Standard
library only: this runs before anything is installed.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN, EXE = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
# Independent readers and oracles of the tests. They ask for newer libraries than hosts pin; what is used here does not.
NO_DEPENDENCIES = ("sd-parsers==0.6", "clip-anytorch==2.6.0")
ROOM = 12 * 2**30  # bytes free that one host's environment and its tests ask for: torch alone is 3 to 6 GB
# What runs in each, in two parts of about the same length: two lanes that share the hosts then end together.
PARTS = {"hooks": ("tests/contract", "tests/architecture"), "core": ("tests/unit", "tests/parity", "tests/refl")}


@dataclass(frozen=True)
class HostEnvironment:
    """A host's name, the Python it runs on, and the file with its pins."""

    name: str
    python: str

    @property
    def requirements(self) -> Path:
        """Its pins."""
        return ROOT / "requirements" / f"host-{self.name}.txt"

    @property
    def folder(self) -> Path:
        """Where it is made."""
        return ROOT / ".venvs" / self.name

    @property
    def interpreter(self) -> Path:
        """Its own Python once it is made."""
        return self.folder / BIN / f"python{EXE}"

    @property
    def key(self) -> str:
        """Changes with anything that asks for a new environment."""
        texts = [self.requirements.read_text(encoding="utf-8"), tests_requirements().read_text(encoding="utf-8")]
        return hashlib.sha256("\n".join([self.python, *texts, *NO_DEPENDENCIES]).encode()).hexdigest()


HOSTS = (HostEnvironment("a1111", "3.10"), HostEnvironment("forge", "3.10"), HostEnvironment("neo", "3.13"))


def tests_requirements() -> Path:
    """What the tests need on top of a host's pins."""
    return ROOT / "requirements" / "host-tests.txt"


def candidates(version: str) -> Iterator[list[str]]:
    """Commands that may start Python `version` ("3.10"): this one, one on the path, pyenv's, the Windows launcher."""
    yield [sys.executable]
    if found := shutil.which(f"python{version}"):
        yield [found]
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for path in sorted(glob.glob(os.path.join(glob.escape(pyenv), "versions", f"{version}.*", "bin", "python"))):
        yield [path]
    if launcher := shutil.which("py"):
        yield [launcher, f"-{version}"]


def find_python(version: str, commands: Callable[[str], Iterator[list[str]]] = candidates) -> list[str] | None:
    """A command that starts this version of Python, or None. Shims that only print an error are passed over."""
    ask = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for command in commands(version):
        try:
            done = subprocess.run([*command, "-c", ask], capture_output=True, text=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            return command
    return None


def make(host: HostEnvironment, python: list[str], log: Path) -> bool:
    """Make the environment, if it is not there already; False if a package cannot be had. Output goes to `log`."""
    stamp = host.folder / ".installed"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == host.key and host.interpreter.exists():
        return True
    shutil.rmtree(host.folder, ignore_errors=True)
    pip = [str(host.interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary"]
    steps = (
        [*python, "-m", "venv", str(host.folder)],
        [*pip, "-r", str(host.requirements), "-r", str(tests_requirements())],
        [*pip, "--no-deps", *NO_DEPENDENCIES],
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        for step in steps:
            done = subprocess.run(step, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, check=False)
            if done.returncode:
                return False
    stamp.write_text(host.key, encoding="utf-8")
    return True


def room() -> int:
    """Bytes free where the environments are made."""
    return shutil.disk_usage(ROOT).free


def make_room(keep: HostEnvironment, in_use: Collection[str] = ()) -> bool:
    """Where the disk is nearly full, remove other hosts' environments, which are made anew when they are asked for, but
    none whose tests may be running; False if that is not enough.
    """
    for host in HOSTS:
        if room() < ROOM and host != keep and host.name not in in_use:
            shutil.rmtree(host.folder, ignore_errors=True)
    return room() >= ROOM or (keep.folder / ".installed").is_file()


def run(host: HostEnvironment, part: str, log: Path, **changes: str) -> int:
    """One part of the tests that run in a host, in its environment. Output goes to `log`; returns pytest's status."""
    options = ("-q", "-p", "no:cacheprovider", "-m", "not newest")
    command = [str(host.interpreter), "-m", "pytest", *options, *PARTS[part]]
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **changes}
    with open(log, "wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, check=False)
    return done.returncode
