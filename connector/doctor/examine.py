"""The examination: every check, in an order in which each may rely on those before it."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import PoolError
from catalog.retry import Retrying
from catalog.s3 import S3Limits, S3Location
from connector.doctor.bucket import (
    StoreClock,
    check_abilities,
    check_contact,
    check_lifecycle,
    check_locking,
    check_versioning,
)
from connector.doctor.findings import Finding, Findings
from connector.doctor.host import check_host, check_prices, check_spool
from connector.doctor.network import check_network
from connector.doctor.rights import Away, Trial, Wanted, try_rights
from connector.doctor.state import check_ledger, check_orphans, check_pool_file, check_probes
from connector.pool.lifecycle import fragment_tags
from connector.settings import PoolSettings, Settings
from connector.store.s3 import S3Store
from connector.store.s3_bucket import S3Bucket

PATIENCE_S = 15.0
"""How long the doctor waits for one request with all its attempts, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long each request may take, with all its attempts."""

    deadline_s: float = PATIENCE_S

    @property
    def limits(self) -> S3Limits:
        """For the client."""
        wait = self.deadline_s / 2
        return S3Limits(connect_timeout_s=wait, read_timeout_s=wait, deadline_s=self.deadline_s)


def examine(
    settings: Settings,
    *,
    pools: Iterable[str] | None = None,
    patience: Patience | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Look at this host and at every pool, or at those named; takes some seconds for each pool.

    Nothing is raised for what is wrong: it is a finding. Tells progress what is being looked at.
    Nothing is changed but probes below each pool's prefix, which are removed again.
    """
    patience = patience or Patience()
    tell = progress or (lambda _: None)
    tell("this host")
    host = Findings()
    check_host(host, settings)
    made = list(host.made)
    wanted = None if pools is None else set(pools)
    for pool in settings.pools:
        if wanted is None or pool.name in wanted:
            tell(f"pool {pool.name}")
            made += _examine_pool(settings, pool, patience)
    return made


def journal_of(settings: Settings, pool: PoolSettings) -> Path:
    """Where the daemon keeps a pool's journal."""
    return settings.state / "pools" / pool.name / "journal.sqlite"


def _examine_pool(settings: Settings, pool: PoolSettings, patience: Patience) -> list[Finding]:
    findings = Findings(pool.name)
    check_spool(findings, pool)
    check_prices(findings, pool, dt.datetime.now(dt.UTC).date())
    location = S3Location(pool.bucket, pool.prefix, pool.endpoint_url)
    try:
        bucket = S3Bucket.open(
            location,
            limits=patience.limits,
            encryption=pool.encryption,
            retrying=Retrying(deadline_s=patience.deadline_s),
        )
    except PoolError as exc:
        findings.failed("credentials", exc)
        return findings.made
    try:
        if check_network(findings, bucket.client.meta.endpoint_url):
            _examine_store(findings, settings, pool, bucket, patience)
    except Away:
        findings.error(
            "network",
            "the store does not answer any more: what is not named here was not tried",
            "see whether the store is healthy, then run the doctor again",
        )
    finally:
        bucket.client.close()
    return findings.made


def _examine_store(
    findings: Findings,
    settings: Settings,
    pool: PoolSettings,
    bucket: S3Bucket,
    patience: Patience,
) -> None:
    trial = Trial(bucket, findings)
    clock = StoreClock()
    if not check_contact(trial, clock):
        return
    check_versioning(trial)
    locking = check_locking(trial, pool.lock)
    check_lifecycle(trial, pool, abandoned_s=settings.limits.abandoned_s)
    classes = [pool.policy.fixed, *(step.storage_class for step in pool.lifecycle)]
    try_rights(
        trial,
        Wanted(
            lock=pool.lock,
            object_lock=locking.object_lock,
            storage_class=pool.policy.fixed,
            tags=fragment_tags(pool.lifecycle),
            archived=any(one is None or one.archived for one in classes),
            now=clock.now,
        ),
        locks_by_itself=locking.by_itself,
    )
    if not trial.denied & {"s3:PutObject", "s3:AbortMultipartUpload"}:
        check_abilities(trial)
    _examine_contents(findings, settings, pool, patience)


def _examine_contents(
    findings: Findings, settings: Settings, pool: PoolSettings, patience: Patience
) -> None:
    location = S3Location(pool.bucket, pool.prefix, pool.endpoint_url)
    store = S3Store(
        location,
        limits=patience.limits,
        encryption=pool.encryption,
        retrying=Retrying(deadline_s=patience.deadline_s),
    )
    now = time.time_ns()
    try:
        check_pool_file(findings, store)
        check_orphans(findings, store, journal_of(settings, pool), now=now)
        check_probes(findings, store, now=now)
    finally:
        store.close()
    check_ledger(findings, pool, patience.limits)
