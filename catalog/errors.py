"""Every error that Tapelift raises on purpose, in one tree.

An error carries a stable ``code`` for scripts, says whether trying again can help, and ends,
where there is something an operator can do, with that: ``hint``. Vendor errors never leave the
module that talks to the vendor; see ``catalog/s3.py``.
"""

from __future__ import annotations


class PoolError(Exception):
    """Root of the tree. ``str()`` gives the message and, after a semicolon, what to do."""

    code = "error"
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigError(PoolError):
    """A setting or an option is wrong; names the file or option and the key."""

    code = "config"


# --- the ledger -----------------------------------------------------------------------------


class CatalogError(PoolError):
    """The ledger cannot be read or written."""

    code = "catalog"


class CommitConflict(CatalogError):
    """Another writer took this ledger number first; read the new head and commit again."""

    code = "commit_conflict"
    retryable = True


class CommitUnknown(CatalogError):
    """The answer to a commit was lost and the ledger could not be read to settle it."""

    code = "commit_unknown"


class ChainBroken(CatalogError):
    """A ledger file does not carry the digest of the file before it."""

    code = "chain_broken"


# --- the object store -----------------------------------------------------------------------


class StoreError(PoolError):
    """The object store refused or failed; the request id of the store is in the message."""

    code = "io"


class TransientStoreError(StoreError):
    """Throttled, timed out, reset, or an error of the server: the only branch that is retried."""

    code = "pool_down"
    retryable = True


class StoreUnusable(StoreError):
    """The bucket does not exist, or the credentials may not use it: nothing will work."""

    code = "pool_down"


class ObjectNotFound(StoreError):
    """No such object, version or upload."""

    code = "not_found"


class ObjectExists(StoreError):
    """A create-only write met an existing object."""

    code = "exists"


class ObjectArchived(StoreError):
    """The object lies in a cold class and has no readable copy; recall it first."""

    code = "archived"


class ObjectLocked(StoreError):
    """Object Lock or a legal hold forbids this delete or change."""

    code = "locked"


class CorruptObject(StoreError):
    """A length or a checksum disagrees; never retried."""

    code = "damaged"


class Unsupported(StoreError):
    """This store does not offer the operation (no Object Lock, no such class, no recall)."""

    code = "unsupported"


# --- the pool -------------------------------------------------------------------------------


class JournalError(PoolError):
    """The journal cannot be opened, is in use by another process, or its disk is full."""

    code = "journal"


class JournalFull(JournalError):
    """The disk under the journal is full; what it holds stays as it was."""

    code = "no_space"


class ImageError(PoolError):
    """An operation on one image was refused; other images are not affected."""

    code = "image"


class NameInvalid(ImageError):
    """The name cannot be an image name (empty, or too long for an object key)."""

    code = "name_invalid"


class ImageExists(ImageError):
    """Another writer committed this image and copy first."""

    code = "exists"


class ImageNotFound(ImageError):
    """The pool has no complete copy under this name."""

    code = "not_found"


class ImageArchived(ImageError):
    """The image lies in a cold class: a state, not a fault. ``prepare`` gives price and time."""

    code = "archived"


class ImageDamaged(ImageError):
    """What was stored or read does not match its digest or its size."""

    code = "damaged"


class ImageErased(ImageError):
    """The image's key was destroyed on purpose: its bytes cannot be read by anybody any more."""

    code = "erased"


class OverBudget(ImageError):
    """A recall would cost more than the caller allows; nothing was requested."""

    code = "over_budget"


class ImageLocked(ImageError):
    """Object Lock keeps the image until a time; nothing of it can be deleted before."""

    code = "locked"


class ImageHeld(ImageError):
    """A legal hold keeps the image until somebody releases it."""

    code = "held"


class ImageBusy(ImageError):
    """The image is open: somebody reads, writes, recalls or copies it just now."""

    code = "in_use"
    retryable = True


class WouldShorten(ImageError):
    """Retention is only ever extended."""

    code = "would_shorten"


class OffsetMismatch(ImageError):
    """Bytes for another place than the next one; ``offset`` is where the next byte belongs."""

    code = "offset"

    def __init__(self, message: str, *, offset: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class SizeMismatch(ImageError):
    """The sender says another size than was received; nothing was committed."""

    code = "size"


class DigestMismatch(ImageError):
    """The sender's SHA-256 is not that of what was received; nothing was committed."""

    code = "digest"


class ImageComplete(ImageError):
    """The image is complete, so there is nothing to resume."""

    code = "complete"


class SamePlace(ImageExists):
    """A copy would be its own source."""

    code = "same"


class CopyStopped(ImageError):
    """A copy was told to stop; the same call goes on where it stopped."""

    code = "stopped"
    retryable = True


# --- pools as a daemon serves them ----------------------------------------------------------


class NoPool(PoolError):
    """No pool of this name is served here."""

    code = "no_pool"


class PoolDown(PoolError):
    """The pool's store cannot be reached or used now; jobs should stop, images are kept."""

    code = "pool_down"
    retryable = True


class QuotaExceeded(PoolError):
    """The pool has reached its hard quota; no image can be begun."""

    code = "quota"


class NoSpace(PoolError):
    """The spool or the pool is full; ``offset`` is what is durable of the image."""

    code = "no_space"

    def __init__(self, message: str, *, offset: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class TooBusy(PoolError):
    """A limit on handles, connections or requests was reached; try again later."""

    code = "busy"
    retryable = True


class NoHandle(PoolError):
    """There is no such handle in this session, or it is of the other kind."""

    code = "handle"


class CursorExpired(PoolError):
    """What a cursor pointed at is forgotten; begin anew."""

    code = "cursor_expired"


class AuthFailed(PoolError):
    """This user, group or token is not let in."""

    code = "auth"


class DescriptorError(PoolError):
    """A descriptor that a client passed cannot be used, read or written."""

    code = "descriptor"


# --- protocols and formats ------------------------------------------------------------------


class ProtocolError(PoolError):
    """A peer and we disagree about a protocol."""

    code = "protocol"


class FormatError(PoolError):
    """Bytes do not follow the format; ``offset`` is where, in bytes from the start."""

    code = "format"

    def __init__(self, message: str, *, offset: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.offset = offset
