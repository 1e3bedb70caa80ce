"""A process that writes one image into a coded pool, and dies on purpose at a named moment.

``python -m tests.faults.writing`` takes one order as JSON on its standard input. The image's bytes
are those of ``image_bytes``; a process that comes after another goes on where the pool says.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

from catalog.ledger import Ledger
from catalog.s3 import S3Location
from connector.pool import Origin, Pool, PoolConfig, Retention
from connector.pool.coding import ClientKey, Coding, Compression
from connector.pool.journal import Journal
from connector.store.s3 import S3Store
from tests.faults.dying import Fate, watch

MIB = 1024 * 1024
SIZE = 37 * MIB + 12_345
NAME = "image"
CONFIG = PoolConfig(part_size=5 * MIB, fragment_size=17 * MIB, parts_in_flight=3, images_open=1)
KEY = ClientKey(id="k1", key=bytes(range(32)))
CODINGS = {
    "zstd": Coding(compression=Compression.ZSTD),
    "sealed": Coding(client_key=KEY),
    "both": Coding(compression=Compression.ZSTD, client_key=KEY),
}
LONGEST_RUN_S = 100


def image_bytes() -> bytes:
    """Bytes of which a tenth compresses."""
    rng = random.Random(7)
    whole = b"".join(
        bytes(100_000) if at % 10 == 0 else rng.randbytes(100_000) for at in range(400)
    )
    return whole[:SIZE]


def open_pool(folder: Path, bucket: str, endpoint: str, coding: str) -> Pool:
    """The pool of an order."""
    store = S3Store(S3Location(bucket, "pool", endpoint))
    ledger = Ledger.open(str(folder / "ledger"))
    return Pool(
        store, Journal(folder / "journal.sqlite"), ledger, config=CONFIG, coding=CODINGS[coding]
    )


def write(pool: Pool) -> None:
    """Write the image, or what is missing of it."""
    pool.recover()
    if pool.find(NAME, 1) is not None:
        return
    data = memoryview(image_bytes())
    writer = pool.write_image(NAME, 1)
    for at in range(writer.offset, SIZE, 300_000):
        writer.write(data[at : at + 300_000])
    writer.close(origin=Origin(), retention=Retention())


def main() -> None:
    """Do what the order says, and die when it says so; else print how many events there were."""
    order: dict[str, Any] = json.loads(sys.stdin.read())
    signal.alarm(LONGEST_RUN_S)
    fate = Fate(order["at_event"])
    watch(fate)
    with open_pool(
        Path(order["folder"]), order["bucket"], order["endpoint"], order["coding"]
    ) as pool:
        write(pool)
        pool.flush()
    print(fate.seen)


if __name__ == "__main__":
    main()
