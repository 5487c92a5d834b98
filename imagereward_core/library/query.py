"""The language of `--where`: `checkpoint=juggernaut steps>=20 prompt~"red fox" (stars>=4 or mark=keep)`.

    question   = part { "or" part }
    part       = condition { ["and"] condition }
    condition  = "not" condition | "(" question ")" | field operator value
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" (contains) | "!~"
    value      = word | "text in quotes" | none

Fields are those of `conditions.FIELDS`, and every scorer's name. Case does not matter in texts. Nothing of a question
becomes part of the SQL text: fields are looked up, values are parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import LibraryError
from .conditions import (
    CHECKPOINT,
    DATE,
    FIELDS,
    LORA,
    NUMBER,
    PROMPT,
    Where,
    checkpoint_condition,
    date_condition,
    joined,
    number_condition,
    text_condition,
    unknown,
)
from .images import clean

TOKEN = re.compile(
    r"""\s*(?:(?P<bracket>[()])|(?P<operator>!=|<=|>=|!~|=|<|>|~)|"(?P<double>(?:\\.|[^"\\])*)"|'(?P<single>[^']*)'"""
    r"""|(?P<word>[^\s()=<>!~"']+))""",
    re.DOTALL,
)
LONGEST, DEEPEST = 10_000, 50
NEGATED = {"!=": "=", "!~": "~"}


def parse_where(text: str, scorer: Callable[[str], list[int]], *, search: bool = True) -> Where:
    """A question as SQL. `scorer` gives the ids of a scorer's name, none if there is no such; `search`: whether the
    full-text index may be used. Raises LibraryError with the place that is wrong.
    """
    return _Parser(text, scorer, search).parse()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


class _Parser:
    def __init__(self, text: str, scorer: Callable[[str], list[int]], search: bool):
        if len(text) > LONGEST:
            raise LibraryError(f"the question is too long: {len(text)} characters, at most {LONGEST}")
        self.text = text
        self.scorer = scorer
        self.search = search
        self.tokens = self._tokens()
        self.position = 0

    def _tokens(self) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while self.text[position:].strip():
            match = TOKEN.match(self.text, position)
            if match is None:
                raise LibraryError(
                    f"cannot read {self.text[position : position + 40].strip()!r}: a quote is not closed"
                )
            kind = str(match.lastgroup)
            value = match[kind]
            if kind == "double":
                value = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
            tokens.append(_Token("quoted" if kind in ("double", "single") else kind, clean(value) or ""))
            position = match.end()
        return tokens

    def parse(self) -> Where:
        if not self.tokens:
            return Where()
        where = self._question(0)
        if self.position < len(self.tokens):
            raise LibraryError(f"{self._rest()!r} is one bracket too many")
        return where

    def _rest(self) -> str:
        return " ".join(token.text for token in self.tokens[self.position : self.position + 4])

    def _peek(self, kind: str, *texts: str) -> bool:
        if self.position >= len(self.tokens):
            return False
        token = self.tokens[self.position]
        return token.kind == kind and (not texts or token.text.lower() in texts)

    def _take(self) -> _Token:
        token = self.tokens[self.position]
        self.position += 1
        return token

    def _question(self, depth: int) -> Where:
        parts = [self._part(depth)]
        while self._peek("word", "or") and not self._compares():
            self._take()
            parts.append(self._part(depth))
        return joined(parts, "OR")

    def _part(self, depth: int) -> Where:
        conditions = [self._condition(depth)]
        while self.position < len(self.tokens) and not self._peek("bracket", ")"):
            if self._peek("word", "or") and not self._compares():
                break
            if self._peek("word", "and") and not self._compares():
                self._take()
            conditions.append(self._condition(depth))
        return joined(conditions, "AND")

    def _compares(self) -> bool:
        """Whether an operator follows: then the word is a field, and not "or", "and" or "not"."""
        after = self.tokens[self.position + 1 : self.position + 2]
        return bool(after) and after[0].kind == "operator"

    def _condition(self, depth: int) -> Where:
        if depth > DEEPEST:
            raise LibraryError(f"the question's brackets are nested deeper than {DEEPEST}")
        if self._peek("word", "not") and not self._compares():
            self._take()
            return self._condition(depth + 1).negated()
        if self._peek("bracket", "("):
            self._take()
            inside = self._question(depth + 1)
            if not self._peek("bracket", ")"):
                raise LibraryError("a bracket is not closed")
            self._take()
            return inside
        return self._comparison()

    def _comparison(self) -> Where:
        if not (self._peek("word") or self._peek("quoted")):
            raise LibraryError(f"a field's name is missing before {self._rest() or 'the end'!r}")
        field = self._take().text
        if not self._peek("operator"):
            raise LibraryError(f"after {field!r} an operator is missing, such as {field}=…, {field}~… or {field}>…")
        operator = self._take().text
        if not (self._peek("word") or self._peek("quoted")):
            raise LibraryError(f'after {field}{operator} a value is missing; "none" asks for what is not known')
        value = self._take()
        plain = NEGATED.get(operator)
        where = self._compared(field, plain or operator, value)
        return where.negated() if plain else where

    def _compared(self, field: str, operator: str, value: _Token) -> Where:
        kind, column = FIELDS.get(field.lower(), (None, ""))
        if kind is None:
            return self._score(field, operator, value)
        if _is_none(value):
            return unknown(field, kind, column, operator)
        if kind == NUMBER:
            return number_condition(field, column, operator, value.text)
        if kind == DATE:
            return date_condition(column, operator, value.text)
        if operator not in ("=", "~"):
            raise LibraryError(f"{field} is a text: it is compared by =, !=, ~ or !~, not by {operator}")
        if kind == PROMPT:
            return self._prompt(column, operator, value.text)
        if kind == CHECKPOINT:
            return checkpoint_condition(operator, value.text)
        if kind == LORA:
            inside = text_condition("l.name", operator, value.text)
            return Where(
                f"EXISTS (SELECT 1 FROM image_loras l WHERE l.image_id = i.id AND {inside.sql})", inside.values
            )
        return text_condition(column, operator, value.text)

    def _prompt(self, column: str, operator: str, text: str) -> Where:
        folded = text.casefold()
        if operator == "=":
            return Where(f"{column} IN (SELECT id FROM prompts WHERE folded = ?)", (folded,))
        if self.search and column == "i.prompt_id" and len(folded) >= 3:
            phrase = '"' + folded.replace('"', '""') + '"'
            return Where(f"{column} IN (SELECT rowid FROM prompts_search WHERE prompts_search MATCH ?)", (phrase,))
        return Where(f"{column} IN (SELECT id FROM prompts WHERE instr(folded, ?) > 0)", (folded,))

    def _score(self, name: str, operator: str, value: _Token) -> Where:
        numbers = self.scorer(name)
        if not numbers:
            raise LibraryError(f"there is no field and no scorer {name!r}; fields are {', '.join(FIELDS)}")
        marks = ", ".join("?" * len(numbers))
        row = f"SELECT 1 FROM scores s WHERE s.image_id = i.id AND s.prompt = '' AND s.scorer_id IN ({marks})"
        if _is_none(value):
            return Where(f"NOT EXISTS ({row})", tuple(numbers))
        inside = number_condition(name, "s.value", operator, value.text)
        return Where(f"EXISTS ({row} AND {inside.sql})", (*numbers, *inside.values))


def _is_none(value: _Token) -> bool:
    return value.kind == "word" and value.text.lower() == "none"
