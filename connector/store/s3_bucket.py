"""One bucket as the S3 store's parts share it: client, keys, encryption, and how a call is made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
)

from catalog.errors import StoreError
from catalog.retry import Retrying
from catalog.s3 import VENDOR_ERRORS, S3Limits, S3Location, make_client, translate
from connector.store.body import send_views
from connector.store.s3_encryption import Encryption, EncryptionKind
from connector.store.s3_traffic import TrafficCounter

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NEVER_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)

MAX_PAGES = 1_000_000
"""Pages of a listing, of at most 1,000 entries each: beyond it the store repeats itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Bucket:
    """A client bound to a location. ``client`` is boto3's, typed Any: its calls are checked by
    the tests, and its generated types do not know all parameters that are used."""

    client: Any
    location: S3Location
    limits: S3Limits
    encryption: Encryption
    retrying: Retrying
    counter: TrafficCounter

    @classmethod
    def open(
        cls,
        location: S3Location,
        *,
        limits: S3Limits,
        encryption: Encryption,
        retrying: Retrying | None,
    ) -> S3Bucket:
        """Make the client. Raises StoreUnusable when there are no credentials."""
        client = make_client(location, limits)
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"before-send.s3.{operation}", send_views)
        if encryption.kind is EncryptionKind.SSE_C:
            # botocore writes all request headers, the key among them, to its debug log
            theirs = logging.getLogger("botocore")
            theirs.setLevel(max(theirs.getEffectiveLevel(), logging.INFO))
        return cls(
            client=client,
            location=location,
            limits=limits,
            encryption=encryption,
            retrying=retrying or Retrying(deadline_s=limits.deadline_s),
            counter=TrafficCounter(client),
        )

    def names(self, key: str, version_id: str | None = None) -> dict[str, Any]:
        """Parameters that name an object of this store, or one version of it."""
        named = {"Bucket": self.location.bucket, "Key": self.location.key(key)}
        return named | ({"VersionId": version_id} if version_id else {})

    def relative(self, key: str) -> str:
        """A full key of the bucket as a key of this store."""
        prefix = self.location.prefix
        return key.removeprefix(f"{prefix}/") if prefix else key

    def call(self, what: str, fn: Callable[[], T]) -> T:
        """Run fn with retries; vendor errors leave as ours."""
        return self.retrying.call(what, lambda: once(what, fn))

    def pages(
        self, what: str, ask: Callable[..., Any], first: dict[str, Any], turn: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """All pages of a listing, each one retried by itself.

        turn maps the parameter that asks for the next page to the field that names it.
        """
        parameters = dict(first)
        for _ in range(MAX_PAGES):
            page: dict[str, Any] = self.call(what, lambda: ask(**parameters))  # noqa: B023
            yield page
            if not page.get("IsTruncated"):
                return
            following = {name: page.get(field) for name, field in turn.items()}
            if all(parameters.get(name) == value for name, value in following.items()):
                raise StoreError(f"{what}: the store gives the same page again and again")
            parameters |= {name: value for name, value in following.items() if value is not None}
        raise StoreError(f"{what}: more than {MAX_PAGES} pages")


def once(what: str, fn: Callable[[], T]) -> T:
    """Run fn a single time; vendor errors leave as ours."""
    try:
        return fn()
    except VENDOR_ERRORS as exc:
        raise translate(exc, what) from exc


def did_nothing(exc: StoreError) -> bool:
    """Whether the request cannot have been carried out: refused by the store, or never sent."""
    return isinstance(exc.__cause__, (ClientError, *_NEVER_SENT))
