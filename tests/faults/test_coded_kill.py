"""kill -9 while a coded image is written: it goes on, and at most a part for each kill is lost."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from connector.pool.frames import FrameCode, layout
from connector.pool.verify import Depth
from tests.faults import writing
from tests.faults.test_kill import CountingProxy
from tests.faults.writing import CODINGS, CONFIG, NAME
from tests.support.servers import new_bucket


def run(folder: Path, bucket: str, endpoint: str, coding: str, at_event: int | None) -> int | None:
    """Write in a process of its own; the number of events, None when it was killed."""
    order = {
        "folder": str(folder), "bucket": bucket, "endpoint": endpoint,
        "coding": coding, "at_event": at_event,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.writing"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=writing.LONGEST_RUN_S + 20,
    )
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def survive(endpoint: str, folder: Path, coding: str, moments: list[int]) -> None:
    """Die at each moment, one after the other, then finish; nothing is lost, doubled, left over."""
    folder.mkdir()
    bucket = new_bucket(endpoint).bucket
    with CountingProxy(endpoint) as proxy:
        kills = sum(run(folder, bucket, proxy.url, coding, at) is None for at in moments)
        run(folder, bucket, proxy.url, coding, None)
        sent = sum(size for name, _, size in proxy.accepted if name == NAME)
    with writing.open_pool(folder, bucket, endpoint, coding) as pool:
        store, manifest = pool.context.store, pool.stat(NAME)
        assert manifest.sha256 == hashlib.sha256(writing.image_bytes()).hexdigest()
        assert pool.verify(manifest, Depth.FULL).ok
        assert pool.pending() == []
        assert list(store.uploads("")) == []
        expected = {part.key for part in manifest.fragments} | {manifest.key}
        assert {one.key for one in store.scan("images/")} == expected
        assert manifest.coding is not None
        of_keys = [one.key for one in store.scan("keys/")]
        assert of_keys == ([manifest.coding.key] if manifest.coding.encrypted else [])
        code = FrameCode(
            compression=manifest.coding.compression,
            encrypted=manifest.coding.encrypted,
            frame_size=manifest.coding.frame_size,
        )
        made = layout(code, CONFIG.part_size)
        assert sent - manifest.stored_size <= kills * made.capacity
        pool.journal.close()


def test_a_killed_writer_of_an_encrypted_image_goes_on(
    only_test_credentials: None, moto_endpoint: str, tmp_path: Path
) -> None:
    survive(moto_endpoint, tmp_path / "a", "both", [75])


@pytest.mark.deep
@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("coding", list(CODINGS))
def test_kills_at_random_moments_lose_nothing_of_a_coded_image(
    only_test_credentials: None, moto_endpoint: str, tmp_path: Path, coding: str
) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    bucket = new_bucket(moto_endpoint).bucket
    events = run(folder, bucket, moto_endpoint, coding, None)
    assert events is not None
    chance = random.Random(coding)
    for number in range(12):
        moments = sorted(chance.randrange(1, events) for _ in range(1 + number % 3))
        survive(moto_endpoint, tmp_path / f"{number}", coding, moments)
