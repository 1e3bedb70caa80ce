"""Multipart uploads on S3: start, parts, complete, abort, and what a lost answer means.

No upload counts as complete until the object was looked at: its size, and the checksum or the
ETag that follows from its parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from catalog.errors import (
    CorruptObject,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    TransientStoreError,
)
from connector.store import s3_facts
from connector.store.body import as_body, crc_from_text, crc_to_text
from connector.store.interface import Part, PartChecksum, PutOptions, Upload
from connector.store.s3_bucket import S3Bucket, did_nothing, once
from connector.store.s3_checksum import joined_crc, opaque_etag, seal, upload_etag

logger = logging.getLogger(__name__)

Head = Callable[[str, str | None], dict[str, Any]]
"""HeadObject of a key, or of one version of it."""


def creation(bucket: S3Bucket, options: PutOptions | None) -> dict[str, Any]:
    """Parameters that PutObject and CreateMultipartUpload share."""
    options = options or PutOptions()
    parameters: dict[str, Any] = {
        "ContentType": options.content_type,
        "StorageClass": str(options.storage_class),
        **bucket.encryption.on_create(),
    }
    if options.metadata:
        parameters["Metadata"] = dict(options.metadata)
    if options.tags:
        parameters["Tagging"] = urlencode(options.tags)
    return parameters


def start(bucket: S3Bucket, key: str, options: PutOptions | None, kind: PartChecksum) -> Upload:
    """CreateMultipartUpload. Repeated only when the attempt before cannot have started one."""
    what = f"starting an upload of {key}"
    parameters = bucket.names(key) | creation(bucket, options)
    if kind is PartChecksum.CRC64NVME:
        parameters |= {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}

    def attempt() -> dict[str, Any] | StoreError:
        try:
            answer: dict[str, Any] = once(
                what, lambda: bucket.client.create_multipart_upload(**parameters)
            )
        except TransientStoreError as exc:
            if did_nothing(exc):
                raise
            return exc
        return answer

    answer = bucket.retrying.call(what, attempt)
    if isinstance(answer, StoreError):
        answer.hint = "an upload without parts may be left; start again, abort what uploads() shows"
        raise answer
    return Upload(key=key, upload_id=str(answer["UploadId"]))


def put_part(
    bucket: S3Bucket, upload: Upload, number: int, view: memoryview, crc: int, kind: PartChecksum
) -> Part:
    """UploadPart. Sending it again replaces it, so it is repeated like any other request."""
    what = f"part {number} of {upload.key}"
    mark = seal(view, kind, crc)
    parameters = {
        **identity(bucket, upload),
        "PartNumber": number,
        **mark.headers(),
        **bucket.encryption.on_access(),
    }
    answer = bucket.call(what, lambda: bucket.client.upload_part(**parameters, Body=as_body(view)))
    mark.confirm(answer, what)
    etag = s3_facts.bare_etag(answer.get("ETag"))
    return Part(number=number, size=view.nbytes, etag=etag, crc64nvme=crc)


def parts(bucket: S3Bucket, upload: Upload) -> Iterator[Part]:
    """ListParts, all pages."""
    for page in bucket.pages(
        f"listing parts of {upload.key}",
        bucket.client.list_parts,
        identity(bucket, upload) | bucket.encryption.on_access(),
        {"PartNumberMarker": "NextPartNumberMarker"},
    ):
        for entry in page.get("Parts", ()):
            yield s3_facts.from_part(entry)


def complete(
    bucket: S3Bucket,
    upload: Upload,
    made_of: Sequence[Part],
    crc: int | None,
    kind: PartChecksum,
    head: Head,
) -> dict[str, Any]:
    """CompleteMultipartUpload, create-only, and a look at what came out of it: its HeadObject."""
    what = f"completing {upload.key}"
    whole = _Whole.of(made_of, crc, what)
    if kind is PartChecksum.MD5:
        _refuse_existing(bucket, upload, head, what)
    parameters = _completion(bucket, upload, whole, with_crc=kind is PartChecksum.CRC64NVME)

    def attempt() -> dict[str, Any]:
        try:
            return once(what, lambda: bucket.client.complete_multipart_upload(**parameters))
        except TransientStoreError as exc:
            if is_open(bucket, upload):
                raise
            # this attempt made the object, or the upload was gone before and the store does not
            # say it in so many words (RADOS Gateway 16: 500)
            raise ObjectNotFound(exc.message, hint=exc.hint) from exc

    try:
        answer = bucket.retrying.call(what, attempt)
    except (ObjectExists, ObjectNotFound) as exc:
        return _settle(bucket, upload, whole, head, exc)
    there = head(upload.key, s3_facts.version(answer))
    if whole.is_in(there) is False:
        raise CorruptObject(
            f"{what}: {_told(there)}, sent {whole}", hint="delete the object and send it again"
        )
    return there


@dataclass(frozen=True, slots=True)
class _Whole:
    """What the parts must make."""

    parts: tuple[Part, ...]
    size: int
    crc: int | None
    etag: str | None

    @classmethod
    def of(cls, parts: Sequence[Part], crc: int | None, what: str) -> _Whole:
        """Raises CorruptObject when the parts cannot make an object with this checksum."""
        joined = joined_crc(parts)
        if crc is None:
            crc = joined
        elif joined is not None and joined != crc:
            raise CorruptObject(
                f"{what}: its parts make CRC64NVME {joined:016x}, expected {crc:016x}",
                hint="a part is missing, doubled or of another object; send it again",
            )
        return cls(tuple(parts), sum(part.size for part in parts), crc, upload_etag(parts))

    def is_in(self, there: Mapping[str, Any]) -> bool | None:
        """Whether an object is this; None when only its size speaks for it."""
        if int(there["ContentLength"]) != self.size:
            return False
        told = crc_from_text(there.get("ChecksumCRC64NVME"))
        if self.crc is not None and told is not None:
            return told == self.crc
        if self.etag is not None and not opaque_etag(there):
            return s3_facts.bare_etag(there.get("ETag")) == self.etag
        return None

    def __str__(self) -> str:
        crc = "unknown" if self.crc is None else crc_to_text(self.crc)
        return f"{self.size} bytes, CRC64NVME {crc}, ETag {self.etag}"


def _told(there: Mapping[str, Any]) -> str:
    crc = there.get("ChecksumCRC64NVME", "unknown")
    return f"the store has {there['ContentLength']} bytes, CRC64NVME {crc}, ETag {there['ETag']}"


def _completion(
    bucket: S3Bucket, upload: Upload, whole: _Whole, *, with_crc: bool
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        **identity(bucket, upload),
        "MultipartUpload": {"Parts": [_named(part, with_crc) for part in whole.parts]},
        "IfNoneMatch": "*",
        "MpuObjectSize": whole.size,
        **bucket.encryption.on_access(),
    }
    if with_crc and whole.crc is not None:
        parameters |= {"ChecksumCRC64NVME": crc_to_text(whole.crc), "ChecksumType": "FULL_OBJECT"}
    return parameters


def _named(part: Part, with_checksum: bool) -> dict[str, Any]:
    named: dict[str, Any] = {"PartNumber": part.number, "ETag": f'"{part.etag}"'}
    if with_checksum and part.crc64nvme is not None:
        named["ChecksumCRC64NVME"] = crc_to_text(part.crc64nvme)
    return named


def _refuse_existing(bucket: S3Bucket, upload: Upload, head: Head, what: str) -> None:
    """Stores that know no CRC64NVME ignore a condition on Complete (RADOS Gateway 16 does).

    A look beforehand leaves a gap; keys of fragments are random, so nobody stands in it.
    """
    try:
        head(upload.key, None)
    except ObjectNotFound:
        return
    if is_open(bucket, upload):
        raise ObjectExists(f"{what}: the key has an object already")


def _settle(
    bucket: S3Bucket, upload: Upload, whole: _Whole, head: Head, refused: StoreError
) -> dict[str, Any]:
    """What is there, when Complete was refused because the upload or the key's place is gone.

    An earlier attempt whose answer was lost may have succeeded: then the upload is gone and the
    object is its own. As long as the upload is open, it made no object.
    """
    what = f"completing {upload.key}"
    still_open = isinstance(refused, ObjectExists) and is_open(bucket, upload)
    try:
        there = head(upload.key, None)
    except ObjectNotFound:
        if isinstance(refused, ObjectNotFound):
            raise refused from None
        raise StoreError(
            f"{what}: refused for an object that is not there: {refused.message}",
            hint="start the upload again",
        ) from refused
    if still_open:
        raise refused
    ours = whole.is_in(there)
    if ours is None:  # encrypted, no checksum: the number of parts is all there is left to compare
        ours = s3_facts.bare_etag(there.get("ETag")).endswith(f"-{len(whole.parts)}")
    if not ours:
        raise ObjectExists(f"{what}: the upload is gone, {_told(there)}, sent {whole}") from refused
    logger.info("%s: the upload is gone, and its object is there", what)
    return there


def is_open(bucket: S3Bucket, upload: Upload) -> bool:
    """Whether the store still knows the upload."""
    try:
        _one_part(bucket, upload)
    except ObjectNotFound:
        return False
    return True


def _one_part(bucket: S3Bucket, upload: Upload) -> list[Any]:
    """At most one part: enough to know that the upload is there, or that one is left."""
    parameters = identity(bucket, upload) | bucket.encryption.on_access() | {"MaxParts": 1}
    answer = bucket.call(
        f"looking at the upload of {upload.key}", lambda: bucket.client.list_parts(**parameters)
    )
    return list(answer.get("Parts", ()))


def abort(bucket: S3Bucket, upload: Upload) -> None:
    """AbortMultipartUpload, until ListParts shows nothing.

    A part that was on its way while the upload was aborted can stay. Source: S3 API,
    AbortMultipartUpload.
    """
    what = f"aborting the upload of {upload.key}"
    parameters = identity(bucket, upload)

    def attempt() -> None:
        try:
            once(what, lambda: bucket.client.abort_multipart_upload(**parameters))
            left = _one_part(bucket, upload)
        except ObjectNotFound:
            return
        if left:
            raise TransientStoreError(f"{what}: parts are still there")

    bucket.retrying.call(what, attempt)


def uploads(bucket: S3Bucket, prefix: str) -> Iterator[Upload]:
    """ListMultipartUploads, all pages."""
    for page in bucket.pages(
        f"listing uploads below {prefix or 'the pool'}",
        bucket.client.list_multipart_uploads,
        {"Bucket": bucket.location.bucket, "Prefix": bucket.location.key(prefix)},
        {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
    ):
        for entry in page.get("Uploads", ()):
            yield s3_facts.from_upload(bucket.relative(entry["Key"]), entry)


def identity(bucket: S3Bucket, upload: Upload) -> dict[str, str]:
    """Parameters that name an upload."""
    return bucket.names(upload.key) | {"UploadId": upload.upload_id}
