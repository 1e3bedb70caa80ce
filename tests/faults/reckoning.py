"""What must be true when all is over: the clients' promises against bucket, listing and ledger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from catalog.s3 import S3Location
from connector.client import Client
from tests.faults.authors import Promises
from tests.faults.mortal import Daemon
from tests.migrate.support import Bucket

SETTLES_S = 60.0


def reckon(daemon: Daemon, where: S3Location, promises: Promises, *, pool: str = "main") -> None:
    """Compare everything; the daemon lives, and is stopped by this.

    ``where`` is the pool without any fault in front of it.
    """
    assert not promises.broken, "\n".join(promises.broken)
    with daemon.client() as client:
        _until_stored(client, pool)
        _compare_images(client, pool, promises)
        _take_away_what_was_left(client, pool, promises)
    assert daemon.stop() == 0, daemon.log[-4000:]
    assert "Traceback" not in daemon.log, daemon.log
    bucket = Bucket(where)
    assert bucket.uploads() == [], daemon.log[-4000:]
    assert bucket.orphans() == [], daemon.log[-4000:]
    assert not any(".probe" in key for key in bucket.keys("")), bucket.keys("")
    _compare_bucket(bucket, promises)
    _compare_ledger(bucket, promises)
    _forget_and_rebuild(daemon, pool)


def _until_stored(client: Client, pool: str) -> None:
    """Wait until nothing is in the spool, and nobody holds an image that was lost."""
    ends = time.monotonic() + SETTLES_S
    while client.server_props().backlog or any(client.server_props().handles):
        assert time.monotonic() < ends, client.server_props()
        time.sleep(0.1)


def _compare_images(client: Client, pool: str, promises: Promises) -> None:
    listed = {str(one.image): one for one in client.images(pool, state="any")}
    complete = {name: one.sha256 for name, one in listed.items() if one.state == "complete"}
    assert complete == promises.stored, _difference(complete, promises.stored)
    others = {name: one.state for name, one in listed.items() if name not in complete}
    left = dict.fromkeys(promises.left, "incomplete")
    assert others == left, _difference(others, left)
    for name in promises.stored:
        with client.open(pool, name) as reader:
            for _ in reader:  # which compares the SHA-256 at the end
                pass


def _take_away_what_was_left(client: Client, pool: str, promises: Promises) -> None:
    """They can be gone on with, and given up in both ways."""
    for name, (token, durable) in promises.left.items():
        writer = client.resume(pool, name, token)
        assert writer.offset >= durable, f"{name}: {writer.offset}, but {durable} were durable"
        if len(name) % 2:
            writer.abort()
        else:
            writer.checkpoint()
            client.discard(pool, name, token=token)
    assert list(client.images(pool, state="incomplete")) == []


def _compare_bucket(bucket: Bucket, promises: Promises) -> None:
    manifests = bucket.manifests()
    found = {name: manifest["sha256"] for name, manifest in manifests.items()}
    assert found == promises.stored, _difference(found, promises.stored)
    keys = [key for key in bucket.keys("keys/") if not key.endswith("/")]
    codings = [one["coding"] for one in manifests.values() if one.get("coding")]
    sealed = [coding for coding in codings if coding["encryption"] != "none"]
    assert len(keys) == len(sealed), keys


def _compare_ledger(bucket: Bucket, promises: Promises) -> None:
    facts = bucket.facts()
    assert len({fact.fact_id for fact in facts}) == len(facts)
    rows = Counter((fact.image, fact.sha256) for fact in facts if fact.kind == "stored")
    wanted = Counter(promises.stored.items())
    assert rows == wanted, f"only in the ledger {rows - wanted}, not there {wanted - rows}"


def _forget_and_rebuild(daemon: Daemon, pool: str) -> None:
    """Lose all local state: the bucket alone gives the same listing."""
    daemon.start()
    daemon.ready()
    before = listing(daemon, pool)
    assert daemon.stop() == 0
    shutil.rmtree(daemon.state)
    done = subprocess.run(
        [
            *(sys.executable, "-c", "import connector.cli; connector.cli.main()"),
            *("rebuild", pool, "--config", str(daemon.config), "--json"),
        ],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)[pool]
    assert {key: counts[key] for key in ("damaged", "foreign", "orphans", "uploads")} == dict(
        damaged=0, foreign=0, orphans=0, uploads=0
    )
    daemon.start()
    daemon.ready()
    assert listing(daemon, pool) == before
    assert daemon.stop() == 0


def listing(daemon: Daemon, pool: str) -> bytes:
    """What ``tapeconnector ls --json`` prints."""
    words = ("ls", pool, "--json", "--socket", str(daemon.socket))
    return subprocess.run(
        [sys.executable, "-c", "import connector.cli; connector.cli.main()", *words],
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = sorted(found.keys() | wanted.keys())
    wrong = [name for name in names if found.get(name) != wanted.get(name)]
    return "; ".join(f"{n}: {found.get(n)} where {wanted.get(n)} was promised" for n in wrong)
