"""``bpimagelist -json``, ``-json_array``, ``-json_compact``: objects with a list of fragments.

The keys are those of the vendor's field list; case and underscores do not matter, and a few
fields have a second name. An array, objects behind each other, one object a line, and an object
with the array under some key are all taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrate.inventory.json_stream import JsonStream
from migrate.inventory.options import ImportOptions
from migrate.inventory.records import Field, Get, Records
from migrate.inventory.report import Notes
from migrate.inventory.rows import MediaRow, Row
from migrate.inventory.text import Lines

IMAGE_KEYS = {
    "backup_id": ("backupid", "imageid"),
    "client": ("clientname", "client"),
    "policy": ("policyname", "policy"),
    "schedule": ("schedlabel", "schedulelabel", "schedule"),
    "schedule_type": ("schedtype", "scheduletype"),
    "retention": ("retention", "retentionlevel", "retlevel"),
    "expiration": ("expiration", "expirationtime"),
    "compression": ("compression", "compressed"),
    "encryption": ("encryption", "encrypted"),
    "kbytes": ("kbytes", "kilobytes", "kb"),
    "num_files": ("numfiles", "numberoffiles"),
    "copies": ("copies", "numcopies", "numberofcopies"),
    "num_fragments": ("numfragments", "numberoffragments"),
    "primary": ("primary", "primarycopy"),
    "hold": ("hold", "onhold"),
}
FRAGMENT_KEYS = {
    "copy": ("copynum", "copynumber", "copy"),
    "number": ("fragnum", "fragmentnumber", "fragment"),
    "kbytes": ("kilobytes", "kbytes", "kb"),
    "remainder": ("remainder",),
    "media_type": ("mediatype",),
    "file": ("filenum", "filenumber"),
    "media_id": ("id", "idpath", "id/path", "mediaid", "path"),
    "block_size": ("blocksize",),
    "offset": ("offset",),
    "media_date": ("mediadate",),
    "expiration": ("expiration", "expirationtime"),
    "mpx": ("mpx", "multiplexed"),
    "key_tag": ("kmskeytag", "keytag"),
    "hold": ("copyonhold", "hold"),
}
"""Source: the vendor's list of fields; the second names are tolerance, not facts."""

_LISTS = ("frags", "fragments")
_MAX_FIELDS = 1000
"""Keys of an object; the newest release has under a hundred."""


def looks_like(start: str) -> bool:
    """Whether the first characters of a JSON document name an image's fields."""
    words = start.lower().replace("_", "")
    return '"backupid"' in words or '"frags"' in words


def read(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[Row | MediaRow]:
    """Yield the rows of ``bpimagelist -json``. An object that cannot be used is left out with a
    finding.

    Raises:
        InventoryError: not JSON, or cut off; names the line.
    """
    records = Records(notes)
    stream = JsonStream(lines.chunks(), lines.path)

    def broken(line: int, message: str) -> None:
        notes.ignore(line, "not JSON", message, lost=True)

    for line, value in stream.values(broken, _LISTS):
        if isinstance(value, dict) and len(value) <= _MAX_FIELDS:
            yield from _image(value, line, records, notes)
        else:
            notes.ignore(line, "not an object of an image", str(value)[:60], lost=True)


def _image(value: Mapping[str, Any], line: int, records: Records, notes: Notes) -> Iterator[Row]:
    plain = _plain(value)
    image = records.image(line, _getter(plain, IMAGE_KEYS))
    if image is None:
        return
    yield Row(line, image)
    listed: Any = next((plain[key] for key in _LISTS if plain.get(key) is not None), [])
    if not isinstance(listed, list):
        notes.ignore(line, "fragments are not a list", image.image_id, lost=True)
        return
    for item in listed:
        if not isinstance(item, dict) or len(item) > _MAX_FIELDS:
            notes.ignore(line, "not an object of a fragment", image.image_id, lost=True)
            continue
        row = records.fragment(line, _getter(_plain(item), FRAGMENT_KEYS), image)
        if row is not None:
            yield row


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower().replace("_", ""): found for key, found in value.items()}


def _getter(plain: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> Get:
    def get(field: str) -> Field:
        for name in names.get(field, ()):
            if (found := plain.get(name)) is not None:
                return found if isinstance(found, str | int | float) else str(found)
        return None

    return get
