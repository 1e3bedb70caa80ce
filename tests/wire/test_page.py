"""docs/protocols.md says what messages.py, session.py and the errors are, no more and no less."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

import connector.pool
import connector.serve
from catalog.errors import PoolError
from connector.serve.failures import WIRE_CODES
from connector.wire import codec, frames, messages, session
from connector.wire.incoming import Incoming
from connector.wire.messages import CALLS, CAPABILITIES, Failure, Name
from connector.wire.session import (
    DESCRIPTORS,
    Answered,
    ClientSession,
    ServerSession,
)
from tests.wire.support import feed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocols.md").read_text("utf-8")

SIMPLE = {int: "int", float: "number", bool: "bool", str: "text", Name: "name"}


def word(hint: Any) -> str:
    """A type as the page writes it."""
    if get_origin(hint) in (Union, types.UnionType):
        (only,) = (part for part in get_args(hint) if part is not types.NoneType)
        return word(only) + "?"
    if get_origin(hint) is tuple:
        return f"list of {word(get_args(hint)[0])}"
    return SIMPLE.get(hint) or f"{hint.__name__}"


def default(field: dataclasses.Field[Any]) -> str:
    """A default as the page writes it: JSON."""
    if field.default_factory is not dataclasses.MISSING:
        return " = {}"
    if field.default is dataclasses.MISSING or field.default is None:
        return ""
    value = {"True": "true", "False": "false", "()": "[]"}.get(str(field.default), field.default)
    return f' = "{value}"' if value == "" else f" = {value}"


def signature(kind: type) -> str:
    """The fields of a message, in one line."""
    hints = get_type_hints(kind)
    fields = [
        f"`{field.name}` {word(hints[field.name])}{default(field)}"
        for field in dataclasses.fields(kind)
    ]
    return ", ".join(fields) or "nothing"


def section(title: str) -> str:
    """What stands below a heading, to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    assert found, f"there is no section {title}"
    return found[2]


def rows(title: str) -> dict[str, list[str]]:
    """The rows of a section's table, by what its first column holds between backticks."""
    table = {}
    for line in section(title).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`([^`]+)`", cells[0]) if line.startswith("| `") else ():
            table[name] = cells[1:]
    return table


# --- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", CALLS)
def test_every_operation_stands_there_with_its_fields_and_its_answer(op: str) -> None:
    text = section(f"`{op}`")
    assert f"- Fields: {signature(CALLS[op])}\n" in text
    answer = CALLS[op].answer
    assert f"- Answer: {signature(answer)}\n" in text
    for label in ("Again", "OK", "Fails"):
        assert re.search(rf"^- {label}: .+", text, re.M), label


@pytest.mark.parametrize("op", CALLS)
def test_the_failures_of_an_operation_are_codes_of_the_table(op: str) -> None:
    fails = re.search(r"^- Fails: (.*)$", section(f"`{op}`"), re.M)
    assert fails
    named = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", fails[1])))
    assert named <= set(rows("Errors")), named - set(rows("Errors"))


def test_no_operation_stands_there_that_does_not_exist() -> None:
    operations = PAGE[PAGE.index("\n## Operations") : PAGE.index("\n## Parts of messages")]
    assert re.findall(r"^### `(\w+)`$", operations, re.M) == list(CALLS)


def parts() -> list[type]:
    """Every dataclass that stands inside of a message."""
    found: dict[str, type] = {}

    def visit(kind: type) -> None:
        for hint in get_type_hints(kind).values():
            for inner in (hint, *get_args(hint)):
                if dataclasses.is_dataclass(inner) and not issubclass(inner, messages.Answer):  # type: ignore[arg-type]
                    found[inner.__name__] = inner  # type: ignore[union-attr,assignment]
                    visit(inner)  # type: ignore[arg-type]

    for kind in (*CALLS.values(), *(kind.answer for kind in CALLS.values()), Failure):
        visit(kind)
    return sorted(found.values(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", parts(), ids=lambda kind: kind.__name__)
def test_every_part_of_a_message_stands_there_with_its_fields(kind: type) -> None:
    assert rows("Parts of messages")[kind.__name__][0] == signature(kind)


def test_answers_to_writes_and_failures_stand_there_with_their_fields() -> None:
    assert signature(messages.Accepted) in section("Writing in frames")
    assert signature(Failure) in section("Errors")


# --- tables -------------------------------------------------------------------------------------


def test_every_capability_stands_there() -> None:
    assert set(rows("Capabilities")) == set(CAPABILITIES) | {"COMPRESSION", "CLIENT_ENCRYPTION"}


def test_every_kind_of_frame_stands_there_with_its_number() -> None:
    kinds = {name: int(cells[0]) for name, cells in rows("Kinds").items()}
    assert kinds == {kind.name: kind.value for kind in frames.Kind}


def test_every_limit_stands_there_with_its_value() -> None:
    limits = {name: cells[0] for name, cells in rows("Limits").items()}
    for module, names in (
        (frames, ("MAX_CONTROL", "MAX_DATA")),
        (messages, ("MAX_NAME_BYTES", "MAX_TEXT", "MAX_LIST", "MAX_INT")),
        (session, ("MAX_HELLO",)),
        (codec, ("MAX_DEPTH", "MAX_NUMBER", "MIN_TOKEN")),
    ):
        for name in names:
            assert limits.pop(name).replace(",", "") == str(getattr(module, name)), name
    assert limits == {}


def test_the_calls_that_carry_a_descriptor_stand_there() -> None:
    assert set(re.findall(r"`(write_from|read_to|\w+)`", section("Descriptors"))) >= set(
        DESCRIPTORS
    )


def all_errors() -> set[type[PoolError]]:
    """Every error of the tree that a client may be told, the doors' own included."""
    for package in (connector.pool, connector.serve):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    found: set[type[PoolError]] = {PoolError}
    todo = [PoolError]
    while todo:
        for kind in todo.pop().__subclasses__():
            here = kind.__module__.split(".")[:2]
            if here[0] == "catalog" or here in (["connector", "pool"], ["connector", "serve"]):
                found.add(kind)
                todo.append(kind)
    return found


def test_every_code_stands_there_and_says_whether_trying_again_can_help() -> None:
    told: dict[str, set[bool]] = {}
    for kind in all_errors():
        told.setdefault(WIRE_CODES.get(kind.code, kind.code), set()).add(kind.retryable)
    sources = "".join(
        path.read_text("utf-8")
        for room in ("wire", "serve")
        for path in (ROOT / "connector" / room).glob("*.py")
    )
    for code in re.findall(r'RemoteProtocolError\(\s*"(\w+)"', sources):
        told.setdefault(code, set()).add(False)
    for code in re.findall(r'code="(\w+)"', sources):
        told.setdefault(code, set())
    table = rows("Errors")
    assert set(table) == set(told)
    for code, retryable in told.items():
        said = table[code][0]
        assert said in ("yes", "no", "see `retryable`"), code
        if retryable == {True}:
            assert said != "no", code
        if retryable == {False}:
            assert said != "yes", code


# --- the worked example -------------------------------------------------------------------------


def example() -> list[tuple[str, bytes]]:
    """The frames of the example: who sends them, and their bytes."""
    blocks = re.findall(r"^```hex (client|daemon)\n(.*?)^```", PAGE, re.M | re.S)
    return [(who, bytes.fromhex(re.sub(r"#.*", "", text))) for who, text in blocks]


def test_the_example_is_byte_for_byte_what_both_sides_say() -> None:
    client, server = ClientSession(), ServerSession()
    to_server, to_client = Incoming(from_client=True), Incoming(from_client=False)
    calls: dict[int, messages.Call] = {}
    answered = []
    for who, data in example():
        if who == "daemon":
            (frame,) = feed(to_client, data, 1)
            event = client.receive(frame)
            assert isinstance(event, Answered)
            answered.append(type(event.answer))
            if event.call is not None:
                assert server.answer(event.request, event.call, event.answer) == data
            continue
        (frame,) = feed(to_server, data, 1)
        head = frame.header
        server.check(head)
        if head.kind is frames.Kind.WRITE:
            server.write(head)
            _, again = client.write(head.handle, head.offset, head.length, quiet=bool(head.flags))
            assert again + bytes(frame.payload) == data
        else:
            call = server.call(frame.payload, descriptors=0)
            assert client.call(call) == (head.request, data)
            calls[head.request] = call
    assert [call.op for call in calls.values()] == ["hello", "create", "close"]
    assert answered == [messages.Welcome, messages.Writing, messages.Accepted, messages.Closed]
    assert not client.waiting
