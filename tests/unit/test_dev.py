"""`dev.py` makes its environment on whatever it finds: nothing, half an environment, a Python without venv."""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import types

import pytest

from tests.conftest import ROOT

HOSTS = {"a1111": "3.10", "forge": "3.10", "neo": "3.13"}
needs_ensurepip = pytest.mark.skipif(
    importlib.util.find_spec("ensurepip") is None, reason="this Python cannot make environments with pip"
)


@pytest.fixture
def dev():
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """dev.py alone in a folder."""
    shutil.copy2(ROOT / "dev.py", tmp_path)
    return tmp_path


def shell(checkout, prelude):
    """`python dev.py shell` after some lines of Python."""
    code = (
        f"import runpy, sys; {prelude}; sys.argv = ['dev.py', 'shell']; runpy.run_path('dev.py', run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, timeout=120)


@pytest.mark.newest
@needs_ensurepip
def test_an_environment_without_pip_is_made_anew(dev, tmp_path, capsys):
    folder = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (folder / "left over").write_text("x")
    python = dev.virtual_environment(folder)
    assert subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0
    assert "no working pip: it is made anew" in capsys.readouterr().out and not (folder / "left over").exists()
    assert dev.virtual_environment(folder, create=None) == python  # kept the next time


@pytest.mark.parametrize("state", ["empty", "no interpreter", "broken interpreter", "dangling link"])
def test_half_made_environments_are_noticed(dev, tmp_path, state):
    folder = tmp_path / ".venv"
    if state == "dangling link":
        if os.name == "nt":
            pytest.skip("links need rights on Windows")
        folder.symlink_to(tmp_path / "nowhere")
    else:
        (folder / dev.BIN).mkdir(parents=True)
        if state == "broken interpreter":
            (folder / dev.BIN / f"python{dev.EXE}").write_text("not a program")
    made = []
    assert dev.virtual_environment(folder, create=made.append) == folder / dev.BIN / f"python{dev.EXE}"
    assert made == [folder] and not folder.is_symlink()


def test_ctrl_c_while_it_is_made_leaves_nothing(dev, tmp_path, capsys):
    folder = tmp_path / ".venv"

    def interrupted(target):
        (target / dev.BIN).mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        dev.virtual_environment(folder, create=interrupted)
    assert end.value.code == 130 and not folder.exists()
    assert "interrupted: .venv is removed" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["ensurepip", "venv"])
def test_a_python_that_cannot_make_environments_gets_a_line(checkout, missing):
    found = shell(checkout, f"sys.modules[{missing!r}] = None")
    assert found.returncode == 2 and "Traceback" not in found.stdout + found.stderr
    (line,) = found.stdout.splitlines()
    assert "lacks venv or ensurepip" in line and f"python{sys.version_info[0]}.{sys.version_info[1]}-venv" in line
    assert not (checkout / ".venv").exists()


def test_ensurepip_that_fails_half_way_gets_the_same_line(dev, tmp_path, capsys):
    def failing(target):
        target.mkdir()
        raise subprocess.CalledProcessError(1, ["python", "-m", "ensurepip"])

    with pytest.raises(SystemExit) as end:
        dev.virtual_environment(tmp_path / ".venv", create=failing)
    assert end.value.code == 2 and "lacks venv or ensurepip" in capsys.readouterr().out
    assert not (tmp_path / ".venv").exists()


class Environments:
    """Stands for tests/environments.py: makes nothing, and takes down what was asked."""

    ROOM = 2**30
    HOSTS = tuple(types.SimpleNamespace(name=name, python=version) for name, version in HOSTS.items())
    PARTS = {"hooks": (), "core": ()}

    def __init__(self, harm=""):
        self.harm, self.made, self.ran = harm, [], []

    def find_python(self, version):
        return None if self.harm == "no Python" and version == "3.13" else ["python"]

    def make_room(self, host, in_use):
        assert host.name not in in_use
        return not (self.harm == "no room" and host.name == "forge")

    def room(self):
        return 0

    def make(self, host, python, log):
        self.made.append(host.name)
        return not (self.harm == "no package" and host.name == "a1111")

    def run(self, host, part, log, **changes):
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"{changes['GOLDEN']} {part} of {host.name}\n")
        self.ran.append((host.name, part))
        return int(self.harm == "a failing test" and (host.name, part) == ("neo", "core"))


@pytest.mark.parametrize(
    ("harm", "failed", "notes", "left_out"),
    [
        ("", [], [], set()),
        ("a failing test", ["tests in the environment of neo (core)"], [], set()),
        ("no package", ["installing the environment of a1111"], [], {"a1111"}),
        ("no room", ["tests in the environment of forge: it needs 1 GB of disk, 0 GB are free"], [], {"forge"}),
        ("no Python", [], ["neo: no Python 3.13 here, not tested"], {"neo"}),
    ],
)
def test_two_lanes_share_the_hosts(dev, tmp_path, monkeypatch, capsys, harm, failed, notes, left_out):
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    found = Environments(harm)
    hosts = dev.Hosts({"GOLDEN": "weights"}, found)
    lanes = [threading.Thread(target=hosts.work) for _ in range(2)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert hosts.failed == failed and hosts.notes == notes
    assert sorted(found.ran) == sorted((h, p) for h in HOSTS if h not in left_out for p in Environments.PARTS)
    assert len(found.made) == len(set(found.made))  # once, whichever lane comes first
    (tmp_path / ".venvs").mkdir(exist_ok=True)
    (tmp_path / ".venvs" / "a1111-install.log").write_text("no such package\n")
    hosts.show()
    shown = capsys.readouterr().out
    assert all(f"weights {part} of {host}" in shown for host, part in found.ran)
    assert ("no such package" in shown) == (harm == "no package")
