"""What the doctor's tests share: settings around a bucket, and a look at what is left in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.model import StorageClass
from catalog.s3 import S3Location, make_client
from connector.doctor import Finding, Level, examine
from connector.doctor.examine import Patience
from connector.pool.classes import ClassPolicy
from connector.pool.prices import Prices
from connector.settings import ClientLimits, PoolSettings, Settings, SocketSettings

PATIENCE = Patience(deadline_s=4.0)


def pool_at(location: S3Location, **changes: Any) -> PoolSettings:
    pool = PoolSettings(
        name="main",
        bucket=location.bucket,
        prefix=location.prefix,
        endpoint_url=location.endpoint_url,
        policy=ClassPolicy(fixed=StorageClass.STANDARD),
        prices=Prices.load(),
    )
    return replace(pool, **changes)


def settings_for(folder: Path, *pools: PoolSettings, **changes: Any) -> Settings:
    state = folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    settings = Settings(
        state=state,
        socket=SocketSettings(path=folder / "s"),
        pools=pools,
        limits=ClientLimits(connections=16, handles=2),
    )
    return replace(settings, **changes)


def examined(folder: Path, pool: PoolSettings, **changes: Any) -> dict[str, list[Finding]]:
    """Findings by check."""
    found: dict[str, list[Finding]] = {}
    for finding in examine(settings_for(folder, pool, **changes), patience=PATIENCE):
        found.setdefault(finding.check, []).append(finding)
    return found


def bad(found: dict[str, list[Finding]]) -> dict[str, Level]:
    """The worst level of every check that is not well."""
    order = list(Level)
    levels = {
        check: max((one.level for one in findings), key=order.index)
        for check, findings in found.items()
    }
    return {check: level for check, level in levels.items() if level is not Level.OK}


def everything_in(location: S3Location) -> list[tuple[str, str]]:
    """Every version, delete marker and unfinished upload of a bucket."""
    client = make_client(location)
    name = location.bucket
    listed = client.list_object_versions(Bucket=name)
    found = [("version", one["Key"]) for one in listed.get("Versions", [])]
    found += [("marker", one["Key"]) for one in listed.get("DeleteMarkers", [])]
    uploads = client.list_multipart_uploads(Bucket=name).get("Uploads", [])
    found += [("upload", one["Key"]) for one in uploads]
    client.close()
    return found
