"""Scripts: how the host finds, instantiates, addresses and calls them."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ALWAYS_VISIBLE = object()
HOOKS = (
    "before_process",
    "process",
    "before_process_batch",
    "process_batch",
    "postprocess_batch_list",
    "postprocess_image",
    "postprocess_image_after_composite",
    "postprocess",
)


class Script:
    """Base of all scripts. The hooks exist and do nothing."""

    section = None
    create_group = True
    alwayson = is_img2img = False
    infotext_fields = paste_field_names = None
    args_from = args_to = 0

    def title(self):
        raise NotImplementedError

    def ui(self, is_img2img):
        return []

    def show(self, is_img2img):
        return True

    def run(self, p, *args):
        raise NotImplementedError

    def elem_id(self, item):
        slug = "".join(c if c.isalnum() else "_" for c in self.title().lower())
        return f"script_{'img2img' if self.is_img2img else 'txt2img'}_{slug}_{item}"


for _hook in HOOKS:
    setattr(Script, _hook, lambda self, p, *args, **kwargs: None)


class ScriptPostprocessing:
    """Base of the Extras tab's scripts."""

    name = None
    order = 1000


def extras(host: Any) -> Any:
    """The Extras tab's function for this host: every image through every script, then saved; HTML tells of the last."""

    def run_postprocessing(mode, image, image_folder, input_dir, output_dir, show, *args, save_output=True):
        from PIL import Image

        files = sorted(Path(input_dir).iterdir()) if mode == 2 else [Path(file.name) for file in image_folder or []]
        waiting = [(Image.open(file), str(file)) for file in files] if mode else [(image, None)]
        host.state.job_count, host.state.job_no, outputs, text = len(waiting), 0, [], ""
        for picture, name in waiting:
            host.state.job_no += 1
            host.state.textinfo = name
            pp = SimpleNamespace(image=picture, info={})
            for entry in host.scripts.scripts_data:
                if issubclass(entry.script_class, ScriptPostprocessing):
                    script = entry.script_class()
                    script.process(pp, **dict(zip(script.ui(), args)))
            text = ", ".join(f"{key}: {value}" for key, value in pp.info.items())
            if save_output:
                folder = output_dir or str(host.folder / "outputs" / "extras")
                host.images.save_image(pp.image, folder, "", seed=f"{host.state.job_no:05}", info=text)
            if mode != 2 or show:
                outputs.append(pp.image)
        return outputs, f"<p>{text}</p>", ""

    return run_postprocessing


class NonReentrantLock:
    """The host's lock: taking it twice on one thread would hang a real host; here it fails at once."""

    def __init__(self) -> None:
        self._lock, self.owner = threading.Lock(), None

    def __enter__(self):
        if self.owner == threading.get_ident():
            raise RuntimeError("deadlock: queue_lock is not re-entrant")
        self._lock.acquire()
        self.owner = threading.get_ident()

    def __exit__(self, *_):
        self.owner = None
        self._lock.release()


class Callbacks:
    """The host's callback lists; cleared at every load of the UI."""

    NAMES = (
        "on_ui_settings",
        "on_before_ui",
        "on_before_image_saved",
        "on_image_saved",
        "on_image_grid",
        "on_app_started",
        "on_ui_tabs",
        "on_script_unloaded",
        "on_infotext_pasted",
        "on_after_component",
        "on_before_reload",
    )

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {name: [] for name in self.NAMES}

    def clear(self) -> None:
        for registered in self.lists.values():
            registered.clear()

    def registrars(self) -> dict[str, Any]:
        return {
            name: (lambda callback, *, name=None, _list=self.lists[name]: _list.append(callback)) for name in self.NAMES
        }

    def call(self, name: str, *args: Any) -> None:
        for callback in self.lists[name]:
            callback(*args)


def load_scripts(host: Any, extension: Path) -> list[Any]:
    """Execute scripts/*.py as loose modules: not in sys.modules, the extension on sys.path only meanwhile.

    An error in one is reported and the host goes on. Every subclass of Script in a module's namespace is taken.
    """
    found, before = [], sys.path
    for path in sorted((extension / "scripts").glob("*.py")):
        sys.path = [str(extension), *before]
        try:
            spec = importlib.util.spec_from_file_location(path.name, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found += [
                SimpleNamespace(script_class=value, module=module, path=str(path))
                for value in vars(module).values()
                if inspect.isclass(value) and issubclass(value, (Script, ScriptPostprocessing))
            ]
        except Exception:  # noqa: BLE001 - as the host does
            host.errors.append(traceback.format_exc())
        finally:
            sys.path = before
    return found


class ScriptRunner:
    """One tab's scripts: instances shared by every request."""

    def __init__(self, host: Any, loaded: list[Any], is_img2img: bool, others: tuple[type, ...] = ()):
        self.host = host
        self.scripts, self.selectable_scripts, self.alwayson_scripts = [], [], []
        self.inputs: list[Any] = [None]
        for script_class in [
            *(entry.script_class for entry in loaded if issubclass(entry.script_class, Script)),
            *others,
        ]:
            script = script_class()
            script.is_txt2img, script.is_img2img = not is_img2img, is_img2img
            visible = script.show(is_img2img)
            script.alwayson = visible is ALWAYS_VISIBLE
            if visible is ALWAYS_VISIBLE:
                self.alwayson_scripts.append(script)
            elif visible:
                self.selectable_scripts.append(script)
            if visible:
                self.scripts.append(script)
        for script in self.alwayson_scripts + self.selectable_scripts:
            components = list(script.ui(is_img2img) or [])
            script.args_from = len(self.inputs)
            self.inputs += components
            script.args_to = len(self.inputs)

    def api_arguments(self, title: str | None, args: list[Any] | None, accordion: Any) -> list[Any]:
        """As the API fills them: defaults from two more ui() calls, the selected script's by slice, the accordion's one
        by one.
        """
        values: list[Any] = [0, *[None] * (len(self.inputs) - 1)]
        for script in self.scripts:
            script.ui(script.is_img2img)
            values[script.args_from : script.args_to] = [
                component.value for component in script.ui(script.is_img2img) or []
            ]
        if title is not None:
            position, script = next(
                (i, s) for i, s in enumerate(self.selectable_scripts) if s.title().lower() == title.lower()
            )
            if args is not None:
                values[script.args_from : script.args_to] = args
            values[0] = position + 1
        if accordion is not None:
            script = next(s for s in self.alwayson_scripts if s.title() == "ImageReward")
            given = [accordion] if isinstance(accordion, dict) else accordion
            for i, value in enumerate(given[: script.args_to - script.args_from]):
                values[script.args_from + i] = value
        return values

    def run(self, p: Any) -> Any:
        index = p.script_args[0]
        if not index:
            return None
        script = self.selectable_scripts[index - 1]
        return script.run(p, *p.script_args[script.args_from : script.args_to])

    def hook(self, name: str, p: Any, *args: Any, **kwargs: Any) -> None:
        """Call a hook of every always-on script; exceptions are reported and swallowed."""
        for script in self.alwayson_scripts:
            try:
                getattr(script, name)(p, *args, *p.script_args[script.args_from : script.args_to], **kwargs)
            except Exception:  # noqa: BLE001 - as the host does
                self.host.errors.append(traceback.format_exc())
