"""What lies between a door (sockets, or later NDMP and iSCSI) and the service behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from connector.wire.messages import Answer, Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end. name is for logs and facts: ``alice@host`` or ``10.0.0.1:5``."""

    name: str
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None


class WriteHandle(Protocol):
    """An image open for writing, as a door feeds it. Not for several threads at once."""

    @property
    def offset(self) -> int:
        """Where the next byte belongs, in bytes."""
        ...

    @property
    def low_space(self) -> bool:
        """Whether the client should be told that space runs out."""
        ...

    def begin(self, offset: int, length: int) -> bool:
        """Say that length bytes for offset come next; length 0 when it is not known.

        True: they are new; receive them into ``room()``. False: they repeat the last write; receive
        them elsewhere and give them to ``repeated``.

        Raises:
            OffsetMismatch: they are neither; the handle stays usable.
            PoolError: the image failed before; the same error every time.
        """
        ...

    def room(self) -> memoryview:
        """Where to receive next; at least one byte. Release it before ``advance``."""
        ...

    def advance(self, size: int) -> None:
        """Accept size bytes that were received into ``room()``. May wait: the backpressure."""
        ...

    def repeated(self, data: memoryview) -> None:
        """Compare a repeated write with the last one; OffsetMismatch when the bytes differ."""
        ...


class ReadHandle(Protocol):
    """An image open for reading. Not for several threads at once."""

    @property
    def size(self) -> int:
        """Bytes of the image."""
        ...

    def stream(self, offset: int, length: int | None) -> Iterator[memoryview]:
        """Yield verified bytes in order; a view is valid until the next one is asked for.

        A read that follows the last one closely, or is short, is cheap: it does not fetch more
        than the parts it needs.
        """
        ...


Notify = Callable[[dict[str, object]], None]
"""Tells the client that a long call is still running; called from the call's own thread."""


class Session(Protocol):
    """One client's handles. Not for several threads at once."""

    def perform(self, call: Call, notify: Notify, gone: Callable[[], bool]) -> Answer:
        """Do what a call asks, except ``hello``, ``read``, ``read_to`` and ``write_from``, which
        are the door's.

        gone says whether the client has left; a call that waits asks it at least every second.

        Raises:
            PoolError: what to tell the client. Anything else is a bug and ends the session.
        """
        ...

    def writing(self, handle: int) -> WriteHandle:
        """The handle; ``NoHandle`` when it is not one of this session's that writes."""
        ...

    def reading(self, handle: int) -> ReadHandle:
        """The handle; ``NoHandle`` when it is not one of this session's that reads."""
        ...

    def end(self) -> None:
        """The client has left: what it was writing becomes incomplete, the rest is let go."""
        ...


class Behind(Protocol):
    """What a door opens onto."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What ``hello`` flags."""
        ...

    def session(self, peer: Peer) -> Session:
        """Begin a session; TooBusy when there are too many."""
        ...
