"""Where results go: a line each while they come, so that a killed run loses at most its last batch.

The lines are JSON. A CSV or Parquet file is made of them at the end, in place of the `.partial.jsonl` beside it. Lines
stand in the manifest's order, which is how a run that goes on knows what is done: it compares ids and holds none.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .. import atomic
from ..errors import ConfigError
from ..locks import lock_for
from ..parquet import pyarrow
from ..printable import csv_cell
from .rows import Row
from .scoring import Scored

FORMS = (".jsonl", ".csv", ".parquet")
COLUMNS = ("id", "file", "prompt", "score", "error", "model")
TOGETHER = 5000  # rows of one group of a Parquet file
BLOCK = 1 << 16


def form_of(target: str | os.PathLike[str]) -> str:
    """The form of an output by its name. Raises ConfigError."""
    ending = Path(target).suffix.lower()
    if ending not in FORMS:
        raise ConfigError(f"{os.fspath(target)} should end in {', '.join(FORMS)}: results are written as they come")
    if ending == ".parquet":
        pyarrow("a Parquet output")  # said before hours of scoring
    return ending


class Results:
    """The results of process `rank` of `count`, which takes every `count`-th row of the manifest.

    `with Results(...) as results:` then `rows(all)` are the rows that this process has still to score, `add` keeps a
    result, `finish` makes the output once all processes are done. Raises ConfigError where the output exists and
    `resume` is False, and where it belongs to another manifest or model.
    """

    def __init__(
        self, target: str | os.PathLike[str], model: str, *, resume: bool = False, rank: int = 0, count: int = 1
    ):
        self.target, self.model, self.rank, self.count = Path(target), model, rank, count
        self.form = form_of(target)
        self.done = 0  # results that an earlier run had written
        self.failed = 0
        self._file: IO[str] | None = None
        self._complete = self.part(rank).exists()
        self._partial = self._partial_of(rank)
        if not resume and (self.target.exists() or self._partial.exists() or self._complete):
            found = next(path for path in (self.target, self._partial, self.part(rank)) if path.exists())
            raise ConfigError(f"{found} exists: --resume goes on with it, or remove it, or name another output")

    def part(self, rank: int) -> Path:
        """Where a process of several leaves its share when it has scored all of it."""
        return self.target.with_name(f"{self.target.name}.part-{rank}-of-{self.count}.jsonl")

    def _partial_of(self, rank: int) -> Path:
        if self.count > 1:
            return self.target.with_name(f"{self.target.name}.partial-{rank}-of-{self.count}.jsonl")
        return self.target if self.form == ".jsonl" else self.target.with_name(f"{self.target.name}.partial.jsonl")

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def rows(self, every: Iterator[Row]) -> Iterator[Row]:
        """The rows that are still to be scored, of all rows of the manifest."""
        mine = itertools.islice(every, self.rank, None, self.count)
        if self._complete or (self.target.exists() and self._partial != self.target):
            self._complete = True
            return
        if self._partial.exists():
            _cut_torn_line(self._partial)
            for line in _records(self._partial):
                self._check(line, next(mine, None))
                self.done += 1
                self.failed += bool(line.get("error"))
        self._file = open(self._partial, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - __exit__ closes it
        yield from mine

    def _check(self, line: dict[str, Any], row: Row | None) -> None:
        if row is None or line.get("id") != row.id:
            there = "has no further row" if row is None else f"has the id {row.id!r}"
            raise ConfigError(
                f"{self._partial} holds results of another manifest: result {self.done + 1} is of {line.get('id')!r},"
                f" the manifest {there} there. Name another output, or remove it"
            )
        if line.get("model") != self.model:
            raise ConfigError(
                f"{self._partial} holds scores of {line.get('model')}, now {self.model} scores: name another output"
            )

    def add(self, scored: Scored) -> None:
        """Keep a result; on disk after the next `flush`."""
        assert self._file is not None
        self.failed += bool(scored.error)
        self._file.write(json.dumps(record(scored, self.model), ensure_ascii=False, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Hand the results over to the operating system: they survive the process from here on."""
        if self._file is not None:
            self._file.flush()

    def finish(self) -> bool:
        """All rows of this process are scored: the output is made, or False if other processes are still at work."""
        self.__exit__()
        if self.count > 1 and not self._complete:
            atomic.replace(self._partial, self.part(self.rank))
        if self.count == 1:
            if self.form != ".jsonl" and self._partial.exists():
                self._convert(_records(self._partial))
                self._partial.unlink()
            return True
        with lock_for(self.target):
            parts = [self.part(rank) for rank in range(self.count)]
            if not self.target.exists():
                if not all(path.exists() for path in parts):
                    return False
                self._convert(_in_turns([_records(path) for path in parts]))
            for path in parts:
                path.unlink(missing_ok=True)
        return True

    def _convert(self, records: Iterator[dict[str, Any]]) -> None:
        with atomic.replacing(self.target) as path:
            {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[self.form](path, records)


def record(scored: Scored, model: str) -> dict[str, Any]:
    """A result as a line holds it."""
    row = scored.row
    file = row.file.encode("utf-8", "backslashreplace").decode("utf-8")
    values = (row.id, file, scored.prompt, scored.score, scored.error, model)
    return dict(zip(COLUMNS, values))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                found = json.loads(line)
            except ValueError as error:
                raise ConfigError(
                    f"{path}, line {number} is no result: {error}; remove the file to begin anew"
                ) from error
            if not isinstance(found, dict):
                raise ConfigError(f"{path}, line {number} is no result; remove the file to begin anew")
            yield found


def _cut_torn_line(path: Path) -> None:
    """Take off what a killed writer left of a last line."""
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                file.truncate(start + found + 1)
                return
            end = start
        file.truncate(0)


def _in_turns(parts: list[Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The shares of all processes in the manifest's order. ConfigError if one lacks rows."""
    ended = 0
    for number, found in enumerate(itertools.chain.from_iterable(itertools.zip_longest(*parts))):
        if found is None:
            ended += 1
        elif ended:
            raise ConfigError(f"a share of the results lacks the row before {found.get('id')!r} (number {number + 1})")
        else:
            yield found


def _jsonl(path: Path, records: Iterator[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for found in records:
            file.write(json.dumps(found, ensure_ascii=False) + "\n")


def _csv(path: Path, records: Iterator[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in found.items()} for found in records)


def _parquet(path: Path, records: Iterator[dict[str, Any]]) -> None:
    arrow, parquet = pyarrow("a Parquet output")
    kinds = {"score": arrow.float64()}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(records, TOGETHER)):
            writer.write_table(arrow.Table.from_pylist(group, schema))
