"""Names of transformers in single files → diffusers' names, by rules: a tensor keeps the end of its name, goes to one
place or is cut into several, and may have its halves exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUMBER = "N"


@dataclass(frozen=True)
class Rule:
    """place: a module's name in the file, in which N stands for a block's number. names: diffusers' modules, among
    which the rows are shared out evenly; rest: the first ones get `width` each and the last the rest; head: the first
    gets `width`, the others the rest evenly. swapped: the file has shift before scale, diffusers scale before shift.
    """

    place: str
    names: tuple[str, ...]
    rest: bool = False
    head: bool = False
    swapped: bool = False

    def number(self, module: str) -> str | None:
        """The number of the block that this module is in, "" where the place has none; None for other modules."""
        theirs, ours = module.split("."), self.place.split(".")
        if len(theirs) != len(ours):
            return None
        found = ""
        for part, wanted in zip(theirs, ours):
            if wanted == NUMBER and part.isdigit():
                found = part
            elif part != wanted:
                return None
        return found


def rule(place: str, *names: str, rest: bool = False, head: bool = False, swapped: bool = False) -> Rule:
    """A rule from its parts."""
    return Rule(place, names, rest, head, swapped)


def filled(name: str, number: str) -> str:
    """A name with the block's number in it."""
    return ".".join(number if part == NUMBER else part for part in name.split("."))


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule], width: int) -> dict[str, Tensor]:
    """The tensors under diffusers' names; one that no rule fits keeps its own. width: of the network, for `rest`."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, kind = key.rpartition(".")
        numbers = ((each, each.number(module or key)) for each in rules)
        each, number = next((found for found in numbers if found[1] is not None), (None, None))
        if each is None or number is None:
            result[key] = tensor
            continue
        kind = "weight" if kind == "scale" else kind
        for name, piece in zip(each.names, _pieces(tensor, each, width)):
            place = filled(name, number)
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
        for number in map(str, blocks if NUMBER in each.place.split(".") else [0]):
            parts = [filled(name, number) for name in each.names]
            if present.intersection(parts):
                yield filled(each.place, number), parts


def count(state: Mapping[str, Tensor], blocks: str) -> int:
    """How many blocks of that name there are. ValueError for none."""
    numbers = [int(match[1]) for key in state if (match := re.match(rf"{re.escape(blocks)}\.(\d+)\.", key))]
    if not numbers:
        raise ValueError(f"it has no {blocks}")
    return 1 + max(numbers)
