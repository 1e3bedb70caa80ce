"""The daemon's state in numbers: what ``Service.status()`` gives, for metrics and ``status``.

Counters are since the start of the process and only ever rise; everything else is as it is now.
Sizes are bytes. No image is named here: what is here has one row for each pool, whatever is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from connector.store.s3_traffic import Traffic

OUTCOMES = (
    "created",
    "resumed",
    "completed",  # in the store
    "spooled",  # acknowledged from the spool; counts as completed too, once it is in the store
    "incomplete",  # a checkpoint, or a client that left
    "aborted",
    "failed",
    "deleted",
    "opened",  # for reading
    "damaged",  # found to be, while reading or verifying
)
"""What can become of an image; the keys of ``PoolStatus.images``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """One pool. up: its store answers; why says what is wrong when not.

    bytes_in and bytes_out: images' bytes from and to clients. images: how often each of OUTCOMES
    came about. stored, logical, physical, locked: what is in the pool, as the index counts it.
    spooled: bytes in the spool that are not in the store, at most spool_limit (None: no spool).
    oldest_unsafe_s: age of the oldest byte that was acknowledged and is not in the store, 0: none.
    tickets: recall tickets by state. ledger_waiting: rows not in the ledger yet. journal_bytes:
    size of the journal's files. traffic: requests to S3, None where they are not counted.
    """

    name: str
    up: bool
    why: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    images: Mapping[str, int] = field(default_factory=dict)
    writing: int = 0
    reading: int = 0
    stored: int = 0
    logical: int = 0
    physical: int = 0
    locked: int = 0
    spooled: int = 0
    spool_limit: int | None = None
    oldest_unsafe_s: float = 0.0
    capacity: int = 0
    soft_quota: int | None = None
    hard_quota: int | None = None
    tickets: Mapping[str, int] = field(default_factory=dict)
    ledger_waiting: int = 0
    journal_bytes: int = 0
    traffic: Traffic | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The daemon. state is up, draining or down; started_at is UTC nanoseconds."""

    state: str
    version: str
    started_at: int
    connections: int
    max_connections: int
    max_handles: int
    pools: tuple[PoolStatus, ...]
