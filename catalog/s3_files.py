"""The ledger's files below a prefix in S3, or in a store that is compatible.

The store must know conditional puts (``IfNoneMatch='*'``). Bodies carry their Content-MD5, which
every store checks, also those that do not know the newer checksums.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime as dt
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar

from catalog.errors import (
    CommitUnknown,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    TransientStoreError,
    Unsupported,
)
from catalog.files import SUFFIX, check_size, is_aside, taken
from catalog.retry import Retrying
from catalog.s3 import VENDOR_ERRORS, S3Limits, S3Location, make_client, translate, vendor_code

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

T = TypeVar("T")


class LockOfPut(TypedDict, total=False):
    """What a put says about Object Lock."""

    ObjectLockMode: Literal["COMPLIANCE"]
    ObjectLockRetainUntilDate: dt.datetime


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as a listing shows it; size is bytes, etag is without quotation marks."""

    name: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class KeptVersions:
    """What a versioned bucket has of one name besides a single version."""

    name: str
    versions: int
    removed: bool


class S3Files:
    """See ``catalog.files.LedgerFiles`` for the promises."""

    def __init__(
        self,
        location: S3Location,
        limits: S3Limits | None = None,
        retrying: Retrying | None = None,
    ) -> None:
        limits = limits or S3Limits()
        self.location = location
        self._client = make_client(location, limits)
        self._retrying = retrying or Retrying(deadline_s=limits.deadline_s)
        self._lock_days = 0

    @property
    def uri(self) -> str:
        """``s3://BUCKET/PREFIX``."""
        return self.location.uri

    def names(self, after: str = "") -> Iterator[str]:
        """See LedgerFiles."""
        for listed in self.listing(after):
            yield listed.name

    def listing(self, after: str = "") -> Iterator[ListedFile]:
        """As names(), with size and etag; a folder has size 0 and no etag."""
        folder = self.location.key("")
        fetch = partial(
            self._client.list_objects_v2,
            Bucket=self.location.bucket,
            Prefix=folder,
            Delimiter="/",
        )
        if after:
            fetch = partial(fetch, StartAfter=folder + after)
        while True:
            page = self._call("list", fetch)
            for listed in self._on_page(page):
                if listed.name > after and not is_aside(listed.name):
                    yield listed
            token = page.get("NextContinuationToken")
            if not token:
                return
            fetch = partial(fetch, ContinuationToken=token)

    def _on_page(self, page: ListObjectsV2OutputTypeDef) -> list[ListedFile]:
        cut = len(self.location.key(""))
        files = [
            ListedFile(item["Key"][cut:], item["Size"], item["ETag"].strip('"'))
            for item in page.get("Contents", ())
        ]
        folders = [
            ListedFile(common["Prefix"][cut:], 0, "") for common in page.get("CommonPrefixes", ())
        ]
        return sorted(files + folders, key=lambda listed: listed.name)

    def read(self, name: str) -> bytes:
        """See LedgerFiles."""
        return self._call(f"read {name} in", lambda: self._get(name))

    def _get(self, name: str) -> bytes:
        answer = self._client.get_object(Bucket=self.location.bucket, Key=self.location.key(name))
        with answer["Body"] as body:
            check_size(name, answer["ContentLength"])
            data = body.read()
        if len(data) != answer["ContentLength"]:
            raise TransientStoreError(
                f"{name}: {len(data)} of {answer['ContentLength']} bytes came"
            )
        return data

    def create(self, name: str, data: bytes) -> None:
        """See LedgerFiles. An answer that was lost is settled by reading the file back."""
        unanswered = False

        def attempt() -> None:
            nonlocal unanswered
            try:
                self._put(name, data)
            except VENDOR_ERRORS as exc:
                error = translate(exc, f"cannot write {name} in the ledger {self.uri}")
                if isinstance(error, ObjectExists):
                    return self._settle(name, data)
                unanswered = unanswered or isinstance(error, TransientStoreError)
                if self._lock_days and vendor_code(exc) in ("InvalidRequest", "InvalidArgument"):
                    error = Unsupported(error.message, hint="create the bucket with Object Lock")
                raise error from exc

        try:
            self._retrying.call(f"writing {name} in {self.uri}", attempt)
        except StoreError as exc:
            if not unanswered:
                raise
            self._settle_late(name, data, exc)

    def below(self, folder: str) -> S3Files:
        """See LedgerFiles."""
        place = copy.copy(self)  # which shares the client
        place.location = dataclasses.replace(self.location, prefix=self.location.key(folder))
        return place

    def locking(self, days: int) -> S3Files:
        """The same place; what it creates is under Object Lock, COMPLIANCE, for so many days."""
        place = copy.copy(self)
        place._lock_days = days
        return place

    def locked_until(self, name: str) -> dt.datetime | None:
        """Until when Object Lock in COMPLIANCE mode keeps a file; None for no such lock."""
        answer = self._call(
            f"look at {name} in",
            lambda: self._client.head_object(
                Bucket=self.location.bucket, Key=self.location.key(name)
            ),
        )
        if answer.get("ObjectLockMode") != "COMPLIANCE":
            return None
        return answer.get("ObjectLockRetainUntilDate")

    def rewritten(self) -> Iterator[KeptVersions]:
        """Names in the place that were written more than once, or removed, in their order.

        Only a versioned bucket can tell. Nothing in a ledger or in its checkpoints may be here.
        """
        folder = self.location.key("")
        fetch = partial(
            self._client.list_object_versions,
            Bucket=self.location.bucket,
            Prefix=folder,
            Delimiter="/",
        )
        name, versions, removed = "", 0, False
        while True:
            page = self._call("list the versions in", fetch)
            entries = [(item["Key"], False) for item in page.get("Versions", ())]
            entries += [(item["Key"], True) for item in page.get("DeleteMarkers", ())]
            for key, gone in sorted(entries):
                if key[len(folder) :] != name:
                    if versions > 1 or removed:
                        yield KeptVersions(name, versions, removed)
                    name, versions, removed = key[len(folder) :], 0, False
                versions += not gone
                removed = removed or gone
            if not page.get("IsTruncated"):
                break
            fetch = partial(fetch, KeyMarker=page["NextKeyMarker"])
            if page.get("NextVersionIdMarker"):  # which may be left out, and may not be empty
                fetch = partial(fetch, VersionIdMarker=page["NextVersionIdMarker"])
        if versions > 1 or removed:
            yield KeptVersions(name, versions, removed)

    def _put(self, name: str, data: bytes) -> None:
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        self._client.put_object(
            Bucket=self.location.bucket,
            Key=self.location.key(name),
            Body=data,
            ContentMD5=base64.b64encode(md5).decode(),
            ContentType=_content_type(name),
            IfNoneMatch="*",
            **self._lock(),
        )

    def _lock(self) -> LockOfPut:
        if not self._lock_days:
            return {}
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=self._lock_days)
        return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}

    def _settle(self, name: str, data: bytes) -> None:
        """Somebody's file is there, or about to be: ours, by an attempt whose answer was lost?"""
        try:
            there = self._get(name)
        except VENDOR_ERRORS as exc:
            error = translate(exc, f"reading {name} in the ledger {self.uri} back")
            if isinstance(error, ObjectNotFound):
                error = TransientStoreError(f"{name} in {self.uri}: two writers at once")
            raise error from exc
        if there != data:
            raise taken(name, self.uri)

    def _settle_late(self, name: str, data: bytes, failure: StoreError) -> None:
        try:
            self._settle(name, data)
        except StoreError:
            raise CommitUnknown(
                f"it is not known whether {name} was written to {self.uri}: {failure.message}",
                hint=failure.hint or "run the same command again when the store answers",
            ) from failure

    def _call(self, what: str, fn: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                return fn()
            except VENDOR_ERRORS as exc:
                raise translate(exc, f"cannot {what} the ledger {self.uri}") from exc

        return self._retrying.call(f"{what} {self.uri}", attempt)


def _content_type(name: str) -> str:
    return "application/vnd.apache.parquet" if name.endswith(SUFFIX) else "application/jsonl"
