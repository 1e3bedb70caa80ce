"""How long an image is kept and how it is stored: what the client said, with the pool's word.

A client can ask for more protection than its pool is configured for, never for less.
"""

from __future__ import annotations

from catalog.errors import ConfigError, PoolDown, Unsupported
from catalog.model import NANOSECONDS, LockMode, ScheduleType, StorageClass, iso
from connector.pool.classes import choose, remaining_days
from connector.pool.manifest import Origin, Retention
from connector.serve.drafts import Definition
from connector.settings import PoolSettings
from connector.wire.messages import Keep, Source

DAY = 86_400 * NANOSECONDS
LONGEST_FIRST_LOCK = 3_650 * DAY
"""No lock is set for longer than this at first; it can be extended. docs/adr/0010."""
ASSUMED_SIZE = 1_000_000_000
"""What an image of unknown size is taken for where a class is chosen by cost."""

_STRENGTH = (LockMode.NONE, LockMode.GOVERNANCE, LockMode.COMPLIANCE)


def lock_mode(keep: Keep, settings: PoolSettings) -> LockMode:
    """The stronger of what the client asks for and what the pool does.

    Raises:
        Unsupported: there is no such lock.
    """
    try:
        asked = LockMode((keep.lock or "none").upper())
    except ValueError:
        raise Unsupported(
            f"there is no lock {keep.lock!r}", hint="use none, governance or compliance"
        ) from None
    return max(asked, settings.lock, key=_STRENGTH.index)


def check_keep(keep: Keep, settings: PoolSettings, object_lock: bool | None) -> None:
    """Say at create what could not be kept at close.

    object_lock: whether the bucket has it, None: the store was never asked.

    Raises:
        Unsupported: the bucket has no Object Lock, or the words contradict each other.
        PoolDown: nobody knows yet whether the bucket can keep a lock or hold.
    """
    mode = lock_mode(keep, settings)
    if keep.infinite and keep.expires_at is not None:
        raise Unsupported(
            "an image that is kept for ever has no expires_at", hint="give one of the two"
        )
    if not keep.hold and mode is LockMode.NONE:
        return
    if object_lock is None:
        raise PoolDown(
            f"the store of pool {settings.name} never answered, so nobody knows whether it has"
            " Object Lock",
            hint="try again when it has answered once, or ask for neither lock nor hold",
        )
    if not object_lock:
        raise Unsupported(
            f"the bucket of pool {settings.name} has no Object Lock, so it can neither lock nor"
            " hold images",
            hint="enable Object Lock on the bucket (it needs versioning), or ask for neither",
        )


def retention_of(keep: Keep, settings: PoolSettings, *, begun_at: int, now: int) -> Retention:
    """The retention that is committed with an image that was begun at begun_at.

    What has expired already, or is kept for ever without a lock being wanted, is not locked. A
    lock needs a date and is set for ten years at most.
    """
    expires_at, infinite = keep.expires_at, keep.infinite
    if expires_at is None and not infinite:
        if settings.keep_days is None:
            infinite = True
        else:
            expires_at = begun_at + settings.keep_days * DAY
    mode = lock_mode(keep, settings)
    latest = now + LONGEST_FIRST_LOCK
    until = latest if expires_at is None else min(expires_at, latest)
    locked = mode is not LockMode.NONE and until > now and _lock_wanted(keep, settings)
    return Retention(
        expires_at=expires_at,
        expires_infinite=infinite,
        lock_mode=mode if locked else LockMode.NONE,
        lock_until=until if locked else None,
        hold=keep.hold,
    )


def _lock_wanted(keep: Keep, settings: PoolSettings) -> bool:
    """A pool without keep_days keeps what comes without retention unlocked."""
    said = keep.expires_at is not None or keep.infinite or keep.lock is not None
    return said or settings.keep_days is not None


def class_for(settings: PoolSettings, keep: Keep, *, expected_size: int, now: int) -> StorageClass:
    """The class that a new image is written in."""
    retention = retention_of(keep, settings, begun_at=now, now=now)
    days = remaining_days(
        now=now, expires_at=retention.expires_at, infinite=retention.expires_infinite
    )
    size = expected_size or ASSUMED_SIZE
    objects = max(1, -(-size // settings.config.fragment_size))
    return choose(
        settings.policy, settings.prices, size=size, days=days, objects=objects
    ).storage_class


def schedule_type(text: str | None) -> ScheduleType | None:
    """The product's word for a kind of backup, in our vocabulary; what it lacks is OTHER."""
    if not text:
        return None
    try:
        return ScheduleType(text.upper())
    except ValueError:
        return ScheduleType.OTHER


def origin_of(definition: Definition) -> Origin:
    """Where an image came from, for its manifest. What the vocabulary lacks goes into a note."""
    source: Source = definition.source
    kind = schedule_type(source.schedule_type)
    notes = [f"written by {definition.client}"]
    if kind is ScheduleType.OTHER and source.schedule_type:
        notes.append(f"schedule type {source.schedule_type}")
    if definition.block_size:
        notes.append(f"block size {definition.block_size}")
    if source.backup_time is not None:
        try:
            iso(source.backup_time)
        except (OverflowError, ValueError):
            raise ConfigError(f"backup_time {source.backup_time} is beyond any calendar") from None
    return Origin(
        product=source.product,
        client=source.client,
        policy=source.policy,
        schedule=source.schedule,
        schedule_type=kind,
        backup_time=source.backup_time,
        notes=tuple(notes),
    )
