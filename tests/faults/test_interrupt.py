"""Ctrl-C: the run ends at the next block with exit code 5, and the same command goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog.s3 import S3Location
from tests.migrate.support import (
    MIB,
    Bucket,
    run_words,
    spanning_set,
    tapemigrate,
    tapemigrate_status,
)
from tests.support import faults
from tests.support.faults import FaultProxy, Request

MakeBucket = Callable[..., S3Location]
COMMAND = Path(sys.executable).with_name("tapemigrate")
ENDS_WITHIN_S = 20


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def signal_at(operation: str, process: list[subprocess.Popen[str]], number: int) -> Any:
    """A fault that is none: the request is carried out, and the command gets a signal meanwhile."""

    def act(proxy: FaultProxy, request: Request) -> None:
        process[0].send_signal(number)
        time.sleep(0.2)
        faults.relay(proxy, request)

    return faults.Fault(operation, act, "signal")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.deep)]
)
def test_a_signal_ends_the_run_with_5_and_the_same_command_goes_on(
    moto_endpoint: str, moto_bucket: MakeBucket, tmp_path: Path, number: int
) -> None:
    tapes = spanning_set(big=6 * MIB)
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket(prefix="pool"))
    process: list[subprocess.Popen[str]] = []
    with FaultProxy(moto_endpoint) as proxy:
        to = S3Location(bucket.location.bucket, "pool", proxy.url)
        words = run_words(catalog, shelf, to, tmp_path / "work", "--part-mib", "5")
        calm = [faults.altered("UploadPart", lambda *answer: answer) for _ in range(2)]
        proxy.play(*calm, signal_at("UploadPart", process, number))
        process.append(start(words))
        out, err = process[0].communicate(timeout=ENDS_WITHIN_S)
        assert process[0].returncode == 5, err
        assert json.loads(out)["interrupted"] is True
        assert "stopping" in err
        assert "Traceback" not in err
        status = tapemigrate_status(tmp_path / "work")
        assert status["images"]["failed"] == status["images"]["damaged"] == 0
        ended = tapemigrate(*words, "--quiet")
    assert ended.code == 0, ended
    assert bucket.sha256s() == tapes.sha256s()
    assert bucket.orphans() == bucket.uploads() == []


def test_a_second_signal_ends_a_run_that_waits_for_the_store(
    moto_endpoint: str, moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    tapes = spanning_set(big=6 * MIB)
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket(prefix="pool"))
    with FaultProxy(moto_endpoint) as proxy:
        to = S3Location(bucket.location.bucket, "pool", proxy.url)
        words = run_words(catalog, shelf, to, tmp_path / "work", "--part-mib", "5")
        calm = [faults.altered("UploadPart", lambda *answer: answer) for _ in range(2)]
        proxy.play(*calm, *(faults.stall("UploadPart") for _ in range(20)))
        process = start(words)
        while proxy.seen.count("UploadPart") < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=ENDS_WITHIN_S)
        finally:
            process.kill()
            proxy.forget()
        assert process.returncode == 5, err
        assert "Traceback" not in err
        ended = tapemigrate(*words, "--quiet")
    assert ended.code == 0, ended
    assert bucket.sha256s() == tapes.sha256s()
    assert bucket.orphans() == bucket.uploads() == []
