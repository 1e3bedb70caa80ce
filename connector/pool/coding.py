"""How an image's bytes are written into its fragments: as they are, compressed, encrypted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from catalog.errors import ConfigError

MIB = 1024 * 1024
FRAME_SIZE = MIB
LARGEST_FRAME = 4 * MIB
"""Plain bytes of a frame, and the most that a reader decodes at once. Larger frames compress
little better (2 % at 4 MiB), smaller ones make a single file's restore no cheaper, because a whole
part is read anyway."""
CIPHER = "AES-256-GCM"
KEY_BYTES = 32
LONGEST_KEY_ID = 200


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

    def __post_init__(self) -> None:
        if not self.id or len(self.id) > LONGEST_KEY_ID or not self.id.isprintable():
            raise ConfigError(
                f"the id {self.id[:40]!r} cannot name a master key",
                hint=f"use 1 to {LONGEST_KEY_ID} printable characters",
            )
        if len(self.key) != KEY_BYTES:
            raise ConfigError(
                f"the master key {self.id!r} has {len(self.key)} bytes", hint="give exactly 32"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """What is done to an image's bytes on their way into the store, and undone when it is read.

    client_key encrypts new images. earlier_keys only open those that were written under them and
    not wrapped again yet (``keys.rewrap``). frame_size: plain bytes that are coded as one.
    """

    compression: Compression = Compression.NONE
    client_key: ClientKey | None = None
    earlier_keys: tuple[ClientKey, ...] = ()
    frame_size: int = FRAME_SIZE

    def __post_init__(self) -> None:
        if not 1 <= self.frame_size <= LARGEST_FRAME:
            raise ConfigError(f"frame_size {self.frame_size} is not between 1 byte and 4 MiB")
        ids = [key.id for key in (self.client_key, *self.earlier_keys) if key is not None]
        if len(ids) != len(set(ids)):
            raise ConfigError(
                f"two master keys have one id: {', '.join(ids)}", hint="give each its own"
            )

    @property
    def active(self) -> bool:
        """Whether new images are coded at all."""
        return self.compression is not Compression.NONE or self.client_key is not None

    def master_key(self, key_id: str) -> ClientKey | None:
        """The master key of this id, if it was given."""
        known = (self.client_key, *self.earlier_keys)
        return next((key for key in known if key is not None and key.id == key_id), None)
