"""The daemon's failures as the errors of ``catalog.errors``, by their codes on the wire."""

from __future__ import annotations

from catalog import errors
from catalog.errors import PoolError
from connector.wire.messages import Failure


class Refused(PoolError):
    """The daemon refused a call, with a code that has no class of its own here: see ``code``."""

    code = "refused"


class ConnectionLost(PoolError):
    """The daemon cannot be reached, said nothing for too long, or left in the middle.

    offset, where an image was being written: everything below it is known to be durable. Ask
    ``resume`` with the same token for the true one.
    """

    code = "connection"
    retryable = True

    def __init__(self, message: str, *, offset: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


KINDS: dict[str, type[PoolError]] = {
    "archived": errors.ImageArchived,
    "auth": errors.AuthFailed,
    "busy": errors.TooBusy,
    "complete": errors.ImageComplete,
    "cursor_expired": errors.CursorExpired,
    "damaged": errors.ImageDamaged,
    "descriptor": errors.DescriptorError,
    "digest": errors.DigestMismatch,
    "down": errors.PoolDown,
    "erased": errors.ImageErased,
    "exists": errors.ImageExists,
    "frame": errors.ProtocolError,
    "handle": errors.NoHandle,
    "held": errors.ImageHeld,
    "in_use": errors.ImageBusy,
    "io": errors.StoreError,
    "journal": errors.JournalError,
    "locked": errors.ImageLocked,
    "message": errors.ProtocolError,
    "name_invalid": errors.NameInvalid,
    "no_pool": errors.NoPool,
    "not_found": errors.ImageNotFound,
    "over_budget": errors.OverBudget,
    "quota": errors.QuotaExceeded,
    "same": errors.SamePlace,
    "sequence": errors.ProtocolError,
    "size": errors.SizeMismatch,
    "unknown_op": errors.ProtocolError,
    "unsupported": errors.Unsupported,
    "version": errors.ProtocolError,
    "stopped": errors.CopyStopped,
    "would_shorten": errors.WouldShorten,
}
"""Which error stands for which code; ``offset`` and ``no_space`` carry an offset, see below."""


def error_of(failure: Failure) -> PoolError:
    """The error to raise for a failure. ``code``, ``hint`` and ``retryable`` are the daemon's;
    ``failure_in`` gives the rest."""
    exc: PoolError
    if failure.code == "offset":
        exc = errors.OffsetMismatch(failure.message, offset=failure.offset or 0)
    elif failure.code == "no_space":
        exc = errors.NoSpace(failure.message, offset=failure.offset)
    else:
        exc = KINDS.get(failure.code, Refused)(failure.message)
    exc.code, exc.hint, exc.retryable = failure.code, failure.hint, failure.retryable
    vars(exc).update(
        failure=failure,
        retry_after_s=failure.retry_after_s,
        request_id=failure.request_id,
        offset=failure.offset,
        offer=failure.offer,
    )
    return exc


def failure_in(exc: PoolError) -> Failure | None:
    """What the daemon said, when this error came from it: offer, offset, time to wait."""
    found = vars(exc).get("failure")
    return found if isinstance(found, Failure) else None
