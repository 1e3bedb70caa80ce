"""What a migration was told to do; nothing below the command reads options or settings files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from catalog.model import LockMode
from connector.pool.classes import ClassPolicy
from connector.pool.config import MIB, PoolConfig
from connector.pool.prices import Prices
from connector.store.s3_encryption import Encryption
from migrate.formats.interface import Demultiplexer
from migrate.inventory.options import ImportOptions
from migrate.source.shelf import Shelf


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """The settings of one migration.

    shelf: where the tapes are; a plan can be made without. as_of: UTC nanoseconds, None for the
    first run's time. buffer_bytes: the read-ahead of one drive; it stops when that is full and
    goes on at a third. lock_infinite_days: how long images without an end are locked at first (a
    lock is only ever extended). verify: compare every image with the store right after it was
    stored. rate: what the way to S3 takes, in bytes per second, for the plan.
    s3_deadline_s: how long one call to S3 may take with all its repetitions.
    """

    catalogs: tuple[Path, ...]
    options: ImportOptions
    shelf: Shelf | None
    drives: int
    to: str
    endpoint_url: str | None
    workdir: Path
    ledger: str
    policy: ClassPolicy
    prices: Prices
    lock: LockMode
    lock_infinite_days: int = 3650
    as_of: int | None = None
    config: PoolConfig
    buffer_bytes: int = 256 * MIB
    allow_unlabelled: bool = False
    demultiplexer: Demultiplexer | None = None
    verify: bool = True
    rate: float | None = None
    s3_deadline_s: float = 600.0
    encryption: Encryption = field(default_factory=Encryption)
