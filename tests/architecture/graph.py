"""The project's own import graph, read from the source, so that a lazy import counts too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PACKAGES = (
    "imagereward_core",
    "imagereward_train",
    "imagereward_cli",
    "imagereward_webui",
    "refl",
    "smallworld",
    "scripts",
)


@dataclass(frozen=True)
class Import:
    """An import: the importing module, the module it names in full, the place, whether only type checkers run it."""

    importer: str
    target: str
    place: str
    typing_only: bool


def sources(package: str) -> list[Path]:
    """The package's files."""
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    """Every import in a file, relative ones resolved; `from package import module` names the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {id(node) for block in ast.walk(tree) if _is_type_checking(block) for node in _nodes(block.body)}
    importer = module_name(path)
    for node in ast.walk(tree):
        place = f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, place, id(node) in typing_only)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, importer, path.name == "__init__.py")
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield Import(importer, name if _is_module(name) else base, place, id(node) in typing_only)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for statement in body:
        yield from ast.walk(statement)


def _base(node: ast.ImportFrom, importer: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = importer.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def graph(packages: tuple[str, ...] = PACKAGES) -> dict[str, set[str]]:
    """module → the modules of ours that it imports when it runs."""
    files = [path for package in packages for path in sources(package)]
    names = {module_name(path) for path in files}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in files:
        for item in imports_of(path):
            if item.target in names and item.target != item.importer and not item.typing_only:
                found[item.importer].add(item.target)
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other in a circle (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(edges[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found
