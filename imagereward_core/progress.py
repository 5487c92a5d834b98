"""How long work reports itself."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

Progress = Callable[[int, "int | None"], None]  # (bytes done, bytes in total if known); may raise to cancel


class Bar:
    """A progress bar on a terminal; nothing where stderr is not one."""

    def __init__(self, label: str):
        self.label = label
        self.bar: Any = None

    def __call__(self, done: int, total: int | None) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(desc=self.label, total=total, unit="B", unit_scale=True, disable=None)
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
