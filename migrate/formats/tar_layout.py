"""What a tar header is: 512 bytes with a checksum that only a header has.

Sources: POSIX.1-2001 ``pax`` for the fields, the GNU tar manual ("Basic Tar Format") for the types
``V`` and ``M``, the old magic and ``GNU.volume.label``. Old headers (v7) and GNU's volume labels
have no magic: the checksum alone tells them.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK = 512
NAME = slice(0, 100)
SIZE = slice(124, 136)
CHECKSUM = slice(148, 156)
TYPE = slice(156, 157)
MAGIC = slice(257, 265)

POSIX_MAGIC = b"ustar\x0000"
GNU_MAGIC = b"ustar  \0"

VOLUME_LABEL = b"V"
CONTINUATION = b"M"
PAX_GLOBAL = b"g"
PAX_NEXT = b"x"
LABEL_KEY = "GNU.volume.label"

MAX_PAX_RECORDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TarHeader:
    """A header whose checksum is right. kind: ``ustar``, ``pax``, ``gnu`` or ``v7``.

    size is the member's bytes, None when the field cannot be read.
    """

    kind: str
    name: bytes
    type: bytes
    size: int | None


def parse_header(block: bytes) -> TarHeader | None:
    """Read a header at the beginning of a block; None when the checksum is not right."""
    head = block[:BLOCK]
    if len(head) < BLOCK:
        return None
    stored = _octal(head[CHECKSUM])
    if stored is None or stored not in checksums(head):
        return None
    return TarHeader(
        kind=_kind(head[MAGIC], head[TYPE]),
        name=head[NAME].partition(b"\0")[0],
        type=head[TYPE],
        size=_number(head[SIZE]),
    )


def checksums(head: bytes) -> tuple[int, int]:
    """The unsigned sum of a header's bytes, the checksum itself taken as blanks, and the signed
    one, which some old systems wrote."""
    unsigned = sum(head) - sum(head[CHECKSUM]) + 8 * ord(" ")
    high = sum(byte > 0x7F for byte in head[: CHECKSUM.start] + head[CHECKSUM.stop :])
    return unsigned, unsigned - 256 * high


def volume_label(block: bytes) -> str | None:
    """The label that an archive begins with, as GNU tar writes it (``LABEL Volume N`` in a set)."""
    header = parse_header(block)
    if header is None:
        return None
    if header.type == VOLUME_LABEL:
        return _text(header.name) or None
    if header.type == PAX_GLOBAL:
        end = BLOCK + (header.size or 0)
        return pax_records(block[BLOCK:end]).get(LABEL_KEY)
    return None


def pax_records(data: bytes) -> dict[str, str]:
    """Read ``LENGTH KEY=VALUE\\n`` records, as far as they are whole."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data) and len(records) < MAX_PAX_RECORDS:
        digits = data[at : at + 20].partition(b" ")[0]
        if not digits.isdigit() or int(digits) <= len(digits) + 1 or at + int(digits) > len(data):
            break
        record = data[at + len(digits) + 1 : at + int(digits)]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            break
        records[_text(key)] = _text(value[:-1])
        at += int(digits)
    return records


def _kind(magic: bytes, type_: bytes) -> str:
    if magic == GNU_MAGIC or (type_ in (VOLUME_LABEL, CONTINUATION) and magic != POSIX_MAGIC):
        return "gnu"
    if not magic.startswith(b"ustar"):
        return "v7"
    return "pax" if type_ in (PAX_GLOBAL, PAX_NEXT) else "ustar"


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        return None
    return int(digits, 8)


def _number(field: bytes) -> int | None:
    """A size: octal digits, or base 256 behind a byte 0x80 where octal is too short."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    return _octal(field)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
