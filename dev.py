"""Sets everything up on a fresh machine with Python 3.10 or newer, then runs. Standard library only, Windows too.

    python dev.py demo   generate, score, filter: the whole loop on small models that are part of this repository
    python dev.py test   everything the continuous integration runs: lint, types, tests, the hosts' own environments
    python dev.py shell  print the environment's interpreter, for your own commands

What it installs goes into .venv (and .venvs for the hosts) in this folder; nothing else is touched. Set
IMAGEREWARD_TORCH to choose another build of torch, for instance IMAGEREWARD_TORCH="torch==2.7.1 --index-url URL".
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import platform
import queue
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent
BIN = "Scripts" if os.name == "nt" else "bin"
EXE = ".exe" if os.name == "nt" else ""
CONSTRAINTS = ROOT / "requirements" / "tested.txt"
TORCH = os.environ.get("IMAGEREWARD_TORCH", "torch==2.13.0")
EVERYTHING = "train,refl,quantised,clip,data,ray,dev"  # extras of the package that the tests need
SHOWN = 60  # lines of a log that are shown at the end
NO_VENV = (
    f"this Python ({sys.executable}) lacks venv or ensurepip: install them (Debian, Ubuntu: apt install"
    f" python{sys.version_info[0]}.{sys.version_info[1]}-venv) or start dev.py with another Python"
)


def say(text: str) -> None:
    print(f"[dev] {text}", flush=True)


def run(*command: object, **changes: str) -> int:
    """Run a command in the project's root, with these environment variables changed; its exit status."""
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", **changes}
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False).returncode


def must(*command: object, **changes: str) -> None:
    """Run a command; end with its status if it fails."""
    status = run(*command, **changes)
    if status:
        say(f"failed ({status}): {' '.join(map(str, command))}")
        raise SystemExit(status)


def stamped(stamp: pathlib.Path, key: str) -> bool:
    """Whether a previous run finished the same work."""
    return stamp.is_file() and stamp.read_text() == key


def has_pip(python: pathlib.Path) -> bool:
    """Whether this interpreter runs and can install packages: a creation that was cut off leaves one that cannot."""
    try:
        return subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def create_environment(folder: pathlib.Path) -> None:
    """Make a virtual environment with pip, in place of whatever lies there."""
    import venv  # some distributions ship Python without it

    venv.EnvBuilder(with_pip=True, clear=True).create(folder)


def virtual_environment(
    folder: pathlib.Path, create: Callable[[pathlib.Path], None] = create_environment
) -> pathlib.Path:
    """The interpreter of a virtual environment with pip: the one that is there, or one made anew. What cannot be made
    is said in a line and leaves nothing behind.
    """
    python = folder / BIN / f"python{EXE}"
    if has_pip(python):
        return python
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        say(f"{folder.name} has no working pip, and this Python is its own: start dev.py with another Python")
        raise SystemExit(2)
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        say(NO_VENV)
        raise SystemExit(2)
    if folder.exists() or folder.is_symlink():
        say(f"{folder.name} has no working pip: it is made anew")
    say(f"creating {folder.name} with Python {platform.python_version()}")
    try:
        if folder.is_symlink():
            folder.unlink()
        create(folder)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        say(f"interrupted: {folder.name} is removed, and made anew the next time")
        raise SystemExit(130) from None
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        say(f"{folder} cannot be made: {error}" if isinstance(error, OSError) else NO_VENV)
        raise SystemExit(2) from error
    return python


def environment(extras: str) -> pathlib.Path:
    """The interpreter of .venv with this package's extras installed; made at the first call, kept while nothing
    changed.
    """
    folder = ROOT / ".venv"
    python = virtual_environment(folder)
    key = hashlib.sha256(
        b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "requirements/tested.txt")) + TORCH.encode()
    ).hexdigest()
    stamp = folder / f".installed-{extras.replace(',', '-')}"
    if stamped(stamp, key):
        return python
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    say(f"installing {TORCH.split()[0]} (the largest part)")
    must(*pip, *shlex.split(TORCH), "numpy", "-c", CONSTRAINTS)
    say(f"installing the package with its extras: {extras}")
    # torch may be a build the constraint's exact version does not name (a local version, or the user's choice).
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("torch==")]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(lines) + "\n")
    must(*pip, "-e", f".[{extras}]", "-c", constraints)
    if "dev" in extras.split(","):
        # OpenAI's original code, the oracle of the CLIP tests; its dependency torchvision is not needed for that.
        must(*pip, "--no-deps", "clip-anytorch==2.6.0")
    stamp.write_text(key)
    return python


def browser() -> str | None:
    """A Chromium for the tests that click; on a Debian machine we may change, it is installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        say("installing chromium")
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", DEBIAN_FRONTEND="noninteractive")
        return shutil.which("chromium")
    return None


def demo(arguments: list[str]) -> int:
    python = environment("refl")
    return run(python, "-m", "smallworld", "demo", *arguments)


class Hosts:
    """The hosts' own environments (tests/environments.py), and in each the tests that concern a host.

    Two cores, two lanes: one does nothing else, the other helps when the rest is done. Output goes to files below
    .venvs, and is shown at the end.
    """

    def __init__(self, changes: dict[str, str], environments: Any):
        self.environments, self.changes = environments, changes
        self.failed: list[str] = []
        self.notes: list[str] = []
        self.logs: list[pathlib.Path] = []
        self._ready: dict[str, bool] = {}
        self._left = {host.name: len(environments.PARTS) for host in environments.HOSTS}
        self._making = threading.Lock()  # the disk is the bottleneck
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        for host in environments.HOSTS:
            for part in environments.PARTS:
                self._tasks.put((host, part))

    def work(self) -> None:
        """Take one part of one host's tests after another until none is left."""
        while True:
            try:
                host, part = self._tasks.get_nowait()
            except queue.Empty:
                return
            with self._making:
                if host.name not in self._ready:
                    self._ready[host.name] = self._make(host)
            if self._ready[host.name]:
                log = ROOT / ".venvs" / f"{host.name}-{part}.log"
                self.logs.append(log)
                if self.environments.run(host, part, log, **self.changes):
                    self.failed.append(f"tests in the environment of {host.name} ({part})")
            self._left[host.name] -= 1

    def _make(self, host: Any) -> bool:
        python = self.environments.find_python(host.python)
        if python is None:
            self.notes.append(f"{host.name}: no Python {host.python} here, not tested")
            return False
        in_use = {name for name, ready in self._ready.items() if ready and self._left[name]}
        if not self.environments.make_room(host, in_use):
            needed, free = (f"{size / 2**30:.0f} GB" for size in (self.environments.ROOM, self.environments.room()))
            self.failed.append(f"tests in the environment of {host.name}: it needs {needed} of disk, {free} are free")
            return False
        log = ROOT / ".venvs" / f"{host.name}-install.log"
        if self.environments.make(host, python, log):
            return True
        self.failed.append(f"installing the environment of {host.name}")
        self.logs.append(log)
        return False

    def show(self) -> None:
        """The ends of what its commands printed."""
        for log in self.logs:
            say(log.stem)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            print("\n".join(lines[-SHOWN:]), flush=True)


def test(arguments: list[str]) -> int:
    """Lint, types, tests; beside them the tests of hosts in the hosts' own environments; then the core with
    transformers absent. Non-zero if anything failed.
    """
    python = environment(EVERYTHING)
    if arguments:  # somebody at work on one thing
        return run(python, "-m", "pytest", *arguments)
    failed = []

    def step(name: str, *command: object, **changes: str) -> None:
        say(name)
        if run(*command, **changes):
            failed.append(name)

    golden = ROOT / ".venvs" / "golden.safetensors"
    changes = {"IMAGEREWARD_GOLDEN": str(golden)}
    sys.path.insert(0, str(ROOT))
    from tests import environments  # standard library only, as this file

    hosts = Hosts(dict(changes), environments)
    lane = threading.Thread(target=hosts.work, name="hosts", daemon=True)
    lane.start()
    step("lint", python, "-m", "ruff", "check", ".")
    step("format", python, "-m", "ruff", "format", "--check", ".")
    step("types", python, "-m", "mypy")
    if found := browser():
        changes["IMAGEREWARD_CHROMIUM"] = found
        say("making the environments of the browser tests (gradio 3.41.2 and 4.40.0)")
        run(sys.executable, "tests/browser/make_envs.py")
    step("tests", python, "-m", "pytest", "-q", **changes)
    core = ("-m", "not newest", "tests/unit", "tests/architecture", "tests/parity")
    step(
        "core without transformers",
        python,
        "-m",
        "pytest",
        "-q",
        *core,
        IMAGEREWARD_TEST_HIDE="transformers",
        **changes,
    )
    hosts.work()
    lane.join()
    hosts.show()
    failed += hosts.failed
    golden.unlink(missing_ok=True)
    for note in hosts.notes:
        say(note)
    say(f"FAILED: {', '.join(failed)}" if failed else "everything passed")
    return len(failed)


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 - this file runs before anything could have checked it
        say(f"Python 3.10 or newer is needed, this is {platform.python_version()}")
        return 2
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    try:
        if command == "demo":
            return demo(arguments)
        if command == "test":
            return test(arguments)
        if command == "shell":
            print(environment(EVERYTHING))
            return 0
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    print(__doc__)
    return 0 if command in ("", "-h", "--help", "help") else 2


if __name__ == "__main__":
    raise SystemExit(main())
