"""The spool between writer, uploader, readers and deletes: nothing doubled, mixed or misreported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import (
    NoSpace,
)
from connector.serve import spool_files
from connector.serve.service import Service
from tests.pool.support import some_bytes
from tests.serve.support import Caller, World, eventually, sha256

DATA = some_bytes(1000)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@contextmanager
def away(world: World, **settings: Any) -> Iterator[tuple[Service, Caller]]:
    """A spooling pool whose store has never answered."""
    world.store("main").away = True
    service = world.service(world.spooled(**settings))
    service.start(wait_s=0.1)
    try:
        yield service, Caller(service)
    finally:
        service.close()


def come_back(world: World, service: Service) -> None:
    world.store("main").away = False
    eventually(lambda: service.unit("main").up)


@contextmanager
def full_journal(service: Service, statement: str) -> Iterator[None]:
    """Every such statement fails as on a full disk."""
    journal = service.unit("main").journal
    with journal.transaction() as db:
        db.execute(
            f"CREATE TRIGGER full BEFORE {statement}"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    yield
    with journal.transaction() as db:
        db.execute("DROP TRIGGER full")


def test_a_journal_that_is_full_in_the_middle_of_a_stream_doubles_no_byte(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_files, "SYNC_EVERY", 300)
    with away(world) as (service, caller):
        handle = caller.create("a")
        sent = 0
        with full_journal(service, "UPDATE ON spool_files"):
            while sent < len(DATA):
                try:
                    caller.write(handle, DATA[sent : sent + 100])
                except NoSpace:
                    break
                sent += 100
        writer = caller.session.writing(handle)
        caller.write(handle, DATA[writer.offset :])
        assert caller.close(handle, size=len(DATA)).sha256 == sha256(DATA)
        assert caller.get("a") == DATA
