"""The S3 store against moto's server, as S3 is today and as compatible stores were yesterday."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from catalog.s3 import S3Limits
from connector.store.interface import ObjectStore, PartChecksum
from connector.store.s3 import S3Store
from tests.conformance.store import StoreConformance
from tests.support.moto_s3 import OLD
from tests.support.servers import new_bucket


class TestS3Store(StoreConformance):
    kind = "tapelift-"
    part_checksum = PartChecksum.CRC64NVME

    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, moto_endpoint: str) -> Iterator[ObjectStore]:
        yield from cls.opened(moto_endpoint, object_lock=False, prefix="pool/one")

    @pytest.fixture(scope="class")
    @classmethod
    def locking_store(cls, moto_endpoint: str) -> Iterator[ObjectStore]:
        yield from cls.opened(moto_endpoint, object_lock=True, prefix="")

    @pytest.fixture(params=[False, True], ids=["plain", "locking"])
    def fresh_store(
        self, moto_endpoint: str, request: pytest.FixtureRequest
    ) -> Iterator[ObjectStore]:
        yield from self.opened(moto_endpoint, object_lock=request.param, prefix="")

    @classmethod
    def opened(cls, endpoint: str, *, object_lock: bool, prefix: str) -> Iterator[S3Store]:
        location = new_bucket(endpoint, object_lock=object_lock, prefix=prefix, kind=cls.kind)
        store = S3Store(location, limits=S3Limits(deadline_s=15))
        yield store
        store.close()

    def test_the_probe_finds_what_the_endpoint_can_do(
        self, store: ObjectStore, locking_store: ObjectStore
    ) -> None:
        plain, locking = store.probe(), locking_store.probe()
        assert plain.part_checksum is locking.part_checksum is self.part_checksum
        assert (plain.versioning, plain.object_lock, plain.create_only) == (False, False, True)
        assert (locking.versioning, locking.object_lock, locking.create_only) == (True, True, True)


class TestS3StoreOfYesterday(TestS3Store):
    kind = OLD
    part_checksum = PartChecksum.MD5
