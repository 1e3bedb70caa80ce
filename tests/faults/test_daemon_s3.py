"""The daemon on an S3 that has a bad day: writers get through, and nothing is lost or left over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from catalog.s3 import S3Location
from tests.faults.authors import PART, Authors
from tests.faults.mortal import Daemon
from tests.faults.reckoning import reckon
from tests.faults.rough import MISDEEDS, RoughS3
from tests.faults.test_daemon_kill import config
from tests.support.servers import new_bucket

SMALL = (0, 1, 4097, 300_000, PART + 1, 2 * PART + 77)


def get_through(
    endpoint: str,
    folder: Path,
    *,
    share: float = 0.0,
    misdeeds: tuple[str, ...] = (),
    away_s: float = 0.0,
    silent: bool = False,
    deadline_s: float = 6.0,
    most: int = 2,
) -> None:
    """Let eight writers write on such an S3; compare everything when it is well again."""
    bucket = new_bucket(endpoint).bucket
    with RoughS3(endpoint, misdeeds=misdeeds, seed=folder.name) as s3:
        text = config(folder, S3Location(bucket, "pool", s3.url))
        daemon = Daemon(folder, text.replace("deadline_s = 20", f"deadline_s = {deadline_s}"))
        try:
            daemon.start()
            daemon.ready()
            s3.share = share
            with Authors(folder, daemon.socket, most=most, sizes=SMALL) as writing:
                if away_s:
                    time.sleep(1.0)
                    s3.go_away(away_s, silent=silent)
                    while s3.away:
                        time.sleep(0.1)
                promises = writing.finish(at_once=False)
            s3.share = 0.0
            daemon.ready()
            reckon(daemon, S3Location(bucket, "pool", endpoint), promises)
        finally:
            daemon.kill()
        print(
            f"{len(s3.seen)} requests, {dict(s3.done)}, {promises.counts}, {promises.bytes} bytes"
        )
    assert sum(s3.done.values()) >= 3


def test_writers_get_through_an_s3_that_does_everything_wrong_now_and_then(
    moto_endpoint: str, tmp_path: Path
) -> None:
    get_through(moto_endpoint, tmp_path, share=0.4, most=1)


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("silent", [False, True], ids=["hangs up", "says nothing"])
def test_writers_get_through_an_outage_that_is_longer_than_the_deadline(
    moto_endpoint: str, tmp_path: Path, silent: bool
) -> None:
    get_through(moto_endpoint, tmp_path, away_s=5.0, deadline_s=2.0, silent=silent, most=1)


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("misdeed", list(MISDEEDS))
def test_writers_get_through_an_s3_that_often_does_one_thing_wrong(
    moto_endpoint: str, tmp_path: Path, misdeed: str
) -> None:
    share = 0.06 if "stalls" in misdeed else 0.3
    get_through(moto_endpoint, tmp_path, share=share, misdeeds=(misdeed,), most=3)


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("deadline_s", [20, 120], ids=["given up", "waited for"])
def test_writers_get_through_a_minute_without_s3(
    moto_endpoint: str, tmp_path: Path, deadline_s: float
) -> None:
    get_through(moto_endpoint, tmp_path, away_s=60.0, deadline_s=deadline_s, most=3)
