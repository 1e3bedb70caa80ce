"""Who is let in: by user, by group, and nobody by accident."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.errors import AuthFailed
from connector.serve.peers import AllowList, Credentials, credentials_of, groups_of
from connector.settings import Settings, SocketSettings
from connector.wire import messages
from tests.serve.doors import (
    LONG_S,
    MemoryService,
    client,
    connect,
    eventually,
    open_door,
    settings_for,
)

ROOT, US, ALICE, BOB = 0, 500, 1001, 1002


def admitted(
    uid: int,
    *,
    users: tuple[int, ...] = (),
    groups: tuple[int, ...] = (),
    gid: int = 900,
    member_of: tuple[int, ...] = (),
) -> bool:
    asked: list[Credentials] = []

    def databases(found: Credentials) -> frozenset[int]:
        asked.append(found)
        return frozenset((found.gid, *member_of))

    allowed = AllowList(
        users,
        groups,
        own=US,
        credentials=lambda sock: Credentials(1, uid, gid),
        groups_of=databases,
    )
    left, right = socket.socketpair()
    with left, right:
        try:
            peer = allowed.admit(left)
        except AuthFailed:
            return False
        finally:
            assert len(asked) <= 1
    assert (peer.uid, peer.gid, peer.pid) == (uid, gid, 1)
    return True


def test_the_daemons_own_user_is_always_let_in() -> None:
    assert admitted(US)


def test_nobody_else_is_let_in_where_nobody_is_listed() -> None:
    assert not admitted(ALICE)


def test_root_is_let_in_only_where_it_is_listed_or_is_the_daemons_user() -> None:
    assert not admitted(ROOT, users=(ALICE,), groups=(900,), gid=0)
    assert admitted(ROOT, users=(ROOT,))


def test_users_are_let_in_by_their_number() -> None:
    assert admitted(ALICE, users=(ALICE,))
    assert not admitted(BOB, users=(ALICE,))


def test_groups_are_let_in_by_the_primary_group_or_a_further_one() -> None:
    assert admitted(ALICE, groups=(900,))
    assert admitted(ALICE, groups=(77,), member_of=(5, 77))
    assert not admitted(ALICE, groups=(78,), member_of=(5, 77))


def test_a_uid_in_the_list_of_groups_opens_nothing() -> None:
    assert not admitted(ALICE, groups=(ALICE,))
    assert not admitted(ALICE, users=(900,))


def test_the_kernel_says_who_is_there() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert credentials_of(left) == Credentials(os.getpid(), os.geteuid(), os.getegid())


def test_groups_come_from_the_databases() -> None:
    own = pwd.getpwuid(os.getuid())
    found = groups_of(Credentials(1, own.pw_uid, 54321))
    assert found == {54321, *os.getgrouplist(own.pw_name, own.pw_gid)}


def test_a_user_without_an_entry_has_the_group_it_came_with() -> None:
    assert groups_of(Credentials(1, 2**31 - 5, 54321)) == {54321}


def test_a_refused_user_is_told_so_and_leaves_no_trace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = MemoryService()
    stranger = Credentials(1, ALICE, 900)
    caplog.set_level(logging.INFO)
    with open_door(
        settings_for(tmp_path / "s"), service, credentials=lambda sock: stranger
    ) as door:
        with client(tmp_path / "s", hello=False) as peer:
            reply = peer.reply()
            assert reply.header.request == 0
            assert reply.failure.code == "auth"
            assert f"uid {ALICE}" in reply.failure.message
            assert reply.failure.hint
            assert not reply.failure.retryable
            assert peer.ended()
        assert eventually(lambda: door.connections == 0)
    assert service.sessions == []
    assert [
        record.levelname for record in caplog.records if record.message.startswith("refused")
    ] == ["WARNING"]


def test_a_refused_user_that_talks_first_is_told_all_the_same(tmp_path: Path) -> None:
    stranger = Credentials(1, ALICE, 900)
    with open_door(settings_for(tmp_path / "s"), credentials=lambda sock: stranger):
        for _ in range(20):
            with client(tmp_path / "s", hello=False) as peer:
                try:
                    peer.send_call(messages.Hello(versions=(1,)))
                    peer.send_call(messages.Claim(name="p"))
                except BrokenPipeError:
                    pass
                assert peer.reply().failure.code == "auth"
                assert peer.ended()


NOBODY = 65534
PROGRAM = """
import socket, sys
from connector.wire import codec, messages
from connector.wire.frames import HEADER, Header, Kind, pack_header, parse_header
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.connect(sys.argv[1])
payload = codec.encode_call(messages.Hello(versions=(1,)))
try:
    sock.sendall(pack_header(Header(Kind.CALL, len(payload), 1)) + payload)
except BrokenPipeError:
    pass
header = parse_header(sock.recv(HEADER.size, socket.MSG_WAITALL), from_client=False)
print(header.kind.name, sock.recv(header.length, socket.MSG_WAITALL).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
@pytest.mark.parametrize("listed", [False, True])
def test_a_process_of_another_user_is_refused_unless_its_group_is_listed(
    tmp_path: Path, listed: bool
) -> None:
    folder = Path("/tmp") / f"door-{os.getpid()}-{listed}"
    folder.mkdir(mode=0o755)
    path = folder / "s"
    limits = settings_for(path).limits
    settings = Settings(
        state=tmp_path,
        socket=SocketSettings(path=path, mode=0o666, groups=(NOBODY,) if listed else ()),
        pools=(),
        limits=limits,
    )
    service = MemoryService()
    root = Path(__file__).parents[2]
    try:
        with open_door(settings, service):
            # -I keeps the current folder out; the program's packages come by their own path
            program = f"import sys; sys.path.insert(0, {str(root)!r})\n" + PROGRAM
            done = subprocess.run(
                [
                    *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
                    *(sys.executable, "-c", program, str(path)),
                ],
                capture_output=True,
                text=True,
                timeout=LONG_S,
                cwd="/",
                check=False,
            )
            if "Permission denied" in done.stderr or "ModuleNotFound" in done.stderr:
                pytest.skip("another user cannot read this checkout")
            assert done.stdout.startswith("ANSWER " if listed else 'FAILURE {"code":"auth"'), done
    finally:
        folder.rmdir()
    assert [session.peer.uid for session in service.sessions] == ([NOBODY] if listed else [])


def test_the_name_of_a_peer_says_user_and_host(tmp_path: Path) -> None:
    service = MemoryService()
    with open_door(settings_for(tmp_path / "s"), service), client(tmp_path / "s"):
        (session,) = service.sessions
        own = pwd.getpwuid(os.geteuid()).pw_name
        assert session.peer.name == f"{own}@{socket.gethostname()}"
        assert (session.peer.uid, session.peer.pid) == (os.geteuid(), os.getpid())
        with connect(tmp_path / "s"):
            pass
