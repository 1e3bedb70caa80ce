"""One thread that watches every socket on which nothing happens.

Connections wait here between their frames, listening sockets always. A connection that waits costs
its socket and an entry in a table; a thread of its own would cost 16 KiB of the daemon's memory
and 24 KiB of the kernel's while it is fresh, several times that once it has served something deep,
and 2 MiB where huge pages are always on. The price of waking one is the start of a thread, about a
tenth of a millisecond, and a busy client does not pay it: its thread lingers for its next frame.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

log = logging.getLogger(__name__)

TICK_S = 1.0
ACCEPTS = 64
"""Most connections that are accepted before the others get their turn."""
BREATH_S = 0.2
"""How long nothing is accepted after accepting failed: no descriptor is free, for example."""


class Waiting(Protocol):
    """Something with a socket that can wait here."""

    def fileno(self) -> int:
        """The socket's descriptor."""
        ...


W = TypeVar("W", bound=Waiting)


class Lobby(Generic[W]):
    """Watches sockets.

    arrived takes a new connection and the listener it came through; ready takes a connection on
    which something came, or whose time is up (late); tick is called about once a second. All are
    called from the lobby's own thread and must not wait.
    """

    def __init__(
        self,
        *,
        arrived: Callable[[socket.socket, socket.socket], None],
        ready: Callable[[W, bool], None],
        tick: Callable[[], None],
    ) -> None:
        self._arrived = arrived
        self._ready = ready
        self._tick = tick
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._lock = threading.Lock()
        self._parked: dict[int, tuple[W, float]] = {}
        self._again: list[tuple[W, bool, float]] = []
        self._listeners: dict[int, socket.socket] = {}
        self._deaf_until = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)

    def start(self, listeners: list[socket.socket]) -> None:
        """Begin to accept connections from these sockets."""
        for sock in listeners:
            sock.setblocking(False)
            self._listeners[sock.fileno()] = sock
            self._epoll.register(sock, select.EPOLLIN)
        self._thread.start()

    def deafen(self) -> None:
        """Accept nothing any more; whoever knocks finds the sockets closed by their owner."""
        with self._lock:
            for fd in self._listeners:
                self._epoll.unregister(fd)
            self._listeners.clear()

    def park(self, waiting: W, until: float) -> None:
        """Watch a connection; ``ready`` is called once, at the latest at until (monotonic, s)."""
        with self._lock:
            fd = waiting.fileno()
            self._parked[fd] = waiting, until
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)

    def retry(self, waiting: W, late: bool, at: float) -> None:
        """Call ``ready`` again at a time (monotonic, s); only from the lobby's own thread."""
        self._again.append((waiting, late, at))

    def call(self, wanted: Callable[[W], bool]) -> None:
        """Let the time of these connections be up."""
        with self._lock:
            for fd, (waiting, _) in self._parked.items():
                if wanted(waiting):
                    self._parked[fd] = waiting, 0.0

    def stop(self) -> None:
        """End the thread; those who wait stay parked. May be called more than once."""
        if self._stop.is_set():
            return
        self._stop.set()
        os.eventfd_write(self._bell, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._epoll.close()
        os.close(self._bell)

    def _run(self) -> None:
        ticked = time.monotonic()
        while not self._stop.is_set():
            for fd, _ in self._epoll.poll(TICK_S / 4):
                self._guarded(self._happened, fd)
            now = time.monotonic()
            self._guarded(self._sweep, now)
            if now - ticked >= TICK_S:
                ticked = now
                self._guarded(self._tick)

    def _guarded(self, action: Callable[..., None], *args: object) -> None:
        try:
            action(*args)
        except Exception:  # whatever it is, the others must still be let in and out
            log.exception("the door met a bug and goes on")
            time.sleep(BREATH_S)

    def _happened(self, fd: int) -> None:
        with self._lock:
            listener = self._listeners.get(fd)
        if listener is not None:
            self._accept(listener)
            return
        waiting = self._leave(fd)
        if waiting is not None:
            self._ready(waiting, False)

    def _leave(self, fd: int) -> W | None:
        with self._lock:
            found = self._parked.pop(fd, None)
            if found is None:
                return None
            self._epoll.unregister(fd)
            return found[0]

    def _sweep(self, now: float) -> None:
        with self._lock:
            late = [fd for fd, (_, until) in self._parked.items() if until <= now]
        for fd in late:
            waiting = self._leave(fd)
            if waiting is not None:
                self._ready(waiting, True)
        due = [again for again in self._again if again[2] <= now]
        self._again = [again for again in self._again if again[2] > now]
        for waiting, is_late, _ in due:
            self._ready(waiting, is_late)

    def _accept(self, listener: socket.socket) -> None:
        if time.monotonic() < self._deaf_until:
            time.sleep(TICK_S / 100)  # the listener is ready all the time; do not spin
            return
        for _ in range(ACCEPTS):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:
                if listener.fileno() < 0:  # closed meanwhile: the door drains
                    return
                log.warning("no connection can be accepted: %s; see the limit of open files", exc)
                self._deaf_until = time.monotonic() + BREATH_S
                return
            self._arrived(sock, listener)
