"""Catalogue files as lines of text: encoding found, every length held under a ceiling.

Nothing here knows what the lines mean.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from migrate.errors import InventoryError

SAMPLE_SIZE = 64 * 1024
"""Bytes of a file's beginning that decide about its encoding and its format."""

MAX_LINE = 1024 * 1024
"""Longest line, in characters. The longest real ones, with keywords, stay under a few KiB."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def fault(path: str, line: int | None, message: str, *, hint: str = "") -> InventoryError:
    """An InventoryError that begins with the file and, where there is one, the line."""
    place = path if line is None else f"{path}:{line}"
    return InventoryError(f"{place}: {message}", hint=hint)


def sample(path: Path) -> bytes:
    """The first SAMPLE_SIZE bytes of a file.

    Raises:
        InventoryError: the file cannot be read, or it is empty.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(SAMPLE_SIZE)
    except OSError as exc:
        raise fault(str(path), None, f"cannot be read: {exc.strerror or exc}") from exc
    if not head.strip(b"\x00\t\r\n \xef\xbb\xbf\xff\xfe"):
        raise fault(str(path), 1, "the file is empty", hint="export the catalogue again")
    return head


def sniff_encoding(path: Path, head: bytes, stated: str | None) -> str:
    """The encoding of a file: its byte order mark, else UTF-8, else the stated one.

    Source: catalogue exports pass through Windows tools; PowerShell writes UTF-16, Excel a
    code page. A stated code page is used only when the whole file is not UTF-8: text of a code
    page is practically never valid UTF-8 by chance.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if b"\x00" in head:
        return _unmarked_utf16(path, head)
    if stated is not None and not _is_utf8(path):
        return stated
    return "utf-8"


def _unmarked_utf16(path: Path, head: bytes) -> str:
    """Zero bytes on one side of nearly every pair are UTF-16 without a mark; others are no text."""
    pairs = len(head) // 2
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > pairs * 0.6 and even < pairs * 0.05:
        return "utf-16-le"
    if even > pairs * 0.6 and odd < pairs * 0.05:
        return "utf-16-be"
    raise fault(
        str(path),
        1,
        "this is a binary file and not a catalogue export",
        hint="export the catalogue as text, for example with bpimagelist -l",
    )


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1024 * 1024):
                decoder.decode(chunk)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    except OSError as exc:
        raise fault(str(path), None, f"cannot be read: {exc.strerror or exc}") from exc
    return True


def decode_head(head: bytes, encoding: str) -> str:
    """The sample as text; what cannot be decoded becomes U+FFFD, a cut character is dropped."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    return decoder.decode(head)


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open a catalogue as text; line ends are left as they are, for the csv module's sake."""
    try:
        stream = path.open("r", encoding=encoding, newline="")
    except OSError as exc:
        raise fault(str(path), None, f"cannot be read: {exc.strerror or exc}") from exc
    with stream:
        yield stream


class Lines:
    """The lines of one file, ends included, each at most MAX_LINE characters.

    number is the line last given, from 1. unterminated: the last line has no line end, so the
    file may have been cut off there.

    Raises:
        InventoryError: a line is too long, or bytes are not of the encoding; names the line.
    """

    def __init__(self, stream: TextIO, path: str, encoding: str) -> None:
        self.path = path
        self.encoding = encoding
        self.number = 0
        self.unterminated = False
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        readline = self._stream.readline
        try:
            while line := readline(MAX_LINE):
                self.number += 1
                if line[-1] not in "\r\n":
                    self._unterminated(line)
                yield line
        except UnicodeError as exc:
            raise self._undecodable(exc) from exc
        except OSError as exc:
            raise fault(self.path, self.number + 1, f"cannot be read: {exc}") from exc

    def chunks(self, size: int = SAMPLE_SIZE) -> Iterator[str]:
        """The same text in pieces of at most size characters, for formats without lines."""
        try:
            while piece := self._stream.read(size):
                yield piece
        except UnicodeError as exc:
            raise self._undecodable(exc) from exc
        except OSError as exc:
            raise fault(self.path, None, f"cannot be read: {exc}") from exc

    def _unterminated(self, line: str) -> None:
        if len(line) >= MAX_LINE:
            raise fault(
                self.path,
                self.number,
                f"the line is longer than {MAX_LINE} characters",
                hint="this is not a catalogue export, or its line ends were lost",
            )
        self.unterminated = True

    def _undecodable(self, exc: UnicodeError) -> InventoryError:
        line = _first_bad_line(self.path, self.encoding) or self.number + 1
        return fault(
            self.path,
            line,
            f"the bytes are not {self.encoding}: {getattr(exc, 'reason', exc)}",
            hint="state the file's encoding, for example --encoding cp1252",
        )


def _first_bad_line(path: str, encoding: str) -> int | None:
    """The line that does not decode: the decoder itself works ahead of the lines in chunks."""
    if encoding.startswith(("utf-16", "utf-32")):
        return None
    with Path(path).open("rb") as stream:
        number = 0
        while raw := stream.readline(4 * MAX_LINE):
            number += 1
            try:
                raw.decode(encoding)
            except UnicodeError:
                return number
    return None
