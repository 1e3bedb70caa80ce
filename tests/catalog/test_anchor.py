"""Checkpoints as they are written: when, by whom, how far, and what a crash leaves."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.anchor import Anchor, Anchoring
from catalog.audit import verify
from catalog.checkpoint import FOLDER, MAX_FILES, Checkpoint, walk
from catalog.errors import CatalogError, ChainBroken, ConfigError, StoreError
from catalog.files import FolderFiles, LedgerFiles, MemoryFiles, name_of
from catalog.ledger import Head, Ledger
from catalog.model import NANOSECONDS
from catalog.s3 import S3Location, make_client
from catalog.s3_files import KeptVersions, S3Files
from catalog.schema import encode
from tests.catalog.keyring import MadeKey, key_file
from tests.catalog.samples import START, fact


def checkpoints(files: LedgerFiles) -> list[Checkpoint]:
    return list(walk(files.below(FOLDER)))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def pass_s(self, seconds: int) -> None:
        self.now += seconds * NANOSECONDS


def anchored_ledger(files: LedgerFiles, **how: object) -> Ledger:
    return Ledger(files, Anchoring(signer=MadeKey(), **how))  # type: ignore[arg-type]


def test_a_checkpoint_lists_every_file_once_in_order() -> None:
    files = MemoryFiles()
    ledger = anchored_ledger(files)
    commits = [ledger.append([fact()]) for _ in range(3)]
    first = ledger.anchor()
    commits += [ledger.append([fact()]) for _ in range(2)]
    second = ledger.anchor()
    assert first is not None
    assert second is not None
    assert [*first.files, *second.files] == [commit.sha256 for commit in commits]
    assert (second.statement.first, second.statement.last) == (3, 4)
    assert second.statement.previous_sha256 == first.sha256
    assert checkpoints(files) == [first, second]
    assert ledger.anchor() is None
    assert verify(files).anchored == 4


def test_an_empty_ledger_has_nothing_to_sign() -> None:
    files = MemoryFiles()
    ledger = anchored_ledger(files)
    ledger.anchor_due()
    assert ledger.anchor() is None
    assert checkpoints(files) == []


def test_a_ledger_without_a_key_is_not_anchored() -> None:
    ledger = Ledger(MemoryFiles())
    ledger.append([fact()])
    ledger.anchor_due()
    with pytest.raises(CatalogError, match="without a key"):
        ledger.anchor()


def test_a_checkpoint_is_due_after_so_many_commits() -> None:
    files = MemoryFiles()
    ledger = anchored_ledger(files, every_commits=4, every_seconds=10**9)
    ledger.append([fact()])
    ledger.anchor()
    for number in range(1, 14):
        ledger.append([fact()])
        ledger.anchor_due()
        assert len(checkpoints(files)) == 1 + number // 4


def test_a_checkpoint_is_due_after_so_much_time_also_for_a_new_process() -> None:
    files, clock, key = MemoryFiles(), Clock(), MadeKey()
    ledger = Ledger(files)

    def due() -> bool:
        anchor = Anchor(files, Anchoring(signer=key, every_seconds=60), clock)
        return anchor.write_due(ledger.head()) is not None

    assert not due(), "the ledger is empty"
    ledger.append([fact()])
    assert due(), "nothing was ever signed"
    ledger.append([fact()])
    assert not due()
    clock.pass_s(59)
    assert not due()
    clock.pass_s(1)
    assert due()
    clock.pass_s(10_000)
    assert not due(), "nothing is new"


def test_files_of_other_writers_are_read_and_signed_too() -> None:
    files = MemoryFiles()
    ledger = anchored_ledger(files)
    for _ in range(3):
        ledger.append([fact()])
        Ledger(files).append([fact()])
    last = ledger.anchor()
    assert last is not None
    assert last.last == 5
    assert verify(files).ok


def test_own_files_are_not_read_again() -> None:
    files = MemoryFiles()
    ledger = anchored_ledger(files)
    for _ in range(3):
        ledger.append([fact()])
    read: list[str] = []
    files.read = lambda name: read.append(name) or b""  # type: ignore[method-assign,func-returns-value]
    assert ledger.anchor() is not None
    assert read == []


def test_a_broken_chain_is_not_signed() -> None:
    files = MemoryFiles()
    Ledger(files).append([fact()])
    files.create(name_of(1), encode([fact()], sequence=1, previous_sha256="a" * 64))
    anchor = Anchor(files, Anchoring(signer=MadeKey()))
    with pytest.raises(ChainBroken, match="does not follow"):
        anchor.write(Head(1, "b" * 64))
    assert checkpoints(files) == []
    lost = Anchor(MemoryFiles(), Anchoring(signer=MadeKey()))
    with pytest.raises(ChainBroken, match="is missing"):
        lost.write(Head(0, "b" * 64))


def test_a_long_tail_is_cut_into_several_checkpoints() -> None:
    files = MemoryFiles()
    anchor = Anchor(files, Anchoring(signer=MadeKey(), every_commits=3 * MAX_FILES))
    count = 2 * MAX_FILES + 7
    for number in range(count):
        anchor.note(number, f"{number:064x}")
    last = anchor.write(Head(count - 1, "0" * 64))
    assert last is not None
    assert [len(one.files) for one in checkpoints(files)] == [MAX_FILES, MAX_FILES, 7]


def test_several_writers_anchor_one_ledger_at_once() -> None:
    files, key = MemoryFiles(), MadeKey()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            ledger = Ledger(files, Anchoring(signer=key, every_commits=1))
            for _ in range(10):
                ledger.append([fact()])
                ledger.anchor()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    verdict = verify(files, trusted=[key.public_key])
    assert (verdict.bad, verdict.files, verdict.anchored) == (None, 40, 39)


def test_an_anchor_that_fails_does_not_fail_the_commit(caplog: pytest.LogCaptureFixture) -> None:
    class Away(MemoryFiles):
        away = True

        def create(self, name: str, data: bytes) -> None:
            if self.away:
                raise StoreError("the store is away")
            super().create(name, data)

    files, place = MemoryFiles(), Away()
    ledger = anchored_ledger(files, place=place)
    ledger.append([fact()])
    with caplog.at_level(logging.WARNING):
        ledger.anchor_due()
    assert "not anchored for now: the store is away" in caplog.text
    place.away = False
    ledger.anchor_due()
    assert verify(files, checkpoints=place).anchored == 0


# --- keys that change -----------------------------------------------------------------------


def test_a_key_hands_over_to_the_next_and_the_first_proves_both() -> None:
    files, old, new = MemoryFiles(), MadeKey(), MadeKey()
    ledger = Ledger(files)
    head = Head(0, ledger.append([fact()]).sha256)
    Anchor(files, Anchoring(signer=old)).write(head)
    with pytest.raises(ConfigError, match="hand over"):
        Anchor(files, Anchoring(signer=new)).hand_over([new.public_key])
    Anchor(files, Anchoring(signer=old)).hand_over([new.public_key])
    ledger.append([fact()])
    with pytest.raises(ConfigError, match="not signed with this key"):
        Anchor(files, Anchoring(signer=old)).write(ledger.head())
    Anchor(files, Anchoring(signer=new)).write(ledger.head())
    assert [one.statement.signed_by for one in checkpoints(files)] == [
        old.public_key,
        old.public_key,
        new.public_key,
    ]
    assert verify(files, trusted=[old.public_key]).anchored == 1
    assert verify(files, trusted=[new.public_key]).bad is not None


def test_two_keys_may_sign_when_one_of_them_said_so() -> None:
    files, one, two = MemoryFiles(), MadeKey(), MadeKey()
    Anchor(files, Anchoring(signer=one)).hand_over([one.public_key, two.public_key])
    ledger = Ledger(files)
    for key in (two, one, two):
        ledger.append([fact()])
        Anchor(files, Anchoring(signer=key)).write(ledger.head())
    assert verify(files, trusted=[one.public_key]).anchored == 2
    with pytest.raises(ConfigError, match="0 keys"):
        Anchor(files, Anchoring(signer=one)).hand_over([])


# --- Object Lock ----------------------------------------------------------------------------


@pytest.fixture
def locked(moto_bucket: Callable[..., S3Location]) -> S3Location:
    return moto_bucket(prefix="pool/ledger", object_lock=True)


def test_checkpoints_lie_under_object_lock_and_cannot_be_removed(locked: S3Location) -> None:
    files = S3Files(locked)
    ledger = anchored_ledger(files, lock_days=30)
    ledger.append([fact()])
    last = ledger.anchor()
    assert last is not None
    place = files.below(FOLDER)
    until = place.locked_until(last.name)
    assert until is not None
    assert 29.9 < (until.timestamp() - time.time()) / 86_400 < 30.1
    assert files.locked_until(name_of(0)) is None
    client = make_client(locked)
    key = place.location.key(last.name)
    version = client.head_object(Bucket=locked.bucket, Key=key)["VersionId"]
    with pytest.raises(client.exceptions.ClientError):
        client.delete_object(Bucket=locked.bucket, Key=key, VersionId=version)
    assert verify(files).ok


def test_a_hidden_or_overwritten_file_is_found_where_versions_are_kept(
    locked: S3Location,
) -> None:
    files = S3Files(locked)
    ledger = anchored_ledger(files)
    for _ in range(2):
        ledger.append([fact()])
        ledger.anchor()
    client = make_client(locked)

    def written_again(name: str) -> None:
        key = locked.key(name)
        body = client.get_object(Bucket=locked.bucket, Key=key)["Body"].read()
        client.put_object(Bucket=locked.bucket, Key=key, Body=body)

    written_again(name_of(1))
    bad = verify(files).bad
    assert bad is not None
    assert (bad.name, "two heads" in bad.why) == (name_of(1), True)


def test_versions_are_counted_across_the_pages_of_a_listing(locked: S3Location) -> None:
    files = S3Files(locked)
    client = make_client(locked)
    for name, times in (("a", 1), ("b", 4), ("c", 1), ("d", 1), ("e", 3)):
        for number in range(times):
            client.put_object(Bucket=locked.bucket, Key=locked.key(name), Body=bytes(number))
    client.delete_object(Bucket=locked.bucket, Key=locked.key("d"))
    asked: list[dict[str, object]] = []

    def in_small_pages(params: dict[str, object], **_: object) -> None:
        asked.append(dict(params))
        params["MaxKeys"] = 2

    files._client.meta.events.register(
        "provide-client-params.s3.ListObjectVersions", in_small_pages
    )
    assert list(files.rewritten()) == [
        KeptVersions("b", 4, False),
        KeptVersions("d", 1, True),
        KeptVersions("e", 3, False),
    ]
    assert len(asked) > 3


def test_a_hidden_checkpoint_is_found_where_versions_are_kept(locked: S3Location) -> None:
    files = S3Files(locked)
    ledger = anchored_ledger(files)
    ledger.append([fact()])
    one = ledger.anchor()
    assert one is not None
    client = make_client(locked)
    client.delete_object(Bucket=locked.bucket, Key=files.below(FOLDER).location.key(one.name))
    bad = verify(files).bad
    assert bad is not None
    assert (bad.name, "removed" in bad.why) == (f"{FOLDER}/{one.name}", True)


def test_a_place_without_object_lock_is_refused(
    moto_bucket: Callable[..., S3Location], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no Object Lock"):
        anchored_ledger(FolderFiles(tmp_path), lock_days=1)
    ledger = anchored_ledger(S3Files(moto_bucket(prefix="ledger")), lock_days=1)
    ledger.append([fact()])
    with pytest.raises(ConfigError, match="Object Lock"):
        ledger.anchor()


# --- crashes --------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from catalog.anchor import Anchoring
from catalog.files import FolderFiles
from catalog.keys import FileKey
from catalog.ledger import Ledger
from tests.catalog.samples import fact

ledger = Ledger(
    FolderFiles(Path(sys.argv[1])), Anchoring(signer=FileKey(Path(sys.argv[2])), every_commits=2)
)
while True:
    ledger.append([fact()])
    ledger.anchor_due()
    print("one", flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_sound_ledger(tmp_path: Path) -> None:
    """Whenever it dies: what is not anchored yet is so by the next writer."""
    folder, key = tmp_path / "ledger", key_file(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    draw = random.Random(5)
    reached = -1
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(key)],
            stdout=subprocess.PIPE,
            env=environment,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"one\n"
            time.sleep(draw.uniform(0, 0.3))
            writer.send_signal(signal.SIGKILL)
        verdict = verify(FolderFiles(folder))
        assert verdict.ok, verdict
        assert verdict.anchored is None or verdict.anchored >= reached
        reached = verdict.anchored if verdict.anchored is not None else reached
    assert reached >= 0, "no writer lived long enough to anchor anything"
