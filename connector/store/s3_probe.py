"""What an S3 endpoint can do, found out by trying, with nothing left behind.

Compatible stores accept parameters that they do not know and ignore them. So a checksum counts
only if a wrong one was refused, and a condition only if it held something back.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import Any

from catalog.errors import (
    CorruptObject,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnusable,
    TransientStoreError,
)
from connector.store import s3_facts, s3_upload
from connector.store.body import crc64nvme
from connector.store.interface import PROBE_PREFIX, Capabilities, PartChecksum, Upload
from connector.store.s3_bucket import S3Bucket
from connector.store.s3_checksum import Seal, opaque_etag, seal

logger = logging.getLogger(__name__)

_SAMPLE = memoryview(b"tapelift probe")


def probe(bucket: S3Bucket) -> Capabilities:
    """Try the endpoint once. Raises StoreUnusable when it cannot be used at all."""
    try:
        part_checksum = _part_checksum(bucket)
        lock = _lock_configuration(bucket)
        locks_by_itself = bool(lock.get("Rule"))
        return Capabilities(
            part_checksum=part_checksum,
            versioning=_versioning(bucket),
            object_lock=lock.get("ObjectLockEnabled") == "Enabled",
            create_only=_create_only(bucket, part_checksum, locks_by_itself=locks_by_itself),
        )
    except (StoreUnusable, TransientStoreError) as exc:
        uri = bucket.location.uri  # the first thing that is ever asked: say of whom
        raise type(exc)(f"{uri} cannot be used: {exc.message}", hint=exc.hint) from exc


def _name() -> str:
    return f"{PROBE_PREFIX}{secrets.token_hex(8)}"


# --- checksums ------------------------------------------------------------------------------


def _part_checksum(bucket: S3Bucket) -> PartChecksum:
    """The best checksum that the store really compares; StoreUnusable when there is none."""
    for kind in (PartChecksum.CRC64NVME, PartChecksum.MD5):
        try:
            upload = _start(bucket, _name(), kind)
        except (StoreUnusable, TransientStoreError):
            raise
        except StoreError as exc:
            if kind is PartChecksum.MD5:
                raise
            logger.debug("no uploads with CRC64NVME here: %s", exc)
            continue
        try:
            if _confirms(bucket, upload, kind):
                return kind
        finally:
            s3_upload.abort(bucket, upload)
    raise StoreUnusable(
        f"{bucket.location.uri}: the store compares neither CRC64NVME nor MD5 of what is sent",
        hint="nothing can be stored safely here; use another store",
    )


def _start(bucket: S3Bucket, key: str, kind: PartChecksum) -> Upload:
    """Start an upload; when the answer was lost, remove what it may have been and try again."""
    try:
        return s3_upload.start(bucket, key, None, kind)
    except TransientStoreError:
        for unknown in list(s3_upload.uploads(bucket, key)):
            s3_upload.abort(bucket, unknown)
        return s3_upload.start(bucket, key, None, kind)


def _confirms(bucket: S3Bucket, upload: Upload, kind: PartChecksum) -> bool:
    """Whether a right checksum is confirmed and a wrong one refused."""
    right = seal(_SAMPLE, kind, crc64nvme(_SAMPLE))
    try:
        answer = _send(bucket, upload, right)
        right.confirm(answer, "probe")
    except (StoreUnusable, TransientStoreError):
        raise
    except StoreError as exc:
        logger.debug("%s is not confirmed here: %s", kind, exc)
        return False
    try:
        _send(bucket, upload, _spoilt(right))
    except CorruptObject:
        return True
    except (StoreUnusable, TransientStoreError):
        raise
    except StoreError as exc:
        logger.debug("a wrong %s was refused, in the store's own words: %s", kind, exc)
        return True
    # A wrong one was taken. An ETag that is the MD5 still lets us compare afterwards.
    return kind is PartChecksum.MD5 and not opaque_etag(answer)


def _spoilt(right: Seal) -> Seal:
    md5 = None if right.md5 is None else bytes(16)
    return replace(right, crc64nvme=right.crc64nvme ^ 1, md5=md5)


def _send(bucket: S3Bucket, upload: Upload, mark: Seal) -> dict[str, Any]:
    parameters = {
        **s3_upload.identity(bucket, upload),
        "PartNumber": 1,
        "Body": bytes(_SAMPLE),
        **mark.headers(),
        **bucket.encryption.on_access(),
    }
    answer: dict[str, Any] = bucket.call(
        "trying a part", lambda: bucket.client.upload_part(**parameters)
    )
    return answer


# --- versions and locks ---------------------------------------------------------------------


def _versioning(bucket: S3Bucket) -> bool:
    """No, when we may not ask."""
    name = bucket.location.bucket
    answer = _ask(
        "asking for versioning", bucket, lambda: bucket.client.get_bucket_versioning(Bucket=name)
    )
    return answer.get("Status") == "Enabled"


def _lock_configuration(bucket: S3Bucket) -> dict[str, Any]:
    """Empty without Object Lock, and when we may not ask."""
    name = bucket.location.bucket
    answer = _ask(
        "asking for Object Lock",
        bucket,
        lambda: bucket.client.get_object_lock_configuration(Bucket=name),
    )
    return dict(answer.get("ObjectLockConfiguration", {}))


def _ask(what: str, bucket: S3Bucket, fn: Any) -> dict[str, Any]:
    try:
        return dict(bucket.call(what, fn))
    except TransientStoreError:
        raise
    except StoreError as exc:
        logger.debug("%s: taken as no: %s", what, exc)
        return {}


# --- create-only ----------------------------------------------------------------------------


def _create_only(bucket: S3Bucket, kind: PartChecksum, *, locks_by_itself: bool) -> bool:
    """Whether If-None-Match holds a second put back: one is made, twice, and removed.

    In a bucket that locks every new object by itself the sample could not be removed. There the
    answer is yes: every store with such locks that is known has conditional writes.
    """
    if locks_by_itself:
        logger.warning(
            "%s locks new objects by default: create-only is assumed, not tried",
            bucket.location.uri,
        )
        return True
    key = _name()
    made: list[str | None] = []
    try:
        made.append(_put(bucket, key, kind))
        made.append(_put(bucket, key, kind))
    except ObjectExists:
        if not made:  # then the answer to the first was lost: nobody else knows this key
            made.append(_current(bucket, key))
        return True
    except (StoreUnusable, TransientStoreError):
        raise
    except StoreError as exc:
        logger.debug("conditional puts are refused here: %s", exc)
        return False
    finally:
        for version in made:
            _remove(bucket, key, version)
    return False


def _put(bucket: S3Bucket, key: str, kind: PartChecksum) -> str | None:
    parameters = {
        **bucket.names(key),
        "Body": bytes(_SAMPLE),
        "IfNoneMatch": "*",
        **seal(_SAMPLE, kind, crc64nvme(_SAMPLE)).headers(),
        **bucket.encryption.on_create(),
    }
    answer = bucket.call("trying a create-only put", lambda: bucket.client.put_object(**parameters))
    return s3_facts.version(answer)


def _current(bucket: S3Bucket, key: str) -> str | None:
    parameters = bucket.names(key) | bucket.encryption.on_access()
    answer = bucket.call("looking at a probe", lambda: bucket.client.head_object(**parameters))
    return s3_facts.version(answer)


def _remove(bucket: S3Bucket, key: str, version: str | None) -> None:
    parameters = bucket.names(key, version)
    try:
        bucket.call("removing a probe", lambda: bucket.client.delete_object(**parameters))
    except ObjectNotFound:
        return
    except StoreError as exc:
        logger.warning(
            "%s of %d bytes is left in %s: %s", key, len(_SAMPLE), bucket.location.uri, exc
        )
