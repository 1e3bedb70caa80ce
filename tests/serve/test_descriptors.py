"""Descriptors that clients pass: taken, checked, read and written, and never kept."""

from __future__ import annotations

import array
import errno
import fcntl
import gc
import os
import resource
import socket
import stat
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog.errors import DescriptorError
from connector.serve import line, streaming
from connector.serve.descriptors import End, PipeEnd, take_end
from connector.serve.line import PeerGone
from connector.wire import messages
from connector.wire.frames import Header, Kind, pack_header
from tests.serve.doors import (
    PART,
    MemoryService,
    MemoryWriter,
    RawClient,
    client,
    eventually,
    open_door,
    open_files,
    settings_for,
)


@pytest.fixture
def service() -> MemoryService:
    return MemoryService()


@pytest.fixture
def path(tmp_path: Path, service: MemoryService) -> Iterator[Path]:
    before = open_files()
    with open_door(settings_for(tmp_path / "s", idle_s=30), service):
        yield tmp_path / "s"
    assert service.all_ended()
    assert eventually(lambda: open_files() <= before)


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.close(fd)


def read_all(fd: int) -> bytes:
    data = bytearray()
    while piece := os.read(fd, 1 << 20):
        data += piece
    os.close(fd)
    return bytes(data)


class Apart:
    """Does something in a thread, and gives what came of it."""

    def __init__(self, action: Callable[..., object], *args: object) -> None:
        self.result: object = None
        self._thread = threading.Thread(target=self._run, args=(action, args))
        self._thread.start()

    def _run(self, action: Callable[..., object], args: tuple[object, ...]) -> None:
        self.result = action(*args)

    def join(self) -> object:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.result


# --- write_from -------------------------------------------------------------------------------


def test_a_pipe_is_read_to_its_end(path: Path, service: MemoryService) -> None:
    data = os.urandom(5 * PART + 777)
    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        sender = Apart(write_all, writing, data)
        received = peer.ask(messages.WriteFrom(handle=handle, offset=0), [reading])
        sender.join()
        os.close(reading)
        assert received == messages.Received(offset=len(data), eof=True)
        peer.ask(messages.Close(handle=handle))
    assert service.images["image"] == data


def test_a_file_is_read_from_where_its_description_is_and_leaves_it_there(
    path: Path, service: MemoryService, tmp_path: Path
) -> None:
    data = os.urandom(3 * PART)
    (tmp_path / "f").write_bytes(data)
    with client(path) as peer, (tmp_path / "f").open("rb") as file:
        handle = peer.create()
        file.seek(100)
        call = messages.WriteFrom(handle=handle, offset=0, length=1000)
        received = peer.ask(call, [file.fileno()])
        assert received == messages.Received(offset=1000, eof=False)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 1100
        received = peer.ask(messages.WriteFrom(handle=handle, offset=1000), [file.fileno()])
        assert received.eof
        peer.ask(messages.Close(handle=handle))
    assert service.images["image"] == data[100:]


def test_a_socket_is_read_to_its_end(path: Path, service: MemoryService) -> None:
    data = os.urandom(2 * PART + 5)
    left, right = socket.socketpair()
    with client(path) as peer, left:
        handle = peer.create()

        def send() -> None:
            right.sendall(data)
            right.close()

        sender = Apart(send)
        received = peer.ask(messages.WriteFrom(handle=handle, offset=0), [left.fileno()])
        sender.join()
        assert received == messages.Received(offset=len(data), eof=True)
        peer.ask(messages.Close(handle=handle))
    assert service.images["image"] == data


def test_a_socket_that_was_reset_is_an_error_and_not_an_end(
    path: Path, service: MemoryService
) -> None:
    with client(path) as peer, socket.create_server(("127.0.0.1", 0)) as server:
        handle = peer.create()
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
        with right:
            peer.send_call(messages.WriteFrom(handle=handle, offset=0), [right.fileno()])
        left.sendall(b"some bytes")
        writer = service.sessions[0].writing(handle)
        assert eventually(lambda: writer.offset == 10)
        left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, array.array("i", [1, 0]))
        left.close()
        failure = peer.reply().failure
        assert (failure.code, failure.offset) == ("descriptor", 10)
        assert "reset" in failure.message
        assert peer.alive()


@pytest.mark.parametrize("length", [0, 1, PART, PART + 1])
def test_no_more_than_the_length_is_taken(path: Path, service: MemoryService, length: int) -> None:
    data = os.urandom(2 * PART)
    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        sender = Apart(write_all, writing, data)
        call = messages.WriteFrom(handle=handle, offset=0, length=length)
        assert peer.ask(call, [reading]) == messages.Received(offset=length, eof=False)
        assert read_all(reading) == data[length:]
        sender.join()
        peer.ask(messages.Close(handle=handle))
    assert service.images["image"] == data[:length]


def test_the_clients_description_keeps_its_flags(path: Path) -> None:
    with client(path) as peer:
        for flags in (0, os.O_NONBLOCK):
            handle = peer.create(f"image {flags}")
            reading, writing = os.pipe2(flags)
            before = fcntl.fcntl(reading, fcntl.F_GETFL), fcntl.fcntl(writing, fcntl.F_GETFL)
            os.write(writing, b"bytes")
            call = messages.WriteFrom(handle=handle, offset=0, length=5)
            peer.ask(call, [reading])
            after = fcntl.fcntl(reading, fcntl.F_GETFL), fcntl.fcntl(writing, fcntl.F_GETFL)
            assert after == before
            os.close(reading)
            os.close(writing)


def test_a_pipe_is_made_large(path: Path) -> None:
    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        os.close(writing)
        peer.ask(messages.WriteFrom(handle=handle, offset=0), [reading])
        assert fcntl.fcntl(reading, fcntl.F_GETPIPE_SZ) == 1 << 20
        os.close(reading)


def test_a_client_that_leaves_stops_the_reading_of_a_silent_pipe(
    path: Path, service: MemoryService
) -> None:
    reading, writing = os.pipe()
    with client(path) as peer:
        handle = peer.create()
        peer.send_call(messages.WriteFrom(handle=handle, offset=0), [reading])
        os.write(writing, b"x")
        writer = service.sessions[0].writing(handle)
        assert eventually(lambda: writer.offset == 1)
    left = time.monotonic()
    assert service.all_ended()
    assert time.monotonic() - left < 3
    os.close(reading)
    with pytest.raises(BrokenPipeError):  # the daemon holds the pipe no longer
        os.write(writing, b"x")
    os.close(writing)


def test_a_client_that_leaves_stops_the_reading_of_an_endless_pipe(
    path: Path, service: MemoryService
) -> None:
    service.accepting = lambda writer: writer.data.clear() if len(writer.data) else None
    producer = subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE)
    assert producer.stdout is not None
    with client(path) as peer:
        handle = peer.create()
        peer.send_call(messages.WriteFrom(handle=handle, offset=0), [producer.stdout.fileno()])
        producer.stdout.close()
        time.sleep(0.3)
        assert producer.poll() is None
    left = time.monotonic()
    assert service.all_ended()
    assert time.monotonic() - left < 4
    assert producer.wait(10) != 0


def test_a_pipe_in_which_nothing_moves_is_given_up_and_the_handle_goes_on(
    tmp_path: Path, service: MemoryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TICK_S", 0.1)
    with (
        open_door(settings_for(tmp_path / "s", idle_s=0.6), service),
        client(tmp_path / "s") as peer,
    ):
        handle = peer.create()
        reading, writing = os.pipe()
        os.write(writing, b"abc")
        failure = peer.refused(messages.WriteFrom(handle=handle, offset=0), [reading])
        assert (failure.code, failure.offset) == ("timeout", 3)
        assert "nothing" not in failure.hint
        peer.send_write(handle, 3, b"def")
        peer.reply()
        peer.ask(messages.Close(handle=handle))
        os.close(reading)
        os.close(writing)
    assert service.images["image"] == b"abcdef"


def test_notices_say_how_far_a_long_transfer_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TICK_S", 0.2)
    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        request = peer.send_call(messages.WriteFrom(handle=handle, offset=0), [reading])
        os.write(writing, b"0123456789")
        notice = peer.frame()
        assert notice.header.request == request
        assert notice.notice["offset"] == 10
        os.close(writing)
        assert peer.reply().header.kind is Kind.ANSWER
        os.close(reading)


def test_a_wrong_offset_takes_nothing_from_the_pipe(path: Path) -> None:
    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        write_all(writing, b"precious")
        failure = peer.refused(messages.WriteFrom(handle=handle, offset=5), [reading])
        assert (failure.code, failure.offset) == ("offset", 0)
        assert read_all(reading) == b"precious"


def test_bytes_that_came_by_descriptor_cannot_be_repeated_by_it(
    path: Path, service: MemoryService
) -> None:
    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        write_all(writing, b"abcabc")
        call = messages.WriteFrom(handle=handle, offset=0, length=3)
        peer.ask(call, [reading])
        failure = peer.refused(call, [reading])
        assert (failure.code, failure.offset) == ("offset", 3)
        peer.ask(messages.WriteFrom(handle=handle, offset=3, length=3), [reading])
        os.close(reading)
        peer.ask(messages.Close(handle=handle))
    assert service.images["image"] == b"abcabc"


def test_a_handle_that_fails_in_the_middle_says_how_far_it_came(
    path: Path, service: MemoryService
) -> None:
    def fail(writer: MemoryWriter) -> None:
        if writer.offset >= PART:
            raise DescriptorError("the store said no")

    service.accepting = fail
    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        sender = Apart(_write_until_broken, writing)
        failure = peer.refused(messages.WriteFrom(handle=handle, offset=0), [reading])
        os.close(reading)
        sender.join()
        assert failure.message == "the store said no"
        assert failure.offset is not None
        assert failure.offset >= PART
        assert peer.alive()


def _write_until_broken(fd: int) -> None:
    try:
        while True:
            os.write(fd, bytes(65536))
    except BrokenPipeError:
        os.close(fd)


# --- read_to ----------------------------------------------------------------------------------


def test_an_image_is_written_to_a_pipe_from_any_offset(path: Path, service: MemoryService) -> None:
    data = service.images["i"] = os.urandom(9 * PART + 321)
    with client(path) as peer:
        handle = peer.open("i")
        for offset, length in ((0, None), (77, None), (PART - 1, 2), (len(data), None), (5, 0)):
            reading, writing = os.pipe()
            reader = Apart(read_all, reading)
            call = messages.ReadTo(handle=handle, offset=offset, length=length)
            request = peer.send_call(call, [writing])
            os.close(writing)
            reply = peer.reply()
            assert (reply.header.request, reply.header.kind) == (request, Kind.ANSWER)
            end = len(data) if length is None else offset + length
            assert reader.join() == data[offset:end]
            assert f'"size":{end - offset}'.encode() in reply.payload


def test_an_image_is_written_to_a_file_and_to_a_socket(
    path: Path, service: MemoryService, tmp_path: Path
) -> None:
    data = service.images["i"] = os.urandom(3 * PART + 1)
    with client(path) as peer:
        handle = peer.open("i")
        with (tmp_path / "f").open("wb") as file:
            file.write(b"before ")
            file.flush()
            peer.ask(messages.ReadTo(handle=handle), [file.fileno()])
        assert (tmp_path / "f").read_bytes() == b"before " + data
        left, right = socket.socketpair()
        reader = Apart(read_all, right.detach())
        peer.send_call(messages.ReadTo(handle=handle), [left.fileno()])
        left.close()
        assert peer.reply().header.kind is Kind.ANSWER
        assert reader.join() == data


def test_a_reader_that_closes_its_pipe_is_told_so_and_harms_nobody(
    path: Path, service: MemoryService
) -> None:
    service.images["i"] = bytes(9 << 20)
    with client(path) as peer:
        handle = peer.open("i")
        reading, writing = os.pipe()
        peer.send_call(messages.ReadTo(handle=handle), [writing])
        os.close(writing)
        os.read(reading, 10)
        os.close(reading)
        failure = peer.reply().failure
        assert failure.code == "descriptor"
        assert "closed it" in failure.message
        assert peer.alive()
        assert eventually(lambda: service.sessions[0].reading(handle).closed == 1)


def test_a_full_disk_of_the_client_is_its_failure(path: Path, service: MemoryService) -> None:
    service.images["i"] = bytes(100_000)
    with client(path) as peer:
        handle = peer.open("i")
        fd = os.memfd_create("small", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 10)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        failure = peer.refused(messages.ReadTo(handle=handle), [fd])
        os.close(fd)
        assert failure.code == "descriptor"
        assert "cannot be written" in failure.message


def test_a_client_that_leaves_stops_the_writing_to_a_full_pipe(
    path: Path, service: MemoryService
) -> None:
    service.images["i"] = bytes(9 << 20)
    reading, writing = os.pipe()
    with client(path) as peer:
        handle = peer.open("i")
        peer.send_call(messages.ReadTo(handle=handle), [writing])
        os.close(writing)
        os.read(reading, 10)
    assert service.all_ended()
    assert len(read_all(reading)) <= 2 << 20  # it ended: the daemon holds the pipe no longer


# --- what is refused --------------------------------------------------------------------------


def refusals(tmp_path: Path) -> dict[str, tuple[bool, Callable[[], tuple[int, ...]]]]:
    def pipe() -> tuple[int, ...]:
        return os.pipe()

    def backwards() -> tuple[int, ...]:
        reading, writing = os.pipe()
        return writing, reading

    def datagrams(kind: int) -> Callable[[], tuple[int, ...]]:
        def make() -> tuple[int, ...]:
            left, right = socket.socketpair(socket.AF_UNIX, kind)
            return left.detach(), right.detach()

        return make

    def unconnected() -> tuple[int, ...]:
        return (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach(),)

    def listening() -> tuple[int, ...]:
        sock = socket.create_server(("127.0.0.1", 0))
        return (sock.detach(),)

    def opened(path: str, flags: int) -> Callable[[], tuple[int, ...]]:
        return lambda: (os.open(path, flags),)

    (tmp_path / "f").write_bytes(b"x")
    return {
        "a directory": (False, opened("/tmp", os.O_RDONLY)),
        "a device": (False, opened("/dev/zero", os.O_RDONLY)),
        "a device to write": (True, opened("/dev/null", os.O_WRONLY)),
        "only a path": (False, opened(str(tmp_path / "f"), os.O_PATH)),
        "a file to write, open to read": (True, opened(str(tmp_path / "f"), os.O_RDONLY)),
        "a file to read, open to write": (False, opened(str(tmp_path / "f"), os.O_WRONLY)),
        "the wrong end to read": (False, backwards),
        "the wrong end to write": (True, pipe),
        "datagrams": (False, datagrams(socket.SOCK_DGRAM)),
        "packets": (False, datagrams(socket.SOCK_SEQPACKET)),
        "a socket without a peer": (False, unconnected),
        "a listening socket": (False, listening),
        "neither": (False, lambda: (os.eventfd(1),)),
    }


def call_for(peer: RawClient, writing: bool) -> messages.Call:
    if writing:
        return messages.ReadTo(handle=peer.open("i"))
    return messages.WriteFrom(handle=peer.create(), offset=0)


def test_what_is_no_stream_of_bytes_is_refused_and_closed(
    path: Path, service: MemoryService, tmp_path: Path
) -> None:
    service.images["i"] = b"image"
    for what, (writing, make) in refusals(tmp_path).items():
        with client(path) as peer:
            call = call_for(peer, writing)
            before = open_files()
            fds = make()
            failure = peer.refused(call, fds[:1])
            assert failure.code == "descriptor", what
            assert failure.hint, what
            assert peer.alive(), what
            for fd in fds:
                os.close(fd)
            assert open_files() <= before, what


def test_a_connection_of_the_daemon_itself_is_refused(path: Path, service: MemoryService) -> None:
    service.images["i"] = b"image"
    with client(path) as peer, client(path) as other:
        for fd in (peer.sock.fileno(), other.sock.fileno()):
            failure = peer.refused(messages.ReadTo(handle=peer.open("i")), [fd])
            assert "this daemon itself" in failure.message
        assert other.alive()


@pytest.mark.parametrize("count", [0, 2, 3, 200])
def test_another_number_of_descriptors_than_one_is_refused_and_all_are_closed(
    path: Path, count: int
) -> None:
    with client(path) as peer:
        handle = peer.create()
        before = open_files()
        reading, writing = os.pipe()
        failure = peer.refused(messages.WriteFrom(handle=handle, offset=0), [reading] * count)
        assert failure.code == "descriptor"
        assert peer.alive()
        os.close(reading)
        os.close(writing)
        assert open_files() <= before


def test_a_descriptor_with_a_call_that_takes_none_is_refused_and_closed(path: Path) -> None:
    with client(path) as peer:
        before = open_files()
        reading, writing = os.pipe()
        assert peer.refused(messages.Claim(name="p"), [reading]).code == "descriptor"
        assert peer.alive()
        os.close(reading)
        os.close(writing)
        assert open_files() <= before


@pytest.mark.parametrize("where", ["header", "payload"])
def test_a_descriptor_with_a_write_frame_ends_the_connection_and_is_closed(
    path: Path, where: str
) -> None:
    reading, writing = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))]
    with client(path) as peer:
        handle = peer.create()
        header = pack_header(Header(Kind.WRITE, 100, 9, handle, 0))
        if where == "header":
            peer.sock.sendmsg([header + bytes(100)], rights)
        else:
            peer.sock.sendall(header + bytes(50))
            peer.sock.sendmsg([bytes(50)], rights)
        failure = peer.reply().failure
        assert failure.code == "descriptor"
        assert peer.ended()
    os.close(writing)
    assert read_all(reading) == b""  # nobody else holds the writing end


def test_descriptors_of_a_broken_frame_or_a_client_that_leaves_are_closed(path: Path) -> None:
    for said in (b"nonsense" * 3, pack_header(Header(Kind.CALL, 50, 1)), b"TL"):
        reading, writing = os.pipe()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))]
        with client(path) as peer:
            peer.sock.sendmsg([said], rights)
        os.close(writing)
        assert read_all(reading) == b""


def test_a_daemon_without_a_free_descriptor_says_busy_and_goes_on(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        write_all(writing, b"precious")
        taken = [os.dup(reading)]
        while taken[-1] <= max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) - 2:
            taken.append(os.dup(reading))
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, hard))
        try:
            failure = peer.refused(messages.WriteFrom(handle=handle, offset=0), [reading])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)
        assert (failure.code, failure.retryable) == ("busy", True)
        received = peer.ask(messages.WriteFrom(handle=handle, offset=0), [reading])
        assert received.offset == len(b"precious")
        os.close(reading)


def test_a_descriptor_is_not_inherited_by_programs_that_are_started(
    path: Path, service: MemoryService
) -> None:
    seen: list[int] = []

    def look(writer: MemoryWriter) -> None:
        for entry in Path("/proc/self/fd").iterdir():
            fd = int(entry.name)
            try:
                inheritable = os.get_inheritable(fd)
            except OSError:
                continue
            if inheritable and fd > 2 and stat.S_ISFIFO(os.fstat(fd).st_mode):
                seen.append(fd)

    with client(path) as peer:
        handle = peer.create()
        reading, writing = os.pipe()
        os.write(writing, b"x")
        before: list[int] = []
        service.accepting = look
        look(service.sessions[0].writing(handle))
        before, seen[:] = list(seen), []
        peer.ask(messages.WriteFrom(handle=handle, offset=0, length=1), [reading])
        assert seen == before
        os.close(reading)
        os.close(writing)


# --- kernels and rights that differ -----------------------------------------------------------


class OldKernel:
    """os.preadv and os.pwritev as they are where pipes know no RWF_NOWAIT."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        monkeypatch.setattr(os, "preadv", self.refuse)
        monkeypatch.setattr(os, "pwritev", self.refuse)

    def refuse(self, *args: object) -> int:
        self.asked += 1
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")


@pytest.mark.parametrize("may_open", [True, False])
def test_an_older_kernel_never_waits_in_a_pipe_either(
    monkeypatch: pytest.MonkeyPatch, may_open: bool
) -> None:
    old = OldKernel(monkeypatch)
    opened: list[int] = []
    real_open = os.open

    def reopen(name: str, flags: int) -> int:
        if not may_open:
            raise PermissionError(errno.EACCES, "Permission denied")
        opened.append(real_open(name, flags))
        return opened[-1]

    monkeypatch.setattr(os, "open", reopen)
    before = open_files()
    reading, writing = os.pipe()
    flags = fcntl.fcntl(reading, fcntl.F_GETFL), fcntl.fcntl(writing, fcntl.F_GETFL)
    source, sink = PipeEnd(os.dup(reading), False), PipeEnd(os.dup(writing), True)
    buffer = memoryview(bytearray(100))
    assert source.read(buffer) is None
    assert sink.write(memoryview(b"abc")) == 3
    assert source.read(buffer) == 3
    assert bytes(buffer[:3]) == b"abc"
    total = 0
    while (count := sink.write(memoryview(bytes(1 << 20)))) is not None:
        assert 0 < count <= (1 << 20 if may_open else 4096)
        total += count
    assert total >= 1 << 19
    assert old.asked == 2  # asked once for each end, and then no more
    assert len(opened) == (2 if may_open else 0)
    assert flags == (fcntl.fcntl(reading, fcntl.F_GETFL), fcntl.fcntl(writing, fcntl.F_GETFL))
    sink.close()
    os.close(writing)
    while source.read(memoryview(bytearray(1 << 20))):
        pass
    assert source.read(buffer) == 0
    source.close()
    os.close(reading)
    assert open_files() <= before


def test_a_pipe_without_room_holds_no_part_back() -> None:
    """A part of 16 MiB that waits for the collector of cycles is memory that no formula knows."""
    reading, writing = os.pipe()
    source, sink = PipeEnd(reading, False), PipeEnd(writing, True)
    gc.disable()
    try:
        room = memoryview(bytearray(1 << 16))
        assert source.read(room) is None
        part = memoryview(bytearray(2 << 20))
        while sink.write(part) is not None:
            pass
        held = [weakref.ref(room), weakref.ref(part)]
        del room, part
        assert [view() for view in held] == [None, None]
    finally:
        gc.enable()
        source.close()
        sink.close()


@pytest.mark.parametrize("old", [False, True])
def test_another_reader_of_the_same_pipe_does_not_hold_the_daemon(
    monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    if old:
        OldKernel(monkeypatch)
    reading, writing = os.pipe()
    end = take_end(os.dup(reading), writing=False)
    os.write(writing, b"x")
    os.read(reading, 1)  # between the daemon's poll and its read
    assert end.read(memoryview(bytearray(10))) is None
    end.close()
    os.close(reading)
    os.close(writing)


# --- the pump by itself -----------------------------------------------------------------------


class Dripping:
    """An end that gives one byte at a time, and none at every other."""

    def __init__(self, data: bytes) -> None:
        self._data = list(data)
        self._turn = 0
        self._fd = os.eventfd(1)  # always ready

    def fileno(self) -> int:
        return self._fd

    def read(self, view: memoryview) -> int | None:
        self._turn += 1
        if self._turn % 2:
            return None
        if not self._data:
            return 0
        view[0] = self._data.pop(0)
        return 1

    def write(self, view: memoryview) -> int | None:
        self._turn += 1
        if self._turn % 2:
            return None
        self._data.append(view[0])
        return 1

    def close(self) -> None:
        os.close(self._fd)


def test_every_byte_arrives_once_and_in_order_however_they_come() -> None:
    data = os.urandom(1000)
    writer = MemoryWriter(MemoryService(part=64), "i")
    end: End = Dripping(data)
    assert streaming.fill(end, writer, None, lambda: False, 5, lambda count: None)
    assert writer.data == data
    end.close()
    sink = Dripping(b"")
    pieces = (memoryview(data)[at : at + 300] for at in range(0, 1000, 300))
    assert streaming.drain(sink, pieces, lambda: False, 5, lambda count: None) == 1000
    assert bytes(sink._data) == data
    sink.close()


def test_whoever_leaves_is_noticed_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "TICK_S", 0.0)
    reading, writing = os.pipe()
    os.write(writing, b"abc")
    writer = MemoryWriter(MemoryService(), "i")
    end = take_end(reading, writing=False)
    with pytest.raises(PeerGone):
        streaming.fill(end, writer, None, lambda: True, 5, lambda count: None)
    assert writer.data == b"abc"
    end.close()
    os.close(writing)


def test_the_line_and_the_pump_look_up_equally_often() -> None:
    assert line.TICK_S == streaming.TICK_S
