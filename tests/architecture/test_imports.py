"""Who may import whom. Read from the source, so that a lazy import counts too."""

import ast
import pathlib
import sys

import pytest

from tests.conftest import ROOT

PACKAGES = ("imagereward_core", "imagereward_webui", "refl", "scripts", "smallworld")
OURS = {"imagereward_core", "imagereward_webui", "refl", "smallworld"}
HOST = {"modules", "gradio", "launch", "modules_forge", "ldm_patched"}


def sources(package):
    return sorted(path for path in (ROOT / package).rglob("*.py"))


def imported(path):
    """Top-level names of the absolute imports in a file, with line numbers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0], node.lineno


def offences(package, forbidden, allowed_files=()):
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        if path.relative_to(ROOT).as_posix() not in allowed_files
        for name, line in imported(path)
        if name in forbidden
    ]


@pytest.mark.parametrize(
    ("package", "forbidden", "allowed"),
    [
        ("imagereward_core", HOST | OURS, ()),
        ("refl", HOST | OURS, ("refl/rewards.py",)),
        ("imagereward_webui", {"refl", "smallworld"}, ()),
        ("scripts", {"refl", "smallworld", "imagereward_core"}, ()),
        ("smallworld", HOST | {"imagereward_webui"}, ()),
    ],
)
def test_import_rules(package, forbidden, allowed):
    if not (ROOT / package).is_dir():
        pytest.skip(f"{package} is not there yet")
    own = {package} if package in OURS else set()
    assert not offences(package, forbidden - own, allowed)


def test_the_network_knows_torch_only():
    assert {name for path in sources("imagereward_core/model") for name, _ in imported(path)} - sys.stdlib_module_names <= {"torch"}


def test_no_print_outside_the_command_lines():
    found = []
    for package in PACKAGES[:3]:
        for path in sources(package):
            if "cli" in path.name or path.name == "__main__.py" or path.parent.name == "commands":
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [
                f"{path.name}:{node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            ]
    assert not found


def test_scripts_holds_one_file():
    folder = pathlib.Path(ROOT / "scripts")
    if not folder.is_dir():
        pytest.skip("scripts is not there yet")
    assert [path.name for path in sources("scripts")] == ["image_reward.py"]
