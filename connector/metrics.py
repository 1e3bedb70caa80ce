"""Prometheus metrics of the daemon, on a loopback port.

Everything comes from ``service.status()`` at the moment of the scrape; nothing is counted here.
Labels are pools of the configuration and words of ours, never an image or a client, so that the
number of series does not grow with what is stored. docs/operations.md explains each metric.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Protocol, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from catalog.errors import ConfigError
from catalog.model import NANOSECONDS
from connector.serve.status import PoolStatus, Status

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
SCRAPE_TIMEOUT_S = 10.0
"""How long a scraper may take to say what it wants, or to take its answer."""

Labels = tuple[str, ...]
Values = Iterable[tuple[Labels, float | None]]


class HasStatus(Protocol):
    """What metrics need of the service."""

    def status(self) -> Status:
        """The daemon's state in numbers; answers from memory, without asking S3."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of every pool. values gives what stands behind ``pool`` in the labels; a value
    that is None does not apply to the pool and is left out."""

    name: str
    help: str
    values: Callable[[PoolStatus], Values]
    labels: Labels = ()
    counter: bool = False


def _one(value: Callable[[PoolStatus], float | None]) -> Callable[[PoolStatus], Values]:
    return lambda pool: (((), value(pool)),)


POOL_METRICS = (
    Row("pool_up", "1 while the pool's store answers.", _one(lambda p: p.up)),
    Row(
        "received_bytes",
        "Bytes of images taken from clients.",
        _one(lambda p: p.bytes_in),
        counter=True,
    ),
    Row(
        "sent_bytes",
        "Bytes of images given to clients.",
        _one(lambda p: p.bytes_out),
        counter=True,
    ),
    Row(
        "images",
        "What became of images: created, completed, failed and so on.",
        lambda p: (((outcome,), count) for outcome, count in p.images.items()),
        ("outcome",),
        counter=True,
    ),
    Row(
        "handles",
        "Open image handles.",
        lambda p: ((("write",), p.writing), (("read",), p.reading)),
        ("mode",),
    ),
    Row("pool_images", "Complete copies in the pool.", _one(lambda p: p.stored)),
    Row("pool_logical_bytes", "Bytes of these images.", _one(lambda p: p.logical)),
    Row("pool_stored_bytes", "Bytes of them in the store.", _one(lambda p: p.physical)),
    Row("pool_locked_bytes", "Bytes under a lock.", _one(lambda p: p.locked)),
    Row("pool_capacity_bytes", "The capacity that clients see.", _one(lambda p: p.capacity)),
    Row("pool_soft_quota_bytes", "Where warnings begin.", _one(lambda p: p.soft_quota)),
    Row("pool_hard_quota_bytes", "Where images are refused.", _one(lambda p: p.hard_quota)),
    Row(
        "spool_bytes",
        "Bytes in the spool that are not in the store: the backlog.",
        _one(lambda p: p.spooled if p.spool_limit is not None else None),
    ),
    Row("spool_limit_bytes", "Most bytes that the spool may hold.", _one(lambda p: p.spool_limit)),
    Row(
        "oldest_unsafe_seconds",
        "Age of the oldest byte that was acknowledged and is not in the store; 0: there is none.",
        _one(lambda p: p.oldest_unsafe_s),
    ),
    Row(
        "s3_requests",
        "Attempts at requests to S3, by how they ended: ok, refused, throttled, failed. The last "
        "two are tried again.",
        lambda p: (
            ((operation, str(ended)), count)
            for (operation, ended), count in (p.traffic.requests if p.traffic else {}).items()
        ),
        ("operation", "outcome"),
        counter=True,
    ),
    Row(
        "recall_tickets",
        "Recall tickets.",
        lambda p: (((state,), count) for state, count in p.tickets.items()),
        ("state",),
    ),
    Row(
        "ledger_waiting_rows",
        "Rows on their way to the ledger.",
        _one(lambda p: p.ledger_waiting),
    ),
    Row("journal_bytes", "Size of the journal's files.", _one(lambda p: p.journal_bytes)),
)

STATES = ("up", "draining", "down")


class StatusCollector(Collector):
    """Turns a status into metrics, anew for each scrape."""

    def __init__(self, service: HasStatus) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Everything; only ``tapelift_status_ok 0`` when the service cannot tell."""
        try:
            status = self._service.status()
        except Exception:  # a scrape must never be what ends the daemon, and it is told
            log.exception("the status for the metrics cannot be had")
            yield GaugeMetricFamily("tapelift_status_ok", _STATUS_OK, value=0)
            return
        yield GaugeMetricFamily("tapelift_status_ok", _STATUS_OK, value=1)
        yield from _of_daemon(status)
        for row in POOL_METRICS:
            yield _of_pools(row, status.pools)

    def describe(self) -> Iterable[Metric]:
        """Nothing: asking for names must not ask the service."""
        return ()


_STATUS_OK = "1 while the daemon can say how it is."


def _of_daemon(status: Status) -> Iterator[Metric]:
    version = GaugeMetricFamily("tapelift_info", "The daemon's version.", labels=["version"])
    version.add_metric([status.version], 1)
    yield version
    yield GaugeMetricFamily(
        "tapelift_start_time_seconds",
        "When the daemon started, in seconds since 1970.",
        value=status.started_at / NANOSECONDS,
    )
    state = GaugeMetricFamily(
        "tapelift_state", "1 for the state that the daemon is in.", labels=["state"]
    )
    for name in STATES:
        state.add_metric([name], status.state == name)
    yield state
    for name, help_, value in (
        ("connections", "Clients that are connected.", status.connections),
        ("connections_limit", "Most clients at once.", status.max_connections),
        ("handles_limit", "Most open handles.", status.max_handles),
    ):
        yield GaugeMetricFamily(f"tapelift_{name}", help_, value=value)


def _of_pools(row: Row, pools: Iterable[PoolStatus]) -> Metric:
    family = CounterMetricFamily if row.counter else GaugeMetricFamily
    metric = family(f"tapelift_{row.name}", row.help, labels=["pool", *row.labels])
    for pool in pools:
        for labels, value in row.values(pool):
            if value is not None:
                metric.add_metric([pool.name, *labels], value)
    return metric


# --- the port ---------------------------------------------------------------------------------


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a scrape broke off", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = SCRAPE_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("metrics: " + format, *args)


class MetricsServer:
    """Metrics being served. ``port`` is the one that was taken."""

    def __init__(self, port: int, service: HasStatus) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(StatusCollector(service))
        ProcessCollector(registry=registry)
        app = make_wsgi_app(registry)
        try:
            self._server = make_server(LOOPBACK, port, app, _Server, _Handler)
        except (OSError, OverflowError) as exc:
            raise ConfigError(
                f"metrics cannot be served on {LOOPBACK}:{port}: {exc}",
                hint="choose a free port in metrics.port, or leave metrics out",
            ) from exc
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=SCRAPE_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve_metrics(port: int, service: HasStatus) -> MetricsServer:
    """Serve metrics on 127.0.0.1:port at ``/metrics``; port 0 takes any that is free.

    Raises:
        ConfigError: the port cannot be had.
    """
    return MetricsServer(port, service)
