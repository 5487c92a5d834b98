"""bitsandbytes, where it is installed, is imported without fetching anything, before others import it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def fetching_nothing() -> Iterator[None]:
    """Within, bitsandbytes may be imported. On some CPUs it fetches machine code from the hub as it is imported, where
    it finds the package kernels, and complains where not; nothing is downloaded here, so within that package cannot be
    imported.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    modules: dict[str, Any] = sys.modules  # type: ignore[assignment]
    kept = {"kernels": modules["kernels"]} if "kernels" in modules else {}
    modules["kernels"] = None
    try:
        yield
    finally:
        del modules["kernels"]
        modules.update(kept)


@functools.cache
def before_others() -> None:
    """To be called before diffusers or peft, which import bitsandbytes on their own account, whatever a run needs. One
    that cannot be imported is left to whoever needs it.
    """
    if "bitsandbytes" in sys.modules or importlib.util.find_spec("bitsandbytes") is None:
        return
    with contextlib.suppress(ImportError, RuntimeError, OSError), fetching_nothing():
        importlib.import_module("bitsandbytes")
