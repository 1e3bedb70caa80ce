"""Frames: what a coded fragment is made of. A frame holds one chunk of the image, by itself.

A chunk is ``frame_size`` plain bytes, counted from the fragment's first; only the last is shorter.
Compressed, it is one standard zstd frame. Encrypted, it is 16 bytes of head, the ciphertext of the
chunk (or of its zstd frame), and the tag of AES-256-GCM. Source: docs/format.md, "Coded fragments".

A nonce must never serve two texts under one key. Ours is the HMAC of the frame's place and of a
digest of its text, under a key derived from the image's: another text at a place has another nonce,
and the same text sent again after a crash has the same one and so the same ciphertext, which says
nothing new. Nothing has to be remembered for that, so nothing can be forgotten by a crash or by a
journal that was put back to an earlier day.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from catalog.errors import ConfigError, CorruptObject
from connector.pool.coding import LARGEST_FRAME, Compression
from connector.pool.config import MAX_OBJECT, MAX_PART, MAX_PARTS, PoolConfig

HEAD = struct.Struct(">12sI")  # nonce; last-frame flag in the highest bit, then the bytes behind
TAG = 16
LAST = 1 << 31
PLACE = struct.Struct(">IQB")  # fragment from 1, frame from 0, whether it is the fragment's last
DOMAIN = b"tapelift-frame/1"

ZSTD_LEVEL = 3
_BLOCK_HEAD = 3  # RFC 8878, section 3.1.1.2
_RLE = 1

_local = threading.local()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCode:
    """What is done to the frames of one image. frame_size is plain bytes."""

    compression: Compression
    encrypted: bool
    frame_size: int

    def bound(self, size: int) -> int:
        """The most bytes that size plain bytes, at least one frame of them, become."""
        whole, rest = divmod(size, self.frame_size)
        if not whole:
            return self._frame_bound(rest)
        return whole * self._frame_bound(self.frame_size) + (self._frame_bound(rest) if rest else 0)

    def _frame_bound(self, size: int) -> int:
        if self.compression is not Compression.NONE:
            size += (size >> 8) + 128  # ZSTD_compressBound in zstd.h, and a checksum
        return size + (HEAD.size + TAG if self.encrypted else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How frames are gathered into parts. All in bytes.

    unit: plain bytes that one thread codes at a time. least: a part is full when it has so many
    stored bytes; a unit never becomes more, so it fills at most one part. capacity: the largest
    part, which is one frame more.
    """

    unit: int
    least: int
    capacity: int


def layout(code: FrameCode, part_size: int) -> Layout:
    """The layout for parts of about part_size stored bytes."""
    unit = max(1, part_size // code.frame_size) * code.frame_size
    least = max(code.bound(unit), part_size)
    return Layout(unit=unit, least=least, capacity=least + code.bound(code.frame_size))


def check_fits(code: FrameCode, config: PoolConfig) -> None:
    """Coded parts and fragments keep S3's limits even where coding makes them larger.

    Raises:
        ConfigError: with other sizes they would.
    """
    made = layout(code, config.part_size)
    largest = code.bound(config.fragment_size) + HEAD.size + TAG
    if largest > MAX_OBJECT or made.capacity > MAX_PART or -(-largest // made.least) > MAX_PARTS:
        raise ConfigError(
            f"fragments of {config.fragment_size} bytes in parts of {config.part_size} may pass"
            " S3's limits when they are compressed or encrypted",
            hint="make fragment_size, or part_size where that is near its limit, 1 % smaller",
        )


class FrameCoder:
    """Codes and decodes the frames of one image. Any number of threads may use it."""

    def __init__(self, code: FrameCode, *, token: str, key: bytes | None) -> None:
        """key is the image's own, of 32 bytes, when it is encrypted."""
        self.code = code
        self._token = token.encode()
        self._cipher = None if key is None else AESGCM(key)
        self._nonce_key = b"" if key is None else hmac.digest(key, b"tapelift-nonce/1", "sha256")
        assert code.encrypted == (key is not None)

    @property
    def wants_witness(self) -> bool:
        """Whether ``seal_into`` needs the digest of the image up to the chunk's end."""
        return self.code.encrypted and self.code.compression is Compression.NONE

    def seal_into(
        self,
        chunk: memoryview,
        out: memoryview,
        *,
        fragment: int,
        frame: int,
        last: bool,
        witness: bytes,
    ) -> int:
        """Code one chunk to the start of out, which has room for ``bound``; gives the bytes.

        witness is a digest that no other text at this place can have: the image's SHA-256 up to
        the chunk's end. Compressed text is digested here, because two versions of zstd may make
        different text of one chunk.
        """
        text: bytes | memoryview = chunk
        if self.code.compression is Compression.ZSTD:
            text = _compressor().compress(chunk)
        if self._cipher is None:
            out[: len(text)] = text
            return len(text)
        if self.code.compression is not Compression.NONE:
            witness = hashlib.sha256(text).digest()
        place = PLACE.pack(fragment, frame, last)
        nonce = hmac.digest(self._nonce_key, place + witness, "sha256")[:12]
        sealed = len(text) + TAG
        HEAD.pack_into(out, 0, nonce, sealed | (LAST if last else 0))
        end = HEAD.size + sealed
        self._cipher.encrypt_into(nonce, text, DOMAIN + self._token + place, out[HEAD.size : end])
        return end

    def open(
        self, stored: memoryview, *, fragment: int, frame: int, last: bool, size: int
    ) -> bytes:
        """Decode one whole frame that holds size plain bytes.

        Raises:
            CorruptObject: it is not the frame that was stored at this place.
        """
        text: bytes | memoryview = stored
        if self._cipher is not None:
            nonce = bytes(stored[:12])
            place = PLACE.pack(fragment, frame, last)
            try:
                text = self._cipher.decrypt(
                    nonce, stored[HEAD.size :], DOMAIN + self._token + place
                )
            except InvalidTag as exc:
                raise CorruptObject(f"frame {frame} is not what was encrypted there") from exc
        if self.code.compression is Compression.ZSTD:
            text = _decompress(text, size, frame)
        if len(text) != size:
            raise CorruptObject(f"frame {frame} holds {len(text)} bytes, not {size}")
        return bytes(text)

    def split(self, stored: memoryview) -> list[tuple[int, int]]:
        """Where the frames of a part begin and end in it, in bytes.

        Raises:
            CorruptObject: the part is not a run of whole frames.
        """
        sizes = self._sealed_ends(stored) if self._cipher else self._zstd_ends(stored)
        ends = list(sizes)
        return list(zip([0, *ends], ends, strict=False))

    def _sealed_ends(self, stored: memoryview) -> Iterator[int]:
        at, ceiling = 0, self.code.bound(self.code.frame_size)
        while at < stored.nbytes:
            if at + HEAD.size > stored.nbytes:
                raise CorruptObject("the part ends within a frame")
            _, word = HEAD.unpack_from(stored, at)
            size = HEAD.size + (word & ~LAST)
            if not HEAD.size + TAG <= size <= ceiling or at + size > stored.nbytes:
                raise CorruptObject(f"there is no frame of {size} bytes at {at}")
            at += size
            yield at

    def _zstd_ends(self, stored: memoryview) -> Iterator[int]:
        at = 0
        while at < stored.nbytes:
            at += _zstd_frame_size(stored[at:])
            yield at


def _zstd_frame_size(stored: memoryview) -> int:
    """Bytes of the zstd frame that stored begins with, from the sizes of its blocks.

    Source: RFC 8878, sections 3.1.1.1 (frame header) and 3.1.1.2 (blocks).
    """
    head = stored[:18]  # the longest header
    try:
        checksum = zstandard.get_frame_parameters(head).has_checksum
        at = zstandard.frame_header_size(head)
    except zstandard.ZstdError as exc:
        raise CorruptObject(f"there is no zstd frame ({exc})") from exc
    last = 0
    while not last:
        if at + _BLOCK_HEAD > stored.nbytes:
            raise CorruptObject("the part ends within a zstd frame")
        block = int.from_bytes(stored[at : at + _BLOCK_HEAD], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        at += _BLOCK_HEAD + (1 if kind == _RLE else size)
    at += 4 if checksum else 0
    if at > stored.nbytes:
        raise CorruptObject("the part ends within a zstd frame")
    return at


def _decompress(text: bytes | memoryview, size: int, frame: int) -> bytes:
    """The content of one zstd frame, which must say that it holds size bytes."""
    try:
        if zstandard.get_frame_parameters(text[:18]).content_size != size:
            raise CorruptObject(f"frame {frame} does not hold {size} bytes")
        assert size <= LARGEST_FRAME
        return bytes(_decompressor().decompress(text, allow_extra_data=False)) if size else b""
    except zstandard.ZstdError as exc:
        raise CorruptObject(f"frame {frame} cannot be decompressed ({exc})") from exc


def _compressor() -> zstandard.ZstdCompressor:
    """This thread's own: a context serves one thread at a time and is costly to make."""
    made: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if made is None:
        made = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
        _local.compressor = made
    return made


def _decompressor() -> zstandard.ZstdDecompressor:
    made: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if made is None:
        made = zstandard.ZstdDecompressor()
        _local.decompressor = made
    return made
