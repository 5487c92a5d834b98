"""One target in one process: `python -m tests.attack.worker TARGET SEED FIRST LAST SECONDS FOLDER`.

Prints a line of JSON for each finding, and one at the end. The number of the input in work stands in FOLDER/now, so
that whoever started this knows it when the process hangs or dies.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

CPU = 5.0  # seconds of processor time that one input may take
MEMORY = 1 << 30  # bytes that the process may grow by
CEILING = 3 << 30  # bytes at which the system refuses more, to protect the machine


class Hang(BaseException):
    """More processor time than one input may take."""


def main() -> int:
    target_name, seed, first, last, seconds, folder = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from .targets import TARGETS

    place = Path(folder)
    target = TARGETS[target_name](place)
    _limit()
    base, end = _peak(), time.monotonic() + float(seconds)
    done = refused = 0
    slowest = 0.0
    for number in range(int(first), int(last)):
        if time.monotonic() > end:
            break
        data = target.make(random.Random(f"{seed} {target_name} {number}"))
        (place / "now").write_text(str(number))
        begun = time.process_time()
        found: dict[str, Any] | None = None
        try:
            signal.setitimer(signal.ITIMER_PROF, CPU + 0.5)
            target.feed(data)
        except target.answers:
            refused += 1
        except Hang:
            found = {"kind": "hang", "what": _where(sys.exc_info()[2])}
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - all that is no answer is what we look for
            found = {"kind": type(error).__name__, "what": f"{str(error)[:200]!r} {_where(error.__traceback__)}"}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        took = time.process_time() - begun
        slowest = max(slowest, took)
        if found is None and took > CPU:
            found = {"kind": "slow", "what": f"{took:.1f} s of processor time"}
        if _peak() - base > MEMORY and (found is None or found["kind"] == "slow"):  # filling it takes its time
            found = {"kind": "memory", "what": f"{(_peak() - base) >> 20} MB for one input"}
        done += 1
        if found:
            print(json.dumps({"target": target_name, "input": number, "bytes": len(data), **found}), flush=True)
        if _peak() - base > MEMORY:
            break  # the peak never falls; the rest is for a fresh process
    summary: dict[str, Any] = {"done": done, "refused": refused, "next": number + 1}
    summary.update(peak=_peak() - base, slowest=round(slowest, 2))
    print(json.dumps(summary), flush=True)
    return 0


def _where(trace: Any) -> str:
    """The innermost lines of ours."""
    frames = [frame for frame in traceback.extract_tb(trace) if re.search("imagereward|refl", frame.filename)]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))


def _limit() -> None:
    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, stop)
    if sys.platform.startswith("linux"):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (CEILING, CEILING))


def _peak() -> int:
    """Bytes that this program had resident at most. What `getrusage` tells begins with the parent's before the exec."""
    if sys.platform.startswith("linux"):
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of a client under attack may still wait for something
