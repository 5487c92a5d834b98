"""The three answers to "which prompt was this image made from?"."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..prompts import plain_prompt

INFOTEXT, TEXT_FILE = "infotext", "text file"


@dataclass(frozen=True)
class FoundPrompt:
    """A prompt and where it was found: "infotext" (in the image) or "text file". `text` is as written, with its
    syntax. `program` wrote it, "" where nothing tells; two prompts are equal whoever wrote them.
    """

    text: str
    source: str
    program: str = field(default="", compare=False)

    @property
    def words(self) -> str:
        """The prompt in plain words, as scorers and training read it (see `plain_prompt`)."""
        return plain_prompt(self.text)


@dataclass(frozen=True)
class NoPrompt:
    """The image has no prompt; `why` completes "no prompt: …"."""

    why: str = "the image has no infotext and no text file beside it"


@dataclass(frozen=True)
class ForeignText:
    """The image holds another program's text, of which no prompt can be read; `why` says what is in the way."""

    program: str
    why: str = field(default="", compare=False)


def reason(answer: NoPrompt | ForeignText) -> str:
    """Why there is no prompt, to follow "no prompt: "."""
    if isinstance(answer, NoPrompt):
        return answer.why
    return f"its text was written by {answer.program}" + (f"; {answer.why}" if answer.why else "")
