"""What ``put`` reads and ``get`` writes: descriptors, and what can be done with them."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import ConfigError
from connector.commands.producing import Producer

PIECE = 4 << 20
"""Bytes that are read from a file at a time."""
PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is to be stored. base: where in a regular file it begins; size is from there on.

    size is None for what cannot be read twice: a pipe, a socket, a terminal. producer: the program
    whose output it is, if we run it.
    """

    descriptor: int
    name: str
    size: int | None
    base: int
    identity: str
    passable: bool
    producer: Producer | None = None

    @property
    def rewindable(self) -> bool:
        """Whether it can be read again from any place."""
        return self.size is not None

    def seek(self, offset: int) -> None:
        """Go to a place of a rewindable one, in bytes from base."""
        os.lseek(self.descriptor, self.base + offset, os.SEEK_SET)

    def digest(self, size: int) -> hashlib._Hash | None:
        """The SHA-256 of the first size bytes of a rewindable one, to be gone on with."""
        digest, at = hashlib.sha256(), 0
        while at < size:
            piece = os.pread(self.descriptor, min(PIECE, size - at), self.base + at)
            if not piece:
                return None
            digest.update(piece)
            at += len(piece)
        return digest

    def unchanged(self) -> bool:
        """Whether a file is the one that it was when it was opened."""
        return not self.rewindable or _identity(self.descriptor, self.base) == self.identity


def give(path: str | None) -> Given:
    """Open what ``put`` reads: a file, or standard input for None and ``-``.

    Raises:
        ConfigError: it cannot be read, or is a terminal.
    """
    if path in (None, "-"):
        descriptor, name = 0, "standard input"
        if os.isatty(0):
            raise ConfigError(
                "standard input is a terminal", hint="name a FILE, or pipe the image in"
            )
    else:
        name = str(path)
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise ConfigError(f"cannot read {name}: {exc.strerror}", hint="check FILE") from exc
    return given(descriptor, name)


def given(descriptor: int, name: str) -> Given:
    """Say what a descriptor is."""
    about = os.fstat(descriptor)
    if stat.S_ISDIR(about.st_mode):
        raise ConfigError(f"{name} is a folder", hint="give a file, or pipe: tar -c DIR | ...")
    regular = stat.S_ISREG(about.st_mode)
    base = os.lseek(descriptor, 0, os.SEEK_CUR) if regular else 0
    return Given(
        descriptor=descriptor,
        name=name,
        size=max(0, about.st_size - base) if regular else None,
        base=base,
        identity=_identity(descriptor, base),
        passable=passable(descriptor),
    )


def output_of(producer: Producer) -> Given:
    """What a program will write, once it is started."""
    return dataclasses.replace(given(producer.descriptor, str(producer)), producer=producer)


def passable(descriptor: int) -> bool:
    """Whether the daemon takes such a descriptor: a file, a pipe or a stream socket."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _identity(descriptor: int, base: int) -> str:
    """What changes whenever the file does."""
    about = os.fstat(descriptor)
    facts = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns, base)
    return " ".join(str(fact) for fact in facts)


def enlarge(descriptor: int) -> None:
    """Give a pipe as much room as any user may have (pipe(7)); what is no pipe stays as it is."""
    with contextlib.suppress(OSError):  # also: too many pages of pipes for this user already
        if fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) < PIPE_BYTES:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write everything; BrokenPipeError when nobody reads it."""
    while data:
        data = data[os.write(descriptor, data) :]


def target_exists(path: Path) -> bool:
    """Whether something is there, a dangling link included."""
    return os.path.lexists(path)
