"""What a daemon tells the service manager, by hand: a datagram of ``KEY=value`` lines.

Source: sd_notify(3), sd_watchdog_enabled(3). Nothing is told when nobody asked for it, and a
manager that does not listen never holds the daemon up.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

SEND_S = 1.0
"""How long a datagram may take when the manager's queue is full."""
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Manager:
    """The service manager, or nobody. watchdog_s: how often it wants a sign of life, if it does."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Manager:
        """The manager that started this process; its variables are removed for our children."""
        said = {name: environ.pop(name, "") for name in VARIABLES}
        address = said["NOTIFY_SOCKET"]
        if not address.startswith(("/", "@")):
            return cls()
        ours = said["WATCHDOG_PID"] in ("", str(os.getpid()))
        microseconds = said["WATCHDOG_USEC"]
        wanted = ours and microseconds.isascii() and microseconds.isdigit() and int(microseconds)
        return cls(address, int(microseconds) / 1e6 if wanted else None)

    def ready(self, status: str) -> None:
        """Clients can connect."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again; ``ready`` says when it was."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self, status: str) -> None:
        """The daemon ends."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def patience(self, seconds: float) -> None:
        """Ending takes longer than the manager may think; say it again before seconds are over."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """The sign of life of the watchdog."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(SEND_S)
                sock.sendto(text.encode("utf-8", "replace"), address)
        except OSError as exc:
            log.warning("the service manager cannot be told %s: %s", lines[0], exc)
