"""Opening a pool to look at it: for verify and rehydrate, which need no tapes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from catalog.errors import PoolError
from catalog.ledger import Ledger
from catalog.s3 import S3Limits, parse_uri
from connector.pool import Pool, PoolConfig
from connector.pool.journal import Journal
from connector.pool.prices import Prices
from connector.pool.recall import RecallPolicy
from connector.store.s3 import S3Store
from connector.store.s3_encryption import Encryption

log = logging.getLogger(__name__)


@contextlib.contextmanager
def pool_to_read(
    uri: str,
    endpoint_url: str | None,
    workdir: Path | None,
    ledger: str | None,
    encryption: Encryption | None = None,
    *,
    s3_deadline_s: float,
    prices: Prices | None = None,
    recall: RecallPolicy | None = None,
) -> Iterator[Pool]:
    """A pool that exists already; its recall tickets and facts are kept in workdir.

    At the end the facts go to the ledger; if that fails they wait in workdir for the next time.

    Raises:
        ConfigError: there is no pool at uri.
    """
    uri = uri.rstrip("/")
    config = PoolConfig(images_open=1)
    limits = S3Limits(deadline_s=s3_deadline_s, max_connections=2 * config.parts_in_flight)
    store = S3Store(parse_uri(uri, endpoint_url), limits=limits, encryption=encryption)
    folder = workdir or default_state(uri, endpoint_url)
    journal = Journal(folder / "journal.sqlite")
    try:
        book = Ledger.open(ledger or f"{uri}/ledger", endpoint_url=endpoint_url, limits=limits)
        with Pool(
            store, journal, book, config=config, prices=prices, recall=recall, create=False
        ) as pool:
            yield pool
            try:
                pool.flush()
            except PoolError as exc:
                log.warning("the ledger could not be written, its rows wait in %s: %s", folder, exc)
    finally:
        journal.close()


def default_state(uri: str, endpoint_url: str | None) -> Path:
    """A folder of its own for each pool, below the user's state folder (XDG)."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = hashlib.sha256(f"{endpoint_url} {uri}".encode()).hexdigest()[:16]
    return base / "tapelift" / name
