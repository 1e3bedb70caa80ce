"""The template of scripts/aws: sound, made on moto, and enough for a pool, with rights enforced."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cfnlint.api
import pytest

from catalog.errors import StoreError
from catalog.ledger import Ledger
from catalog.model import NANOSECONDS, LockMode, StorageClass
from catalog.s3 import S3Location
from connector.pool import Pool
from connector.pool.classes import ClassPolicy
from connector.pool.config import PoolConfig
from connector.pool.journal import Journal
from connector.pool.manifest import Origin, Retention
from connector.pool.verify import Depth
from connector.store.interface import RecallTier
from connector.store.s3 import S3Store
from tests.connector.doctor_support import bad, examined, pool_at
from tests.support.moto_cfn import Cloud, enforced_rights

TEMPLATE = Path(__file__).parents[2] / "scripts" / "aws" / "tapelift.yaml"
MIB = 1 << 20


@pytest.fixture(scope="module")
def cloud(moto_endpoint: str) -> Cloud:
    return Cloud(moto_endpoint)


@contextmanager
def installed(cloud: Cloud, **parameters: str) -> Iterator[tuple[S3Location, dict[str, str]]]:
    """A stack for a user of its own; gives where its pool goes."""
    name = f"backups-{uuid.uuid4().hex[:12]}"
    given = {"BucketName": name, "Principal": "user", "UserName": name, **parameters}
    with cloud.stack(TEMPLATE, **given) as outputs:
        yield S3Location(name, outputs["Prefix"], cloud.endpoint_url), outputs


@contextmanager
def as_user(cloud: Cloud, location: S3Location, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be the stack's user, with nothing but what its policy grants."""
    # moto speaks no TLS, which the bucket policy insists on
    cloud.client("s3").delete_bucket_policy(Bucket=location.bucket)
    key = cloud.client("iam").create_access_key(UserName=location.bucket)["AccessKey"]
    with monkeypatch.context() as patch, enforced_rights():
        patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        yield


def test_the_template_passes_cfn_lint() -> None:
    assert cfnlint.api.lint_file(TEMPLATE) == []


def test_the_bucket_is_as_the_operations_page_says(cloud: Cloud) -> None:
    with installed(cloud, Prefix="master/one") as (location, _):
        s3, name = cloud.client("s3"), {"Bucket": location.bucket}
        assert s3.get_bucket_versioning(**name)["Status"] == "Enabled"
        locks = s3.get_object_lock_configuration(**name)["ObjectLockConfiguration"]
        assert (locks["ObjectLockEnabled"], locks.get("Rule")) == ("Enabled", None)
        (rule,) = s3.get_bucket_lifecycle_configuration(**name)["Rules"]
        assert rule["Filter"] == {"Prefix": "master/one/"}
        assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 30}
        blocked = s3.get_public_access_block(**name)["PublicAccessBlockConfiguration"]
        assert set(blocked.values()) == {True}
        (encryption,) = _encryption(s3, location)
        assert encryption["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
        (statement,) = json.loads(s3.get_bucket_policy(**name)["Policy"])["Statement"]
        assert statement["Effect"] == "Deny"
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def _encryption(s3: Any, location: S3Location) -> list[dict[str, Any]]:
    answer = s3.get_bucket_encryption(Bucket=location.bucket)
    rules: list[dict[str, Any]] = answer["ServerSideEncryptionConfiguration"]["Rules"]
    return rules


def test_with_kms_there_is_a_key_that_is_kept_and_the_right_to_use_it(cloud: Cloud) -> None:
    with installed(cloud, Encryption="sse-kms") as (location, outputs):
        (rule,) = _encryption(cloud.client("s3"), location)
        by_default = rule["ApplyServerSideEncryptionByDefault"]
        assert by_default == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": outputs["KeyArn"]}
        (key,) = [one for one in _statements(cloud, outputs) if one["Sid"] == "Key"]
        assert key["Resource"] == outputs["KeyArn"]


def _statements(cloud: Cloud, outputs: dict[str, str]) -> list[dict[str, Any]]:
    iam = cloud.client("iam")
    version = iam.get_policy(PolicyArn=outputs["PolicyArn"])["Policy"]["DefaultVersionId"]
    found = iam.get_policy_version(PolicyArn=outputs["PolicyArn"], VersionId=version)
    document = found["PolicyVersion"]["Document"]
    statements: list[dict[str, Any]] = document["Statement"]
    return statements


@pytest.mark.parametrize(
    ("parameter", "value", "sid"),
    [("ObjectLock", "no", "Locks"), ("AllowRecall", "no", "Recall"), ("AllowLifecycle", "yes", "")],
)
def test_a_right_that_is_not_wanted_is_not_granted(
    cloud: Cloud, parameter: str, value: str, sid: str
) -> None:
    with installed(cloud, **{parameter: value}) as (_, outputs):
        sids = {one["Sid"] for one in _statements(cloud, outputs)}
    full = {"Bucket", "Objects", "Delete", "Recall", "Locks"}
    assert sids == (full - {sid} if sid else full | {"Lifecycle"})


@pytest.mark.parametrize("principal", ["role", "none"])
def test_the_rights_can_go_to_a_role_or_to_nobody(cloud: Cloud, principal: str) -> None:
    with installed(cloud, Principal=principal) as (_, outputs):
        arn = outputs["PolicyArn"]
        holders = cloud.client("iam").list_entities_for_policy(PolicyArn=arn)
        assert len(holders["PolicyRoles"]) == (principal == "role")
        assert holders["PolicyUsers"] == []
        assert ("InstanceProfile" in outputs) is (principal == "role")


def test_bucket_and_key_outlive_the_stack() -> None:
    resources = cfnlint.decode.decode(str(TEMPLATE))[0]["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    replaced = {n for n, one in resources.items() if one.get("UpdateReplacePolicy") == "Retain"}
    assert kept == replaced == {"Bucket", "Key"}


# --- a pool on it, with the rights that the template grants and no others -------------------------


def test_a_pool_runs_on_the_bucket_with_the_rights_of_the_template(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        installed(cloud) as (location, _),
        as_user(cloud, location, monkeypatch),
        opened(location, tmp_path) as pool,
    ):
        data = bytes(range(256)) * (6 * MIB // 256)
        writer = pool.write_image("client_1", 1, storage_class=StorageClass.GLACIER)
        writer.write(data)
        in_a_day = 2_000_000_000 * NANOSECONDS
        keep = Retention(expires_at=in_a_day, lock_mode=LockMode.GOVERNANCE, lock_until=in_a_day)
        manifest = writer.close(origin=Origin(), retention=keep)
        pool.flush()
        assert pool.verify(manifest, Depth.CHECKSUM).problems == ()
        assert list(pool.images()) == [("client_1", 1)]
        (fragment,) = manifest.fragments
        pool.context.store.recall(fragment.key, days=1, tier=RecallTier.BULK)
        gone = pool.write_image("client_2", 1)
        gone.write(data)
        pool.abort(gone)
        assert list(pool.context.store.uploads("")) == []


def test_the_doctor_finds_nothing_to_complain_of(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(cloud) as (location, _), as_user(cloud, location, monkeypatch):
        policy = ClassPolicy(fixed=StorageClass.DEEP_ARCHIVE)
        found = examined(tmp_path, pool_at(location, lock=LockMode.COMPLIANCE, policy=policy))
    assert bad(found) == {}


def test_the_doctor_names_what_the_template_was_told_to_leave_out(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        installed(cloud, ObjectLock="no", AllowRecall="no") as (location, _),
        as_user(cloud, location, monkeypatch),
    ):
        policy = ClassPolicy(fixed=StorageClass.DEEP_ARCHIVE)
        found = examined(tmp_path, pool_at(location, lock=LockMode.COMPLIANCE, policy=policy))
    assert {check: str(level) for check, level in bad(found).items()} == {
        "object_lock": "error",
        "s3:RestoreObject": "error",
    }


def test_without_the_right_to_delete_only_probes_go(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        installed(cloud, AllowDelete="no") as (location, _),
        as_user(cloud, location, monkeypatch),
        opened(location, tmp_path) as pool,
    ):
        assert bad(examined(tmp_path, pool_at(location))) == {}
        writer = pool.write_image("kept", 1)
        writer.write(b"bytes")
        manifest = writer.close(origin=Origin(), retention=Retention())
        (fragment,) = manifest.fragments
        with pytest.raises(StoreError, match=r"403|AccessDenied"):
            pool.context.store.delete(fragment.key, version_id=fragment.version_id)


def test_nobody_without_the_policy_gets_in(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(cloud, Principal="none") as (location, _):
        cloud.client("iam").create_user(UserName=location.bucket)
        with as_user(cloud, location, monkeypatch):
            levels = bad(examined(tmp_path, pool_at(location)))
    assert levels["s3:ListBucket"] == levels["s3:PutObject"] == "error"


@contextmanager
def opened(location: S3Location, folder: Path) -> Iterator[Pool]:
    journal = Journal(folder / "journal.sqlite")
    store = S3Store(location)
    ledger = Ledger.open(f"{location.uri}/ledger", endpoint_url=location.endpoint_url)
    config = PoolConfig(part_size=5 * MIB, fragment_size=16 * MIB)
    with Pool(store, journal, ledger, config=config) as pool:
        yield pool
    store.close()
    journal.close()
