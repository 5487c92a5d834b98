"""The package's one named logger, and a run's log.txt. The command line decides what is shown."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("refl")
FORM = "%(asctime)s %(levelname)s %(message)s"


@contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """Within, what is logged is also appended to this file; not where standard error goes there already, as in a run
    that the WebUI has started. A file that cannot be written costs the log alone.
    """
    if _is_stderr(path):
        yield
        return
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        logger.warning("the log cannot be kept: %s", error)
        yield
        return
    handler.setFormatter(logging.Formatter(FORM))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _is_stderr(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (AttributeError, OSError, ValueError):  # no such file yet, or a stream without a descriptor
        return False
