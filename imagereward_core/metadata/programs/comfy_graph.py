"""The words behind a ComfyUI graph: from what is saved back to the sampler, and from the sampler's *positive* input
through conditioning nodes to the text.

A graph in ComfyUI's API format is {node id: {"class_type": …, "inputs": {name: value or [node id, output]}}}. Node
types are endless, so inputs are known by their names. Where the names leave a choice, nothing is guessed: words that
were never the prompt are worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..limits import DEEPEST_GRAPH

MOST_STEPS = 10_000  # nodes visited on the way to the text, one that is used twice counted twice
LONGEST_PROMPT = 1 << 20  # characters

SAMPLING = ("seed", "noise_seed", "steps", "sampler_name", "sigmas")
# What text encoders call their text. An encoder may have several; all that are filled in are read, in this order.
ENCODED = (
    "text",
    "text_g",
    "text_l",
    "t5xxl",
    "llama",
    "clip_g",
    "clip_l",
    "bert",
    "mt5xl",
    "prompt",
    "user_prompt",
    "positive_prompt",
    "text_positive",
)
SETTLED = "populated_text"  # of wildcard nodes: what the wildcards became
PIECE = re.compile(r"(?:text|string|str|prompt|value|input)(?:_positive|[_ ]?(?:[a-z]|\d+))?")
CONDITIONING = re.compile(r"(?:conditioning|cond|conds|c)(?:[_ ]?(?:to|from|a|b|\d+))?")
SEPARATORS = ("delimiter", "separator")


class Unreadable(ValueError):
    """The graph does not tell the prompt; the message says why."""


def is_graph(data: dict[str, Any]) -> bool:
    """Whether this object is a graph in ComfyUI's API format."""
    return any(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in data.values())


def positive_prompt(data: dict[str, Any]) -> str:
    """The prompt of a graph. Raises Unreadable where the graph does not tell it."""
    graph = _Graph.of(data)
    samplers = graph.samplers()
    if not samplers:
        raise Unreadable("no sampler is found in its graph")
    prompts = {_joined(graph.wanted(sampler), ", ") for sampler in samplers}
    if len(prompts) > 1:
        raise Unreadable("its graph makes pictures from several prompts, and does not tell which this one is")
    return prompts.pop()


@dataclass(frozen=True)
class _Node:
    """`kind` in lower case; `inputs` without those that are named as unwanted."""

    kind: str
    inputs: dict[str, Any]

    def is_sampler(self) -> bool:
        wanted = any(name in self.inputs for name in ("positive", "guider", "text_embeds")) or bool(self.pipes())
        return wanted and ("sampler" in self.kind or any(name in self.inputs for name in SAMPLING))

    def pipes(self) -> list[Any]:
        """Inputs that carry a whole bundle: model, conditioning, seed."""
        return [value for name, value in self.inputs.items() if "pipe" in name or "context" in name]


@dataclass
class _Graph:
    nodes: dict[str, _Node]
    steps: int = 0
    path: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, data: dict[str, Any]) -> _Graph:
        nodes = {}
        for number, node in data.items():
            inputs = node.get("inputs") if isinstance(node, dict) else None
            if isinstance(inputs, dict):
                nodes[str(number)] = _Node(str(node.get("class_type", "")).lower(), inputs)
        return cls(nodes)

    def link(self, value: Any) -> tuple[str, int] | None:
        """(node, output) if this input comes from another node."""
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            return None
        number, output = str(value[0]), value[1]
        return (number, output) if number in self.nodes and isinstance(output, int) else None

    def samplers(self) -> list[_Node]:
        """The samplers nearest to what is saved; those that only touch up faces give way to others."""
        found: list[_Node] = []
        retouching: list[_Node] = []
        waiting = self._outputs()
        seen = set(waiting)
        for number in waiting:  # grows while it is read
            node = self.nodes[number]
            if node.is_sampler() and "detailer" not in node.kind:
                found.append(node)
                continue
            if node.is_sampler():
                retouching.append(node)
            for value in node.inputs.values():
                link = self.link(value)
                if link and link[0] not in seen:
                    seen.add(link[0])
                    waiting.append(link[0])
        return found or retouching

    def _outputs(self) -> list[str]:
        for mark in ("save", "preview"):
            found = [number for number, node in self.nodes.items() if mark in node.kind]
            if found:
                return found
        links = [self.link(value) for node in self.nodes.values() for value in node.inputs.values()]
        used = {link[0] for link in links if link}
        return [number for number in self.nodes if number not in used]

    def wanted(self, node: _Node) -> list[str]:
        """The texts that a sampler, a guider or a bundle was given as wanted."""
        for name in ("positive", "guider", "conditioning", "cond1", "text_embeds"):
            if name in node.inputs:
                return self.conditioning(node.inputs[name])
        for pipe in node.pipes():
            return self.conditioning(pipe)
        raise Unreadable("a sampler in its graph has no positive input")

    def conditioning(self, value: Any) -> list[str]:
        """The texts behind a conditioning input."""
        if isinstance(value, str):
            return [value]
        node = self._enter(value)
        try:
            return self._conditioning(node, self.path[-1][1])
        finally:
            self.path.pop()

    def _conditioning(self, node: _Node, output: int) -> list[str]:
        if "zeroout" in node.kind:
            return []
        inputs = node.inputs
        if "positive" in inputs:
            unwanted = output == 1 and self.link(inputs["positive"]) and self.link(inputs.get("negative"))
            if unwanted:
                raise Unreadable("a sampler's positive input is joined to what is not wanted")
            return self.conditioning(inputs["positive"])
        if "guider" in inputs or "text_embeds" in inputs:
            return self.wanted(node)
        names = [SETTLED] if SETTLED in inputs else [name for name in ENCODED if name in inputs]
        if names:
            return [_joined((self.text(inputs[name]) for name in names), ", ")]
        linked = [value for name, value in inputs.items() if self.link(value) and CONDITIONING.fullmatch(name)]
        if linked:
            return [text for value in linked for text in self.conditioning(value)]
        return self.conditioning(node.pipes()[0] if node.pipes() else self._only_link(node))

    def text(self, value: Any) -> str:
        """The text behind a text input."""
        if isinstance(value, str):
            return value
        node = self._enter(value)
        try:
            return self._text(node, self.path[-1][1])
        finally:
            self.path.pop()

    def _text(self, node: _Node, output: int) -> str:
        inputs = node.inputs
        if SETTLED in inputs:
            return self.text(inputs[SETTLED])
        if output == 1 and any("neg" in name for name in inputs):
            raise Unreadable("a sampler's positive input is joined to what is not wanted")
        pieces = [
            piece
            for name, piece in inputs.items()
            if PIECE.fullmatch(name) and (isinstance(piece, str) or self.link(piece))
        ]
        if not pieces and isinstance(inputs.get("positive"), str):
            pieces = [inputs["positive"]]
        if not pieces:
            return self.text(self._only_link(node))
        between = next((inputs[name] for name in SEPARATORS if isinstance(inputs.get(name), str)), " ")
        return _joined((self.text(piece) for piece in pieces), between.replace("\\n", "\n"))

    def _only_link(self, node: _Node) -> Any:
        """What a node without a telling name passes on: its one input that is joined to another node."""
        links = [value for name, value in node.inputs.items() if self.link(value) and "neg" not in name]
        if len(links) != 1:
            raise Unreadable(f"its graph makes the prompt with a node of type {node.kind!r}, which is not known")
        return links[0]

    def _enter(self, value: Any) -> _Node:
        link = self.link(value)
        self.steps += 1
        if link is None:
            raise Unreadable("an input in its graph leads nowhere")
        if link in self.path or len(self.path) >= DEEPEST_GRAPH or self.steps > MOST_STEPS:
            raise Unreadable("its graph goes in circles, or is too large")
        self.path.append(link)
        return self.nodes[link[0]]


def _joined(texts: Iterable[str], between: str) -> str:
    """The texts that are not empty, each once."""
    kept: dict[str, None] = {}
    length = 0
    for text in texts:
        length += len(text)
        if length > LONGEST_PROMPT:
            raise Unreadable("its graph makes a prompt of more than a million characters")
        if text.strip():
            kept[text.strip()] = None
    return between.join(kept)
