"""create, write, close, open, read, list: on a pool that stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pool.support import some_bytes
from tests.serve.support import Caller, World

DATA = some_bytes(1000)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_image_that_was_closed_is_listed_and_reads_back(world: World) -> None:
    with world.running() as service:
        caller = Caller(service)
        closed = caller.put("a", DATA)
        assert (closed.state, closed.offset) == ("complete", len(DATA))
        assert caller.list() == ["a"]
        assert caller.get("a") == DATA


def test_images_are_there_after_a_restart(world: World) -> None:
    with world.running() as service:
        Caller(service).put("a", DATA)
    with world.running() as service:
        assert Caller(service).get("a") == DATA
