"""What the daemon promises of its size: memory with many streams, many idle and slow clients, many
waiters, and a pool of a million images. A process of its own, on the benchmark's endpoint."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.s3 import S3Location
from connector.wire import codec
from connector.wire.frames import Kind
from connector.wire.messages import GetEvents, Hello
from connector.wire.session import message
from tests.connector.support import Running, config_of, serving

pytestmark = [pytest.mark.deep, pytest.mark.soak, pytest.mark.timeout(300)]

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
MIB = 1 << 20
BASE = 150 * MIB
"""What docs/operations.md grants a daemon besides its parts."""
STREAMS = 64
IDLE = 1000
IMAGES = 1_000_000
PAGES = 50


@dataclass
class Endpoint:
    """An S3 endpoint that can be held up: then it takes nothing and answers nothing."""

    url: str
    process: subprocess.Popen[bytes]

    @contextlib.contextmanager
    def stuck(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    command = [sys.executable, str(BENCH / "endpoint.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Endpoint(process.stdout.readline().decode().strip(), process)
        process.stdin.close()
        process.wait(timeout=20)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tl", dir="/tmp") as name:  # a socket's path is short
        yield Path(name)


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def running(
    folder: Path, endpoint: Endpoint, *, pool: str = "", more: str = ""
) -> Iterator[Running]:
    pools = {"main": S3Location("bench", "scale", endpoint.url)}
    text = config_of(folder, pools, pool=pool, more=more).replace(
        "deadline_s = 20", "deadline_s = 90"
    )
    with serving(folder, text) as daemon:
        wait_until(lambda: up(daemon))
        yield daemon


def up(daemon: Running) -> bool:
    with daemon.client() as client:
        return client.pool_props("main").state == "up"


def wait_until(true: Callable[[], bool], within_s: float = 60.0) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.05)


def resident(daemon: Running) -> int:
    """The daemon's memory, in bytes. Source: proc(5), status."""
    return _status(daemon, "VmRSS")


def _status(daemon: Running, name: str) -> int:
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def pattern(size: int) -> bytes:
    command = [sys.executable, str(BENCH / "feed.py"), "source", str(size)]
    return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout


def test_as_many_streams_as_may_be_stay_within_the_memory_that_is_told(
    endpoint: Endpoint, folder: Path
) -> None:
    part, flight = 5 * MIB, 4
    formula = STREAMS * (flight + 1) * part
    data = pattern((flight + 2) * part)
    digest = hashlib.sha256(data).hexdigest()
    settings = f"images_open = {STREAMS}\nparts_in_flight = {flight}\n"
    with running(folder, endpoint, pool=settings) as daemon:
        before = resident(daemon)
        begun, stuck = threading.Barrier(STREAMS + 1), threading.Event()

        def write(number: int) -> str | None:
            with daemon.client() as client, client.create("main", f"stream-{number}") as image:
                image.write(data[:part])
                image.flush()
                begun.wait(60)
                assert stuck.wait(60)
                image.write(data[part:])
                return image.close().sha256

        with ThreadPoolExecutor(STREAMS) as pool:
            stored = [pool.submit(write, number) for number in range(STREAMS)]
            begun.wait(60)
            with endpoint.stuck():
                stuck.set()
                wait_until(lambda: resident(daemon) >= before + 0.9 * formula)
                time.sleep(2)
                full = resident(daemon)
            assert {one.result(timeout=120) for one in stored} == {digest}
        print(f"before {before // MIB} MiB, formula {formula // MIB}, full {full // MIB},"
              f" peak {_status(daemon, 'VmHWM') // MIB}")  # fmt: skip
        assert _status(daemon, "VmHWM") <= formula + BASE

        def read(number: int) -> str:
            found = hashlib.sha256()
            with daemon.client() as client, client.open("main", f"stream-{number}") as image:
                for piece in image:
                    found.update(piece)
            return found.hexdigest()

        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(read, range(STREAMS))) == {digest}


def test_a_thousand_idle_clients_and_slow_ones_do_not_harm_a_stream(
    endpoint: Endpoint, folder: Path, many_files: None
) -> None:
    data = pattern(64 * MIB)
    limits = "[limits]\nconnections = 1200\nhalf_open_s = 3\n"
    with running(folder, endpoint, more=limits) as daemon, contextlib.ExitStack() as stack:
        alone = min(_seconds_of_a_put(daemon, f"alone-{n}", data) for n in range(3))
        before = resident(daemon)
        hello = message(Kind.CALL, 1, codec.encode_call(Hello(versions=(1,))))
        idle = []
        for _ in range(IDLE):
            sock = stack.enter_context(_connected(daemon))
            sock.sendall(hello)
            sock.recv(1 << 16)
            idle.append(sock)
        time.sleep(1.5)  # their threads have gone
        each = (resident(daemon) - before) / IDLE
        ended = threading.Event()
        drip = stack.enter_context(ThreadPoolExecutor(1)).submit(_slow_loris, daemon, 100, ended)
        try:
            among = min(_seconds_of_a_put(daemon, f"among-{n}", data) for n in range(3))
        finally:
            ended.set()
        let_go = drip.result(timeout=30)
        print(f"{each / 1024:.1f} KiB for each idle one; {alone:.2f} s alone, {among:.2f} s among")
        assert each <= 32 << 10
        assert among < 3 * alone + 1.0
        assert let_go >= 100
        with daemon.client() as client:
            assert client.server_props().connections <= IDLE + 20
        idle[0].sendall(message(Kind.CALL, 2, codec.encode_call(GetEvents(cursor=-1))))
        assert idle[0].recv(1 << 16)  # whoever was idle is still served
    # what they were is gone with them


def _seconds_of_a_put(daemon: Running, name: str, data: bytes) -> float:
    begin = time.monotonic()
    with daemon.client() as client, client.create("main", name, digest=False) as image:
        image.write(data)
        assert image.close().sha256 == hashlib.sha256(data).hexdigest()
    return time.monotonic() - begin


def _connected(daemon: Running) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(daemon.socket))
    return sock


def _slow_loris(daemon: Running, count: int, ended: threading.Event) -> int:
    """Say hello a byte at a time on many connections, again and again; how many were let go of."""
    hello = message(Kind.CALL, 1, codec.encode_call(Hello(versions=(1,))))
    slow = [(_connected(daemon), 0) for _ in range(count)]
    let_go = 0
    least = time.monotonic() + 6.0
    while not ended.is_set() or time.monotonic() < least:
        for index, (sock, at) in enumerate(slow):
            try:
                sock.send(hello[at : at + 1] or b"x")
                slow[index] = sock, at + 1
            except ConnectionError:
                let_go += 1
                sock.close()
                slow[index] = _connected(daemon), 0
        time.sleep(0.25)
    for sock, _ in slow:
        sock.close()
    return let_go


def test_whoever_waits_for_events_gets_them_and_holds_nobody_up(
    endpoint: Endpoint, folder: Path
) -> None:
    count = 200
    with running(folder, endpoint) as daemon, contextlib.ExitStack() as stack:
        before = resident(daemon)
        waiting = []
        for _ in range(count):
            client = stack.enter_context(daemon.client())
            waiting.append((client, client.events(-1).cursor))
        with ThreadPoolExecutor(count) as pool:
            answers = [pool.submit(client.events, cursor, wait_s=30) for client, cursor in waiting]
            time.sleep(2)
            each = (resident(daemon) - before) / count
            begin = time.monotonic()
            _seconds_of_a_put(daemon, "awaited", b"x" * MIB)
            put = time.monotonic() - begin
            pages = [answer.result(timeout=20) for answer in answers]
            told = time.monotonic() - begin
        print(f"{each / 1024:.0f} KiB for each waiter; put {put:.2f} s, all told in {told:.2f} s")
        assert all(page.events[0].image == "awaited" for page in pages)
        assert each <= 256 << 10
        assert put < 5
        assert told < 10


def test_pages_of_a_million_images_are_quick(endpoint: Endpoint, folder: Path) -> None:
    with running(folder, endpoint) as daemon:
        with daemon.client() as client, client.create("main", "first") as image:
            image.write(b"first")
        assert daemon.end() == 0
    found = [path for path in (folder / "state").rglob("*") if _has_images(path)]
    assert len(found) == 1
    _fill(found[0])
    with running(folder, endpoint) as daemon, daemon.client() as client:
        before = resident(daemon)
        cursor, names, pages = None, [], []
        for _ in range(PAGES):
            asked = time.monotonic()
            page = client.list("main", "job-05", cursor=cursor)
            pages.append(time.monotonic() - asked)
            names += [facts.image for facts in page.images]
            cursor = page.cursor
        asked = time.monotonic()
        assert len(client.list("main", "job-0999").images) == 1000
        deep = time.monotonic() - asked
        asked = time.monotonic()
        assert client.list("main", state="incomplete").images == ()
        none = time.monotonic() - asked
        asked = time.monotonic()
        assert client.pool_props("main").images == IMAGES + 1
        props = time.monotonic() - asked
        grown = (resident(daemon) - before) / MIB
        typical = sorted(pages)[PAGES // 2]
        print(f"a page of 1,000: {typical:.3f} s, longest {max(pages):.3f} s; deep {deep:.3f} s,")
        print(f"none {none:.3f} s, props {props:.3f} s, grown {grown:.0f} MiB")
    assert names == [f"job-05{number:05}" for number in range(PAGES * 1000)]
    assert typical < 0.5
    assert max(pages) < 2
    assert deep < 1
    assert none < 2
    assert props < 1
    assert grown < 64


def _has_images(path: Path) -> bool:
    if not path.is_file() or path.read_bytes()[:15] != b"SQLite format 3":
        return False
    with contextlib.closing(sqlite3.connect(path)) as db:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'stored_images'"
        return bool(db.execute(query).fetchone()[0])


def _fill(path: Path) -> None:
    """Repeat the one image of an index, which is faster than to store a million."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        names = [row[1] for row in db.execute("PRAGMA table_info(stored_images)")]
        copied = ", ".join(
            "CAST(printf('job-%07d', n) AS BLOB)" if c == "name" else c for c in names
        )
        db.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers"
            f" WHERE n + 1 < {IMAGES}) INSERT INTO stored_images ({', '.join(names)})"
            f" SELECT {copied} FROM numbers, stored_images"
        )
