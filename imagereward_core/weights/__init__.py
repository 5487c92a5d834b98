"""Weights: found, downloaded, verified, converted and read, never executed.

`find` knows where they lie, `hub` and `download` bring what is missing, `checkpoint` reads a file without trusting it,
`convert` keeps a .pt as safetensors.
"""

from .checkpoint import checked, non_finite, read_state, recognise
from .convert import keep_converted
from .find import by_hand, default_root, fetch, folders, is_path, locate, missing, resolve

__all__ = [
    "by_hand",
    "checked",
    "default_root",
    "fetch",
    "folders",
    "is_path",
    "keep_converted",
    "locate",
    "missing",
    "non_finite",
    "read_state",
    "recognise",
    "resolve",
]
