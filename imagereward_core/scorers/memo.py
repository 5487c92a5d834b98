"""A prompt meets many images of one call; what the text tower makes of it is computed once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Encode = Callable[[Sequence[str]], tuple[Tensor, ...]]


class PromptMemo(threading.local):
    """Rows of tensors by prompt, for as long as `open` is entered, in this thread; at most `capacity` prompts."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.rows: dict[str, tuple[Tensor, ...]] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Inside, prompts are remembered. Weights may change between two calls, so nothing is kept beyond."""
        self.rows = {}
        try:
            yield
        finally:
            self.rows = None

    def __call__(self, prompts: Sequence[str], encode: Encode) -> tuple[Tensor, ...]:
        """What `encode(prompts)` gives; every tensor has one row per prompt."""
        if self.rows is None or torch.is_grad_enabled():
            return encode(prompts)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.rows]
        found = {prompt: self.rows[prompt] for prompt in prompts if prompt in self.rows}
        for prompt in new:  # one by one: on a CPU a batch saves nothing and pads all prompts to the longest
            found[prompt] = encode([prompt])
        for prompt in new:
            if len(self.rows) >= self.capacity:
                self.rows.pop(next(iter(self.rows)))
            self.rows[prompt] = found[prompt]
        return tuple(torch.cat(parts) for parts in zip(*(found[prompt] for prompt in prompts)))
