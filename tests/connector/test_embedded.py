"""A first try: ``serve --embedded`` and the three lines of the README, as a newcomer types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from connector import embedded, places
from tests.connector.support import PROGRAM, Running, call, said

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home() -> Iterator[Path]:
    """Short: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tl", dir="/tmp") as name:
        yield Path(name)


def lines_of_the_readme() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    part = text.partition("## A storage pool for your backup product")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", part, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_readmes_lines_work_as_they_stand(home: Path) -> None:
    serve, put, listing, get = lines_of_the_readme()[:4]
    assert serve == "tapeconnector serve --embedded"
    (home / "bin").mkdir()
    program = home / "bin" / "tapeconnector"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PROGRAM[2]}" "$@"\n')
    program.chmod(0o755)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "XDG_"))
    } | {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}", "AWS_PROFILE": "x"}

    def shell(line: str) -> str:
        done = subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False,
            env={**environ, "XDG_RUNTIME_DIR": str(home / "none")}, cwd=home,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    (home / "some").mkdir()
    (home / "some" / "file").write_text("what is backed up")
    daemon = Running(home, "--embedded", environ={**environ, "XDG_STATE_HOME": ""})
    try:
        daemon.told("READY")
        shell(put.replace(" /etc ", f" {home}/some "))
        assert "main/etc.tar.gz" in shell(listing)
        assert "./file" in shell(get)
        assert daemon.end() == 0
    finally:
        daemon.close()
    assert "gone when this ends" in daemon.log


def test_a_second_try_begins_with_nothing(home: Path) -> None:
    for _ in range(2):
        daemon = Running(home, "--embedded", "--dir", str(home))
        try:
            daemon.told("READY")
            with daemon.client() as client:
                assert list(client.images("main")) == []
                with client.create("main", "one") as writer:
                    writer.write(b"1")
            assert daemon.end() == 0
        finally:
            daemon.close()


def test_what_is_not_ours_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "treasure").write_text("x")
    with pytest.raises(ConfigError, match="no embedded daemon left there"):
        embedded.forget(tmp_path)
    (tmp_path / "treasure").unlink()
    embedded.forget(tmp_path)
    (tmp_path / "pools").mkdir()
    (tmp_path / "pools" / "x").touch()
    embedded.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [embedded.MARKER]


def test_without_moto_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['moto'] = sys.modules['moto.server'] = None\n"
        "import connector.cli; connector.cli.main()"
    )
    done = call("serve", "--embedded", program=(sys.executable, "-c", script))
    assert done.returncode == 2
    assert b"pip install 'tapelift[demo]'" in done.stderr


# --- where daemon and clients meet ----------------------------------------------------------------


def test_daemon_and_client_agree_where_the_socket_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert places.own_socket() == tmp_path / "tapeconnector.socket"
    assert places.default_socket() == places.own_socket()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert places.own_socket() == tmp_path / "state" / "tapelift" / "connector" / "socket"
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    assert places.own_socket().is_absolute()


def test_a_runtime_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)  # noqa: PTH116
    assert places.own_socket() != tmp_path / "tapeconnector.socket"


def test_a_client_without_a_daemon_is_told_how_to_start_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    monkeypatch.setattr(places, "SYSTEM_SOCKET", home / "none")
    code, _, err = said("ls")
    assert (code, "tapeconnector serve --embedded" in err) == (4, True)
