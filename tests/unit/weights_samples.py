"""What the download tests publish and ask for."""

import io

import torch

from imagereward_core.registry import Source


def checkpoint(seed=0, size=100_000):
    buffer = io.BytesIO()
    torch.save({"w": torch.rand(size, generator=torch.Generator().manual_seed(seed))}, buffer)
    return buffer.getvalue()


CONTENT = checkpoint()  # about 400 KB, several chunks
SOURCE = Source("model.pt", repo="owner/name", about=len(CONTENT))


def files(folder):
    """What a user sees: no lock files."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
