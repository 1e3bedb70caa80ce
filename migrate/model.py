"""The neutral model: what any backup product's catalogue says, in one set of words.

Source: the rules of docs/design.md, "From catalogue to plan". Unknown is ``None``, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from catalog.model import ScheduleType


class Storage(StrEnum):
    """Where a copy lies in the old world."""

    TAPE = "tape"
    DISK = "disk"


class Problem(StrEnum):
    """A finding of the validator: a result that decides whether an image can be planned."""

    EXPIRED = "expired"
    INCOMPLETE = "incomplete"
    MISSING_FRAGMENT = "missing_fragment"
    COPY_COUNT_MISMATCH = "copy_count_mismatch"
    NO_TAPE_COPY = "no_tape_copy"
    MEDIA_REUSED = "media_reused"
    UNKNOWN_MEDIA = "unknown_media"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A run of a copy's bytes on one tape (or disk).

    fragment_number counts from 1; a number below 1 is not image data and is never concatenated.
    tape_file_number counts filemarks from the beginning of the tape. block_offset is the logical
    block address of the fragment's first block, its backup header included. block_size is the
    product's, in bytes. size_bytes is image data, without headers; size_is_exact is false when
    the export rounds it (to KiB). media_assigned_at is when the tape was assigned, as this
    catalogue entry remembers it: a tape assigned later was overwritten since. key_tag names the
    key of a drive-encrypted fragment.
    """

    fragment_number: int
    media_id: str
    tape_file_number: int | None = None
    block_offset: int | None = None
    block_size: int | None = None
    size_bytes: int | None = None
    size_is_exact: bool = True
    multiplexed: bool = False
    media_assigned_at: int | None = None
    key_tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One complete instance of an image, numbered from 1."""

    copy_number: int
    storage: Storage
    primary: bool = False
    expires_at: int | None = None
    expires_infinite: bool = False
    hold: bool = False
    fragments: tuple[Fragment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What one backup job wrote for one client and policy. Times are UTC nanoseconds.

    expires_at None with expires_infinite true is never; None with false is unknown or not yet
    set. unfinished: the catalogue itself says that the backup never ended. expected_copies is how
    many copies the catalogue claims, expected_fragments how many fragments of the primary copy.
    row is the line of the source that first named the image, for reports.
    """

    image_id: str
    product: str
    client: str | None = None
    policy: str | None = None
    schedule: str | None = None
    schedule_type: ScheduleType | None = None
    backup_time: int | None = None
    expires_at: int | None = None
    expires_infinite: bool = False
    retention_level: int | None = None
    size_bytes: int | None = None
    file_count: int | None = None
    compressed: bool | None = None
    encrypted: bool | None = None
    hold: bool = False
    unfinished: bool = False
    expected_copies: int | None = None
    expected_fragments: int | None = None
    copies: tuple[Copy, ...] = ()
    problems: tuple[Problem, ...] = ()
    row: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A tape as the product knows it. media_id is not the barcode: keep both.

    label is what the tape itself must say it is, when that is not the media id (a GNU tar volume
    label, say). assigned_at: see Fragment.media_assigned_at; assigned_uncertainty is how far off
    it may be, either way, because a report rounds it or does not name its time zone.
    """

    media_id: str
    barcode: str | None = None
    label: str | None = None
    density: str | None = None
    assigned_at: int | None = None
    assigned_uncertainty: int = 0
    expires_at: int | None = None
    expires_infinite: bool = False
    frozen: bool = False
    suspended: bool = False
