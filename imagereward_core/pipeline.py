"""Reading ahead: workers decode and resize while the network runs.

Pillow decodes and resizes outside Python's lock, so threads share the cores; docs/scale.md has the measured shares.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use: containers and `taskset` allow it fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Windows, macOS
        return os.cpu_count() or 1


def ahead(
    items: Iterable[Item], work: Callable[[Item], Result], *, workers: int = 0, depth: int = 0
) -> Generator[Result, None, None]:
    """work(item) for every item, in their order, made by `workers` threads (0: one a core) up to `depth` results ahead
    of the caller (0: two for each worker), so that memory stays bounded. What `work` raises is raised at its item.

    The items are drawn by the caller's thread. Closing the iterator drops what has not begun.
    """
    workers = workers or cores()
    depth = depth or 2 * workers
    waiting: deque[Future[Result]] = deque()
    drawn = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="imagereward-ahead")
    try:
        while True:
            while len(waiting) < depth:
                try:
                    item = next(drawn)
                except StopIteration:
                    break
                waiting.append(pool.submit(work, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one perhaps shorter."""
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
