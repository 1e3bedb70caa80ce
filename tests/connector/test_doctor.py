"""The doctor on moto: what is well is said, what is not is found, and nothing is left behind."""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.ledger import Ledger
from catalog.model import LockMode, StorageClass
from catalog.s3 import S3Location, make_client
from connector.doctor import Finding, Level, examine, to_json, worst
from connector.doctor.bucket import check_rules
from connector.doctor.examine import journal_of
from connector.doctor.findings import Findings
from connector.pool import Pool
from connector.pool.classes import ClassPolicy
from connector.pool.journal import Journal
from connector.pool.lifecycle import apply
from connector.pool.manifest import Origin, Retention
from connector.settings import LifecycleStep
from connector.store.interface import PROBE_PREFIX
from connector.store.s3 import S3Store
from connector.store.s3_encryption import Encryption, EncryptionKind
from connector.store.s3_lifecycle import Rule, Transition
from tests.connector.doctor_support import (
    PATIENCE,
    bad,
    everything_in,
    examined,
    pool_at,
    settings_for,
)
from tests.support import faults
from tests.support.faults import FaultProxy
from tests.support.moto_s3 import OLD
from tests.support.servers import new_bucket

Make = Callable[..., S3Location]
GLACIER = ClassPolicy(fixed=StorageClass.GLACIER)
ABORT = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 30}}


@pytest.fixture
def location(moto_bucket: Make) -> S3Location:
    """A bucket as docs/operations.md says: Object Lock, versions, a rule for lost uploads."""
    made = moto_bucket(object_lock=True, prefix="pool")
    rules(made, ABORT)
    return made


def rules(location: S3Location, *added: dict[str, Any]) -> None:
    client = make_client(location)
    made = [
        {"ID": f"rule-{at}", "Status": "Enabled", "Filter": {"Prefix": ""}, **rule}
        for at, rule in enumerate(added)
    ]
    client.put_bucket_lifecycle_configuration(
        Bucket=location.bucket,
        LifecycleConfiguration={"Rules": made},  # type: ignore[typeddict-item]
    )
    client.close()


@pytest.fixture
def proxied(location: S3Location) -> Iterator[tuple[FaultProxy, S3Location]]:
    with FaultProxy(location.endpoint_url or "") as proxy:
        yield proxy, replace(location, endpoint_url=proxy.url)


# --- all is well ------------------------------------------------------------------------------


def test_a_sound_installation_has_nothing_but_good_findings_and_nothing_is_left(
    tmp_path: Path, location: S3Location
) -> None:
    found = examined(tmp_path, pool_at(location, lock=LockMode.COMPLIANCE, policy=GLACIER))
    assert bad(found) == {}
    assert {
        "dns", "tcp", "bucket", "clock", "region", "versioning", "object_lock", "lifecycle",
        "class", "encryption", "checksums", "create_only", "pool", "orphans", "ledger", "prices",
        "state", "socket", "memory", "descriptors",
        "s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning",
        "s3:GetBucketObjectLockConfiguration",
        "s3:GetLifecycleConfiguration", "s3:PutObject", "s3:GetObject", "s3:GetObjectVersion",
        "s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads",
        "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion",
        "s3:RestoreObject", "s3:PutObjectRetention", "s3:GetObjectRetention",
        "s3:PutObjectLegalHold", "s3:GetObjectLegalHold",
    } == set(found)  # fmt: skip
    assert everything_in(location) == []
    assert [path.name for path in (tmp_path / "state").iterdir()] == []


def test_an_open_pool_of_a_running_daemon_is_looked_at_and_not_disturbed(
    tmp_path: Path, location: S3Location
) -> None:
    settings = settings_for(tmp_path, pool_at(location))
    store = S3Store(location)
    journal_path = journal_of(settings, settings.pools[0])
    journal_path.parent.mkdir(parents=True)
    journal = Journal(journal_path)
    ledger = Ledger.open(f"{location.uri}/ledger", endpoint_url=location.endpoint_url)
    with Pool(store, journal, ledger) as pool:
        writer = pool.write_image("i", 1)
        writer.write(b"x" * (17 << 20))
        made = examine(settings, patience=PATIENCE)
        assert worst(made) is Level.OK, [one for one in made if one.level is not Level.OK]
        writer.close(origin=Origin(), retention=Retention(), size=17 << 20)
        pool.flush()
        found = {one.check: one for one in examine(settings, patience=PATIENCE)}
    journal.close()
    store.close()
    assert "is one, tapelift-pool/1" in found["pool"].message
    assert found["ledger"].message.endswith("its last file is number 0")
    assert found["orphans"].message.startswith("0 uploads")


def test_findings_can_be_printed_as_json(tmp_path: Path, location: S3Location) -> None:
    pool = pool_at(replace(location, bucket="nobody-has-this-bucket"))
    told = json.loads(json.dumps(to_json(examine(settings_for(tmp_path, pool), patience=PATIENCE))))
    assert told["level"] == "error"
    (one,) = [finding for finding in told["findings"] if finding["check"] == "bucket"]
    assert one["pool"] == "main"
    assert "NoSuchBucket" in one["message"]
    assert one["remedy"]


def test_only_the_pools_that_are_named_are_examined(tmp_path: Path, location: S3Location) -> None:
    settings = settings_for(tmp_path, pool_at(location), pool_at(location, name="other"))
    said: list[str] = []
    made = examine(settings, pools=["other"], patience=PATIENCE, progress=said.append)
    assert {finding.pool for finding in made} == {"", "other"}
    assert said == ["this host", "pool other"]


# --- what is missing ----------------------------------------------------------------------------

REFUSED = {  # the operation of S3 that is refused: the right that is said to be missing
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObjectVersion",
    "RestoreObject": "s3:RestoreObject",
    "PutObjectRetention": "s3:PutObjectRetention",
    "PutObjectLegalHold": "s3:PutObjectLegalHold",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
}


USUAL = ("ListObjectsV2", "PutObject", "AbortMultipartUpload", "DeleteObject", "PutObjectRetention")


@pytest.mark.parametrize(
    "operation",
    [one if one in USUAL else pytest.param(one, marks=pytest.mark.deep) for one in REFUSED],
)
def test_a_right_that_is_missing_is_named_with_its_remedy(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location], operation: str
) -> None:
    proxy, location = proxied
    proxy.play(faults.refuse(operation, 403, "AccessDenied"))
    steps = (LifecycleStep(days=100, storage_class=StorageClass.DEEP_ARCHIVE),)
    # a lock is only tried where it matters: it takes two seconds to end
    lock = LockMode.GOVERNANCE if operation == "PutObjectRetention" else LockMode.NONE
    found = examined(tmp_path, pool_at(location, lock=lock, policy=GLACIER, lifecycle=steps))
    action = REFUSED[operation]
    first = next(one for one in found[action] if one.level is not Level.OK)
    assert first.level is (Level.WARNING if action == "s3:PutObjectLegalHold" else Level.ERROR)
    assert "AccessDenied" in first.message
    assert first.remedy.startswith(f"allow {action} on arn:aws:s3:::{location.bucket}")
    on_bucket = action.startswith(("s3:List", "s3:GetLifecycle")) and "Parts" not in action
    assert first.remedy.endswith("/pool/* to these credentials") is not on_bucket
    assert not any(
        one.level is Level.ERROR for check, made in found.items() for one in made
        if check not in (action, "probes", "s3:GetObjectRetention", "s3:GetObjectLegalHold")
    )  # fmt: skip


def test_what_a_pool_does_not_need_is_only_a_warning(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied
    proxy.play(
        faults.refuse("RestoreObject", 403, "AccessDenied"),
        faults.refuse("PutObjectLegalHold", 403, "AccessDenied"),
        faults.refuse("GetBucketLifecycleConfiguration", 403, "AccessDenied"),
    )
    assert bad(examined(tmp_path, pool_at(location))) == {
        "s3:RestoreObject": Level.WARNING,
        "s3:PutObjectLegalHold": Level.WARNING,
        "s3:GetLifecycleConfiguration": Level.WARNING,
    }


def test_a_probe_that_may_not_be_removed_is_named_with_the_command_that_does_it(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied
    proxy.play(faults.refuse("DeleteObject", 403, "AccessDenied"))
    found = examined(tmp_path, pool_at(location))
    left = next(one for one in found["probes"] if "is left" in one.message)
    (key,) = [key for kind, key in everything_in(location) if kind == "version"]
    assert left.remedy.startswith(f"aws s3api delete-object --bucket {location.bucket} --key {key}")
    assert "--version-id " in left.remedy


@pytest.mark.parametrize(
    ("code", "check"),
    [
        ("InvalidAccessKeyId", "credentials"),
        ("SignatureDoesNotMatch", "credentials"),
        ("ExpiredToken", "credentials"),
        ("RequestTimeTooSkewed", "clock"),
        ("PermanentRedirect", "region"),
        ("NoSuchBucket", "bucket"),
    ],
)
def test_the_first_refusal_says_what_is_wrong_and_ends_the_examination_of_the_pool(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location], code: str, check: str
) -> None:
    proxy, location = proxied
    # the client asks once more by itself when it is told of another region
    for _ in range(2 if check == "region" else 1):
        proxy.play(faults.refuse("ListObjectsV2", 403, code))
    found = examined(tmp_path, pool_at(location))
    assert bad(found) == {check: Level.ERROR}
    assert found[check][-1].remedy
    assert "s3:PutObject" not in found
    assert set(proxy.seen) <= {"ListObjectsV2", "BucketHead"}


def test_no_credentials_are_a_finding(
    tmp_path: Path, location: S3Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = examined(tmp_path, pool_at(location))
    assert bad(found) == {"credentials": Level.ERROR}


# --- the way ----------------------------------------------------------------------------------


def test_a_name_without_an_address_is_found(tmp_path: Path, location: S3Location) -> None:
    pool = pool_at(replace(location, endpoint_url="http://no-such-host.invalid:9000"))
    found = examined(tmp_path, pool)
    assert bad(found) == {"dns": Level.ERROR}
    assert "no-such-host.invalid" in found["dns"][0].message


def test_a_closed_port_is_found(tmp_path: Path, location: S3Location) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = examined(tmp_path, pool_at(replace(location, endpoint_url=f"http://127.0.0.1:{port}")))
    assert bad(found) == {"tcp": Level.ERROR}


def test_an_endpoint_that_does_not_speak_tls_is_found(tmp_path: Path, location: S3Location) -> None:
    endpoint = str(location.endpoint_url).replace("http://", "https://")
    found = examined(tmp_path, pool_at(replace(location, endpoint_url=endpoint)))
    assert bad(found) == {"tls": Level.ERROR}


def test_a_store_that_goes_silent_ends_the_examination_in_time(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied
    proxy.play(*(faults.stall("PutObject") for _ in range(2)))
    started = time.monotonic()
    found = examined(tmp_path, pool_at(location))
    assert time.monotonic() - started < 4 * PATIENCE.deadline_s
    assert found["s3:PutObject"][-1].level is Level.ERROR
    assert "does not answer any more" in found["network"][-1].message
    assert [kind for kind, _ in everything_in(location) if kind == "upload"] == []
    proxy.forget()


# --- the bucket ---------------------------------------------------------------------------------


def test_a_plain_bucket_is_warned_of(tmp_path: Path, moto_bucket: Make) -> None:
    location = moto_bucket(prefix="pool")
    found = examined(tmp_path, pool_at(location))
    assert bad(found) == {"versioning": Level.WARNING, "lifecycle": Level.WARNING}
    assert "put-bucket-versioning" in found["versioning"][0].remedy
    assert everything_in(location) == []


def test_a_lock_without_object_lock_is_an_error(tmp_path: Path, moto_bucket: Make) -> None:
    found = examined(tmp_path, pool_at(moto_bucket(), lock=LockMode.COMPLIANCE))
    assert bad(found)["object_lock"] is Level.ERROR


def test_default_retention_is_an_error_and_no_object_is_locked_for_the_examination(
    tmp_path: Path, location: S3Location
) -> None:
    client = make_client(location)
    client.put_object_lock_configuration(
        Bucket=location.bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
        },
    )
    client.close()
    found = examined(tmp_path, pool_at(location, lock=LockMode.COMPLIANCE))
    assert bad(found) == {"default_retention": Level.ERROR, "s3:PutObject": Level.WARNING}
    assert everything_in(location) == []


def test_a_store_of_yesterday_is_said_to_compare_md5(tmp_path: Path, moto_endpoint: str) -> None:
    location = new_bucket(moto_endpoint, kind=OLD)
    found = examined(tmp_path, pool_at(location))
    assert "MD5" in found["checksums"][0].message


def test_a_store_that_ignores_conditions_is_an_error(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied
    unconditional = faults.without_header("PutObject", "If-None-Match")
    proxy.play(*(unconditional for _ in range(3)))
    found = examined(tmp_path, pool_at(location))
    assert bad(found) == {"create_only": Level.ERROR}


@pytest.mark.parametrize("off_s", [-20 * 60, 5 * 60])
def test_a_clock_that_is_off_is_found(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location], off_s: int
) -> None:
    proxy, location = proxied

    def shifted(status: int, headers: dict[str, str], body: bytes) -> Any:
        told = email.utils.formatdate(time.time() - off_s, usegmt=True)
        kept = {name: value for name, value in headers.items() if name.lower() != "date"}
        return status, {**kept, "Date": told}, body

    proxy.play(faults.altered("ListObjectsV2", shifted))
    found = examined(tmp_path, pool_at(location))
    (clock,) = found["clock"]
    assert clock.level is (Level.ERROR if off_s < 0 else Level.WARNING)
    assert f"{abs(off_s)} s {'behind' if off_s < 0 else 'ahead'}" in clock.message
    assert "NTP" in clock.remedy


def test_a_class_that_the_store_does_not_offer_is_an_error(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied
    proxy.play(faults.refuse("CreateMultipartUpload", 400, "InvalidStorageClass"))
    found = examined(tmp_path, pool_at(location, policy=GLACIER))
    assert bad(found) == {"class": Level.ERROR}


def test_encryption_that_is_refused_is_told_from_a_right_that_is_missing(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied
    proxy.play(faults.refuse("PutObject", 400, "KMS.NotFoundException"))
    kms = Encryption(kind=EncryptionKind.SSE_KMS, kms_key_id="alias/none")
    found = examined(tmp_path, pool_at(location, encryption=kms))
    assert found["encryption"][0].level is Level.ERROR
    assert "kms:GenerateDataKey" in found["encryption"][0].remedy
    assert everything_in(location) == []


def test_encryption_that_is_not_confirmed_is_an_error(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied

    def unconfirmed(status: int, headers: dict[str, str], body: bytes) -> Any:
        kept = {k: v for k, v in headers.items() if "server-side-encryption" not in k.lower()}
        return status, kept, body

    proxy.play(faults.altered("PutObject", unconfirmed))
    encryption = Encryption(kind=EncryptionKind.SSE_S3)
    assert bad(examined(tmp_path, pool_at(location, encryption=encryption))) == {
        "encryption": Level.ERROR
    }


def test_data_that_comes_back_changed_is_an_error(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied
    proxy.play(faults.altered("GetObject", lambda s, h, b: (s, h, bytes(len(b)))))
    found = examined(tmp_path, pool_at(location))
    assert bad(found) == {"s3:GetObject": Level.ERROR}
    assert "not what is read" in found["s3:GetObject"][0].message


# --- lifecycle rules ------------------------------------------------------------------------------

COLD = Transition(when="1", storage_class=StorageClass.GLACIER)
RULES: dict[str, tuple[Rule, Level | None]] = {
    "expiry of everything": (Rule(id="a", expires="after 30 days"), Level.ERROR),
    "expiry above the pool": (Rule(id="a", prefix="po", expires="after 9 days"), Level.ERROR),
    "expiry inside": (Rule(id="a", prefix="pool/images/a", expires="after 9 days"), Level.ERROR),
    "expiry by size": (Rule(id="a", larger_than=5, expires="on 2030-01-01"), Level.ERROR),
    "expiry beside the pool": (Rule(id="a", prefix="poolside/", expires="after 1 days"), None),
    "expiry of a tag": (Rule(id="a", tags=(("x", "y"),), expires="after 1 days"), None),
    "a rule that is off": (Rule(id="a", enabled=False, expires="after 1 days"), None),
    "all to GLACIER": (Rule(id="a", transitions=(COLD,)), Level.ERROR),
    "early abort": (Rule(id="a", abort_days=2), Level.WARNING),
    "hidden versions": (Rule(id="a", noncurrent_expires="after 9 days"), Level.WARNING),
}


@pytest.mark.parametrize("name", RULES)
def test_lifecycle_rules_that_would_hurt_are_found(name: str) -> None:
    rule, level = RULES[name]
    findings = Findings("main")
    pool = pool_at(S3Location("b", "pool", None))
    lost = Rule(id="uploads", prefix="pool/", abort_days=30)
    check_rules(findings, [rule, lost], pool, abandoned_s=7 * 86_400)
    assert {one.level for one in findings.made} == {level or Level.OK}
    assert all(one.remedy for one in findings.made if one.level is not Level.OK)


def test_a_rule_that_is_there_is_found_in_the_bucket(tmp_path: Path, location: S3Location) -> None:
    rules(location, ABORT, {"Expiration": {"Days": 365}})
    found = examined(tmp_path, pool_at(location))
    assert bad(found) == {"lifecycle": Level.ERROR}
    assert "'rule-1'" in found["lifecycle"][0].message
    assert "DELETES" in found["lifecycle"][0].message


def test_steps_that_were_not_applied_are_told_until_they_are(
    tmp_path: Path, location: S3Location
) -> None:
    steps = (LifecycleStep(days=30, storage_class=StorageClass.GLACIER),)
    pool = pool_at(location, lifecycle=steps)
    found = examined(tmp_path, pool)
    assert bad(found) == {"lifecycle": Level.WARNING}
    assert "tapeconnector apply" in found["lifecycle"][0].remedy
    store = S3Store(location)
    apply(store, pool, dry_run=False)
    store.close()
    found = examined(tmp_path, pool)
    assert bad(found) == {}
    assert found["s3:PutObjectTagging"][0].level is Level.OK
    assert everything_in(location) == []


# --- what lies in the prefix ----------------------------------------------------------------------


def test_a_prefix_with_something_else_in_it_is_an_error(
    tmp_path: Path, location: S3Location
) -> None:
    client = make_client(location)
    client.put_object(Bucket=location.bucket, Key="pool/pool.json", Body=b'{"format": "x/9"}')
    client.close()
    assert bad(examined(tmp_path, pool_at(location))) == {"pool": Level.ERROR}


def dated(tag: str, days: float) -> Callable[..., Any]:
    """Changes the first date of a listing: moto says of every upload that it began in 2010."""
    then = (dt.datetime.now(dt.UTC) - dt.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    def change(status: int, headers: dict[str, str], body: bytes) -> Any:
        before, opening, rest = body.partition(f"<{tag}>".encode())
        _, closing, after = rest.partition(f"</{tag}>".encode())
        return status, headers, before + opening + then.encode() + closing + after

    return change


@pytest.mark.parametrize("days", [0.1, 3.0])
def test_old_uploads_of_nobody_are_found_and_young_ones_are_not(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location], days: float
) -> None:
    proxy, location = proxied
    client = make_client(location)
    client.create_multipart_upload(
        Bucket=location.bucket, Key="pool/images/a/1/00112233aabbccdd-00000"
    )
    client.close()
    same = faults.altered("ListMultipartUploads", lambda *answer: answer)
    proxy.play(same, faults.altered("ListMultipartUploads", dated("Initiated", days)))
    (orphans,) = examined(tmp_path, pool_at(location))["orphans"]
    if days < 1:
        assert orphans.level is Level.OK
        assert orphans.message.startswith("1 uploads of others")
    else:
        assert orphans.level is Level.WARNING
        assert orphans.message.startswith("1 uploads are of nobody here, the oldest of 3.0 days")


def test_probes_of_a_process_that_died_are_found_when_they_are_old(
    tmp_path: Path, proxied: tuple[FaultProxy, S3Location]
) -> None:
    proxy, location = proxied
    client = make_client(location)
    client.put_object(Bucket=location.bucket, Key=f"pool/{PROBE_PREFIX}00", Body=b"left")
    client.close()
    same = faults.altered("ListObjectsV2", lambda *answer: answer)
    proxy.play(same, faults.altered("ListObjectsV2", dated("LastModified", 3)))
    found = examined(tmp_path, pool_at(location))
    assert bad(found) == {"probes": Level.WARNING}


def test_every_finding_that_is_not_well_has_a_remedy_and_no_secret(
    tmp_path: Path, location: S3Location, moto_bucket: Make
) -> None:
    key = bytes(range(32))
    encryption = Encryption(kind=EncryptionKind.SSE_C, customer_key=key)
    pools = [
        pool_at(moto_bucket(), lock=LockMode.COMPLIANCE, encryption=encryption),
        pool_at(replace(location, bucket="nobody-has-this-bucket"), name="gone"),
    ]
    made: list[Finding] = examine(settings_for(tmp_path, *pools), patience=PATIENCE)
    assert {one.level for one in made} == set(Level)
    for one in made:
        assert bool(one.remedy) is (one.level is not Level.OK), one
        for secret in ("testing-secret", key.hex(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="):
            assert secret not in repr(one)
