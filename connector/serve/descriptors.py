"""Descriptors that clients pass (SCM_RIGHTS): taken from the socket, checked, and given an end.

What is passed is a reference to the client's own open description: its offset, its O_NONBLOCK and
the pipe behind it are shared with the client and with whoever else holds it. So O_NONBLOCK is never
changed here, and yet a thread must not be held by a pipe in which nothing moves:

- a pipe is read and written with RWF_NOWAIT (Linux 6.4 and later); on an older kernel it is opened
  anew through /proc/self/fd, which gives a description of our own; where the client's user alone
  may open it, it is polled before each step. Then one case can block: somebody else who reads the
  same pipe takes the bytes between the poll and the read. It ends with the pipe's next byte or its
  last writer. A step of writing is then at most PIPE_BUF bytes, which a writable pipe always takes;
- a socket is read and written with MSG_DONTWAIT;
- a regular file never polls as unready: a read or a write takes as long as its disk. A file on a
  network file system that is away can hold the thread until it is back, and with it this one
  connection.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol

from catalog.errors import DescriptorError

PIPE_BYTES = 1 << 20
"""What is asked for a pipe, in bytes: the most that any user may have (pipe(7))."""
FILE_STEP = 4 << 20
"""Most bytes of a regular file in one call, so that a client that leaves is noticed between."""
_INT = array.array("i").itemsize
_NOT_THERE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_HINT = "pass a pipe, a regular file or a connected stream socket, or send the bytes in frames"

Address = str | bytes | tuple[object, ...]


class Passed:
    """The descriptors that came with one frame; whoever does not claim them closes them."""

    SPACE = socket.CMSG_SPACE(2 * _INT)
    """Room for ancillary data: for one more than any call may have, so that too many are seen."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self.truncated = False

    def __len__(self) -> int:
        return len(self._fds)

    def __enter__(self) -> Passed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def take(self, ancillary: Iterable[tuple[int, int, bytes]], *, truncated: bool) -> None:
        """Own what a recvmsg brought. truncated: the kernel had more and closed them."""
        self.truncated = self.truncated or truncated
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % _INT])
                self._fds.extend(fds)

    def claim(self) -> int:
        """Hand the first descriptor over; the caller closes it."""
        return self._fds.pop(0)

    def close(self) -> None:
        """Close what nobody claimed."""
        while self._fds:
            with contextlib.suppress(OSError):
                os.close(self._fds.pop())


class End(Protocol):
    """One end of what a client passed. Nothing here waits, but for the disk of a regular file."""

    def fileno(self) -> int:
        """What to poll."""
        ...

    def read(self, view: memoryview) -> int | None:
        """Bytes read into view; 0 at the end, None when there are none now. OSError."""
        ...

    def write(self, view: memoryview) -> int | None:
        """Bytes of view that were written; None when there is no room now. OSError."""
        ...

    def close(self) -> None:
        """Close our reference; the client's own stays open."""
        ...


def take_end(fd: int, *, writing: bool, own: frozenset[Address] = frozenset()) -> End:
    """The end of a descriptor, which is closed with it, and at once when it is refused.

    writing: whether the daemon will write to it. own: addresses that the daemon itself listens on.

    Raises:
        DescriptorError: it is not a pipe, file or stream socket, is not open that way, or leads
            back to the daemon.
    """
    try:
        return _end(fd, writing, own)
    except DescriptorError:
        os.close(fd)
        raise
    except OSError as exc:
        os.close(fd)
        raise DescriptorError(f"the descriptor cannot be used: {exc.strerror}", hint=_HINT) from exc


def _end(fd: int, writing: bool, own: frozenset[Address]) -> End:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise DescriptorError(f"the descriptor is {_what(mode)}", hint=_HINT)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wrong = os.O_RDONLY if writing else os.O_WRONLY
    if flags & os.O_PATH or flags & os.O_ACCMODE == wrong:
        way = "writing" if writing else "reading"
        raise DescriptorError(f"the descriptor is not open for {way}", hint=f"open it for {way}")
    if stat.S_ISSOCK(mode):
        _check_socket(fd, own)
        return SocketEnd(fd)
    return PipeEnd(fd, writing) if stat.S_ISFIFO(mode) else FileEnd(fd)


def _what(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return "neither a pipe nor a file"


def _check_socket(fd: int, own: frozenset[Address]) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.type != socket.SOCK_STREAM:  # a datagram that is cut would be cut silently
            raise DescriptorError("the descriptor is a socket without a byte stream", hint=_HINT)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise DescriptorError("the descriptor is a listening socket", hint=_HINT)
        if {sock.getsockname(), sock.getpeername()} & own:
            raise DescriptorError("the descriptor leads to this daemon itself", hint=_HINT)


class FileEnd:
    """A regular file, from the place where its description is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def fileno(self) -> int:
        """What to poll."""
        return self._fd

    def read(self, view: memoryview) -> int | None:
        """Read what is there; see ``End``."""
        with view[:FILE_STEP] as step:
            return os.readv(self._fd, [step])

    def write(self, view: memoryview) -> int | None:
        """Write what there is room for; see ``End``."""
        with view[:FILE_STEP] as step:
            return os.write(self._fd, step)

    def close(self) -> None:
        """Close our reference."""
        os.close(self._fd)


class SocketEnd:
    """A connected stream socket."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)

    def fileno(self) -> int:
        """What to poll."""
        return self._sock.fileno()

    def read(self, view: memoryview) -> int | None:
        """Read what is there; see ``End``."""
        try:
            return self._sock.recv_into(view, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def write(self, view: memoryview) -> int | None:
        """Write what there is room for; see ``End``."""
        try:
            return self._sock.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Close our reference."""
        self._sock.close()


class PipeEnd:
    """One end of a pipe; see the module's docstring for how it never waits."""

    def __init__(self, fd: int, writing: bool) -> None:
        self._fd = fd
        self._ours: int | None = None  # a description of our own, with O_NONBLOCK
        self._writing = writing
        self._no_wait = True
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT if writing else select.POLLIN)
        with contextlib.suppress(OSError):  # too many pages of pipes for this user already
            if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < PIPE_BYTES:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def fileno(self) -> int:
        """What to poll."""
        return self._fd

    def read(self, view: memoryview) -> int | None:
        """Read what is there; see ``End``."""
        try:
            if self._no_wait:
                try:
                    return os.preadv(self._fd, [view], -1, os.RWF_NOWAIT)
                except OSError as exc:
                    if exc.errno not in _NOT_THERE:
                        raise
                    self._do_without()
            if self._ours is not None:
                return os.readv(self._ours, [view])
        except BlockingIOError:
            return None
        return os.readv(self._fd, [view]) if self._poll.poll(0) else None

    def write(self, view: memoryview) -> int | None:
        """Write what there is room for; see ``End``."""
        try:
            if self._no_wait:
                try:
                    return os.pwritev(self._fd, [view], -1, os.RWF_NOWAIT)
                except OSError as exc:
                    if exc.errno not in _NOT_THERE:
                        raise
                    self._do_without()
            if self._ours is not None:
                return os.write(self._ours, view)
        except BlockingIOError:
            return None
        if not self._poll.poll(0):
            return None
        with view[: select.PIPE_BUF] as step:
            return os.write(self._fd, step)

    def _do_without(self) -> None:
        """Open the pipe anew where the kernel has no RWF_NOWAIT for pipes."""
        self._no_wait = False
        way = os.O_WRONLY if self._writing else os.O_RDONLY
        with contextlib.suppress(PermissionError, FileNotFoundError):
            path = f"/proc/self/fd/{self._fd}"
            self._ours = os.open(path, way | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """Close our reference."""
        os.close(self._fd)
        if self._ours is not None:
            os.close(self._ours)
            self._ours = None
