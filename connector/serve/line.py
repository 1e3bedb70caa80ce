"""A connected socket as the loop of a connection uses it, and every wait of it bounded.

So many bytes in, all of them out; between them nothing is copied. A UNIX socket stays in blocking
mode with a timeout of the kernel's (``SO_RCVTIMEO``), because only so does ``MSG_WAITALL`` fill a
whole part with one call and without the interpreter's lock. TLS has no such call and goes record by
record.

Sending is for one thread at a time, receiving too; TLS allows not even one of each at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from catalog.errors import PoolError
from connector.serve.descriptors import Passed
from connector.wire.errors import RemoteProtocolError

TICK_S = 1.0
"""How often a wait looks up, at least."""
BUFFER = 1 << 20
"""What is asked of the kernel for a socket's buffers, in bytes; it gives what it allows."""
LINGER_S = 2.0
"""How long a TCP connection that was refused is still listened to, so that the client can read
why: closing with bytes unread makes the kernel throw away what it has sent."""

Buffer = bytes | bytearray | memoryview


class PeerGone(PoolError):
    """The peer has left; there is nobody to be told."""

    code = "gone"


class PeerSlow(PoolError):
    """The peer began something and did not go on."""

    code = "timeout"


def _nothing() -> None:
    """What is done at each tick where nothing was asked for."""


class Line(Protocol):
    """The socket of one connection."""

    passes_descriptors: bool
    sock: socket.socket

    def fileno(self) -> int:
        """The socket's descriptor, for a poll."""
        ...

    def receive_header(self, view: memoryview, first_s: float, rest_s: float) -> Passed | None:
        """Fill view with a header, and take the descriptors that come with it.

        None: nothing came within first_s. PeerSlow: it began, and was not whole within rest_s.
        PeerGone: the peer has left.
        """
        ...

    def receive(self, view: memoryview, within_s: float) -> None:
        """Fill view; PeerSlow, PeerGone."""
        ...

    def send(
        self, pieces: Sequence[Buffer], stall_s: float, tick: Callable[[], None] = _nothing
    ) -> None:
        """Send all pieces in order; PeerSlow when the peer takes nothing for stall_s.

        tick is called at each second of waiting.
        """
        ...

    def writable(self) -> bool:
        """Whether a short frame can be sent without waiting."""
        ...

    def hung_up(self) -> bool:
        """Whether the peer has left; no byte is taken for it."""
        ...

    def cut(self) -> None:
        """End both directions at once; may be called from any thread, and wakes whoever waits."""
        ...

    def close(self) -> None:
        """Let the socket go, after what was sent had its chance to be read."""
        ...


class _Socket:
    """What both kinds have in common."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._hang_up = select.poll()
        self._hang_up.register(sock, select.POLLRDHUP)
        self._room = select.poll()
        self._room.register(sock, select.POLLOUT)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.sock.fileno()

    def writable(self) -> bool:
        """Whether a short frame can be sent without waiting."""
        return any(event == select.POLLOUT for _, event in self._room.poll(0))

    def hung_up(self) -> bool:
        """Whether the peer has left."""
        return bool(self._hang_up.poll(0))

    def cut(self) -> None:
        """End both directions, from any thread."""
        with contextlib.suppress(OSError):
            # not the method of SSLSocket, which would take the state of TLS away from a reader
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class UnixLine(_Socket):
    """A UNIX socket, in blocking mode."""

    passes_descriptors = True

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.settimeout(None)
        tick = struct.pack("ll", int(TICK_S), int(TICK_S % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, tick)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)

    def receive_header(self, view: memoryview, first_s: float, rest_s: float) -> Passed | None:
        """A header and what came with it; see ``Line``."""
        passed = Passed()
        try:
            filled, end = 0, time.monotonic() + first_s
            while filled < len(view):
                count = self._some(view[filled:], passed)
                if count and not filled:
                    end = time.monotonic() + rest_s
                filled += count
                if filled < len(view) and time.monotonic() >= end:
                    if not filled:
                        return None
                    raise PeerSlow(f"a frame was begun and not finished within {rest_s:g} s")
        except BaseException:
            passed.close()
            raise
        return passed

    def receive(self, view: memoryview, within_s: float) -> None:
        """Fill view; see ``Line``."""
        filled, end = 0, time.monotonic() + within_s
        while filled < len(view):
            with view[filled:] as rest:
                filled += self._some(rest, None)
            if filled < len(view) and time.monotonic() >= end:
                raise PeerSlow(f"a frame was begun and not finished within {within_s:g} s")

    def _some(self, view: memoryview, passed: Passed | None) -> int:
        """Receive up to a whole view; 0 after a second in which nothing came."""
        space = Passed.SPACE if passed is not None else 0
        flags = socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC
        try:
            count, ancillary, said, _ = self.sock.recvmsg_into([view], space, flags)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise PeerGone(f"the client has left: {exc.strerror}") from exc
        truncated = bool(said & socket.MSG_CTRUNC)
        if passed is not None:
            passed.take(ancillary, truncated=truncated)
        elif truncated:  # the kernel has closed them
            raise RemoteProtocolError("descriptor", "descriptors inside of a frame")
        if count == 0:
            raise PeerGone("the client has left")
        return count

    def send(
        self, pieces: Sequence[Buffer], stall_s: float, tick: Callable[[], None] = _nothing
    ) -> None:
        """Send all pieces; see ``Line``."""
        rest = [memoryview(piece) for piece in pieces]
        end = time.monotonic() + stall_s
        while rest:
            try:
                count = self.sock.sendmsg(rest)
            except BlockingIOError:
                count = 0
            except OSError as exc:
                raise PeerGone(f"the client has left: {exc.strerror}") from exc
            if count:
                _skip(rest, count)
                end = time.monotonic() + stall_s
            elif time.monotonic() >= end:
                raise PeerSlow(f"the client has taken nothing for {stall_s:g} s")
            if rest:
                tick()

    def close(self) -> None:
        """Let the socket go; see ``Line``."""
        # what was sent stays readable at the other end (unix(7)): nothing to wait for
        self.sock.close()


class TlsLine(_Socket):
    """TLS over TCP; no descriptors come this way."""

    passes_descriptors = False

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self.tls = sock

    def agree(self, within_s: float) -> None:
        """Do the handshake; PeerGone, PeerSlow."""
        self.tls.settimeout(within_s)
        try:
            self.tls.do_handshake()
        except TimeoutError as exc:
            raise PeerSlow(f"TLS was not agreed within {within_s:g} s") from exc
        except OSError as exc:
            raise PeerGone(f"TLS was not agreed: {exc}") from exc

    def receive_header(self, view: memoryview, first_s: float, rest_s: float) -> Passed | None:
        """A header and what came with it; see ``Line``."""
        first = self._some(view, time.monotonic() + first_s)
        if not first:
            return None
        self.receive(view[first:], rest_s)
        return Passed()

    def receive(self, view: memoryview, within_s: float) -> None:
        """Fill view; see ``Line``."""
        filled, end = 0, time.monotonic() + within_s
        while filled < len(view):
            with view[filled:] as rest:
                count = self._some(rest, end)
            if not count:
                raise PeerSlow(f"a frame was begun and not finished within {within_s:g} s")
            filled += count

    def _some(self, view: memoryview, end: float) -> int:
        """Receive what is there; 0 when nothing came until end."""
        left = end - time.monotonic()
        if left <= 0:
            return 0
        self.tls.settimeout(left)
        try:
            count = self.tls.recv_into(view)
        except TimeoutError:
            return 0
        except OSError as exc:
            raise PeerGone(f"the client has left: {exc}") from exc
        if count == 0:
            raise PeerGone("the client has left")
        return count

    def send(
        self, pieces: Sequence[Buffer], stall_s: float, tick: Callable[[], None] = _nothing
    ) -> None:
        """Send all pieces; see ``Line``."""
        for piece in pieces:
            rest = memoryview(piece)
            end = time.monotonic() + stall_s
            while rest:
                self.tls.settimeout(TICK_S)
                try:
                    # one record at a time: a timeout inside of a longer send would not say how
                    # much of it has gone
                    count = self.tls.send(rest[: 16 << 10])
                except TimeoutError:
                    count = 0
                except OSError as exc:
                    raise PeerGone(f"the client has left: {exc}") from exc
                if count:
                    rest = rest[count:]
                    end = time.monotonic() + stall_s
                elif time.monotonic() >= end:
                    raise PeerSlow(f"the client has taken nothing for {stall_s:g} s")
                else:
                    tick()

    def close(self) -> None:
        """Let the socket go; see ``Line``."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
            waste, end = bytearray(1 << 16), time.monotonic() + LINGER_S
            while (left := end - time.monotonic()) > 0:
                self.sock.settimeout(left)
                if not socket.socket.recv_into(self.sock, waste):
                    break
        self.sock.close()


def _skip(pieces: list[memoryview], count: int) -> None:
    """Take count bytes off the front of pieces."""
    while pieces and count >= len(pieces[0]):
        count -= len(pieces.pop(0))
    if count:
        pieces[0] = pieces[0][count:]
