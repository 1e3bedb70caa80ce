"""Errors of the protocol itself. Plain exceptions: this package imports nothing of ours."""

from __future__ import annotations


class WireError(Exception):
    """Root of this package's errors."""


class LocalProtocolError(WireError):
    """Our own side asked for something illegal: a bug of ours or of the caller's."""


class RemoteProtocolError(WireError):
    """The other side sent something illegal. code and message are what to tell it.

    fatal: the stream cannot be followed any more, and the connection ends with the telling.
    """

    def __init__(self, code: str, message: str, *, fatal: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fatal = fatal
