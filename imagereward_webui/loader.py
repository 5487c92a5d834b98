"""Loads our packages from beside the extension, whatever else the process holds under their names.

Run by path from scripts/image_reward.py, before any package of ours exists: it must import nothing but the standard
library.
"""

import hashlib
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

LOG = logging.getLogger("imagereward")


def load_packages(root: Path) -> tuple[ModuleType, ModuleType]:
    """(core, webui). Unchanged packages are kept, so that a loaded model survives Reload UI; changed ones are loaded
    anew.
    """
    core, core_is_new = _load(root / "imagereward_core")
    old = sys.modules.get(_name(root / "imagereward_webui"))
    if core_is_new and old is not None:
        _forget(old.__name__)  # it holds classes of the core that is gone
    webui, _ = _load(root / "imagereward_webui")
    vars(webui)["CORE_NAME"] = core.__name__
    return core, webui


def _name(folder: Path) -> str:
    """The package's own name; an alias when another copy of it is in use (a second clone, a pip install)."""
    found = sys.modules.get(folder.name)
    if found is None or _is_from(found, folder):
        return folder.name
    alias = f"{folder.name}_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    LOG.warning(
        "%s is in use by %s; the one in %s is loaded as %s",
        folder.name,
        getattr(found, "__file__", None),
        folder,
        alias,
    )
    return alias


def _is_from(module: ModuleType, folder: Path) -> bool:
    return bool(module.__file__) and Path(str(module.__file__)).resolve().parent == folder


def _load(folder: Path) -> tuple[ModuleType, bool]:
    name = _name(folder)
    stamp = _stamp(folder)
    found = sys.modules.get(name)
    if (
        found is not None and getattr(found, "STAMP", stamp) == stamp
    ):  # no stamp: imported before us, and ours all the same
        vars(found)["STAMP"] = stamp
        return found, False
    if found is not None:
        _forget(name)
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no Python package")
    module = importlib.util.module_from_spec(spec)
    vars(module)["STAMP"] = stamp
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module, True


def _stamp(folder: Path) -> str:
    """What tells one state of the package's files from another: names, times and sizes. A file that went, or an older
    one that came back (an archive unpacked over it), is a change too.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        status = path.stat()
        digest.update(f"{path.relative_to(folder).as_posix()} {status.st_mtime_ns} {status.st_size}\n".encode())
    return digest.hexdigest()


def _forget(name: str) -> None:
    """Drop a package of ours, after freeing the model that it holds, and the library."""
    lifecycle = sys.modules.get(f"{name}.lifecycle")
    if lifecycle is not None:
        lifecycle.holder.unload()
    remember = sys.modules.get(f"{name}.remember")
    if remember is not None:
        remember.memory.close()
    for key in [key for key in sys.modules if key == name or key.startswith(name + ".")]:
        del sys.modules[key]
