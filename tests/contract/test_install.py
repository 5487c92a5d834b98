"""install.py changes nothing that is installed; preload.py adds one flag."""

import argparse
import runpy
import sys
import types

import pytest

from .fakehost import EXTENSION


@pytest.fixture
def install(monkeypatch):
    """Run install.py with these packages installed; returns what it asked pip for, with the constraints it gave."""

    def run(present, arguments="", failure=None):
        calls = []

        def run_pip(command, desc=None):
            path = command.split('"')[1]
            with open(path, encoding="utf-8") as file:
                calls.append((command.replace(path, "FILE"), file.read()))
            if failure:
                raise failure

        distributions = [
            types.SimpleNamespace(metadata={"Name": name}, version=version) for name, version in present.items()
        ]
        monkeypatch.setattr("importlib.metadata.distributions", lambda: distributions)
        monkeypatch.setitem(sys.modules, "launch", types.SimpleNamespace(run_pip=run_pip))
        monkeypatch.setenv("COMMANDLINE_ARGS", arguments)
        runpy.run_path(str(EXTENSION / "install.py"))
        return calls

    return run


HOST = {
    "safetensors": "0.4.2",
    "tokenizers": "0.13.3",
    "huggingface-hub": "0.36.2",
    "filelock": "3.20",
    "tqdm": "4.67",
    "torch": "2.1.2",
    "numpy": "1.26.2",
}


def test_nothing_to_do_on_a_complete_host(install):
    assert install(HOST) == []


def test_an_older_version_is_left_alone(install):
    assert install({**HOST, "safetensors": "0.3.0"}) == []


def test_what_is_missing_comes_with_everything_else_held(install):
    present = {name: version for name, version in HOST.items() if name != "tqdm"}
    ((command, constraints),) = install(present)
    assert command == 'install -c "FILE" "tqdm>=4.65"'
    assert (
        "numpy==1.26.2\n" in constraints and "torch==2.1.2\n" in constraints and constraints.count("==") == len(present)
    )


def test_skip_install_is_honoured(install):
    assert install({}, arguments="--medvram --skip-install") == []


def test_a_failing_install_does_not_stop_the_host(install, capsys):
    install({}, failure=RuntimeError("no network"))
    assert "could not install safetensors>=0.4.2" in capsys.readouterr().out


def test_preload_adds_one_flag(host):
    parser = argparse.ArgumentParser()
    runpy.run_path(str(EXTENSION / "preload.py"))["preload"](parser)
    assert parser.parse_args([]).imagereward_models_path is None
    host.cmd_opts.imagereward_models_path = parser.parse_args(
        ["--imagereward-models-path", "/data/rewards"]
    ).imagereward_models_path
    host.options.data["imagereward_models_dir"] = "/elsewhere"
    assert str(host.part("host").models_dir()) == "/data/rewards"


def test_models_folder_by_setting_and_by_default(host):
    assert host.part("host").models_dir() == host.folder / "models" / "ImageReward"
    host.options.data["imagereward_models_dir"] = "/elsewhere"
    assert str(host.part("host").models_dir()) == "/elsewhere"
