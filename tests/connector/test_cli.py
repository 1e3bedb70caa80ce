"""The commands of clients, against a daemon's service behind a real socket."""

from __future__ import annotations

import hashlib
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

from catalog.errors import ImageArchived, ImageDamaged, PoolDown, PoolError
from catalog.model import StorageClass
from connector import cli
from connector.client import Client, ConnectionLost
from connector.commands import fetching, sending
from connector.commands.fetching import Wish, fetch
from connector.commands.options import Place
from connector.commands.sending import Order, send
from connector.commands.streams import give, given
from connector.pool.classes import ClassPolicy
from connector.wire.messages import Name
from tests.connector.support import PROGRAM, answered, answering, call, said
from tests.serve.support import World

DATA = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def socket(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Pools main and other, and cold, whose images go to Glacier."""
    cold = ClassPolicy(fixed=StorageClass.GLACIER)
    sizes = {"part_size": 16 << 10, "fragment_size": 64 << 10}
    pools = (
        world.pool(sizes=sizes),
        world.pool("other", sizes=sizes),
        world.pool("cold", policy=cold, sizes=sizes),
    )
    with answering(tmp_path_factory.mktemp("s"), world, *pools) as path:
        yield str(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def store(socket: str, name: str, data: bytes, pool: str = "main") -> None:
    with Client(socket=socket) as client, client.create(pool, name) as writer:
        writer.write(data)


# --- put and get ----------------------------------------------------------------------------------


WAYS = [(), ("--no-descriptor",), ("--digest", "--no-descriptor")]


@pytest.mark.parametrize("way", WAYS, ids=["descriptor", "socket", "hashed"])
def test_a_pipe_is_stored_and_read_back(socket: str, way: tuple[str, ...]) -> None:
    name = f"main/pipe{len(way)}"
    done = call("put", "--socket", socket, name, "--json", *way, data=DATA)
    assert done.returncode == 0, done.stderr
    closed = json.loads(done.stdout)
    assert (closed["state"], closed["offset"]) == ("complete", len(DATA))
    assert closed["sha256"] == hashlib.sha256(DATA).hexdigest()
    done = call("get", "--socket", socket, name, *way)
    assert (done.returncode, done.stdout) == (0, DATA)


@pytest.mark.parametrize("way", [(), ("--digest",)], ids=["not asked", "asked"])
def test_a_digest_of_the_clients_own_is_compared_when_asked_for(
    socket: str, file: Path, monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...]
) -> None:
    """A client that hashes wrongly finds out: so what it says was really compared."""
    name = f"main/hashed{len(way)}"

    def wrong(*, wanted: bool, offset: int) -> Any:
        return hashlib.sha256(b"?") if wanted else None

    monkeypatch.setattr("connector.client.new_digest", wrong)
    code, _, err = said("put", "--socket", socket, "--no-descriptor", name, str(file), *way)
    assert (code, "the sender says" in err) == ((3, True) if way else (0, False)), err


@pytest.mark.parametrize("way", [(), ("--no-descriptor",)], ids=["descriptor", "socket"])
def test_the_same_put_of_a_file_says_the_same_and_stores_once(
    socket: str, file: Path, way: tuple[str, ...]
) -> None:
    words = ("put", "--socket", socket, f"main/file{len(way)}", str(file), *way)
    first, second = answered(*words), answered(*words)
    assert first == second
    assert first["sha256"] == hashlib.sha256(DATA).hexdigest()
    file.write_bytes(DATA + b"x")
    code, _, err = said(*words)
    assert (code, "error: " in err) == (2, True)


def test_a_file_is_gone_on_with_where_an_earlier_put_ended(socket: str, file: Path) -> None:
    order = Order(pool="main", image=Name("resumed"), descriptor=False)
    with file.open("rb") as stream:
        source = given(stream.fileno(), "file")
        token = sending._token(order, source)
        with Client(socket=socket) as client:
            writer = client.create("main", "resumed", token=token)
            writer.write(DATA[:50_000])
            durable = writer.checkpoint().offset
        assert durable > 0
        seen: list[int] = []
        closed = send(lambda: Client(socket=socket), order, source, seen.append)
    assert seen[0] == durable
    assert closed.sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_file_survives_a_lost_connection(
    socket: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE_S", 0.01)
    clients: list[Client] = []

    def connect() -> Client:
        clients.append(Client(socket=socket))
        return clients[-1]

    def cut(done: int) -> None:
        if len(clients) == 1 and done > 0:
            channel = clients[0]._channel
            assert channel is not None
            channel.close()

    order = Order(pool="main", image=Name("cut"), descriptor=False)
    with file.open("rb") as stream:
        closed = send(connect, order, given(stream.fileno(), "file"), cut)
    assert len(clients) == 2
    assert closed.sha256 == hashlib.sha256(DATA).hexdigest()


def test_an_interrupted_pipe_leaves_nothing(socket: str) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "put", "--socket", socket, "main/interrupted"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(DATA)
    process.stdin.flush()
    with Client(socket=socket) as client:
        _until(lambda: any(h.image == "interrupted" for h in client.server_props().handles))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 5
        _until(lambda: not client.list("main", "interrupted", state="any").images)
    process.stdin.close()
    assert process.stderr is not None
    process.stderr.close()


def _until(holds: Any) -> None:
    end = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_put_says_how_an_image_is_kept_and_where_it_is_from(socket: str, file: Path) -> None:
    words = ("--socket", socket, "main/kept")
    answered(
        "put", *words, str(file), "--expires", "2040-01-01", "--hold", "--product", "p",
        "--client", "c", "--policy", "q", "--schedule", "s", "--backup-time", "2024-01-01",
        "--size", "1 MiB", "--block-size", "512",
    )  # fmt: skip
    props = answered("stat", *words)
    assert props["facts"]["expires_at"] == 2_208_988_800_000_000_000
    assert props["facts"]["hold"] is True
    assert {props["source"][key] for key in ("product", "client", "policy", "schedule")} == set(
        "pcqs"
    )
    code, out, _ = said("stat", *words)
    assert code == 0
    assert "2040-01-01T00:00:00Z" in out
    assert "p / c / q / s" in out


def test_a_part_of_an_image_is_read(socket: str) -> None:
    store(socket, "range", DATA)
    for way in ((), ("--no-descriptor",)):
        done = call(
            "get", "--socket", socket, "main/range", "--offset", "700", "--length", "9000", *way
        )
        assert (done.returncode, done.stdout) == (0, DATA[700:9700])
    code, _, err = said("get", "--socket", socket, "main/range", "--offset", "999999999")
    assert (code, "past the end" in err) == (2, True)


@pytest.mark.parametrize("way", [(), ("--no-descriptor",)], ids=["descriptor", "socket"])
def test_a_file_appears_when_it_is_whole_and_is_not_replaced_unasked(
    socket: str, tmp_path: Path, way: tuple[str, ...]
) -> None:
    store(socket, f"out{len(way)}", DATA)
    words = ("get", "--socket", socket, f"main/out{len(way)}", "-o", str(tmp_path / "out"), *way)
    found = answered(*words)
    assert (found["size"], found["resumed_at"]) == (len(DATA), 0)
    assert (tmp_path / "out").read_bytes() == DATA
    code, _, err = said(*words)
    assert (code, "--force" in err) == (2, True)
    assert said(*words, "--force")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_broken_get_is_gone_on_with(socket: str, tmp_path: Path) -> None:
    store(socket, "broken", DATA)
    wish = Wish(pool="main", image=Name("broken"), out=tmp_path / "out")
    with Client(socket=socket) as client, client.open("main", "broken") as reader:
        part = fetching._part(reader, wish, tmp_path / "out")
    part.write_bytes(DATA[:30_000])
    assert fetch(lambda: Client(socket=socket), wish, lambda _: None).resumed_at == 30_000
    assert (tmp_path / "out").read_bytes() == DATA
    assert not part.exists()


def test_what_an_earlier_get_left_is_not_trusted(socket: str, tmp_path: Path) -> None:
    store(socket, "spoilt", DATA)
    wish = Wish(pool="main", image=Name("spoilt"), out=tmp_path / "out")
    with Client(socket=socket) as client, client.open("main", "spoilt") as reader:
        part = fetching._part(reader, wish, tmp_path / "out")
    part.write_bytes(b"x" * 30_000)
    with pytest.raises(ImageDamaged, match="does not fit"):
        fetch(lambda: Client(socket=socket), wish, lambda _: None)
    assert list(tmp_path.iterdir()) == []
    fetch(lambda: Client(socket=socket), wish, lambda _: None)
    assert (tmp_path / "out").read_bytes() == DATA


def test_a_reader_that_goes_away_ends_get_quietly(socket: str) -> None:
    store(socket, "headed", DATA * 15)
    process = subprocess.Popen(
        [*PROGRAM, "get", "--socket", socket, "main/headed"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(10) == DATA[:10]
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


# --- names ----------------------------------------------------------------------------------------

HOSTILE = [b"../up", b"a/../../b", b"%2e%2e", b"\xff\xfe", b"a b\tc\n", b"-rf", b"x" * 200, b"//"]


def test_names_are_bytes_on_their_way_in_and_out(socket: str) -> None:
    for number, name in enumerate(HOSTILE):
        image = b"other/" + name
        done = call("put", "--socket", socket, image, data=b"%d" % number)  # type: ignore[arg-type]
        assert done.returncode == 0, (name, done.stderr)
    for number, name in enumerate(HOSTILE):
        done = call("get", "--socket", socket, b"other/" + name)  # type: ignore[arg-type]
        assert (done.returncode, done.stdout) == (0, b"%d" % number), name
    listed = call("ls", "--socket", socket, "other/", "--json")
    rows = json.loads(listed.stdout.decode("utf-8"))  # strictly
    assert len(rows) == len(HOSTILE)
    assert {"image_b64": "//4="}.items() <= next(r for r in rows if "image_b64" in r).items()
    shown = call("ls", "--socket", socket, "other/").stdout
    assert b"a b\\tc\\n" in shown
    assert shown.count(b"\n") == len(HOSTILE) + 1


@pytest.mark.parametrize("name", ["main", "main/", "/x", ""])
def test_what_does_not_name_an_image_is_said_so(socket: str, name: str) -> None:
    code, _, err = said("stat", "--socket", socket, name)
    assert (code, "POOL/NAME" in err) == (2, True)


# --- lists ----------------------------------------------------------------------------------------


def test_images_are_listed_by_prefix_state_time_and_number(socket: str) -> None:
    for name in ("list-b", "list-a", "list-c"):
        store(socket, name, b"12345")
    words = ("ls", "--socket", socket)
    assert [row["image"] for row in answered(*words, "main/list-")] == [
        "list-a", "list-b", "list-c",
    ]  # fmt: skip
    code, out, err = said(*words, "main/list-", "--limit", "2")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "--limit 0" in err
    assert answered(*words, "main/list-", "--before", "2020-01-01") == []
    assert len(answered(*words, "main/list-", "--after", "2020-01-01")) == 3
    assert answered(*words, "main/list-", "--state", "incomplete") == []
    assert {row["pool"] for row in answered(*words)} >= {"main"}
    code, _, err = said(*words, "none/")
    assert (code, "no pool" in err) == (2, True)


def test_pools_and_status_are_shown(socket: str) -> None:
    assert [one["pool"] for one in answered("pools", "--socket", socket)] == [
        "cold", "main", "other",
    ]  # fmt: skip
    assert "GLACIER" in said("pools", "--socket", socket, "co")[1].upper()
    with Client(socket=socket) as client:
        writer = client.create("main", "live")
        writer.write(b"x")
        writer.flush()
        code, out, _ = said("status", "--socket", socket)
        assert (code, "main/live" in out) == (0, True)
        assert answered("status", "--socket", socket)["state"] == "up"
        writer.abort()


def test_events_are_shown_and_gone_on_with(socket: str) -> None:
    with Client(socket=socket) as client:
        start = client.events(-1).cursor
    store(socket, "event", b"x")
    words = ("events", "--socket", socket, "--cursor", str(start))
    _until(lambda: '"complete"' in said(*words, "--json")[1])
    page = answered(*words)
    told = [event["kind"] for event in page["events"] if event.get("image") == "event"]
    assert told == ["created", "complete"]
    code, out, err = said(*words)
    assert code == 0
    assert "main/event" in out
    assert f"--cursor {page['cursor']}" in err


def test_events_are_followed(socket: str) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "events", "--socket", socket, "--follow", "--json"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["cursor"] > 0
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 5
    process.stdout.close()


# --- keeping, deleting, copying -------------------------------------------------------------------


def test_an_image_that_is_held_stays_until_it_is_released(socket: str) -> None:
    store(socket, "held", b"x")
    name = ("--socket", socket, "main/held")
    assert answered("hold", *name, "--reason", "case")["hold"] is True
    code, _, err = said("rm", *name, "--yes")
    assert (code, "error: " in err) == (2, True)
    assert answered("hold", *name, "--release")["hold"] is False
    assert answered("rm", *name, "--yes") == [{"pool": "main", "image": "held", "state": "deleted"}]
    assert answered("rm", *name, "--yes")[0]["state"] == "deleted"
    assert answered("ls", "--socket", socket, "main/held") == []


def test_deleting_asks_first(socket: str) -> None:
    store(socket, "asked", b"x")
    done = call("rm", "--socket", socket, "main/asked")
    assert (done.returncode, b"--yes" in done.stderr) == (2, True)
    assert len(answered("ls", "--socket", socket, "main/asked")) == 1


def test_an_incomplete_attempt_can_be_given_up(socket: str) -> None:
    with Client(socket=socket) as client:
        writer = client.create("main", "half")
        writer.write(b"x")
        writer.checkpoint()
    words = ("--socket", socket, "main/half")
    assert answered("ls", *words, "--state", "incomplete")[0]["state"] == "incomplete"
    assert answered("rm", *words, "--incomplete", "--yes")[0]["state"] == "discarded"
    assert answered("ls", *words, "--state", "any") == []


def test_retention_is_extended(socket: str) -> None:
    store(socket, "retained", b"x")
    name = ("--socket", socket, "main/retained")
    until = answered("retain", *name, "--until", "2041-01-01")["expires_at"]
    assert until == 2_240_611_200_000_000_000
    assert answered("retain", *name, "--forever")["infinite"] is True
    for words in ((), ("--days", "1", "--forever")):
        assert said("retain", *name, *words)[0] == 2


def test_an_image_is_copied_to_another_pool_and_verified(socket: str) -> None:
    store(socket, "doubled", DATA)
    done = answered("copy", "--socket", socket, "main/doubled", "other/twin", "--days", "3")
    assert done["state"] == "done"
    (found,) = answered("verify", "--socket", socket, "other/twin", "--depth", "full")
    assert found["ok"] is True
    code, _, err = said("copy", "--socket", socket, "main/doubled", "main")
    assert (code, "error: " in err) == (2, True)


def test_damage_is_found_and_said(socket: str, world: World) -> None:
    store(socket, "damaged", DATA, pool="other")
    memory: Any = world.store("other")._store
    key = next(o.key for o in memory.scan("images/damaged/") if not o.key.endswith(".json"))
    memory.delete(key, version_id=memory.stat(key).version_id)
    code, out, _ = said("verify", "--socket", socket, "other/damaged")
    assert (code, "sound" in out) == (3, False)


# --- recall ---------------------------------------------------------------------------------------


def test_an_archived_image_is_prepared_with_its_price_first(socket: str, file: Path) -> None:
    name = ("--socket", socket, "cold/archived")
    assert said("put", *name, str(file))[0] == 0
    done = call("get", *name)
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"archived" in done.stderr or b"prepare" in done.stderr
    offer = answered("prepare", *name, "--dry-run")
    assert (offer["state"], offer["asked"]) == ("offered", False)
    assert offer["objects"] > 0
    refused = call("prepare", *name)
    assert (refused.returncode, b"--max-cost" in refused.stderr) == (2, True)
    assert said("prepare", *name, "--max-cost", "0", "--tier", "expedited")[0] == 2
    assert answered("prepare", *name, "--dry-run")["asked"] is False
    code, out, err = said("prepare", *name, "--tier", "bulk", "--yes")
    assert (code, "must be recalled" in err) == (5, True)
    ticket = next(line.split()[1] for line in out.splitlines() if line.startswith("ticket:"))
    code, out, _ = said("ticket", "--socket", socket, ticket)
    assert (code, "waiting" in out) == (5, True)
    code, out, _ = said("ticket", "--socket", socket, ticket, "--cancel")
    assert code in (0, 5)


def test_ranges_are_of_one_image(socket: str) -> None:
    words = ("prepare", "--socket", socket, "cold/a", "cold/b", "--range", "0+1")
    assert said(*words)[0] == 2
    assert said("prepare", "--socket", socket, "cold/a", "--range", "0-1")[0] == 2
    assert said("prepare", "--socket", socket, "cold/a", "main/b")[0] == 2


# --- finding the daemon, and errors ---------------------------------------------------------------


def test_a_daemon_that_is_not_there_is_said_so_with_what_to_do(tmp_path: Path) -> None:
    code, out, err = said("ls", "--socket", str(tmp_path / "none"), "--json")
    assert code == 4
    assert "serve --embedded" in err
    assert json.loads(out)["error"]["code"] == "connection"


def test_a_socket_where_nobody_listens_any_more_is_said_so(tmp_path: Path) -> None:
    import socket as sockets

    with sockets.socket(sockets.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    code, _, err = said("ls", "--socket", str(tmp_path / "left"))
    assert (code, "error: " in err) == (4, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--tcp", "127.0.0.1"), "HOST:PORT"),
        (("--tcp", "127.0.0.1:99999"), "HOST:PORT"),
        (("--tcp", "127.0.0.1:4711"), "--token-file"),
        (("--tcp", "127.0.0.1:4711", "--socket", "x"), "at once"),
        (("--cafile", "x"), "--tcp"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: tuple[str, ...], told: str) -> None:
    code, _, err = said("pools", *words)
    assert (code, told in err) == (2, True)


def test_what_is_not_yet_what_is_damaged_and_what_is_away_are_told_apart() -> None:
    from catalog.console import ERROR_CODES, exit_code

    def code(error: PoolError) -> int:
        return exit_code(error, {**ERROR_CODES, **cli.CODES})

    assert [code(kind("x")) for kind in (ImageArchived, ImageDamaged, PoolDown)] == [5, 3, 4]


def test_commands_of_clients_start_without_the_daemons_code() -> None:
    program = (
        "import sys, connector.cli\n"
        "heavy = {'boto3', 'botocore', 'pyarrow', 'duckdb', 'connector.pool', 'connector.store'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, check=True
    )
    assert done.stdout.strip() == b"[]"


def test_a_folder_and_a_terminal_cannot_be_stored(socket: str, tmp_path: Path) -> None:
    code, _, err = said("put", "--socket", socket, "main/x", str(tmp_path))
    assert (code, "is a folder" in err) == (2, True)
    code, _, err = said("put", "--socket", socket, "main/x", str(tmp_path / "none"))
    assert (code, "check FILE" in err) == (2, True)


def test_the_version_is_shown() -> None:
    assert answered("version")["program"] == "tapeconnector"
    assert os.fsencode(said("version")[1]).startswith(b"tapeconnector ")


def test_put_goes_on_when_the_daemon_is_restarted_but_does_not_wait_for_one_that_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = said("put", "--socket", f"{tmp_path}/none", "main/a", __file__)
    assert (code, "no daemon listens" in err) == (4, True)
    tries: list[int] = []

    def connect() -> Client:
        tries.append(len(tries))
        if len(tries) == 1:
            raise ConnectionLost("it ends")
        if len(tries) < 4:
            return Place(socket=tmp_path / "none").client()
        raise PoolError("it is back, and refuses for good")

    monkeypatch.setattr(sending, "FIRST_PAUSE_S", 0.01)
    file = give(__file__)
    with pytest.raises(PoolError, match="it is back"):
        sending.send(connect, Order(pool="main", image=Name("a")), file, lambda size: None)
    assert tries == [0, 1, 2, 3]
