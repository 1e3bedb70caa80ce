"""The Python client against the whole daemon."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from catalog import errors
from catalog.model import StorageClass
from connector.client import Client, ConnectionLost, failure_in
from connector.client_writer import Writer
from connector.pool.classes import ClassPolicy
from connector.wire.messages import Keep, Source
from tests.serve.daemons import PART, TOKEN, Daemon, daemon


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for tests that look at their own images only."""
    with daemon(tmp_path_factory.mktemp("shared")) as found:
        yield found


@pytest.fixture
def client(shared: Daemon) -> Iterator[Client]:
    with Client(shared.path, timeout_s=30.0) as found:
        yield found


@pytest.fixture
def alone(here: Daemon) -> Iterator[Client]:
    """The only client of a daemon of its own."""
    with Client(here.path, timeout_s=30.0) as found:
        yield found


@pytest.fixture
def image(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return str(request.node.name)


def put(client: Client, image: str, data: bytes, pool: str = "main") -> Writer:
    with client.create(pool, image) as writer:
        writer.write(data)
    return writer


def get(client: Client, image: str, pool: str = "main") -> bytes:
    with client.open(pool, image) as reader:
        return b"".join(bytes(piece) for piece in reader)


@pytest.mark.parametrize("size", [0, 1, PART, 4 * PART, 9 * PART + 7, (8 << 20) + 1])
def test_an_image_comes_back_as_it_went(client: Client, image: str, size: int) -> None:
    data = os.urandom(size)
    closed = put(client, image, data).closed
    assert closed is not None
    assert (closed.state, closed.offset) == ("complete", size)
    assert closed.sha256 == hashlib.sha256(data).hexdigest()
    assert get(client, image) == data


def test_many_small_writes_are_one_stream(client: Client, image: str) -> None:
    pieces = [os.urandom(number % 700) for number in range(2000)]
    with client.create("main", image) as writer:
        for piece in pieces:
            writer.write(piece)
    assert get(client, image) == b"".join(pieces)


def test_any_part_of_an_image_is_read_without_the_rest(client: Client, image: str) -> None:
    data = os.urandom(5 * PART)
    put(client, image, data)
    with client.open("main", image) as reader:
        assert reader.size == len(data)
        for offset, size in ((0, 10), (PART - 5, 10), (5 * PART - 3, 100), (3 * PART, PART)):
            reader.seek(offset)
            assert reader.read(size) == data[offset : offset + size]
        buffer = bytearray(2 * PART)
        reader.seek(PART // 2)
        assert reader.readinto(buffer) == len(buffer)
        assert buffer == data[PART // 2 :][: len(buffer)]


def test_descriptors_are_read_and_written_by_the_daemon(
    client: Client, image: str, tmp_path: Path
) -> None:
    data = os.urandom(6 * PART + 11)
    source = tmp_path / "source"
    source.write_bytes(data)
    with client.create("main", image) as writer, source.open("rb") as file:
        received = writer.write_from(file.fileno())
        assert (received.offset, received.eof) == (len(data), True)
        writer.write(b"and by frame")
    target = tmp_path / "target"
    with client.open("main", image) as reader, target.open("wb") as out:
        assert reader.read_to(out.fileno()).size == len(data) + 12
    assert target.read_bytes() == data + b"and by frame"


def test_a_pipe_is_followed_until_its_writer_ends(client: Client, image: str) -> None:
    data = os.urandom(3 * PART)
    ours, theirs = os.pipe()

    def feed() -> None:
        with os.fdopen(theirs, "wb") as pipe:
            for start in range(0, len(data), 50_000):
                pipe.write(data[start : start + 50_000])

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(ours, "rb") as end, client.create("main", image) as writer:
        writer.write_from(end.fileno())
    thread.join(10)
    assert get(client, image) == data


def test_a_descriptor_that_cannot_be_used_is_refused_and_the_image_goes_on(
    client: Client, image: str, tmp_path: Path
) -> None:
    with client.create("main", image) as writer, (tmp_path / "out").open("wb") as file:
        with pytest.raises(errors.DescriptorError):
            writer.write_from(file.fileno())
        writer.write(b"by frame instead")
    assert get(client, image) == b"by frame instead"


def test_an_image_that_is_aborted_leaves_nothing(alone: Client, here: Daemon) -> None:
    def write() -> None:
        with alone.create("main", "image") as writer:
            writer.write(os.urandom(3 * PART))
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert list(alone.images("main", state="any")) == []
    assert not any("images/" in key for key in keys(here))
    put(alone, "image", b"again")
    assert get(alone, "image") == b"again"


def keys(here: Daemon) -> list[str]:
    return [found.key for found in here.world.store("main").scan("")]


def test_a_client_that_leaves_without_close_can_resume_with_its_token(here: Daemon) -> None:
    data = os.urandom(5 * PART + 100)
    with Client(here.path) as client:
        writer = client.create("main", "image", token="token-of-mine", source=Source(client="db"))
        writer.write(data[: 4 * PART + 50])
        assert writer.flush(checkpoint=True).durable == writer.durable == 4 * PART + 50
        writer.write(b"lost with the connection")
    with Client(here.path) as client:
        resumed = client.resume(
            "main", "image", "token-of-mine", digest_to=lambda size: hashlib.sha256(data[:size])
        )
        assert resumed.offset >= 4 * PART + 50
        assert resumed.offset <= 4 * PART + 50 + 24
        resumed.abort()
        writer = client.create("main", "image", token="token-of-mine")
        writer.write(data[:PART])
        assert writer.checkpoint().state == "incomplete"
        with client.resume(
            "main", "image", "token-of-mine", digest_to=lambda size: hashlib.sha256(data[:size])
        ) as resumed:
            assert resumed.offset == PART
            resumed.write(data[PART:])
        assert resumed.closed is not None
        assert resumed.closed.sha256 == hashlib.sha256(data).hexdigest()
        assert get(client, "image") == data


def test_a_daemon_that_is_cut_in_the_middle_costs_no_durable_byte(here: Daemon) -> None:
    data = os.urandom(20 << 20)
    with Client(here.path, timeout_s=30.0) as client:
        writer = client.create("main", "image", token="token-of-mine")
        writer.write(data[: 3 * PART])
        durable = writer.flush(checkpoint=True).durable
        assert durable == 3 * PART
        here.cut()
        with pytest.raises(ConnectionLost) as caught:
            writer.write(data[3 * PART :])
        assert caught.value.offset == durable
        here.start()
        with client.resume("main", "image", "token-of-mine") as resumed:
            assert resumed.offset >= durable
            resumed.write(data[resumed.offset :])
        assert get(client, "image") == data


def test_a_close_whose_answer_is_lost_is_settled_by_the_client(here: Daemon) -> None:
    data = os.urandom(2 * PART)
    store = here.world.store("main")
    with Client(here.path, timeout_s=30.0) as client:
        writer = client.create("main", "image", token="token-of-mine")
        writer.write(data)
        writer.flush()
        store.gate.clear()  # the commit waits for the store
        outcome: list[str] = []

        def close() -> None:
            outcome.append(writer.close().state)

        thread = threading.Thread(target=close)
        thread.start()
        time.sleep(0.3)
        assert here.door is not None
        for connection in list(here.door._connections):
            connection.cut()
        store.gate.set()
        thread.join(20)
        assert outcome == ["complete"]
        assert get(client, "image") == data


def test_a_wrong_digest_commits_nothing(alone: Client) -> None:
    writer = alone.create("main", "image")
    writer.write(b"abc")
    assert writer._digest is not None
    writer._digest.update(memoryview(b"d"))
    with pytest.raises(errors.DigestMismatch):
        writer.close()
    assert list(alone.images("main")) == []


def test_errors_come_as_what_they_are_with_their_codes(client: Client, image: str) -> None:
    put(client, image, b"abc")
    with pytest.raises(errors.ImageExists):
        client.create("main", image)
    with pytest.raises(errors.ImageNotFound):
        client.open("main", "nothing")
    with pytest.raises(errors.NoPool):
        client.pool_props("nothing")
    with pytest.raises(errors.NameInvalid):
        client.create("main", "")
    with pytest.raises(errors.CursorExpired):
        client.list("main", cursor="junk")
    with pytest.raises(errors.ImageComplete):
        client.resume("main", image, "token-of-mine")


def test_hostile_names_are_one_image_each_and_come_back_the_same(alone: Client) -> None:
    names = [b"../../x", b"a\0b", b"\xff\xfe", b"%2E%2E", b"..", b"x" * 300, b" ", "é".encode()]
    for name in names:
        with alone.create("main", name) as writer:
            writer.write(b"the image of " + name)
    found = [facts.image.encode("utf-8", "surrogateescape") for facts in alone.images("main")]
    assert found == sorted(names)
    for name in names:
        assert name in [
            facts.image.encode("utf-8", "surrogateescape")
            for facts in alone.images("main", name[:1])
        ]
        with alone.open("main", name) as reader:
            assert reader.read() == b"the image of " + name


def test_what_is_known_of_images_and_pools_is_asked_page_by_page(alone: Client) -> None:
    for number in range(7):
        put(alone, f"image-{number}", b"x" * number)
    page = alone.list("main", "image-", limit=3)
    assert len(page.images) == 3
    assert alone.list("main", "image-", limit=3, cursor=page.cursor).images[0].size == 3
    assert [facts.size for facts in alone.images("main")] == list(range(7))
    assert list(alone.pools()) == ["main", "other"]
    assert alone.claim("main")
    assert not alone.claim("nobody's")
    assert alone.pool_props("main").images == 7
    props = alone.props("main", "image-5")
    assert (props.facts.size, len(props.fragments)) == (5, 1)
    assert alone.map("main", "image-5").extents[0].length == 5
    assert alone.verify("main", "image-5", depth="full").ok
    server = alone.server_props()
    assert (server.state, server.connections) == ("up", 1)
    assert {event.kind for event in alone.events(limit=1000).events} >= {"created", "complete"}


@pytest.mark.deep
def test_a_page_of_images_with_the_longest_names_is_cut_and_goes_on(alone: Client) -> None:
    names = {f"{number:04d}" + "\0" * 300 for number in range(600)}
    for name in names:
        alone.create("main", name).close()
    first = alone.list("main")
    assert 100 < len(first.images) < 600
    assert {facts.image for facts in alone.images("main")} == names
    assert len(alone.events(limit=1000).events) < 1000
    seen, cursor = 0, 0
    while (page := alone.events(cursor, limit=1000)).events:
        seen, cursor = seen + len(page.events), page.cursor
    assert seen >= 1200


def test_keeping_holding_and_deleting(client: Client, image: str) -> None:
    put(client, image, b"abc")
    until = (time.time_ns() // 10**9 + 10**6) * 10**9
    kept = client.set_retention("main", image, reason="audit", until=until)
    assert kept.expires_at == until
    assert client.set_hold("main", image, on=True, reason="lawsuit").hold
    with pytest.raises((errors.ImageHeld, errors.ImageLocked)):
        client.delete("main", image, reason="space")
    put(client, "free", b"abc")
    assert client.delete("main", "free", reason="space") in ("deleted", "pending")
    assert client.delete("main", "free", reason="space") == "deleted"


def test_an_image_is_copied_behind(client: Client, image: str) -> None:
    put(client, image, os.urandom(3 * PART))
    begun = client.copy("main", image, "other", to_image="copy", keep=Keep(), token="copy-token")
    for _ in range(200):
        if client.operation(begun.operation).state != "running":
            break
        time.sleep(0.05)
    found = client.operation(begun.operation)
    assert (found.state, found.error) == ("done", "")
    assert get(client, "copy", "other") == get(client, image)


def test_an_archived_image_says_what_a_recall_would_take(tmp_path: Path) -> None:
    policy = ClassPolicy(fixed=StorageClass.GLACIER)
    with daemon(tmp_path, policy=policy) as found, Client(found.path) as client:
        put(client, "image", os.urandom(2 * PART))
        with pytest.raises(errors.ImageArchived) as caught:
            client.open("main", "image")
        failure = failure_in(caught.value)
        assert failure is not None
        assert failure.offer is not None
        assert failure.offer.objects == 1
        assert not failure.offer.asked
        offer = client.prepare("main", ["image"], dry_run=True)
        assert (offer.ticket, offer.cost) == (failure.offer.ticket, failure.offer.cost)
        with pytest.raises(errors.OverBudget):
            client.prepare("main", ["image"], max_cost=0.0)
        ticket = client.prepare("main", ["image"])
        assert ticket.asked
        assert client.ticket("main", ticket.ticket).ticket == ticket.ticket


def test_over_tcp_with_tls_and_a_token(tmp_path: Path) -> None:
    data = os.urandom((9 << 20) + 1)
    with daemon(tmp_path, tcp=True) as found:
        where = {"host": "127.0.0.1", "port": found.port, "cafile": tmp_path / "cert.pem"}
        with Client(**where, token=TOKEN, timeout_s=30.0) as client:  # type: ignore[arg-type]
            put(client, "image", data)
            assert get(client, "image") == data
            with client.create("main", "second") as writer, (tmp_path / "cert.pem").open() as file:
                with pytest.raises(errors.Unsupported, match="UNIX socket"):
                    writer.write_from(file.fileno())
                writer.write(b"goes on")
            assert get(client, "second") == b"goes on"
        for token in ("wrong", None):
            with pytest.raises(errors.AuthFailed):
                Client(**where, token=token, timeout_s=30.0).hello()  # type: ignore[arg-type]
        with pytest.raises(errors.AuthFailed, match="certificate"):
            Client(host="127.0.0.1", port=found.port, token=TOKEN, timeout_s=30.0).hello()


def test_a_daemon_that_drains_tells_who_begins_something_to_come_back(here: Daemon) -> None:
    with Client(here.path, timeout_s=30.0) as client:
        writer = client.create("main", "image")
        writer.write(b"abc")
        assert here.service is not None
        assert here.door is not None
        door, service = here.door, here.service
        threads = [
            threading.Thread(target=door.drain, args=(10,)),
            threading.Thread(target=service.drain, args=(10,)),
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        writer.close()
        for thread in threads:
            thread.join(20)
        with pytest.raises(ConnectionLost):
            client.claim("main")
