"""What a pool needs from a store of objects, and no more.

Every store passes ``tests/conformance/store.py``. A store knows objects: keys, versions, parts,
classes, locks. It does not know images; those are the pool's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from catalog.model import LockMode, StorageClass

PROBE_PREFIX = ".probe-"
"""Keys that a store tries things with; what a dead process left under it can be removed."""

NULL_VERSION = "null"
"""The id by which a version is deleted that has none, in a bucket without versions. Source: S3
user guide, "Working with objects in a versioning-suspended bucket"."""


class PartChecksum(StrEnum):
    """How a store confirms that it received a part as it was sent."""

    CRC64NVME = "CRC64NVME"
    MD5 = "MD5"


class RecallTier(StrEnum):
    """Speed of a recall. Source: S3 RestoreObject, ``GlacierJobParameters.Tier``."""

    EXPEDITED = "Expedited"
    STANDARD = "Standard"
    BULK = "Bulk"


class RecallState(StrEnum):
    """Whether an object can be read now."""

    READABLE = "readable"  # not in a cold class
    ARCHIVED = "archived"  # cold, nobody asked for it
    RECALLING = "recalling"  # cold, on its way
    RECALLED = "recalled"  # cold, with a temporary readable copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this endpoint can do, found out by trying it once (see ``ObjectStore.probe``)."""

    part_checksum: PartChecksum
    versioning: bool
    object_lock: bool
    create_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOptions:
    """What an object is created with. Tags: at most 10, as S3 allows."""

    storage_class: StorageClass = StorageClass.STANDARD
    tags: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object as the store reports it.

    crc64nvme is the full object's, when the store keeps one. etag is without quotation marks.
    """

    key: str
    size: int
    etag: str
    version_id: str | None = None
    crc64nvme: int | None = None
    storage_class: StorageClass = StorageClass.STANDARD
    modified_at: int | None = None
    recall: RecallState = RecallState.READABLE
    recall_expires_at: int | None = None
    lock_mode: LockMode = LockMode.NONE
    lock_until: int | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersion:
    """One version of a key, hidden ones too. marker: a delete marker, which has no bytes.

    version_id is what ``delete`` takes to remove exactly this one and leave no marker: NULL_VERSION
    where there are no ids. current: it is what the key shows; a current marker hides the key.
    """

    key: str
    version_id: str
    current: bool
    marker: bool
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A multipart upload that was started and neither completed nor aborted."""

    key: str
    upload_id: str
    started_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part that the store has confirmed. number counts from 1, size is bytes.

    crc64nvme is None where a listing does not tell it; the pool then compares size and etag.
    """

    number: int
    size: int
    etag: str
    crc64nvme: int | None = field(default=None)


class ObjectStore(Protocol):
    """Where a pool's objects live.

    Promises, checked by the conformance suite:

    - An object is invisible until its put or its upload completes, and never changes after.
    - A body is sent as it is; the store confirms a checksum of every body or raises CorruptObject.
    - Calls may come from several threads at once. A body is only read during the call.
    - Every call ends within the store's deadline. What is safe to repeat is repeated inside
      (throttling, timeouts, resets, errors of the server); then TransientStoreError.
    - Only StoreError and its children leave a store.
    - Keys are relative to the store's prefix, without a leading slash.
    """

    @property
    def uri(self) -> str:
        """Where the store is, ``s3://BUCKET/PREFIX`` or ``memory:NAME``; holds no secret."""
        ...

    def probe(self) -> Capabilities:
        """Find out what the endpoint can do, by trying. Leaves nothing behind. Cached.

        Raises StoreUnusable when the bucket is missing or may not be used.
        """
        ...

    def put(
        self,
        key: str,
        body: bytes | bytearray | memoryview,
        options: PutOptions | None = None,
        *,
        only_if_absent: bool = False,
    ) -> StoredObject:
        """Create or replace an object in one request; at most 5 GB.

        With only_if_absent: ObjectExists when the key has a current version. A lost answer is
        settled inside: when the object that is there now has these bytes, the put succeeded.
        """
        ...

    def start_upload(self, key: str, options: PutOptions | None = None) -> Upload:
        """Start a multipart upload. Not repeated blindly: an orphan may stay if the answer is
        lost; ``uploads(key)`` finds it."""
        ...

    def put_part(self, upload: Upload, number: int, body: memoryview, *, crc64nvme: int) -> Part:
        """Send one part (5 MiB to 5 GiB, the last one may be smaller; number 1 to 10,000).

        The store confirms the checksum or the part is not accepted. Sending a number again
        replaces it. ObjectNotFound: the upload was aborted or completed meanwhile.
        """
        ...

    def parts(self, upload: Upload) -> Iterator[Part]:
        """The parts that the store really has, ascending. The truth when resuming."""
        ...

    def complete_upload(
        self, upload: Upload, parts: Sequence[Part], *, crc64nvme: int | None
    ) -> StoredObject:
        """Make the object visible, from all its parts in ascending order.

        crc64nvme is the whole object's. Size and, where the store keeps it, checksum of the
        result are compared; CorruptObject when they disagree. A lost answer is settled inside:
        an upload that is gone while the object with this size and checksum is there, succeeded.
        """
        ...

    def abort_upload(self, upload: Upload) -> None:
        """Give up an upload and check that no part is left. An upload that is gone is success."""
        ...

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Uploads in progress below a key prefix."""
        ...

    def read_into(
        self, key: str, buffer: memoryview, *, offset: int = 0, version_id: str | None = None
    ) -> None:
        """Fill the whole buffer with the object's bytes from offset on.

        Raises ObjectArchived, ObjectNotFound; CorruptObject when the object is shorter.
        """
        ...

    def read(self, key: str, *, ceiling: int, version_id: str | None = None) -> bytes:
        """A small object whole. CorruptObject when it is larger than ceiling bytes."""
        ...

    def stat(self, key: str, *, version_id: str | None = None) -> StoredObject:
        """Facts of one object, its checksum, class, lock and recall state included."""
        ...

    def scan(self, prefix: str) -> Iterator[StoredObject]:
        """Current objects below a key prefix, in key order; size, etag and class only."""
        ...

    def scan_versions(self, prefix: str) -> Iterator[StoredVersion]:
        """Every version and delete marker below a key prefix, those that are hidden included.

        Without versioning: the objects. What is written meanwhile may or may not appear.
        """
        ...

    def folders(self, prefix: str) -> Iterator[str]:
        """The distinct names directly below ``prefix/``, in order, without slashes."""
        ...

    def recall(
        self, key: str, *, days: int, tier: RecallTier, version_id: str | None = None
    ) -> None:
        """Ask for a readable copy of an archived object for a number of days (at least 1).

        Asking again while one is on its way, or is there, succeeds. Unsupported: this tier is
        not offered for this class, or this store has no recall.
        """
        ...

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        """Remove an object, or one version of it. What is gone already is success.

        Raises ObjectLocked when a lock or a hold forbids it.
        """
        ...

    def set_lock(
        self, key: str, *, mode: LockMode, until: int, version_id: str | None = None
    ) -> None:
        """Put a retention on one version; extend only.

        Raises ObjectLocked when this would shorten, Unsupported without Object Lock.
        """
        ...

    def set_hold(self, key: str, *, on: bool, version_id: str | None = None) -> None:
        """Set or release the legal hold of one version."""
        ...
