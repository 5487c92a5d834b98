"""Rows of equal shape under string keys, in one memory-mapped file that survives being killed while it is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from imagereward_core.atomic import write_json
from imagereward_core.errors import DataError


class RowStore:
    """Append-only store: `rows.bin` (the arrays), `index.jsonl` (one key per row), `manifest.json` (shape, dtype,
    meaning).

    A row counts once its index line is complete; the line is written after the row has reached the file. Whatever was
    torn by a crash is cut off at the next opening. One writer, many readers.
    """

    def __init__(self, folder: str | os.PathLike[str], shape: Iterable[int], dtype: str, meaning: dict[str, Any]):
        self.shape = tuple(int(size) for size in shape)
        self.dtype = np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        manifest = {"shape": list(self.shape), "dtype": self.dtype.name, **meaning}
        text = json.dumps(manifest, sort_keys=True)
        self.folder = Path(folder) / f"{meaning['kind']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, int] = {}
        self._index_bytes = 0
        self._map: np.memmap | None = None
        target = self.folder / "manifest.json"
        if not target.exists():
            write_json(target, dict(sorted(manifest.items())), indent=1)
        self.reload()

    def reload(self) -> None:
        """Read the index as it is on disk now."""
        self._rows, self._index_bytes, self._map = {}, 0, None
        index = self.folder / "index.jsonl"
        size = (self.folder / "rows.bin").stat().st_size if (self.folder / "rows.bin").exists() else 0
        for line in index.read_bytes().splitlines(keepends=True) if index.exists() else ():
            if not line.endswith(b"\n") or (len(self._rows) + 1) * self.row_bytes > size:
                break
            self._rows[json.loads(line)] = len(self._rows)
            self._index_bytes += len(line)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def append(self, pairs: Iterable[tuple[str, np.ndarray]]) -> None:
        """Add rows under new keys; a key that is there already is left as it is."""
        self._map = None
        with open(self.folder / "rows.bin", "ab") as rows, open(self.folder / "index.jsonl", "ab") as index:
            rows.truncate(len(self) * self.row_bytes)
            index.truncate(self._index_bytes)
            for key, array in pairs:
                if key in self._rows:
                    continue
                if array.shape != self.shape or array.dtype != self.dtype:
                    raise DataError(
                        f"a row of {self.folder.name} must be {self.dtype} {list(self.shape)}, found {array.dtype}"
                        f" {list(array.shape)}"
                    )
                rows.write(np.ascontiguousarray(array).tobytes())
                rows.flush()
                line = (json.dumps(key) + "\n").encode()
                index.write(line)
                index.flush()
                self._rows[key] = len(self._rows)
                self._index_bytes += len(line)

    def rows(self, keys: Iterable[str]) -> np.ndarray:
        """A copy of the rows under `keys`, [len(keys), *shape]. KeyError for a key that is not there."""
        places = [self._rows[key] for key in keys]
        if self._map is None:
            self._map = np.memmap(self.folder / "rows.bin", self.dtype, "r", shape=(len(self), *self.shape))
        return np.stack([self._map[place] for place in places]) if places else np.empty((0, *self.shape), self.dtype)
