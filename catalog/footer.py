"""The footer of a ledger file, read fast: a file's place in its chain without its columns.

A Parquet library takes longer to open a small file than SHA-256 takes to read it: it builds the
schema and the statistics of every column first. What a chain needs stands at the end of the
footer, in bytes that are the same in every ledger file but for the values. Where they are exactly
so, and nowhere else in the footer, the values are taken from there; any other file is given to the
library, whose verdict counts.

Source: Apache Parquet, ``parquet.thrift``, FileMetaData; Apache Thrift compact protocol.
"""

from __future__ import annotations

import re

from catalog.schema import FORMAT, Footer, read_footer

_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # length of the footer, and the magic


def _pair(key: bytes, value: bytes, length: bytes) -> bytes:
    """A KeyValue: field 1, a string; field 2, a string; stop."""
    return (
        rb"\x18"
        + re.escape(bytes([len(key)]))
        + re.escape(key)
        + rb"\x18"
        + length
        + value
        + rb"\x00"
    )


_PLACE = re.compile(
    rb"\x19[\x4c\x5c]"  # field 5: a list of four pairs, or five with the writer's own schema
    + _pair(b"tapelift.format", re.escape(FORMAT.encode()), re.escape(bytes([len(FORMAT)])))
    + _pair(b"tapelift.sequence", rb"(0|[1-9][0-9]{0,18})", rb"([\x01-\x13])")
    + _pair(b"tapelift.previous_sha256", rb"([0-9a-f]{64})", rb"\x40")
    + _pair(b"tapelift.rows", rb"([1-9][0-9]{0,6})", rb"([\x01-\x07])")
    + rb"(?:\x18\x0cARROW:schema\x18([\x80-\xff]{0,3}[\x00-\x7f]))?"
)
_REST = re.compile(
    rb"\x18[\x01-\x7f]parquet-cpp[ -~]+"  # field 6: created_by
    + rb"\x19(?:[\x1c-\xec]|\xfc[\x01-\x7f])(?:\x1c\x00\x00)+\x00"  # field 7: column orders; stop
)
_HEAD_BYTES = 4  # the heads of the list, of the pair and of its key, before the key


def place_of(data: bytes) -> Footer:
    """As ``schema.read_footer``, which it asks when the footer is not the usual one.

    That the file holds as many rows as its footer says is only checked then.
    """
    return _usual(data) or read_footer(data)


def _usual(data: bytes) -> Footer | None:
    end = len(data) - _TAIL_BYTES
    start = end - int.from_bytes(data[-8:-4], "little")
    if start < len(_MAGIC) or not data.endswith(_MAGIC):
        return None
    key = data.find(b"tapelift.", start, end)
    found = _PLACE.match(data, max(key - _HEAD_BYTES, start), end)
    if found is None or data.find(b"tapelift.", found.end(), end) >= 0:
        return None
    digits, sequence, previous, row_digits, rows, schema_size = found.groups()
    if (digits[0], row_digits[0]) != (len(sequence), len(rows)):
        return None
    rest = found.end()
    if schema_size is not None:
        rest += _varint(schema_size)
        if data[rest : rest + 1] != b"\x00":  # the end of the pair
            return None
        rest += 1
    if _REST.fullmatch(data, rest, end) is None:
        return None
    return Footer(int(sequence), previous.decode("ascii"), int(rows))


def _varint(data: bytes) -> int:
    """Source: Thrift compact protocol, "Integer encoding" (ULEB128)."""
    return sum((byte & 0x7F) << (7 * index) for index, byte in enumerate(data))
