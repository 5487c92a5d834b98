"""A small stand-in for the WebUI, written from what the hosts do and not from their code.

It reproduces what an extension can stumble over: scripts executed as loose modules with a restored sys.path, callbacks
cleared on every load, script instances shared by all requests, the order of the hooks, infotext built twice per image
with a batch-local index, the save decision taken once per batch, masks without infotext, the grid with the main prompt,
hires intermediates, script arguments assigned as a slice, and an API that builds every script's UI twice.

`FakeHost` installs it into sys.modules as `modules` (and a recording stand-in as `gradio`) and takes it out again.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

from . import fake_gradio, images, infotext, processing, runner

EXTENSION = Path(__file__).resolve().parents[3]


class Namespace(types.SimpleNamespace):
    """Attribute bag that can be tested for names."""

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)


class Options:
    """The settings store: defaults are registered by sections, saved values live in `data`."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.labels: dict[str, Any] = {}
        self.data.update(
            samples_save=True,
            samples_format="png",
            grid_save=True,
            return_grid=True,
            grid_format="png",
            grid_only_if_multiple=True,
            grid_extended_filename=False,
            enable_pnginfo=True,
            save_txt=False,
            return_mask=False,
            return_mask_composite=False,
            save_images_before_highres_fix=False,
            save_images_replace_action="Replace",
            save_incomplete_images=False,
            stealth_pnginfo_option="None",
        )

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("data", {}):
            return self.data[name]
        if name in self.__dict__.get("labels", {}):
            return self.labels[name].default
        raise AttributeError(name)

    def add_option(self, name: str, row: Any) -> None:
        self.labels[name] = row
        self.data.setdefault(name, row.default)


class OptionInfo:
    """One row of the settings page."""

    def __init__(self, default, label, component=None, args=None, section=None, category_id=None, **_):
        if component is None and isinstance(default, float):
            raise TypeError(f"{label}: a float needs a component of its own")
        self.default, self.label, self.component, self.args, self.section, self.category_id = (
            default,
            label,
            component,
            args,
            section,
            category_id,
        )

    def info(self, _text: str) -> OptionInfo:
        return self


class FakeHost:
    """`with FakeHost(tmp_path) as host:` loads the extension as the WebUI does; then `host.txt2img(...)`."""

    def __init__(self, folder: Path, extension: Path = EXTENSION, **cmd_opts: Any):
        self.folder, self.extension = folder, extension
        self.options = Options()
        self.state = Namespace(
            interrupted=False,
            skipped=False,
            stopping_generation=False,
            textinfo=None,
            job_timestamp="20260101000000",
            job_count=-1,
            begin=lambda job="": None,
            end=lambda: None,
        )
        self.cmd_opts = Namespace(
            **{
                "imagereward_models_path": None,
                "api_auth": None,
                "gradio_auth": None,
                "gradio_auth_path": None,
                **cmd_opts,
            }
        )
        self.errors: list[str] = []
        self.runners: dict[str, runner.ScriptRunner] = {}
        self.on_sample: list[Any] = []
        self.generated: list[dict[str, Any]] = []  # what was made without scripts
        self._saved: dict[str, Any] = {}

    # --- in and out of sys.modules ---------------------------------------------------------------------------------

    def __enter__(self) -> FakeHost:
        for key in [
            k
            for k in sys.modules
            if k.split(".")[0] in ("modules", "gradio") or k.split(".")[0].startswith("imagereward_webui")
        ]:
            self._saved[key] = sys.modules.pop(key)
        self._install()
        self.load_ui()
        return self

    def __exit__(self, *_: Any) -> None:
        for name in [name for name in sys.modules if name.endswith(".library.place")]:
            sys.modules[name].settle(None)
        for key in [
            k
            for k in sys.modules
            if k.split(".")[0] in ("modules", "gradio") or k.split(".")[0].startswith("imagereward_webui")
        ]:
            del sys.modules[key]
        sys.modules.update(self._saved)

    def _install(self) -> None:
        sys.modules["gradio"] = self.gradio = fake_gradio.module()
        root = types.ModuleType("modules")
        root.__path__ = []
        sys.modules["modules"] = root

        def add(name: str, **content: Any) -> types.ModuleType:
            module = types.ModuleType(f"modules.{name}")
            module.__dict__.update(content)
            sys.modules[f"modules.{name}"] = module
            setattr(root, name, module)
            return module

        add("shared", opts=self.options, cmd_opts=self.cmd_opts, state=self.state, OptionInfo=OptionInfo, sd_model=None)
        add("paths", models_path=str(self.folder / "models"), data_path=str(self.folder))
        add("devices", device="cpu", get_device_for=lambda task: "cpu", torch_gc=lambda: None)
        add("sd_samplers", all_samplers_map={"Euler": None, "Euler a": None}, samplers_map={"k_euler": "Euler"})
        add("call_queue", queue_lock=runner.NonReentrantLock())
        add("ui_components", InputAccordion=self.gradio.InputAccordion)
        add("ui_common", create_refresh_button=lambda component, refresh, args, elem_id: args())
        add("postprocessing", run_postprocessing=runner.extras(self))
        add("infotext_utils", parse_generation_parameters=infotext.parse)
        self.callbacks = runner.Callbacks()
        add("script_callbacks", **self.callbacks.registrars())
        add("scripts_postprocessing", ScriptPostprocessing=runner.ScriptPostprocessing)
        self.scripts = add("scripts", Script=runner.Script, AlwaysVisible=runner.ALWAYS_VISIBLE, scripts_data=[])
        self.images = add("images", **images.build(self))
        self.processing = add("processing", **processing.build(self))

    # --- loading as the host does ----------------------------------------------------------------------------------

    def load_ui(self) -> None:
        """Start or Reload UI: forget callbacks, execute scripts/*.py loosely, make one instance per tab, build the
        UI.
        """
        self.callbacks.clear()
        loaded = runner.load_scripts(self, self.extension)
        self.scripts.scripts_data[:] = loaded
        self.callbacks.call("on_before_ui")
        self.runners = {
            tab: runner.ScriptRunner(self, loaded, is_img2img=tab == "img2img") for tab in ("txt2img", "img2img")
        }
        self.callbacks.call("on_ui_settings")

    @property
    def webui(self) -> Any:
        return sys.modules["imagereward_webui"]

    def part(self, name: str) -> Any:
        return sys.modules[f"imagereward_webui.{name}"]

    # --- requests ----------------------------------------------------------------------------------------------------

    def job(
        self,
        tab: str = "txt2img",
        *,
        script: str | None = None,
        script_args: list[Any] | None = None,
        accordion: list[Any] | dict[str, Any] | None = None,
        is_api: bool = True,
        **fields: Any,
    ) -> Any:
        """A `p` as the API or the UI would build it, ready to run."""
        scripts = self.runners[tab]
        p = processing.Processing(self, is_api=is_api, **fields)
        p.scripts, p.script_args = scripts, scripts.api_arguments(script, script_args, accordion)
        return p

    def run(self, p: Any) -> Any:
        """What a tab does with `p`: the selected script first, else process_images."""
        processed = p.scripts.run(p)
        return self.processing.process_images(p) if processed is None else processed

    def txt2img(self, **kwargs: Any) -> Any:
        return self.run(self.job("txt2img", **kwargs))

    def img2img(self, **kwargs: Any) -> Any:
        return self.run(self.job("img2img", **kwargs))

    def files(self) -> list[str]:
        """Everything saved, relative to the output folder."""
        root = self.folder / "outputs"
        return (
            sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
            if root.exists()
            else []
        )
