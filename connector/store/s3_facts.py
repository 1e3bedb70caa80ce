"""What S3 says about an object, in our words. Pure: answers in, ``StoredObject`` out."""

from __future__ import annotations

import datetime as dt
import email.utils
import logging
import re
from collections.abc import Mapping
from typing import Any

from catalog.model import NANOSECONDS, LockMode, StorageClass
from connector.store.body import crc_from_text
from connector.store.interface import (
    NULL_VERSION,
    Part,
    RecallState,
    StoredObject,
    StoredVersion,
    Upload,
)

logger = logging.getLogger(__name__)

_RESTORE = re.compile(r'\s*ongoing-request="(true|false)"(?:\s*,\s*expiry-date="([^"]*)")?\s*')
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def to_ns(moment: dt.datetime | None) -> int | None:
    """A time of boto3 in nanoseconds since 1970, exactly."""
    if moment is None:
        return None
    since = moment.astimezone(dt.UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * NANOSECONDS + since.microseconds * 1_000


def to_datetime(time: int) -> dt.datetime:
    """A time in nanoseconds as S3 takes it: whole seconds, rounded up, so that a lock is never
    shorter than what was asked for."""
    return _EPOCH + dt.timedelta(seconds=-(-time // NANOSECONDS))


def storage_class(name: str | None) -> StorageClass:
    """The class; S3 leaves STANDARD out. A class that we do not know is told and read as it."""
    if not name:
        return StorageClass.STANDARD
    try:
        return StorageClass(name)
    except ValueError:
        logger.warning("storage class %r is not known here and is treated as STANDARD", name)
        return StorageClass.STANDARD


def recall_state(
    restore: str | None, *, archived: bool, now: int
) -> tuple[RecallState, int | None]:
    """State and expiry from the ``Restore`` header. Source: S3 API, HeadObject, ``Restore``.

    Readable again means: not ongoing, and an expiry date in the future. Some compatible stores
    send ``false`` without a date for an object that was never asked for.
    """
    if not archived:
        return RecallState.READABLE, None
    found = _RESTORE.fullmatch(restore or "")
    if not found:
        return RecallState.ARCHIVED, None
    ongoing, expiry = found.groups()
    if ongoing == "true":
        return RecallState.RECALLING, None
    try:
        expires = to_ns(email.utils.parsedate_to_datetime(expiry)) if expiry else None
    except ValueError:
        expires = None
    if expires is None or expires <= now:
        return RecallState.ARCHIVED, None
    return RecallState.RECALLED, expires


def lock_mode(name: str | None) -> LockMode:
    """Retention mode; a mode that we do not know is taken for the strictest."""
    if not name:
        return LockMode.NONE
    try:
        return LockMode(name)
    except ValueError:
        logger.warning("retention mode %r is not known here and is treated as COMPLIANCE", name)
        return LockMode.COMPLIANCE


def bare_etag(etag: str | None) -> str:
    """An ETag without its quotation marks."""
    return (etag or "").strip('"')


def version(answer: Mapping[str, Any]) -> str | None:
    """The version id; ``null`` is what unversioned objects have."""
    name = answer.get("VersionId")
    return None if name in (None, "", "null") else str(name)


def from_head(key: str, head: Mapping[str, Any], *, now: int) -> StoredObject:
    """An object from HeadObject's answer."""
    stored_in = storage_class(head.get("StorageClass"))
    archived = stored_in.archived or bool(head.get("ArchiveStatus"))
    state, expires = recall_state(head.get("Restore"), archived=archived, now=now)
    return StoredObject(
        key=key,
        size=int(head["ContentLength"]),
        etag=bare_etag(head.get("ETag")),
        version_id=version(head),
        crc64nvme=crc_from_text(head.get("ChecksumCRC64NVME")),
        storage_class=stored_in,
        modified_at=to_ns(head.get("LastModified")),
        recall=state,
        recall_expires_at=expires,
        lock_mode=lock_mode(head.get("ObjectLockMode")),
        lock_until=to_ns(head.get("ObjectLockRetainUntilDate")),
        hold=head.get("ObjectLockLegalHoldStatus") == "ON",
    )


def from_listing(key: str, entry: Mapping[str, Any]) -> StoredObject:
    """An object from one entry of ListObjectsV2, which knows neither version nor recall."""
    stored_in = storage_class(entry.get("StorageClass"))
    return StoredObject(
        key=key,
        size=int(entry["Size"]),
        etag=bare_etag(entry.get("ETag")),
        storage_class=stored_in,
        modified_at=to_ns(entry.get("LastModified")),
        recall=RecallState.ARCHIVED if stored_in.archived else RecallState.READABLE,
    )


def from_version(key: str, entry: Mapping[str, Any], *, marker: bool) -> StoredVersion:
    """A version from one entry of ListObjectVersions.

    The id stays as it is, ``null`` too: that is how a bucket without versioning, or one where it
    was suspended, is told to remove the object and leave no delete marker.
    """
    return StoredVersion(
        key=key,
        version_id=str(entry.get("VersionId") or NULL_VERSION),
        current=bool(entry.get("IsLatest")),
        marker=marker,
        size=int(entry.get("Size") or 0),
    )


def from_part(entry: Mapping[str, Any]) -> Part:
    """A part from one entry of ListParts."""
    return Part(
        number=int(entry["PartNumber"]),
        size=int(entry["Size"]),
        etag=bare_etag(entry.get("ETag")),
        crc64nvme=crc_from_text(entry.get("ChecksumCRC64NVME")),
    )


def from_upload(key: str, entry: Mapping[str, Any]) -> Upload:
    """An upload from one entry of ListMultipartUploads."""
    return Upload(
        key=key, upload_id=str(entry["UploadId"]), started_at=to_ns(entry.get("Initiated"))
    )
