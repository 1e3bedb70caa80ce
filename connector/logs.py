"""Logs of the daemon: an image's whole story under one id, as lines for people or for machines.

INFO is the story: what happened to an image, once each. DEBUG adds every message of the protocol,
in short. A line is always one line: names come from outside and cannot forge another, nor steer a
terminal. Secrets are not passed here; other people's libraries never say more than warnings,
because boto3's debug log holds credentials.

    log = image_log("main", "client_1700000000", 1, token)
    log.tell(Step.CREATED, client="alice@host")
    with log.around():             # what this thread logs meanwhile carries the id as well
        ...
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json as json_text
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TextIO

from catalog.console import printable

OURS = ("catalog", "connector", "migrate")
_STORY = "tapelift"
"""Key of our fields in a log record."""
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,-]+")
_SECRET = frozenset({"token", "proof"})
_LONGEST = 200
"""Most characters of one field of a protocol message in the log."""


class Step(StrEnum):
    """What happens to an image. Each is told once for each time that it happens."""

    CREATED = "created"
    RESUMED = "resumed"
    CHECKPOINTED = "checkpointed"  # closed incomplete, or its client left: may be resumed
    SPOOLED = "spooled"  # acknowledged from the spool, not in the store yet
    COMPLETED = "completed"  # its manifest is in the store
    STORED = "stored"  # what was spooled is in the store now
    ABORTED = "aborted"
    FAILED = "failed"
    OPENED = "opened"
    DAMAGED = "damaged"
    VERIFIED = "verified"
    RECALLED = "recalled"
    COPIED = "copied"
    KEPT = "kept"  # retention or hold changed
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Subject:
    """The image that a line is about. id is the attempt's, and stands in the object keys too."""

    pool: str
    image: str
    copy: int
    id: str


_subject: ContextVar[Subject | None] = ContextVar("image", default=None)


class ImageLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose every line is about one image."""

    def __init__(self, logger: logging.Logger, subject: Subject) -> None:
        super().__init__(logger, {})
        self.subject = subject

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Put the image into the record."""
        fields = {"subject": self.subject, **(kwargs.get("extra") or {}).get(_STORY, {})}
        return msg, {**kwargs, "extra": {_STORY: fields}}

    def tell(self, step: Step, **facts: object) -> None:
        """A line of the story, at INFO; facts are few and short. None is left out."""
        told = {name: value for name, value in facts.items() if value is not None}
        level = logging.WARNING if step in (Step.FAILED, Step.DAMAGED) else logging.INFO
        self.log(level, "%s", step, extra={_STORY: {"step": step, "facts": told}})

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Everything that this thread logs inside is about this image."""
        before = _subject.set(self.subject)
        try:
            yield
        finally:
            _subject.reset(before)


def image_log(pool: str, image: str, copy: int, id: str) -> ImageLog:
    """The log of one attempt at an image; cheap, so it need not be kept."""
    return ImageLog(logging.getLogger("connector.image"), Subject(pool, image, copy, id))


# --- messages of the protocol, in short -----------------------------------------------------------


class Short:
    """A message for the log, put into words only when it is logged: ``create pool=main ...``.

    Tokens let people in or take images over: of them only the length is told. Payloads are not
    part of messages.
    """

    def __init__(self, message: object) -> None:
        self._message = message

    def __str__(self) -> str:
        message = self._message
        name = getattr(type(message), "op", None) or type(message).__name__.lower()
        if not dataclasses.is_dataclass(message):
            return str(name)
        told = []
        for field in dataclasses.fields(message):
            value = getattr(message, field.name)
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            if value == default or value in (None, (), ""):
                continue
            told.append(f"{field.name}={_in_short(field.name, value)}")
        return " ".join([str(name), *told])


def _in_short(name: str, value: object) -> str:
    if name in _SECRET:
        return f"({len(str(value))} characters)"
    if isinstance(value, tuple):
        return f"({len(value)})"
    if dataclasses.is_dataclass(value):
        return f"({Short(value)})"
    text = _quoted(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


# --- lines ------------------------------------------------------------------------------------


def _quoted(value: object) -> str:
    """A value of ``key=value``; quoted unless it is plain, so that it cannot hold another key."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else printable(json_text.dumps(text, ensure_ascii=False))


def _about(record: logging.LogRecord) -> tuple[Subject | None, Step | None, Mapping[str, object]]:
    told: Mapping[str, Any] = getattr(record, _STORY, {})
    return told.get("subject", _subject.get()), told.get("step"), told.get("facts", {})


def _time(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class TextLines(logging.Formatter):
    """``TIME LEVEL what key=value ... pool=main image=NAME copy=1 id=TOKEN``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows indented."""
        subject, _, facts = _about(record)
        words = [_time(record), f"{record.levelname:<7}", printable(record.getMessage())]
        words += [f"{name}={_quoted(value)}" for name, value in facts.items()]
        if subject is not None:
            named = dataclasses.asdict(subject)
            words += [f"{name}={_quoted(value)}" for name, value in named.items()]
        lines = [" ".join(words)]
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            lines += [f"    | {printable(line)}" for line in trace.splitlines()]
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """One JSON object on a line, ASCII only. A name that is not UTF-8 is ``image_b64``."""

    def format(self, record: logging.LogRecord) -> str:
        """The object; fields that do not apply are left out."""
        subject, step, facts = _about(record)
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _whole(record.getMessage()),
        }
        if step is not None:
            line["step"] = str(step)
        if subject is not None:
            line |= {"pool": subject.pool, **_name(subject.image)}
            line |= {"copy": subject.copy, "id": subject.id}
        if facts:
            line["facts"] = {name: _whole(value) for name, value in facts.items()}
        if record.exc_info:
            line["exception"] = _whole(self.formatException(record.exc_info))
        return json_text.dumps(line)


def _name(image: str) -> dict[str, str]:
    """As on the wire: docs/protocols.md."""
    raw = image.encode("utf-8", "surrogateescape")
    try:
        return {"image": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"image_b64": base64.b64encode(raw).decode("ascii")}


def _whole(value: object) -> object:
    """Text without halves of surrogate pairs, on which strict readers of JSON fail: bytes that are
    not UTF-8 are shown as ``\\udcXX``."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def set_up(json: bool = False, verbose: int = 0, stream: TextIO | None = None) -> None:
    """Log to stderr: warnings and the story, with verbose also every message of the protocol."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if json else TextLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
