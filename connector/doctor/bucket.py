"""How a pool's bucket is set up: is it there, its clock, versions, locks, lifecycle, checksums."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.errors import ConfigError, PoolError, StoreError, TransientStoreError
from catalog.model import LockMode
from catalog.s3 import vendor_code
from connector.doctor.findings import Findings, Level
from connector.doctor.rights import REFUSED, Trial
from connector.pool import lifecycle
from connector.settings import PoolSettings
from connector.store import s3_probe
from connector.store.interface import PartChecksum
from connector.store.s3_bucket import S3Bucket
from connector.store.s3_lifecycle import Lifecycle, Rule

SKEW_WARNING_S = 60.0
SKEW_ERROR_S = 15 * 60.0
"""S3 refuses requests whose time is off by more. Source: S3 API, ``RequestTimeTooSkewed``."""


@dataclass(slots=True)
class StoreClock:
    """The store's clock, as its last answer told it."""

    ahead_s: float = 0.0

    def now(self) -> float:
        """Seconds since 1970, at the store."""
        return time.time() + self.ahead_s


def check_contact(trial: Trial, clock: StoreClock) -> bool:
    """Whether bucket and credentials can be used at all; lists one object of the prefix."""
    bucket, findings = trial.bucket, trial.findings
    name = bucket.location.bucket
    where = {"Bucket": name, "Prefix": bucket.location.key(""), "MaxKeys": 1}
    asked = time.time()
    try:
        answer = bucket.call("listing", lambda: bucket.client.list_objects_v2(**where))
    except StoreError as exc:
        told = getattr(exc.__cause__, "response", None) or {}
        _check_clock(findings, clock, told, asked)
        code = vendor_code(exc.__cause__)
        if code in REFUSED:
            trial.refused("s3:ListBucket", exc, needed=Level.ERROR)
            return True
        findings.failed(_WHAT_FAILED.get(code, "bucket"), exc)
        return False
    _check_clock(findings, clock, answer, asked)
    findings.ok("bucket", f"{name} is there and these credentials are known")
    trial.allowed("s3:ListBucket")
    _check_region(findings, bucket, answer)
    _check_versions(trial)
    return True


def _check_versions(trial: Trial) -> None:
    """What somebody hid behind a delete marker is found by its versions."""
    bucket = trial.bucket
    where = {"Bucket": bucket.location.bucket, "Prefix": bucket.location.key(""), "MaxKeys": 1}
    action = "s3:ListBucketVersions"
    if trial.attempt(
        action, lambda: bucket.client.list_object_versions(**where), needed=Level.WARNING
    ):
        trial.allowed(action)


_WHAT_FAILED = {
    "InvalidAccessKeyId": "credentials",
    "SignatureDoesNotMatch": "credentials",
    "InvalidToken": "credentials",
    "ExpiredToken": "credentials",
    "TokenRefreshRequired": "credentials",
    "InvalidSecurity": "credentials",
    "RequestTimeTooSkewed": "clock",
    "RequestExpired": "clock",
    "PermanentRedirect": "region",
    "AuthorizationHeaderMalformed": "region",
    "IllegalLocationConstraintException": "region",
}
"""Code of the first refusal to the check that it belongs to."""


def _headers(answer: Mapping[str, Any]) -> Mapping[str, str]:
    headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def _check_region(findings: Findings, bucket: S3Bucket, answer: Mapping[str, Any]) -> None:
    there = _headers(answer).get("x-amz-bucket-region")
    ours = bucket.client.meta.region_name
    if there is None or there == ours:
        findings.ok("region", f"{ours}" if there else "the store tells none")
    else:
        findings.warning(
            "region",
            f"the bucket is in {there}, requests are signed for {ours}",
            f"set AWS_REGION={there}: each new client is redirected once, and traffic between "
            "regions is billed",
        )


def _check_clock(
    findings: Findings, clock: StoreClock, answer: Mapping[str, Any], asked: float
) -> None:
    told = _headers(answer).get("date")
    moment = email.utils.parsedate_to_datetime(told) if told else None
    if moment is None:
        findings.ok("clock", "the store tells no time")
        return
    # the header is cut to the second; the answer was made between asked and now
    clock.ahead_s = moment.timestamp() + 0.5 - (asked + time.time()) / 2
    off = abs(clock.ahead_s)
    message = f"this host's clock is {off:.0f} s {'behind' if clock.ahead_s > 0 else 'ahead'}"
    remedy = "have this host's clock set by NTP (timedatectl set-ntp true)"
    if off > SKEW_ERROR_S:
        findings.error("clock", f"{message}: S3 refuses requests", remedy)
    elif off > SKEW_WARNING_S:
        findings.warning("clock", f"{message}: locks and expiry are computed from it", remedy)
    else:
        findings.ok("clock", "within a minute of the store's")


# --- versions and locks -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Locking:
    """Whether the bucket has Object Lock, and whether it locks new objects by itself."""

    object_lock: bool
    by_itself: bool


def check_versioning(trial: Trial) -> None:
    """Whether the bucket keeps versions."""
    name = trial.bucket.location.bucket
    action = "s3:GetBucketVersioning"
    answer = trial.attempt(
        action,
        lambda: trial.bucket.client.get_bucket_versioning(Bucket=name),
        needed=Level.WARNING,
    )
    if answer is None:
        return
    trial.allowed(action)
    if answer.get("Status") == "Enabled":
        trial.findings.ok("versioning", "on")
    else:
        trial.findings.warning(
            "versioning",
            f"{answer.get('Status', 'never on').lower()}: whoever may write here can replace what "
            "was stored",
            f"aws s3api put-bucket-versioning --bucket {name} "
            "--versioning-configuration Status=Enabled",
        )


def check_locking(trial: Trial, lock: LockMode) -> Locking:
    """Object Lock as the pool needs it."""
    bucket = trial.bucket
    name = bucket.location.bucket
    action = "s3:GetBucketObjectLockConfiguration"
    needed = Level.WARNING if lock is LockMode.NONE else Level.ERROR
    try:
        answer = bucket.call(
            f"trying {action}",
            lambda: bucket.client.get_object_lock_configuration(Bucket=name),
        )
    except TransientStoreError as exc:
        trial.findings.failed(action, exc)
        return Locking(False, False)
    except StoreError as exc:
        if vendor_code(exc.__cause__) in REFUSED:
            trial.refused(action, exc, needed=needed)
            return Locking(False, False)
        answer = {}  # the store's way to say that there is none
    trial.allowed(action)
    configuration = answer.get("ObjectLockConfiguration", {})
    enabled = configuration.get("ObjectLockEnabled") == "Enabled"
    if lock is not LockMode.NONE and not enabled:
        trial.findings.error(
            "object_lock",
            f"the bucket has none, and images are to be locked as {lock}",
            "use a bucket that was created with Object Lock, or lock = none",
        )
    else:
        trial.findings.ok("object_lock", "on" if enabled else "off, and the pool needs none")
    default = configuration.get("Rule", {}).get("DefaultRetention")
    if default:
        trial.findings.error(
            "default_retention",
            f"the bucket locks every new object as {default.get('Mode')}: what aborted attempts "
            "leave can neither be removed nor stops being billed",
            "remove the bucket's default retention; images are locked when they are complete",
        )
    return Locking(enabled, bool(default))


# --- lifecycle ------------------------------------------------------------------------------------


def check_lifecycle(trial: Trial, pool: PoolSettings, *, abandoned_s: float) -> None:
    """Rules that are there and reach the pool, and whether its own are."""
    action = "s3:GetLifecycleConfiguration"
    needed = Level.ERROR if pool.lifecycle else Level.WARNING
    try:
        rules = Lifecycle(trial.bucket).read().rules
    except StoreError as exc:
        if vendor_code(exc.__cause__) in REFUSED:
            trial.refused(action, exc, needed=needed, why="rules that would hurt are not seen")
        else:
            trial.findings.failed(action, exc)
        return
    trial.allowed(action)
    if pool.lifecycle:
        trial.findings.ok(
            "s3:PutLifecycleConfiguration",
            "not tried, because that would change the bucket: tapeconnector apply does it",
        )
    try:
        check_rules(trial.findings, rules, pool, abandoned_s=abandoned_s)
    except ConfigError as exc:
        trial.findings.failed("lifecycle", exc)


def check_rules(
    findings: Findings, rules: Sequence[Rule], pool: PoolSettings, *, abandoned_s: float
) -> None:
    """Which of a bucket's rules would hurt the pool, and which of its own are missing.

    Raises:
        ConfigError: the pool's own steps are such that S3 would refuse them.
    """
    wanted = lifecycle.desired(pool, abandoned_s=abandoned_s)
    before = len(findings.made)
    for rule in rules:
        for harm in lifecycle.plan([rule], wanted).conflicts:
            what, _, cure = harm.rpartition("; ")
            if rule.expires or rule.transitions:
                findings.error("lifecycle", what or harm, cure)
            else:
                findings.warning("lifecycle", what or harm, cure)
    changed = lifecycle.plan(rules, wanted).changed
    if pool.lifecycle and changed:
        findings.warning(
            "lifecycle",
            "the pool's steps to colder classes are not those of the bucket",
            "tapeconnector apply shows the difference, and sets them",
        )
    if changed and not any(_ends_uploads(rule, wanted.below) for rule in rules):
        findings.warning(
            "lifecycle",
            "no rule removes unfinished uploads: what a lost host leaves is billed for ever",
            "tapeconnector apply sets one; docs/operations.md has it too",
        )
    if len(findings.made) == before:
        findings.ok("lifecycle", f"{len(rules)} rules, none hurts the pool")


def _ends_uploads(rule: Rule, below: str) -> bool:
    reaches = below.startswith(rule.prefix) and not rule.tags
    return rule.enabled and rule.abort_days is not None and reaches


# --- what the endpoint can do -------------------------------------------------------------------


def check_abilities(trial: Trial) -> None:
    """Checksums and create-only writes, tried as each daemon does when it starts."""
    findings = trial.findings
    try:
        able = s3_probe.probe(trial.bucket)
    except PoolError as exc:
        findings.failed("checksums", exc)
        return
    if able.part_checksum is PartChecksum.CRC64NVME:
        findings.ok("checksums", "the store compares CRC64NVME of everything that is sent")
    else:
        findings.ok("checksums", "the store compares MD5, which costs more processor time")
    if able.create_only:
        findings.ok("create_only", "a second write of one name is held back")
    else:
        findings.error(
            "create_only",
            "the store lets a second writer replace what the first one stored",
            "use a store, or a bucket, with conditional writes (If-None-Match)",
        )
