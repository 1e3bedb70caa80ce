"""The door of the native protocol: listens, counts, and sees connections through to their end.

Knows no pool. Threads: one for the lobby, and one for each connection on which something is
happening just now (``lobby.py`` says why not one for every connection).
"""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable, Sequence

from catalog.errors import ConfigError
from connector.serve import endpoints, tls
from connector.serve.connection import Connection
from connector.serve.descriptors import Address
from connector.serve.entrances import Entrance, TlsEntrance, UnixEntrance
from connector.serve.interface import Behind
from connector.serve.lobby import Lobby
from connector.serve.peers import AllowList, Credentials, credentials_of
from connector.settings import Settings
from connector.wire.messages import Failure
from connector.wire.session import NOBODY, ServerSession

log = logging.getLogger(__name__)

CLOSE_S = 10.0
"""How long ``close`` waits for sessions to let go of what they hold."""
SPARE_FILES = 1024
"""Open files that the rest of the daemon may need: S3 connections, journals, spools."""
RETRY_S = 0.5
"""When a connection is tried again for which no thread could be started."""


class Door:
    """The sockets of a daemon. ``start`` once, then ``drain`` and ``close``.

    sockets are listening already and belong to the door: those of socket activation. One of a
    family takes the place of that family's setting. credentials is for tests.
    """

    def __init__(
        self,
        settings: Settings,
        behind: Behind,
        *,
        sockets: Sequence[socket.socket] = (),
        credentials: Callable[[socket.socket], Credentials] = credentials_of,
    ) -> None:
        self.limits = settings.limits
        self.behind = behind
        self.own: frozenset[Address] = frozenset()
        self.draining = False
        self._settings = settings
        self._handed = list(sockets)
        self._credentials = credentials
        self._file: endpoints.SocketFile | None = None
        self._listeners: dict[socket.socket, Entrance] = {}
        self._lobby: Lobby[Connection] = Lobby(
            arrived=self._arrived, ready=self._ready, tick=self._tick
        )
        self._changed = threading.Condition()
        self._connections: set[Connection] = set()
        self._begun = 0
        self._refused_at = 0.0

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._connections)

    @property
    def addresses(self) -> list[Address]:
        """Where it listens: paths, and host and port."""
        return [sock.getsockname() for sock in self._listeners]

    def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: a socket cannot be had as the settings want it.
        """
        try:
            self._listen()
        except BaseException:
            self._stop_listening()
            raise
        self.own = frozenset(self.addresses)
        _allow_files(self.limits.connections + SPARE_FILES)
        self._lobby.start(list(self._listeners))
        log.info("listening on %s", ", ".join(str(address) for address in self.addresses))

    def reload(self, settings: Settings) -> None:
        """Take over who may come in through the UNIX socket; all else needs a new start."""
        self._settings = settings
        for entrance in list(self._listeners.values()):
            if isinstance(entrance, UnixEntrance):
                entrance.allow(self._allow_list())

    def drain(self, deadline_s: float) -> bool:
        """Let nobody in any more, and wait until those with open handles have closed them.

        Clients without handles are told ``draining`` and let go at once. False: some were still
        there after deadline_s seconds.
        """
        self._let_nobody_in()
        end = time.monotonic() + deadline_s
        while True:
            self._lobby.call(lambda connection: not connection.holding)
            with self._changed:
                if not self._connections:
                    return True
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.2))

    def close(self) -> None:
        """Cut every connection, wait until the sessions have let go, and remove the socket file.

        May be called more than once.
        """
        self._let_nobody_in()
        end = time.monotonic() + CLOSE_S
        with self._changed:
            for connection in self._connections:
                connection.cut()
            while self._connections and time.monotonic() < end:
                self._changed.wait(0.2)
            if self._connections:
                log.error("%d sessions did not end within %g s", len(self._connections), CLOSE_S)
        self._lobby.stop()

    # --- listening -----------------------------------------------------------------------

    def _listen(self) -> None:
        settings = self._settings
        for sock in self._handed:
            self._listeners[sock] = self._entrance(sock)
        families = {sock.family for sock in self._handed}
        if settings.socket is not None and socket.AF_UNIX not in families:
            self._file = endpoints.listen_on_file(settings.socket)
            self._listeners[self._file.sock] = self._entrance(self._file.sock)
        if settings.tcp is not None and not families & {socket.AF_INET, socket.AF_INET6}:
            entrance = TlsEntrance(tls.server_context(settings.tcp), settings.tcp.token)
            self._listeners[endpoints.listen_on_port(settings.tcp)] = entrance
        if not self._listeners:
            raise ConfigError("there is no socket to listen on", hint="set [socket] path")

    def _entrance(self, sock: socket.socket) -> Entrance:
        settings = self._settings
        if sock.family == socket.AF_UNIX:
            return UnixEntrance(self._allow_list())
        if settings.tcp is None:
            raise ConfigError(
                "a TCP socket was handed over and there is no [tcp] with certificate and token",
                hint="add it, or take ListenStream= with a port out of the socket unit",
            )
        tls.check_loopback(str(sock.getsockname()[0]), "the TCP socket that was handed over")
        return TlsEntrance(tls.server_context(settings.tcp), settings.tcp.token)

    def _allow_list(self) -> AllowList:
        listed = self._settings.socket
        users, groups = (listed.users, listed.groups) if listed else ((), ())
        return AllowList(users, groups, credentials=self._credentials)

    def _let_nobody_in(self) -> None:
        self.draining = True
        self._lobby.deafen()
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._file is not None:
            self._file.remove()
            self._file = None
        for sock in (*self._listeners, *self._handed):
            sock.close()
        self._listeners = {}
        self._handed = []

    # --- connections, in the lobby's thread ----------------------------------------------

    def _arrived(self, sock: socket.socket, listener: socket.socket) -> None:
        entrance = self._listeners.get(listener)
        if entrance is None or self.draining:
            sock.close()
            return
        if len(self._connections) >= self.limits.connections:
            self._refuse(sock)
            return
        connection = Connection(sock, entrance, self)
        with self._changed:
            self._connections.add(connection)
        self._ready(connection, False)

    def _refuse(self, sock: socket.socket) -> None:
        """Say that there are too many; on TCP, where that would take a handshake, just close."""
        now = time.monotonic()
        if now - self._refused_at > 1.0:
            log.warning("more than %d connections: some are refused", self.limits.connections)
        self._refused_at = now
        if sock.family == socket.AF_UNIX:
            failure = Failure(
                code="busy",
                message=f"there are {self.limits.connections} connections already",
                hint="close one, try again later, or raise [limits] connections",
                retryable=True,
                retry_after_s=1.0,
            )
            with contextlib.suppress(OSError):
                frame = ServerSession().failure(NOBODY, failure)
                sock.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        sock.close()

    def _ready(self, connection: Connection, late: bool) -> None:
        self._begun += 1
        thread = threading.Thread(
            target=connection.work, args=(late,), name=f"client-{self._begun}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as exc:
            log.warning("no thread for a connection: %s; see the limit of tasks", exc)
            self._lobby.retry(connection, late, time.monotonic() + RETRY_S)

    def _tick(self) -> None:
        now = time.monotonic()
        with self._changed:
            connections = list(self._connections)
        for connection in connections:
            connection.pulse(now)

    # --- what connections ask ------------------------------------------------------------

    def park(self, connection: Connection, until: float) -> None:
        """Watch a connection on which nothing happens."""
        self._lobby.park(connection, until)

    def ended(self, connection: Connection) -> None:
        """Forget a connection."""
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files as far as it may be; warn where that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < wanted:
        log.warning("only %d files can be open, %d may be needed; see LimitNOFILE", allowed, wanted)
