"""The S3 store against a real server: Ceph's RADOS Gateway. Runs with ``--rgw``.

What release 16 cannot do is asked for, not skipped: CRC64NVME (MD5 is used), recalls
(Unsupported), and create-only puts where the bucket has versions (Unsupported).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from catalog.errors import StoreError
from catalog.s3 import S3Limits
from connector.store.body import crc64nvme
from connector.store.interface import ObjectStore, PartChecksum
from connector.store.s3 import S3Store
from connector.store.s3_encryption import Encryption, EncryptionKind
from tests.conformance.store import StoreConformance, bytes_at, send
from tests.support.servers import new_bucket

pytestmark = pytest.mark.rgw


class TestRadosGateway(StoreConformance):
    has_cold_classes = False

    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, rgw_endpoint: str) -> Iterator[ObjectStore]:
        yield from cls.opened(rgw_endpoint, object_lock=False, prefix="pool/one")

    @pytest.fixture(scope="class")
    @classmethod
    def locking_store(cls, rgw_endpoint: str) -> Iterator[ObjectStore]:
        yield from cls.opened(rgw_endpoint, object_lock=True, prefix="")

    @pytest.fixture(params=[False, True], ids=["plain", "locking"])
    def fresh_store(
        self, rgw_endpoint: str, request: pytest.FixtureRequest
    ) -> Iterator[ObjectStore]:
        yield from self.opened(rgw_endpoint, object_lock=request.param, prefix="")

    @classmethod
    def opened(cls, endpoint: str, *, object_lock: bool, prefix: str) -> Iterator[S3Store]:
        location = new_bucket(endpoint, object_lock=object_lock, prefix=prefix)
        store = S3Store(location, limits=S3Limits(deadline_s=30))
        yield store
        store.close()

    def test_the_probe_finds_what_the_endpoint_can_do(
        self, store: ObjectStore, locking_store: ObjectStore
    ) -> None:
        plain, locking = store.probe(), locking_store.probe()
        assert plain.part_checksum is locking.part_checksum is PartChecksum.MD5
        assert (plain.versioning, plain.object_lock, plain.create_only) == (False, False, True)
        assert (locking.versioning, locking.object_lock, locking.create_only) == (True, True, False)


@pytest.mark.parametrize("size", [5, 5 * 1024 * 1024 + 7])
def test_a_customer_key_is_needed_to_read_back(rgw_endpoint: str, size: int) -> None:
    location = new_bucket(rgw_endpoint)
    key = secrets.token_bytes(32)
    limits = S3Limits(deadline_s=30)
    encryption = Encryption(kind=EncryptionKind.SSE_C, customer_key=key)
    store = S3Store(location, limits=limits, encryption=encryption)
    other = S3Store(location, limits=limits)
    data = secrets.token_bytes(size)
    store.put("put", data)
    upload = store.start_upload("upload")
    part = send(store, upload, 1, data)
    store.complete_upload(upload, [part], crc64nvme=crc64nvme(data))
    for name in ("put", "upload"):
        assert bytes_at(store, name, 0, size) == data
        assert store.read(name, ceiling=size) == data
        with pytest.raises(StoreError):
            other.read(name, ceiling=size)
    store.close()
    other.close()
