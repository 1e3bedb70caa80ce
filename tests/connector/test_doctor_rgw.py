"""The doctor on a real S3 server, Ceph's RADOS Gateway, with a policy that denies. Runs with
``--rgw``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.model import LockMode, StorageClass
from catalog.s3 import S3Location, make_client
from connector.doctor import Level
from connector.pool.classes import ClassPolicy
from tests.connector.doctor_support import bad, everything_in, examined, pool_at
from tests.support.servers import new_bucket

pytestmark = pytest.mark.rgw


def deny(location: S3Location, *actions: str) -> None:
    """Deny rights below the prefix to everybody, the owner included."""
    client = make_client(location)
    resources = [f"arn:aws:s3:::{location.bucket}", f"arn:aws:s3:::{location.bucket}/*"]
    statement = {"Effect": "Deny", "Principal": "*", "Action": actions, "Resource": resources}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    client.put_bucket_policy(Bucket=location.bucket, Policy=json.dumps(policy))
    client.close()


def test_a_plain_bucket_can_be_used_and_is_left_empty(tmp_path: Path, rgw_endpoint: str) -> None:
    location = new_bucket(rgw_endpoint, prefix="pool")
    found = examined(tmp_path, pool_at(location))
    assert bad(found) == {"versioning": Level.WARNING, "lifecycle": Level.WARNING}
    assert "MD5" in found["checksums"][0].message
    assert everything_in(location) == []


def test_a_locking_bucket_is_tried_with_a_lock_that_ends(tmp_path: Path, rgw_endpoint: str) -> None:
    """Release 16 knows no conditions where there are versions, and the doctor says so."""
    location = new_bucket(rgw_endpoint, object_lock=True, prefix="pool")
    found = examined(tmp_path, pool_at(location, lock=LockMode.GOVERNANCE))
    assert bad(found) == {"lifecycle": Level.WARNING, "create_only": Level.ERROR}
    assert found["s3:PutObjectRetention"][0].level is Level.OK
    assert found["s3:PutObjectLegalHold"][0].level is Level.OK
    assert everything_in(location) == []


def test_a_store_without_recalls_is_no_place_for_a_cold_class(
    tmp_path: Path, rgw_endpoint: str
) -> None:
    """Release 16 takes the class and ignores it."""
    location = new_bucket(rgw_endpoint, prefix="pool")
    policy = ClassPolicy(fixed=StorageClass.GLACIER)
    levels = bad(examined(tmp_path, pool_at(location, policy=policy)))
    assert levels == {
        "versioning": Level.WARNING,
        "lifecycle": Level.WARNING,
        "s3:RestoreObject": Level.ERROR,
    }


@pytest.mark.parametrize(
    "action",
    ["s3:GetObject", "s3:ListBucket", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"],
)
def test_a_right_that_a_policy_denies_is_named(
    tmp_path: Path, rgw_endpoint: str, action: str
) -> None:
    location = new_bucket(rgw_endpoint, prefix="pool")
    deny(location, action)
    found = examined(tmp_path, pool_at(location))
    assert any(one.level is Level.ERROR and "AccessDenied" in one.message for one in found[action])


def test_credentials_of_nobody_are_told(
    tmp_path: Path, rgw_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = new_bucket(rgw_endpoint, prefix="pool")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert bad(examined(tmp_path, pool_at(location))) == {"credentials": Level.ERROR}


def test_a_wrong_secret_is_told(
    tmp_path: Path, rgw_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = new_bucket(rgw_endpoint, prefix="pool")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    assert bad(examined(tmp_path, pool_at(location))) == {"credentials": Level.ERROR}


def test_a_bucket_that_is_not_there_is_told(tmp_path: Path, rgw_endpoint: str) -> None:
    location = replace(new_bucket(rgw_endpoint), bucket="nobody-has-this-bucket")
    assert bad(examined(tmp_path, pool_at(location))) == {"bucket": Level.ERROR}
