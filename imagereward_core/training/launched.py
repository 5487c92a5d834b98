"""Whether this process is one of several, and on what they meet."""

from __future__ import annotations

import os


def on_cpu(device: str = "") -> bool:
    """Whether accelerate is to use the CPU: asked for, or several processes on a machine without an accelerator.

    accelerate itself tells the second case only by an environment variable, without which each process believes it is alone.
    """
    import torch

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    modern = getattr(torch, "accelerator", None)  # torch 2.6
    return device == "cpu" or (several and not (modern.is_available() if modern else torch.cuda.is_available()))
