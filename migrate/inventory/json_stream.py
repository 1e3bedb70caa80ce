"""One JSON object read piece by piece: its arrays give their elements without being held.

Memory is one element plus one chunk. Nothing here knows what the elements mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from migrate.inventory.text import fault

CHUNK = 64 * 1024
MAX_ELEMENT = 16 * 1024 * 1024
"""Longest element, in characters: an image of fifty thousand fragments stays below."""

_BLANK = re.compile(r"[ \t\r\n]*")


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
                if self._ended:
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

    def _wrong(self, what: str) -> Exception:
        hint = "export it again" if self._ended else "the file must be one JSON document"
        return fault(self._path, self.line, f"not a JSON catalogue: {what}", hint=hint)
