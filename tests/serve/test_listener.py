"""The door as a whole: how many, how long, and how it closes."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from connector.serve import connection, line, lobby
from connector.serve.interface import Notify
from connector.serve.listener import Door
from connector.wire import codec, messages
from connector.wire.frames import Header, Kind, pack_header
from tests.serve.doors import (
    LONG_S,
    MemoryService,
    client,
    connect,
    eventually,
    open_door,
    open_files,
    settings_for,
)

HELLO = codec.encode_call(messages.Hello(versions=(1,)))
HELLO_FRAME = pack_header(Header(Kind.CALL, len(HELLO), 1)) + HELLO


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits look up ten times a second, so that a test of a deadline is short."""
    monkeypatch.setattr(line, "TICK_S", 0.1)


# --- how many ---------------------------------------------------------------------------------


def test_one_connection_too_many_is_told_busy_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path / "s", connections=3)
    with open_door(settings) as door:
        peers = [client(tmp_path / "s") for _ in range(3)]
        assert door.connections == 3
        for _ in range(3):
            with client(tmp_path / "s", hello=False) as late:
                reply = late.reply()
                assert (reply.header.request, reply.failure.code) == (0, "busy")
                assert reply.failure.retryable
                assert reply.failure.retry_after_s > 0
                assert late.ended()
        assert caplog.text.count("more than 3 connections") == 1
        assert all(peer.alive() for peer in peers)
        peers.pop().sock.close()
        assert eventually(lambda: door.connections == 2)
        with client(tmp_path / "s") as again:
            assert again.alive()
        for peer in peers:
            peer.sock.close()


def memory() -> int:
    """Bytes of this process that are in memory."""
    for row in Path("/proc/self/status").read_text().splitlines():
        if row.startswith("VmRSS:"):
            return int(row.split()[1]) << 10
    raise AssertionError("no VmRSS")


def test_a_thousand_idle_connections_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.1)
    service = MemoryService()
    with open_door(settings_for(tmp_path / "s"), service) as door:
        with client(tmp_path / "s") as first:
            before, threads = memory(), threading.active_count()
            said, silent = [], []
            for _ in range(500):
                said.append(client(tmp_path / "s"))
                silent.append(connect(tmp_path / "s"))
            assert eventually(lambda: threading.active_count() <= threads)
            assert door.connections == 1001
            # both ends of 1000 sockets and everything Python keeps for them, here in one process
            assert (memory() - before) / 1000 < 64 << 10
            began = time.thread_time(), time.process_time()
            time.sleep(0.5)
            assert time.process_time() - began[1] < 0.1
            began_at = time.monotonic()
            assert all(first.alive() for _ in range(50))
            assert time.monotonic() - began_at < 2
            assert all(peer.alive() for peer in said[::50])
            for sock in silent[:5]:
                sock.sendall(HELLO_FRAME)
                assert sock.recv(2) == b"TL"
        for peer in said:
            peer.sock.close()
        for sock in silent:
            sock.close()
        assert eventually(lambda: door.connections == 0)
    assert service.all_ended()


def test_when_no_file_can_be_opened_the_door_waits_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_door(settings_for(tmp_path / "s")) as door:
        (listener,) = door._listeners
        refusals = [OSError(24, "Too many open files")] * 3

        class Starved:
            def __init__(self, sock: socket.socket) -> None:
                self.sock = sock

            def accept(self) -> object:
                if refusals:
                    raise refusals.pop()
                return self.sock.accept()

            def fileno(self) -> int:
                return self.sock.fileno()

        starved = Starved(listener)
        door._lobby._listeners[listener.fileno()] = starved  # type: ignore[assignment]
        door._listeners[starved] = door._listeners[listener]  # type: ignore[index]
        with client(tmp_path / "s") as peer:
            assert peer.alive()
        assert refusals == []
        del door._listeners[starved]  # type: ignore[arg-type]
    assert caplog.text.count("Too many open files") == 3


def test_when_no_thread_can_be_started_the_connection_is_served_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, refusals = threading.Thread.start, [RuntimeError("can't start new thread")] * 2

    def starved(self: threading.Thread) -> None:
        if self.name.startswith("client-") and refusals:
            raise refusals.pop()
        start(self)

    with open_door(settings_for(tmp_path / "s")):
        monkeypatch.setattr(threading.Thread, "start", starved)
        with client(tmp_path / "s") as peer:
            assert peer.alive()
    assert "limit of tasks" in caplog.text


# --- how long ---------------------------------------------------------------------------------


@pytest.mark.parametrize("linger", [0.05, 5.0])
def test_a_peer_that_never_says_hello_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linger: float
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", linger)
    service = MemoryService()
    with (
        open_door(settings_for(tmp_path / "s", half_open_s=0.6), service),
        client(tmp_path / "s", hello=False) as peer,
    ):
        began = time.monotonic()
        failure = peer.reply().failure
        assert failure.code == "timeout"
        assert "hello did not come within 0.6 s" in failure.message
        assert peer.ended()
        assert 0.5 < time.monotonic() - began < 5
    assert service.sessions == []


@pytest.mark.parametrize("hello", [False, True])
def test_a_peer_that_drips_its_frame_is_cut(tmp_path: Path, hello: bool) -> None:
    with (
        open_door(settings_for(tmp_path / "s", half_open_s=0.8)),
        client(tmp_path / "s", hello=hello) as peer,
    ):
        began = time.monotonic()
        dripping = iter(HELLO_FRAME * 100)
        peer.sock.settimeout(0.05)
        while True:
            try:
                peer.sock.sendall(bytes([next(dripping)]))
                data = peer.sock.recv(2)
                break
            except TimeoutError:
                assert time.monotonic() - began < LONG_S
            except BrokenPipeError:
                data = peer.sock.recv(2)
                break
        assert data == b"TL"
        assert time.monotonic() - began < 5


def test_a_peer_that_stops_in_the_middle_of_a_write_is_cut_and_its_handle_let_go(
    tmp_path: Path,
) -> None:
    service = MemoryService()
    with open_door(settings_for(tmp_path / "s", half_open_s=0.5), service):
        with client(tmp_path / "s") as peer:
            handle = peer.create()
            peer.sock.sendall(pack_header(Header(Kind.WRITE, 1000, 9, handle, 0)) + bytes(999))
            failure = peer.reply().failure
            assert (failure.code, failure.retryable) == ("timeout", False)
            assert peer.ended()
        assert service.all_ended()
    assert service.images == {}


def test_a_client_that_says_nothing_for_too_long_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.05)
    service = MemoryService()
    with open_door(settings_for(tmp_path / "s", idle_s=0.6), service):
        with client(tmp_path / "s") as peer:
            peer.create()
            failure = peer.reply().failure
            assert (failure.code, failure.retryable) == ("timeout", True)
            assert "nothing was said for 0.6 s" in failure.message
            assert peer.ended()
        assert service.all_ended()


def test_a_client_that_takes_nothing_of_what_it_asked_for_is_cut(tmp_path: Path) -> None:
    service = MemoryService(images={"i": bytes(64 << 20)})
    with open_door(settings_for(tmp_path / "s", idle_s=0.5), service):
        with client(tmp_path / "s") as peer:
            handle = peer.open("i")
            peer.send_call(messages.ReadRange(handle=handle, offset=0, length=64 << 20))
            assert service.all_ended()
        reader = service.sessions[0].reading(handle)
        assert reader.closed == 1


def test_a_client_that_takes_no_answers_is_cut(tmp_path: Path) -> None:
    service = MemoryService()
    with (
        open_door(settings_for(tmp_path / "s", half_open_s=0.5), service),
        client(tmp_path / "s") as peer,
    ):
        peer.sock.settimeout(3.5)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            for _ in range(1_000_000):
                peer.send_call(messages.Claim(name="p"))
        assert service.all_ended()


# --- how it ends ------------------------------------------------------------------------------


def test_a_door_without_any_socket_does_not_open() -> None:
    with pytest.raises(ConfigError, match="no socket to listen on"), open_door(settings_for(None)):
        pass


def test_a_door_that_cannot_open_leaves_nothing(tmp_path: Path) -> None:
    before = open_files()
    (tmp_path / "s").write_text("in the way")
    door = Door(settings_for(tmp_path / "s"), MemoryService())
    with pytest.raises(ConfigError):
        door.start()
    door.close()
    assert open_files() <= before


def test_draining_lets_the_idle_go_and_waits_for_open_handles(tmp_path: Path) -> None:
    service = MemoryService()
    with (
        open_door(settings_for(tmp_path / "s"), service) as door,
        client(tmp_path / "s") as idle,
        client(tmp_path / "s") as busy,
    ):
        handle = busy.create()
        drained: list[bool] = []
        drainer = threading.Thread(target=lambda: drained.append(door.drain(LONG_S)))
        drainer.start()
        failure = idle.reply().failure
        assert (failure.code, failure.retryable) == ("draining", True)
        assert idle.ended()
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            connect(tmp_path / "s")
        busy.send_write(handle, 0, b"last bytes")
        assert busy.reply().header.kind is Kind.ANSWER
        assert drained == []
        busy.ask(messages.Close(handle=handle))
        service.sessions[1].handles.clear()
        assert busy.reply().failure.code == "draining"
        drainer.join(LONG_S)
        assert drained == [True]
    assert service.images == {"image": b"last bytes"}


def test_draining_lets_those_go_that_wait_in_the_lobby(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.01)
    with open_door(settings_for(tmp_path / "s")) as door:
        peers = [client(tmp_path / "s") for _ in range(5)]
        assert eventually(lambda: len(door._lobby._parked) == 5)
        assert door.drain(LONG_S)
        for peer in peers:
            assert peer.reply().failure.code == "draining"
            assert peer.ended()
            peer.sock.close()


def test_draining_gives_up_at_its_deadline_and_closing_ends_what_is_left(tmp_path: Path) -> None:
    service = MemoryService()
    with (
        open_door(settings_for(tmp_path / "s"), service) as door,
        client(tmp_path / "s") as peer,
    ):
        peer.create()
        began = time.monotonic()
        assert not door.drain(0.3)
        assert time.monotonic() - began < 3
        door.close()
        assert door.connections == 0
        assert peer.ended()
    assert service.all_ended()


@pytest.mark.parametrize("where", ["in a call", "in a frame", "before hello", "in the lobby"])
def test_closing_wakes_a_connection_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def wait(name: str, notify: Notify, gone: Callable[[], bool]) -> bool:
        return eventually(gone)

    if where == "in the lobby":
        monkeypatch.setattr(connection, "LINGER_S", 0.01)
    service = MemoryService(claim=wait)
    door = Door(settings_for(tmp_path / "s", half_open_s=60), service)
    door.start()
    with client(tmp_path / "s", hello=where != "before hello") as peer:
        if where == "in a call":
            peer.send_call(messages.Claim(name="p"))
        if where == "in a frame":
            peer.sock.sendall(HELLO_FRAME[:30])
        if where == "in the lobby":
            assert eventually(lambda: len(door._lobby._parked) == 1)
        time.sleep(0.05)
        began = time.monotonic()
        door.close()
        assert time.monotonic() - began < 3
        assert peer.ended()
    assert service.all_ended()


def test_a_door_comes_and_goes_without_leaking(tmp_path: Path) -> None:
    def once() -> None:
        with open_door(settings_for(tmp_path / "s")):
            peers = [client(tmp_path / "s") for _ in range(10)]
            for peer in peers:
                assert peer.alive()
                peer.sock.close()

    once()
    before, threads = open_files(), threading.active_count()
    for _ in range(3):
        once()
    assert open_files() <= before
    assert eventually(lambda: threading.active_count() <= threads)


def test_a_bug_in_the_door_itself_lets_nobody_wait_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lobby, "BREATH_S", 0.01)
    with open_door(settings_for(tmp_path / "s")) as door:
        monkeypatch.setattr(door._lobby, "_tick", lambda: 1 / 0)
        monkeypatch.setattr(lobby, "TICK_S", 0.02)
        assert eventually(lambda: "the door met a bug" in caplog.text)
        with client(tmp_path / "s") as peer:
            assert peer.alive()
    found = next(record for record in caplog.records if "met a bug" in record.message)
    assert found.levelno == logging.ERROR
    assert found.exc_info
