"""What the bytes of a NetBackup tape are, as far as it is public.

The media header (MH) is one record of 1024 bytes at the beginning of the tape, a backup header
(BH) is one record of 1024 bytes at the beginning of every tape file of image data. The inside of a
backup header is not public; that the backup id stands in it somewhere is safe to say, because
NetBackup rebuilds its catalogue from it.

Sources: Administrator's Guide, "Media formats" (releases 3.2, 8.0, 11.0) for the records and their
order; two media header dumps that the vendor printed for the offsets below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

HEADER_SIZE = 1024

VOL1 = b"VOL1"
MEDIA_ID = slice(4, 10)  # NUL padded
MARKER_AT = 112
MARKER = b"ThIs Is A BP tApE hEaDer"

BACKUP_ID = re.compile(rb"(?<![\w.-])([\w.-]+_[0-9]{10})(?![0-9])", re.ASCII)
"""CLIENT_SECONDS. A copy or fragment number may follow (``_C1``), another digit may not."""

STRAY_BYTES = 3
"""So many letters glued to the front of the wanted id may be the bytes of a binary field before
it, a time perhaps: then the header says neither yes nor no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaHeader:
    """The label of a NetBackup tape. media_id is empty when the header names none."""

    media_id: str


class Identity(Enum):
    """What a backup header says about whose data follow."""

    WANTED = "wanted"
    OTHER = "other"
    SILENT = "silent"


def parse_media_header(record: bytes) -> MediaHeader | None:
    """Read a media header; None when the record is none (an 80 byte ``VOL1`` is an ANSI label)."""
    if len(record) < HEADER_SIZE or not record.startswith(VOL1):
        return None
    if record[MARKER_AT : MARKER_AT + len(MARKER)] != MARKER:
        return None
    media_id = record[MEDIA_ID].partition(b"\0")[0].rstrip(b" ")
    return MediaHeader(media_id=media_id.decode("ascii", "backslashreplace"))


def whose(header: bytes | memoryview, backup_id: str) -> tuple[Identity, str]:
    """Look for a backup id in a backup header; with OTHER comes the id that was found instead.

    header is cut to HEADER_SIZE bytes. An id counts only at a word's boundary, so that
    ``web_1690000100`` is not found in ``intraweb_1690000100``. With at most STRAY_BYTES glued to
    its front the answer is SILENT.
    """
    head = bytes(header[:HEADER_SIZE])
    exact = rb"(?<![\w.-])" + re.escape(backup_id.encode()) + rb"(?![0-9A-Za-z])"
    if re.search(exact, head, re.ASCII):
        return Identity.WANTED, backup_id
    for other in BACKUP_ID.finditer(head):
        found = other[1].decode("ascii")
        if not found.endswith(backup_id) or len(found) > len(backup_id) + STRAY_BYTES:
            return Identity.OTHER, found
    return Identity.SILENT, ""
