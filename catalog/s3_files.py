"""The ledger's files below a prefix in S3, or in a store that is compatible.

The store must know conditional puts (``IfNoneMatch='*'``). Bodies carry their Content-MD5, which
every store checks, also those that do not know the newer checksums.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from catalog.errors import (
    CommitUnknown,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    TransientStoreError,
)
from catalog.files import check_size, is_aside, taken
from catalog.retry import Retrying
from catalog.s3 import VENDOR_ERRORS, S3Limits, S3Location, make_client, translate

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as a listing shows it; size is bytes, etag is without quotation marks."""

    name: str
    size: int
    etag: str


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
                raise error from exc

        try:
            self._retrying.call(f"writing {name} in {self.uri}", attempt)
        except StoreError as exc:
            if not unanswered:
                raise
            self._settle_late(name, data, exc)

    def _put(self, name: str, data: bytes) -> None:
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        self._client.put_object(
            Bucket=self.location.bucket,
            Key=self.location.key(name),
            Body=data,
            ContentMD5=base64.b64encode(md5).decode(),
            ContentType="application/vnd.apache.parquet",
            IfNoneMatch="*",
        )

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
