"""How a pool writes: sizes, memory, batches. Every number has its unit and its bounds here."""

from __future__ import annotations

from dataclasses import dataclass

from catalog.errors import ConfigError

MIB = 1024 * 1024
GIB = 1024 * MIB

MIN_PART = 5 * MIB
MAX_PART = 5 * GIB
MAX_PARTS = 10_000
MAX_OBJECT = 5 * 1024 * GIB
"""Limits of a multipart upload. Source: S3 user guide, "Multipart upload limits"; 5 TiB is what
compatible stores still hold to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """Settings of a pool.

    fragment_size: the largest object, in bytes; part_size: bytes of a multipart piece, also the
    unit that a read verifies. Memory for writing is
    ``images open * (parts_in_flight + 1) * part_size`` and reading takes the same per open image.
    images_open: how many images may be written at once. ledger_rows and ledger_seconds: how much
    may wait before the ledger gets a commit.
    """

    fragment_size: int = 8 * GIB
    part_size: int = 16 * MIB
    parts_in_flight: int = 4
    images_open: int = 4
    ledger_rows: int = 5_000
    ledger_seconds: int = 60

    def __post_init__(self) -> None:
        if not MIN_PART <= self.part_size <= MAX_PART:
            raise ConfigError(f"part_size {self.part_size} is not between 5 MiB and 5 GiB")
        if not self.part_size <= self.fragment_size <= MAX_OBJECT:
            raise ConfigError(f"fragment_size {self.fragment_size} is not between a part and 5 TiB")
        if -(-self.fragment_size // self.part_size) > MAX_PARTS:
            raise ConfigError(
                f"a fragment of {self.fragment_size} bytes has more than {MAX_PARTS} parts "
                f"of {self.part_size} bytes",
                hint="use larger parts or smaller fragments",
            )
        if self.parts_in_flight < 1 or self.images_open < 1:
            raise ConfigError("parts_in_flight and images_open are at least 1")
