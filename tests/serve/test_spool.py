"""ack = spooled: acknowledged on this host's disk, bounded, uploaded behind, never lost."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    DigestMismatch,
    ImageBusy,
    ImageDamaged,
    ImageExists,
    ImageHeld,
    JournalFull,
    NoSpace,
    PoolDown,
    PoolError,
    StoreError,
    Unsupported,
)
from connector.pool import names
from connector.pool.journal import Journal
from connector.serve import spool_files
from connector.serve.service import Service
from connector.serve.spool import Spool
from connector.wire import messages
from connector.wire.messages import Keep, Name
from tests.pool.support import some_bytes
from tests.serve.support import OTHER, Caller, World, drop, eventually, fill, sha256

DATA = some_bytes(1000)
MIB = 1 << 20


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def away(world: World) -> Iterator[tuple[World, Service, Caller]]:
    """A spooling pool whose store has never answered."""
    world.store("main").away = True
    service = world.service(world.spooled())
    service.start(wait_s=0.1)
    yield world, service, Caller(service)
    service.close()


def files(world: World) -> list[Path]:
    return sorted((world.folder / "spool" / "main").iterdir())


def come_back(world: World, service: Service) -> None:
    world.store("main").away = False
    eventually(lambda: service.unit("main").up)


def test_an_image_is_acknowledged_while_the_store_is_away_and_stored_later(
    away: tuple[World, Service, Caller],
) -> None:
    world, service, caller = away
    closed = caller.put("a", DATA)
    assert (closed.state, closed.sha256) == ("spooled", sha256(DATA))
    assert caller.list() == ["a"]
    assert caller.list("spooled") == ["a"]
    assert caller.get("a") == DATA
    assert caller.pool_props().spooled == 1000
    status = service.status().pools[0]
    assert (status.up, status.spooled) == (False, 1000)
    come_back(world, service)
    eventually(lambda: caller.list("complete") == ["a"])
    eventually(lambda: not files(world))
    assert caller.get("a") == DATA
    assert caller.pool_props().spooled == 0
    eventually(lambda: "stored" in caller.kinds())
    assert caller.kinds().index("spooled") < caller.kinds().index("stored")


def test_everything_else_works_from_the_spool_too(away: tuple[World, Service, Caller]) -> None:
    world, _, caller = away
    caller.put("a", DATA)
    props: messages.Props = caller(messages.GetProps(pool="main", image=Name("a")))
    assert (props.facts.state, props.facts.size, props.facts.sha256) == (
        "spooled",
        1000,
        sha256(DATA),
    )
    handle = caller.open("a").handle
    assert caller.read(handle, 990, 100) == DATA[990:]
    assert caller(messages.Verify(pool="main", image=Name("a"), depth="full")).ok
    with pytest.raises(Unsupported):
        caller(messages.Map(pool="main", image=Name("a")))
    with pytest.raises(Unsupported):
        caller(messages.SetHold(pool="main", image=Name("a"), on=True, reason="x"))
    with pytest.raises(ImageExists):
        caller.create("a", OTHER)
    assert caller.settle("a", size=1000, sha256=sha256(DATA)).state == "spooled"
    with pytest.raises(ImageExists):
        caller.settle("a", size=999)
    delete = messages.Delete(pool="main", image=Name("a"), reason="x")
    with pytest.raises(ImageBusy):
        caller(delete)
    caller.close(handle)
    assert caller(delete).state == "deleted"
    assert not files(world)
    assert caller.list("any") == []


def test_a_held_image_is_not_deleted_from_the_spool(away: tuple[World, Service, Caller]) -> None:
    _, service, caller = away
    with pytest.raises(PoolDown):  # nobody knows yet whether the bucket can hold
        caller.create("a", keep=Keep(hold=True))
    service.unit("main").object_lock = True
    caller.put("a", DATA, keep=Keep(hold=True))
    with pytest.raises(ImageHeld):
        caller(messages.Delete(pool="main", image=Name("a"), reason="x"))


def test_files_and_folder_are_the_daemons_own(away: tuple[World, Service, Caller]) -> None:
    world, _, caller = away
    caller.put("../../etc/passwd", DATA)
    folder = world.folder / "spool" / "main"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = files(world)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == DATA


def test_another_digest_is_not_acknowledged(away: tuple[World, Service, Caller]) -> None:
    world, _, caller = away
    handle = caller.create("a")
    caller.write(handle, DATA)
    with pytest.raises(DigestMismatch):
        caller.close(handle, sha256=sha256(b"other"))
    caller(messages.Abort(handle=handle))
    assert not files(world)
    assert caller.list("any") == []


# --- the bound --------------------------------------------------------------------------------


def test_the_bound_is_held_before_bytes_are_taken_and_tells_what_is_safe(world: World) -> None:
    world.store("main").away = True
    service = world.service(world.spooled(limit=700))
    service.start(wait_s=0.1)
    caller = Caller(service)
    handle = caller.create("a")
    with pytest.raises(NoSpace) as full:
        caller.write(handle, DATA)
    assert full.value.offset == 700
    assert sum(file.stat().st_size for file in files(world)) == 700
    with pytest.raises(NoSpace):
        caller.create("b", OTHER)
    assert caller.session.writing(handle).low_space
    closed = caller.close(handle, complete=False)
    assert closed.offset == 700
    caller(messages.Discard(pool="main", image=Name("a")))
    handle = caller.create("b", OTHER)
    caller.write(handle, DATA[:700])
    assert caller.close(handle).state == "spooled"
    eventually(lambda: "spool_full" in caller.kinds())
    service.close()


def test_a_full_spool_that_drains_lets_the_writer_wait(world: World) -> None:
    with world.running(world.spooled(limit=1500)) as service:
        caller = Caller(service)
        world.store("main").gate.clear()  # the upload begins and hangs
        caller.put("a", DATA)
        handle = caller.create("b", OTHER)
        opened = threading.Timer(0.3, world.store("main").gate.set)
        opened.start()
        caller.write(handle, DATA)  # waits until a is uploaded
        opened.join()
        caller.close(handle)
        eventually(lambda: caller.list("complete") == ["a", "b"])
        assert caller.get("b") == DATA


def test_a_spool_held_by_unfinished_images_says_no_space_at_once(world: World) -> None:
    with world.running(world.spooled(limit=1500)) as service:
        caller = Caller(service)
        caller.write(caller.create("a"), DATA)
        with pytest.raises(NoSpace):
            caller.write(caller.create("b", OTHER), DATA)


# --- restarts ---------------------------------------------------------------------------------


def test_what_was_acknowledged_survives_a_kill_and_is_uploaded(world: World) -> None:
    world.store("main").away = True
    service = world.service(world.spooled())
    service.start(wait_s=0.1)
    caller = Caller(service)
    for name in ("a", "b", "c"):
        caller.put(name, DATA, f"token-of-{name}")
    drop(service)
    world.store("main").away = False
    with world.running(world.spooled()) as service:
        caller = Caller(service)
        eventually(lambda: caller.list("complete") == ["a", "b", "c"])
        assert [caller.get(name) for name in ("a", "b", "c")] == [DATA] * 3
        eventually(lambda: not files(world))
        assert caller.settle("a", "token-of-a", size=1000, sha256=sha256(DATA)).state == "complete"


def test_a_kill_in_the_middle_of_an_upload_sends_the_rest_only(world: World) -> None:
    data = some_bytes(64 * 100)
    service = world.service(world.spooled())
    service.start()
    caller = Caller(service)
    memory = world.store("main")
    real, sent = memory._store.put_part, []

    def some_parts(upload: Any, number: int, body: Any, *, crc64nvme: int) -> Any:
        sent.append(number)
        if len(sent) > 20:
            memory.away = True
        return real(upload, number, body, crc64nvme=crc64nvme)

    memory._store.put_part = some_parts  # type: ignore[method-assign]
    caller.put("a", data)
    eventually(lambda: memory.away)
    drop(service)
    memory._store.put_part = real  # type: ignore[method-assign]
    memory.away = False
    memory.calls.clear()
    with world.running(world.spooled()) as service:
        caller = Caller(service)
        eventually(lambda: caller.list("complete") == ["a"])
        assert caller.get("a") == data
        assert memory.calls.count("put_part") < 90


def test_an_incomplete_image_goes_on_at_its_last_safe_byte_after_a_kill(world: World) -> None:
    service = world.service(world.spooled())
    service.start()
    caller = Caller(service)
    handle = caller.create("a")
    caller.write(handle, DATA[:333])
    assert caller(messages.Flush(handle=handle)).durable == 0
    assert caller(messages.Flush(handle=handle, checkpoint=True)).durable == 333
    caller.write(handle, DATA[333:500])
    drop(service)
    with world.running(world.spooled()) as service:
        caller = Caller(service)
        assert caller.list("incomplete") == ["a"]
        going = caller.resume("a")
        assert going.offset == 333
        caller.write(going.handle, DATA[333:])
        assert caller.close(going.handle, sha256=sha256(DATA)).state == "spooled"
        eventually(lambda: caller.list("complete") == ["a"])
        assert caller.get("a") == DATA


def test_a_kill_between_the_commit_and_the_removal_of_the_file_does_no_harm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = world.service(world.spooled())
    service.start()
    monkeypatch.setattr(Spool, "dispose", lambda self, row: None)
    caller = Caller(service)
    caller.put("a", DATA)
    eventually(lambda: caller.list("complete") == ["a"])
    assert len(files(world)) == 1
    drop(service)
    monkeypatch.undo()
    with world.running(world.spooled()) as service:
        assert not files(world)
        assert Caller(service).get("a") == DATA


def test_files_that_nobody_knows_are_told_of_and_left_alone(world: World) -> None:
    folder = world.folder / "spool" / "main"
    folder.mkdir(parents=True)
    (folder / "precious").write_bytes(b"x")
    with world.running(world.spooled()) as service:
        caller = Caller(service)
        eventually(lambda: "unknown_file" in caller.kinds())
        caller.put("a", DATA)
        eventually(lambda: caller.list("complete") == ["a"])
    assert (folder / "precious").read_bytes() == b"x"


def test_a_pool_that_spools_no_longer_still_uploads_what_was_spooled(world: World) -> None:
    world.store("main").away = True
    service = world.service(world.spooled())
    service.start(wait_s=0.1)
    Caller(service).put("a", DATA)
    service.close()
    world.store("main").away = False
    with world.running(world.pool()) as service:
        caller = Caller(service)
        eventually(lambda: caller.list("complete") == ["a"])
        assert caller.put("b", DATA).state == "complete"


# --- damage and full disks --------------------------------------------------------------------


def test_a_file_that_changed_on_disk_is_never_stored_nor_lost_silently(world: World) -> None:
    world.store("main").away = True
    service = world.service(world.spooled())
    service.start(wait_s=0.1)
    caller = Caller(service)
    caller.put("a", DATA)
    (file,) = files(world)
    file.write_bytes(b"X" + DATA[1:])
    with pytest.raises(ImageDamaged):
        caller.get("a")
    assert not caller(messages.Verify(pool="main", image=Name("a"))).ok
    come_back(world, service)
    eventually(lambda: caller.list("refused") == ["a"])
    assert caller.list("complete") == []
    assert file.exists()
    assert not list(world.store("main").uploads("images/"))
    assert not list(world.store("main").scan("images/"))
    with pytest.raises(ImageExists):
        caller.settle("a")
    eventually(lambda: "refused" in caller.kinds())
    eventually(lambda: not service.unit("main").in_use.is_open("a", 1))
    caller(messages.Delete(pool="main", image=Name("a"), reason="damaged"))
    assert not files(world)
    service.close()


def test_a_file_that_is_gone_is_told_at_the_next_start_and_kept_on_the_books(
    world: World,
) -> None:
    world.store("main").away = True
    service = world.service(world.spooled())
    service.start(wait_s=0.1)
    Caller(service).put("a", DATA)
    drop(service)
    files(world)[0].unlink()
    service = world.service(world.spooled())
    service.start(wait_s=0.1)
    caller = Caller(service)
    eventually(lambda: "damaged" in caller.kinds())
    assert caller.list("spooled") == ["a"]
    with pytest.raises(PoolError):
        caller.open("a")
    service.close()


def test_an_image_that_another_host_stored_meanwhile_is_refused_and_kept(
    away: tuple[World, Service, Caller],
) -> None:
    from tests.serve.test_service_writing import _foreign_manifest

    world, service, caller = away
    caller.put("a", DATA)
    world.store("main")._store.put(names.manifest_key("a", 1), _foreign_manifest("a"))
    come_back(world, service)
    eventually(lambda: "refused" in caller.kinds())
    assert caller.list("refused") == ["a"] or caller.list("complete") == ["a"]
    assert len(files(world)) == 1
    assert files(world)[0].read_bytes() == DATA


def test_a_full_disk_refuses_the_write_with_what_is_safe_and_nothing_is_lost(
    away: tuple[World, Service, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, service, caller = away
    caller.put("before", DATA)
    handle = caller.create("a", OTHER)
    caller.write(handle, DATA[:300])
    caller(messages.Flush(handle=handle, checkpoint=True))
    real = os.pwrite

    def full(fd: int, data: Any, at: int) -> int:
        if at >= 500:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, at)

    monkeypatch.setattr(spool_files.os, "pwrite", full)
    with pytest.raises(NoSpace) as refused:
        caller.write(handle, DATA[300:])
    assert refused.value.offset == 300
    monkeypatch.undo()
    writer = caller.session.writing(handle)
    assert writer.offset == 500
    assert writer.begin(500, 500)
    fill(writer, DATA[500:])
    caller.close(handle, sha256=sha256(DATA))
    come_back(world, service)
    eventually(lambda: caller.list("complete") == ["a", "before"])
    assert caller.get("a") == DATA
    assert caller.get("before") == DATA


def test_a_failed_fsync_is_never_taken_for_success_later(
    away: tuple[World, Service, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, caller = away
    handle = caller.create("a")
    caller.write(handle, DATA)

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(spool_files.os, "fsync", broken)
    with pytest.raises(StoreError):
        caller.close(handle)
    monkeypatch.undo()
    with pytest.raises(StoreError):
        caller.close(handle)
    assert caller.list() == []
    caller.session.end()
    assert caller.list("incomplete") == ["a"]


def test_a_full_disk_under_the_journal_acknowledges_nothing(
    away: tuple[World, Service, Caller],
) -> None:
    _, service, caller = away
    handle = caller.create("a")
    caller.write(handle, DATA)
    journal = service.unit("main").journal
    with journal.transaction() as db:
        db.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON spool_files WHEN NEW.state = 'ready'"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    with pytest.raises(NoSpace) as refused:
        caller.close(handle)
    assert refused.value.offset == 0
    assert caller.list() == []
    with journal.transaction() as db:
        db.execute("DROP TRIGGER full")
    assert caller.close(handle).state == "spooled"
    assert caller.get("a") == DATA


def test_a_journal_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.remember("before", "kept")
    with journal.transaction() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(JournalFull):
        journal.remember("too much", "x" * 100_000)
    assert journal.setting("before") == "kept"
    journal._db.execute("PRAGMA max_page_count=1000000")
    journal.remember("too much", "x" * 100_000)
    journal.close()


def test_a_reader_goes_on_while_its_image_is_uploaded_and_removed(world: World) -> None:
    world.store("main").away = True
    service = world.service(world.spooled())
    service.start(wait_s=0.1)
    caller = Caller(service)
    caller.put("a", DATA)
    handle = caller.open("a").handle
    assert caller.read(handle, 0, 10) == DATA[:10]
    come_back(world, service)
    eventually(lambda: not files(world))
    assert caller.read(handle, 10, None) == DATA[10:]
    caller.close(handle)
    service.close()


def test_clocks_that_jump_lose_nothing(away: tuple[World, Service, Caller]) -> None:
    world, service, caller = away
    world.skew = 50 * 365 * 86_400 * 10**9
    caller.put("a", DATA)
    world.skew = -86_400 * 10**9
    caller.put("b", DATA, OTHER)
    assert service.status().pools[0].oldest_unsafe_s >= 0
    come_back(world, service)
    eventually(lambda: caller.list("complete") == ["a", "b"])
    assert caller.get("a") == DATA


def test_more_than_a_piece_is_written_and_read_with_checksums(
    away: tuple[World, Service, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, service, caller = away
    data = some_bytes(2 * MIB + 17)
    monkeypatch.setattr(spool_files, "PIECE", 65_536)
    monkeypatch.setattr(spool_files, "SYNC_EVERY", 300_000)
    service.unit("main").spool.limit = 8 * MIB
    handle = caller.create("big")
    caller.write(handle, data, frame=100_001)
    durable = caller(messages.Flush(handle=handle)).durable
    assert len(data) - 400_000 < durable <= len(data)
    caller.close(handle, sha256=sha256(data))
    reading = caller.open("big").handle
    assert caller.read(reading, 65_530, 20) == data[65_530:65_550]
    assert caller.read(reading, 0, None) == data
