"""A real service, watched: an image's story in the log under one id, and the metrics it moves."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector import logs
from connector.metrics import serve_metrics
from connector.wire import messages
from connector.wire.messages import Name
from tests.connector.test_metrics import of, scrape
from tests.serve.support import Caller, World, eventually


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    ours = [logging.getLogger(name) for name in logs.OURS]
    handlers, levels = root.handlers, [one.level for one in (root, *ours)]
    stream = io.StringIO()
    logs.set_up(True, 0, stream)
    yield stream
    root.handlers = handlers
    for one, level in zip((root, *ours), levels, strict=True):
        one.setLevel(level)


def story(lines: io.StringIO, image: str) -> tuple[list[Any], set[Any]]:
    """The steps of an image in order, and the ids that they carry."""
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    mine = [line for line in told if line.get("image") == image and "step" in line]
    return [line["step"] for line in mine], {line["id"] for line in mine}


def test_an_image_has_one_story_under_one_id_each_step_told_once(
    tmp_path: Path, lines: io.StringIO
) -> None:
    with World(tmp_path).running() as service:
        alice = Caller(service)
        handle = alice.create("i")
        alice.write(handle, b"x" * 10)
        alice.close(handle, complete=False)
        handle = alice.resume("i").handle
        alice.write(handle, b"x" * 10)
        alice.close(handle)
        assert alice.get("i") == b"x" * 20
        alice(messages.Delete(pool="main", image=Name("i"), reason="tried"))
    steps, ids = story(lines, "i")
    assert steps == ["created", "checkpointed", "resumed", "completed", "opened", "deleted"]
    assert len(ids) == 1
    assert ids != {""}


def test_a_spooled_image_is_stored_under_the_id_it_was_acknowledged_with(
    tmp_path: Path, lines: io.StringIO
) -> None:
    world = World(tmp_path)
    with world.running(world.spooled()) as service:
        alice = Caller(service)
        handle = alice.create("i")
        alice.write(handle, b"x" * 10)
        alice.close(handle)
        eventually(lambda: "stored" in story(lines, "i")[0])
    steps, ids = story(lines, "i")
    assert steps == ["created", "spooled", "stored"]
    assert len(ids) == 1


def test_metrics_of_a_real_service_move_with_what_clients_do(tmp_path: Path) -> None:
    with World(tmp_path).running() as service, serve_metrics(0, service) as server:
        alice = Caller(service)
        handle = alice.create("i")
        alice.write(handle, b"x" * 10)
        assert scrape(server)[of("handles", pool="main", mode="write")] == 1
        alice.close(handle)
        found = scrape(server)
    assert found[of("status_ok")] == 1
    assert found[of("pool_up", pool="main")] == 1
    assert found[of("received_bytes_total", pool="main")] == 10
    assert found[of("images_total", pool="main", outcome="completed")] == 1
    assert found[of("pool_images", pool="main")] == 1
    assert found[of("pool_logical_bytes", pool="main")] == 10
    assert found[of("handles", pool="main", mode="write")] == 0
    assert found[of("oldest_unsafe_seconds", pool="main")] == 0
    assert found[of("journal_bytes", pool="main")] > 0
