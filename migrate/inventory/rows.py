"""The flat rows that a catalogue reader gives and the store takes. No logic lives here.

A reader yields one Row for each record it meets, however often the image repeats; the store
drops repetitions. Times are UTC nanoseconds, sizes bytes, unknown is None. An expiry is one
number here: NEVER for infinite, None for unknown; the model's two fields are made at the end.
"""

from __future__ import annotations

from typing import NamedTuple

NEVER = 2**63 - 1
"""An infinite expiry: later than every time that a 64-bit count of nanoseconds can name."""

MAX_COUNT = 2**53
"""Ceiling of every count and size a catalogue may claim: 8 PiB, when it counts bytes."""


class ImageRow(NamedTuple):
    """What one record says of an image; the fields are those of migrate.model.Image.

    product None is netbackup unless another record of the image says otherwise. conflict: an
    earlier import found that rows contradict each other.
    """

    image_id: str
    product: str | None = None
    client: str | None = None
    policy: str | None = None
    schedule: str | None = None
    schedule_type: str | None = None
    backup_time: int | None = None
    expires: int | None = None
    retention_level: int | None = None
    size_bytes: int | None = None
    file_count: int | None = None
    compressed: bool | None = None
    encrypted: bool | None = None
    hold: bool = False
    unfinished: bool = False
    expected_copies: int | None = None
    expected_fragments: int | None = None
    primary_copy: int | None = None
    conflict: bool = False


class CopyRow(NamedTuple):
    """What one record says of a copy. storage is a migrate.model.Storage value."""

    copy_number: int
    storage: str | None = None
    expires: int | None = None
    hold: bool = False


class FragmentRow(NamedTuple):
    """What one record says of a fragment; the fields are those of migrate.model.Fragment."""

    copy_number: int
    fragment_number: int
    media_id: str
    tape_file_number: int | None = None
    block_offset: int | None = None
    block_size: int | None = None
    size_bytes: int | None = None
    size_is_exact: bool = True
    multiplexed: bool | None = None
    media_assigned_at: int | None = None
    key_tag: str | None = None


class Row(NamedTuple):
    """One record of a catalogue: an image, and where there is one its copy and fragment.

    line counts from 1 in the source file.
    """

    line: int
    image: ImageRow
    copy: CopyRow | None = None
    fragment: FragmentRow | None = None


class MediaRow(NamedTuple):
    """What one record says of a tape. listed: it stands in a list of the tapes that exist."""

    line: int
    media_id: str
    barcode: str | None = None
    label: str | None = None
    density: str | None = None
    assigned_at: int | None = None
    assigned_uncertainty: int = 0
    expires: int | None = None
    frozen: bool = False
    suspended: bool = False
    listed: bool = False
