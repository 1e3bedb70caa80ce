"""How an image's bytes are written into its fragments: as they are, compressed, encrypted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Compression(StrEnum):
    """What fragments are compressed with."""

    NONE = "none"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKey:
    """The master key of client-side encryption: 32 bytes that never leave this host.

    id names it in what is stored, so that keys can be changed.
    """

    id: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """What is done to an image's bytes on their way into the store, and undone when it is read."""

    compression: Compression = Compression.NONE
    client_key: ClientKey | None = None
