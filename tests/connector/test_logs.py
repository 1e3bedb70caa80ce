"""Logs: one line for each thing that happens, under the image's id, and nothing to forge."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.s3 import S3Location
from connector import logs
from connector.logs import Short, Step, image_log
from connector.store.s3 import S3Store
from connector.wire.messages import Create, Hello, ListImages, Name, Source, Writing
from tests.support.servers import CREDENTIALS, new_bucket

FORGED = "x\n2026-01-01T00:00:00.000Z INFO    deleted pool=main image=other copy=1 id=ff"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    ours = [logging.getLogger(name) for name in logs.OURS]
    handlers, levels = root.handlers, [one.level for one in (root, *ours)]
    yield
    root.handlers = handlers
    for one, level in zip((root, *ours), levels, strict=True):
        one.setLevel(level)


class Lines(io.StringIO):
    def __init__(self, *, json: bool = False, verbose: int = 0) -> None:
        super().__init__()
        logs.set_up(json, verbose, self)

    @property
    def text(self) -> list[str]:
        return self.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text]


def test_a_line_for_people_has_time_level_and_what_happened_to_which_image() -> None:
    lines = Lines()
    image_log("main", "client_1700000000", 2, "00ff").tell(Step.CREATED, client="alice@host")
    (line,) = lines.text
    time, rest = line.split(" ", 1)
    assert time[10] == "T"
    assert time.endswith("Z")
    assert rest == (
        "INFO    created client=alice@host pool=main image=client_1700000000 copy=2 id=00ff"
    )


def test_a_line_for_machines_is_one_object_with_the_same_fields() -> None:
    lines = Lines(json=True)
    image_log("main", "i", 1, "00ff").tell(Step.COMPLETED, size=7, sha256="ab", reason=None)
    (line,) = lines.objects
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "connector.image",
        "message": "completed",
        "step": "completed",
        "pool": "main",
        "image": "i",
        "copy": 1,
        "id": "00ff",
        "facts": {"size": 7, "sha256": "ab"},
    }


def test_the_story_of_an_image_is_found_by_its_id_alone() -> None:
    lines = Lines(json=True)
    one, other = image_log("main", "a", 1, "01"), image_log("main", "b", 1, "02")
    for log in (one, other):
        log.tell(Step.CREATED)
        log.tell(Step.CHECKPOINTED, offset=5)
    one.tell(Step.RESUMED, offset=5)
    one.tell(Step.COMPLETED)
    story = [line["step"] for line in lines.objects if line["id"] == "01"]
    assert story == ["created", "checkpointed", "resumed", "completed"]


def test_what_is_logged_around_an_image_carries_its_id_in_this_thread_only() -> None:
    lines = Lines(json=True)
    deep_below = logging.getLogger("connector.store.s3")
    with image_log("main", "i", 1, "01").around():
        deep_below.warning("tried again")
        other = threading.Thread(target=deep_below.warning, args=("of nobody",))
        other.start()
        other.join()
    deep_below.warning("after it")
    assert [line.get("id") for line in lines.objects] == ["01", None, None]


def test_failures_are_warnings() -> None:
    lines = Lines(json=True)
    image_log("main", "i", 1, "01").tell(Step.FAILED, code="io")
    image_log("main", "i", 1, "01").tell(Step.DAMAGED)
    assert [line["level"] for line in lines.objects] == ["warning", "warning"]


def test_a_hostile_name_stays_on_its_line() -> None:
    lines = Lines()
    image_log("main", FORGED, 1, "01").tell(Step.OPENED)
    logging.getLogger("connector").info("asked for %s", FORGED)
    assert len(lines.text) == 2
    assert not any(line.startswith("2026-01-01") for line in lines.text)


def test_a_name_cannot_add_a_field() -> None:
    lines = Lines()
    image_log("main", "i copy=9 id=ff", 1, "01").tell(Step.OPENED)
    assert lines.text[0].endswith('image="i copy=9 id=ff" copy=1 id=01')


def test_a_traceback_cannot_forge_a_line() -> None:
    lines = Lines()
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("connector").exception("unexpected")
    assert all(line.startswith("    | ") for line in lines.text[1:])
    assert len(lines.text) > 2


def test_a_name_that_is_not_text_is_told_exactly_to_machines() -> None:
    raw = b"\xff\x00\n" + "\N{GRINNING FACE}".encode()
    lines = Lines(json=True)
    image_log("main", raw.decode("utf-8", "surrogateescape"), 1, "01").tell(Step.OPENED)
    (line,) = lines.objects
    assert base64.b64decode(str(line["image_b64"])) == raw
    assert "image" not in line


@given(name=st.binary(min_size=1, max_size=40).map(lambda b: b.decode("utf-8", "surrogateescape")))
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_any_name_gives_one_printable_line(as_json: bool, name: str) -> None:
    lines = Lines(json=as_json)
    image_log("main", name, 1, "01").tell(Step.CREATED, client=name)
    logging.getLogger("connector").info("of %s", name)
    written = lines.getvalue()
    assert written.count("\n") == 2
    assert all(line.isprintable() for line in written.split("\n"))
    if as_json:
        first, second = (json.loads(line) for line in written.split("\n")[:2])
        json.dumps([first, second], ensure_ascii=False).encode()  # no half of a surrogate pair
        raw = name.encode("utf-8", "surrogateescape")
        image = first.get("image")
        assert (base64.b64decode(first["image_b64"]) if image is None else image.encode()) == raw


def test_messages_of_the_protocol_are_logged_in_short_and_only_when_asked_for() -> None:
    protocol = logging.getLogger("connector.serve.connection")
    call = Create(pool="main", image=Name("i"), token="a-secret-token", source=Source(client="c"))
    quiet = Lines()
    protocol.debug("< %s", Short(call))
    assert quiet.text == []
    loud = Lines(verbose=1)
    protocol.debug("< %s", Short(call))
    protocol.debug("> %s", Short(Writing(handle=1, offset=0)))
    assert loud.text[0].endswith(
        "DEBUG   < create pool=main image=i token=(14 characters) source=(source client=c)"
    )
    assert loud.text[1].endswith("DEBUG   > writing handle=1 offset=0")


def test_no_token_is_ever_logged() -> None:
    hello = Hello(versions=(1,), client="c", token="let-me-in-please")
    assert "let-me-in" not in str(Short(hello))
    assert str(Short(hello)) == "hello versions=(1) client=c token=(16 characters)"


def test_a_long_field_is_cut() -> None:
    text = str(Short(ListImages(pool="main", prefix=Name("x" * 4000))))
    assert len(text) < 300
    assert "4000 characters" in text


def test_the_most_talkative_log_of_a_real_store_holds_no_secret(moto_endpoint: str) -> None:
    location = new_bucket(moto_endpoint)
    lines = Lines(json=True, verbose=5)
    store = S3Store(S3Location(location.bucket, "p", moto_endpoint))
    store.put("k", b"payload-of-the-image")
    store.close()
    assert lines.text
    for secret in (CREDENTIALS["AWS_SECRET_ACCESS_KEY"], "Signature", "payload-of-the-image"):
        assert secret not in lines.getvalue()
