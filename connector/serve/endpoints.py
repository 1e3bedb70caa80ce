"""Where the door listens: a socket file that nobody else can open, or a loopback port.

A socket file that a dead daemon left is replaced; one that a daemon answers on is refused. Two
daemons that start at once are kept apart by a lock on the folder for that moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from catalog.errors import ConfigError
from connector.serve import tls
from connector.settings import SocketSettings, TcpSettings

MAX_PATH_BYTES = 107
"""Longest path of a socket file (unix(7): sun_path, less its closing zero)."""
BACKLOG = 512
LOCK_WAIT_S = 5.0
PROBE_S = 2.0


class SocketFile:
    """A listening UNIX socket and its file."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.sock = sock
        self._path = path
        self._identity = _identity(path)

    def remove(self) -> None:
        """Remove the file, unless somebody has put another in its place."""
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._identity:
                self._path.unlink()


def listen_on_file(settings: SocketSettings) -> SocketFile:
    """Bind the UNIX socket; at no moment has its file more rights than ``mode``.

    The parent folder is created for this user alone if it does not exist.

    Raises:
        ConfigError: the path is too long or not a socket, or another daemon answers there.
    """
    path = settings.path
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"[socket] path {path} is longer than {MAX_PATH_BYTES} bytes",
            hint="choose a shorter one, for example below /run",
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(path.parent):
            _clear(path)
            return SocketFile(_bound(path, settings.mode), path)
    except OSError as exc:
        raise ConfigError(
            f"[socket] path {path}: {exc.strerror or exc}",
            hint="choose a path in a folder that this user may write",
        ) from exc


def _bound(path: Path, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the socket, less the umask: so it is never wider than
        # asked, and no other thread sees a changed umask meanwhile
        os.fchmod(sock.fileno(), mode)
        sock.bind(os.fspath(path))
        path.chmod(mode)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; ends after LOCK_WAIT_S with a ConfigError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ConfigError(
                        f"[socket] path: somebody holds the lock of {folder}",
                        hint="another daemon may be starting there; try again",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)


def _clear(path: Path) -> None:
    """Remove the socket file of a daemon that is gone."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(
            f"[socket] path {path} exists and is not a socket",
            hint="choose another path; nothing was removed",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError as exc:  # a full backlog, or no right to ask: somebody may be there
            raise ConfigError(
                f"[socket] path {path}: cannot tell whether a daemon answers there: {exc.strerror}",
                hint="stop it, or choose another path",
            ) from exc
    raise ConfigError(
        f"[socket] path {path}: another daemon answers there",
        hint="stop it, or choose another path",
    )


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def listen_on_port(settings: TcpSettings) -> socket.socket:
    """Bind the TCP port; port 0 takes any that is free.

    Raises:
        ConfigError: the host is not loopback, or the port is taken.
    """
    family, address = tls.loopback_address(settings.host, settings.port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise ConfigError(
            f"[tcp] {settings.host} port {settings.port}: {exc.strerror}",
            hint="choose a free port above 1023",
        ) from exc
    return sock
