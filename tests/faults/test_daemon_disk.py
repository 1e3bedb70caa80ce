"""Full disks, killed clients, wrong clocks: the daemon's own host on a bad day."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.s3 import S3Location
from tests.faults.authors import MIB, PART, PUT, Authors, Image
from tests.faults.mortal import Daemon, Moment
from tests.faults.reckoning import reckon
from tests.faults.rough import RoughS3
from tests.faults.test_daemon_kill import config
from tests.support.servers import new_bucket

DISK = 40 * MIB
DAY_S = 86_400

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: a small disk needs root, to be mounted; run it as root"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of DISK bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED: no file system can be mounted here: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def free(folder: Path) -> int:
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize


def fill(ballast: Path) -> None:
    """Take all that is free, to the last byte."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def wait_until_full(folder: Path, below: int = PART) -> None:
    ends = time.monotonic() + 30
    while free(folder) > below:
        assert time.monotonic() < ends, f"{free(folder)} bytes are still free"
        time.sleep(0.05)


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
@needs_root
def test_a_spool_whose_disk_is_full_makes_writers_wait_and_loses_nothing(
    moto_endpoint: str, tmp_path: Path, small_disk: Path
) -> None:
    bucket = new_bucket(moto_endpoint).bucket
    with RoughS3(moto_endpoint) as s3:
        more = f'ack = "spooled"\nspool = {{ dir = "{small_disk}", limit = "400 MiB" }}\n'
        text = config(tmp_path, S3Location(bucket, "pool", s3.url), more)
        daemon = Daemon(tmp_path, text.replace("deadline_s = 20", "deadline_s = 2"))
        try:
            daemon.start()
            daemon.ready()
            s3.go_away(3600)
            ways = ("frames", "descriptor", "put", "put in frames")
            with Authors(tmp_path, daemon.socket, most=4, sizes=(PART + 1,), ways=ways) as writing:
                wait_until_full(small_disk)
                time.sleep(1)
                assert writing.at_work
                s3.go_away(0)
                promises = writing.finish(at_once=False)
            assert promises.counts["no_space"]
            assert promises.counts["acknowledged"] == 16
            reckon(daemon, S3Location(bucket, "pool", moto_endpoint), promises)
        finally:
            daemon.kill()


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
@needs_root
@pytest.mark.parametrize("ack", ["stored", "spooled"])
def test_a_journal_whose_disk_is_full_acknowledges_nothing_that_it_cannot_prove(
    moto_endpoint: str, tmp_path: Path, small_disk: Path, ack: str
) -> None:
    where = S3Location(new_bucket(moto_endpoint).bucket, "pool", moto_endpoint)
    (tmp_path / "spool").mkdir()
    more = f'ack = "spooled"\nspool = {{ dir = "{tmp_path}/spool", limit = "400 MiB" }}\n'
    text = config(tmp_path, where, more if ack == "spooled" else "")
    text = text.replace(f'dir = "{tmp_path}/state"', f'dir = "{small_disk}/state"')
    daemon = Daemon(tmp_path, text, state=small_disk / "state")
    ballast = small_disk / "ballast"
    try:
        daemon.start()
        daemon.ready()
        ways = ("frames", "descriptor", "put", "put in frames")
        with Authors(
            tmp_path, daemon.socket, most=4, sizes=(0, 4097, PART + 1), ways=ways
        ) as writing:
            time.sleep(0.5)
            fill(ballast)
            time.sleep(3)
            assert writing.at_work
            daemon.kill()  # what was acknowledged on a full disk must be there after it, too
            ballast.unlink()
            daemon.start()
            promises = writing.finish(at_once=False)
        daemon.ready()
        assert promises.counts["journal"] + promises.counts["no_space"]
        assert promises.counts["acknowledged"] == 16
        reckon(daemon, where, promises)
    finally:
        daemon.kill()


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_clock_that_is_a_day_off_in_every_other_life_loses_nothing(
    moto_endpoint: str, tmp_path: Path
) -> None:
    where = S3Location(new_bucket(moto_endpoint).bucket, "pool", moto_endpoint)
    daemon = Daemon(tmp_path, config(tmp_path, where))
    try:
        with Authors(tmp_path, daemon.socket, seed="clock", most=6) as writing:
            for skew_s in (DAY_S, -DAY_S, 7200):
                daemon.skew_s = skew_s
                daemon.live(Moment("clock", 4), lambda: writing.at_work)
            daemon.skew_s = 0
            daemon.start()
            promises = writing.finish()
        daemon.ready()
        reckon(daemon, where, promises)
    finally:
        daemon.kill()


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(300)
def test_images_of_killed_clients_are_incomplete_resumable_and_given_up_in_time(
    moto_endpoint: str, tmp_path: Path
) -> None:
    where = S3Location(new_bucket(moto_endpoint).bucket, "pool", moto_endpoint)
    daemon = Daemon(tmp_path, config(tmp_path, where) + "[limits]\nabandoned_s = 5\n")
    images = [Image(f"killed {number}", 3 * PART) for number in range(4)]
    try:
        daemon.start()
        daemon.ready()
        for number, image in enumerate(images):
            more = ["--no-descriptor"] if number % 2 else []
            command = [*PUT, "--socket", str(daemon.socket), "--token", f"token {image.name}"]
            kill_in_the_middle([*command, f"main/{image.name}", *more], image)
        with daemon.client() as client:
            ends = time.monotonic() + 10
            while any(client.server_props().handles):
                assert time.monotonic() < ends
                time.sleep(0.05)
            states = {str(one.image): one.state for one in client.images("main", state="any")}
            assert states == {image.name: "incomplete" for image in images}
            for image in images[:2]:
                writer = client.resume("main", image.name, f"token {image.name}")
                assert writer.offset >= PART
                writer.write(image.data()[writer.offset :])
                assert writer.close().state == "complete"
            ends = time.monotonic() + 90
            while [event.kind for event in client.events().events].count("abandoned") < 2:
                assert time.monotonic() < ends, "they were not given up"
                time.sleep(0.5)
            assert list(client.images("main", state="incomplete")) == []
        promises = Authors(tmp_path, daemon.socket).promises
        promises.stored = {image.name: image.sha256 for image in images[:2]}
        reckon(daemon, where, promises)
    finally:
        daemon.kill()


def kill_in_the_middle(command: list[str], image: Image) -> None:
    """Kill a client that has sent two parts and a bit, and waits for more."""
    client = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert client.stdin is not None
    client.stdin.write(image.data()[: 2 * PART + 5000])
    client.stdin.flush()
    time.sleep(1.0)
    client.send_signal(signal.SIGKILL)
    assert client.wait(10) == -signal.SIGKILL
    client.stdin.close()
