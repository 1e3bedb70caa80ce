"""kill -9 of the daemon under eight writers: what was acknowledged is there, nothing else is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from catalog.s3 import S3Location
from tests.faults.authors import FRAGMENT, PART, SIZES, Authors, Promises
from tests.faults.mortal import Daemon, Moment
from tests.faults.reckoning import reckon
from tests.faults.test_kill import CountingProxy
from tests.support.servers import new_bucket

IN_FLIGHT = 2
EARLY_S3, EARLY_JOURNAL = 12, 40
"""Events of a start without any client: the moments of a life reach well behind them."""


def config(folder: Path, where: S3Location, more: str = "") -> str:
    """One pool of small parts, whose ledger is written often."""
    return f"""
[socket]
path = "{folder}/socket"
[state]
dir = "{folder}/state"
[pools.main]
bucket = "{where.bucket}"
prefix = "{where.prefix}"
endpoint_url = "{where.endpoint_url}"
part_size = {PART}
fragment_size = {FRAGMENT}
parts_in_flight = {IN_FLIGHT}
images_open = 8
ledger_rows = 5
ledger_seconds = 1
deadline_s = 20
{more}
"""


def moments(number: int, seed: object) -> list[Moment]:
    """When each life ends: by requests, by transactions, by the clock; the same every time."""
    chance = random.Random(f"moments {seed}")
    found = []
    for turn in range(number):
        kind = ("s3", "journal", "clock")[turn % 3]
        last = {"s3": 160, "journal": 900, "clock": 3}[kind]
        at = last * chance.random() ** 1.5
        found.append(Moment(kind, round(at, 3) if kind == "clock" else 1 + int(at)))
    return found


def survive(
    endpoint: str, folder: Path, number: int, *, seed: object, more: str = "", **authors: object
) -> Promises:
    """Die at so many moments under eight writers, then live on; compare everything."""
    bucket = new_bucket(endpoint).bucket
    with CountingProxy(endpoint) as proxy:
        daemon = Daemon(folder, config(folder, S3Location(bucket, "pool", proxy.url), more))
        try:
            with Authors(folder, daemon.socket, seed=seed, **authors) as writing:  # type: ignore[arg-type]
                hit = sum(daemon.live(moment) for moment in moments(number, seed))
                daemon.start()
                promises = writing.finish()
            daemon.ready()
            reckon(daemon, S3Location(bucket, "pool", endpoint), promises)
        finally:
            daemon.kill()
        again = sum(proxy.sent_again().values())
        print(f"{hit} of {number} moments, {promises.counts}, {promises.bytes} bytes, {again} again")
    assert hit >= number // 2, "its moments come too late: they prove nothing"
    return promises


def test_a_daemon_killed_again_and_again_keeps_what_it_acknowledged_and_nothing_else(
    moto_endpoint: str, tmp_path: Path
) -> None:
    survive(moto_endpoint, tmp_path, 3, seed="fast")


@pytest.mark.deep
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", range(10))
def test_fifty_kills_at_random_moments_under_eight_writers(
    moto_endpoint: str, tmp_path: Path, which: int
) -> None:
    survive(moto_endpoint, tmp_path, 5, seed=which)
