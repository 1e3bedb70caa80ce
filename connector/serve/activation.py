"""Sockets that the service manager opened and handed over (sd_listen_fds(3)).

The manager then owns the address: a restart of the daemon refuses nobody, and the socket's file is
neither created nor removed here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from catalog.errors import ConfigError

FIRST = 3
"""The first descriptor that is handed over (SD_LISTEN_FDS_START)."""
MAX_SOCKETS = 16
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def handed_over(
    environ: MutableMapping[str, str], *, first: int = FIRST, pid: int | None = None
) -> list[socket.socket]:
    """Take the listening sockets meant for this process; none when there are none.

    The variables are removed, so that no child takes the sockets for its own, and each socket is
    closed in children.

    Raises:
        ConfigError: a variable is not a number, or a descriptor is not a listening stream socket.
    """
    said = {name: environ.pop(name, None) for name in VARIABLES}
    if said["LISTEN_PID"] is None or said["LISTEN_FDS"] is None:
        return []
    if _number("LISTEN_PID", said["LISTEN_PID"]) != (os.getpid() if pid is None else pid):
        return []
    count = _number("LISTEN_FDS", said["LISTEN_FDS"])
    if count > MAX_SOCKETS:
        raise ConfigError(
            f"LISTEN_FDS says {count} sockets",
            hint=f"hand over at most {MAX_SOCKETS} in the socket unit",
        )
    taken: list[socket.socket] = []
    try:
        taken.extend(_listening(fd) for fd in range(first, first + count))
    except ConfigError:
        for sock in taken:
            sock.close()
        raise
    return taken


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"{name} is not a number", hint="leave it to the service manager")
    return int(text)


def _listening(fd: int) -> socket.socket:
    hint = "the socket unit needs ListenStream= and Accept=no"
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as exc:
        raise ConfigError(f"descriptor {fd} is not a socket: {exc.strerror}", hint=hint) from exc
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family not in families or sock.type != socket.SOCK_STREAM or not listening:
        sock.close()
        raise ConfigError(f"descriptor {fd} is not a listening stream socket", hint=hint)
    return sock
