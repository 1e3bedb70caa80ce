"""Where the daemon and its clients look when nobody says where: the socket and the state folder.

Beside ``dplcompat.py``, whose options are variables by contract, this is the connector's only
reader of the environment. Source: XDG Base Directory Specification.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

SYSTEM_SOCKET = Path("/run/tapeconnector/socket")
"""Where scripts/systemd puts the socket of the host's own daemon."""
SYSTEM_CONFIG = Path("/etc/tapeconnector/tapeconnector.toml")


def state_folder() -> Path:
    """The user's folder for what a daemon started by hand must know."""
    base = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return folder / "tapelift" / "connector"


def own_socket() -> Path:
    """Where a daemon started by hand listens: in the user's runtime folder, where there is one."""
    runtime = _runtime_folder()
    return runtime / "tapeconnector.socket" if runtime else state_folder() / "socket"


def default_socket() -> Path:
    """Where a client looks that was told nothing: the user's own daemon, then the host's.

    Another terminal may lack the runtime folder (``su``, ``cron``), so every place is looked at.
    """
    places = [own_socket(), state_folder() / "socket", SYSTEM_SOCKET]
    return next((place for place in places if _is_socket(place)), own_socket())


def _runtime_folder() -> Path | None:
    """``XDG_RUNTIME_DIR``, if it is a folder of this user and nobody else's."""
    name = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        about = Path(name).stat()
    except OSError:
        return None
    private = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()
    return Path(name) if name.startswith("/") and private else None


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:
        return False
