"""What is asked of a loader: which scorer, which file, of which sizes, where and how; and one place for shared
backbones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import registry, weights
from ..config import METADATA_KEY
from ..errors import ConfigError
from ..model.quantize import quantize_encoders
from .base import pick_device, pick_dtype

Net = TypeVar("Net", bound=nn.Module)
PathLike = str | os.PathLike[str]


class Pool:
    """Networks that several scorers share: a backbone that was loaded once for a panel is not loaded again."""

    def __init__(self) -> None:
        self.nets: dict[Hashable, nn.Module] = {}

    def get(self, key: Hashable, build: Callable[[], Net]) -> Net:
        """The network of that key, built if it is the first time."""
        if key not in self.nets:
            self.nets[key] = build()
        return self.nets[key]  # type: ignore[return-value]


@dataclass(frozen=True)
class Request:
    """One scorer to be loaded. `weights` is a file that is given, None for the registry's; `config` its sizes and
    settings.
    """

    info: registry.ModelInfo
    device: torch.device
    precision: str = "auto"
    download_root: Any = None
    models_dir: Any = None
    weights: PathLike | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool = field(default_factory=Pool)

    @property
    def int8(self) -> bool:
        """Whether the encoders are quantised once they are loaded in fp32."""
        return self.precision == "int8"

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the weights, heads aside."""
        return pick_dtype("fp32" if self.int8 else self.precision, self.device)

    def path(self, source: registry.Source | None = None) -> str:
        """The file to read: the given one, else that of `source` (the registry's first), downloaded if need be."""
        half = self.dtype is not torch.float32
        if self.weights is not None and source is None:
            return os.fspath(weights.resolve(self.weights, half=half))
        return self.located(source or self.info.sources[0])

    def located(self, source: registry.Source) -> str:
        """The file of a registry source."""
        half = self.dtype is not torch.float32
        found = weights.locate(source, download_root=self.download_root, models_dir=self.models_dir, half=half)
        return os.fspath(found)

    def backbone_path(self, source: registry.Source) -> str:
        """The backbone's file: the config's `backbone` if it names one, else the registry's."""
        given = self.config.get("backbone")
        return self.located(source) if given is None else os.fspath(weights.resolve(given))

    def read(self) -> tuple[dict[str, Tensor], Mapping[str, Any], str]:
        """(tensors, config, path) of the scorer's own file; the config that is given goes before the file's own."""
        path = self.path()
        state, metadata = weights.read_state(path)
        return state, {**stored_config(metadata), **self.config}, path

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The scorer's settings: the config's where it names them, else the registry's. Raises ConfigError."""
        return settings_of(self.info, config)

    def finish(self, net: Net, encoders: Sequence[nn.Module]) -> Net:
        """The network as it will score: with int8 encoders if that was asked for."""
        if self.int8:
            try:
                for part in encoders:
                    quantize_encoders(net, part)
            except RuntimeError as error:
                raise ConfigError(f"precision int8 is not possible here: {error}; use fp32 or bf16") from error
        return net


def requested(
    name: PathLike,
    *,
    device: Any = None,
    download_root: Any = None,
    precision: str = "auto",
    models_dir: Any = None,
    weights: PathLike | None = None,
    config: PathLike | Mapping[str, Any] | None = None,
    pool: Pool | None = None,
) -> Request:
    """The request these arguments make. Raises ModelNotFoundError, ConfigError."""
    place = pick_device(device)
    if precision == "int8" and place.type != "cpu":
        raise ConfigError(f"precision int8 is for the CPU, the device is {place}; use fp16 there")
    return Request(
        registry.get(str(name)),
        place,
        precision,
        download_root,
        models_dir,
        weights,
        read_config(config),
        Pool() if pool is None else pool,
    )


def read_config(config: PathLike | Mapping[str, Any] | None) -> dict[str, Any]:
    """A config given as a mapping or as the path of a JSON file. Raises ConfigError."""
    if config is None or isinstance(config, Mapping):
        return dict(config or {})
    try:
        found = json.loads(Path(config).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"the scorer's config {config} cannot be read: {error}; a JSON object is wanted") from error
    if not isinstance(found, dict):
        raise ConfigError(f"the scorer's config {os.fspath(config)} holds a {type(found).__name__}, not a JSON object")
    return found


def stored_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The config in a file's metadata; empty where there is none."""
    try:
        found = json.loads(metadata[METADATA_KEY])
    except (KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def settings_of(info: registry.ModelInfo, config: Mapping[str, Any]) -> dict[str, Any]:
    """What changes a scorer's numbers: the entry's defaults, overridden by the config. ConfigError for a wrong kind."""
    found = {}
    for name, default in info.settings:
        value = config.get(name, default)
        right = isinstance(value, bool) if isinstance(default, bool) else _is_number(value)
        if not right:
            wanted = "true or false" if isinstance(default, bool) else "a number"
            raise ConfigError(f"{info.name}: {name} must be {wanted}, found {value!r}")
        found[name] = value
    return found


def size(value: Any, name: str) -> int:
    """A positive whole number of a config. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a positive whole number, found {value!r}")
    return value


def section(config: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The object under the first of these names that is there; empty where none is. Raises ConfigError."""
    for name in names:
        if name in config:
            found = config[name]
            if not isinstance(found, Mapping):
                raise ConfigError(f"{name} must be a JSON object, found {found!r}")
            return found
    return {}


def without_prefix(state: Mapping[str, Tensor], anchors: Sequence[str]) -> dict[str, Tensor]:
    """The names without what wrappers put before them: the prefix is what stands before the first anchor that is
    found, and goes wherever it stands.
    """
    for anchor in anchors:
        found = next((key for key in state if key.endswith(anchor)), None)
        if found is not None:
            prefix = found[: -len(anchor)]
            if prefix and not prefix.endswith("."):
                continue
            return {key[len(prefix) :] if key.startswith(prefix) else key: value for key, value in state.items()}
    return dict(state)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
