"""One JSON object read piece by piece: its arrays give their elements without being held.

Memory is one element plus one chunk. Nothing here knows what the elements mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn

from migrate.errors import InventoryError
from migrate.inventory.text import fault

CHUNK = 64 * 1024
MAX_ELEMENT = 16 * 1024 * 1024
"""Longest element, in characters: an image of fifty thousand fragments stays below."""

_BLANK = re.compile(r"[ \t\r\n]*")


_WRAPPER = re.compile(r'\{[ \t\r\n]*"(\w{1,40})"[ \t\r\n]*:[ \t\r\n]*\[')
_NEXT_LINE = re.compile(r"\n\{")
_LONGEST_WORD = 64
"""A value that is cut off within a name, a number or an escape is cut within so many characters."""


def _certain(exc: ValueError, length: int) -> bool:
    """Whether more text could not mend it: it went wrong well before the end of what is there."""
    if not isinstance(exc, json.JSONDecodeError):
        return True  # NaN, or a number of thousands of digits
    return not exc.msg.startswith("Unterminated") and exc.pos + _LONGEST_WORD < length


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class JsonStream:
    """Walks a document; ``line`` is where it stands, from 1."""

    def __init__(self, stream: Iterator[str], path: str) -> None:
        self._stream = stream
        self._path = path
        self._text = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder(parse_constant=_no_constant)
        self.line = 1

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yield (key, element) for a document.

        An array's elements come one by one under the array's key; other values come once. An
        array at the top is taken as if it stood under ``images``.

        Raises:
            InventoryError: not JSON, cut off, an element too long; names the line.
        """
        opening = self._peek()
        if opening == "[":
            yield from (("images", element) for element in self._array())
        elif opening == "{":
            yield from self._object()
        else:
            raise self._wrong("neither an object nor an array")
        if self._peek(end=True):
            raise self._wrong("text behind the end of the document")

    def values(
        self, broken: Callable[[int, str], None], own_lists: Collection[str]
    ) -> Iterator[tuple[int, Any]]:
        """Yield (line of its beginning, value) for the values of a document.

        They are the elements of one array, or stand one behind the other with or without commas.
        An object whose first key has an array that is none of own_lists wraps the values. What
        is broken among objects of one line each is told to broken, and the next line is taken.

        Raises:
            InventoryError: as ``entries``; broken text in an array cannot be passed over.
        """
        opening = self._peek()
        wrapper = _WRAPPER.match(self._text, self._at)
        if wrapper and wrapper[1].lower() not in own_lists:
            for _, element in self._object():
                yield self.line, element
        elif opening == "[":
            for element in self._array():
                yield self.line, element
        else:
            yield from self._sequence(broken)
            return
        if self._peek(end=True):
            raise self._wrong("text behind the end of the document")

    def _sequence(self, broken: Callable[[int, str], None]) -> Iterator[tuple[int, Any]]:
        while self._peek(end=True):
            line = self.line
            try:
                value = self._value()
            except InventoryError as exc:
                if self._ended and _NEXT_LINE.search(self._text, self._at) is None:
                    raise
                broken(line, str(exc).partition(": ")[2])
                self._pass_over()
                continue
            yield line, value
            if self._peek(end=True) == ",":
                self._take(",")

    def _pass_over(self) -> None:
        """Go on at the next line that begins with an object; those within another are indented."""
        while (match := _NEXT_LINE.search(self._text, self._at)) is None and not self._ended:
            self._move(max(self._at, len(self._text) - 2))
            self._fill(CHUNK)
        self._move(len(self._text) if match is None else match.end() - 1)

    def _object(self) -> Iterator[tuple[str, Any]]:
        self._take("{")
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str):
                raise self._wrong("a key is not a string")
            self._take(":")
            if self._peek() == "[":
                yield from ((key, element) for element in self._array())
            else:
                yield key, self._value()
            if self._peek() == ",":
                self._take(",")
            elif self._peek() != "}":
                raise self._wrong("a comma is missing")
        self._take("}")

    def _array(self) -> Iterator[Any]:
        self._take("[")
        while self._peek() != "]":
            yield self._value()
            if self._peek() == ",":
                self._take(",")
            elif self._peek() != "]":
                raise self._wrong("a comma is missing")
        self._take("]")

    def _value(self) -> Any:
        """The next value, whole."""
        self._peek()
        want = CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError as exc:
                raise self._wrong("nested too deeply") from exc
            except ValueError as exc:
                # Cut within the value, perhaps: look further before saying that it is wrong.
                if self._ended or _certain(exc, len(self._text)):
                    raise self._wrong(str(exc).partition(": line")[0]) from exc
            else:
                # A number at the end of what was read may go on behind it.
                if end < len(self._text) or self._ended:
                    self._move(end)
                    return value
            if len(self._text) - self._at > MAX_ELEMENT:
                raise self._wrong(f"a value is longer than {MAX_ELEMENT} characters")
            self._fill(want)
            want *= 2  # so that a long value is not parsed again for every chunk

    def _peek(self, *, end: bool = False) -> str:
        """The next character that is not blank. end: the document may be over ("" then)."""
        while True:
            match = _BLANK.match(self._text, self._at)
            assert match is not None
            self._move(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                if end:
                    return ""
                raise self._wrong("the document ends too early")
            self._fill(CHUNK)

    def _take(self, sign: str) -> None:
        if self._peek() != sign:
            raise self._wrong(f"{sign!r} is missing")
        self._move(self._at + 1)

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _fill(self, want: int) -> None:
        pieces = [self._text[self._at :]]
        self._at = 0
        size = 0
        while size < want:
            piece = next(self._stream, "")
            if not piece:
                self._ended = True
                break
            pieces.append(piece)
            size += len(piece)
        self._text = "".join(pieces)

    def _wrong(self, what: str) -> InventoryError:
        hint = "export it again" if self._ended else "the file must be one JSON document"
        return fault(self._path, self.line, f"not a JSON catalogue: {what}", hint=hint)
