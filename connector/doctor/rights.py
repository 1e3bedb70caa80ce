"""What these credentials may do in a pool's prefix, found out by doing it with a probe.

A right is named by its IAM action. What was made is removed, locks of a probe end within seconds,
and nothing is put into a class that is billed for longer than it lies there.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import (
    ObjectArchived,
    ObjectNotFound,
    StoreError,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.model import LockMode, StorageClass
from catalog.s3 import vendor_code
from connector.doctor.findings import Findings, Level
from connector.store import s3_facts
from connector.store.interface import PROBE_PREFIX, PutOptions, Upload
from connector.store.s3_bucket import S3Bucket
from connector.store.s3_encryption import EncryptionKind
from connector.store.s3_upload import creation, identity

log = logging.getLogger(__name__)

SAMPLE = b"tapelift doctor"
LOCK_S = 2
"""How long a probe is locked, in seconds; a process that dies leaves a probe that can be removed
after that."""
UNLOCK_S = 10.0
"""How long the removal of a probe waits for its lock to end."""
REFUSED = frozenset({"AccessDenied", "403", "AllAccessDisabled", "UnauthorizedAccess"})
AWAY_AFTER = 2
"""After so many requests without an answer, each tried again for as long as the doctor waits, the
store counts as away."""

_HOLD = "s3:PutObjectLegalHold"
_RETENTION = "s3:PutObjectRetention"


class Away(Exception):
    """The store stopped answering: there is no sense in trying the rest."""


@dataclass(slots=True)
class Trial:
    """Tries one thing after the other and says what came of it."""

    bucket: S3Bucket
    findings: Findings
    silent: int = 0
    denied: set[str] = field(default_factory=set)

    def attempt(
        self, action: str, fn: Callable[[], Any], *, needed: Level = Level.ERROR, why: str = ""
    ) -> Any:
        """The answer, or None when it was refused or failed, which is a finding of level needed.

        A success is no finding yet: ``allowed`` says so when all that belongs to it was done.

        Raises:
            Away: the store has not answered for the second time.
        """
        try:
            return self.bucket.call(f"trying {action}", fn)
        except TransientStoreError as exc:
            self.findings.failed(action, exc)
            self.silent += 1
            if self.silent >= AWAY_AFTER:
                raise Away from exc
        except StoreError as exc:
            if vendor_code(exc.__cause__) in REFUSED:
                self.refused(action, exc, needed=needed, why=why)
            else:
                self.findings.failed(action, exc)
        return None

    def refused(self, action: str, error: StoreError, *, needed: Level, why: str = "") -> None:
        """Say which right is missing."""
        self.denied.add(action)
        message = f"not allowed{': ' + why if why else ''}: {error.message}"
        remedy = f"allow {action} on {self._resource(action)} to these credentials"
        if needed is Level.ERROR:
            self.findings.error(action, message, remedy)
        else:
            self.findings.warning(action, message, remedy)

    def allowed(self, *actions: str) -> None:
        """These were tried and worked."""
        for action in actions:
            self.findings.ok(action, "allowed")

    def _resource(self, action: str) -> str:
        location = self.bucket.location
        on_bucket = ("Bucket" in action and "Object" not in action) or "Configuration" in action
        return f"arn:aws:s3:::{location.bucket}" + ("" if on_bucket else f"/{location.key('*')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a pool will need, beyond writing, reading and deleting.

    storage_class None: each image gets its own. tags: what fragments are marked with. archived:
    images may come to lie in a cold class.
    now gives the store's clock in seconds since 1970.
    """

    lock: LockMode
    object_lock: bool
    storage_class: StorageClass | None
    tags: tuple[tuple[str, str], ...]
    archived: bool
    now: Callable[[], float]


def try_rights(trial: Trial, wanted: Wanted, *, locks_by_itself: bool) -> None:
    """Try everything that the pool will do; see ``Trial.attempt`` for what is raised.

    locks_by_itself: the bucket locks each new object, so no probe is made: it could not be
    removed.
    """
    _try_uploads(trial, wanted.storage_class)
    if wanted.tags:
        _try_tags(trial, wanted.tags)
    if locks_by_itself:
        trial.findings.warning(
            "s3:PutObject",
            "not tried, and what needs an object neither: the bucket would lock the probe",
            "remove the bucket's default retention, then run the doctor again",
        )
        return
    key = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    made = _put(trial, key)
    if made is None:
        return
    version = s3_facts.version(made)
    locked = False
    try:
        _read(trial, key, version)
        _recall(trial, key, version, wanted)
        if wanted.object_lock:
            _hold(trial, key, version, wanted)
            locked = wanted.lock is not LockMode.NONE and _lock(trial, key, version, wanted)
    finally:
        _remove(trial, key, version, wait_s=UNLOCK_S if locked else 0.0)


# --- objects ----------------------------------------------------------------------------------


def _put(trial: Trial, key: str) -> dict[str, Any] | None:
    bucket = trial.bucket
    plain = bucket.names(key) | {"Body": SAMPLE}
    encryption = bucket.encryption
    try:
        answer: dict[str, Any] = bucket.call(
            "trying s3:PutObject",
            lambda: bucket.client.put_object(**plain, **encryption.on_create()),
        )
    except TransientStoreError as exc:
        trial.findings.failed("s3:PutObject", exc)
        raise Away from exc
    except StoreError as exc:
        if encryption.kind is not EncryptionKind.NONE and _works_without(trial, plain):
            trial.findings.failed(
                "encryption",
                exc,
                f"the store takes objects without {encryption.kind}: check the key and the rights "
                "on it (kms:GenerateDataKey, kms:Decrypt), or the pool's encryption",
            )
        elif vendor_code(exc.__cause__) in REFUSED:
            trial.refused("s3:PutObject", exc, needed=Level.ERROR)
        else:
            trial.findings.failed("s3:PutObject", exc)
        return None
    trial.allowed("s3:PutObject")
    _check_encryption(trial, answer)
    return answer


def _works_without(trial: Trial, plain: dict[str, Any]) -> bool:
    bucket = trial.bucket
    try:
        answer = bucket.call("trying a put", lambda: bucket.client.put_object(**plain))
    except StoreError as exc:
        log.debug("a put without encryption is refused too: %s", exc)
        return False
    key = plain["Key"]
    _remove(trial, bucket.relative(key), s3_facts.version(answer), wait_s=0.0)
    return True


def _check_encryption(trial: Trial, answer: dict[str, Any]) -> None:
    asked = trial.bucket.encryption
    told = answer.get("ServerSideEncryption")
    if asked.kind is EncryptionKind.NONE:
        trial.findings.ok("encryption", f"the bucket's own: {told or 'not told'}")
        return
    expected = asked.on_create()
    named = {"ServerSideEncryption", "SSECustomerAlgorithm"} & set(expected)
    wrong = [name for name in named if answer.get(name) != expected[name]]
    if wrong:
        trial.findings.error(
            "encryption",
            f"{asked.kind} was asked for and the store does not confirm it",
            "use a store that knows it, or client-side encryption",
        )
    else:
        trial.findings.ok("encryption", f"{asked.kind} is confirmed")


def _read(trial: Trial, key: str, version: str | None) -> None:
    bucket = trial.bucket
    parameters = bucket.names(key) | bucket.encryption.on_access()
    for action, asked in {
        "s3:GetObject": parameters,
        **({"s3:GetObjectVersion": {**parameters, "VersionId": version}} if version else {}),
    }.items():

        def get(asked: dict[str, Any] = asked) -> bytes:
            with bucket.client.get_object(**asked)["Body"] as body:
                return bytes(body.read(len(SAMPLE) + 1))

        data = trial.attempt(action, get)
        if data is None:
            continue
        if data == SAMPLE:
            trial.allowed(action)
        else:
            trial.findings.error(
                action,
                f"what was stored is not what is read: {len(data)} bytes",
                "do not use this store; something between here and there changes data",
            )


def _recall(trial: Trial, key: str, version: str | None, wanted: Wanted) -> None:
    """A recall of what is not archived costs nothing: who may ask is told that it is not."""
    action = "s3:RestoreObject"
    bucket = trial.bucket
    parameters = bucket.names(key, version) | {
        "RestoreRequest": {"Days": 1, "GlacierJobParameters": {"Tier": "Bulk"}}
    }
    needed = Level.ERROR if wanted.archived else Level.WARNING
    try:
        bucket.call(f"trying {action}", lambda: bucket.client.restore_object(**parameters))
    except ObjectArchived:
        trial.findings.ok(action, "allowed; a recall itself is not tried, because it is billed")
    except TransientStoreError as exc:
        trial.findings.failed(action, exc)
    except StoreUnusable as exc:
        trial.refused(action, exc, needed=needed)
    except StoreError as exc:
        if wanted.archived:
            trial.findings.failed(
                action, exc, "this store cannot recall: choose a class that is read at once"
            )
        else:
            trial.findings.ok(action, "this store has no recalls, and the pool needs none")
    else:
        trial.findings.ok(action, "allowed")


def _remove(trial: Trial, key: str, version: str | None, *, wait_s: float) -> None:
    """Remove the probe. A lock of ours ends soon; a right that is missing is a finding."""
    bucket = trial.bucket
    action = "s3:DeleteObjectVersion" if version else "s3:DeleteObject"
    parameters = bucket.names(key, version)
    until = time.monotonic() + wait_s
    while True:
        try:
            bucket.call(f"trying {action}", lambda: bucket.client.delete_object(**parameters))
            break
        except ObjectNotFound:
            break
        except StoreError as exc:
            if time.monotonic() < until and not isinstance(exc, TransientStoreError):
                time.sleep(0.5)
                continue
            if vendor_code(exc.__cause__) in REFUSED:
                trial.refused(action, exc, needed=Level.ERROR)
            else:
                trial.findings.failed(action, exc)
            _left(trial, key, version)
            return
    trial.allowed(action)
    if version:
        _try_marker(trial, key)


def _try_marker(trial: Trial, key: str) -> None:
    """Where there are versions, a delete without one makes a marker, which is removed again."""
    bucket = trial.bucket
    answer = trial.attempt(
        "s3:DeleteObject", lambda: bucket.client.delete_object(**bucket.names(key))
    )
    if answer is None:
        return
    marker = s3_facts.version(answer)
    if (
        marker
        and trial.attempt(
            "s3:DeleteObjectVersion",
            lambda: bucket.client.delete_object(**bucket.names(key, marker)),
        )
        is None
    ):
        _left(trial, key, marker)
        return
    trial.allowed("s3:DeleteObject")


def _left(trial: Trial, key: str, version: str | None) -> None:
    location = trial.bucket.location
    which = f" --version-id {version}" if version else ""
    trial.findings.warning(
        "probes",
        f"the probe {key} of {len(SAMPLE)} bytes is left in {location.uri}",
        f"aws s3api delete-object --bucket {location.bucket} --key {location.key(key)}{which}",
    )


# --- locks ------------------------------------------------------------------------------------


def _head(trial: Trial, key: str, version: str | None) -> dict[str, Any]:
    bucket = trial.bucket
    parameters = bucket.names(key, version) | bucket.encryption.on_access()
    found = trial.attempt("s3:GetObject", lambda: bucket.client.head_object(**parameters))
    return dict(found or {})


def _lock(trial: Trial, key: str, version: str | None, wanted: Wanted) -> bool:
    """Lock the probe for two seconds; whether it may be locked now."""
    bucket = trial.bucket
    ends = dt.datetime.fromtimestamp(math.ceil(wanted.now()) + LOCK_S, dt.UTC)
    retention = {"Mode": str(wanted.lock), "RetainUntilDate": ends}
    parameters = bucket.names(key, version) | {"Retention": retention}
    done = trial.attempt(
        _RETENTION,
        lambda: bucket.client.put_object_retention(**parameters),
        why=f"images are to be locked as {wanted.lock}",
    )
    if done is None:
        return False
    trial.allowed(_RETENTION)
    if _head(trial, key, version).get("ObjectLockMode") == str(wanted.lock):
        trial.allowed("s3:GetObjectRetention")
    else:
        trial.findings.error(
            "s3:GetObjectRetention",
            "a lock was put and cannot be seen: it would be reported as missing",
            "allow s3:GetObjectRetention on the objects of the pool",
        )
    return True


def _hold(trial: Trial, key: str, version: str | None, wanted: Wanted) -> None:
    bucket = trial.bucket
    needed = Level.WARNING if wanted.lock is LockMode.NONE else Level.ERROR

    def hold(status: str) -> Any:
        parameters = bucket.names(key, version) | {"LegalHold": {"Status": status}}
        return trial.attempt(
            _HOLD,
            lambda: bucket.client.put_object_legal_hold(**parameters),
            needed=needed,
            why="images cannot be held",
        )

    if hold("ON") is None:
        return
    seen = _head(trial, key, version).get("ObjectLockLegalHoldStatus")
    if hold("OFF") is None:
        trial.findings.error(
            "probes",
            f"the probe {key} is left under a legal hold in {bucket.location.uri}",
            "release it with aws s3api put-object-legal-hold, then delete it",
        )
        return
    trial.allowed(_HOLD)
    if seen == "ON":
        trial.allowed("s3:GetObjectLegalHold")
    else:
        trial.findings.warning(
            "s3:GetObjectLegalHold",
            "a hold was put and cannot be seen: it would be reported as missing",
            "allow s3:GetObjectLegalHold on the objects of the pool",
        )


# --- uploads ----------------------------------------------------------------------------------


def _try_uploads(trial: Trial, wanted: StorageClass | None) -> None:
    """Begin an upload in the pool's class, send a part, list and abort: nothing of it is billed as
    stored in that class."""
    bucket = trial.bucket
    storage_class = wanted or StorageClass.STANDARD
    key = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    options = PutOptions(storage_class=storage_class)
    parameters = bucket.names(key) | creation(bucket, options)
    try:
        started = bucket.call(
            "trying an upload", lambda: bucket.client.create_multipart_upload(**parameters)
        )
    except TransientStoreError as exc:
        trial.findings.failed("uploads", exc)
        raise Away from exc
    except Unsupported as exc:
        trial.findings.failed("class", exc, "choose a class that this store offers")
        return
    except StoreError as exc:
        if vendor_code(exc.__cause__) in REFUSED:
            trial.refused("s3:PutObject", exc, needed=Level.ERROR, why="no upload can be begun")
        else:
            trial.findings.failed("uploads", exc)
        return
    upload = Upload(key=key, upload_id=str(started["UploadId"]))
    trial.findings.ok("class", f"uploads in {storage_class} can be begun")
    try:
        _list_upload(trial, upload)
    finally:
        _abort(trial, upload)


def _try_tags(trial: Trial, tags: tuple[tuple[str, str], ...]) -> None:
    """An upload with the tags by which lifecycle steps know fragments; it is aborted at once."""
    bucket = trial.bucket
    key = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    parameters = bucket.names(key) | creation(bucket, PutOptions(tags=tags))
    action = "s3:PutObjectTagging"
    started = trial.attempt(
        action,
        lambda: bucket.client.create_multipart_upload(**parameters),
        why="fragments of a pool with lifecycle steps carry a tag",
    )
    if started is not None:
        trial.allowed(action)
        _abort(trial, Upload(key=key, upload_id=str(started["UploadId"])))


def _list_upload(trial: Trial, upload: Upload) -> None:
    bucket = trial.bucket
    named = identity(bucket, upload) | bucket.encryption.on_access()
    if trial.attempt(
        "s3:PutObject",
        lambda: bucket.client.upload_part(**named, PartNumber=1, Body=SAMPLE),
        why="no part can be sent",
    ):
        listed = trial.attempt(
            "s3:ListMultipartUploadParts", lambda: bucket.client.list_parts(**named)
        )
        if listed is not None:
            trial.allowed("s3:ListMultipartUploadParts")
    where = {"Bucket": bucket.location.bucket, "Prefix": bucket.location.key(upload.key)}
    found = trial.attempt(
        "s3:ListBucketMultipartUploads",
        lambda: bucket.client.list_multipart_uploads(**where),
    )
    if found is not None:
        trial.allowed("s3:ListBucketMultipartUploads")


def _abort(trial: Trial, upload: Upload) -> None:
    bucket = trial.bucket
    action = "s3:AbortMultipartUpload"
    done = trial.attempt(
        action, lambda: bucket.client.abort_multipart_upload(**identity(bucket, upload))
    )
    if done is not None:
        trial.allowed(action)
        return
    location = bucket.location
    trial.findings.warning(
        "probes",
        f"an upload of {upload.key} is left in {location.uri}",
        f"aws s3api abort-multipart-upload --bucket {location.bucket} "
        f"--key {location.key(upload.key)} --upload-id {upload.upload_id}",
    )
