"""The edge to S3: where a pool is, a client for it, and what the vendor's errors mean to us.

Nobody but this module and the S3 store knows boto3. There is no credential setting of ours: the
client takes what boto3's usual chain finds (environment, profile, instance role).
"""

from __future__ import annotations

import http.client
import ipaddress
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3.session
import botocore.loaders
import botocore.session
import urllib3.exceptions
from boto3.exceptions import Boto3Error
from botocore import exceptions as vendor
from botocore.config import Config
from botocore.parsers import ResponseParserError

from catalog.errors import (
    ConfigError,
    CorruptObject,
    ObjectArchived,
    ObjectExists,
    ObjectLocked,
    ObjectNotFound,
    StoreError,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.retry import time_left

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_PREFIX_BYTES = 400
"""Leaves 600 of the 1,024 bytes of an S3 key to what is put below the prefix."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")  # also buckets older than 2018's rules


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a key prefix in it, at AWS or at the endpoint named.

    prefix has no slash at either end and may be empty. endpoint_url is scheme, host and port.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None

    @property
    def uri(self) -> str:
        """``s3://BUCKET/PREFIX``."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def key(self, name: str) -> str:
        """The object key of a name below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Limits:
    """How long, and over how many connections.

    connect_timeout_s and read_timeout_s are for one wait on a socket; deadline_s is for a whole
    call with all its attempts.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    deadline_s: float = 600.0
    max_connections: int = 16


def parse_uri(uri: str, endpoint_url: str | None = None) -> S3Location:
    """Read ``s3://BUCKET[/PREFIX]``; ConfigError when it is not one."""
    scheme, separator, rest = uri.partition("://")
    if scheme != "s3" or not separator:
        raise ConfigError(f"not an S3 location: {uri!r}", hint="write s3://BUCKET/PREFIX")
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"not a bucket name: {bucket!r} in {uri!r}",
            hint="write s3://BUCKET/PREFIX; for an access point, use its alias",
        )
    prefix = prefix.removesuffix("/")
    _check_prefix(prefix, uri)
    return S3Location(bucket, prefix, _checked_endpoint(endpoint_url))


def _check_prefix(prefix: str, uri: str) -> None:
    if not prefix:
        return
    if any(part in ("", ".", "..") for part in prefix.split("/")):
        raise ConfigError(
            f"empty or dotted folder in {uri!r}", hint="write a prefix without //, . and .."
        )
    if any(ord(char) < 0x20 or char in "?#\x7f" for char in prefix):
        raise ConfigError(
            f"control character, ? or # in {uri!r}",
            hint="give the endpoint as an option of its own, not in the location",
        )
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise ConfigError(
            f"prefix of {len(prefix.encode())} bytes in {uri!r}",
            hint=f"use at most {MAX_PREFIX_BYTES} bytes",
        )


def _checked_endpoint(endpoint_url: str | None) -> str | None:
    if endpoint_url is None:
        return None
    hint = "write http://HOST:PORT or https://HOST[:PORT]"
    try:
        parts = urlsplit(endpoint_url)
        _ = parts.port
    except ValueError as exc:
        raise ConfigError(f"not an endpoint: {exc}", hint=hint) from exc
    if parts.username is not None or parts.password is not None:
        raise ConfigError("credentials in the endpoint URL", hint=hint)  # and never repeated
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"not an endpoint: {endpoint_url!r}", hint=hint)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"endpoint with a path: {endpoint_url!r}", hint=hint)
    return endpoint_url.rstrip("/")


# --- the client -----------------------------------------------------------------------------


def make_client(location: S3Location, limits: S3Limits | None = None) -> S3Client:
    """A client for a location, safe to use from several threads.

    It never retries by itself (``catalog/retry.py`` does), computes no checksum that was not
    asked for, and never waits on a socket beyond the deadline of the call it is used in.
    Raises StoreUnusable when no credentials are found.
    """
    limits = limits or S3Limits()
    try:
        session = _session()
        if session.get_credentials() is None:
            raise vendor.NoCredentialsError
        client = _client(session, location, limits, sign_bodies=False)
        if _must_sign_bodies(client.meta.endpoint_url):
            client = _client(session, location, limits, sign_bodies=True)
    except (vendor.BotoCoreError, Boto3Error, ValueError) as exc:
        raise translate(exc, f"opening {location.uri}") from exc
    client.meta.events.register("before-send.s3", _within_deadline(limits))
    return client


def _session() -> boto3.session.Session:
    """A session of its own (it keeps the credentials it found), with everybody's loader."""
    below = botocore.session.get_session()
    session = boto3.session.Session(botocore_session=below)
    below.register_component("data_loader", _loader(below.get_config_variable("data_path")))
    return session


@cache
def _loader(data_path: str | None) -> botocore.loaders.Loader:
    """Reads and keeps S3's model; shared, because a client with a loader of its own takes 12 MiB
    and 0.1 s more, and a pool and its ledger are two clients."""
    return botocore.loaders.create_loader(data_path)


def _client(
    session: boto3.session.Session, location: S3Location, limits: S3Limits, *, sign_bodies: bool
) -> S3Client:
    at_custom_endpoint = location.endpoint_url is not None
    config = Config(
        signature_version="s3v4",
        connect_timeout=limits.connect_timeout_s,
        read_timeout=limits.read_timeout_s,
        max_pool_connections=limits.max_connections,
        retries={"mode": "standard", "total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        user_agent_extra="tapelift",
        s3={
            "payload_signing_enabled": sign_bodies,
            "addressing_style": "path" if at_custom_endpoint else "auto",
        },
    )
    return session.client("s3", endpoint_url=location.endpoint_url, config=config)


def _must_sign_bodies(endpoint_url: str) -> bool:
    """Whether a body could be exchanged on the way: plain HTTP that leaves this host.

    Over TLS and on loopback the SHA-256 of the signature would be a second pass over every byte
    for nothing: each body carries a checksum header, and the header is signed.
    """
    parts = urlsplit(endpoint_url)
    if parts.scheme == "https":
        return False
    host = parts.hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _within_deadline(limits: S3Limits) -> Any:
    def shorten_read_timeout(request: Any, **_: object) -> None:
        left = time_left()
        if left is not None and left < limits.read_timeout_s:
            request.context["read_timeout"] = max(left, 0.05)

    return shorten_read_timeout


# --- what their errors are to us ------------------------------------------------------------

_CREDENTIALS = "check the credentials that boto3 finds (aws sts get-caller-identity)"
_RIGHTS = "check the bucket policy and the rights of these credentials"
_CLOCK = "set this host's clock"
_REGION = "set AWS_REGION to the bucket's region, or the endpoint"
_BUCKET_HINT = "check the bucket's name, region and endpoint, or create the bucket"
_SLOW = "the store is throttling or failing; it is tried again"
_RESTART = "start the upload again"
_RECALL = "recall it first"
_REPORT = "report this with the request id to the store's operator"

_Meaning = tuple[type[StoreError], str]

CODES: dict[str, _Meaning] = {
    # Source: S3 API reference, "Error responses", "List of error codes".
    "NoSuchBucket": (StoreUnusable, _BUCKET_HINT),
    "InvalidBucketName": (StoreUnusable, _BUCKET_HINT),
    "AccessDenied": (StoreUnusable, _RIGHTS),
    "AllAccessDisabled": (StoreUnusable, _RIGHTS),
    "AccountProblem": (StoreUnusable, _RIGHTS),
    "NotSignedUp": (StoreUnusable, _RIGHTS),
    "UnauthorizedAccess": (StoreUnusable, _RIGHTS),
    "403": (StoreUnusable, _RIGHTS),
    "401": (StoreUnusable, _CREDENTIALS),
    "InvalidAccessKeyId": (StoreUnusable, _CREDENTIALS),
    "SignatureDoesNotMatch": (StoreUnusable, _CREDENTIALS),
    "InvalidSecurity": (StoreUnusable, _CREDENTIALS),
    "InvalidToken": (StoreUnusable, _CREDENTIALS),
    "ExpiredToken": (StoreUnusable, _CREDENTIALS),
    "TokenRefreshRequired": (StoreUnusable, _CREDENTIALS),
    "RequestTimeTooSkewed": (StoreUnusable, _CLOCK),
    "RequestExpired": (StoreUnusable, _CLOCK),
    "PermanentRedirect": (StoreUnusable, _REGION),
    "AuthorizationHeaderMalformed": (StoreUnusable, _REGION),
    "IllegalLocationConstraintException": (StoreUnusable, _REGION),
    "301": (StoreUnusable, _REGION),
    "SlowDown": (TransientStoreError, _SLOW),
    "Throttling": (TransientStoreError, _SLOW),
    "ThrottlingException": (TransientStoreError, _SLOW),
    "RequestLimitExceeded": (TransientStoreError, _SLOW),
    "TooManyRequests": (TransientStoreError, _SLOW),
    "BandwidthLimitExceeded": (TransientStoreError, _SLOW),
    "InternalError": (TransientStoreError, _SLOW),
    "InternalFailure": (TransientStoreError, _SLOW),
    "ServiceUnavailable": (TransientStoreError, _SLOW),
    "ServiceFailure": (TransientStoreError, _SLOW),
    "Busy": (TransientStoreError, _SLOW),
    "RequestTimeout": (TransientStoreError, _SLOW),
    "RequestTimeoutException": (TransientStoreError, _SLOW),
    "IncompleteBody": (TransientStoreError, _SLOW),
    "TemporaryRedirect": (TransientStoreError, _SLOW),
    "OperationAborted": (TransientStoreError, _SLOW),
    "GlacierExpeditedRetrievalNotAvailable": (TransientStoreError, _SLOW),
    "PreconditionFailed": (ObjectExists, ""),
    "ConditionalRequestConflict": (ObjectExists, ""),
    "412": (ObjectExists, ""),
    "NoSuchKey": (ObjectNotFound, ""),
    "NoSuchVersion": (ObjectNotFound, ""),
    "NoSuchUpload": (ObjectNotFound, _RESTART),
    "404": (ObjectNotFound, ""),
    "InvalidObjectState": (ObjectArchived, _RECALL),
    "ObjectNotInActiveTierError": (ObjectArchived, _RECALL),
    "ObjectLockedByRetention": (ObjectLocked, ""),
    "ObjectLocked": (ObjectLocked, ""),
    "BadDigest": (CorruptObject, _REPORT),
    "InvalidDigest": (CorruptObject, _REPORT),
    "XAmzContentChecksumMismatch": (CorruptObject, _REPORT),
    "XAmzContentSHA256Mismatch": (CorruptObject, _REPORT),
    "InvalidPart": (CorruptObject, _RESTART),
    "InvalidPartOrder": (CorruptObject, _RESTART),
    "InvalidRange": (CorruptObject, "the object is shorter than what was asked for"),
    "416": (CorruptObject, "the object is shorter than what was asked for"),
    "InvalidStorageClass": (Unsupported, "choose a storage class that this store offers"),
    "NotImplemented": (Unsupported, ""),
    "MethodNotAllowed": (Unsupported, ""),
    "405": (Unsupported, ""),
    "501": (Unsupported, ""),
    "UnsupportedOperation": (Unsupported, ""),
    "ObjectLockConfigurationNotFoundError": (Unsupported, "create the bucket with Object Lock"),
    "NoSuchObjectLockConfiguration": (Unsupported, "the object has no lock or hold"),
}
"""Vendor code (or, where an answer has no body, HTTP status) to our class and what to do."""

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504, 509})
"""HTTP statuses that are worth another attempt, whatever code the body gives."""

EXCEPTIONS: tuple[tuple[tuple[type[BaseException], ...], _Meaning], ...] = (
    (
        (
            vendor.NoCredentialsError,
            vendor.PartialCredentialsError,
            vendor.CredentialRetrievalError,
            vendor.NoAuthTokenError,
            vendor.TokenRetrievalError,
            vendor.ProfileNotFound,
            vendor.ConfigNotFound,
            vendor.ConfigParseError,
            vendor.SSOError,
            vendor.LoginError,
            vendor.RefreshWithMFAUnsupportedError,
        ),
        (StoreUnusable, _CREDENTIALS),
    ),
    (
        (vendor.NoRegionError, vendor.EndpointProviderError, vendor.InvalidRegionError),
        (StoreUnusable, _REGION),
    ),
    (
        (FileNotFoundError, PermissionError),
        (StoreUnusable, "check AWS_CA_BUNDLE and the files of the AWS profile"),
    ),
    (
        (
            vendor.HTTPClientError,  # resets, read timeouts, streams that break
            vendor.ConnectionError,  # refused, no route, no such host
            vendor.IncompleteReadError,
            vendor.MetadataRetrievalError,
            ResponseParserError,  # an answer that was cut: its outcome is not known
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
        ),
        (TransientStoreError, "check the network and the endpoint"),
    ),
    ((vendor.FlexibleChecksumError, vendor.ChecksumError), (CorruptObject, _REPORT)),
)
"""What never got an answer, most special first."""

VENDOR_ERRORS: tuple[type[Exception], ...] = (
    vendor.BotoCoreError,
    vendor.ClientError,
    Boto3Error,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)
"""Everything that boto3 and the layers below it raise; for ``except`` around a call."""


def vendor_code(exc: BaseException | None) -> str:
    """The store's own error code, ``NoSuchKey``; empty when there was no answer."""
    if isinstance(exc, vendor.ClientError):
        return str(exc.response.get("Error", {}).get("Code", ""))
    return ""


def translate(exc: BaseException, what: str) -> StoreError:
    """What an error of boto3 or below means to us; ``what`` opens the message.

    What no table names is a plain StoreError: refused, not known why, never success.
    """
    if isinstance(exc, StoreError):
        return exc
    if isinstance(exc, vendor.ClientError):
        return _translate_answer(exc, what)
    if type(exc) is vendor.HTTPClientError:  # a wrapper around anything, not only the network's
        return translate(exc.kwargs["error"], what)
    if _bad_certificate(exc):
        return StoreUnusable(
            f"{what}: {exc}", hint="check the endpoint's certificate, or set AWS_CA_BUNDLE"
        )
    for classes, (ours, hint) in EXCEPTIONS:
        if isinstance(exc, classes):
            return ours(f"{what}: {exc or type(exc).__name__}", hint=hint)
    return StoreError(f"{what}: {type(exc).__name__}: {exc}")


def _translate_answer(exc: vendor.ClientError, what: str) -> StoreError:
    error: dict[str, Any] = dict(exc.response.get("Error", {}))
    about: dict[str, Any] = dict(exc.response.get("ResponseMetadata", {}))
    code = str(error.get("Code", ""))
    status = int(about.get("HTTPStatusCode", 0) or 0)
    said = str(error.get("Message", "")).strip()
    request_id = about.get("RequestId") or error.get("RequestId") or "none"
    message = f"{what}: {code or 'no code'} (HTTP {status}, request id {request_id})"
    if said and said != code:
        message += f": {said[:300]}"
    ours, hint = _meaning(code, status)
    return ours(message, hint=hint)


def _meaning(code: str, status: int) -> _Meaning:
    if code in CODES:
        return CODES[code]
    if status in TRANSIENT_STATUS or (code.isdigit() and int(code) in TRANSIENT_STATUS):
        return (TransientStoreError, _SLOW)
    return (StoreError, _REPORT)


def _bad_certificate(exc: BaseException) -> bool:
    return isinstance(exc, vendor.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(exc)
