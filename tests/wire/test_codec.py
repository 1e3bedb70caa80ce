"""Messages as JSON: what is written reads back, and what a stranger writes is judged strictly."""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.wire import codec
from connector.wire.errors import LocalProtocolError, RemoteProtocolError
from connector.wire.frames import MAX_CONTROL
from connector.wire.messages import (
    CALLS,
    MAX_INT,
    MAX_LIST,
    MAX_NAME_BYTES,
    MAX_TEXT,
    Answer,
    Call,
    Claimed,
    Create,
    Delete,
    Failure,
    Flush,
    GetEvents,
    ImageFacts,
    ListImages,
    Name,
    Page,
    Prepare,
    Range,
    Source,
    Wanted,
    Welcome,
    Writing,
)
from tests.wire.support import ANSWER_MESSAGES, CALL_MESSAGES, NAMES, messages

CREATE = {"op": "create", "pool": "main", "image": "a", "token": "12345678"}


def refused(data: bytes | dict[str, Any], code: str = "message") -> str:
    """Decode a call that must be refused, politely; gives what is said of it."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(RemoteProtocolError) as caught:
        codec.decode_call(raw)
    assert (caught.value.code, caught.value.fatal) == (code, False)
    caught.value.message.encode()
    return caught.value.message


# --- round trips --------------------------------------------------------------------------------


@given(CALL_MESSAGES)
def test_a_call_that_is_written_reads_back_the_same(call: Call) -> None:
    data = codec.encode_call(call)
    assert codec.decode_call(data) == call
    assert codec.decode_call(memoryview(data)) == call


@given(ANSWER_MESSAGES)
def test_an_answer_that_is_written_reads_back_the_same(answer: Answer) -> None:
    assert codec.decode_answer(codec.encode_answer(answer), type(answer)) == answer


@given(messages(Failure))
def test_a_failure_that_is_written_reads_back_the_same(failure: Failure) -> None:
    assert codec.decode_failure(codec.encode_failure(failure)) == failure


@given(st.dictionaries(st.text(max_size=9), st.integers(0, 9) | st.text(max_size=9), max_size=5))
def test_a_notice_that_is_written_reads_back_the_same(notice: dict[str, object]) -> None:
    try:
        data = codec.encode_notice(notice)
    except LocalProtocolError:
        assert any(0xD800 <= ord(c) < 0xE000 for c in repr(notice) + "".join(map(str, notice)))
    else:
        assert codec.decode_notice(data) == notice


@given(NAMES)
def test_every_name_has_one_form_on_the_wire(name: Name) -> None:
    raw = name.encode("utf-8", "surrogateescape")
    values = json.loads(codec.encode_call(Create(pool="main", image=name, token="12345678")))
    assert ("image" in values) is not ("image_b64" in values)
    if "image" in values:
        assert values["image"].encode("utf-8") == raw
    call = codec.decode_call(json.dumps(values).encode())
    assert isinstance(call, Create)
    assert call.image.encode("utf-8", "surrogateescape") == raw


def test_what_is_none_is_left_out_and_what_is_left_out_is_none_or_the_default() -> None:
    values = json.loads(codec.encode_call(Create(pool="p", image=Name("a"), token="12345678")))
    assert values["source"] == {}
    assert codec.decode_call(json.dumps(CREATE).encode()) == Create(
        pool="main", image=Name("a"), token="12345678"
    )
    nulls = CREATE | {"source": {"product": None}, "keep": {"lock": None}}
    assert codec.decode_call(json.dumps(nulls).encode()) == Create(
        pool="main", image=Name("a"), token="12345678"
    )


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "a/b c",
        "%2E%2E",
        "nul\0in it",
        "\n",
        "ü",
        "x" * MAX_NAME_BYTES,
        " ",
        ".",
    ],
)
def test_hostile_names_arrive_byte_for_byte(name: str) -> None:
    call = codec.decode_call(json.dumps(CREATE | {"image": name}).encode())
    assert isinstance(call, Create)
    assert call.image == name


def test_a_name_that_is_not_utf8_comes_as_base64_and_also_one_that_is() -> None:
    for text, raw in (("/w==", b"\xff"), ("AGE=", b"\0a"), ("w6k=", "é".encode())):
        values = {key: value for key, value in CREATE.items() if key != "image"}
        call = codec.decode_call(json.dumps(values | {"image_b64": text}).encode())
        assert isinstance(call, Create)
        assert call.image.encode("utf-8", "surrogateescape") == raw


def test_names_that_are_empty_too_long_or_no_bytes_are_invalid() -> None:
    for bad in ("", "x" * (MAX_NAME_BYTES + 1), "é" * 513, "\udc80", "\ud800"):
        refused(CREATE | {"image": bad}, "name_invalid")
    said = refused(CREATE | {"image": "\udcff"}, "name_invalid")
    assert "create.image_b64" in said
    values = {key: value for key, value in CREATE.items() if key != "image"}
    refused(values | {"image_b64": ""}, "name_invalid")


@pytest.mark.parametrize("text", ["a", "YQ", "YQ==\n", "YR==", "!!!!", "é", 7, None, ["YQ=="]])
def test_base64_has_one_form_only(text: object) -> None:
    values = {key: value for key, value in CREATE.items() if key != "image"}
    assert "create.image_b64" in refused(values | {"image_b64": text})


def test_a_name_given_twice_is_refused() -> None:
    assert "create.image is given twice" in refused(CREATE | {"image_b64": "YQ=="})


def test_the_same_rule_holds_for_other_names_and_a_prefix_may_be_empty() -> None:
    data = json.dumps({"op": "list", "pool": "main", "prefix_b64": "/w=="}).encode()
    assert codec.decode_call(data) == ListImages(pool="main", prefix=Name("\udcff"))
    data = json.dumps({"op": "list", "pool": "main", "prefix": ""}).encode()
    assert codec.decode_call(data) == ListImages(pool="main")
    copy = {"op": "copy", "pool": "p", "image": "a", "to_pool": "q", "token": "12345678"}
    refused(copy | {"to_image": ""}, "name_invalid")


# --- strictness ---------------------------------------------------------------------------------


def test_an_operation_of_tomorrow_is_unknown_and_not_wrong() -> None:
    assert "'levitate'" in refused({"op": "levitate", "anything": 1}, "unknown_op")


@pytest.mark.parametrize("op", [None, 1, True, [], {}])
def test_an_operation_must_be_named(op: object) -> None:
    assert "op " in refused({"op": op})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pool": None}, "create.pool is null"),
        ({"pool": 1}, "create.pool is not a string"),
        ({"pool": "a\0b"}, "create.pool holds NUL"),
        ({"pool": "x" * (MAX_TEXT + 1)}, "create.pool has 4097 characters"),
        ({"pool": "\ud800"}, "create.pool holds half of a surrogate pair"),
        ({"token": "1234567"}, "create.token has 7 characters, not 8 to 4096"),
        ({"copy": 0}, "create.copy is not between 1"),
        ({"copy": True}, "create.copy is not an integer"),
        ({"copy": 1.0}, "create.copy is not an integer"),
        ({"copy": "1"}, "create.copy is not an integer"),
        ({"copy": None}, "create.copy is null"),
        ({"expected_size": -1}, "create.expected_size is not between 0"),
        ({"expected_size": MAX_INT + 1}, "create.expected_size is not between 0"),
        ({"replace": 1}, "create.replace is not true or false"),
        ({"source": []}, "create.source is not an object"),
        ({"source": None}, "create.source is null"),
        ({"source": {"clint": "x"}}, "create.source has no field 'clint'"),
        ({"source": {"client": 5}}, "create.source.client is not a string"),
        ({"keep": {"expires_at": "now"}}, "create.keep.expires_at is not an integer"),
        ({"colour": "red"}, "create has no field 'colour'"),
        ({"pool_b64": "YQ=="}, "create has no field 'pool_b64'"),
    ],
)
def test_the_field_that_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    assert said in refused(CREATE | change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": {}}, "prepare.images is not a list"),
        ({"images": [1]}, "prepare.images[0] is not an object"),
        ({"images": [{"image": "a"}, {}]}, "prepare.images[1].image is missing"),
        ({"images": [{"image": "a", "ranges": [{"offset": 1}]}]}, "ranges[0].length is missing"),
        ({"images": [{"image": "a"}] * (MAX_LIST + 1)}, "prepare.images has more than 1000 items"),
        ({"images": [], "max_cost": -1}, "prepare.max_cost is below 0"),
        ({"images": [], "max_cost": "1"}, "prepare.max_cost is not a number"),
        ({"images": [], "max_cost": True}, "prepare.max_cost is not a number"),
    ],
)
def test_the_place_in_a_list_is_named(change: dict[str, Any], said: str) -> None:
    assert said in refused({"op": "prepare", "pool": "p"} | change)


@pytest.mark.parametrize("op", sorted(CALLS))
def test_each_field_without_a_default_must_be_given(op: str) -> None:
    needed = [
        field.name
        for field in dataclasses.fields(CALLS[op])
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if needed:
        assert f"{op}.{needed[0]} is missing" in refused({"op": op})
    else:
        assert isinstance(codec.decode_call(json.dumps({"op": op}).encode()), CALLS[op])


def test_a_whole_number_will_do_for_a_price_and_a_cursor_may_be_minus_one() -> None:
    data = json.dumps({"op": "prepare", "pool": "p", "images": [], "max_cost": 5}).encode()
    call = codec.decode_call(data)
    assert call == Prepare(pool="p", images=(), max_cost=5.0)
    assert codec.decode_call(b'{"op":"events","cursor":-1}') == GetEvents(cursor=-1)
    refused(b'{"op":"events","cursor":-2}')


# --- JSON that means harm -----------------------------------------------------------------------

HOSTILE = {
    "nothing": b"",
    "not an object": b"[]",
    "a string": b'"op"',
    "two values": b'{"op":"server_props"}{}',
    "a tail": b'{"op":"server_props"} x',
    "not UTF-8": b'{"op":"\xff"}',
    "UTF-16": '{"op":"server_props"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"op":"server_props"}',
    "NaN": b'{"op":"prepare","pool":"p","images":[],"max_cost":NaN}',
    "Infinity": b'{"op":"prepare","pool":"p","images":[],"max_cost":Infinity}',
    "too large a float": b'{"op":"prepare","pool":"p","images":[],"max_cost":1e999}',
    "a long float": b'{"op":"prepare","pool":"p","images":[],"max_cost":0.' + b"1" * 900_000 + b"}",
    "a long number": b'{"op":"flush","handle":' + b"9" * 1_000_000 + b"}",
    "a longish number": b'{"op":"flush","handle":' + b"9" * 41 + b"}",
    "a negative zero of thousands": b'{"op":"flush","handle":-' + b"0" * 5000 + b"}",
    "doubled keys": b'{"op":"flush","handle":1,"handle":2}',
    "doubled keys within": b'{"op":"create","source":{"client":"a","client":"b"}}',
    "deep lists": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 150_000,
    "deep and closed": b"[" * 400_000 + b"]" * 400_000,
    "deep within": b'{"op":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "quotes and backslashes": b'"' + b'\\"' * 500_000,
    "an open string": b'{"op":"' + b"a" * 900_000,
    "only quotes": b'"' * 1_000_000,
    "a half escape": b'{"op":"\\',
    "many keys": b"{" + b",".join(b'"%d":0' % n for n in range(90_000)) + b"}",
    "many items": b'{"op":"hello","versions":[' + b"1," * 500_000 + b"1]}",
    "too long": b" " * (MAX_CONTROL + 1),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_json_is_refused_quickly_and_in_bounded_memory(case: str) -> None:
    tracemalloc.start()
    try:
        begin = time.process_time()
        refused(HOSTILE[case])
        assert time.process_time() - begin < 2.0
        assert tracemalloc.get_traced_memory()[1] < 40 * MAX_CONTROL
    finally:
        tracemalloc.stop()


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    text = "[{" * 100 + '\\"]' * 9
    call = codec.decode_call(json.dumps(CREATE | {"pool": text}).encode())
    assert isinstance(call, Create)
    assert call.pool == text


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (
        codec.decode_call,
        codec.decode_failure,
        codec.decode_notice,
        lambda raw: codec.decode_answer(raw, Page),
    ):
        try:
            decode(data)
        except RemoteProtocolError as exc:
            assert not exc.fatal  # noqa: PT017


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(st.sampled_from(sorted(CALLS)), st.data())
@settings(max_examples=200)
def test_any_values_in_any_fields_are_read_or_refused(op: str, data: st.DataObject) -> None:
    names = [field.name for field in dataclasses.fields(CALLS[op])] + ["image_b64", "other"]
    values = data.draw(st.dictionaries(st.sampled_from(names), JSON))
    try:
        raw = json.dumps({"op": op} | values).encode()
        call = codec.decode_call(raw)
    except RemoteProtocolError as exc:
        assert exc.code in ("message", "name_invalid")  # noqa: PT017
    else:
        assert codec.decode_call(codec.encode_call(call)) == call


# --- answers ------------------------------------------------------------------------------------


def test_fields_of_a_later_daemon_are_ignored_in_answers() -> None:
    assert codec.decode_answer(b'{"mine":true,"colour":"red"}', Claimed) == Claimed(mine=True)
    failure = codec.decode_failure(b'{"code":"io","message":"m","offer":null,"more":{"a":[1]}}')
    assert failure == Failure(code="io", message="m")
    raw = b'{"version":1,"server":"s","capabilities":[],"limits":{"control":1,"data":1,"handles":1,'
    raw += b'"idle_s":1,"of_tomorrow":1}}'
    assert codec.decode_answer(raw, Welcome).limits.idle_s == 1


@pytest.mark.parametrize("data", [b"{}", b'{"handle":"1","offset":0}', b"[]", b'{"handle":1'])
def test_an_answer_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        codec.decode_answer(data, Writing)


def test_a_long_list_is_cut_to_what_an_answer_may_hold() -> None:
    def facts(name: str) -> ImageFacts:
        return ImageFacts(
            image=Name(name), copy=1, state="complete", size=1, stored_size=1, created_at=1,
            sha256="0" * 64, storage_class="STANDARD", expires_at=None, infinite=True, lock="none",
            lock_until=None, hold=False, id="0" * 16,
        )  # fmt: skip

    short = [facts("a")] * MAX_LIST
    assert codec.fitting(short) == short
    for name in ("x" * MAX_NAME_BYTES, "\x01" * MAX_NAME_BYTES, "\udcff" * MAX_NAME_BYTES):
        some = codec.fitting([facts(name)] * MAX_LIST)
        assert 100 < len(some) < MAX_LIST
        assert len(codec.encode_answer(Page(images=tuple(some), cursor="c" * 2000))) > 800_000
    assert len(codec.fitting([facts("x" * 100)], room=10)) == 1


def test_a_failure_always_arrives_cut_and_mended() -> None:
    failure = Failure(code="io", message="\udc80" + "x" * 10_000, hint="y" * 5000)
    told = codec.decode_failure(codec.encode_failure(failure))
    assert told.message == "?" + "x" * (MAX_TEXT - 1)
    assert len(told.hint) == MAX_TEXT


@pytest.mark.parametrize(
    "call",
    [
        Prepare(pool="p", images=(), max_cost=float("nan")),
        Delete(pool="\ud800", image=Name("a"), reason=""),
        Flush(handle=Source()),  # type: ignore[arg-type]
        Create(pool="p", image=Name("\ud800"), token="12345678"),
        Prepare(pool="p", images=(Wanted(image=Name("x" * 1000)),) * 1100),
        Prepare(
            pool="p",
            images=(Wanted(image=Name("a"), ranges=(Range(offset=0, length=1),)),) * 40_000,
        ),
    ],
)
def test_what_cannot_be_said_is_our_own_bug(call: Call) -> None:
    with pytest.raises(LocalProtocolError):
        codec.encode_call(call)
