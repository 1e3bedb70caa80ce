"""What a client is told of an error: one table from our tree of errors to the wire's codes."""

from __future__ import annotations

import re

from catalog.errors import ImageArchived, NoSpace, OffsetMismatch, PoolDown, PoolError, TooBusy
from connector.wire.messages import MAX_TEXT, Failure, Ticket

WIRE_CODES = {"pool_down": "down"}
"""Codes that have another name on the wire; every other code is the error's own."""

RETRY_AFTER_S = {"down": 15.0, "busy": 1.0, "in_use": 1.0, "commit_conflict": 0.1}
"""How long a client should wait before it repeats a call that failed with this code, in seconds;
an error that knows better says so itself (``retry_after_s``)."""

_REQUEST_ID = re.compile(r"request id ([^\s,;)]{1,200})")


class ArchivedOffer(ImageArchived):
    """An image that must be recalled first, with what that would take. Nothing was asked for."""

    def __init__(self, message: str, *, offer: Ticket, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.offer = offer


class PoolAway(PoolDown):
    """A pool that is down, and is tried again in retry_after_s seconds."""

    def __init__(self, message: str, *, retry_after_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class BusyFor(TooBusy):
    """A limit that should be free again in retry_after_s seconds."""

    def __init__(self, message: str, *, retry_after_s: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


def failure_of(exc: PoolError) -> Failure:
    """The message for a client; texts are cut to what a message may hold."""
    code = WIRE_CODES.get(exc.code, exc.code)
    wait = exc.retry_after_s if isinstance(exc, PoolAway | BusyFor) else RETRY_AFTER_S.get(code)
    found = _REQUEST_ID.search(exc.message)
    request_id = found.group(1) if found and found.group(1) != "none" else None
    return Failure(
        code=code,
        message=exc.message[:MAX_TEXT],
        hint=exc.hint[:MAX_TEXT],
        retryable=exc.retryable,
        retry_after_s=(wait or 0.0) if exc.retryable else 0.0,
        request_id=request_id,
        offset=exc.offset if isinstance(exc, OffsetMismatch | NoSpace) else None,
        offer=exc.offer if isinstance(exc, ArchivedOffer) else None,
    )
