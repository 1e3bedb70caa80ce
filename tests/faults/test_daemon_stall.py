"""An endpoint that accepts and never answers: neither calls nor the daemon outlive a deadline."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import PoolDown, PoolError
from catalog.s3 import S3Location
from connector.client import Client
from tests.faults.authors import PART
from tests.faults.mortal import Daemon
from tests.faults.rough import RoughS3
from tests.faults.test_daemon_kill import config
from tests.support.servers import new_bucket

DEADLINE_S = 2.0
"""Of a request to S3, all attempts included."""
SLACK_S = 6.0
"""What a slow machine may add; far below the bound of a control call, 20 s, and a socket's, 60."""
DATA = bytes(range(256)) * 40
YEAR_2100 = 4_102_444_800 * 10**9

Call = Callable[[Client], Any]


@dataclasses.dataclass
class Scene:
    """A daemon whose endpoint can fall silent."""

    daemon: Daemon
    s3: RoughS3

    def fall_silent(self) -> None:
        self.s3.go_away(3600.0, silent=True)


@pytest.fixture
def scene(moto_endpoint: str, tmp_path: Path) -> Iterator[Scene]:
    bucket = new_bucket(moto_endpoint).bucket
    with RoughS3(moto_endpoint) as s3:
        text = config(tmp_path, S3Location(bucket, "pool", s3.url))
        text = text.replace("deadline_s = 20", f"deadline_s = {DEADLINE_S}")
        daemon = Daemon(tmp_path, text)
        try:
            yield Scene(daemon, s3)
        finally:
            daemon.kill()


def within(seconds: float, what: str, call: Callable[[], Any]) -> Any:
    """What a call gives, or the error it raises, in time."""
    began = time.monotonic()
    try:
        return call()
    except PoolError as exc:
        return exc
    finally:
        took = time.monotonic() - began
        assert took < seconds, f"{what} took {took:.1f} s"


CALLS: dict[str, Call] = {
    "create": lambda client: client.create("main", "new"),
    "resume": lambda client: client.resume("main", "half", "token-of-half"),
    "settle": lambda client: client.settle("main", "half", "token-of-half"),
    "discard": lambda client: client.discard("main", "half", token="token-of-half"),
    "open and read": lambda client: client.open("main", "whole").read(10),
    "props": lambda client: client.props("main", "whole"),
    "list": lambda client: client.list("main", state="any"),
    "pool_props": lambda client: client.pool_props("main"),
    "server_props": lambda client: client.server_props(),
    "map": lambda client: client.map("main", "whole"),
    "verify": lambda client: client.verify("main", "whole", depth="full"),
    "prepare": lambda client: client.prepare("main", ["whole"]),
    "hold": lambda client: client.set_hold("main", "whole", on=True, reason="a test"),
    "retain": lambda client: client.set_retention("main", "whole", until=YEAR_2100, reason="test"),
    "copy": lambda client: client.copy("main", "whole", "main", to_image="other"),
    "delete": lambda client: client.delete("main", "whole", reason="a test"),
}
LOCAL = ("list", "pool_props", "server_props")
"""What needs no store to be answered."""


def answers(scene: Scene) -> dict[str, Any]:
    """What every call is answered, each in time."""
    found: dict[str, Any] = {}
    for what, call in CALLS.items():
        with scene.daemon.client() as client:
            found[what] = within(DEADLINE_S + SLACK_S, what, lambda call=call: call(client))  # type: ignore[misc]
    return found


def refused(found: dict[str, Any]) -> dict[str, str]:
    """The calls that failed, with their codes."""
    return {what: exc.code for what, exc in found.items() if isinstance(exc, PoolError)}


def test_a_daemon_begins_serves_and_ends_on_an_endpoint_that_never_answers(scene: Scene) -> None:
    scene.fall_silent()
    scene.daemon.start()
    within(30.0, "the start", lambda: scene.daemon.ready(up=False))
    found = answers(scene)
    down = ("create", "verify", "prepare", "open and read", "hold", "retain")
    for what in down:
        exc = found[what]
        assert isinstance(exc, PoolError), (what, exc)
    assert isinstance(found["create"], PoolDown)
    assert found["create"].retryable
    assert found["pool_props"].state == "down"
    within(DEADLINE_S + SLACK_S, "the end", lambda: scene.daemon.stop())


def test_every_call_is_answered_in_time_when_the_endpoint_falls_silent(scene: Scene) -> None:
    scene.daemon.start()
    scene.daemon.ready()
    with scene.daemon.client() as client:
        with client.create("main", "whole") as writer:
            writer.write(DATA)
        half = client.create("main", "half", token="token-of-half")
        half.write(DATA)
        half.checkpoint()
    scene.fall_silent()
    found = answers(scene)
    codes = refused(found)
    for what in LOCAL:
        assert what not in codes, codes
    assert codes["create"] == codes["verify"] == "down"
    assert set(codes.values()) <= {"down", "io", "in_use", "busy"}, codes
    within(2 * DEADLINE_S + SLACK_S, "the end", lambda: scene.daemon.stop())


@pytest.mark.deep
@pytest.mark.soak
def test_writers_and_the_end_of_the_daemon_wait_no_longer_than_the_deadline(scene: Scene) -> None:
    drain_s = 2.0  # what clients get that do not close what they have open
    scene.daemon.start(None, "--drain", str(drain_s))
    scene.daemon.ready()
    clients = [scene.daemon.client() for _ in range(4)]
    writers = [client.create("main", f"open {n}") for n, client in enumerate(clients)]
    for writer in writers:
        writer.write(bytes(PART // 2))
        writer.flush()
    scene.fall_silent()
    for writer in writers:  # a part of each is on its way from now on
        within(DEADLINE_S + SLACK_S, "write", lambda writer=writer: writer.write(bytes(PART)))  # type: ignore[misc]
    codes = [
        within(DEADLINE_S + SLACK_S, "close", writers[0].close).code,
        within(DEADLINE_S + SLACK_S, "flush", writers[1].flush).code,
    ]
    assert codes == ["down", "down"]
    began = time.monotonic()
    assert scene.daemon.stop() == 0
    took = time.monotonic() - began
    assert took < drain_s + 2 * DEADLINE_S + SLACK_S, f"the end took {took:.1f} s"
    for client in clients:
        client.close()
