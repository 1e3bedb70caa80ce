"""``put --run``: an image is complete only when the program that made it ended well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import ConfigError
from connector.client import Client
from connector.commands import producing, sending
from connector.commands.producing import Producer, ProducerFailed
from connector.commands.sending import Order, send
from connector.commands.streams import output_of
from connector.wire.messages import Name
from tests.connector.support import PROGRAM, answering, said
from tests.serve.support import World

LONG = "import sys, time; sys.stdout.write('x' * 300_000); sys.stdout.flush(); {}"
"""A program that writes more than a pipe holds, and then does something."""
WAYS = pytest.mark.parametrize("way", [(), ("--no-descriptor",)], ids=["descriptor", "socket"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def socket(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pool = world.pool(sizes={"part_size": 1 << 20, "fragment_size": 8 << 20})
    with answering(tmp_path_factory.mktemp("s"), world, pool) as path:
        yield str(path)


def run(socket: str, name: str, *words: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    return said("put", "--socket", socket, f"main/{name}", *options, "--run", "--", *words)


def python(then: str) -> tuple[str, ...]:
    return (sys.executable, "-c", LONG.format(then))


def states(socket: str, name: str) -> list[tuple[str, int | None]]:
    with Client(socket=socket) as client:
        return [(one.state, one.size) for one in client.list("main", name, state="any").images]


@WAYS
def test_what_a_program_writes_is_stored_when_it_ends_well(
    socket: str, way: tuple[str, ...]
) -> None:
    name = f"well{len(way)}"
    code, _, err = run(socket, name, *python("pass"), options=way)
    assert code == 0, err
    assert states(socket, name) == [("complete", 300_000)]


@WAYS
@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("sys.exit(1)", "ended with exit code 1"),
        ("sys.exit(141)", "ended with exit code 141"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("sys.stdout.close(); import os; os.close(1); time.sleep(0.3); sys.exit(3)", "code 3"),
    ],
    ids=["fails", "pipefail", "killed", "fails after its output ended"],
)
def test_nothing_stays_of_a_program_that_fails(
    socket: str, way: tuple[str, ...], then: str, told: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    code, out, _ = run(socket, name, *python(then), options=(*way, "--json"))
    assert code == 3
    error = json.loads(out)["error"]
    assert (error["code"], told in error["message"]) == ("program", True)
    assert states(socket, name) == []


def test_a_shorter_stream_of_a_plain_pipe_cannot_be_told_apart(socket: str) -> None:
    # why --run is there: without it the shell's own exit code comes too late
    failing = f'"{sys.executable}" -c "{LONG.format("sys.exit(1)")}"'
    put = f"'{sys.executable}' -c '{PROGRAM[2]}' put --socket {socket} main/plain"
    line = f"{failing} | {put}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert states(socket, "plain") == [("complete", 300_000)]


def test_a_program_that_writes_nothing_has_failed(socket: str) -> None:
    code, _, err = run(socket, "nothing", "true")
    assert (code, "true wrote nothing" in err) == (3, True)
    assert states(socket, "nothing") == []


def test_a_program_that_is_not_there_is_a_wrong_option(socket: str) -> None:
    code, _, err = run(socket, "missing", "/nowhere/to/be/found")
    assert (code, "cannot run /nowhere" in err) == (2, True)
    assert states(socket, "missing") == []


def test_other_exit_codes_count_when_they_are_named(socket: str) -> None:
    words = python("sys.exit(1)")
    assert run(socket, "accepted", *words, options=("--accept-exit", "2"))[0] == 3
    code, *_ = run(socket, "accepted", *words, options=("--accept-exit", "2", "--accept-exit", "1"))
    assert code == 0
    assert states(socket, "accepted") == [("complete", 300_000)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--run",), "--run without a program"),
        (("--accept-exit", "1", "file"), "--accept-exit is for --run"),
        (("pg_dump", "shop"), "2 files at once"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    socket: str, words: tuple[str, ...], told: str
) -> None:
    code, _, err = said("put", "--socket", socket, "main/words", *words)
    assert (code, told in err) == (2, True)


# --- once ---------------------------------------------------------------------------------------


def marking(path: Path) -> tuple[str, ...]:
    return ("sh", "-c", f"echo ran >> {path}; echo data")


def test_a_program_is_not_run_when_its_token_says_that_the_image_is_complete(
    socket: str, tmp_path: Path
) -> None:
    words = marking(tmp_path / "ran")
    first = run(socket, "once", *words, options=("--token", "once-2026", "--json"))
    second = run(socket, "once", *words, options=("--token", "once-2026", "--json"))
    assert (first[0], second[0]) == (0, 0), second[2]
    assert json.loads(first[1]) == json.loads(second[1])
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert run(socket, "once", *words, options=("--token", "another-one"))[0] == 2
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_what_an_attempt_of_the_same_token_left_is_begun_anew(socket: str) -> None:
    with Client(socket=socket) as client:
        writer = client.create("main", "anew", token="anew-2026")
        writer.write(b"y" * 50_000)
        assert writer.checkpoint().offset == 50_000
    code, _, err = run(socket, "anew", *python("pass"), options=("--token", "anew-2026"))
    assert code == 0, err
    assert states(socket, "anew") == [("complete", 300_000)]


def test_a_program_waits_until_the_daemon_takes_the_image(
    socket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE_S", 0.05)
    tries: list[bool] = []

    def connect() -> Client:
        tries.append((tmp_path / "ran").exists())
        return Client(socket=socket if len(tries) > 2 else "/nowhere/socket")

    order = Order(pool="main", image=Name("waited"))
    closed = send(connect, order, output_of(Producer(marking(tmp_path / "ran"))), lambda _: None)
    assert closed.offset == 5
    assert tries == [False, False, False]


def test_a_lost_connection_fails_and_leaves_nothing_once_the_program_runs(
    socket: str, tmp_path: Path
) -> None:
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(socket=socket))
        return clients[-1]

    def cut(done: int) -> None:
        channel = clients[0]._channel
        if len(clients) == 1 and done > 0:
            assert channel is not None
            channel.close()

    order = Order(pool="main", image=Name("lost"), descriptor=False, token="lost-2026")
    producer = Producer(("yes",))
    with pytest.raises(Exception, match="run the same command again"):
        send(connect, order, output_of(producer), cut)
    assert states(socket, "lost") == []
    assert producer._process is not None
    assert producer._process.returncode in (-signal.SIGTERM, -signal.SIGPIPE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_put_that_is_told_to_end_ends_its_program_and_leaves_nothing(
    socket: str, number: signal.Signals, tmp_path: Path
) -> None:
    name, pid = f"ended{number}", tmp_path / "pid"
    then = f"import os; open('{pid}', 'w').write(str(os.getpid())); time.sleep(60)"
    process = subprocess.Popen(
        [*PROGRAM, "put", "--socket", socket, f"main/{name}", "--run", "--", *python(then)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: pid.exists() and pid.read_text() != "")
    process.send_signal(number)
    assert process.wait(20) == 5
    assert states(socket, name) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_put_that_is_killed_leaves_nothing_complete(socket: str, tmp_path: Path) -> None:
    started = tmp_path / "started"
    then = f"open('{started}', 'w').close(); time.sleep(60)"
    process = subprocess.Popen(
        [*PROGRAM, "put", "--socket", socket, "main/killed", "--run", "--", *python(then)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(started.exists)
    process.kill()
    process.wait(20)
    until(lambda: [state for state, _ in states(socket, "killed")] == ["incomplete"])
    code, _, err = run(socket, "killed", *python("pass"), options=("--replace",))
    assert code == 0, err
    assert states(socket, "killed") == [("complete", 300_000)]


def until(holds: Any) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- the program by itself ------------------------------------------------------------------------


def test_a_program_that_closes_its_output_and_lives_on_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(producing, "END_S", 0.2)
    monkeypatch.setattr(producing, "STOP_S", 0.2)
    producer = Producer(("sh", "-c", "trap '' TERM; echo x; exec >&-; sleep 60"))
    producer.start()
    assert os.read(producer.descriptor, 10) == b"x\n"
    assert os.read(producer.descriptor, 10) == b""
    with pytest.raises(ProducerFailed, match="did not end within"):
        producer.finish(2)
    producer.stop()
    assert producer._process is not None
    assert producer._process.returncode == -signal.SIGKILL


def test_a_program_that_cannot_be_run_leaves_no_open_pipe() -> None:
    producer = Producer(("/nowhere",))
    with pytest.raises(ConfigError):
        producer.start()
    assert os.read(producer.descriptor, 1) == b""
    producer.stop()


# --- a file ---------------------------------------------------------------------------------------


def test_a_file_with_the_bytes_of_the_image_is_stored_already(socket: str, tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    one.write_bytes(b"a" * 70_000)
    same.write_bytes(b"a" * 70_000)
    other.write_bytes(b"a" * 69_999 + b"b")
    words = ("put", "--socket", socket, "main/segment")
    assert said(*words, str(one))[0] == 0
    assert said(*words, str(same))[0] == 0
    code, _, err = said(*words, str(other), "--replace")
    assert (code, "it is another image" in err) == (2, True)
    assert states(socket, "segment") == [("complete", 70_000)]


def test_what_is_not_there_has_an_exit_code_of_its_own(socket: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert said("get", "--socket", socket, "main/none", "--out", out)[0] == 6
    assert said("stat", "--socket", socket, "main/none")[0] == 6
    assert said("get", "--socket", socket, "nopool/none", "--out", out)[0] == 2
    assert said("get", "--sockte", socket, "main/none", "--out", out)[0] == 2
