"""The stand-in host against real ones, read and never run: no torch, no gradio, nothing of theirs is imported.

IMAGEREWARD_HOST_A1111, …_FORGE, …_REFORGE and …_NEO name source trees; without them these tests are skipped. They hold
that every name of `modules.*` that the extension touches is there, that our calls fit the host's signatures, and that
the hooks come in the order that the stand-in claims.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .fakehost import EXTENSION, Options, images, processing, runner

HOSTS = ("A1111", "FORGE", "REFORGE", "NEO")
WEBUI = EXTENSION / "imagereward_webui"
OURS = ("imagereward", "_imagereward")
# Touched only where host.name() says that it is the host that has them.
ONLY_A1111 = {("sd_models", "send_model_to_device")}
ONLY_FORGE = {"forge_additional_modules"}  # Forge and Forge Neo; asked for with a default


# --- the host's side --------------------------------------------------------------------------------


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8-sig"))


class Host:
    """A host's source tree."""

    def __init__(self, root: Path):
        self.root = root

    def file(self, module: str) -> Path:
        """`module` is a dotted name below the root."""
        base = self.root / module.replace(".", "/")
        found = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        assert found.is_file(), f"the host has no module {module}"
        return found

    def names(self, module: str) -> dict[str, ast.AST]:
        """What a module binds at its top level, in conditional and nested blocks too (but not in functions)."""
        bound: dict[str, ast.AST] = {}
        waiting = list(parsed(self.file(module)).body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                bound[node.name] = node
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    bound[alias.asname or alias.name.partition(".")[0]] = node
            elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            bound[name.id] = node
            else:
                waiting += [
                    child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.excepthandler))
                ]
        return bound

    def definition(self, module: str, name: str) -> ast.AST | None:
        """The def or class that a name stands for, followed through imports; None where it is a value."""
        node = self.names(module).get(name)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            alias = next(alias for alias in node.names if (alias.asname or alias.name) == name)
            if (self.root / node.module.replace(".", "/")).with_suffix(".py").is_file():
                return self.definition(node.module, alias.name)
        return node

    def members(self, module: str, name: str) -> set[str]:
        """Names in a class: methods, class attributes, what its methods set on self; and those of its bases here."""
        node = self.definition(module, name)
        if not isinstance(node, ast.ClassDef):
            return set()
        found = set()
        for child in ast.walk(node):
            if isinstance(child, ast.FunctionDef):
                found.add(child.name)
            elif isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and child.value.id == "self":
                found.add(child.attr)
        for child in node.body:
            if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                found.add(child.target.id)
            elif isinstance(child, ast.Assign):
                found.update(
                    name.id for target in child.targets for name in ast.walk(target) if isinstance(name, ast.Name)
                )
        for base in node.bases:
            if isinstance(base, ast.Name):
                found |= self.members(module, base.id)
        return found

    @functools.cached_property
    def text(self) -> str:
        """All of the host's own modules, to look for names that are written as strings."""
        return "\n".join(path.read_text(encoding="utf-8-sig") for path in sorted((self.root / "modules").rglob("*.py")))


@pytest.fixture(params=HOSTS)
def real(request) -> Host:
    folder = os.environ.get(f"IMAGEREWARD_HOST_{request.param}")
    if not folder:
        pytest.skip(f"no IMAGEREWARD_HOST_{request.param}: the source tree of that host")
    root = Path(folder)
    assert (root / "modules" / "processing.py").is_file(), f"{folder} holds no modules/processing.py"
    return Host(root)


def parameters(node: ast.AST | None) -> list[str]:
    """Parameter names of a def, or of a class's __init__ (without self)."""
    if isinstance(node, ast.ClassDef):
        init = [child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__"]
        if init:
            return parameters(init[0])[1:]
        return [c.target.id for c in node.body if isinstance(c, ast.AnnAssign) and isinstance(c.target, ast.Name)]
    assert isinstance(node, ast.FunctionDef), node
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return names + (["**"] if node.args.kwarg else [])


def inherited(real: Host, module: str, node: ast.AST) -> list[str]:
    """Fields that a dataclass without an __init__ of its own has from its bases in the same host."""
    found: list[str] = []
    if isinstance(node, ast.ClassDef) and not any(getattr(child, "name", "") == "__init__" for child in node.body):
        for base in node.bases:
            above = real.definition(f"modules.{module}", base.id) if isinstance(base, ast.Name) else None
            if isinstance(above, ast.ClassDef):
                found += [*inherited(real, module, above), *parameters(above)]
    return found


# --- our side -------------------------------------------------------------------------------------


@dataclass
class Touched:
    """What the extension touches of the host, each with the place where it does. Names are (module, attribute)."""

    names: dict[tuple[str, str], str] = field(default_factory=dict)
    optional: dict[tuple[str, str], str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    job: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, str, int, tuple[str, ...], str]] = field(default_factory=list)


class Reader(ast.NodeVisitor):
    """Follows names bound to the host's modules through one function, or the top level of one file."""

    def __init__(self, path: Path, touched: Touched):
        self.path, self.touched = path, touched
        self.bound: dict[str, str] = {}

    def dotted(self, node: ast.AST) -> str | None:
        """ "shared.opts.grid_save" for an expression that starts at one of the host's modules."""
        if isinstance(node, ast.Name):
            return self.bound.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return None if base is None else f"{base}.{node.attr}"
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "module" and not self.dotted(node.func) and self.path.name != "core.py":
                return str(node.args[0].value)
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "modules":
            for alias in node.names:
                self.bound[alias.asname or alias.name] = alias.name

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts))
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    found = self.dotted(value)
                    self.bound.pop(name.id, None)
                    if found is not None:
                        self.bound[name.id] = found

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = dict(self.bound)
        for argument in node.args.args:
            self.bound.pop(argument.arg, None)
        self.generic_visit(node)
        self.bound = before

    def visit_Attribute(self, node: ast.Attribute) -> None:
        place = f"{self.path.relative_to(EXTENSION)}:{node.lineno}"
        if isinstance(node.value, ast.Name) and node.value.id == "p" and not node.attr.startswith(OURS):
            self.touched.job.setdefault(node.attr, place)
        if found := self.dotted(node):
            self.note(found, place, self.touched.names)
        self.generic_visit(node)

    def note(self, found: str, place: str, names: dict[tuple[str, str], str]) -> None:
        module, attribute, *below = found.split(".")
        names.setdefault((module, attribute), place)
        if below and (module, attribute) == ("shared", "opts"):
            self.touched.options.setdefault(below[0], place)
        if below and (module, attribute) == ("shared", "state"):
            self.touched.state.setdefault(below[0], place)

    def visit_Call(self, node: ast.Call) -> None:
        place = f"{self.path.relative_to(EXTENSION)}:{node.lineno}"
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method == "_set" and isinstance(node.args[1], ast.Constant):  # the job's own way to set what it puts back
            self.touched.job.setdefault(node.args[1].value, place)
        if called in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant):
            base = self.dotted(node.args[0])
            if base is not None:
                self.note(f"{base}.{node.args[1].value}", place, self.touched.optional)
        found = self.dotted(node.func)
        if found and found.count(".") == 1 and not any(isinstance(argument, ast.Starred) for argument in node.args):
            module, name = found.split(".")
            keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
            self.touched.calls.append((module, name, len(node.args), keywords, place))
        self.generic_visit(node)


@functools.cache
def touched() -> Touched:
    found = Touched()
    for path in sorted(WEBUI.rglob("*.py")):
        Reader(path, found).visit(parsed(path))
    return found


def test_the_reader_sees_what_we_touch():
    """Held without any host: a reader that sees nothing would make all that follows pass."""
    seen = touched()
    assert {("shared", "opts"), ("call_queue", "queue_lock"), ("images", "save_image"), ("scripts", "Script")} <= set(
        seen.names
    )
    assert {"grid_save", "return_grid", "enable_pnginfo", "grid_format"} <= set(seen.options)
    assert {"textinfo", "interrupted", "skipped", "job_timestamp"} <= set(seen.state)
    assert {"iteration", "batch_index", "prompts", "do_not_save_grid", "extra_generation_params"} <= set(seen.job)
    assert ("devices", "get_device_for") in seen.optional
    calls = {(module, name): (count, keywords) for module, name, count, keywords, _ in seen.calls}
    assert calls["processing", "create_infotext"] == (4, ("use_main_prompt", "index", "all_negative_prompts"))
    assert calls["images", "save_image"][0] == 6 and "short_filename" in calls["images", "save_image"][1]


# --- do they fit ----------------------------------------------------------------------------------


def test_every_name_we_touch_is_there(real):
    missing = [
        f"{place}: modules.{module} has no {name}"
        for (module, name), place in touched().names.items()
        if name not in real.names(f"modules.{module}")
        and not ((module, name) in ONLY_A1111 and (real.root / "modules_forge").is_dir())
    ]
    assert missing == []


def test_every_setting_we_read_is_there(real):
    missing = [
        f"{place}: opts has no {name}"
        for name, place in touched().options.items()
        if f'"{name}"' not in real.text
        and name not in real.members("modules.options", "Options")
        and not (name in ONLY_FORGE and not (real.root / "modules_forge" / "main_entry.py").is_file())
    ]
    assert missing == []


def test_the_state_and_the_job_have_what_we_use(real):
    state = real.members("modules.shared_state", "State")
    # what the X/Y/Z script puts there itself
    assert [name for name in touched().state if name not in state and not name.startswith("xyz_plot_")] == []
    known = {node.attr for node in ast.walk(parsed(real.file("modules.processing"))) if isinstance(node, ast.Attribute)}
    for name in ("StableDiffusionProcessing", "StableDiffusionProcessingTxt2Img", "StableDiffusionProcessingImg2Img"):
        known |= real.members("modules.processing", name)
    assert [f"{place}: p has no {name}" for name, place in touched().job.items() if name not in known] == []


def test_our_calls_fit_the_hosts_signatures(real):
    wrong = []
    for module, name, count, keywords, place in touched().calls:
        node = real.definition(f"modules.{module}", name)
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        known = [*inherited(real, module, node), *parameters(node)]
        unknown = [keyword for keyword in keywords if keyword not in known and "**" not in known]
        if unknown or count > len(known):
            wrong.append(f"{place}: {name}({', '.join(known)}) is called with {count} and {', '.join(unknown)}")
    assert wrong == []


def test_names_asked_for_with_a_default_exist_on_some_host():
    """A name that no host has is a feature that works nowhere."""
    roots = [Path(os.environ[f"IMAGEREWARD_HOST_{name}"]) for name in HOSTS if f"IMAGEREWARD_HOST_{name}" in os.environ]
    if len(roots) < len(HOSTS):
        pytest.skip("needs the trees of all hosts")
    nowhere = []
    for (module, name), place in touched().optional.items():
        hosts = [Host(root) for root in roots]
        if not any(name in host.names(f"modules.{module}") for host in hosts):
            nowhere.append(f"{place}: no host's modules.{module} has {name}")
    assert nowhere == []


# --- what the stand-in claims -----------------------------------------------------------------------


def order_of_hooks(real: Host) -> list[str]:
    """The hooks of always-on scripts in the order of their first calls in a job."""
    order: list[str] = []
    functions = real.names("modules.processing")
    for name in ("process_images", "process_images_inner"):
        calls = [
            (node.lineno, node.func.attr)
            for node in ast.walk(functions[name])
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func.value) == "p.scripts"
        ]
        order += [hook for _, hook in sorted(calls)]
    return [hook for hook in dict.fromkeys(order) if hook in runner.HOOKS]


def test_the_order_of_the_hooks(real):
    assert order_of_hooks(real) == list(runner.HOOKS)


def test_scripts_have_these_hooks_and_are_called_with_what_the_stand_in_gives(real):
    script = real.definition("modules.scripts", "Script")
    methods = {node.name: node for node in script.body if isinstance(node, ast.FunctionDef)}
    for hook in runner.HOOKS:
        second = parameters(methods[hook])[2:3] if hook.startswith("postprocess") else []
        assert parameters(methods[hook])[:2] == ["self", "p"]
        assert second in ([], ["pp"], ["processed"]), (hook, second)
        assert methods[hook].args.vararg is not None, f"{hook} takes no *args"
    members = real.members("modules.scripts", "Script")
    claimed = {name for name in vars(runner.Script) if not name.startswith("_")}
    assert claimed - members == set()


def names_of(function: object) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, given in inspect.signature(function).parameters.items() if given.kind in kinds]


def test_functions_of_the_stand_in_take_what_the_hosts_take(real):
    fake = images.build(None)
    for name in ("save_image", "image_grid", "read_info_from_image", "get_font"):
        assert set(names_of(fake[name])) <= set(parameters(real.definition("modules.images", name))), name
    grid = parameters(real.definition("modules.script_callbacks", "ImageGridLoopParams"))
    assert names_of(images.GridParams) == grid == ["imgs", "cols", "rows"]
    saved = parameters(real.definition("modules.script_callbacks", "ImageSaveParams"))
    assert names_of(images.SaveParams) == saved == ["image", "p", "filename", "pnginfo"]
    result = parameters(real.definition("modules.processing", "Processed"))
    fields = names_of(processing.Processed)
    assert fields[0] == result[0] == "p" and result[1] == "images_list" and set(fields) <= set(result)
    assert parameters(real.definition("modules.scripts", "PostprocessImageArgs"))[0] == "image"
    assert parameters(real.definition("modules.scripts", "PostprocessBatchListArgs"))[0] == "images"


def test_the_stand_ins_result_has_what_the_hosts_has(real):
    claimed = {"images", "infotexts", "index_of_first_image", "all_prompts", "all_seeds", "comments", "js"}
    claimed |= {"all_negative_prompts", "all_subseeds", "extra_generation_params", "info", "prompt", "seed", "subseed"}
    assert claimed - real.members("modules.processing", "Processed") == set()


def test_callbacks_exist(real):
    ours = {name for name in runner.Callbacks.NAMES if name.startswith("on_")}
    assert ours - set(real.names("modules.script_callbacks")) == set()


def test_default_settings_of_the_stand_in_exist(real):
    missing = [name for name in Options().data if f'"{name}"' not in real.text]
    assert [name for name in missing if name != "stealth_pnginfo_option"] == []  # Forge's and reForge's


def statements_with(function: ast.AST, text: str) -> list[int]:
    return sorted(
        node.lineno
        for node in ast.walk(function)
        if isinstance(node, ast.stmt) and text in ast.unparse(node).split("\n")[0]
    )


def call_name(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_the_order_inside_a_batch(real):
    """The decision to save falls once per batch, before any image; the infotext is built for the file and once more."""
    inner = real.names("modules.processing")["process_images_inner"]
    (decision,) = statements_with(inner, "save_samples = p.save_samples(")
    (index,) = statements_with(inner, "p.batch_index = i")
    (second,) = statements_with(inner, "text = infotext(i)")
    calls = [node for node in ast.walk(inner) if isinstance(node, ast.Call)]
    lines = {name: sorted(n.lineno for n in calls if ast.unparse(n.func) == name) for name in map(call_name, calls)}
    (hook,) = lines["p.scripts.postprocess_image_after_composite"]
    saved = min(line for line in lines["images.save_image"] if line > hook)
    (grid,), (last,) = lines["images.image_grid"], lines["p.scripts.postprocess"]
    assert decision < index < hook < saved < second < grid < last


def test_callables_in_the_infotext_get_what_the_stand_in_passes(real):
    function = real.names("modules.processing")["create_infotext"]
    source = ast.unparse(function)
    assert "callable(value)" in source and "**locals()" in source
    assert {"p", "index", "use_main_prompt"} <= set(parameters(function))


def test_wrapper_scripts_are_as_the_sessions_tests_have_them(real):
    """They are known by their files, and the plot by what its module is made of."""
    for name in ("prompts_from_file", "prompt_matrix", "loopback", "xyz_grid"):
        assert (real.root / "scripts" / f"{name}.py").is_file()
    plot = real.names("scripts.xyz_grid")
    assert {"axis_options", "AxisOption"} <= set(plot)
    assert any("process_images" in ast.unparse(node) for node in plot.values() if isinstance(node, ast.ImportFrom))
    assert {"label", "type", "apply", "confirm", "choices"} <= set(parameters(plot["AxisOption"]))
    text = (real.root / "scripts" / "xyz_grid.py").read_text(encoding="utf-8-sig")
    for letter in "xyz":
        assert f"state.xyz_plot_{letter} = AxisInfo({letter}_opt" in text and f"{letter}_opt.apply(pc, " in text
    assert "res = process_images(pc)" in text


def test_send_to_buttons_compare_names_and_paste_calls_what_can_be_called(real):
    text = real.file("modules.infotext_utils").read_text(encoding="utf-8-sig")
    assert "if name in paste_field_names" in text.replace("paste_names", "paste_field_names")
    assert "callable(key)" in text
