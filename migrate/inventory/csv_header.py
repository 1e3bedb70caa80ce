"""Finding the header of a CSV export: which line, which delimiter, which column is what.

There is no vendor CSV of fragments: scripts, reporting tools and spreadsheets all make their
own. Headers are matched without case, blanks and punctuation; a unit in parentheses counts.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

DELIMITERS = (",", ";", "\t", "|")

HEADER_WITHIN = 20
"""The header stands in one of the first lines; reporting tools print titles above it."""

ALIASES: dict[str, tuple[str, ...]] = {  # field: headers, best first
    "image_id": ("backupid", "backupimageid", "imageid", "backupimage", "image"),
    "media_id": ("mediaid", "mediaids", "media", "volume", "tape", "tapeid", "volumeid", "id"),
    "product": ("product", "format"),
    "client": ("client", "clientname"),
    "policy": ("policy", "policyname"),
    "schedule": ("schedule", "schedulename", "schedlabel", "schedulelabel"),
    "schedule_type": ("scheduletype", "schedtype"),
    "backup_time": ("backuptime", "backupdate", "backedup"),
    "expires": ("expiration", "expires", "expirationdate", "expirationtime", "imageexpiration"),
    "retention_level": ("retentionlevel", "retlevel", "retention", "rl"),
    "image_kib": ("kilobytes", "kbytes", "imagekb", "imagesizekb", "imagekilobytes"),
    "image_size": ("imagesize", "imagebytes"),
    "file_count": ("files", "numberoffiles", "numfiles", "filecount"),
    "compressed": ("compressed", "compression"),
    "encrypted": ("encrypted", "encryption", "clientencrypted"),
    "hold": ("hold", "onhold", "legalhold"),
    "copies": ("copies", "numberofcopies", "numcopies"),
    "fragments": ("fragments", "numberoffragments", "numfragments"),
    "primary_copy": ("primarycopy", "primary"),
    "copy": ("copy", "copynumber", "copynum"),
    "copy_expires": ("copyexpiration", "copyexpires", "copyexpirationdate"),
    "copy_hold": ("copyonhold", "copyhold"),
    "storage": ("storage", "storagetype", "mediatype"),
    "fragment": ("fragment", "fragmentnumber", "fragnum", "frag", "fragno"),
    "fragment_kib": ("fragmentkb", "fragmentkilobytes", "fragkb"),
    "fragment_size": ("fragmentbytes", "fragmentsize", "fragbytes"),
    "remainder": ("remainder", "fragmentremainder"),
    "size_kib": ("kb", "sizekb"),
    "size": ("bytes", "size", "sizebytes"),
    "tape_file": ("filenumber", "filenum", "fnum", "tapefile", "tapefilenumber", "fileno"),
    "block_offset": ("offset", "off", "blockaddress", "blockoffset"),
    "block_size": ("blocksize",),
    "multiplexed": ("mpx", "multiplexed"),
    "media_date": ("mediadate", "mediaassigned", "mediaallocated"),
    "key_tag": ("kmskeytag", "keytag"),
    "barcode": ("barcode", "mediabarcode"),
    "density": ("density",),
}
"""Source: headers seen in exports and the field names of the vendor's commands."""

_KNOWN = {alias for aliases in ALIASES.values() for alias in aliases}
_UNIT = re.compile(r"\(([^()]*)\)\s*$")
_KIB_UNITS = frozenset(("kb", "kib", "kbytes", "kilobytes"))
_BYTE_UNITS = frozenset(("b", "byte", "bytes"))


@dataclass(frozen=True, slots=True)
class Header:
    """Where the columns are. utc: fields whose header says that its times are UTC."""

    line: int
    delimiter: str
    cells: tuple[str, ...]
    columns: dict[str, int]
    utc: frozenset[str]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.cells)


@dataclass(frozen=True, slots=True)
class _Title:
    name: str
    unit: str


def find_header(lines: Sequence[str]) -> Header | None:
    """The best header among the first lines: it must name a backup id and a media id."""
    best: Header | None = None
    for number, line in enumerate(lines[:HEADER_WITHIN], 1):
        for delimiter in DELIMITERS:
            header = _read_header(line, number, delimiter)
            if header and (best is None or len(header.columns) > len(best.columns)):
                best = header
    return best


def _read_header(line: str, number: int, delimiter: str) -> Header | None:
    try:
        cells = next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])
    except csv.Error:
        return None
    titles = [_title(cell) for cell in cells]
    columns: dict[str, int] = {}
    for field, aliases in ALIASES.items():
        found = _find(titles, aliases)
        if found is not None:
            columns[field] = found
    if "image_id" not in columns or "media_id" not in columns:
        return None
    utc = frozenset(field for field, at in columns.items() if titles[at].unit == "utc")
    return Header(number, delimiter, tuple(cells), _sizes(columns, titles), utc)


def _find(titles: Sequence[_Title], aliases: Sequence[str]) -> int | None:
    for alias in aliases:
        for index, title in enumerate(titles):
            if title.name == alias:
                return index
    return None


def _title(cell: str) -> _Title:
    unit = ""
    if match := _UNIT.search(cell):
        unit = match[1].strip().lower()
        cell = cell[: match.start()]
    name = "".join(ch for ch in cell.lower() if ch.isalnum())
    if name.endswith("utc") and name not in _KNOWN:
        name, unit = name[:-3], "utc"
    return _Title(name, unit)


def _sizes(columns: dict[str, int], titles: Sequence[_Title]) -> dict[str, int]:
    """Say what the size columns count, by their unit; a bare size is a fragment's where the
    rows are fragments, and the image's where they are not."""
    settled = dict(columns)
    for field in ("image_size", "fragment_size", "size"):
        if field in settled and titles[settled[field]].unit in _KIB_UNITS:
            settled.setdefault(
                field.replace("size", "kib") if field != "size" else "size_kib", settled.pop(field)
            )
    for field, exact in (("image_kib", "image_size"), ("fragment_kib", "fragment_size")):
        if field in settled and titles[settled[field]].unit in _BYTE_UNITS:
            settled.setdefault(exact, settled.pop(field))
    owner = "fragment" if "fragment" in settled else "image"
    for bare, suffix in (("size", "size"), ("size_kib", "kib")):
        if bare in settled:
            settled.setdefault(f"{owner}_{suffix}", settled.pop(bare))
    return settled
