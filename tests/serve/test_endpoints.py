"""Where the door listens: the socket's file, its rights, and who may have had it before."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from connector.serve import endpoints
from connector.serve.endpoints import listen_on_file, listen_on_port
from connector.settings import SocketSettings, TcpSettings
from tests.serve.doors import client, open_door, settings_for


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_file_has_exactly_the_mode_that_was_asked_for(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        file = listen_on_file(SocketSettings(path=tmp_path / "s", mode=mode))
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "s") == mode
    file.sock.close()


def test_the_file_is_never_open_to_others_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def chmod(self: Path, mode: int) -> None:
        seen.append(mode_of(self))  # what the file was created with
        os.chmod(self, mode)  # noqa: PTH101

    monkeypatch.setattr(Path, "chmod", chmod)
    before = os.umask(0)
    try:
        listen_on_file(SocketSettings(path=tmp_path / "s", mode=0o600)).sock.close()
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_a_folder_that_does_not_exist_is_made_for_this_user_alone(tmp_path: Path) -> None:
    listen_on_file(SocketSettings(path=tmp_path / "new" / "s")).sock.close()
    assert mode_of(tmp_path / "new") == 0o700


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o755)
    listen_on_file(SocketSettings(path=tmp_path / "old" / "s")).sock.close()
    assert mode_of(tmp_path / "old") == 0o755


def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    listen_on_file(SocketSettings(path=tmp_path / "s")).sock.close()
    assert (tmp_path / "s").exists()
    with open_door(settings_for(tmp_path / "s")), client(tmp_path / "s") as peer:
        assert peer.alive()


def test_the_socket_of_a_live_daemon_is_refused_and_left_alone(tmp_path: Path) -> None:
    with open_door(settings_for(tmp_path / "s")):
        with pytest.raises(ConfigError, match="another daemon answers there; stop it"):
            listen_on_file(SocketSettings(path=tmp_path / "s"))
        with client(tmp_path / "s") as peer:
            assert peer.alive()


def test_a_daemon_whose_queue_is_full_is_taken_for_a_live_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(str(path))
        busy.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(path))
            probe = endpoints.PROBE_S
            endpoints.PROBE_S = 0.2
            try:
                with pytest.raises(ConfigError, match="cannot tell whether a daemon answers"):
                    listen_on_file(SocketSettings(path=path))
            finally:
                endpoints.PROBE_S = probe
        assert path.exists()


def test_what_is_not_a_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ConfigError, match=r"is not a socket; .*nothing was removed"):
        listen_on_file(SocketSettings(path=tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "precious"


def test_a_path_of_107_bytes_works_and_one_of_108_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    room = 107 - len(os.fsencode(folder)) - 1
    if room < 2:
        pytest.skip("the folder of this test has too long a path")
    file = listen_on_file(SocketSettings(path=folder / ("s" * room)))
    file.sock.close()
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        listen_on_file(SocketSettings(path=folder / ("s" * (room + 1))))


def test_of_two_daemons_that_start_at_once_exactly_one_gets_the_socket(tmp_path: Path) -> None:
    listen_on_file(SocketSettings(path=tmp_path / "s")).sock.close()  # a stale one for both
    got: list[endpoints.SocketFile] = []
    refused: list[ConfigError] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        barrier.wait()
        try:
            got.append(listen_on_file(SocketSettings(path=tmp_path / "s")))
        except ConfigError as exc:
            refused.append(exc)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.connect(str(tmp_path / "s"))
    got[0].sock.close()


def test_the_file_is_removed_at_the_end_and_not_when_it_is_somebody_elses(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with open_door(settings_for(path)):
        assert path.exists()
    assert not path.exists()
    with open_door(settings_for(path)):
        path.unlink()
        other = listen_on_file(SocketSettings(path=path))
    assert path.exists()
    other.sock.close()


def tcp(host: str, port: int = 0) -> TcpSettings:
    return TcpSettings(
        host=host, port=port, certificate=Path("c"), key=Path("k"), token="0123456789abcdef"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])
def test_only_loopback_can_be_listened_on(host: str) -> None:
    with pytest.raises(ConfigError, match=r"not a loopback address|host"):
        listen_on_port(tcp(host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_can_be_listened_on(host: str) -> None:
    with listen_on_port(tcp(host)) as sock:
        assert sock.getsockname()[1] > 0


def test_a_port_that_is_taken_is_named() -> None:
    with listen_on_port(tcp("127.0.0.1")) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: .*in use"):
            listen_on_port(tcp("127.0.0.1", port))
