"""A store in memory: versions, locks, holds, cold classes and recalls that take time.

It is a whole store with the same promises as S3, for tests and for trying things out: its clock
is given to it, so that a recall of twelve hours takes no time at all. It forgets everything when
it is dropped.
"""

from __future__ import annotations

import hashlib
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from catalog.errors import (
    CorruptObject,
    ObjectArchived,
    ObjectExists,
    ObjectLocked,
    ObjectNotFound,
    StoreError,
    Unsupported,
)
from catalog.model import NANOSECONDS, LockMode, StorageClass, iso
from connector.store.body import bytes_view, crc64nvme
from connector.store.interface import (
    NULL_VERSION,
    Capabilities,
    Part,
    PartChecksum,
    PutOptions,
    RecallState,
    RecallTier,
    StoredObject,
    StoredVersion,
    Upload,
)
from connector.store.retention import Retention

HOUR = 3600 * NANOSECONDS
DAY = 24 * HOUR

RECALL_TIME: Mapping[tuple[StorageClass, RecallTier], int] = MappingProxyType(
    {  # the upper ends of S3's own figures, in nanoseconds
        (StorageClass.GLACIER, RecallTier.EXPEDITED): HOUR // 12,
        (StorageClass.GLACIER, RecallTier.STANDARD): 5 * HOUR,
        (StorageClass.GLACIER, RecallTier.BULK): 12 * HOUR,
        (StorageClass.DEEP_ARCHIVE, RecallTier.STANDARD): 12 * HOUR,
        (StorageClass.DEEP_ARCHIVE, RecallTier.BULK): 48 * HOUR,
    }
)

MIN_PART = 5 * 1024 * 1024
MAX_PARTS = 10_000


@dataclass(slots=True)
class _Version:
    """One version of a key; data None is a delete marker."""

    version_id: str | None
    data: bytes | None
    options: PutOptions
    made_at: int
    etag: str = ""
    crc: int = 0
    retention: Retention = field(default_factory=Retention)
    hold: bool = False
    readable_from: int | None = None
    readable_until: int | None = None


@dataclass(slots=True)
class _Upload:
    upload: Upload
    options: PutOptions
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryStore:
    """``ObjectStore`` in memory. clock gives nanoseconds since 1970.

    versioning and object_lock are those of the bucket that it plays; object_lock brings
    versioning. smallest_part is what a part other than the last must have (5 MiB on S3).
    """

    def __init__(
        self,
        name: str = "test",
        *,
        versioning: bool = True,
        object_lock: bool = True,
        clock: Callable[[], int] = time.time_ns,
        smallest_part: int = MIN_PART,
    ) -> None:
        self._name = name
        self._capabilities = Capabilities(
            part_checksum=PartChecksum.CRC64NVME,
            versioning=versioning or object_lock,
            object_lock=object_lock,
            create_only=True,
        )
        self._clock = clock
        self._smallest_part = smallest_part
        self._lock = threading.RLock()
        self._versions: dict[str, list[_Version]] = {}
        self._keys: list[str] = []  # of _versions, sorted
        self._uploads: dict[str, _Upload] = {}
        self._counter = 0

    @property
    def uri(self) -> str:
        """``memory:NAME``."""
        return f"memory:{self._name}"

    def probe(self) -> Capabilities:
        """What was asked for at the beginning."""
        return self._capabilities

    # --- one object -------------------------------------------------------------------------

    def put(
        self,
        key: str,
        body: bytes | bytearray | memoryview,
        options: PutOptions | None = None,
        *,
        only_if_absent: bool = False,
    ) -> StoredObject:
        """Keep a copy of the body."""
        data = bytes(bytes_view(body))
        with self._lock:
            if only_if_absent and self._current(key) is not None:
                raise ObjectExists(f"putting {key}: the key has an object already")
            etag = _md5(data).hex()
            return self._facts(key, self._add(key, data, options or PutOptions(), etag))

    def stat(self, key: str, *, version_id: str | None = None) -> StoredObject:
        """Facts of one object."""
        with self._lock:
            return self._facts(key, self._find(key, version_id))

    def read_into(
        self, key: str, buffer: memoryview, *, offset: int = 0, version_id: str | None = None
    ) -> None:
        """Copy into the buffer."""
        view = bytes_view(buffer)
        data = self._readable(key, version_id)
        if offset + view.nbytes > len(data):
            raise CorruptObject(
                f"reading {key}: {offset + view.nbytes} bytes are needed, it has {len(data)}"
            )
        view[:] = data[offset : offset + view.nbytes]

    def read(self, key: str, *, ceiling: int, version_id: str | None = None) -> bytes:
        """The object's bytes."""
        data = self._readable(key, version_id)
        if len(data) > ceiling:
            raise CorruptObject(f"reading {key}: {len(data)} bytes, at most {ceiling} are allowed")
        return data

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        """Remove a version, or hide the object behind a delete marker where there are versions."""
        with self._lock:
            if version_id is None and self._capabilities.versioning:
                if self._current(key) is not None:
                    self._add(key, None, PutOptions(), "")
                return
            try:
                doomed = self._find(key, version_id, markers=True)
            except ObjectNotFound:
                return
            self._check_unlocked(key, doomed)
            self._versions[key].remove(doomed)
            if not self._versions[key]:
                del self._versions[key]
                del self._keys[bisect_left(self._keys, key)]

    # --- uploads ----------------------------------------------------------------------------

    def start_upload(self, key: str, options: PutOptions | None = None) -> Upload:
        """Start an upload."""
        with self._lock:
            upload = Upload(key=key, upload_id=f"upload-{self._next()}", started_at=self._clock())
            self._uploads[upload.upload_id] = _Upload(upload, options or PutOptions())
            return upload

    def put_part(self, upload: Upload, number: int, body: memoryview, *, crc64nvme: int) -> Part:
        """Keep a copy of one part."""
        data = bytes(bytes_view(body))
        if not 1 <= number <= MAX_PARTS:
            raise StoreError(f"part {number} of {upload.key}: numbers go from 1 to {MAX_PARTS}")
        _check_crc(data, crc64nvme, f"part {number} of {upload.key}")
        part = Part(number=number, size=len(data), etag=_md5(data).hex(), crc64nvme=crc64nvme)
        with self._lock:
            self._open(upload).parts[number] = (part, data)
        return part

    def parts(self, upload: Upload) -> Iterator[Part]:
        """The parts there are, ascending."""
        with self._lock:
            kept = self._open(upload).parts
            found = [kept[number][0] for number in sorted(kept)]
        yield from found

    def complete_upload(
        self, upload: Upload, parts: Sequence[Part], *, crc64nvme: int | None
    ) -> StoredObject:
        """Join the parts. An upload that is gone is settled by what lies at its key."""
        with self._lock:
            if upload.upload_id not in self._uploads:
                return self._settle(upload, parts, crc64nvme)
            if self._current(upload.key) is not None:
                raise ObjectExists(f"completing {upload.key}: the key has an object already")
            kept = self._open(upload)
            data = self._join(kept, parts)
            if crc64nvme is not None:
                _check_crc(data, crc64nvme, f"completing {upload.key}")
            digests = b"".join(bytes.fromhex(part.etag) for part in parts)
            etag = f"{_md5(digests).hex()}-{len(parts)}"
            del self._uploads[upload.upload_id]
            return self._facts(upload.key, self._add(upload.key, data, kept.options, etag))

    def abort_upload(self, upload: Upload) -> None:
        """Drop an upload and its parts."""
        with self._lock:
            self._uploads.pop(upload.upload_id, None)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Uploads of keys that begin with prefix."""
        with self._lock:
            found = [kept.upload for kept in self._uploads.values()]
        yield from sorted(
            (upload for upload in found if upload.key.startswith(prefix)),
            key=lambda upload: (upload.key, upload.upload_id),
        )

    # --- listings ---------------------------------------------------------------------------

    def scan(self, prefix: str) -> Iterator[StoredObject]:
        """Objects whose keys begin with prefix, as they are at the moment of the call's start."""
        with self._lock:
            found = list(self._below(prefix))
        yield from found

    def scan_versions(self, prefix: str) -> Iterator[StoredVersion]:
        """Every version of keys that begin with prefix, as at the moment of the call's start."""
        with self._lock:
            found = [
                StoredVersion(
                    key=key,
                    version_id=one.version_id or NULL_VERSION,
                    current=one is self._versions[key][-1],
                    marker=one.data is None,
                    size=len(one.data or b""),
                )
                for key in self._keys[bisect_left(self._keys, prefix) :]
                if key.startswith(prefix)
                for one in reversed(self._versions[key])
            ]
        yield from found

    def folders(self, prefix: str) -> Iterator[str]:
        """Names directly below ``prefix/`` that have something below them."""
        below = f"{prefix}/" if prefix else ""
        with self._lock:
            rests = [stored.key.removeprefix(below) for stored in self._below(below)]
        yield from dict.fromkeys(rest.partition("/")[0] for rest in rests if "/" in rest)

    def _below(self, prefix: str) -> Iterator[StoredObject]:
        for key in self._keys[bisect_left(self._keys, prefix) :]:
            if not key.startswith(prefix):
                return
            current = self._current(key)
            if current is not None:
                yield _listed(self._facts(key, current))

    # --- cold classes, locks ----------------------------------------------------------------

    def recall(
        self, key: str, *, days: int, tier: RecallTier, version_id: str | None = None
    ) -> None:
        """Make an archived object readable, ``RECALL_TIME`` from now, for a number of days."""
        if days < 1:
            raise Unsupported(f"recalling {key}: for {days} days", hint="ask for at least one day")
        with self._lock:
            found = self._find(key, version_id)
            took = RECALL_TIME.get((found.options.storage_class, tier))
            if took is None:
                raise Unsupported(
                    f"recalling {key}: {found.options.storage_class} has no {tier} recall",
                    hint="use another tier, or read it as it is",
                )
            now = self._clock()
            state = self._state(found)
            if state is RecallState.RECALLING:  # a faster tier speeds it up, the days stay
                sooner = max(0, (found.readable_from or 0) - (now + took))
                found.readable_from = (found.readable_from or 0) - sooner
                found.readable_until = (found.readable_until or 0) - sooner
                return
            if state is RecallState.ARCHIVED:
                found.readable_from = now + took
            found.readable_until = max(now, found.readable_from or now) + days * DAY

    def set_lock(
        self, key: str, *, mode: LockMode, until: int, version_id: str | None = None
    ) -> None:
        """Put a retention on one version; extend only."""
        with self._lock:
            found = self._find(key, version_id)
            self._need_lock(f"locking {key}")
            asked = Retention(mode, -(-until // NANOSECONDS) * NANOSECONDS)
            found.retention.check_extended_by(asked, f"locking {key}", now=self._clock())
            found.retention = asked

    def set_hold(self, key: str, *, on: bool, version_id: str | None = None) -> None:
        """Set or release the legal hold."""
        with self._lock:
            found = self._find(key, version_id)
            self._need_lock(f"holding {key}")
            found.hold = on

    # --- within -----------------------------------------------------------------------------

    def _next(self) -> str:
        self._counter += 1
        return f"{self._counter:08d}"

    def _add(self, key: str, data: bytes | None, options: PutOptions, etag: str) -> _Version:
        versions = self._versions.get(key)
        if versions is None:
            versions = self._versions[key] = []
            insort(self._keys, key)
        version_id = f"v{self._next()}" if self._capabilities.versioning else None
        made = _Version(version_id, data, options, self._clock(), etag, crc64nvme(data or b""))
        if not self._capabilities.versioning:
            versions.clear()
        versions.append(made)
        return made

    def _current(self, key: str) -> _Version | None:
        versions = self._versions.get(key)
        return versions[-1] if versions and versions[-1].data is not None else None

    def _find(self, key: str, version_id: str | None, *, markers: bool = False) -> _Version:
        found = self._current(key)
        if version_id is not None:
            versions = self._versions.get(key, ())
            asked = None if version_id == NULL_VERSION else version_id
            found = next((one for one in versions if one.version_id == asked), None)
        if found is None or (found.data is None and not markers):
            raise ObjectNotFound(f"{key}: no such object" + (" version" if version_id else ""))
        return found

    def _readable(self, key: str, version_id: str | None) -> bytes:
        with self._lock:
            found = self._find(key, version_id)
            state = self._state(found)
            if state in (RecallState.ARCHIVED, RecallState.RECALLING):
                raise ObjectArchived(f"reading {key}: it is {state}", hint="recall it first")
            return found.data or b""

    def _state(self, found: _Version) -> RecallState:
        if not found.options.storage_class.archived:
            return RecallState.READABLE
        now = self._clock()
        if found.readable_until is None or found.readable_until <= now:
            return RecallState.ARCHIVED
        if found.readable_from is not None and found.readable_from > now:
            return RecallState.RECALLING
        return RecallState.RECALLED

    def _facts(self, key: str, found: _Version) -> StoredObject:
        state = self._state(found)
        return StoredObject(
            key=key,
            size=len(found.data or b""),
            etag=found.etag,
            version_id=found.version_id,
            crc64nvme=found.crc,
            storage_class=found.options.storage_class,
            modified_at=found.made_at,
            recall=state,
            recall_expires_at=found.readable_until if state is RecallState.RECALLED else None,
            lock_mode=found.retention.mode,
            lock_until=found.retention.until or None,
            hold=found.hold,
        )

    def _check_unlocked(self, key: str, found: _Version) -> None:
        if found.hold:
            raise ObjectLocked(f"deleting {key}: under a legal hold", hint="release the hold")
        if found.retention.holds(self._clock()):
            raise ObjectLocked(
                f"deleting {key}: locked until {iso(found.retention.until)}",
                hint="wait until the lock ends",
            )

    def _need_lock(self, what: str) -> None:
        if not self._capabilities.object_lock:
            raise Unsupported(f"{what}: the bucket has no Object Lock")

    def _open(self, upload: Upload) -> _Upload:
        kept = self._uploads.get(upload.upload_id)
        if kept is None or kept.upload.key != upload.key:
            raise ObjectNotFound(f"upload of {upload.key}: no such upload", hint="start it again")
        return kept

    def _join(self, kept: _Upload, parts: Sequence[Part]) -> bytes:
        what = f"completing {kept.upload.key}"
        numbers = [part.number for part in parts]
        if not numbers or numbers != sorted(set(numbers)):
            raise CorruptObject(f"{what}: no parts, or not in ascending order")
        for part in parts:
            held = kept.parts.get(part.number)
            if held is None or held[0].etag != part.etag:
                raise CorruptObject(f"{what}: part {part.number} is not the one that was sent")
            if part.number != numbers[-1] and held[0].size < self._smallest_part:
                raise StoreError(
                    f"{what}: part {part.number} has {held[0].size} bytes, "
                    f"at least {self._smallest_part} are needed"
                )
        return b"".join(kept.parts[number][1] for number in numbers)

    def _settle(self, upload: Upload, parts: Sequence[Part], crc: int | None) -> StoredObject:
        current = self._current(upload.key)
        if current is None or current.data is None:
            raise ObjectNotFound(f"completing {upload.key}: no such upload", hint="start again")
        same_size = len(current.data) == sum(part.size for part in parts)
        if same_size and crc in (None, current.crc):
            return self._facts(upload.key, current)
        raise ObjectExists(f"completing {upload.key}: another object is there")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _check_crc(data: bytes, crc: int, what: str) -> None:
    found = crc64nvme(data)
    if found != crc:
        raise CorruptObject(f"{what}: CRC64NVME {found:016x}, expected {crc:016x}")


def _listed(stored: StoredObject) -> StoredObject:
    """What a listing tells: no version, no checksum, no lock, no recall under way."""
    cold = stored.storage_class.archived
    return replace(
        stored,
        version_id=None,
        crc64nvme=None,
        recall=RecallState.ARCHIVED if cold else RecallState.READABLE,
        recall_expires_at=None,
        lock_mode=LockMode.NONE,
        lock_until=None,
        hold=False,
    )
