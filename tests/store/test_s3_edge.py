"""Locations, errors, headers, checksums: what S3 says and what it means, without a server."""

from __future__ import annotations

import datetime as dt
import http.client
import io
import socket
from typing import Any

import pytest
import urllib3.exceptions
from botocore import exceptions as vendor
from botocore.response import StreamingBody
from hypothesis import given
from hypothesis import strategies as st

from catalog import s3
from catalog.errors import (
    ConfigError,
    CorruptObject,
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.model import NANOSECONDS, LockMode, StorageClass
from catalog.s3 import S3Location, parse_uri, translate
from connector.store import s3_facts
from connector.store.body import (
    Body,
    bytes_view,
    crc64nvme,
    crc_from_text,
    crc_to_text,
    fill,
)
from connector.store.interface import Part, RecallState
from connector.store.s3_checksum import joined_crc, upload_etag
from connector.store.s3_encryption import Encryption, EncryptionKind

# --- locations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a", "my.bucket-1", "a"),
        ("s3://bucket/a/b c/", "bucket", "a/b c"),
    ],
)
def test_a_location_is_read_and_written(uri: str, bucket: str, prefix: str) -> None:
    location = parse_uri(uri)
    assert (location.bucket, location.prefix) == (bucket, prefix)
    assert location.uri == uri.rstrip("/")
    assert location.key("x") == (f"{prefix}/x" if prefix else "x")


@pytest.mark.parametrize(
    "uri",
    [
        "", "bucket", "s3:/bucket", "S3://bucket", "http://bucket/a", "s3://", "s3:///a", "s3://ab",
        "s3://-bucket", "s3://buc ket/a", "s3://user:secret@bucket/a", "s3://bucket//a",
        "s3://bucket/a//b", "s3://bucket/../a", "s3://bucket/a/.", "s3://bucket/a?x=1",
        "s3://bucket/a#b", "s3://bucket/a\n", "s3://bucket/" + "x" * 401, "s3://bucket/a//",
    ],
)  # fmt: skip
def test_what_is_no_location_is_refused_with_a_hint(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_uri(uri)
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:9000", "ftp://host", "http://", "http://host/path", "http://host?x", "http://h:x"],
)
def test_what_is_no_endpoint_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_uri("s3://bucket", url)
    assert caught.value.hint


def test_credentials_in_an_endpoint_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_uri("s3://bucket", "https://key:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        ("https://s3.amazonaws.com", False),
        ("http://127.0.0.1:9000", False),
        ("http://127.8.8.8", False),
        ("http://[::1]:9000", False),
        ("http://localhost:9000", False),
        ("http://10.0.0.1:9000", True),
        ("http://localhost.example.com", True),
        ("http://store.example.com", True),
    ],
)
def test_bodies_are_signed_where_they_could_be_exchanged(url: str, signed: bool) -> None:
    client = s3.make_client(S3Location("bucket", "", url))
    assert client.meta.config.s3["payload_signing_enabled"] is signed  # type: ignore[attr-defined]
    client.close()


# --- errors ---------------------------------------------------------------------------------


def answer(code: str, status: int, message: str = "told") -> vendor.ClientError:
    about: Any = {"HTTPStatusCode": status, "RequestId": "REQ-1"}
    return vendor.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": about}, "PutObject"
    )


@pytest.mark.parametrize(
    ("code", "status", "ours"),
    [
        ("NoSuchBucket", 404, StoreUnusable),
        ("AccessDenied", 403, StoreUnusable),
        ("InvalidAccessKeyId", 403, StoreUnusable),
        ("SignatureDoesNotMatch", 403, StoreUnusable),
        ("403", 403, StoreUnusable),
        ("SlowDown", 503, TransientStoreError),
        ("InternalError", 200, TransientStoreError),
        ("RequestTimeout", 400, TransientStoreError),
        ("SomethingNew", 503, TransientStoreError),
        ("500", 500, TransientStoreError),
        ("502", 0, TransientStoreError),
        ("PreconditionFailed", 412, ObjectExists),
        ("ConditionalRequestConflict", 409, ObjectExists),
        ("NoSuchKey", 404, ObjectNotFound),
        ("NoSuchUpload", 404, ObjectNotFound),
        ("404", 404, ObjectNotFound),
        ("InvalidObjectState", 403, ObjectArchived),
        ("BadDigest", 400, CorruptObject),
        ("InvalidRange", 416, CorruptObject),
        ("NotImplemented", 501, Unsupported),
        ("SomethingNew", 400, StoreError),
        ("SomethingNew", 200, StoreError),
        ("", 0, StoreError),
    ],
)
def test_a_code_has_one_meaning(code: str, status: int, ours: type[StoreError]) -> None:
    error = translate(answer(code, status), "putting a")
    assert type(error) is ours
    assert error.message.startswith("putting a: ")
    assert "REQ-1" in error.message
    assert "told" in error.message


@pytest.mark.parametrize(
    ("exc", "ours"),
    [
        (vendor.NoCredentialsError(), StoreUnusable),
        (vendor.ProfileNotFound(profile="x"), StoreUnusable),
        (vendor.SSLError(endpoint_url="u", error="CERTIFICATE_VERIFY_FAILED"), StoreUnusable),
        (vendor.SSLError(endpoint_url="u", error="EOF occurred"), TransientStoreError),
        (vendor.EndpointConnectionError(endpoint_url="u"), TransientStoreError),
        (vendor.ReadTimeoutError(endpoint_url="u"), TransientStoreError),
        (vendor.ConnectionClosedError(endpoint_url="u"), TransientStoreError),
        (vendor.IncompleteReadError(actual_bytes=1, expected_bytes=2), TransientStoreError),
        (vendor.HTTPClientError(error=ConnectionResetError(104, "reset")), TransientStoreError),
        (vendor.HTTPClientError(error=FileNotFoundError("ca.pem")), StoreUnusable),
        (vendor.HTTPClientError(error=ValueError("ours")), StoreError),
        (vendor.FlexibleChecksumError(error_msg="x"), CorruptObject),
        (vendor.ParamValidationError(report="x"), StoreError),
        (urllib3.exceptions.ProtocolError("broken"), TransientStoreError),
        (http.client.IncompleteRead(b"", 9), TransientStoreError),
        (TimeoutError("slow"), TransientStoreError),
        (socket.gaierror(-2, "no such host"), TransientStoreError),
        (RuntimeError("unheard of"), StoreError),
    ],
)
def test_what_got_no_answer_has_a_meaning_too(exc: Exception, ours: type[StoreError]) -> None:
    assert type(translate(exc, "reading a")) is ours


def test_our_own_error_stays_what_it_is() -> None:
    error = ObjectNotFound("a")
    assert translate(error, "again") is error


# --- facts ----------------------------------------------------------------------------------

NOW = 1_800_000_000 * NANOSECONDS
EXPIRY = "Fri, 15 Jan 2027 08:00:01 GMT"  # one second after NOW
PAST = "Fri, 15 Jan 2027 08:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "state"),
    [
        (None, RecallState.ARCHIVED),
        ("", RecallState.ARCHIVED),
        ('ongoing-request="true"', RecallState.RECALLING),
        (f'ongoing-request="false", expiry-date="{EXPIRY}"', RecallState.RECALLED),
        (f'ongoing-request="false", expiry-date="{PAST}"', RecallState.ARCHIVED),
        ('ongoing-request="false"', RecallState.ARCHIVED),
        ('ongoing-request="false", expiry-date="some day"', RecallState.ARCHIVED),
        ("whatever", RecallState.ARCHIVED),
    ],
)
def test_a_cold_object_is_readable_only_with_a_date_to_come(
    header: str | None, state: RecallState
) -> None:
    found, expires = s3_facts.recall_state(header, archived=True, now=NOW)
    assert found is state
    assert (expires is not None) == (state is RecallState.RECALLED)
    assert s3_facts.recall_state(header, archived=False, now=NOW)[0] is RecallState.READABLE


@given(st.text())
def test_any_restore_header_is_survived(header: str) -> None:
    state, _ = s3_facts.recall_state(header, archived=True, now=NOW)
    assert state in (RecallState.ARCHIVED, RecallState.RECALLING, RecallState.RECALLED)


def test_a_head_is_read_whole() -> None:
    east = dt.timezone(dt.timedelta(hours=1))
    stored = s3_facts.from_head(
        "a",
        {
            "ContentLength": 9,
            "ETag": '"abc"',
            "VersionId": "v1",
            "ChecksumCRC64NVME": "rosUhgp5mIg=",
            "LastModified": dt.datetime(2027, 1, 15, 9, 0, tzinfo=east),
            "ObjectLockMode": "GOVERNANCE",
            "ObjectLockRetainUntilDate": dt.datetime(2027, 1, 15, 8, 0, 1, tzinfo=dt.UTC),
            "ObjectLockLegalHoldStatus": "ON",
        },
        now=NOW,
    )  # fmt: skip
    assert stored.storage_class is StorageClass.STANDARD
    assert (stored.etag, stored.crc64nvme) == ("abc", 0xAE8B14860A799888)
    assert (stored.modified_at, stored.lock_until) == (NOW, NOW + NANOSECONDS)
    assert (stored.lock_mode, stored.hold) == (LockMode.GOVERNANCE, True)


def test_what_is_new_to_us_is_taken_for_the_safer_thing() -> None:
    head = {"ContentLength": 1, "StorageClass": "NEW", "ObjectLockMode": "NEW", "VersionId": "null"}
    stored = s3_facts.from_head("a", head, now=NOW)
    assert stored.storage_class is StorageClass.STANDARD
    assert stored.lock_mode is LockMode.COMPLIANCE
    assert stored.version_id is None


def test_a_tiered_object_is_archived_too() -> None:
    head = {"ContentLength": 1, "StorageClass": "INTELLIGENT_TIERING"}
    assert s3_facts.from_head("a", head, now=NOW).recall is RecallState.READABLE
    cold = s3_facts.from_head("a", head | {"ArchiveStatus": "DEEP_ARCHIVE_ACCESS"}, now=NOW)
    assert cold.recall is RecallState.ARCHIVED


@given(st.integers(0, 4 * 10**18))
def test_a_lock_is_rounded_up_to_a_second(time: int) -> None:
    back = s3_facts.to_ns(s3_facts.to_datetime(time))
    assert back is not None
    assert time <= back < time + NANOSECONDS


# --- checksums and bodies -------------------------------------------------------------------


def test_the_checksum_is_the_one_of_the_catalogue_of_crcs() -> None:
    assert crc64nvme(b"123456789") == 0xAE8B14860A799888
    assert crc_to_text(0xAE8B14860A799888) == "rosUhgp5mIg="


@given(st.integers(0, 2**64 - 1))
def test_a_checksum_is_written_and_read(crc: int) -> None:
    assert crc_from_text(crc_to_text(crc)) == crc


@pytest.mark.parametrize("text", [None, "", "AAAA", "!", "rosUhgp5mIg=-2", "é"])
def test_what_is_no_checksum_is_none(text: str | None) -> None:
    assert crc_from_text(text) is None


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_checksums_of_parts_join_to_that_of_the_whole(bodies: list[bytes]) -> None:
    parts = [
        Part(number=number, size=len(body), etag="", crc64nvme=crc64nvme(body))
        for number, body in enumerate(bodies, start=1)
    ]
    assert joined_crc(parts) == crc64nvme(b"".join(bodies))
    assert joined_crc([*parts, Part(number=9, size=1, etag="")]) is None


def test_the_etag_of_an_upload_follows_from_its_parts() -> None:
    one = Part(number=1, size=3, etag="900150983cd24fb0d6963f7d28e17f72")  # MD5 of "abc"
    assert upload_etag([one]) == "af5da9f45af7a300e3aded972f8ff687-1"
    assert upload_etag([one, Part(number=2, size=1, etag="opaque")]) is None


@given(st.binary(max_size=50), st.lists(st.integers(1, 20), max_size=10))
def test_a_body_is_a_file_over_memory(data: bytes, sizes: list[int]) -> None:
    body, plain = Body(memoryview(data)), io.BytesIO(data)
    assert len(body) == len(data)
    for size in sizes:
        assert body.read(size) == plain.read(size)
        assert body.tell() == plain.tell()
    body.seek(0)
    assert body.read() == data
    assert b"".join(body.views()) == data


def test_the_views_of_a_body_are_the_callers_memory() -> None:
    data = bytearray(3 * 1024 * 1024)
    views = list(Body(memoryview(data)).views())
    data[-1] = 7
    assert views[-1][-1] == 7
    assert len(views) == 3


def test_memory_with_gaps_is_no_body() -> None:
    with pytest.raises(TypeError):
        bytes_view(memoryview(b"abcdef")[::2])


@pytest.mark.parametrize("length", [None, "9"])
def test_a_body_below_unknown_layers_is_read_through_them(length: str | None) -> None:
    buffer = bytearray(9)
    body = StreamingBody(io.BytesIO(b"123456789"), length)  # type: ignore[arg-type]
    fill(body, memoryview(buffer), "x", read_timeout_s=1)
    assert buffer == b"123456789"


def test_a_short_body_below_unknown_layers_is_an_error() -> None:
    body = StreamingBody(io.BytesIO(b"1234"), None)  # type: ignore[arg-type]
    with pytest.raises(TransientStoreError, match="ended after 4 of 9"):
        fill(body, memoryview(bytearray(9)), "x", read_timeout_s=1)


# --- encryption -----------------------------------------------------------------------------


def test_each_encryption_has_its_parameters() -> None:
    assert Encryption().on_create() == {}
    assert Encryption(kind=EncryptionKind.SSE_S3).on_create() == {"ServerSideEncryption": "AES256"}
    kms = Encryption(kind=EncryptionKind.SSE_KMS, kms_key_id="k1")
    assert kms.on_create() == {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k1"}
    assert kms.on_access() == {}
    customer = Encryption(kind=EncryptionKind.SSE_C, customer_key=b"k" * 32)
    assert customer.on_create() == customer.on_access()
    assert customer.on_access()["SSECustomerAlgorithm"] == "AES256"
    assert "kkkk" not in repr(customer)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": EncryptionKind.SSE_C},
        {"kind": EncryptionKind.SSE_C, "customer_key": b"short"},
        {"kind": EncryptionKind.SSE_S3, "customer_key": b"k" * 32},
        {"kind": EncryptionKind.SSE_S3, "kms_key_id": "k1"},
    ],
)
def test_keys_and_kinds_must_belong_together(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Encryption(**wrong)
    assert caught.value.hint
    assert "short" not in str(caught.value)
