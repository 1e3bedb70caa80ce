"""What a peer has to pass before it may say hello: by the UNIX socket, or by TCP."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Protocol

from catalog.errors import AuthFailed
from connector.serve.interface import Peer
from connector.serve.line import Line, PeerGone, TlsLine, UnixLine
from connector.serve.peers import AllowList
from connector.wire import challenge


@dataclass(frozen=True, slots=True)
class Proof:
    """What a client is asked to prove: the nonce it is sent, and the token it must know."""

    nonce: str
    _token: str

    def __repr__(self) -> str:
        return "Proof()"

    def check(self, given: str | None) -> None:
        """AuthFailed, unless given is the response."""
        if not challenge.proves(self._token, self.nonce, given):
            raise AuthFailed(
                "the token is wrong" if given is not None else "hello comes with a token here",
                hint="give the token of the daemon's [tcp] token_file; see docs/protocols.md",
            )


class Entrance(Protocol):
    """A way in."""

    def line(self, sock: socket.socket) -> Line:
        """The connection as the loop uses it, at once; the socket is its own then. PeerGone."""
        ...

    def admit(self, line: Line, within_s: float) -> Peer:
        """Who is there; AuthFailed when it may not come in. PeerGone, PeerSlow."""
        ...

    def proof(self) -> Proof | None:
        """What hello must prove, None: nothing."""
        ...


class UnixEntrance:
    """By the UNIX socket: the kernel says who it is."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed

    def allow(self, allowed: AllowList) -> None:
        """Judge by another list from the next connection on."""
        self._allowed = allowed

    def line(self, sock: socket.socket) -> Line:
        """The connection; see ``Entrance``."""
        return UnixLine(sock)

    def admit(self, line: Line, within_s: float) -> Peer:
        """Who is there; see ``Entrance``."""
        return self._allowed.admit(line.sock)

    def proof(self) -> Proof | None:
        """What hello must prove."""
        return None


class TlsEntrance:
    """By loopback TCP: TLS, then the token."""

    def __init__(self, context: ssl.SSLContext, token: str) -> None:
        self._context = context
        self._token = token

    def line(self, sock: socket.socket) -> Line:
        """The connection; see ``Entrance``."""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError as exc:
            raise PeerGone("the client has left") from exc
        return TlsLine(tls)

    def admit(self, line: Line, within_s: float) -> Peer:
        """Who is there; see ``Entrance``."""
        assert isinstance(line, TlsLine)
        line.agree(within_s)
        try:
            host, port = line.sock.getpeername()[:2]
        except OSError as exc:
            raise PeerGone("the client has left") from exc
        return Peer(name=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def proof(self) -> Proof | None:
        """What hello must prove."""
        return Proof(challenge.new_nonce(), self._token)
