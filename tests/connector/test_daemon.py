"""The daemon as a process: start, signals, reload, locks, what it tells the service manager."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from catalog.s3 import S3Location
from connector.client import Client, ConnectionLost
from connector.manager import Manager
from connector.state_lock import lock_state
from tests.connector.support import Running, call, config_of, said, serving
from tests.support.servers import new_bucket

Buckets = Callable[..., S3Location]


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """The path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tl", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def shared(moto_endpoint: str) -> Iterator[Running]:
    """One daemon for the tests that leave it as it was; its watchdog bites after 0.4 s."""
    with short_folder() as path:
        path.chmod(0o711)
        text = config_of(path, {"main": new_bucket(moto_endpoint, prefix="first")})
        text = text.replace("path =", 'mode = "0666"\npath =')
        with serving(path, text, environ={"WATCHDOG_USEC": "400000"}) as daemon:
            yield daemon


@contextlib.contextmanager
def reloaded(daemon: Running, text: str) -> Iterator[dict[str, str]]:
    """The daemon has read another file; at the end its own one again. Gives what it told."""
    file = daemon.folder / "tapeconnector.toml"
    before = file.read_text()

    def reload(content: str) -> dict[str, str]:
        file.write_text(content)
        daemon.send(signal.SIGHUP)
        return daemon.told("RELOADING") | daemon.told("READY")

    try:
        yield reload(text)
    finally:
        reload(before)


def put(daemon: Running, pool: str, image: str, data: bytes) -> None:
    with daemon.client() as client, client.create(pool, image) as writer:
        writer.write(data)


def get(daemon: Running, pool: str, image: str) -> bytes:
    with daemon.client() as client, client.open(pool, image) as reader:
        return reader.read()


def test_what_was_stored_is_there_after_a_restart(folder: Path, moto_bucket: Buckets) -> None:
    text, data = config_of(folder, {"main": moto_bucket(prefix="p")}), os.urandom(6 << 20)
    with serving(folder, text) as daemon:
        put(daemon, "main", "one", data)
        assert daemon.end() == 0
        assert "ended" in daemon.log
    assert not daemon.socket.exists()
    with serving(folder, text) as daemon:
        assert get(daemon, "main", "one") == data
        assert daemon.end(signal.SIGINT) == 0


def test_what_is_open_when_the_daemon_ends_can_be_resumed(
    folder: Path, moto_bucket: Buckets
) -> None:
    text, data = config_of(folder, {"main": moto_bucket()}), os.urandom(11 << 20)
    with serving(folder, text, "--drain", "0.2") as daemon:
        with pytest.raises(ConnectionLost), daemon.client() as client:  # noqa: PT012
            writer = client.create("main", "long", token="the-token-of-long")
            writer.write(data[: 6 << 20])
            writer.flush()
            assert daemon.end() == 0
            writer.flush()
        assert "checkpointed" in daemon.log
    with serving(folder, text) as daemon, daemon.client() as client:
        with client.resume("main", "long", "the-token-of-long") as writer:
            assert writer.offset > 0
            writer.write(data[writer.offset :])
        assert get(daemon, "main", "long") == data


def test_a_call_that_runs_is_finished_before_the_daemon_ends(
    folder: Path, moto_bucket: Buckets
) -> None:
    with (
        serving(folder, config_of(folder, {"main": moto_bucket()})) as daemon,
        daemon.client() as client,
    ):
        with client.create("main", "brief") as writer:
            writer.write(b"x" * 100)
            writer.flush()
            daemon.send(signal.SIGTERM)
            daemon.told("STOPPING")
            writer.write(b"y" * 100)
        assert writer.closed is not None
        assert writer.closed.state == "complete"
        assert daemon.process.wait(30) == 0
    with pytest.raises(ConnectionLost):
        Client(socket=daemon.socket, timeout_s=5).hello()


def test_a_killed_daemon_leaves_nothing_in_the_way(folder: Path, moto_bucket: Buckets) -> None:
    text = config_of(folder, {"main": moto_bucket()})
    with serving(folder, text) as daemon:
        put(daemon, "main", "one", b"one")
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        assert daemon.socket.exists()
    with serving(folder, text) as daemon:
        assert get(daemon, "main", "one") == b"one"


def test_a_wrong_configuration_starts_nothing(folder: Path) -> None:
    config = folder / "wrong.toml"
    config.write_text('[socket]\npath = "s"\n[pools.main]\nbucket = "b"\n')
    code, _, err = said("serve", "--config", str(config))
    assert code == 2
    assert "state.dir: " in err
    assert "pools.main.prefix: " in err
    assert sorted(path.name for path in folder.iterdir()) == ["wrong.toml"]


def test_a_second_daemon_is_refused(shared: Running) -> None:
    text, folder = (shared.folder / "tapeconnector.toml").read_text(), shared.folder
    for own, told in (
        ("socket", f"process {shared.process.pid} uses the state folder"),
        ("state", "another daemon answers there"),
    ):
        other = folder / "other.toml"
        other.write_text(text.replace(f"{folder}/{own}", f"{folder}/{own}2"))
        done = call("serve", "--config", str(other))
        assert (done.returncode, told.encode() in done.stderr) == (2, True), done.stderr
    with shared.client() as client:
        assert client.claim("main")


def test_a_reload_opens_new_pools_and_says_what_it_cannot_change(
    shared: Running, moto_bucket: Buckets
) -> None:
    text = config_of(shared.folder, {"main": moto_bucket(), "more": moto_bucket()})
    put(shared, "main", "one", b"one")
    with reloaded(shared, text.replace("path =", 'mode = "0600"\npath =') + LIMITS) as told:
        assert int(told["MONOTONIC_USEC"]) > 0
        assert told["STATUS"].startswith("2 pools")
        for what in ("[socket] mode", "[limits]", "[pools.main]: its bucket, prefix or"):
            assert f"WARNING {what}" in shared.log, what
        with shared.client() as client:
            _wait_up(client, "more")
        put(shared, "more", "two", b"two")
        assert get(shared, "main", "one") == b"one"
    assert "pool more is served until the next start" in shared.log


LIMITS = "[limits]\nhandles = 5\n"


def test_a_broken_file_keeps_the_old_settings(shared: Running) -> None:
    with reloaded(shared, "[pools.main]\nbukket = 1\n"):
        assert "nothing was changed" in shared.log
        assert "did you mean bucket?" in shared.log
        put(shared, "main", "after", b"one")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_a_reload_lets_other_users_in_and_out(shared: Running) -> None:
    text = (shared.folder / "tapeconnector.toml").read_text()
    assert _as_user(65534, shared) == b"auth\n"
    with reloaded(shared, text.replace("path =", "users = [65534]\npath =")):
        assert _as_user(65534, shared) == b"let in\n"


def test_the_watchdog_is_fed_twice_in_its_time(shared: Running) -> None:
    shared.told("WATCHDOG")
    begin = time.monotonic()
    for _ in range(4):
        shared.told("WATCHDOG")
    assert time.monotonic() - begin < 4 * 0.4


def test_the_memory_of_every_pool_is_told_at_the_start(shared: Running) -> None:
    assert "pool main: up to 100 MiB of memory for images: 4 open * (4 + 1) parts" in shared.log


def _wait_up(client: Client, pool: str) -> None:
    end = time.monotonic() + 20
    while client.pool_props(pool).state != "up":
        assert time.monotonic() < end
        time.sleep(0.05)


def _as_user(uid: int, daemon: Running) -> bytes:
    program = (
        "import os, sys\n"
        "from connector.client import Client\n"
        "from catalog.errors import PoolError\n"
        "os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "try:\n    Client(socket=sys.argv[2], timeout_s=10).hello(); print('let in')\n"
        "except PoolError as exc:\n    print(exc.code)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(uid), str(daemon.socket)],
        capture_output=True,
        timeout=30,
        check=False,
    ).stdout


@pytest.mark.deep
def test_a_daemon_starts_without_its_store_and_says_so(folder: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # never listens
        away = S3Location("bucket", "p", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        text = config_of(folder, {"main": away}).replace("deadline_s = 20", "deadline_s = 1")
        with serving(folder, text) as daemon, daemon.client() as client:
            props = client.pool_props("main")
            assert (props.state, client.server_props().state) == ("down", "down")
            assert daemon.end() == 0


@pytest.mark.deep
def test_a_socket_that_was_handed_over_is_served_and_left_in_place(
    folder: Path, moto_bucket: Buckets
) -> None:
    (folder / "c.toml").write_text(config_of(folder, {"main": moto_bucket()}))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        script = (
            f"import os\nos.dup2({listener.fileno()}, 3)\n"
            "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())}\n"
            "import connector.cli; connector.cli.main()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, "serve", "--config", str(folder / "c.toml")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
        try:
            with Client(socket=folder / "socket", timeout_s=30) as client:
                assert client.claim("main")
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait(10)
    assert (folder / "socket").exists()


def test_serving_needs_to_be_told_what() -> None:
    for words, told in (
        (("--config", "/nowhere/c.toml"), "check --config"),
        (("--embedded", "--config", "c.toml"), "choose one"),
        (("--dir", "x", "--config", "c.toml"), "are for --embedded"),
    ):
        code, _, err = said("serve", *words)
        assert (code, told in err) == (2, True), err


# --- the parts ------------------------------------------------------------------------------------


def test_a_manager_that_does_not_listen_holds_nobody_up(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "none"))
    begin = time.monotonic()
    manager.ready("x")
    manager.alive()
    assert time.monotonic() - begin < 2.0


def test_the_manager_is_found_in_the_environment_and_forgotten_there() -> None:
    name = f"tapelift-{os.getpid()}-{time.monotonic_ns()}"
    environ = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "5000000", "OTHER": "1"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        manager = Manager.of(environ)
        manager.ready("two\nlines")
        assert listener.recv(1000) == b"READY=1\nSTATUS=two lines"
    assert manager.watchdog_s == 5.0
    assert environ == {"OTHER": "1"}
    assert Manager.of({}).watchdog_s is None
    assert Manager.of({**environ, "NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5",
                       "WATCHDOG_PID": "1"}).watchdog_s is None  # fmt: skip


def test_a_state_folder_has_one_holder(tmp_path: Path) -> None:
    with lock_state(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
        with (
            pytest.raises(ConfigError, match=f"process {os.getpid()} uses the state folder"),
            lock_state(tmp_path / "state"),
        ):
            pass
    with lock_state(tmp_path / "state"):
        pass


def test_a_state_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"), lock_state(tmp_path / "file" / "x"):
        pass
