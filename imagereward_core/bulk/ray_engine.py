"""Scoring by Ray Data: many machines, or many GPUs of one, with retries; results are a folder of Parquet files.

Never in a WebUI's environment: Ray brings pandas and pyarrow in versions of its own. docs/scale.md says when it pays.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from ..log import logger
from ..parquet import pyarrow
from .results import COLUMNS, record
from .rows import IDS, IMAGES, Row, row_of
from .scoring import score_rows

if TYPE_CHECKING:
    from ..scorers.base import Scorer

READERS = {".parquet": "read_parquet", ".jsonl": "read_json", ".csv": "read_csv"}
RETRIES = 2  # of an actor and of a batch: a picture that kills its process must not do so for ever
TOGETHER = 4096
STORE = 1 << 30  # bytes of a local cluster's object store


def ray_data() -> Any:
    """The module ray. A cluster that we start ourselves listens on this machine alone and reports to nobody. Raises
    ConfigError where Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the one switch by which Ray binds 127.0.0.1 alone
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"--engine ray needs Ray Data ({error}): `pip install 'imagereward-webui[ray]'` in an environment of its"
            " own, not in a WebUI's"
        ) from error
    return ray


class Actor:
    """A process that holds the scorer and scores batches of records."""

    def __init__(self, load: Callable[[], Scorer], model: str, root: str, prompt: str | None, threads: int):
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.scorer, self.model, self.root, self.prompt = load(), model, Path(root), prompt

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        names = list(batch)
        records = [dict(zip(names, values)) for values in zip(*(list(batch[name]) for name in names))]
        rows = [_fetched(row_of(_plain(found), 0, self.root)) for found in records]
        size = max(1, self.scorer.batch_size)
        results = score_rows(rows, self.scorer, batch_size=size, workers=1, prompt=self.prompt)
        lines = [record(scored, self.model) for group in results for scored in group]
        return {name: [line[name] for line in lines] for name in COLUMNS}


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """A record as Python values; a missing text is None, not pandas' NaN."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in found.items()}
    return {name: None if value != value else value for name, value in plain.items()}  # noqa: PLR0124 - NaN


def _fetched(row: Row) -> Row:
    """An image that lies on another file system (s3://, gs://, hdfs://) is brought as bytes."""
    if row.error or "://" not in row.file:
        return row
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(row.file)
        with system.open_input_stream(path) as stream:
            return Row(row.id, stream.read(), row.prompt)
    except Exception as error:  # noqa: BLE001 - whatever a file system raises is this row's error
        return Row(row.id, row.image, row.prompt, f"cannot read {row.file}: {type(error).__name__}: {error}")


def score_with_ray(
    manifest: str,
    out: str | os.PathLike[str],
    load: Callable[[], Scorer],
    model: str,
    *,
    batch_size: int = 8,
    actors: int = 0,
    gpus: float = 0,
    prompt: str | None = None,
    resume: bool = False,
    together: int = TOGETHER,
) -> tuple[int, int]:
    """(rows in the output, rows with an error). Every id of the manifest is there exactly once, or DataError says how
    many are missing. A row needs an id, or a path that is one.

    load: makes the scorer, picklable. actors: how many hold one (0: one a CPU, or a GPU). together: rows of one file of
    results, which is what the retry of a killed actor and a resumed run do again. Runs on the cluster that RAY_ADDRESS
    names, else on this machine.
    """
    ray = ray_data()
    suffix = Path(manifest).suffix.lower()
    if suffix not in READERS:
        raise ConfigError(f"--engine ray reads {', '.join(READERS)}, not {manifest}")
    folder = Path(out)
    if not resume and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: --resume goes on with it, or name another output")
    folder.mkdir(parents=True, exist_ok=True)
    done = written(folder)
    _start(ray, actors)
    try:
        rows = getattr(ray.data, READERS[suffix])(manifest)
        wanted = _identified(rows, manifest)
        left = wanted.filter(_NotIn(ray.put(frozenset(done)))) if done else wanted
        count = actors or max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 2)) - (0 if gpus else 1))
        threads = 0 if gpus else 1
        left.repartition(target_num_rows_per_block=together).map_batches(
            Actor,
            fn_constructor_args=(load, model, os.path.dirname(os.path.abspath(manifest)), prompt, threads),
            batch_size=batch_size,
            batch_format="pandas",
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=0 if gpus else 1,
            num_gpus=gpus or None,
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        ).write_parquet(os.path.abspath(folder))
        total = wanted.count()
    except ray.exceptions.RayError as error:
        raise DataError(f"Ray gave up: {error}; what is written stays, --resume goes on") from error
    finally:
        ray.shutdown()
    found = written(folder)
    if len(found) != total:
        raise DataError(f"{total - len(found)} of {total} ids are not in {folder}: --resume scores them")
    return total, sum(found.values())


def _start(ray: Any, actors: int) -> None:
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        ray.init(ignore_reinit_error=True, logging_level="WARNING")
    else:
        cpus = max(2, actors + 1) if actors else None
        options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "object_store_memory": STORE}
        ray.init(num_cpus=cpus, logging_level="WARNING", **options)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


class _NotIn:
    """Keeps records whose id is not written yet."""

    def __init__(self, done: Any):
        self.done = done
        self._ids: frozenset[str] | None = None

    def __call__(self, found: Mapping[str, Any]) -> bool:
        if self._ids is None:
            import ray

            self._ids = frozenset(ray.get(self.done))
        return identity(found) not in self._ids


def identity(found: Mapping[str, Any]) -> str:
    """The id of a record, as `row_of` gives it."""
    return row_of(_plain(found), 0, Path()).id


def _identified(rows: Any, manifest: str) -> Any:
    """The data set, if its rows have something to be called by."""
    names = {str(name).lower() for name in rows.schema().names}
    if not names & set(IDS) and not names & set(IMAGES):
        raise DataError(f"{manifest} has neither an id ({', '.join(IDS)}) nor an image ({', '.join(IMAGES)})")
    return rows


def written(folder: Path) -> dict[str, bool]:
    """id → whether it has an error, of all results in the folder. A file that a killed writer left unfinished goes: its
    rows are scored again. Raises DataError for an id that is there twice.
    """
    arrow, parquet = pyarrow("--engine ray")
    found: dict[str, bool] = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = parquet.read_table(path, columns=["id", "error"])
        except (arrow.ArrowInvalid, OSError) as error:
            logger.warning("%s is unfinished and goes (%s)", path, error)
            path.unlink()
            continue
        for name, problem in zip(table["id"].to_pylist(), table["error"].to_pylist()):
            if name in found:
                raise DataError(f"the id {name!r} is twice in {folder}: ids of a manifest must differ")
            found[name] = bool(problem)
    return found
