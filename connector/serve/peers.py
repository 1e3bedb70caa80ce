"""Who may come in through the UNIX socket: the kernel says who is there, a list says who may.

The kernel's word (SO_PEERCRED, unix(7)) is the user and group that the peer had when it connected;
nothing that the peer sends can change it.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from catalog.errors import AuthFailed
from connector.serve.interface import Peer

_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Process, user and group of a peer, by their numbers."""

    pid: int
    uid: int
    gid: int


def credentials_of(sock: socket.socket) -> Credentials:
    """What the kernel says of the other end of a UNIX socket."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(data))


def groups_of(credentials: Credentials) -> frozenset[int]:
    """The group the peer had, and those that the system's databases give its user."""
    try:
        user = pwd.getpwuid(credentials.uid)
        listed = os.getgrouplist(user.pw_name, user.pw_gid)
    except (KeyError, OSError):  # a user that the databases do not know
        listed = []
    return frozenset((credentials.gid, *listed))


def name_of(uid: int) -> str:
    """A user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


class AllowList:
    """The users and groups that may connect.

    The daemon's own user always may; root only where it is listed or is the daemon's user. The
    system's databases are asked once for each connection, and only where groups are listed.
    """

    def __init__(
        self,
        users: tuple[int, ...] = (),
        groups: tuple[int, ...] = (),
        *,
        own: int | None = None,
        credentials: Callable[[socket.socket], Credentials] = credentials_of,
        groups_of: Callable[[Credentials], frozenset[int]] = groups_of,
    ) -> None:
        self._users = frozenset((*users, os.geteuid() if own is None else own))
        self._groups = frozenset(groups)
        self._credentials = credentials
        self._groups_of = groups_of

    def admit(self, sock: socket.socket) -> Peer:
        """Say who is at the other end.

        Raises:
            AuthFailed: neither the user nor one of its groups is listed.
        """
        found = self._credentials(sock)
        name = f"{name_of(found.uid)}@{socket.gethostname()}"
        if found.uid in self._users or (self._groups and self._groups_of(found) & self._groups):
            return Peer(name=name, uid=found.uid, gid=found.gid, pid=found.pid)
        raise AuthFailed(
            f"user {name_of(found.uid)} (uid {found.uid}, gid {found.gid}) is not let in",
            hint="an administrator can list it in [socket] users or groups",
        )
