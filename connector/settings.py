"""What a daemon was told to do, as frozen dataclasses; ``config.py`` reads them from TOML.

Nothing below the daemon reads files of settings or the environment. Sizes are bytes; any other
unit stands in the name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from catalog.model import LockMode
from connector.pool.classes import ClassPolicy
from connector.pool.coding import Coding
from connector.pool.config import PoolConfig
from connector.pool.lifecycle import LifecycleStep as LifecycleStep
from connector.pool.prices import Prices
from connector.pool.recall import RecallPolicy as RecallPolicy
from connector.store.s3_encryption import Encryption
from connector.store.throttled import BandwidthWindow as BandwidthWindow

PIB = 1 << 50


class Ack(StrEnum):
    """When ``close`` answers OK."""

    STORED = "stored"  # the manifest is up
    SPOOLED = "spooled"  # on this host's disk; the manifest comes later


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketSettings:
    """The UNIX socket. users and groups: who may connect besides the daemon's own user; root is
    not let in by itself."""

    path: Path
    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    mode: int = 0o660


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSettings:
    """The optional TCP door: always TLS, always a token. token is read from token_file."""

    host: str
    port: int
    certificate: Path
    key: Path
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """What clients are held to. half_open_s: how long a peer may take to say hello, or to finish
    a frame that it began. idle_s: how long it may say nothing. call_s: the longest that a call
    may take without a notice. abandoned_s: when an incomplete image that nobody resumed is given
    up (0: never)."""

    connections: int = 2000
    handles: int = 64
    half_open_s: float = 30.0
    idle_s: float = 3600.0
    call_s: float = 900.0
    abandoned_s: float = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """The local spool of an ``ack = spooled`` pool, and how many bytes it may hold."""

    folder: Path
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """One pool of the configuration.

    keep_days: how long images are kept that come without retention; None: for ever, unlocked.
    capacity is what the pool says it has room for; soft_quota and hard_quota are marks on the
    bytes of its images.
    """

    name: str
    bucket: str
    prefix: str
    endpoint_url: str | None
    policy: ClassPolicy
    prices: Prices
    lifecycle: tuple[LifecycleStep, ...] = ()
    lock: LockMode = LockMode.NONE
    keep_days: int | None = None
    config: PoolConfig = field(default_factory=PoolConfig)
    coding: Coding = field(default_factory=Coding)
    encryption: Encryption = field(default_factory=Encryption)
    ack: Ack = Ack.STORED
    spool: SpoolSettings | None = None
    bandwidth: tuple[BandwidthWindow, ...] = ()
    capacity: int = PIB
    soft_quota: int | None = None
    hard_quota: int | None = None
    recall: RecallPolicy = field(default_factory=RecallPolicy)
    s3_deadline_s: float = 600.0
    ledger: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole configuration. metrics_port: on loopback, None: no metrics."""

    state: Path
    socket: SocketSettings | None
    pools: tuple[PoolSettings, ...]
    tcp: TcpSettings | None = None
    limits: ClientLimits = field(default_factory=ClientLimits)
    metrics_port: int | None = None
    log_json: bool = False
