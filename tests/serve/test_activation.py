"""Sockets that the service manager hands over: taken once, and only when they are what is said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from connector.serve.activation import handed_over
from tests.serve.doors import client, open_door, settings_for

PID = os.getpid()


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(8)
    return sock


def test_without_the_variables_there_is_nothing() -> None:
    assert handed_over({}) == []
    assert handed_over({"LISTEN_FDS": "1"}) == []


def test_what_is_for_another_process_is_left_alone(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as sock:
        environ = {"LISTEN_PID": str(PID + 1), "LISTEN_FDS": "1"}
        assert handed_over(environ, first=sock.fileno()) == []
        os.fstat(sock.fileno())


def test_a_socket_is_taken_with_its_variables_and_is_not_inherited(tmp_path: Path) -> None:
    sock = listening(tmp_path / "s")
    fd = sock.detach()
    os.set_inheritable(fd, True)
    environ = {
        "LISTEN_PID": str(PID),
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "pool",
        "HOME": "/",
    }
    (taken,) = handed_over(environ, first=fd)
    with taken:
        assert taken.fileno() == fd
        assert not os.get_inheritable(fd)
        assert environ == {"HOME": "/"}


@pytest.mark.parametrize("wrong", ["", "x", "-1", "1 ", "\u0661", "9" * 30])
@pytest.mark.parametrize("name", ["LISTEN_PID", "LISTEN_FDS"])
def test_a_variable_that_is_no_number_is_named(name: str, wrong: str) -> None:
    environ = {"LISTEN_PID": str(PID), "LISTEN_FDS": "1", name: wrong}
    with pytest.raises(ConfigError, match=f"{name} is not a number"):
        handed_over(environ)


def test_an_absurd_number_of_sockets_is_refused() -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS says 17 sockets"):
        handed_over({"LISTEN_PID": str(PID), "LISTEN_FDS": "17"})


def test_a_pipe_is_not_a_socket() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(ConfigError, match="is not a socket"):
            handed_over({"LISTEN_PID": str(PID), "LISTEN_FDS": "1"}, first=reading)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_connected_socket_is_refused_and_closed() -> None:
    left, right = socket.socketpair()
    fd = left.detach()
    with pytest.raises(ConfigError, match="is not a listening stream socket"):
        handed_over({"LISTEN_PID": str(PID), "LISTEN_FDS": "1"}, first=fd)
    assert right.recv(1) == b""
    right.close()


def test_a_door_serves_a_socket_that_was_handed_over_and_leaves_its_file(tmp_path: Path) -> None:
    path = tmp_path / "handed"
    settings = settings_for(tmp_path / "not made")
    with open_door(settings, sockets=[listening(path)]), client(path) as peer:
        assert peer.alive()
        assert not (tmp_path / "not made").exists()
    assert path.exists()


def test_a_tcp_socket_without_certificate_and_token_is_refused() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    with (
        pytest.raises(ConfigError, match=r"no \[tcp\] with certificate"),
        open_door(settings_for(None), sockets=[sock]),
    ):
        pass
    assert sock.fileno() == -1


STARTER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
environ = {**os.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execve(sys.executable, [sys.executable, "-c", sys.argv[2]], environ)
"""
PROGRAM = """
import os
from connector.serve.activation import handed_over
(sock,) = handed_over(os.environ)
peer, _ = sock.accept()
peer.sendall(b"hello " + str("LISTEN_FDS" in os.environ).encode())
"""


def test_a_process_finds_the_socket_where_the_manager_puts_it(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as sock:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(sock.fileno()), PROGRAM],
            pass_fds=[sock.fileno()],
            cwd=Path(__file__).parents[2],
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(20)
            peer.connect(str(tmp_path / "s"))
            assert peer.recv(100) == b"hello False"
        assert process.wait(20) == 0
