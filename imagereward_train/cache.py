"""Images are decoded, resized and cropped once; a frozen backbone's features are computed once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from imagereward_core.errors import ImageError
from imagereward_core.hashing import tensors_digest
from imagereward_core.pipeline import ahead, chunks
from imagereward_core.preprocess import normalize, open_image, resize_and_crop

from .items import Item
from .store import RowStore

if TYPE_CHECKING:
    import torch

    from imagereward_core.model import RewardModel

Progress = Callable[[str, int, int, float], None]  # stage, done, total, seconds left
CHUNK = 64  # images decoded ahead of the writer


def image_key(path: str) -> str:
    """What identifies a file's content cheaply: its path, size and time of change."""
    stat = os.stat(path)
    return f"{path}|{stat.st_size}|{stat.st_mtime_ns}"


class PixelCache:
    """uint8 pixels [3, S, S] of every image after the published preprocessing, before normalisation (150 KB each at
    224).
    """

    def __init__(self, folder: str | os.PathLike[str], size: int):
        import PIL

        self.size = size
        meaning = {
            "kind": "pixels",
            "size": size,
            "preprocess": "shorter side bicubic, centre crop, RGB",
            "pillow": PIL.__version__,
        }
        self.store = RowStore(folder, (3, size, size), "uint8", meaning)
        self._keys: dict[str, str] = {}

    def build(self, paths: Iterable[str], progress: Progress | None = None, workers: int = 2) -> dict[str, str]:
        """Cache what is not cached yet; {path: why} of the files that are missing or damaged. Can be stopped and
        resumed.
        """
        bad: dict[str, str] = {}
        todo = []
        for path in dict.fromkeys(paths):
            key = self._key(path, bad)
            if key is not None and key not in self.store:
                todo.append((path, key))
        started = time.monotonic()
        done = 0
        read = ahead((path for path, _ in todo), self._read, workers=max(1, workers))
        for chunk in chunks(zip(todo, read), CHUNK):
            rows = []
            for (path, key), result in chunk:
                if isinstance(result, ImageError):
                    bad[path] = str(result)
                    del self._keys[path]
                else:
                    rows.append((key, result))
            if rows:
                self.store.append(rows)
            done += len(chunk)
            if progress:
                progress("images", done, len(todo), (time.monotonic() - started) / done * (len(todo) - done))
        return bad

    def _key(self, path: str, bad: dict[str, str]) -> str | None:
        try:
            if path not in self._keys:
                self._keys[path] = image_key(path)
            return self._keys[path]
        except OSError:
            bad[path] = f"no such image: {path}"
            return None

    def _read(self, path: str) -> np.ndarray | ImageError:
        try:
            image = resize_and_crop(open_image(path), self.size)
        except ImageError as error:
            return error
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    def key(self, path: str) -> str:
        """The key of a cached file."""
        if path not in self._keys:
            self._keys[path] = image_key(path)
        return self._keys[path]

    def pixels(self, paths: Sequence[str]) -> torch.Tensor:
        """Normalised float32 pixels [B, 3, S, S], the same bits as `preprocess.pil_to_pixels` gives."""
        import torch

        return normalize(torch.from_numpy(self.store.rows([self.key(path) for path in paths])).float().div_(255))


class FeatureCache:
    """float32 features [W] of (prompt, image) from a backbone that is not trained; what the head alone learns from."""

    def __init__(self, folder: str | os.PathLike[str], net: RewardModel, pixels: PixelCache):
        self.net, self.pixels = net, pixels
        meaning = {"kind": "features", "backbone": fingerprint(net), "pixels": pixels.store.folder.name}
        self.store = RowStore(folder, (net.config.text.width,), "float32", meaning)

    def key(self, prompt: str, path: str) -> str:
        return f"{hashlib.sha256(prompt.encode()).hexdigest()[:32]}|{self.pixels.key(path)}"

    def build(
        self, items: Sequence[Item], device: torch.device, progress: Progress | None = None, batch_size: int = 16
    ) -> None:
        """Run the frozen backbone over all (prompt, image) that are not cached yet. Can be stopped and resumed."""
        import torch

        from imagereward_core.tokenizer import tokenize

        started, done = time.monotonic(), 0
        todo = [
            (item, [path for path in dict.fromkeys(item.images) if self.key(item.prompt, path) not in self.store])
            for item in items
        ]
        todo = [(item, paths) for item, paths in todo if paths]
        total = sum(len(paths) for _, paths in todo)
        net = self.net.to(device).eval()
        for item, paths in todo:
            ids, mask = (part.to(device) for part in tokenize([item.prompt], net.config.max_tokens))
            for start in range(0, len(paths), batch_size):
                part = paths[start : start + batch_size]
                with torch.no_grad():
                    features = (
                        net.features(ids, mask, net.encode_image(self.pixels.pixels(part).to(device))).cpu().numpy()
                    )
                self.store.append([(self.key(item.prompt, path), row) for path, row in zip(part, features)])
                done += len(part)
                if progress:
                    progress("features", done, total, (time.monotonic() - started) / done * (total - done))

    def features(self, prompt: str, paths: Sequence[str]) -> torch.Tensor:
        """[B, W] of one prompt's images."""
        import torch

        return torch.from_numpy(self.store.rows([self.key(prompt, path) for path in paths]))


def fingerprint(net: RewardModel) -> str:
    """sha256 of the backbone's sizes and weights."""
    return tensors_digest(net.blip.state_dict(), start=net.config.to_json())
