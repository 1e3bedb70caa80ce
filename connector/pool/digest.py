"""Checksums of the byte path: a SHA-256 that can be put down and taken up, and CRC64NVME.

The stream's SHA-256 must go on after a crash without reading the stream's beginning again (it may
lie on a tape that is back on its shelf). hashlib cannot save its state; libcrypto's SHA-256 keeps
it in a plain structure, so we call that one. Both release the interpreter lock.
Source: OpenSSL, ``SHA256_CTX`` in openssl/sha.h, unchanged since 0.9.8.
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import Any, Self

from awscrt.checksums import combine_crc64nvme, crc64nvme

Buffer = bytes | bytearray | memoryview

_CONTEXT_WORDS = 8 + 2 + 16 + 2  # h, Nl and Nh, data, num and md_len
_STATE_MARK = f"sha256-{sys.byteorder}:".encode()


class Sha256:
    """SHA-256 of a stream, with ``export`` and ``restore`` where libcrypto can be called."""

    def __init__(self) -> None:
        self._context = (ctypes.c_uint32 * _CONTEXT_WORDS)()
        self._library = _libcrypto()
        self._plain = hashlib.sha256() if self._library is None else None
        if self._library is not None:
            self._library.SHA256_Init(self._context)

    def update(self, data: Buffer) -> None:
        """Add bytes."""
        if self._plain is not None:
            self._plain.update(data)
        else:
            assert self._library is not None
            address, size, _keep = _address(data)
            self._library.SHA256_Update(self._context, address, size)

    def hexdigest(self) -> str:
        """The digest of what was added so far; more may be added after."""
        if self._plain is not None:
            return self._plain.hexdigest()
        assert self._library is not None
        final = (ctypes.c_uint32 * _CONTEXT_WORDS).from_buffer_copy(self._context)
        digest = (ctypes.c_ubyte * 32)()
        self._library.SHA256_Final(digest, final)
        return bytes(digest).hex()

    def copy(self) -> Self:
        """An independent digest that goes on from here."""
        other = type(self)()
        if self._plain is not None:
            other._plain = self._plain.copy()
        ctypes.memmove(other._context, self._context, ctypes.sizeof(self._context))
        return other

    def export(self) -> bytes | None:
        """The state, to be given to ``restore``; None where it cannot be saved."""
        return None if self._plain is not None else _STATE_MARK + bytes(self._context)

    @classmethod
    def restore(cls, state: bytes | None) -> Self | None:
        """Go on from an exported state; None when this machine cannot use it."""
        self = cls()
        if state is None or self._plain is not None:
            return None
        expected = len(_STATE_MARK) + ctypes.sizeof(self._context)
        if len(state) != expected or not state.startswith(_STATE_MARK):
            return None
        ctypes.memmove(self._context, state[len(_STATE_MARK) :], ctypes.sizeof(self._context))
        return self


def _address(data: Buffer) -> tuple[Any, int, object]:
    """Address and size of a buffer, and what must live as long as they are used."""
    if isinstance(data, bytes):
        return data, len(data), data
    view = memoryview(data)
    if view.readonly:
        plain = bytes(view)
        return plain, len(plain), plain
    held = (ctypes.c_char * view.nbytes).from_buffer(view)
    return held, view.nbytes, held


@cache
def _libcrypto() -> ctypes.CDLL | None:
    """The process's own libcrypto, else the system's; None when its SHA-256 does not fit ours."""
    for name in (_loaded_libcrypto(), ctypes.util.find_library("crypto")):
        if name is None:
            continue
        try:
            library = ctypes.CDLL(name)
            library.SHA256_Init.argtypes = [ctypes.c_void_p]
            library.SHA256_Update.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
            library.SHA256_Final.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        except (OSError, AttributeError):
            continue
        if _agrees(library):
            return library
    return None


def _loaded_libcrypto() -> str | None:
    import ssl  # noqa: F401  (maps libcrypto into the process)

    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libcrypto" in line:
            return line.split(maxsplit=5)[-1]
    return None


def _agrees(library: ctypes.CDLL) -> bool:
    """Whether a state saved in the middle of a block gives hashlib's digest when taken up."""
    first, rest = b"tapelift " * 31, b"counts every byte" * 9
    context = (ctypes.c_uint32 * _CONTEXT_WORDS)()
    library.SHA256_Init(context)
    library.SHA256_Update(context, first, len(first))
    context = (ctypes.c_uint32 * _CONTEXT_WORDS).from_buffer_copy(bytes(context))
    library.SHA256_Update(context, rest, len(rest))
    digest = (ctypes.c_ubyte * 32)()
    library.SHA256_Final(digest, context)
    return bytes(digest) == hashlib.sha256(first + rest).digest()


def crc64(data: Buffer) -> int:
    """CRC64NVME of a buffer, as S3 computes it (check value 0xAE8B14860A799888)."""
    return int(crc64nvme(data))


def crc64_join(first: int, second: int, second_size: int) -> int:
    """CRC64NVME of two runs of bytes one after the other, from theirs."""
    return int(combine_crc64nvme(first, second, second_size))


def crc64_text(value: int) -> str:
    """As S3 writes it: base64 of 8 bytes, big-endian."""
    return base64.b64encode(value.to_bytes(8, "big")).decode()


def crc64_value(text: str) -> int:
    """Read ``crc64_text``."""
    return int.from_bytes(base64.b64decode(text, validate=True), "big")
