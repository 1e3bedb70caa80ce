"""The bytes of the benchmark: one block without inner structure, repeated for ever.

What the source writes and what the endpoint generates is the same stream, so an image that was
put into the endpoint, which throws bodies away, can be got back from it with the right digests.
A fragment or a range starts at any offset; a fragment's own offset 0 must be a multiple of the
block, which holds for every fragment size of whole blocks.
"""

from __future__ import annotations

import os
import random

from awscrt import checksums

BLOCK = 16 << 20
"""Bytes before the stream repeats: more than a core's own cache holds."""


def block() -> bytes:
    """Give the block (BLOCK bytes), the same in every process and on every machine."""
    return random.Random("tapelift").randbytes(BLOCK)


def block_file() -> int:
    """Give the descriptor of an anonymous file in memory that holds the block twice.

    Twice, so that up to BLOCK bytes from any offset within the first copy lie in one piece.
    """
    fd = os.memfd_create("pattern")
    data = block()
    for _ in range(2):
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    return fd


def crc64nvme(size: int, data: bytes) -> int:
    """Compute the CRC64NVME of the stream's first size bytes, given the block."""
    whole, rest = divmod(size, BLOCK)
    crc: int = checksums.crc64nvme(data[:rest])
    length = rest
    power, span = checksums.crc64nvme(data), BLOCK
    while whole:  # square and multiply: whole blocks go in front of what is there
        if whole & 1:
            crc, length = checksums.combine_crc64nvme(power, crc, length), length + span
        power, span, whole = checksums.combine_crc64nvme(power, power, span), span * 2, whole >> 1
    return crc
