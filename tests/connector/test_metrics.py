"""Metrics: scraped as Prometheus does, parsed by its own parser."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from catalog.errors import ConfigError
from catalog.model import NANOSECONDS
from connector.metrics import LOOPBACK, POOL_METRICS, MetricsServer, serve_metrics
from connector.serve.status import OUTCOMES, PoolStatus, Status
from connector.store.s3 import S3Store
from connector.store.s3_traffic import Ended, Traffic
from tests.support.faults import FaultProxy, refuse, reset
from tests.support.servers import new_bucket

MAIN = PoolStatus(
    name="main",
    up=True,
    bytes_in=10,
    bytes_out=3,
    images=dict.fromkeys(OUTCOMES, 2),
    writing=4,
    reading=1,
    stored=7,
    logical=70,
    physical=60,
    locked=50,
    capacity=1 << 50,
    soft_quota=80,
    hard_quota=90,
    spooled=0,
    spool_limit=100,
    oldest_unsafe_s=1.5,
    tickets={"waiting": 2},
    ledger_waiting=5,
    journal_bytes=4096,
    traffic=Traffic({("PutObject", Ended.OK): 8, ("PutObject", Ended.THROTTLED): 1}),
)
DOWN = PoolStatus(name="cold", up=False, why="NoSuchBucket")


@dataclass
class Service:
    state: Status
    failing: bool = False

    def status(self) -> Status:
        if self.failing:
            raise RuntimeError("no status now")
        return self.state


STATUS = Status(
    state="up",
    version="0.1.0",
    started_at=1_700_000_000 * NANOSECONDS,
    connections=3,
    max_connections=2000,
    max_handles=64,
    pools=(MAIN, DOWN),
)


@pytest.fixture(scope="module")
def only_service() -> Service:
    return Service(STATUS)


@pytest.fixture
def service(only_service: Service) -> Service:
    only_service.state, only_service.failing = STATUS, False
    return only_service


@pytest.fixture(scope="module")
def only_server(only_service: Service) -> Iterator[MetricsServer]:
    with serve_metrics(0, only_service) as server:
        yield server


@pytest.fixture
def served(only_server: MetricsServer, service: Service) -> MetricsServer:
    return only_server


Sample = tuple[str, tuple[tuple[str, str], ...]]


def scrape(server: MetricsServer) -> dict[Sample, float]:
    with urllib.request.urlopen(f"http://{LOOPBACK}:{server.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(name: str, **labels: str) -> Sample:
    return f"tapelift_{name}", tuple(sorted(labels.items()))


def test_a_scrape_has_the_daemon_and_every_pool(served: MetricsServer) -> None:
    found = scrape(served)
    assert found[of("status_ok")] == 1
    assert found[of("info", version="0.1.0")] == 1
    assert found[of("start_time_seconds")] == 1_700_000_000
    states = {name: found[of("state", state=name)] for name in ("up", "draining", "down")}
    assert states == {"up": 1, "draining": 0, "down": 0}
    assert found[of("connections")] == 3
    assert found[of("handles_limit")] == 64
    assert found[of("pool_up", pool="main")] == 1
    assert found[of("pool_up", pool="cold")] == 0
    assert found[of("received_bytes_total", pool="main")] == 10
    assert found[of("sent_bytes_total", pool="main")] == 3
    assert found[of("images_total", pool="main", outcome="completed")] == 2
    assert found[of("handles", pool="main", mode="write")] == 4
    assert found[of("oldest_unsafe_seconds", pool="main")] == 1.5
    requests = found[of("s3_requests_total", pool="main", operation="PutObject", outcome="ok")]
    assert requests == 8
    assert found[of("recall_tickets", pool="main", state="waiting")] == 2
    assert found[of("pool_capacity_bytes", pool="main")] == 1 << 50
    assert found["process_resident_memory_bytes", ()] > 0


def test_what_a_pool_does_not_have_is_left_out_and_not_zero(served: MetricsServer) -> None:
    found = scrape(served)
    for name in ("pool_soft_quota_bytes", "pool_hard_quota_bytes", "spool_bytes"):
        assert of(name, pool="main") in found
        assert of(name, pool="cold") not in found


def test_every_scrape_tells_how_it_is_now(served: MetricsServer, service: Service) -> None:
    scrape(served)
    pools = (replace(MAIN, up=False, bytes_in=11), DOWN)
    service.state = replace(service.state, state="draining", pools=pools)
    found = scrape(served)
    assert found[of("state", state="draining")] == 1
    assert found[of("pool_up", pool="main")] == 0
    assert found[of("received_bytes_total", pool="main")] == 11


def test_a_service_that_cannot_tell_is_seen_and_the_next_scrape_is_answered(
    served: MetricsServer, service: Service
) -> None:
    service.failing = True
    found = scrape(served)
    assert {name for name, _ in found if name.startswith("tapelift_")} == {"tapelift_status_ok"}
    assert found[of("status_ok")] == 0
    service.failing = False
    assert scrape(served)[of("status_ok")] == 1


def test_the_number_of_series_does_not_depend_on_what_is_stored(
    served: MetricsServer, service: Service
) -> None:
    before = set(scrape(served))
    grown = replace(MAIN, stored=10**6, writing=60, images=dict.fromkeys(OUTCOMES, 10**6))
    service.state = replace(service.state, pools=(grown, DOWN))
    assert set(scrape(served)) == before


def test_names_follow_the_conventions_of_prometheus() -> None:
    for row in POOL_METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z]", row.name)
        assert not row.name.endswith("_total"), "the client adds it"
        assert row.help.endswith(".")
        assert not re.search(r"mib|gib|_ms$|_ns$|percent", row.name), "base units only"


def test_metrics_are_served_on_loopback_only(served: MetricsServer) -> None:
    with socket.create_connection((LOOPBACK, served.port), timeout=5):
        pass
    with pytest.raises(OSError):  # noqa: PT011 - refused or unreachable, by kernel
        socket.create_connection((_other_address(), served.port), timeout=2)


def _other_address() -> str:
    """An address of this host that is not 127.0.0.1; the whole of 127/8 is local."""
    return "127.0.0.2"


def test_a_port_that_is_taken_is_an_error_of_the_configuration(
    served: MetricsServer, service: Service
) -> None:
    with pytest.raises(ConfigError, match=r"metrics cannot be served .*choose a free port"):
        serve_metrics(served.port, service)
    with pytest.raises(ConfigError):
        serve_metrics(99_999, service)


def test_a_silent_scraper_holds_nobody_up(served: MetricsServer) -> None:
    with socket.create_connection((LOOPBACK, served.port), timeout=5):
        assert scrape(served)[of("status_ok")] == 1


def test_the_port_is_free_again_after_close(service: Service) -> None:
    with serve_metrics(0, service) as first:
        port = first.port
    with serve_metrics(port, service) as again:
        assert scrape(again)


# --- requests to S3 -------------------------------------------------------------------------------


def test_requests_to_s3_are_counted_by_how_they_ended(moto_endpoint: str) -> None:
    location = new_bucket(moto_endpoint)
    script = [
        refuse("PutObject", 503, "SlowDown"),
        refuse("PutObject", 500, "InternalError"),
        reset("PutObject"),
    ]
    with FaultProxy(moto_endpoint) as proxy:
        store = S3Store(replace(location, endpoint_url=proxy.url))
        store.probe()
        before = store.traffic
        proxy.play(*script)
        store.put("k", b"bytes")
        after = store.traffic
        store.close()
    puts = {
        ended: after.requests.get(("PutObject", ended), 0)
        - before.requests.get(("PutObject", ended), 0)
        for ended in Ended
    }
    assert puts == {Ended.OK: 1, Ended.THROTTLED: 1, Ended.FAILED: 2, Ended.REFUSED: 0}
    assert after.total() == before.total() + 4
    assert after.total(Ended.THROTTLED) == 1
