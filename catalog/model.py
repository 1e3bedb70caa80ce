"""The words that all packages share, and the fact: one row of the ledger.

Sizes are bytes. Times are UTC integers in nanoseconds since 1970 (``_ns`` is implied); any other
unit stands in the name. Unknown is ``None``, never 0.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

NANOSECONDS = 1_000_000_000


class StorageClass(StrEnum):
    """Storage classes of S3, by their API names. Source: S3 API, ``StorageClass``."""

    STANDARD = "STANDARD"
    INTELLIGENT_TIERING = "INTELLIGENT_TIERING"
    STANDARD_IA = "STANDARD_IA"
    ONEZONE_IA = "ONEZONE_IA"
    GLACIER_IR = "GLACIER_IR"
    GLACIER = "GLACIER"
    DEEP_ARCHIVE = "DEEP_ARCHIVE"

    @property
    def archived(self) -> bool:
        """Whether objects of this class must be recalled before they can be read."""
        return self in (StorageClass.GLACIER, StorageClass.DEEP_ARCHIVE)


class LockMode(StrEnum):
    """Object Lock retention modes of S3; NONE asks for no lock."""

    NONE = "NONE"
    GOVERNANCE = "GOVERNANCE"
    COMPLIANCE = "COMPLIANCE"


class ScheduleType(StrEnum):
    """What kind of backup an image is, in one vocabulary for all products."""

    FULL = "FULL"
    DIFF_INCR = "DIFF_INCR"
    CUMUL_INCR = "CUMUL_INCR"
    USER_BACKUP = "USER_BACKUP"
    USER_ARCHIVE = "USER_ARCHIVE"
    TLOG = "TLOG"
    OTHER = "OTHER"


class Kind(StrEnum):
    """What a fact says. New kinds are added, never renamed: old ledgers keep their words."""

    STORED = "stored"
    SKIPPED = "skipped"
    FAILED = "failed"
    DAMAGED = "damaged"
    VERIFIED = "verified"
    TIERED = "tiered"
    RECALLED = "recalled"
    RESTORED = "restored"
    HOLD_PLACED = "hold_placed"
    HOLD_RELEASED = "hold_released"
    RETENTION_EXTENDED = "retention_extended"
    EXPIRED = "expired"
    DELETED = "deleted"
    ERASED = "erased"
    TAPE_READ = "tape_read"
    TAPE_RELEASED = "tape_released"


@dataclass(frozen=True, slots=True, kw_only=True)
class TapePlace:
    """Where a run of an image's bytes was on tape.

    tape_file counts filemarks from the beginning of the tape: 0 is before the first mark.
    block_offset is the drive's logical block address. size is bytes of image data.
    """

    media_id: str
    barcode: str | None = None
    fragment_number: int | None = None
    tape_file: int | None = None
    block_offset: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFragment:
    """One object of the pool, as the ledger names it. crc64nvme is base64, as S3 prints it."""

    key: str
    version_id: str | None
    size: int
    sha256: str
    crc64nvme: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One row of the ledger: something that happened to an image or a tape.

    fact_id is unique for ever (a UUID, made when the fact is written to the outbox), so that a
    fact that was committed twice could be recognised. Digests are lower-case hex.
    """

    fact_id: str
    kind: Kind
    recorded_at: int
    actor: str
    writer: str
    run_id: str | None = None
    reason: str | None = None
    # the image
    image: str | None = None
    copy: int | None = None
    product: str | None = None
    client: str | None = None
    policy: str | None = None
    schedule: str | None = None
    schedule_type: ScheduleType | None = None
    backup_time: int | None = None
    expires_at: int | None = None
    expires_infinite: bool | None = None
    size: int | None = None
    sha256: str | None = None
    problems: tuple[str, ...] = ()
    # the tape
    media: tuple[str, ...] = ()
    barcode: str | None = None
    drive: str | None = None
    places: tuple[TapePlace, ...] = ()
    # the pool
    pool: str | None = None
    manifest_key: str | None = None
    fragments: tuple[StoredFragment, ...] = ()
    storage_class: StorageClass | None = None
    lock_mode: LockMode | None = None
    lock_until: int | None = None
    hold: bool | None = None
    # anything else, as a JSON object
    detail: str | None = None


def iso(time: int | None) -> str | None:
    """Write a time as ISO 8601 in UTC, to the second: ``2024-06-01T00:00:00Z``."""
    if time is None:
        return None
    moment = dt.datetime.fromtimestamp(time // NANOSECONDS, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def from_iso(text: str) -> int:
    """Read ISO 8601 with an offset or ``Z``; a time without a zone is taken as UTC."""
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    delta = moment - epoch
    return (delta.days * 86_400 + delta.seconds) * NANOSECONDS + delta.microseconds * 1_000
