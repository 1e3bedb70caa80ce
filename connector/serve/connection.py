"""The life of one client's connection: it comes in, is served, waits, and leaves.

A connection is worked on by one thread at a time: frame after frame while they follow one another,
and by no thread while nothing comes (``lobby.py``). A bug of ours ends this connection, with its
traceback in the log, and no other.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from typing import Protocol

from catalog.errors import AuthFailed, PoolError
from connector.serve.dialogue import Dialogue, Host, Leave, as_failure
from connector.serve.entrances import Entrance
from connector.serve.failures import failure_of
from connector.serve.line import Line, PeerGone
from connector.wire import challenge
from connector.wire.errors import RemoteProtocolError
from connector.wire.messages import Failure
from connector.wire.session import NOBODY, ServerSession

log = logging.getLogger(__name__)

LINGER_S = 1.0
"""How long a thread stays with a connection that says nothing."""


class House(Host, Protocol):
    """What a connection knows of the door it came through."""

    draining: bool

    def park(self, connection: Connection, until: float) -> None:
        """Watch the connection while nothing happens; another thread goes on with it then."""
        ...

    def ended(self, connection: Connection) -> None:
        """Forget the connection."""
        ...


class Connection:
    """A client, from its first byte to its last."""

    def __init__(self, sock: socket.socket, entrance: Entrance, house: House) -> None:
        self._sock = sock
        self._entrance = entrance
        self._house = house
        self._limits = house.limits
        self._hello_by = time.monotonic() + house.limits.half_open_s
        self._line: Line | None = None
        self._dialogue: Dialogue | None = None

    def __str__(self) -> str:
        return self._dialogue.peer.name if self._dialogue else "a peer that has not come in"

    # --- what the door asks --------------------------------------------------------------

    def fileno(self) -> int:
        """The socket, for a poll."""
        return (self._line or self._sock).fileno()

    @property
    def holding(self) -> bool:
        """Whether handles are open."""
        return self._dialogue is not None and bool(self._dialogue.rules.handles)

    def cut(self) -> None:
        """End it at once, from any thread; its own then lets everything go."""
        if self._line is not None:
            self._line.cut()
        else:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def pulse(self, now: float) -> None:
        """Look after a call that is being worked on; called about once a second."""
        if self._dialogue is not None and not self._dialogue.out.pulse(now):
            log.error("%s: a call did not move for %g s", self, self._limits.call_s)
            self.cut()

    def work(self, late: bool) -> None:
        """Serve the client until it is silent or leaves, in a thread of its own.

        late: its time was up before it said anything.
        """
        try:
            if self._serve(late):
                return
        except Leave as exc:
            self._say(exc.failure)
        except PeerGone as exc:
            log.debug("%s: %s", self, exc)
        except (PoolError, RemoteProtocolError) as exc:
            log.info("%s: %s", self, exc)
            self._say(as_failure(exc))
        except Exception:
            log.exception("%s: a bug ends this session", self)
            self._say(_INTERNAL)
        self._finish()

    # --- its life ------------------------------------------------------------------------

    def _serve(self, late: bool) -> bool:
        """True: it waits in the lobby, and this thread has no more business with it."""
        talk = self._dialogue or self._enter()
        while True:
            if self._house.draining and not self.holding:
                raise Leave(_DRAINING)
            greeted = talk.rules.greeted
            rest_s = self._limits.half_open_s if greeted else self._hello_by - time.monotonic()
            if late or rest_s <= 0:
                raise Leave(self._too_long(greeted))
            passed = talk.line.receive_header(talk.head, min(LINGER_S, rest_s), rest_s)
            if passed is not None:
                with passed:
                    talk.frame(passed)
            elif greeted:
                self._house.park(self, time.monotonic() + self._limits.idle_s)
                return True
            else:
                self._house.park(self, self._hello_by)
                return True

    def _enter(self) -> Dialogue:
        self._line = line = self._entrance.line(self._sock)
        try:
            peer = self._entrance.admit(line, self._limits.half_open_s)
        except AuthFailed as exc:
            log.warning("refused: %s", exc.message)
            with contextlib.suppress(PoolError):
                frame = ServerSession().failure(NOBODY, failure_of(exc))
                line.send((frame,), self._limits.half_open_s)
            raise Leave from exc
        proof = self._entrance.proof()
        self._dialogue = talk = Dialogue(line, peer, proof, self._house)
        if proof is not None:
            talk.out.notice(NOBODY, {challenge.CHALLENGE: proof.nonce})
        return talk

    def _too_long(self, greeted: bool) -> Failure:
        said = (
            f"nothing was said for {self._limits.idle_s:g} s"
            if greeted
            else f"hello did not come within {self._limits.half_open_s:g} s"
        )
        return Failure(code="timeout", message=said, hint="connect again", retryable=True)

    def _say(self, failure: Failure | None) -> None:
        if self._dialogue is not None and failure is not None:
            self._dialogue.out.farewell(failure)

    def _finish(self) -> None:
        try:
            if self._dialogue is not None:
                self._dialogue.end()
        except Exception:
            log.exception("%s: the session could not be ended", self)
        finally:
            (self._line or self._sock).close()
            self._house.ended(self)


_DRAINING = Failure(
    code="draining",
    message="the daemon is about to stop",
    hint="connect again when it is back",
    retryable=True,
)
_INTERNAL = Failure(
    code="internal",
    message="the daemon met a bug; this session is over, what it wrote can be resumed",
    hint="please report what the daemon's log says",
)
