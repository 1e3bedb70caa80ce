"""Messages as JSON and back: one small engine that walks the dataclasses of ``messages.py``.

Calls come from strangers and are read strictly: no unknown field, no second meaning, every bound
checked, and the field that is wrong is named. Answers come from the daemon and are read liberally:
unknown fields are ignored, so that a later daemon can add some. A field that is ``None`` is left
out. Names are bytes: UTF-8 goes as ``image``, anything else as base64 in ``image_b64``.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

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
    Failure,
    Name,
)

AnyAnswer = TypeVar("AnyAnswer", bound=Answer)
Part = TypeVar("Part")

MAX_DEPTH = 8
"""Deepest nesting of arrays and objects; no message needs more than five."""
MAX_NUMBER = 40
"""Longest number, in characters of JSON."""
ROOM_BESIDE = 128 << 10
"""What an answer with a long list may need for everything else, in bytes."""
MIN_TOKEN = 8
"""Shortest token of an attempt, in characters."""
B64 = "_b64"

_LOWEST = {"cursor": -1, "copy": 1, "to_copy": 1}
"""The lowest value of an integer in a call, by field; 0 for all others."""
_TOKENS = frozenset({"create", "settle", "resume", "copy"})
"""Operations whose ``token`` names an attempt."""

# a match never fails, else the search would try again from each place of a megabyte
_BRACKET = re.compile(
    rb"""(?: [^"\[\]{}]++                         # what is neither a string nor a bracket
          | " (?: [^"\\]++ | \\.? )*+ (?: " | \Z ) # a string, also one that does not end
        )*+ ([\[\]{}]?)""",
    re.DOTALL | re.VERBOSE,
)

Buffer = bytes | bytearray | memoryview


# --- what callers use -------------------------------------------------------------------------


def encode_call(call: Call) -> bytes:
    """Write a call, with its operation as ``op``.

    Raises:
        LocalProtocolError: a value has no JSON form, or the message is too long.
    """
    return _dump({"op": type(call).op, **_Plan.of(type(call)).write(call)})


def decode_call(data: Buffer) -> Call:
    """Read a call from a client.

    Raises:
        RemoteProtocolError: not fatal; ``unknown_op``, ``name_invalid``, or ``message``, which
            names the field that is missing, unknown, mistyped or out of its bounds.
    """
    values = _load(data)
    op = values.pop("op", None)
    if not isinstance(op, str):
        raise _wrong("op", "is missing" if op is None else "is not a string")
    kind = CALLS.get(op)
    if kind is None:
        raise RemoteProtocolError("unknown_op", f"there is no operation {op[:60]!r}", fatal=False)
    return cast(Call, _Plan.of(kind).read(values, op, strict=True))


def encode_answer(answer: Answer) -> bytes:
    """Write an answer.

    Raises:
        LocalProtocolError: a value has no JSON form, or the answer is longer than MAX_CONTROL.
    """
    return _dump(_Plan.of(type(answer)).write(answer))


def decode_answer(data: Buffer, kind: type[AnyAnswer]) -> AnyAnswer:
    """Read the daemon's answer to a call whose ``answer`` is kind.

    Raises:
        RemoteProtocolError: not fatal; this is not such an answer.
    """
    return cast(AnyAnswer, _Plan.of(kind).read(_load(data), kind.__name__, strict=False))


def fitting(items: Sequence[Part], room: int = MAX_CONTROL - ROOM_BESIDE) -> Sequence[Part]:
    """The leading items of a list that fit into one answer of room bytes, at least one of them.

    A thousand items with long names are more than a frame may hold.
    """
    for number, item in enumerate(items):
        values = _Plan.of(type(item)).write(item)
        room -= 1 + len(json.dumps(values, ensure_ascii=False).encode("utf-8"))
        if room < 0:
            return items[: max(1, number)]
    return items


def encode_failure(failure: Failure) -> bytes:
    """Write a failure; its texts are cut to MAX_TEXT, since a failure must always arrive.

    Raises:
        LocalProtocolError: a value has no JSON form.
    """
    values = _Plan.of(Failure).write(failure)
    for name in ("message", "hint", "request_id"):
        if isinstance(values.get(name), str):
            values[name] = values[name].encode("utf-8", "replace").decode()[:MAX_TEXT]
    return _dump(values)


def decode_failure(data: Buffer) -> Failure:
    """Read a failure.

    Raises:
        RemoteProtocolError: not fatal; this is not a failure.
    """
    return cast(Failure, _Plan.of(Failure).read(_load(data), "failure", strict=False))


def encode_notice(notice: Mapping[str, object]) -> bytes:
    """Write a notice: any small JSON object.

    Raises:
        LocalProtocolError: it has no JSON form, or is too long.
    """
    return _dump(dict(notice))


def decode_notice(data: Buffer) -> dict[str, object]:
    """Read a notice.

    Raises:
        RemoteProtocolError: not fatal; it is not a JSON object.
    """
    return _load(data)


# --- JSON -------------------------------------------------------------------------------------


def _wrong(where: str, what: str) -> RemoteProtocolError:
    return RemoteProtocolError("message", f"{where} {what}", fatal=False)


def _dump(values: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode("utf-8")
    except (TypeError, ValueError) as exc:  # UnicodeEncodeError is a ValueError
        raise LocalProtocolError(f"a message has no JSON form: {exc}") from exc
    if len(data) > MAX_CONTROL:
        raise LocalProtocolError(f"a message of {len(data)} bytes is longer than {MAX_CONTROL}")
    return data


def _load(data: Buffer) -> dict[str, Any]:
    """Read a JSON object without trusting its length, depth, numbers or keys."""
    if len(data) > MAX_CONTROL:
        raise _wrong("the message", f"is longer than {MAX_CONTROL} bytes")
    if not _shallow(data):
        raise _wrong("the message", f"is nested deeper than {MAX_DEPTH}")
    try:
        values = json.loads(
            str(data, "utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except UnicodeDecodeError as exc:
        raise _wrong("the message", f"is not UTF-8 at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise _wrong("the message", f"is not JSON: {exc.msg} at character {exc.pos}") from exc
    if not isinstance(values, dict):
        raise _wrong("the message", "is not a JSON object")
    return values


def _shallow(data: Buffer) -> bool:
    """Whether brackets nest no deeper than MAX_DEPTH; in linear time, without recursion or memory.

    Whether they are closed, and by their like, is for the parser to see.
    """
    depth = 0
    for found in _BRACKET.finditer(data):
        depth += (found[1] in (b"[", b"{")) - (found[1] in (b"]", b"}"))
        if depth > MAX_DEPTH:
            return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        (double, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise _wrong(f"the field {double[:60]!r}", "is given twice")
    return values


def _constant(text: str) -> float:
    raise _wrong("the message", f"holds {text}, which is not JSON")


def _int(text: str) -> int:
    if len(text) > MAX_NUMBER:
        raise _wrong("the message", f"holds a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > MAX_NUMBER or not math.isfinite(value := float(text)):
        raise _wrong("the message", f"holds a number out of bounds: {text[:MAX_NUMBER]}")
    return value


# --- the engine -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """How a value is to be read: what to call it, by which rules, and its bounds."""

    where: str
    strict: bool
    lowest: int = 0
    shortest: int = 0

    def item(self, number: int) -> _Asked:
        return _Asked(f"{self.where}[{number}]", self.strict)


_Reader = Callable[[Any, _Asked], Any]
_Writer = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    is_name: bool
    optional: bool
    required: bool
    default: Any
    read: _Reader
    write: _Writer


class _Plan:
    """How one dataclass is read and written: a row for each field, made from its type hints."""

    def __init__(self, kind: type) -> None:
        hints = get_type_hints(kind)
        self.kind = kind
        self.rows = tuple(_field_of(field, hints[field.name]) for field in fields(kind))
        names = [row.name for row in self.rows]
        self.known = {*names, *(row.name + B64 for row in self.rows if row.is_name)}

    @staticmethod
    def of(kind: type) -> _Plan:
        if kind not in _PLANS:
            _PLANS[kind] = _Plan(kind)
        return _PLANS[kind]

    def write(self, message: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for row in self.rows:
            value = getattr(message, row.name)
            if value is None:
                continue
            if row.is_name:
                key, value = _write_name(row.name, value)
                values[key] = value
            else:
                values[row.name] = row.write(value)
        return values

    def read(self, values: Any, where: str, *, strict: bool) -> Any:
        if not isinstance(values, dict):
            raise _wrong(where, "is not an object")
        if strict and (unknown := values.keys() - self.known):
            raise _wrong(where, f"has no field {min(unknown)[:60]!r}")
        return self.kind(**{row.name: _read(row, values, where, strict) for row in self.rows})


_PLANS: dict[type, _Plan] = {}


def _read(row: _Field, values: dict[str, Any], where: str, strict: bool) -> Any:
    """One field of an object: its value, its default, or what is wrong with it."""
    path = f"{where}.{row.name}"
    value = values.get(row.name)
    if row.is_name and row.name + B64 in values:
        if row.name in values:
            raise _wrong(path, f"is given twice, as {row.name} and as {row.name}{B64}")
        value = _from_base64(values[row.name + B64], path + B64)
    elif value is None:
        if row.name in values and not row.optional:
            raise _wrong(path, "is null")
        if row.optional:
            return None
        if row.required:
            raise _wrong(path, "is missing")
        return row.default()
    shortest = MIN_TOKEN if row.name == "token" and where in _TOKENS else 0
    if row.is_name:
        shortest = 1 if row.required or row.optional else 0
    lowest = _LOWEST.get(row.name, 0)
    return row.read(value, _Asked(path, strict, lowest, shortest))


def _field_of(field: Any, hint: Any) -> _Field:
    optional, hint = _without_none(hint)
    default = field.default_factory
    if field.default is not MISSING:
        fixed = field.default
        default = lambda: fixed  # noqa: E731
    read, write = _engine_of(hint)
    return _Field(field.name, hint is Name, optional, default is MISSING, default, read, write)


def _without_none(hint: Any) -> tuple[bool, Any]:
    if get_origin(hint) in (Union, types.UnionType):
        (only,) = (part for part in get_args(hint) if part is not types.NoneType)
        return True, only
    return False, hint


def _engine_of(hint: Any) -> tuple[_Reader, _Writer]:
    """The reader and the writer of a type; a type that is not in the table is a bug of ours."""
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if get_origin(hint) is tuple:
        item, _ = get_args(hint)
        read, write = _engine_of(item)

        def read_list(value: Any, asked: _Asked) -> Any:
            if not isinstance(value, list):
                raise _wrong(asked.where, "is not a list")
            if len(value) > MAX_LIST:
                raise _wrong(asked.where, f"has more than {MAX_LIST} items")
            return tuple(read(item, asked.item(number)) for number, item in enumerate(value))

        return read_list, lambda items: [write(item) for item in items]
    plan = _Plan.of(hint)
    return lambda value, asked: plan.read(value, asked.where, strict=asked.strict), plan.write


def _read_int(value: Any, asked: _Asked) -> int:
    if type(value) is not int:
        raise _wrong(asked.where, "is not an integer")
    if asked.strict and not asked.lowest <= value <= MAX_INT:
        raise _wrong(asked.where, f"is not between {asked.lowest} and {MAX_INT}")
    return value


def _read_float(value: Any, asked: _Asked) -> float:
    if type(value) not in (int, float):
        raise _wrong(asked.where, "is not a number")
    if asked.strict and value < 0:
        raise _wrong(asked.where, "is below 0")
    return float(value)


def _read_bool(value: Any, asked: _Asked) -> bool:
    if not isinstance(value, bool):
        raise _wrong(asked.where, "is not true or false")
    return value


def _read_text(value: Any, asked: _Asked) -> str:
    if not isinstance(value, str):
        raise _wrong(asked.where, "is not a string")
    if not asked.strict:
        return value
    if not asked.shortest <= len(value) <= MAX_TEXT:
        bounds = f"{asked.shortest} to {MAX_TEXT}"
        raise _wrong(asked.where, f"has {len(value)} characters, not {bounds}")
    if "\0" in value:
        raise _wrong(asked.where, "holds NUL")
    if _bytes_of(value) is None:
        raise _wrong(asked.where, "holds half of a surrogate pair")
    return value


def _bytes_of(text: str) -> bytes | None:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # "\ud800": JSON can say it, UTF-8 cannot
        return None


def _read_name(value: Any, asked: _Asked) -> Name:
    """Check a name: bytes from base64, or a string that must be UTF-8 by itself.

    A lone surrogate in a JSON string is refused: with ``surrogateescape`` it would be a byte, and
    two messages would say the same name in different ways.
    """
    raw = value if isinstance(value, bytes) else None
    if raw is None:
        if not isinstance(value, str):
            raise _wrong(asked.where, "is not a string")
        raw = _bytes_of(value)
    if raw is None:
        raise RemoteProtocolError(
            "name_invalid",
            f"{asked.where} holds half of a surrogate pair: send bytes that are not UTF-8 as base64"
            f" in {asked.where}{B64}",
            fatal=False,
        )
    if not asked.shortest <= len(raw) <= MAX_NAME_BYTES:
        bounds = f"{asked.shortest} to {MAX_NAME_BYTES}"
        raise RemoteProtocolError(
            "name_invalid", f"{asked.where} has {len(raw)} bytes, not {bounds}", fatal=False
        )
    return Name(raw.decode("utf-8", "surrogateescape"))


def _from_base64(value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        raise _wrong(where, "is not a string")
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _wrong(where, "is not base64") from exc
    if base64.b64encode(raw).decode() != value:
        raise _wrong(where, "is not base64 in its one canonical form")
    return raw


def _write_name(key: str, name: str) -> tuple[str, str]:
    """The field and the value of a name: ``image`` or ``image_b64``."""
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise LocalProtocolError(f"{name[:60]!r} stands for no bytes") from exc
    try:
        return key, raw.decode("utf-8")
    except UnicodeDecodeError:
        return key + B64, base64.b64encode(raw).decode("ascii")


def _as_is(value: Any) -> Any:
    return value


_SIMPLE: dict[Any, tuple[_Reader, _Writer]] = {
    int: (_read_int, _as_is),
    float: (_read_float, _as_is),
    bool: (_read_bool, _as_is),
    str: (_read_text, _as_is),
    Name: (_read_name, _as_is),
}
