"""The wrapper that Bareos runs: as Bareos runs it, and around a crash."""

from __future__ import annotations

import os
import signal
import socket as sockets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import ImageExists, ImageHeld
from connector import dplcompat
from connector.client import Client
from connector.dplcompat import OPTIONS, Wrapper
from tests.connector.support import PROGRAM, WRAPPER, answering, call
from tests.serve.support import World

PART = os.urandom(100_000)
SIZES = {"part_size": 16 << 10, "fragment_size": 64 << 10}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def socket(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with answering(tmp_path_factory.mktemp("s"), world, world.pool(sizes=SIZES)) as path:
        yield str(path)


@pytest.fixture
def wrapper(socket: str) -> Wrapper:
    return Wrapper.of({"tapelift_socket": socket, "tapelift_timeout": "20"})


def run(socket: str, *words: str, data: bytes | None = None, **options: str) -> Any:
    environ = {**os.environ, "tapelift_socket": socket, **options}
    return call(*words, data=data, program=WRAPPER, env=environ)


def upload(wrapper: Wrapper, volume: str, part: str, data: bytes, folder: Path) -> None:
    file = folder / "data"
    file.write_bytes(data)
    with file.open("rb") as stream:
        wrapper.upload(volume, part, stream.fileno())


def copies(socket: str, image: str) -> list[tuple[int, str]]:
    with Client(socket=socket) as client:
        return [(one.copy, one.state) for one in client.list("main", image, state="any").images]


def test_a_volume_is_written_listed_read_and_removed(socket: str) -> None:
    for part, data in (("0000", PART), ("0001", b""), ("0002", b"x")):
        done = run(socket, "upload", "Full-0001", part, data=data)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = run(socket, "list", "Full-0001")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"0000 100000\n0001 0\n0002 1\n"
    done = run(socket, "stat", "Full-0001", "0000")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"100000\n", b"")
    done = run(socket, "download", "Full-0001", "0000")
    assert (done.returncode, done.stdout, done.stderr) == (0, PART, b"")
    assert run(socket, "remove", "Full-0001", "0000").returncode == 0
    assert run(socket, "list", "Full-0001").stdout == b"0001 0\n0002 1\n"


def test_what_is_missing_fails_without_a_byte_of_output(socket: str) -> None:
    for operation in ("stat", "download"):
        done = run(socket, operation, "Full-0001", "9999")
        assert done.returncode == 1
        assert done.stdout == b""
        assert b"there is no part" in done.stderr


def test_an_unknown_volume_has_no_parts(wrapper: Wrapper) -> None:
    assert wrapper.list("never-seen") == {}


def test_removing_twice_is_no_error(wrapper: Wrapper, tmp_path: Path) -> None:
    upload(wrapper, "Twice", "0000", b"x", tmp_path)
    wrapper.remove("Twice", "0000")
    wrapper.remove("Twice", "0000")
    assert wrapper.list("Twice") == {}


def test_options_work_without_a_daemon() -> None:
    done = call("options", program=WRAPPER, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0
    assert done.stdout.decode().split() == list(OPTIONS)
    assert call("dplcompat", "options", program=PROGRAM).stdout == done.stdout


@pytest.mark.parametrize(
    "words", [(), ("format",), ("list",), ("stat", "V"), ("list", "V", "P"), ("upload", "V")]
)
def test_words_that_are_none_are_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dplcompat.run(words, {}) == 2
    assert "usage: " in capsys.readouterr().err


def test_people_who_ask_for_help_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert dplcompat.run(["--help"], {}) == 0
    assert "upload V P" in capsys.readouterr().out


def test_the_connection_is_tested_with_its_pool(socket: str, tmp_path: Path) -> None:
    assert run(socket, "testconnection").returncode == 0
    assert run(socket, "testconnection", tapelift_pool="none").returncode == 1
    assert run(str(tmp_path / "none"), "testconnection").returncode == 1


# --- writing a part again -------------------------------------------------------------------------


def test_a_part_that_is_written_again_is_the_new_one(
    socket: str, wrapper: Wrapper, tmp_path: Path
) -> None:
    for data in (b"first", b"the second", b"3rd"):
        upload(wrapper, "Again", "0000", data, tmp_path)
        assert wrapper.list("Again") == {"0000": len(data)}
        assert len(copies(socket, "Again/0000")) == 1
        assert run(socket, "download", "Again", "0000").stdout == data


def test_a_crash_before_the_older_copy_was_deleted_loses_nothing(
    socket: str, wrapper: Wrapper, tmp_path: Path
) -> None:
    for number, data in ((1, b"old"), (2, b"newer")):
        with Client(socket=socket) as client, client.create("main", "C/7", copy=number) as writer:
            writer.write(data)
    assert wrapper.list("C") == {"7": 5}
    assert wrapper.stat("C", "7") == 5
    assert run(socket, "download", "C", "7").stdout == b"newer"
    upload(wrapper, "C", "7", b"newest", tmp_path)
    assert copies(socket, "C/7") == [(3, "complete")]
    wrapper.remove("C", "7")
    assert copies(socket, "C/7") == []


def test_an_upload_that_is_killed_leaves_the_older_part(socket: str, wrapper: Wrapper) -> None:
    assert run(socket, "upload", "Killed", "0000", data=b"whole").returncode == 0
    process = subprocess.Popen(
        [*WRAPPER, "upload", "Killed", "0000"],
        stdin=subprocess.PIPE,
        env={**os.environ, "tapelift_socket": socket},
    )
    assert process.stdin is not None
    process.stdin.write(PART)
    process.stdin.flush()
    end = time.monotonic() + 20
    while len(copies(socket, "Killed/0000")) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdin.close()
    while "writing" in dict(copies(socket, "Killed/0000")).values():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert wrapper.list("Killed") == {"0000": 5}
    assert run(socket, "download", "Killed", "0000").stdout == b"whole"
    assert run(socket, "upload", "Killed", "0000", data=b"after").returncode == 0
    assert [state for _, state in copies(socket, "Killed/0000")] == ["complete"]
    assert run(socket, "download", "Killed", "0000").stdout == b"after"


def test_two_uploads_of_one_part_at_once_leave_one_whole_part(
    socket: str, wrapper: Wrapper, tmp_path: Path
) -> None:
    with Client(socket=socket) as client:
        slow = client.create("main", "Both/0000")
        slow.write(b"slow")
        upload(wrapper, "Both", "0000", b"quicker", tmp_path)
        slow.close()
    assert wrapper.stat("Both", "0000") == 7
    assert run(socket, "download", "Both", "0000").stdout == b"quicker"


def test_nothing_is_read_again_when_the_end_of_an_upload_fails(
    wrapper: Wrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second try would find an empty pipe, and store nothing as the part."""

    def lost(self: Any) -> None:
        raise ImageExists("somebody was quicker")

    monkeypatch.setattr("connector.client.Writer.close", lost)
    with pytest.raises(ImageExists):
        upload(wrapper, "Lost", "0000", b"data", tmp_path)
    monkeypatch.undo()
    assert wrapper.list("Lost") == {}


def test_an_older_copy_that_is_held_does_not_fail_the_upload(
    socket: str, wrapper: Wrapper, tmp_path: Path
) -> None:
    upload(wrapper, "Held", "0000", b"kept", tmp_path)
    with Client(socket=socket) as client:
        client.set_hold("main", "Held/0000", on=True, reason="case")
    upload(wrapper, "Held", "0000", b"new", tmp_path)
    assert wrapper.list("Held") == {"0000": 3}
    assert [number for number, _ in copies(socket, "Held/0000")] == [1, 2]
    with pytest.raises(ImageHeld):
        wrapper.remove("Held", "0000")
    assert wrapper.list("Held") == {"0000": 3}


# --- names ----------------------------------------------------------------------------------------


def test_volumes_that_look_alike_do_not_mix(wrapper: Wrapper, tmp_path: Path) -> None:
    names = ["V", "V/0000", "V 1", "V.-_:1", "V/x y"]
    for number, volume in enumerate(names):
        upload(wrapper, volume, "0000", b"x" * (number + 1), tmp_path)
        upload(wrapper, volume, "00001", b"y", tmp_path)
    for number, volume in enumerate(names):
        assert wrapper.list(volume) == {"0000": number + 1, "00001": 1}
        assert wrapper.stat(volume, "0000") == number + 1


@pytest.mark.parametrize("part", ["a/b", "a b", "..", "", "x" * 129, "a\n"])
def test_a_part_is_letters_and_digits(socket: str, part: str) -> None:
    assert dplcompat.run(("stat", "V", part), {"tapelift_socket": socket}) == 1


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["list", "testconnection"])
def test_a_daemon_that_never_answers_holds_nobody_up(tmp_path: Path, operation: str) -> None:
    path = tmp_path / "mute"
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        begin = time.monotonic()
        words = (operation, "V") if operation == "list" else (operation,)
        done = run(str(path), *words, tapelift_timeout="0.5")
        assert done.returncode == 1
        assert time.monotonic() - begin < 15


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9"])
def test_a_timeout_is_a_number_of_seconds(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dplcompat.run(("testconnection",), {"tapelift_timeout": text}) == 1
    assert "tapelift_timeout" in capsys.readouterr().err
