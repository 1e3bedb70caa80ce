"""Multipart uploads on S3: start, parts, complete, abort, and what a lost answer means.

No upload counts as complete until the object was looked at: its size, and the checksum or the
ETag that follows from its parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
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
from connector.store.body import as_body, crc_to_text
from connector.store.interface import Part, PartChecksum, PutOptions, StoredObject, Upload
from connector.store.s3_bucket import S3Bucket, once, was_answered
from connector.store.s3_checksum import seal, upload_etag

logger = logging.getLogger(__name__)

Stat = Callable[[str, str | None], StoredObject]
"""Looks at a key, or at one version of it."""


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
    """CreateMultipartUpload. Repeated only when the store itself said that it did nothing."""
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
            if was_answered(exc):
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
    stat: Stat,
) -> StoredObject:
    """CompleteMultipartUpload, create-only, and a look at what came out of it."""
    what = f"completing {upload.key}"
    size = sum(part.size for part in made_of)
    if kind is PartChecksum.MD5:
        _refuse_existing(bucket, upload, stat, what)
    parameters = _completion(bucket, upload, made_of, size, crc if _keeps_crc(kind) else None)
    try:
        answer = bucket.call(what, lambda: bucket.client.complete_multipart_upload(**parameters))
        stored = stat(upload.key, s3_facts.version(answer))
    except (ObjectExists, ObjectNotFound) as exc:
        stored = _settle(bucket, upload, stat, exc)
        if _mismatch(stored, made_of, size, crc):
            raise ObjectExists(f"{what}: the upload is gone and another object is there") from exc
    problem = _mismatch(stored, made_of, size, crc)
    if problem:
        raise CorruptObject(f"{what}: {problem}", hint="delete the object and send it again")
    return stored


def _keeps_crc(kind: PartChecksum) -> bool:
    return kind is PartChecksum.CRC64NVME


def _completion(
    bucket: S3Bucket, upload: Upload, made_of: Sequence[Part], size: int, crc: int | None
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        **identity(bucket, upload),
        "MultipartUpload": {"Parts": [_named(part, crc is not None) for part in made_of]},
        "IfNoneMatch": "*",
        "MpuObjectSize": size,
        **bucket.encryption.on_access(),
    }
    if crc is not None:
        parameters |= {"ChecksumCRC64NVME": crc_to_text(crc), "ChecksumType": "FULL_OBJECT"}
    return parameters


def _named(part: Part, with_checksum: bool) -> dict[str, Any]:
    named: dict[str, Any] = {"PartNumber": part.number, "ETag": f'"{part.etag}"'}
    if with_checksum and part.crc64nvme is not None:
        named["ChecksumCRC64NVME"] = crc_to_text(part.crc64nvme)
    return named


def _refuse_existing(bucket: S3Bucket, upload: Upload, stat: Stat, what: str) -> None:
    """Stores that know no CRC64NVME ignore a condition on Complete (RADOS Gateway 16 does).

    A look beforehand leaves a gap; keys of fragments are random, so nobody stands in it.
    """
    try:
        stat(upload.key, None)
    except ObjectNotFound:
        return
    if is_open(bucket, upload):
        raise ObjectExists(f"{what}: the key has an object already")


def _settle(bucket: S3Bucket, upload: Upload, stat: Stat, refused: StoreError) -> StoredObject:
    """What is there, when Complete was refused because the upload or the key's place is gone.

    An earlier attempt whose answer was lost may have succeeded: then the upload is gone and the
    object is its own. As long as the upload is open, it made no object.
    """
    what = f"completing {upload.key}"
    still_open = isinstance(refused, ObjectExists) and is_open(bucket, upload)
    try:
        stored = stat(upload.key, None)
    except ObjectNotFound:
        if isinstance(refused, ObjectNotFound):
            raise refused from None
        raise StoreError(
            f"{what}: refused for an object that is not there: {refused.message}",
            hint="start the upload again",
        ) from refused
    if still_open:
        raise refused
    logger.info("%s: the upload is gone, its object is looked at instead", what)
    return stored


def _mismatch(
    stored: StoredObject, made_of: Sequence[Part], size: int, crc: int | None
) -> str | None:
    """In what the object differs from what its parts make; None when in nothing."""
    if stored.size != size:
        return f"the object has {stored.size} bytes, its parts have {size}"
    if crc is not None and stored.crc64nvme is not None:
        if stored.crc64nvme == crc:
            return None
        return f"the object has CRC64NVME {stored.crc64nvme:016x}, sent {crc:016x}"
    expected = upload_etag(made_of)
    looks_alike = expected is not None and len(stored.etag) == len(expected)
    if looks_alike and stored.etag != expected:
        return f"the object has ETag {stored.etag}, its parts make {expected}"
    return None


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
