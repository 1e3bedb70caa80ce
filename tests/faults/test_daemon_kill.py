"""kill -9 of the daemon under eight writers: what was acknowledged is there, nothing else is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from catalog.s3 import S3Location
from tests.faults.authors import FRAGMENT, PART, Authors
from tests.faults.mortal import Daemon, Moment
from tests.faults.reckoning import reckon
from tests.faults.test_kill import CountingProxy
from tests.support.servers import new_bucket

IN_FLIGHT = 2
EARLY = [Moment("journal", 110), Moment("s3", 35)]
"""For the fast suite: under writers, and reached within a second of work."""


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
        last = {"s3": 120, "journal": 500, "clock": 3}[kind]
        at = last * chance.random()
        found.append(Moment(kind, round(at, 3) if kind == "clock" else 1 + int(at)))
    return found


def survive(
    endpoint: str,
    folder: Path,
    deaths: list[Moment],
    *,
    seed: object,
    more: str = "",
    **authors: Any,
) -> None:
    """Die at these moments under eight writers, then live on; compare everything."""
    bucket = new_bucket(endpoint).bucket
    with CountingProxy(endpoint) as proxy:
        daemon = Daemon(folder, config(folder, S3Location(bucket, "pool", proxy.url), more))
        try:
            with Authors(folder, daemon.socket, seed=seed, **authors) as writing:
                hit = sum(daemon.live(moment, lambda: writing.at_work) for moment in deaths)
                daemon.start()
                promises = writing.finish()
            daemon.ready()
            reckon(daemon, S3Location(bucket, "pool", endpoint), promises)
        finally:
            daemon.kill()
        again = sum(proxy.sent_again().values())
        told = f"{promises.counts}, {promises.bytes} bytes, {again} again"
        print(f"{hit} of {len(deaths)} by their moment, {told}")
    assert hit, "all moments came too late"


def test_a_daemon_killed_again_and_again_keeps_what_it_acknowledged_and_nothing_else(
    moto_endpoint: str, tmp_path: Path
) -> None:
    survive(moto_endpoint, tmp_path, EARLY, seed="fast", most=1)


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", range(10))
def test_fifty_kills_at_random_moments_under_eight_writers(
    moto_endpoint: str, tmp_path: Path, which: int
) -> None:
    survive(moto_endpoint, tmp_path, moments(5, which), seed=which)


# --- other pools -----------------------------------------------------------------------------


def spooled(folder: Path) -> str:
    """A pool that acknowledges what is on this host's disk."""
    (folder / "spool").mkdir()
    return f'ack = "spooled"\nspool = {{ dir = "{folder}/spool", limit = "400 MiB" }}\n'


def coded(folder: Path) -> str:
    """A pool that compresses, and encrypts each image with a key of its own."""
    key = folder / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    return f'compression = "zstd"\nencryption = "client"\nkey_file = "{key}"\nkey_id = "k1"\n'


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
def test_what_is_acknowledged_as_spooled_survives_kills_and_reaches_the_store(
    moto_endpoint: str, tmp_path: Path
) -> None:
    survive(moto_endpoint, tmp_path, EARLY, seed="spooled", more=spooled(tmp_path), most=1)
    assert list((tmp_path / "spool" / "main").iterdir()) == []


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_pool_that_compresses_and_encrypts_survives_kills(
    moto_endpoint: str, tmp_path: Path
) -> None:
    survive(moto_endpoint, tmp_path, EARLY, seed="coded", more=coded(tmp_path), most=1)


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", range(6))
def test_thirty_kills_of_a_spooling_daemon(moto_endpoint: str, tmp_path: Path, which: int) -> None:
    seed = f"spooled {which}"
    survive(moto_endpoint, tmp_path, moments(5, seed), seed=seed, more=spooled(tmp_path))
    assert list((tmp_path / "spool" / "main").iterdir()) == []


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", range(3))
def test_fifteen_kills_of_a_pool_that_compresses_and_encrypts(
    moto_endpoint: str, tmp_path: Path, which: int
) -> None:
    seed = f"coded {which}"
    survive(moto_endpoint, tmp_path, moments(5, seed), seed=seed, more=coded(tmp_path))
