"""The end of the connection that processes of one training share."""

from __future__ import annotations


def close() -> None:
    """Close this process's connection to the others, if there is one. A program that ends with it open is now and then
    aborted by torch (exit code -6) while its threads still run, and the launcher takes a finished training for a failed
    one.
    """
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.destroy_process_group()
