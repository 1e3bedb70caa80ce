"""The daemon: puts service, door and metrics together, and minds signals until it ends.

SIGTERM and SIGINT: nobody is let in any more, running calls may finish, what is open becomes
incomplete (``resume`` goes on), the ledger gets its rows. A second one ends at once, which loses
nothing that was acknowledged. SIGHUP: the configuration is read again. Everything that is stacked
is stacked here, once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from catalog.errors import PoolError
from connector.config import load
from connector.config_table import size_name
from connector.manager import Manager
from connector.metrics import serve_metrics
from connector.serve.inuse import memory_bound
from connector.serve.listener import Door
from connector.serve.service import Service
from connector.settings import PoolSettings, Settings
from connector.state_lock import lock_state

log = logging.getLogger(__name__)

BEAT_S = 5.0
"""How often the main thread looks around, at least."""
FIXED = ("state", "tcp", "limits", "metrics_port", "log_json")
"""Settings that a running daemon cannot change."""
PLACE = ("bucket", "prefix", "endpoint_url")
"""What makes a pool another pool."""


class Daemon:
    """One daemon. ``run`` returns when it was told to end.

    config is read again on SIGHUP; None: there is nothing to read. sockets were handed over by
    the service manager. drain_s: how long running calls may take when the daemon is told to end.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        config: Path | None = None,
        manager: Manager | None = None,
        sockets: Sequence[socket.socket] = (),
        drain_s: float,
    ) -> None:
        self._settings = settings
        self._config = config
        self._manager = manager or Manager()
        self._sockets = sockets
        self._drain_s = drain_s
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run(self, *, before: Callable[[], None] | None = None) -> None:
        """Serve until a signal ends it. Only in the main thread.

        before is called with the state folder locked, and nothing opened.

        Raises:
            ConfigError: the state folder is in use, or a socket cannot be had.
        """
        os.umask(0o077)
        with lock_state(self._settings.state), self._listening_to_signals():
            if before is not None:
                before()
            with self._started():
                self._manager.ready(self._summary())
                self._mind()

    # --- start and end -----------------------------------------------------------------------

    @contextlib.contextmanager
    def _started(self) -> Iterator[None]:
        """Everything, started in order, and ended in the opposite one."""
        for line in memory_lines(self._settings):
            log.info("%s", line)
        self._service = Service(self._settings)
        with contextlib.ExitStack() as ends:
            ends.callback(self._service.close)
            self._door = Door(self._settings, self._service, sockets=self._sockets)
            ends.callback(self._door.close)
            self._service.connections = lambda: self._door.connections
            self._service.start()
            self._door.start()
            if self._settings.metrics_port is not None:
                metrics = serve_metrics(self._settings.metrics_port, self._service)
                ends.callback(metrics.close)
            yield
        log.info("ended")

    def _summary(self) -> str:
        pools = self._service.status().pools
        down = [pool.name for pool in pools if not pool.up]
        return f"{len(pools)} pools" + (f", down: {', '.join(down)}" if down else "")

    def _drain(self) -> None:
        """Let what runs finish, in a thread of its own: this one goes on minding signals."""
        log.info("ending: calls that run have %g s", self._drain_s)
        self._manager.stopping("draining")
        worker = threading.Thread(target=self._drain_both, name="drain", daemon=True)
        worker.start()
        while worker.is_alive():
            self._manager.patience(4 * BEAT_S)
            self._manager.alive()
            if self._next_signal(BEAT_S, until=worker) in (signal.SIGTERM, signal.SIGINT):
                log.warning("told twice to end: ending at once; clients resume what they wrote")
                return

    def _drain_both(self) -> None:
        end = time.monotonic() + self._drain_s
        try:
            if not self._door.drain(self._drain_s):
                log.warning("calls did not finish in %g s; what is open is checkpointed",
                            self._drain_s)  # fmt: skip
            self._door.close()
            self._service.drain(max(1.0, end - time.monotonic()))
        except PoolError as exc:
            log.error("not everything could be finished: %s", exc)

    # --- signals -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        def note(number: int, frame: object) -> None:
            self._signals.put(number)

        kept = {
            number: signal.signal(number, note)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _mind(self) -> None:
        """Wait for signals, and tell the watchdog that service and main thread are alive."""
        beat = min(BEAT_S, (self._manager.watchdog_s or 2 * BEAT_S) / 2)
        while True:
            number = self._next_signal(beat)
            if number in (signal.SIGTERM, signal.SIGINT):
                log.info("%s", signal.Signals(number).name)
                self._drain()
                return
            if number == signal.SIGHUP:
                self._reload()
            self._service.status()  # which hangs when the service does: the watchdog then bites
            self._manager.alive()

    def _next_signal(self, wait_s: float, until: threading.Thread | None = None) -> int | None:
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            try:
                return self._signals.get(timeout=min(left, 0.1 if until else left))
            except queue.Empty:
                if until is not None and not until.is_alive():
                    return None
        return None

    # --- reload ------------------------------------------------------------------------------

    def _reload(self) -> None:
        self._manager.reloading()
        try:
            if self._config is None:
                log.warning("SIGHUP: this daemon has no file to read again")
            else:
                self._take(load(self._config))
        except PoolError as exc:
            log.error("nothing was changed: %s", exc)
        finally:
            self._manager.ready(self._summary())

    def _take(self, new: Settings) -> None:
        """Go on with new settings, as far as a running daemon can."""
        settings, kept = merged(self._settings, new)
        for what in kept:
            log.warning("%s changes only with a restart; it stays as it was", what)
        for note in self._service.reload(settings):
            log.warning("%s", note)
        self._door.reload(settings)
        self._settings = settings
        log.info("read %s: %s", self._config, self._summary())


def merged(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """What a daemon with old settings can take of new ones, and the names of what it cannot."""
    kept = [f"[{name}]" for name in FIXED if getattr(old, name) != getattr(new, name)]
    names = {"[metrics_port]": "[metrics]", "[log_json]": "[log]"}
    kept = [names.get(name, name) for name in kept]
    entry = new.socket
    if (old.socket is None) is not (new.socket is None):
        kept.append("[socket]")
        entry = old.socket
    elif old.socket is not None and new.socket is not None:
        for name in ("path", "mode"):
            if getattr(old.socket, name) != getattr(new.socket, name):
                kept.append(f"[socket] {name}")
        entry = dataclasses.replace(new.socket, path=old.socket.path, mode=old.socket.mode)
    served = {pool.name: pool for pool in old.pools}
    pools = []
    for pool in new.pools:
        before = served.get(pool.name)
        if before is not None and _place(before) != _place(pool):
            kept.append(f"[pools.{pool.name}]: its bucket, prefix or endpoint_url")
            pool = before
        pools.append(pool)
    fixed = {name: getattr(old, name) for name in FIXED}
    return dataclasses.replace(new, socket=entry, pools=tuple(pools), **fixed), kept


def _place(pool: PoolSettings) -> tuple[object, ...]:
    return tuple(getattr(pool, name) for name in PLACE)


def memory_lines(settings: Settings) -> list[str]:
    """What the pools may take of this host's memory, as the formula has it."""
    lines, whole = [], 0
    for pool in settings.pools:
        config = pool.config
        size = memory_bound(config)
        whole += size
        lines.append(
            f"pool {pool.name}: up to {size_name(size)} of memory for images:"
            f" {config.images_open} open * ({config.parts_in_flight} + 1) parts"
            f" * {size_name(config.part_size)}"
        )
    lines.append(f"memory for images in all pools: up to {size_name(whole)}")
    return lines
