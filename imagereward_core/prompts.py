"""From the prompt syntax of Stable Diffusion web UIs to the plain words a reward model was trained on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .tokenizer import check_prompt

EXTRA_NETWORK = re.compile(r"<\w+:[^<>]+>")  # <lora:name:0.8>, <hypernet:name:1>, …
TOKEN = re.compile(r"\\.|[()\[\]:|]|[^\\()\[\]:|]+|\\", re.DOTALL)
NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)\s*")
MAX_DEPTH = 64  # brackets nested deeper than anybody writes are dropped: closing one copies all the text inside it
DROPPED, BREAK = "\x00", "\x01"  # where something was taken out, and where one part of the prompt ends


def plain_prompt(prompt: str) -> str:
    """The words of a web UI prompt without its syntax, white space collapsed.

    | syntax | becomes |
    |---|---|
    | `<lora:name:0.8>`, `<hypernet:…>` | nothing, with the comma it leaves behind |
    | `(x)`, `(x:1.2)`, `[x]` | `x` |
    | `\\(`, `\\)`, `\\[`, `\\]`, `\\\\` | the character itself |
    | `[from:to:when]`, `[to:when]`, `[from::when]` | the text that holds at the end of sampling |
    | `[a\\|b]` (one option per step) | all options: each has its share in the image |
    | `x BREAK y`, `x :0.7 AND y :0.3` | `x, y` |

    Brackets that never close are dropped, closing ones that never opened are kept, as the web UI does. Takes time
    linear in the length of the prompt. Raises PromptError if `prompt` is not a string.

    Which option of `[from:to:when]` stays can depend on the number of steps, which the text does not say; the last one
    is taken.
    """
    text = check_prompt(prompt).replace(DROPPED, " ").replace(BREAK, " ")
    text = EXTRA_NETWORK.sub(DROPPED, text)
    text = re.sub(r"\bBREAK\b", BREAK, text)
    parts = re.split(r"\bAND\b", text)
    if len(parts) > 1:
        text = BREAK.join(_without_weight(part) for part in parts)
    return _tidy(_resolve(text))


def _without_weight(part: str) -> str:
    head, colon, weight = part.rpartition(":")
    return head if colon and NUMBER.fullmatch(weight) else part


@dataclass
class _Bracket:
    """An open bracket: its segments as they are split by the separators `:` and `|` at this depth."""

    opening: str = ""
    segments: list[list[str]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.segments[-1].append(text)

    def separate(self, separator: str) -> None:
        self.separators.append(separator)
        self.segments.append([])

    def verbatim(self) -> str:
        texts = ["".join(segment) for segment in self.segments]
        return "".join(text + separator for text, separator in zip(texts, [*self.separators, ""]))

    def resolved(self) -> str:
        """What the bracket stands for once it is closed."""
        if self.opening == "[" and "|" in self.separators:
            options = [
                option for option in (_without_weight(text) for text in self.verbatim().split("|")) if option.strip()
            ]
            return " ".join(options) if options else DROPPED
        texts = ["".join(segment) for segment in self.segments]
        weighted = len(texts) > 1 and self.separators[-1] == ":" and NUMBER.fullmatch(texts[-1])
        if not weighted:
            return self.verbatim()
        if self.opening == "[" and len(texts) <= 3:
            return texts[-2] if texts[-2].strip() else DROPPED
        return self.verbatim()[: -len(texts[-1]) - 1]


def _resolve(text: str) -> str:
    """Brackets and escapes replaced by what they stand for, with an explicit stack: no prompt can exhaust Python's
    own.
    """
    stack = [_Bracket()]
    depth = {"(": 0, "[": 0}
    for token in TOKEN.findall(text):
        opening = {")": "(", "]": "["}.get(token)
        if token in depth:
            if len(stack) <= MAX_DEPTH:
                stack.append(_Bracket(token))
                depth[token] += 1
        elif opening and depth[opening]:
            while stack[-1].opening != opening:
                _unclosed(stack, depth)
            depth[opening] -= 1
            closed = stack.pop().resolved()
            stack[-1].add(closed)
        elif token in (":", "|"):
            stack[-1].separate(token)
        else:
            stack[-1].add(token[1:] if token[0] == "\\" else token)
    while len(stack) > 1:
        _unclosed(stack, depth)
    return stack[0].verbatim()


def _unclosed(stack: list[_Bracket], depth: dict[str, int]) -> None:
    bracket = stack.pop()
    depth[bracket.opening] -= 1
    stack[-1].add(bracket.verbatim())


def _tidy(text: str) -> str:
    """Joins what stands around each removed part: with a comma if one was there or a part ended, else with a space."""
    pieces = re.split(f"([{DROPPED}{BREAK}])", text)
    joined: list[str] = []
    comma = False
    for index, piece in enumerate(pieces):
        if piece in (DROPPED, BREAK):
            comma = comma or piece == BREAK
            continue
        body = piece
        if index > 0:
            body = body.lstrip(", \t\r\n")
            comma = comma or "," in piece[: len(piece) - len(body)]
        if index < len(pieces) - 1:
            stripped = body.rstrip(", \t\r\n")
            trailing = "," in body[len(stripped) :]
            body = stripped
        else:
            trailing = False
        if body:
            if joined:
                joined.append(", " if comma else " ")
            joined.append(body)
            comma = trailing
        else:
            comma = comma or trailing
    return " ".join("".join(joined).split())
