"""Find the fields of a message in protobuf's text format that a description lacks, and take them out.

protobuf's parser can skip unknown fields, but not a list of messages (`model_warmup [ { … } ]`), and does not say which
it skipped. So they are taken out before it reads the text; the other fields stay on their lines, which its errors name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor

_TOKEN = re.compile(
    r"""[ \t\r\n\f\v]+ | \#[^\n]*
    | (?P<token> "(?:[^"\\\n] | \\.)*" | '(?:[^'\\\n] | \\.)*' | [A-Za-z0-9_.+-]+ | . )""",
    re.VERBOSE | re.DOTALL,
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_CLOSING = {"{": "}", "<": ">"}
_QUOTES = ('"', "'")


class UnknownField(NamedTuple):
    """A field that is not described: its path, as "optimization" or "input.format", and its place in the text."""

    path: str
    start: int
    end: int


def find_unknown_fields(text: str, message: Descriptor) -> list[UnknownField]:
    """Return the fields of a message that its description lacks, in the order of the text.

    Args:
        text: in protobuf's text format.
        message: the description.

    Raises:
        ValueError: a bracket is not closed, or something else stands where a field should begin.
    """
    return list(_in_message(_Tokens(text), message, "", ""))


def blank_out(text: str, fields: list[UnknownField]) -> str:
    """Return a text with spaces in place of some fields; lines stay as they are."""
    for field in fields:
        blank = re.sub(r"[^\n]", " ", text[field.start : field.end])
        text = text[: field.start] + blank + text[field.end :]
    return text


class _Tokens:
    """The tokens of a text, one at a time; `token` is empty at its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._matches = (found for found in _TOKEN.finditer(text) if found["token"] is not None)
        self.token, self.start, self.last_end = "", 0, 0
        self._end = 0
        self.take()

    def take(self) -> str:
        """Return the token, and go on to the next one."""
        token, self.last_end = self.token, self._end
        found = next(self._matches, None)
        self.token = "" if found is None else found["token"]
        if found is not None:
            self.start, self._end = found.span()
        return token

    def fault(self, what: str) -> ValueError:
        """Return an error that names the line of the token."""
        return ValueError(f"line {self._text.count(chr(10), 0, self.start) + 1}: {what}")

    def take_if(self, *tokens: str) -> bool:
        """Take the token if it is one of some."""
        if self.token and self.token in tokens:
            self.take()
            return True
        return False


def _in_message(tokens: _Tokens, message: Descriptor | None, path: str, closing: str) -> Iterator[UnknownField]:
    """Yield the fields that a message's description lacks, up to and with its closing bracket.

    Args:
        tokens: of the whole text.
        message: None within a field that is not described, whose own fields are not looked for.
        path: of the message, with a dot at its end.
        closing: the bracket; empty for the whole text.
    """
    while tokens.token and tokens.token != closing:
        if not _NAME.fullmatch(tokens.token):
            raise tokens.fault(f"{tokens.token!r} is not the name of a field")
        start, name = tokens.start, tokens.take()
        known = None if message is None else message.fields_by_name.get(name)
        tokens.take_if(":")
        yield from _in_value(tokens, None if known is None else known.message_type, f"{path}{name}.")
        tokens.take_if(",", ";")
        if message is not None and known is None:
            yield UnknownField(f"{path}{name}", start, tokens.last_end)
    if closing and not tokens.take_if(closing):
        raise tokens.fault(f"{path.rstrip('.')!r} is not closed by {closing!r}")


def _in_value(tokens: _Tokens, message: Descriptor | None, path: str) -> Iterator[UnknownField]:
    if tokens.take_if("["):
        while not tokens.take_if("]"):
            if not tokens.token:
                raise tokens.fault(f"{path.rstrip('.')!r} is not closed by ']'")
            yield from _in_value(tokens, message, path)
            tokens.take_if(",")
    elif (closing := _CLOSING.get(tokens.token)) is not None:
        tokens.take()
        yield from _in_message(tokens, message, path, closing)
    elif tokens.take().startswith(_QUOTES):
        while tokens.token.startswith(_QUOTES):  # strings side by side are one
            tokens.take()
