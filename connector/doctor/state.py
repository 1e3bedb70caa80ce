"""What lies in a pool's prefix: the pool itself, uploads that nobody owns, the ledger's head."""

from __future__ import annotations

import json
from pathlib import Path

from catalog.console import size_text
from catalog.errors import JournalError, ObjectNotFound, PoolError, TransientStoreError
from catalog.ledger import Ledger
from catalog.model import NANOSECONDS
from catalog.s3 import S3Limits
from connector.doctor.findings import Findings
from connector.pool.attempts import Attempts
from connector.pool.journal import Journal
from connector.pool.names import IMAGES, LEDGER, POOL_FILE
from connector.pool.pool import POOL_FORMAT
from connector.settings import PoolSettings
from connector.store.interface import PROBE_PREFIX, ObjectStore

ORPHAN_S = 86_400
"""Uploads of others that are younger, in seconds, may be somebody's work just now."""
MOST_LISTED = 100_000
"""Uploads that are looked at; a bucket with more has another problem first."""


def check_pool_file(findings: Findings, store: ObjectStore) -> None:
    """Whether the prefix holds a pool that we know, or nothing yet."""
    try:
        data = store.read(POOL_FILE, ceiling=65_536)
    except ObjectNotFound:
        findings.ok("pool", f"there is none in {store.uri} yet; the daemon makes it")
        return
    except PoolError as exc:
        findings.failed("pool", exc)
        return
    try:
        found = json.loads(data)["format"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found == POOL_FORMAT:
        findings.ok("pool", f"{store.uri} is one, {found}")
    else:
        findings.error(
            "pool",
            f"{store.uri}/{POOL_FILE} is not of a pool that this program knows ({found!r})",
            "choose another prefix, or use a newer Tapelift",
        )


def check_orphans(findings: Findings, store: ObjectStore, journal: Path, *, now: int) -> None:
    """Uploads below the pool that this host's journal does not know, and how old they are."""
    try:
        own = _own_tokens(journal)
    except JournalError as exc:
        findings.failed("journal", exc)
        return
    strangers = 0
    oldest = now
    try:
        for seen, upload in enumerate(store.uploads(f"{IMAGES}/")):
            if seen >= MOST_LISTED:
                break
            if upload.key.rpartition("/")[2].partition("-")[0] in own:
                continue
            strangers += 1
            oldest = min(oldest, upload.started_at or now)
    except PoolError as exc:
        findings.failed("orphans", exc)
        return
    age_s = (now - oldest) / NANOSECONDS
    if strangers and age_s > ORPHAN_S:
        findings.warning(
            "orphans",
            f"{strangers} uploads are of nobody here, the oldest of {age_s / 86_400:.1f} days: "
            "their parts are billed",
            "if no other host writes to this prefix, abort them (docs/operations.md); a lifecycle "
            "rule does it in time",
        )
    else:
        findings.ok("orphans", f"{strangers} uploads of others, none older than a day")


def _own_tokens(journal: Path) -> set[str]:
    if not journal.is_file():
        return set()
    opened = Journal(journal, read_only=True)
    try:
        return {row.token for row in Attempts(opened).all()}
    finally:
        opened.close()


def check_probes(findings: Findings, store: ObjectStore, *, now: int) -> None:
    """What a process left that died while it tried something."""
    try:
        left = [
            stored
            for stored in store.scan(PROBE_PREFIX)
            if now - (stored.modified_at or now) > ORPHAN_S * NANOSECONDS
        ]
    except PoolError as exc:
        findings.failed("probes", exc)
        return
    if left:
        size = sum(stored.size for stored in left)
        findings.warning(
            "probes",
            f"{len(left)} objects {PROBE_PREFIX}* of {size_text(size)} are left in {store.uri}",
            "delete them; nothing reads them",
        )


def check_ledger(findings: Findings, pool: PoolSettings, limits: S3Limits) -> None:
    """Whether the ledger's last file can be read."""
    uri = pool.ledger or ledger_uri(pool)
    try:
        head = Ledger.open(uri, endpoint_url=pool.endpoint_url, limits=limits).head()
    except TransientStoreError as exc:
        findings.failed("ledger", exc)
    except PoolError as exc:
        findings.failed("ledger", exc, f"tapecatalog verify --ledger {uri} says more")
    else:
        told = f"its last file is number {head.sequence}" if head else "it has no file yet"
        findings.ok("ledger", f"{uri}: {told}")


def ledger_uri(pool: PoolSettings) -> str:
    """Where a pool's ledger is unless it is told: in the pool."""
    return "/".join(part for part in (f"s3://{pool.bucket}", pool.prefix, LEDGER) if part)
