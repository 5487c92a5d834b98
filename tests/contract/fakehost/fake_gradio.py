"""Recording stand-in for gradio: components remember what they were built with; events remember their functions."""

from __future__ import annotations

import types
from typing import Any


class Component:
    """Any component: `value`, `label` and the rest as given; usable as a context manager; events can be fired."""

    def __init__(self, value: Any = None, **kwargs: Any):
        self.value, self.kwargs = value, kwargs
        self.label = kwargs.get("label")
        self.elem_id = kwargs.get("elem_id")
        self.events: list[tuple[str, Any]] = []
        CREATED.append(self)

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def _listen(self, event: str) -> Any:
        def listen(fn: Any = None, inputs: Any = None, outputs: Any = None, **_: Any) -> Component:
            self.events.append((event, fn))
            return self

        return listen

    def __getattr__(self, name: str) -> Any:
        if name in ("click", "change", "input", "select", "submit", "blur", "upload", "then"):
            return self._listen(name)
        raise AttributeError(name)


CREATED: list[Component] = []


def module() -> types.ModuleType:
    """A fresh `gradio` module."""
    fake = types.ModuleType("gradio")
    fake.__version__ = "4.40.0"
    CREATED.clear()
    for name in (
        "Blocks",
        "Row",
        "Column",
        "Group",
        "Accordion",
        "Checkbox",
        "Number",
        "Dropdown",
        "Button",
        "HTML",
        "Markdown",
        "Textbox",
        "Slider",
        "ColorPicker",
        "Radio",
        "UploadButton",
        "Gallery",
        "InputAccordion",
    ):
        setattr(fake, name, type(name, (Component,), {}))
    fake.update = lambda **kwargs: {"__type__": "update", **kwargs}
    fake.CREATED = CREATED
    return fake
