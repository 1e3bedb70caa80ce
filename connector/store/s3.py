"""The S3 store: ``ObjectStore`` on AWS and on what speaks its language.

The parts are next door: uploads in ``s3_upload``, locks in ``s3_lock``, what the endpoint can do
in ``s3_probe``, what its answers mean in ``s3_facts``. Here are single objects and listings.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from catalog.errors import (
    CorruptObject,
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    TransientStoreError,
    Unsupported,
)
from catalog.model import LockMode, StorageClass
from catalog.retry import Retrying
from catalog.s3 import S3Limits, S3Location, vendor_code
from connector.store import s3_facts, s3_probe, s3_upload
from connector.store.body import (
    as_body,
    bytes_view,
    crc64nvme,
    crc_from_text,
    fill,
    md5_of,
)
from connector.store.interface import (
    Capabilities,
    Part,
    PutOptions,
    RecallState,
    RecallTier,
    StoredObject,
    StoredVersion,
    Upload,
)
from connector.store.s3_bucket import S3Bucket, once
from connector.store.s3_checksum import seal
from connector.store.s3_encryption import Encryption
from connector.store.s3_lifecycle import Lifecycle
from connector.store.s3_lock import Locks
from connector.store.s3_traffic import Traffic

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

READ_BACK_CEILING = 64 * 1024 * 1024
"""Largest object, in bytes, that is read back to settle a put whose answer was lost."""


class S3Store:
    """Objects below a prefix of a bucket. See ``ObjectStore`` for what every call promises."""

    def __init__(
        self,
        location: S3Location,
        *,
        limits: S3Limits | None = None,
        encryption: Encryption | None = None,
        clock: Callable[[], int] = time.time_ns,
        retrying: Retrying | None = None,
    ) -> None:
        self._bucket = S3Bucket.open(
            location,
            limits=limits or S3Limits(),
            encryption=encryption or Encryption(),
            retrying=retrying,
        )
        self._clock = clock
        self._locks = Locks(bucket=self._bucket, probe=self.probe, stat=self._stat, clock=clock)
        self._probing = threading.Lock()
        self._capabilities: Capabilities | None = None

    @property
    def uri(self) -> str:
        """``s3://BUCKET/PREFIX``."""
        return self._bucket.location.uri

    @property
    def traffic(self) -> Traffic:
        """What was asked of S3 so far, and how it ended."""
        return self._bucket.counter.traffic

    def close(self) -> None:
        """Close the connections. The store is of no use afterwards."""
        self._bucket.client.close()

    def probe(self) -> Capabilities:
        """What the endpoint can do; tried on the first call, which makes about ten requests."""
        with self._probing:
            if self._capabilities is None:
                self._capabilities = s3_probe.probe(self._bucket)
                logger.info("%s: %s", self.uri, self._capabilities)
            return self._capabilities

    def lifecycle(self) -> Lifecycle:
        """The lifecycle rules of the bucket; not of the prefix alone."""
        return Lifecycle(self._bucket)

    # --- one object -------------------------------------------------------------------------

    def put(
        self,
        key: str,
        body: bytes | bytearray | memoryview,
        options: PutOptions | None = None,
        *,
        only_if_absent: bool = False,
    ) -> StoredObject:
        """PutObject; create-only with If-None-Match.

        Raises Unsupported for only_if_absent on a store that ignores the condition.
        """
        view = bytes_view(body)
        able = self.probe()
        if only_if_absent and not able.create_only:
            raise Unsupported(
                f"create-only put of {key}: this store does not hold writers apart",
                hint="use a store with conditional writes (If-None-Match)",
            )
        crc = crc64nvme(view)
        mark = seal(view, able.part_checksum, crc)
        parameters = self._bucket.names(key) | s3_upload.creation(self._bucket, options)
        parameters |= mark.headers() | ({"IfNoneMatch": "*"} if only_if_absent else {})
        what = f"putting {key}"
        answer = self._put(what, parameters, view)
        if answer is None:
            return self._settled(key, view, crc, what)
        mark.confirm(answer, what)
        return StoredObject(
            key=key,
            size=view.nbytes,
            etag=s3_facts.bare_etag(answer.get("ETag")),
            version_id=s3_facts.version(answer),
            crc64nvme=crc if mark.md5 is None else None,
            storage_class=(options or PutOptions()).storage_class,
        )

    def _put(self, what: str, parameters: dict[str, Any], view: memoryview) -> Any:
        """The answer, or None when an attempt before the last one may have been the writer."""
        in_doubt = False

        def attempt() -> Any:
            nonlocal in_doubt
            try:
                return once(
                    what,
                    lambda: self._bucket.client.put_object(**parameters, Body=as_body(view)),
                )
            except ObjectExists as exc:
                if vendor_code(exc.__cause__) == "ConditionalRequestConflict":
                    # another write or delete of this key was under way: its outcome decides
                    raise TransientStoreError(exc.message) from exc
                if in_doubt:
                    return None
                raise
            except TransientStoreError:
                in_doubt = True
                raise

        return self._bucket.retrying.call(what, attempt)

    def _settled(self, key: str, view: memoryview, crc: int, what: str) -> StoredObject:
        """The object that is there, when it is ours; ObjectExists when it is another's."""
        stored = self.stat(key)
        if stored.size == view.nbytes and self._same(stored, view, crc):
            logger.info("%s: the answer was lost, the object is there", what)
            return stored
        raise ObjectExists(f"{what}: the key has an object with other bytes")

    def _same(self, stored: StoredObject, view: memoryview, crc: int) -> bool:
        if stored.crc64nvme is not None:
            return stored.crc64nvme == crc
        if stored.etag == md5_of(view).hex():
            return True
        if stored.size > READ_BACK_CEILING or stored.recall is RecallState.ARCHIVED:
            return False
        return self.read(stored.key, ceiling=stored.size) == view

    def stat(self, key: str, *, version_id: str | None = None) -> StoredObject:
        """HeadObject, with its checksum."""
        return self._stat(key, version_id)

    def _stat(self, key: str, version_id: str | None) -> StoredObject:
        return s3_facts.from_head(key, self._head(key, version_id), now=self._clock())

    def _head(self, key: str, version_id: str | None) -> dict[str, Any]:
        parameters = self._bucket.names(key, version_id) | self._bucket.encryption.on_access()
        return dict(
            self._get(
                f"looking at {key}",
                lambda: self._bucket.client.head_object(**parameters, ChecksumMode="ENABLED"),
            )
        )

    def read_into(
        self, key: str, buffer: memoryview, *, offset: int = 0, version_id: str | None = None
    ) -> None:
        """GetObject with a Range, straight into the buffer; repeated whole when it breaks off."""
        view = bytes_view(buffer)
        if not view.nbytes:
            self._check_reaches(key, offset, version_id)
            return
        last = offset + view.nbytes - 1
        parameters = {
            **self._bucket.names(key, version_id),
            **self._bucket.encryption.on_access(),
            "Range": f"bytes={offset}-{last}",
        }
        what = f"reading {key} from byte {offset}"
        timeout = self._bucket.limits.read_timeout_s

        def attempt() -> None:
            answer = self._bucket.client.get_object(**parameters)
            try:
                check_range(answer, offset, last, what)
            except CorruptObject:
                answer["Body"].close()
                raise
            fill(answer["Body"], view, what, read_timeout_s=timeout)

        self._get(what, attempt)

    def _check_reaches(self, key: str, offset: int, version_id: str | None) -> None:
        stored = self._stat(key, version_id)
        if stored.size < offset:
            raise CorruptObject(f"reading {key} from byte {offset}: it has {stored.size} bytes")
        if stored.recall in (RecallState.ARCHIVED, RecallState.RECALLING):
            raise ObjectArchived(f"reading {key}: it is {stored.recall}", hint="recall it first")

    def read(self, key: str, *, ceiling: int, version_id: str | None = None) -> bytes:
        """GetObject whole; compared with the CRC64NVME that the store keeps, where it keeps one."""
        parameters = self._bucket.names(key, version_id) | self._bucket.encryption.on_access()
        what = f"reading {key}"
        timeout = self._bucket.limits.read_timeout_s

        def attempt() -> bytes:
            answer = self._bucket.client.get_object(**parameters, ChecksumMode="ENABLED")
            size = answer.get("ContentLength")
            if size is None or size > ceiling:
                answer["Body"].close()
                raise CorruptObject(f"{what}: {size} bytes, at most {ceiling} are allowed")
            data = bytearray(size)
            fill(answer["Body"], memoryview(data), what, read_timeout_s=timeout)
            told = crc_from_text(answer.get("ChecksumCRC64NVME"))
            if told is not None and crc64nvme(data) != told:
                raise CorruptObject(
                    f"{what}: CRC64NVME {crc64nvme(data):016x}, the store says {told:016x}"
                )
            return bytes(data)

        return self._get(what, attempt)

    def _get(self, what: str, fn: Callable[[], T]) -> T:
        """Call for one object. Asked for a version that is a delete marker, S3 says 405."""
        try:
            return self._bucket.call(what, fn)
        except Unsupported as exc:
            if vendor_code(exc.__cause__) in ("405", "MethodNotAllowed"):
                raise ObjectNotFound(f"{what}: this version says that it was deleted") from exc
            raise

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        """DeleteObject."""
        self._locks.delete(key, version_id)

    # --- uploads ----------------------------------------------------------------------------

    def start_upload(self, key: str, options: PutOptions | None = None) -> Upload:
        """CreateMultipartUpload."""
        return s3_upload.start(self._bucket, key, options, self.probe().part_checksum)

    def put_part(self, upload: Upload, number: int, body: memoryview, *, crc64nvme: int) -> Part:
        """UploadPart; the body goes to the socket without a copy."""
        kind = self.probe().part_checksum
        return s3_upload.put_part(self._bucket, upload, number, bytes_view(body), crc64nvme, kind)

    def parts(self, upload: Upload) -> Iterator[Part]:
        """ListParts."""
        return s3_upload.parts(self._bucket, upload)

    def complete_upload(
        self, upload: Upload, parts: Sequence[Part], *, crc64nvme: int | None
    ) -> StoredObject:
        """CompleteMultipartUpload, and a HeadObject to compare."""
        kind = self.probe().part_checksum
        head = s3_upload.complete(self._bucket, upload, parts, crc64nvme, kind, self._head)
        return s3_facts.from_head(upload.key, head, now=self._clock())

    def abort_upload(self, upload: Upload) -> None:
        """AbortMultipartUpload, until nothing is left."""
        s3_upload.abort(self._bucket, upload)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """ListMultipartUploads. prefix is a string that keys begin with."""
        return s3_upload.uploads(self._bucket, prefix)

    # --- listings ---------------------------------------------------------------------------

    def scan(self, prefix: str) -> Iterator[StoredObject]:
        """ListObjectsV2. prefix is a string that keys begin with."""
        for page in self._list({"Prefix": self._bucket.location.key(prefix)}, prefix):
            for entry in page.get("Contents", ()):
                yield s3_facts.from_listing(self._bucket.relative(entry["Key"]), entry)

    def scan_versions(self, prefix: str) -> Iterator[StoredVersion]:
        """ListObjectVersions. prefix is a string that keys begin with."""
        pages = self._bucket.pages(
            f"listing the versions below {prefix or 'the pool'}",
            self._bucket.client.list_object_versions,
            {"Bucket": self._bucket.location.bucket, "Prefix": self._bucket.location.key(prefix)},
            {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"},
        )
        for page in pages:
            for kind in ("Versions", "DeleteMarkers"):
                for entry in page.get(kind, ()):
                    key = self._bucket.relative(entry["Key"])
                    yield s3_facts.from_version(key, entry, marker=kind == "DeleteMarkers")

    def folders(self, prefix: str) -> Iterator[str]:
        """ListObjectsV2 with a delimiter; objects directly below the prefix are no folders."""
        below = self._bucket.location.key(f"{prefix}/" if prefix else "")
        for page in self._list({"Prefix": below, "Delimiter": "/"}, prefix):
            for entry in page.get("CommonPrefixes", ()):
                yield str(entry["Prefix"]).removeprefix(below).removesuffix("/")

    def _list(self, parameters: dict[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
        return self._bucket.pages(
            f"listing {prefix or 'the pool'}",
            self._bucket.client.list_objects_v2,
            {"Bucket": self._bucket.location.bucket, **parameters},
            {"ContinuationToken": "NextContinuationToken"},
        )

    # --- cold classes, locks ----------------------------------------------------------------

    def recall(
        self, key: str, *, days: int, tier: RecallTier, version_id: str | None = None
    ) -> None:
        """RestoreObject. 202 and 200 are success, and so is that it is under way already."""
        what = f"recalling {key}"
        if days < 1:
            raise Unsupported(f"{what}: for {days} days", hint="ask for at least one day")
        if tier is RecallTier.EXPEDITED:
            self._check_expedited(key, version_id, what)
        request = {"Days": days, "GlacierJobParameters": {"Tier": str(tier)}}
        parameters = self._bucket.names(key, version_id) | {"RestoreRequest": request}
        try:
            self._bucket.call(what, lambda: self._bucket.client.restore_object(**parameters))
        except (ObjectNotFound, TransientStoreError):
            raise
        except StoreError as exc:
            code = vendor_code(exc.__cause__)
            if code == "RestoreAlreadyInProgress":
                return
            if isinstance(exc, ObjectArchived):
                raise Unsupported(
                    f"{what}: its class is read without a recall", hint="read it as it is"
                ) from exc
            if code in ("InvalidArgument", "InvalidRequest", "MalformedXML"):
                raise Unsupported(
                    f"{what}: not offered here: {exc.message}", hint="see what the store offers"
                ) from exc
            raise

    def _check_expedited(self, key: str, version_id: str | None, what: str) -> None:
        if self._stat(key, version_id).storage_class is StorageClass.DEEP_ARCHIVE:
            raise Unsupported(
                f"{what}: DEEP_ARCHIVE has no expedited recall", hint="use Standard or Bulk"
            )

    def set_lock(
        self, key: str, *, mode: LockMode, until: int, version_id: str | None = None
    ) -> None:
        """PutObjectRetention; extend only. S3 keeps seconds: until is rounded up."""
        self._locks.set_lock(key, mode, until, version_id)

    def set_hold(self, key: str, *, on: bool, version_id: str | None = None) -> None:
        """PutObjectLegalHold."""
        self._locks.set_hold(key, on, version_id)


def check_range(answer: Mapping[str, Any], first: int, last: int, what: str) -> None:
    """Raise CorruptObject unless the answer to a ranged Get holds exactly these bytes.

    A store may answer a range with the whole object (RFC 9110, section 14.2); that is right only
    where the whole object is what was asked for.
    """
    wanted = last - first + 1
    length = answer.get("ContentLength")
    content_range = answer.get("ContentRange")
    if content_range is None:
        if first != 0 or length != wanted:
            raise CorruptObject(f"{what}: asked for {wanted} bytes, the store sends {length}")
        return
    found = _CONTENT_RANGE.fullmatch(content_range)
    if not found:
        raise CorruptObject(f"{what}: the store sends the range {content_range!r}")
    start, end, total = found.groups()
    if int(start) != first or int(end) > last:
        raise CorruptObject(f"{what}: asked for {first}-{last}, the store sends {content_range}")
    if int(end) < last:
        raise CorruptObject(f"{what}: the object has only {total} bytes, {last + 1} are needed")
    if length not in (None, wanted):
        raise CorruptObject(f"{what}: range {content_range}, but {length} bytes")
