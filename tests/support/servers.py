"""S3 servers for tests, and fresh buckets in them.

Every server takes the same invented credentials, from the environment: that is where the code
under test looks for them.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catalog.s3 import S3Location, make_client

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
OVERRIDES = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
SCRIPT = Path(__file__).parents[2] / "scripts" / "rgw"


@contextmanager
def credentials() -> Iterator[None]:
    """Give boto3's chain the test credentials and nothing else."""
    before = dict(os.environ)
    os.environ.update(CREDENTIALS)
    for name in OVERRIDES:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def why_no_rgw() -> str | None:
    """The reason why a RADOS Gateway cannot be started here, or None."""
    missing = [
        name
        for name in ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "radosgw-admin", "curl")
        if shutil.which(name) is None
    ]
    return f"not installed: {', '.join(missing)}" if missing else None


@contextmanager
def rgw_server(folder: Path) -> Iterator[str]:
    """A real S3: Ceph's RADOS Gateway with all its state below folder; gives its URL."""
    command = [str(SCRIPT), "up", str(folder)]
    started = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    try:
        if started.returncode:
            raise RuntimeError(f"scripts/rgw up failed: {started.stderr[-2000:]}")
        yield started.stdout.strip().splitlines()[-1]
    finally:
        subprocess.run([str(SCRIPT), "down", str(folder)], timeout=60, check=False)


def new_bucket(
    endpoint_url: str, *, object_lock: bool = False, prefix: str = "", kind: str = "tapelift-"
) -> S3Location:
    """Create an empty bucket whose name is its own and begins with kind.

    Object Lock brings versioning.
    """
    location = S3Location(f"{kind}{uuid.uuid4().hex[:16]}", prefix, endpoint_url)
    client = _maker(endpoint_url)
    client.create_bucket(Bucket=location.bucket, ObjectLockEnabledForBucket=object_lock)
    return location


@functools.cache
def _maker(endpoint_url: str) -> Any:
    """One client for all new buckets of a server; making one costs a tenth of a second."""
    return make_client(S3Location("any", "", endpoint_url))
