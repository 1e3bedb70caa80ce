"""Mutates what is legal into what is nearly legal, for as long as it is told."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

SECONDS = float(os.environ.get("TAPELIFT_FUZZ_SECONDS", "60"))
"""How long each fuzz test runs, in seconds."""
LONGEST = 64 << 10
"""No input is longer, in bytes."""

TOKENS = [
    b'"', b"\\", b"\\u", b"\\ud800", b"[", b"]", b"{", b"}", b":", b",", b"null", b"true", b"NaN",
    b"-Infinity", b"1e999", b"-0", b"0x", b"9" * 41, b"9" * 5000, b"[" * 9, b'{"a":' * 9, b"\0",
    b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"TL", b"_b64", b'"image_b64":"', b"op", b"\n",
]  # fmt: skip


def mutants(corpus: list[bytes], seconds: float = SECONDS) -> Iterator[bytes]:
    """Inputs until the time is up; a seed from the clock, told by whoever fails."""
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for _ in range(50):
            data = bytearray(chance.choice(corpus))
            for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
                _mutate(data, corpus, chance)
            yield bytes(data[:LONGEST])


def _mutate(data: bytearray, corpus: list[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.choice((1, 2, 8, 64)))
    kind = chance.randrange(7)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[at:end]
    elif kind == 2:
        data[at:at] = chance.choice(TOKENS)
    elif kind == 3:
        data[at:end] = chance.randbytes(end - at)
    elif kind == 4:
        data[at:at] = data[at:end] * chance.choice((1, 3, 200))
    elif kind == 5:
        other = chance.choice(corpus)
        cut = chance.randrange(len(other) + 1)
        data[at:] = other[cut:]
    else:
        data[at:end] = chance.choice(TOKENS)


def resident() -> int:
    """This process's memory, in bytes. Source: proc(5), statm."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
