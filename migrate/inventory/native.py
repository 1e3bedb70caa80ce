"""Our own JSON: what ``tapemigrate inventory --json`` prints, and what people write by hand.

The smallest catalogue, for tapes of a product that keeps none (plain tar, say)::

    {"product": "tar",
     "images": [{"image_id": "home-2019", "copies": [{"fragments": [{"media_id": "T00001"}]}]}],
     "media": [{"media_id": "T00001", "barcode": "T00001L6", "label": "FIXSET"}]}

- An image needs ``image_id`` and, to be migrated, copies; a fragment needs ``media_id``. Copy
  and fragment numbers default to the place in their list; storage to tape; what is left out is
  unknown. The other keys are those of the output (docs/cli.md), times are ISO 8601.
- ``product`` stands at the top for all images, or in an image. Netbackup when nowhere.
- ``media`` is optional. Where it is given, it is the list of the tapes that exist; an entry with
  ``"listed": false`` only gives a barcode or a label.
- ``details`` is what the output adds: objects like those of ``images`` with the fields that
  ``images`` does not show. ``problems`` are found anew and are not read, but for ``conflict``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from catalog.model import NANOSECONDS, ScheduleType, from_iso
from migrate.inventory.json_stream import JsonStream
from migrate.inventory.options import ImportOptions
from migrate.inventory.report import Notes
from migrate.inventory.rows import (
    MAX_COUNT,
    NEVER,
    CopyRow,
    FragmentRow,
    ImageRow,
    MediaRow,
    Row,
)
from migrate.inventory.text import Lines
from migrate.model import Problem, Storage

Object = Mapping[str, Any]

_MAX_TEXT = 4096
_LATEST_NS = 2**62


def read(lines: Lines, options: ImportOptions, notes: Notes) -> Iterator[Row | MediaRow]:
    """Yield the rows of a native catalogue. An entry that cannot be used is left out with a
    finding.

    Raises:
        InventoryError: not a JSON document, or cut off; names the line.
    """
    stream = JsonStream(lines.chunks(), lines.path)
    product: str | None = None
    for key, value in stream.entries():
        try:
            if key == "product":
                product = _text({"product": value}, "product")
            elif key in ("images", "details"):
                # All or nothing: an image of which some fragments could not be read is no image.
                yield from list(_image(_object(value), stream.line, product, key == "images"))
            elif key == "media":
                yield _media(_object(value), stream.line)
        except ValueError as exc:
            notes.ignore(stream.line, f"entry of {key!r} cannot be read", str(exc), lost=True)


def _image(value: Object, line: int, product: str | None, whole: bool) -> Iterator[Row]:
    """The rows of one image. whole is false for details, which have no defaults."""
    kind = _text(value, "schedule_type")
    image = ImageRow(
        image_id=_needed(value, "image_id"),
        product=_text(value, "product") or product,
        client=_text(value, "client"),
        policy=_text(value, "policy"),
        schedule=_text(value, "schedule"),
        schedule_type=None if kind is None else ScheduleType(kind),
        backup_time=_time(value, "backup_time"),
        expires=_expiry(value),
        retention_level=_count(value, "retention_level"),
        size_bytes=_count(value, "size_bytes"),
        file_count=_count(value, "file_count"),
        compressed=_flag(value, "compressed"),
        encrypted=_flag(value, "encrypted"),
        hold=bool(_flag(value, "hold")),
        unfinished=bool(_flag(value, "unfinished")),
        expected_copies=_count(value, "expected_copies"),
        expected_fragments=_count(value, "expected_fragments"),
        primary_copy=_primary(value),
        conflict=Problem.CONFLICT in _list(value, "problems"),
    )
    yield Row(line, image)
    for place, copy_value in enumerate(_list(value, "copies"), 1):
        yield from _copy(_object(copy_value), line, image, place, whole)


def _copy(value: Object, line: int, image: ImageRow, place: int, whole: bool) -> Iterator[Row]:
    stated = _text(value, "storage")
    storage = Storage(stated).value if stated else Storage.TAPE.value if whole else None
    copy = CopyRow(
        copy_number=_number(value, "copy_number", place),
        storage=storage,
        expires=_expiry(value) if "expires_at" in value or not whole else image.expires,
        hold=bool(_flag(value, "hold")),
    )
    yield Row(line, image, copy)
    for fragment_place, item in enumerate(_list(value, "fragments"), 1):
        fragment = _object(item)
        row = FragmentRow(
            copy_number=copy.copy_number,
            fragment_number=_number(fragment, "fragment_number", fragment_place),
            media_id=_needed(fragment, "media_id"),
            tape_file_number=_count(fragment, "tape_file_number"),
            block_offset=_count(fragment, "block_offset"),
            block_size=_count(fragment, "block_size") or None,
            size_bytes=_count(fragment, "size_bytes"),
            size_is_exact=_flag(fragment, "size_is_exact") is not False,
            multiplexed=_flag(fragment, "multiplexed"),
            media_assigned_at=_time(fragment, "media_assigned_at"),
            key_tag=_text(fragment, "key_tag"),
        )
        yield Row(line, image, copy, row)


def _media(value: Object, line: int) -> MediaRow:
    return MediaRow(
        line,
        _needed(value, "media_id"),
        barcode=_text(value, "barcode"),
        label=_text(value, "label"),
        density=_text(value, "density"),
        assigned_at=_time(value, "assigned_at"),
        assigned_uncertainty=(_count(value, "assigned_uncertainty_s") or 0) * NANOSECONDS,
        expires=_expiry(value),
        frozen=bool(_flag(value, "frozen")),
        suspended=bool(_flag(value, "suspended")),
        listed=_flag(value, "listed") is not False,
    )


def _primary(value: Object) -> int | None:
    for place, item in enumerate(_list(value, "copies"), 1):
        copy = _object(item)
        if _flag(copy, "primary"):
            return _number(copy, "copy_number", place)
    return None


def _expiry(value: Object) -> int | None:
    return NEVER if _flag(value, "expires_infinite") else _time(value, "expires_at")


# --- typed access: every error is a ValueError that names the key --------------------------------


def _object(value: Any) -> Object:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _list(value: Object, key: str) -> list[Any]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{key!r} is not a list")
    return found


def _text(value: Object, key: str) -> str | None:
    found = value.get(key)
    if found is None or found == "":
        return None
    if not isinstance(found, str) or len(found) > _MAX_TEXT:
        raise ValueError(f"{key!r} is not a text of at most {_MAX_TEXT} characters")
    try:
        found.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{key!r} has half a surrogate pair") from exc
    return found


def _needed(value: Object, key: str) -> str:
    found = _text(value, key)
    if found is None:
        raise ValueError(f"{key!r} is missing")
    return found


def _count(value: Object, key: str) -> int | None:
    found = value.get(key)
    if found is None:
        return None
    if type(found) is not int or not 0 <= found <= MAX_COUNT:
        raise ValueError(f"{key!r} is not a count")
    return found


def _number(value: Object, key: str, default: int) -> int:
    found = value.get(key, default)
    if type(found) is not int or not -MAX_COUNT <= found <= MAX_COUNT:
        raise ValueError(f"{key!r} is not a number")
    return found


def _flag(value: Object, key: str) -> bool | None:
    found = value.get(key)
    if found is not None and not isinstance(found, bool):
        raise ValueError(f"{key!r} is neither true nor false")
    return found


def _time(value: Object, key: str) -> int | None:
    found = _text(value, key)
    if found is None:
        return None
    try:
        time = from_iso(found)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"{key!r} is not a time in ISO 8601") from exc
    if not -_LATEST_NS < time < _LATEST_NS:
        raise ValueError(f"{key!r} is out of range")
    return time
