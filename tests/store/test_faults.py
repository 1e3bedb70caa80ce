"""What the S3 store does when the network and the server do what they sometimes do."""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog.errors import (
    CorruptObject,
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnusable,
    TransientStoreError,
)
from catalog.model import StorageClass
from catalog.retry import Retrying
from catalog.s3 import S3Limits, S3Location
from connector.store.body import crc64nvme
from connector.store.interface import PutOptions, RecallTier
from connector.store.memory import MemoryStore
from connector.store.s3 import S3Store
from connector.store.s3_encryption import Encryption, EncryptionKind
from tests.conformance.store import bytes_at, send
from tests.support import faults
from tests.support.faults import Fault, FaultProxy, FaultyStore, StoreFault
from tests.support.moto_s3 import OLD
from tests.support.servers import new_bucket

DATA = bytes(range(256)) * 2048  # 512 KiB: more than one step of sending and receiving
CRC = crc64nvme(DATA)


@pytest.fixture(scope="module")
def shared_proxy(moto_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(moto_endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy without a script; at the end the script of the test must have been played."""
    shared_proxy.seen.clear()
    yield shared_proxy
    try:
        shared_proxy.check_all_played()
    finally:
        shared_proxy.forget()


@pytest.fixture(scope="module")
def open_store(shared_proxy: FaultProxy, moto_endpoint: str) -> Iterator[Callable[..., S3Store]]:
    """Gives stores behind the proxy, probed before any fault is played, one for each kind."""

    @functools.cache
    def opened(kind: str, deadline_s: float, read_timeout_s: float) -> S3Store:
        location = new_bucket(moto_endpoint, kind=kind)
        store = S3Store(
            S3Location(location.bucket, "pool", shared_proxy.url),
            limits=S3Limits(read_timeout_s=read_timeout_s, deadline_s=deadline_s),
            retrying=Retrying(deadline_s=deadline_s, first_wait_s=0.01),
        )
        store.probe()
        shared_proxy.seen.clear()
        stores.append(store)
        return store

    def make(
        *, kind: str = "tapelift-", deadline_s: float = 20, read_timeout_s: float = 10
    ) -> S3Store:
        store = opened(kind, deadline_s, read_timeout_s)
        for stored in store.scan(""):
            store.delete(stored.key)
        for upload in store.uploads(""):
            store.abort_upload(upload)
        shared_proxy.seen.clear()
        return store

    stores: list[S3Store] = []
    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., S3Store], proxy: FaultProxy) -> S3Store:
    return open_store()


# --- what is safe to repeat is repeated -----------------------------------------------------


def test_throttling_is_retried_and_each_retry_is_logged_once(
    store: S3Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    upload = store.start_upload("a")
    proxy.play(*[faults.refuse("UploadPart", 503, "SlowDown")] * 3)
    part = send(store, upload, 1, DATA)
    assert next(store.parts(upload)).size == part.size == len(DATA)
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert all("SlowDown" in text and "part 1 of a" in text for text in warnings)


LISTINGS = ("ListObjectsV2", "ListParts", "ListMultipartUploads")
OPERATIONS = (
    "PutObject", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload", "HeadObject",
    "GetObject", "DeleteObject", *LISTINGS,
)  # fmt: skip


def internal_error(operation: str) -> Fault:
    return faults.refuse(operation, 500, "InternalError")


@pytest.mark.parametrize(
    ("operation", "make"),
    [(operation, faults.reset) for operation in OPERATIONS]
    + [(operation, internal_error) for operation in OPERATIONS]
    + [(operation, faults.error_in_200) for operation in ("CompleteMultipartUpload", *LISTINGS)],
)
def test_resets_and_errors_of_the_server_are_got_over(
    store: S3Store, proxy: FaultProxy, operation: str, make: Callable[[str], Fault]
) -> None:
    proxy.play(make(operation), make(operation))
    store.put("put", DATA)
    assert bytes_at(store, "put", 100, 300_000) == DATA[100:300_100]
    store.delete("put")
    upload = store.start_upload("a")
    part = send(store, upload, 1, DATA)
    assert [one.number for one in store.parts(upload)] == [1]
    assert [one.key for one in store.uploads("")] == ["a"]
    assert store.complete_upload(upload, [part], crc64nvme=CRC).size == len(DATA)
    store.abort_upload(store.start_upload("b"))
    assert [one.key for one in store.scan("")] == ["a"]


def test_an_answer_cut_short_is_read_again(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", DATA)
    proxy.play(faults.cut_body("GetObject", 1000), faults.cut_body("GetObject", 300_000))
    assert bytes_at(store, "a", 0, len(DATA)) == DATA
    proxy.play(faults.cut_body("GetObject", 1000))
    assert store.read("a", ceiling=len(DATA)) == DATA


def test_a_conflict_of_writers_is_tried_again(store: S3Store, proxy: FaultProxy) -> None:
    proxy.play(faults.refuse("PutObject", 409, "ConditionalRequestConflict"))
    store.put("a", DATA, only_if_absent=True)
    assert store.read("a", ceiling=len(DATA)) == DATA


def test_an_upload_is_aborted_again_while_parts_are_listed(
    store: S3Store, proxy: FaultProxy
) -> None:
    def late_part(status: int, headers: dict[str, str], body: bytes) -> object:
        assert status == 404
        text = (
            b"<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber>"
            b'<ETag>"e"</ETag><Size>1</Size></Part></ListPartsResult>'
        )
        return 200, headers, text

    upload = store.start_upload("a")
    proxy.play(faults.altered("ListParts", late_part))
    store.abort_upload(upload)
    assert proxy.seen.count("AbortMultipartUpload") == 2


# --- every wait ends ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("PutObject", lambda store: store.put("b", DATA)),
        ("HeadObject", lambda store: store.stat("a")),
        ("GetObject", lambda store: store.read("a", ceiling=len(DATA))),
        ("ListObjectsV2", lambda store: list(store.scan(""))),
    ],
)
def test_a_stall_ends_at_the_deadline(
    open_store: Callable[..., S3Store],
    proxy: FaultProxy,
    operation: str,
    call: Callable[[S3Store], object],
) -> None:
    store = open_store(deadline_s=0.8)  # shorter than the read timeout
    store.put("a", DATA)
    proxy.play(faults.stall(operation))
    started = time.monotonic()
    with pytest.raises(TransientStoreError, match="given up"):
        call(store)
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize("slow", [faults.stall_in_body, faults.drip])
@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.read("a", ceiling=len(DATA)),
        lambda store: bytes_at(store, "a", 0, len(DATA)),
    ],
)
def test_a_stall_or_a_drip_within_a_body_ends_at_the_deadline(
    open_store: Callable[..., S3Store],
    proxy: FaultProxy,
    read: Callable[[S3Store], bytes],
    slow: Callable[[str, int], Fault],
) -> None:
    store = open_store(deadline_s=0.8)
    store.put("a", DATA)
    proxy.play(slow("GetObject", 200_000))
    started = time.monotonic()
    with pytest.raises(TransientStoreError, match="given up"):
        read(store)
    assert time.monotonic() - started < 2.5


def test_a_stall_shorter_than_the_deadline_is_got_over(
    open_store: Callable[..., S3Store], proxy: FaultProxy
) -> None:
    store = open_store(read_timeout_s=0.5)
    proxy.play(faults.stall("PutObject"))
    store.put("a", DATA)
    assert store.stat("a").size == len(DATA)


def test_a_refused_connection_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    retrying = Retrying(deadline_s=0.5, first_wait_s=0.05)
    store = S3Store(S3Location("tapelift-none", "", url), retrying=retrying)
    with pytest.raises(TransientStoreError, match="attempts") as caught:
        store.probe()
    assert caught.value.hint
    store.close()


# --- lost answers settle rightly ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tapelift-", OLD])
@pytest.mark.parametrize("only_if_absent", [True, False])
def test_a_put_whose_answer_is_lost_succeeded(
    open_store: Callable[..., S3Store], proxy: FaultProxy, kind: str, only_if_absent: bool
) -> None:
    store = open_store(kind=kind)
    proxy.play(faults.lose_answer("PutObject"))
    stored = store.put("a", DATA, only_if_absent=only_if_absent)
    assert (stored.size, stored.etag) == (len(DATA), store.stat("a").etag)
    assert store.read("a", ceiling=len(DATA)) == DATA


@pytest.mark.parametrize("kind", ["tapelift-", OLD])
@pytest.mark.parametrize("theirs", [b"shorter", DATA[::-1]])
def test_a_lost_answer_does_not_make_anothers_object_ours(
    open_store: Callable[..., S3Store], proxy: FaultProxy, kind: str, theirs: bytes
) -> None:
    store = open_store(kind=kind)
    store.put("a", theirs)
    proxy.play(faults.reset("PutObject"))
    with pytest.raises(ObjectExists):
        store.put("a", DATA, only_if_absent=True)
    assert store.read("a", ceiling=len(DATA)) == theirs


@pytest.mark.parametrize("kind", ["tapelift-", OLD])
def test_a_completion_whose_answer_is_lost_succeeded(
    open_store: Callable[..., S3Store], proxy: FaultProxy, kind: str
) -> None:
    store = open_store(kind=kind)
    upload = store.start_upload("a")
    part = send(store, upload, 1, DATA)
    proxy.play(faults.lose_answer("CompleteMultipartUpload"))
    assert store.complete_upload(upload, [part], crc64nvme=CRC).size == len(DATA)
    assert store.read("a", ceiling=len(DATA)) == DATA
    assert list(store.uploads("")) == []


@pytest.mark.parametrize("kind", ["tapelift-", OLD])
def test_a_lost_completion_does_not_make_anothers_object_ours(
    open_store: Callable[..., S3Store], proxy: FaultProxy, kind: str
) -> None:
    store = open_store(kind=kind)
    upload = store.start_upload("a")
    part = send(store, upload, 1, DATA)
    store.abort_upload(upload)
    store.put("a", DATA[::-1])
    proxy.play(faults.reset("CompleteMultipartUpload")) if kind != OLD else None
    with pytest.raises(ObjectExists):
        store.complete_upload(upload, [part], crc64nvme=CRC)


def test_a_completion_that_never_works_never_succeeds(
    open_store: Callable[..., S3Store], proxy: FaultProxy
) -> None:
    store = open_store(deadline_s=0.5)
    upload = store.start_upload("a")
    part = send(store, upload, 1, DATA)
    answer = faults.error_in_200("CompleteMultipartUpload")
    proxy.play(*[answer] * 100)
    with pytest.raises(TransientStoreError):
        store.complete_upload(upload, [part], crc64nvme=CRC)
    assert 2 < proxy.seen.count("CompleteMultipartUpload") < 100
    proxy.forget()
    with pytest.raises(ObjectNotFound):
        store.stat("a")


def test_an_abort_whose_answer_is_lost_succeeded(store: S3Store, proxy: FaultProxy) -> None:
    upload = store.start_upload("a")
    send(store, upload, 1, DATA)
    proxy.play(faults.lose_answer("AbortMultipartUpload"))
    store.abort_upload(upload)
    assert list(store.uploads("")) == []


def test_a_delete_whose_answer_is_lost_succeeded(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", DATA)
    proxy.play(faults.lose_answer("DeleteObject"))
    store.delete("a")
    with pytest.raises(ObjectNotFound):
        store.stat("a")


def test_an_upload_whose_start_is_lost_is_not_started_twice(
    store: S3Store, proxy: FaultProxy
) -> None:
    proxy.play(faults.lose_answer("CreateMultipartUpload"))
    with pytest.raises(TransientStoreError) as caught:
        store.start_upload("a")
    assert "uploads()" in caught.value.hint
    assert proxy.seen.count("CreateMultipartUpload") == 1
    (orphan,) = store.uploads("a")
    store.abort_upload(orphan)


def test_an_upload_whose_start_is_refused_is_started_again(
    store: S3Store, proxy: FaultProxy
) -> None:
    proxy.play(faults.refuse("CreateMultipartUpload", 503, "SlowDown"))
    upload = store.start_upload("a")
    assert [one.upload_id for one in store.uploads("")] == [upload.upload_id]
    store.abort_upload(upload)


# --- nothing succeeds falsely ---------------------------------------------------------------


def test_a_range_that_is_ignored_is_corrupt(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", DATA)
    for offset, size in ((10, 20), (0, 20)):
        proxy.play(faults.without_header("GetObject", "Range"))
        with pytest.raises(CorruptObject):
            bytes_at(store, "a", offset, size)
    proxy.play(faults.without_header("GetObject", "Range"))
    assert bytes_at(store, "a", 0, len(DATA)) == DATA  # the whole was asked for: that is right


@pytest.mark.parametrize(
    "content_range", ["bytes 11-30/524288", "bytes 10-30/524288", "bytes 10-28/29", "whatever", ""]
)
def test_another_range_than_asked_for_is_corrupt(
    store: S3Store, proxy: FaultProxy, content_range: str
) -> None:
    store.put("a", DATA)
    proxy.play(
        faults.altered(
            "GetObject",
            lambda status, headers, body: (
                status,
                headers | {"Content-Range": content_range},
                body,
            ),
        )
    )
    with pytest.raises(CorruptObject):
        bytes_at(store, "a", 10, 20)


def test_a_body_that_goes_on_is_corrupt(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", DATA)
    proxy.play(faults.altered("GetObject", lambda *one: (one[0], one[1], one[2] + b"more")))
    with pytest.raises(CorruptObject):
        bytes_at(store, "a", 10, 20)


def test_an_object_that_does_not_match_its_checksum_is_corrupt(
    store: S3Store, proxy: FaultProxy
) -> None:
    store.put("a", DATA)
    flipped = bytes([DATA[0] ^ 1]) + DATA[1:]
    proxy.play(faults.altered("GetObject", lambda *one: (one[0], one[1], flipped)))
    with pytest.raises(CorruptObject):
        store.read("a", ceiling=len(DATA))


def _edit(name: str, value: str | None) -> Callable[..., object]:
    def change(status: int, headers: dict[str, str], body: bytes) -> object:
        kept = {key: old for key, old in headers.items() if key.lower() != name}
        return status, kept | ({name: value} if value else {}), body

    return change


def _put_in_one(store: S3Store) -> object:
    return store.put("a", DATA)


def _put_as_part(store: S3Store) -> object:
    return send(store, store.start_upload("a"), 1, DATA)


@pytest.mark.parametrize(
    ("operation", "put"), [("PutObject", _put_in_one), ("UploadPart", _put_as_part)]
)
@pytest.mark.parametrize(
    ("kind", "header", "value"),
    [
        ("tapelift-", "x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
        ("tapelift-", "x-amz-checksum-crc64nvme", None),
        (OLD, "etag", '"00000000000000000000000000000000"'),
    ],
)
def test_a_body_that_is_not_confirmed_is_corrupt(
    open_store: Callable[..., S3Store],
    proxy: FaultProxy,
    operation: str,
    put: Callable[[S3Store], object],
    kind: str,
    header: str,
    value: str | None,
) -> None:
    store = open_store(kind=kind)
    proxy.play(faults.altered(operation, _edit(header, value)))
    with pytest.raises(CorruptObject):
        put(store)


@pytest.mark.parametrize(
    ("header", "value"),
    [("content-length", "7"), ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")],
)
def test_a_completed_object_that_is_not_its_parts_is_corrupt(
    store: S3Store, proxy: FaultProxy, header: str, value: str
) -> None:
    upload = store.start_upload("a")
    part = send(store, upload, 1, DATA)
    proxy.play(faults.altered("HeadObject", _edit(header, value)))
    with pytest.raises(CorruptObject):
        store.complete_upload(upload, [part], crc64nvme=CRC)


# --- what will never work says so at once ---------------------------------------------------


@pytest.mark.parametrize(
    "code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket"]
)
def test_what_credentials_forbid_is_not_tried_again(
    store: S3Store, proxy: FaultProxy, code: str
) -> None:
    proxy.play(faults.refuse("PutObject", 403, code))
    with pytest.raises(StoreUnusable) as caught:
        store.put("a", DATA)
    assert caught.value.hint
    assert code in str(caught.value)
    assert "testing-secret" not in str(caught.value)
    assert proxy.seen.count("PutObject") == 1


def test_a_missing_bucket_is_unusable(moto_endpoint: str) -> None:
    store = S3Store(S3Location("tapelift-missing", "", moto_endpoint))
    with pytest.raises(StoreUnusable, match="NoSuchBucket") as caught:
        store.probe()
    assert "bucket" in caught.value.hint
    store.close()


def test_without_credentials_nothing_is_opened(
    moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(StoreUnusable) as caught:
        S3Store(S3Location("tapelift-any", "", moto_endpoint))
    assert "credentials" in caught.value.hint


def test_a_code_that_nobody_knows_is_an_error_and_not_tried_again(
    store: S3Store, proxy: FaultProxy
) -> None:
    proxy.play(faults.refuse("PutObject", 418, "Teapot"))
    with pytest.raises(StoreError, match="Teapot") as caught:
        store.put("a", DATA)
    assert type(caught.value) is StoreError


def test_a_role_that_may_not_ask_about_the_bucket_is_told_no(
    proxy: FaultProxy, moto_endpoint: str
) -> None:
    location = new_bucket(moto_endpoint, object_lock=True)
    store = S3Store(S3Location(location.bucket, "", proxy.url))
    proxy.play(*[faults.refuse("BucketGet", 403, "AccessDenied")] * 2)
    able = store.probe()
    assert (able.versioning, able.object_lock, able.create_only) == (False, False, True)
    store.close()


# --- recalls --------------------------------------------------------------------------------


def test_a_recall_that_is_under_way_is_success(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", b"cold", PutOptions(storage_class=StorageClass.GLACIER))
    proxy.play(faults.refuse("RestoreObject", 409, "RestoreAlreadyInProgress"))
    store.recall("a", days=1, tier=RecallTier.STANDARD)
    with pytest.raises(ObjectArchived):
        store.read("a", ceiling=4)


# --- what goes over the wire ----------------------------------------------------------------


def test_a_body_is_neither_signed_nor_chunked_on_loopback(
    store: S3Store, proxy: FaultProxy
) -> None:
    seen: dict[str, str] = {}

    def look(proxy: FaultProxy, request: faults.Request) -> None:
        seen.update(request.headers)
        assert request.body() == DATA
        faults.relay(proxy, request)

    upload = store.start_upload("a")
    proxy.play(Fault("UploadPart", look))
    send(store, upload, 1, DATA)
    assert seen["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert seen["content-length"] == str(len(DATA))
    assert "transfer-encoding" not in seen
    assert "x-amz-checksum-crc64nvme" in seen["authorization"]


def test_a_customer_key_is_never_logged(
    proxy: FaultProxy, moto_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="botocore")  # and back again after the test
    encryption = Encryption(kind=EncryptionKind.SSE_C, customer_key=b"k" * 32)
    location = new_bucket(moto_endpoint)
    store = S3Store(S3Location(location.bucket, "", proxy.url), encryption=encryption)
    headers: list[str] = []

    def look(proxy: FaultProxy, request: faults.Request) -> None:
        headers.append(request.headers["x-amz-server-side-encryption-customer-key"])
        faults.relay(proxy, request)

    proxy.play(Fault("UploadPart", look))
    store.probe()
    (sent,) = headers
    assert sent not in caplog.text
    assert "k" * 32 not in caplog.text + repr(store) + repr(encryption)
    store.close()


def test_a_customer_key_makes_nobody_log_more_than_before(
    moto_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="botocore")
    encryption = Encryption(kind=EncryptionKind.SSE_C, customer_key=b"k" * 32)
    S3Store(S3Location("bucket", "", moto_endpoint), encryption=encryption).close()
    assert logging.getLogger("botocore").getEffectiveLevel() == logging.WARNING


# --- the wrapper ----------------------------------------------------------------------------


def test_a_faulty_store_plays_its_script_and_nothing_else() -> None:
    lost = TransientStoreError("lost")
    script = [StoreFault("put", lost, key="a", after=True), StoreFault("stat", lost)]
    with FaultyStore(MemoryStore(), script) as store:
        store.put("b", b"1")
        with pytest.raises(TransientStoreError):
            store.put("a", b"2")
        with pytest.raises(TransientStoreError):
            store.stat("a")
        assert store.stat("a").size == 1
        assert store.uri == "memory:test"


def test_a_fault_that_is_never_reached_fails_the_test(moto_endpoint: str) -> None:
    with (
        pytest.raises(AssertionError, match="never reached"),
        FaultyStore(MemoryStore(), [StoreFault("put", TransientStoreError("x"))]),
    ):
        pass
    with (
        pytest.raises(AssertionError, match=re.escape("never reached")),
        FaultProxy(moto_endpoint, [faults.reset("PutObject")]),
    ):
        pass


def test_nothing_but_the_edge_knows_boto() -> None:
    allowed = {"s3_bucket.py", "body.py", "s3.py"}
    folder = Path(__file__).parents[2] / "connector" / "store"
    for module in folder.glob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) (?:boto3|botocore)", module.read_text(), re.M)
        assert not imports or module.name in allowed, module
