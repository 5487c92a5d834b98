"""The end of the connection that processes of one training share."""

from __future__ import annotations

import atexit
import time

REST = 0.3  # seconds; what is waited for takes well below a millisecond, but on a machine that is busy otherwise


def close_at_exit() -> None:
    """Close this process's connection to the others when the program ends, however it ends; for who opened it to call.

    Without, a finished training is now and then aborted ("terminate called without an active exception", exit code -6),
    and the launcher takes it for a failed one: gloo's threads let go of a message's tensors a moment after the message
    has come, which needs Python's lock, and a thread that waits for the lock of an interpreter that ends is ended in
    C++ code that must not be left so.
    """
    atexit.unregister(_close)
    atexit.register(_close)


def _close() -> None:
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.destroy_process_group()
        # torch 2.13 keeps the group, and gloo's threads with it, beyond its destruction after some messages. Sleeping
        # lets go of Python's lock, so that they can finish.
        time.sleep(REST)
