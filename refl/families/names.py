"""Names of transformers in single files → diffusers' names, by rules: a tensor keeps the end of its name, goes to one
place or is cut into several, and may have its halves exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """pattern: the whole name of a module in the file, as a regular expression; N in it is a block's number. names:
    diffusers' modules, among which the rows are shared out evenly; rest: the first ones get `width` each and the last
    the rest; head: the first gets `width`, the others the rest evenly. swapped: the file has shift before scale,
    diffusers scale before shift.
    """

    pattern: str
    names: tuple[str, ...]
    rest: bool = False
    head: bool = False
    swapped: bool = False


def rule(pattern: str, *names: str, rest: bool = False, head: bool = False, swapped: bool = False) -> Rule:
    """A rule with dots that mean dots, and N that means a number."""
    exact = r"(\d+)".join(re.escape(part) for part in pattern.split("N"))
    return Rule(exact, names, rest, head, swapped)


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule], width: int) -> dict[str, Tensor]:
    """The tensors under diffusers' names; one that no rule fits keeps its own. width: of the network, for `rest`."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, kind = key.rpartition(".")
        found = next(((each, match) for each in rules if (match := re.fullmatch(each.pattern, module or key))), None)
        if found is None:
            result[key] = tensor
            continue
        each, match = found
        kind = "weight" if kind == "scale" else kind
        for name, piece in zip(each.names, _pieces(tensor, each, width)):
            place = name.replace("N", match[1]) if match.groups() else name
            result[f"{place}.{kind}" if module else place] = piece
    return result


def _pieces(tensor: Tensor, each: Rule, width: int) -> Sequence[Tensor]:
    if each.swapped:
        first, second = tensor.chunk(2)
        return [torch.cat((second, first))]
    if len(each.names) == 1:
        return [tensor]
    if each.rest:
        taken = width * (len(each.names) - 1)
        return tensor.split([width] * (len(each.names) - 1) + [tensor.shape[0] - taken])
    if each.head:
        others = (tensor.shape[0] - width) // (len(each.names) - 1)
        return tensor.split([width] + [others] * (len(each.names) - 1))
    return tensor.chunk(len(each.names))


def places(rules: Sequence[Rule], modules: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(name in a single file, diffusers' modules that it is made of) of all places that some modules are part of."""
    blocks = sorted({int(number) for name in modules for number in re.findall(r"\.(\d+)\.", name)})
    present = set(modules)
    for each in rules:
        plain = each.pattern.replace(r"(\d+)", "N").replace("\\", "")
        for number in blocks if "N" in plain else [0]:
            parts = [name.replace("N", str(number)) for name in each.names]
            if present.intersection(parts):
                yield plain.replace("N", str(number)), parts


def count(state: Mapping[str, Tensor], blocks: str) -> int:
    """How many blocks of that name there are. ValueError for none."""
    numbers = [int(match[1]) for key in state if (match := re.match(rf"{re.escape(blocks)}\.(\d+)\.", key))]
    if not numbers:
        raise ValueError(f"it has no {blocks}")
    return 1 + max(numbers)
