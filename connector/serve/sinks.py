"""What stands behind a handle: where bytes go to, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How an image was completed. state: complete or spooled."""

    state: str
    sha256: str
    id: str


class Sink(Protocol):
    """Where the bytes of an image that is being written go. One thread at a time.

    NoSpace leaves everything as it was before the call, and a later call may succeed. After any
    other error every further call but ``release`` and ``abort`` may raise.
    """

    mode: str

    @property
    def id(self) -> str:
        """The attempt's id."""
        ...

    @property
    def offset(self) -> int:
        """Bytes accepted."""
        ...

    @property
    def low(self) -> bool:
        """Whether its room runs out."""
        ...

    def room(self) -> memoryview:
        """Where to put the next bytes; at least one."""
        ...

    def advance(self, size: int) -> None:
        """Accept size bytes that were put into ``room()``."""
        ...

    def durable(self) -> int:
        """Wait for what is on its way; bytes that survive a crash."""
        ...

    def checkpoint(self) -> None:
        """Make everything that was accepted durable."""
        ...

    def finish(self, sha256: str | None) -> Finished:
        """Complete the image; DigestMismatch when sha256 is given and another."""
        ...

    def suspend(self) -> None:
        """``checkpoint``, and let go."""
        ...

    def release(self) -> None:
        """Let go, whatever is durable by now. Never raises."""
        ...

    def abort(self) -> None:
        """Give the image up: nothing of it stays."""
        ...


class ByteSource(Protocol):
    """What an open image is read from."""

    @property
    def size(self) -> int:
        """Bytes of the image."""
        ...

    @property
    def step(self) -> int:
        """Bytes that are fetched at once: a short read costs that much."""
        ...

    def stream(self, offset: int, size: int | None) -> Iterator[memoryview]:
        """Verified bytes in order, fetched ahead; a view is valid until the next one."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Verified bytes, without fetching ahead."""
        ...

    def close(self) -> None:
        """Let go."""
        ...
