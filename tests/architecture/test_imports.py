"""Who may import whom, and that nobody imports in a circle."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.architecture.graph import PACKAGES, circles, graph, imports_of, module_name, sources
from tests.conftest import ROOT

CORE, TRAIN, CLI, WEBUI = "imagereward_core", "imagereward_train", "imagereward_cli", "imagereward_webui"
HOST = {"modules", "gradio", "launch", "modules_forge", "ldm_patched"}
# Which packages of ours a package may import; host and gradio belong to the WebUI's package alone.
ALLOWED = {
    CORE: set(),
    TRAIN: {CORE},
    CLI: {CORE, TRAIN},
    WEBUI: {CORE},
    "refl": {CORE},
    "smallworld": {CORE, TRAIN, CLI, "refl"},
    "scripts": {WEBUI},
}
# The two names of the core that look up the house, both lazily: `python -m imagereward_core`, `imagereward_core.ReFL`.
UPWARD = {("imagereward_core.__main__", "imagereward_cli.main"), ("imagereward_core", "refl")}
COMMAND_LINES = {CLI, "smallworld.__main__", "refl.cli"}


@pytest.mark.parametrize("package", PACKAGES)
def test_import_rules(package):
    forbidden = (set(ALLOWED) | HOST) - ALLOWED[package] - {package}
    if package in (WEBUI, "scripts"):
        forbidden -= HOST
    found = [
        f"{item.place} imports {item.target}"
        for path in sources(package)
        for item in imports_of(path)
        if item.target.split(".")[0] in forbidden and (item.importer, item.target) not in UPWARD
    ]
    assert not found


def test_both_upward_names_exist_and_are_lazy():
    found = {
        (item.importer, item.target)
        for path in sources(CORE)
        for item in imports_of(path)
        if item.target.split(".")[0] in set(ALLOWED) - {CORE}
    }
    assert found == UPWARD
    code = "import imagereward_core, sys; assert not {'refl', 'torch', 'imagereward_cli'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_circles():
    assert circles(graph()) == []


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_within_a_package_imports_are_relative():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == package
    ]
    assert not found


def test_the_network_knows_torch_only():
    names = {item.target.split(".")[0] for path in sources("imagereward_core/model") for item in imports_of(path)}
    assert names - sys.stdlib_module_names <= {"torch", CORE}
    inner = {item.target for path in sources("imagereward_core/model") for item in imports_of(path)}
    assert {name for name in inner if name.startswith(CORE)} <= {CORE + ".config"} | {
        module_name(path) for path in sources("imagereward_core/model")
    }


def test_no_print_outside_the_command_lines():
    found = []
    for package in PACKAGES:
        for path in sources(package):
            name = module_name(path)
            if name.split(".")[0] in COMMAND_LINES or name in COMMAND_LINES or path.name == "__main__.py":
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [
                f"{name}:{node.lineno}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            ]
    assert not found


def test_scripts_holds_one_file():
    assert [path.name for path in sources("scripts")] == ["image_reward.py"]
    assert pathlib.Path(ROOT / "scripts").is_dir()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("training", "imagereward_train"),
        ("benchmarks", "imagereward_train.tables"),
        ("infotext", "imagereward_core.metadata.infotext"),
        ("cli", "imagereward_cli.main"),
    ],
)
def test_a_moved_name_says_where_it_went(old, new):
    code = f"import imagereward_core.{old}"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and f"ImportError: imagereward_core.{old} has moved: import {new} instead" in (
        result.stderr
    )
