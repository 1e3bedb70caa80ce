"""A pool on a memory store with tiny parts, so that a test can have many of them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catalog.ledger import Ledger
from connector.pool import Origin, Pool, PoolConfig, Retention
from connector.pool.journal import Journal
from connector.pool.manifest import Manifest
from connector.store.interface import ObjectStore
from connector.store.memory import MemoryStore

NOTHING = Origin()
FOREVER = Retention()


def tiny_store(*, object_lock: bool = False, **settings: Any) -> MemoryStore:
    """A store that takes parts of any size."""
    return MemoryStore(smallest_part=1, versioning=object_lock, object_lock=object_lock, **settings)


def tiny_config(part_size: int = 64, fragment_size: int = 256, **settings: Any) -> PoolConfig:
    """A configuration below the bounds of S3, which a memory store does not have."""
    config = object.__new__(PoolConfig)
    values = {field.name: field.default for field in dataclasses.fields(PoolConfig)}
    values.update(part_size=part_size, fragment_size=fragment_size, **settings)
    for key, value in values.items():
        object.__setattr__(config, key, value)
    return config


@contextmanager
def open_pool(
    store: ObjectStore,
    folder: Path,
    *,
    config: PoolConfig | None = None,
    ledger: Ledger | None = None,
    **settings: Any,
) -> Iterator[Pool]:
    """A pool with its journal and ledger in a folder; opening it again resumes."""
    journal = Journal(folder / "journal.sqlite")
    ledger = ledger or Ledger.open(str(folder / "ledger"))
    try:
        with Pool(store, journal, ledger, config=config or tiny_config(), **settings) as pool:
            yield pool
    finally:
        journal.close()


def store_image(pool: Pool, name: str, data: bytes, copy: int = 1, **settings: Any) -> Manifest:
    """Write an image whole."""
    writer = pool.write_image(name, copy, **settings)
    writer.write(data)
    return writer.close(origin=NOTHING, retention=FOREVER)


def read_image(pool: Pool, name: str, copy: int = 1) -> bytes:
    """Read an image whole."""
    return b"".join(bytes(v) for v in pool.open_image(pool.stat(name, copy)).stream())


def some_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes that compress badly and differ everywhere."""
    return random.Random(seed).randbytes(size)
