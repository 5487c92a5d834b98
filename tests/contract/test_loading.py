"""The bootstrap under the host's loader: loose execution, foreign packages, changed files, broken files."""

import os
import shutil
import sys
import types

import pytest

from .fakehost import EXTENSION, FakeHost


@pytest.fixture
def clone(tmp_path):
    """A copy of the extension that tests may change, as a second clone would be."""
    target = tmp_path / "clone"
    for name in ("scripts", "imagereward_webui", "imagereward_core"):
        shutil.copytree(EXTENSION / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    before = {key: module for key, module in sys.modules.items() if key.startswith("imagereward_")}
    for key in before:  # the packages above the core too: they hold its classes, and come back together
        del sys.modules[key]
    yield target
    for key in [key for key in sys.modules if key.startswith("imagereward_")]:
        del sys.modules[key]
    sys.modules.update(before)


def titles(host):
    return [script.title() for script in host.runners["txt2img"].scripts]


def test_both_scripts_in_both_tabs(host):
    expected = ["ImageReward", "ImageReward - generate human preference scores"]
    for tab in ("txt2img", "img2img"):
        assert [script.title() for script in host.runners[tab].scripts] == expected
        assert [script.alwayson for script in host.runners[tab].scripts] == [True, False]


def test_nothing_is_left_on_sys_path(clone, tmp_path):
    """A1111 takes the extension off sys.path after the load; whatever is imported later must not need it."""
    with FakeHost(tmp_path, clone) as host:
        assert str(clone) not in sys.path
        assert host.part("lifecycle").available(tmp_path)[0] == "ImageReward-v1.0"


def test_changed_files_are_loaded_anew_and_the_model_is_freed(clone, tmp_path):
    with FakeHost(tmp_path, clone) as host:
        old = host.webui
        freed = []
        host.part("lifecycle").holder.unload = lambda: freed.append(True)
        host.load_ui()
        assert host.webui is old and freed == []
        os.utime(clone / "imagereward_webui" / "job.py", ns=(2**62, 2**62))
        host.load_ui()
        assert host.errors == [] and host.webui is not old and freed == [True]
        assert host.part("lifecycle").holder is not None


def test_a_changed_core_takes_the_webui_with_it(clone, tmp_path):
    with FakeHost(tmp_path, clone) as host:
        old = host.webui
        os.utime(clone / "imagereward_core" / "errors.py", ns=(2**62, 2**62))
        host.load_ui()
        assert host.errors == [] and host.webui is not old
        assert host.part("core").errors is sys.modules["imagereward_core.errors"]


@pytest.mark.parametrize("name", ["imagereward_core", "imagereward_webui"])
def test_a_foreign_package_of_that_name_is_left_alone(clone, tmp_path, name, caplog):
    foreign = types.ModuleType(name)
    foreign.__file__ = str(tmp_path / "elsewhere" / name / "__init__.py")
    with FakeHost(tmp_path, clone) as host:
        for key in [key for key in sys.modules if key.startswith("imagereward_")]:
            del sys.modules[key]
        sys.modules[name] = foreign
        host.load_ui()
        assert host.errors == [] and sys.modules[name] is foreign
        assert len(titles(host)) == 2 and "is loaded as " + name + "_" in caplog.text


def test_a_broken_file_is_shown_and_the_host_starts(clone, tmp_path):
    (clone / "imagereward_webui" / "job.py").write_text("raise RuntimeError('half an update')", encoding="utf-8")
    with FakeHost(tmp_path, clone) as host:
        assert host.errors == [] and titles(host) == ["ImageReward"]
        shown = [str(component.value) for component in host.gradio.CREATED]
        assert any("half an update" in text and "reinstall the extension" in text for text in shown)
        assert len(host.txt2img(seed=148).images) == 1


def test_the_api_may_build_the_ui_any_number_of_times(host):
    for script in host.runners["img2img"].scripts:
        for _ in range(3):
            components = script.ui(True)
            assert all(hasattr(component, "value") and component.label for component in components)


@pytest.mark.parametrize("package", ["imagereward_webui", "imagereward_core"])
@pytest.mark.parametrize("change", ["an older file", "a file less", "a file more"])
def test_every_change_of_the_files_is_one(clone, tmp_path, package, change):
    """Archives keep their files' times: what is unpacked over a newer copy is older than what was loaded."""
    spare = clone / package / "spare.py"
    spare.write_text("", encoding="utf-8")
    with FakeHost(tmp_path, clone) as host:
        old = host.webui
        host.load_ui()
        assert host.webui is old
        if change == "an older file":
            os.utime(spare, ns=(10**18, 10**18))
        elif change == "a file less":
            spare.unlink()
        else:
            (clone / package / "more.py").write_text("", encoding="utf-8")
            os.utime(clone / package / "more.py", ns=(10**18, 10**18))
        host.load_ui()
        assert host.errors == [] and host.webui is not old


def test_under_an_alias_everything_works_and_a_changed_core_takes_the_webui_with_it(clone, tmp_path, loader):
    """Whoever says `import imagereward_core` in the WebUI's package finds another program's here, and fails."""
    foreign = types.ModuleType("imagereward_core")
    foreign.__file__ = str(tmp_path / "elsewhere" / "imagereward_core" / "__init__.py")
    with FakeHost(tmp_path, clone) as host:
        for key in [key for key in sys.modules if key.startswith("imagereward_")]:
            del sys.modules[key]
        sys.modules["imagereward_core"] = foreign
        host.load_ui()
        host.part("lifecycle").holder._load = loader
        processed = host.txt2img(seed=160, accordion={"scorer": "CLIP"})
        assert host.errors == [] and "CLIP score: 1.0000, CLIP score model: CLIP" in processed.infotexts[0]
        assert host.part("api").schema()["scorers"][1]["key"] == "CLIP score"
        assert host.part("xyz").core_module("weights").__name__.startswith("imagereward_core_")
        core, old = host.part("core").RM, host.webui
        assert core.__name__.startswith("imagereward_core_")
        assert [key for key in sys.modules if key.startswith("imagereward_core.")] == []
        os.utime(clone / "imagereward_core" / "registry.py", ns=(2**62, 2**62))
        host.load_ui()
        assert host.errors == [] and host.webui is not old and host.part("core").RM is not core
        assert host.part("core").RM.__name__ == core.__name__
