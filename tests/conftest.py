"""Options and fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from catalog.s3 import S3Location
from tests.support import servers
from tests.support.moto_s3 import moto_server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deep", action="store_true", help="also run slow and heavy tests")
    parser.addoption("--soak", action="store_true", help="also run tests that take many minutes")
    parser.addoption("--rgw", action="store_true", help="also run against a RADOS Gateway")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rgw_missing = servers.why_no_rgw()
    for item in items:
        if "deep" in item.keywords and not config.getoption("--deep"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --deep"))
        if "soak" in item.keywords and not config.getoption("--soak"):
            item.add_marker(pytest.mark.skip(reason="takes many minutes: runs with --soak"))
        if "rgw" not in item.keywords:
            continue
        if not config.getoption("--rgw"):
            item.add_marker(pytest.mark.skip(reason="needs a RADOS Gateway: runs with --rgw"))
        elif rgw_missing:
            item.add_marker(pytest.mark.skip(reason=f"no RADOS Gateway: {rgw_missing}"))


@pytest.fixture(scope="session", autouse=True)
def only_test_credentials() -> Iterator[None]:
    """No test can reach a real account: boto3 finds the invented credentials, nothing else."""
    with servers.credentials():
        yield


@pytest.fixture(scope="session")
def moto_endpoint(only_test_credentials: None) -> Iterator[str]:
    """URL of an S3 server with Glacier classes and checksums, slow but complete."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="session")
def rgw_endpoint(
    only_test_credentials: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """URL of a real S3 server; only for tests that are marked ``rgw``."""
    with servers.rgw_server(tmp_path_factory.mktemp("rgw") / "state") as url:
        yield url


@pytest.fixture
def moto_bucket(moto_endpoint: str) -> Callable[..., S3Location]:
    """Makes fresh buckets: ``moto_bucket(object_lock=False, prefix="")``."""

    def make(*, object_lock: bool = False, prefix: str = "") -> S3Location:
        return servers.new_bucket(moto_endpoint, object_lock=object_lock, prefix=prefix)

    return make
