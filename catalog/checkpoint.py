"""Checkpoints: signed statements of which files a ledger had, each built upon the one before.

A checkpoint is a small file of three lines. The first says which, the second lists the SHA-256 of
every ledger file since the checkpoint before, the third is the Ed25519 signature over the first.
``docs/ledger.md`` says each field. What is written down here is the format and when a chain of
checkpoints is sound; who writes them is in ``anchor.py``.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields

from catalog.errors import CatalogError, ObjectNotFound
from catalog.files import MAX_SEQUENCE, LedgerFiles
from catalog.keys import Signer, is_signed
from catalog.model import NANOSECONDS

FOLDER = "_checkpoints"
"""Where checkpoints are, below their ledger; readers of Parquet folders pass it over."""

FORMAT = "tapelift-checkpoint/1"
FIRST_PREVIOUS = "0" * 64
MAX_FILES = 1_000  # ledger files of one checkpoint, which keeps it below 70 KB
MAX_KEYS = 16  # keeps what is signed below the 4,096 bytes that a KMS takes
MAX_BYTES = 256 * 1024
_NAME = re.compile(r"(\d{20})\.jsonl")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is signed.

    The checkpoint's number, from 0; the SHA-256 of the checkpoint file before it; the first and
    the last ledger file that it lists (last is first - 1 when it lists none) and the SHA-256 of
    the line that does; when it was made, by the signer's clock; the keys of which one must sign
    the next checkpoint; the key that signs this one.
    """

    format: str
    number: int
    previous_sha256: str
    first: int
    last: int
    files_sha256: str
    at: str
    keys: tuple[str, ...]
    signed_by: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as it was read or made; data is all of its file, sha256 its digest in hex."""

    statement: Statement
    files: tuple[str, ...]
    signed: bytes
    signature: bytes
    data: bytes

    @property
    def name(self) -> str:
        """Its file's name."""
        return checkpoint_name(self.statement.number)

    @property
    def sha256(self) -> str:
        """SHA-256 of its file, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def last(self) -> int:
        """Number of the last ledger file that is vouched for; -1 for none."""
        return self.statement.last

    @property
    def at_ns(self) -> int:
        """When it was made, by the signer's clock."""
        moment = dt.datetime.fromisoformat(self.statement.at)
        return int(moment.timestamp()) * NANOSECONDS


class BadCheckpoint(Exception):
    """The first checkpoint that is not as it was written: its name, and why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why


def checkpoint_name(number: int) -> str:
    """The file name of a checkpoint, ``00000000000000000007.jsonl``."""
    return f"{number:020d}.jsonl"


def number_of(name: str) -> int | None:
    """The number in a checkpoint's name; None when it is not such a name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def make(
    before: Checkpoint | None, files: Sequence[str], at_ns: int, keys: Sequence[str], signer: Signer
) -> Checkpoint:
    """The checkpoint that follows before and lists the next files by their SHA-256, signed.

    Raises CatalogError when the signer gives no signature.
    """
    listed = _line(list(files))
    first = 0 if before is None else before.last + 1
    statement = Statement(
        format=FORMAT,
        number=0 if before is None else before.statement.number + 1,
        previous_sha256=FIRST_PREVIOUS if before is None else before.sha256,
        first=first,
        last=first + len(files) - 1,
        files_sha256=hashlib.sha256(listed).hexdigest(),
        at=_time_text(at_ns),
        keys=tuple(keys),
        signed_by=signer.public_key,
    )
    signed = _line({f.name: getattr(statement, f.name) for f in fields(Statement)})
    signature = signer.sign(signed)
    last_line = _line({"signature": base64.b64encode(signature).decode("ascii")})
    data = b"".join(line + b"\n" for line in (signed, listed, last_line))
    return Checkpoint(statement, tuple(files), signed, signature, data)


def decode(data: bytes) -> Checkpoint:
    """A checkpoint file's content; the signature is not checked yet. Raises CatalogError."""
    if len(data) > MAX_BYTES:
        raise CatalogError(f"{len(data)} bytes, a checkpoint has at most {MAX_BYTES}")
    lines = data.split(b"\n")
    if len(lines) != 4 or lines[3]:
        raise CatalogError("not a checkpoint: it has not three lines")
    signed, listed, last_line = lines[:3]
    try:
        pairs, files, end = (json.loads(line) for line in (signed, listed, last_line))
        statement = _statement(pairs)
        signature = base64.b64decode(end["signature"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as exc:
        raise CatalogError(f"not a checkpoint: {type(exc).__name__}") from exc
    if hashlib.sha256(listed).hexdigest() != statement.files_sha256:
        raise CatalogError("its list of files is not the one that was signed")
    if not isinstance(files, list) or not all(_is_digest(one) for one in files):
        raise CatalogError("its list of files holds something else than digests")
    if len(files) != statement.last - statement.first + 1:
        raise CatalogError(f"{len(files)} files, from {statement.first} to {statement.last}")
    return Checkpoint(statement, tuple(files), signed, signature, data)


def walk(place: LedgerFiles, trusted: Collection[str] = ()) -> Iterator[Checkpoint]:
    """Yield a ledger's checkpoints in order, each checked; holds one at a time, and all names.

    Those are meant that are there at the call: a ledger that is listed afterwards has every file
    which they vouch for, also when its writers are at work.

    trusted: keys of which one must have signed the first checkpoint; there must be one then.
    Without, the first checkpoint is taken at its word. Raises BadCheckpoint for the first that is
    not sound, and the place's own errors.
    """
    return _walk(place, list(place.names()), trusted)


def _walk(
    place: LedgerFiles, names: Sequence[str], trusted: Collection[str]
) -> Iterator[Checkpoint]:
    before: Checkpoint | None = None
    for name in names:
        expected = 0 if before is None else before.statement.number + 1
        number = number_of(name)
        if number is None:
            raise BadCheckpoint(name, "is no name of a checkpoint")
        if number != expected:
            raise BadCheckpoint(
                checkpoint_name(expected), f"is missing: the next checkpoint is {name}"
            )
        before = _next(place, name, before, trusted)
        yield before
    if before is None and trusted:
        raise BadCheckpoint(
            checkpoint_name(0), "is missing: a key was given, and nothing is signed by it"
        )


def _next(
    place: LedgerFiles, name: str, before: Checkpoint | None, trusted: Collection[str]
) -> Checkpoint:
    try:
        one = decode(place.read(name))
    except ObjectNotFound:
        raise BadCheckpoint(name, "was removed while it was read") from None
    except CatalogError as exc:
        raise BadCheckpoint(name, f"cannot be read: {exc.message}") from exc
    problem = _problem(one, name, before, trusted)
    if problem:
        raise BadCheckpoint(name, problem)
    return one


def _problem(
    one: Checkpoint, name: str, before: Checkpoint | None, trusted: Collection[str]
) -> str | None:
    """What is wrong with a checkpoint that follows before."""
    says = one.statement
    if one.name != name:
        return f"holds number {says.number}: it was renamed"
    if says.previous_sha256 != (before.sha256 if before else FIRST_PREVIOUS):
        return "was written upon another checkpoint than the one before it"
    if says.first != (before.last + 1 if before else 0):
        return f"begins with file {says.first}, which does not follow the checkpoint before it"
    allowed = before.statement.keys if before else trusted or says.keys
    if says.signed_by not in allowed:
        return "is signed by a key that may not: " + says.signed_by
    if not is_signed(one.signed, one.signature, says.signed_by):
        return "carries no valid signature"
    return None


def last_checkpoint(place: LedgerFiles, known: Checkpoint | None = None) -> Checkpoint | None:
    """The last checkpoint, looked for behind a known one; its own chain is not walked.

    Raises CatalogError when the last file is no checkpoint.
    """
    after = known.name if known else ""
    name = max((n for n in place.names(after) if number_of(n) is not None), default=None)
    if name is None:
        return known
    try:
        last = decode(place.read(name))
    except CatalogError as exc:
        raise CatalogError(f"{place.uri}/{name}: {exc.message}", hint=exc.hint) from exc
    if last.name != name:
        raise CatalogError(f"{place.uri}/{name} holds number {last.statement.number}")
    return last


def _statement(pairs: object) -> Statement:
    """The typed fields; ValueError, TypeError or KeyError when they are not a statement."""
    if not isinstance(pairs, dict):
        raise TypeError("not an object")
    if pairs["format"] != FORMAT:
        raise CatalogError(f"format {pairs['format']!r:.60}, known is {FORMAT}")
    keys = pairs["keys"]
    texts = [pairs[name] for name in ("previous_sha256", "files_sha256", "at", "signed_by")]
    counts = [pairs[name] for name in ("number", "first", "last")]
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_KEYS:
        raise ValueError("keys")
    if not all(isinstance(text, str) for text in [*texts, *keys]):
        raise TypeError("not a text")
    if not all(type(count) is int and -1 <= count <= MAX_SEQUENCE for count in counts):
        raise TypeError("not a number")
    statement = Statement(**{f.name: pairs[f.name] for f in fields(Statement) if f.name != "keys"},
                          keys=tuple(keys))  # fmt: skip
    dt.datetime.fromisoformat(statement.at)
    return statement


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _time_text(at_ns: int) -> str:
    moment = dt.datetime.fromtimestamp(at_ns // NANOSECONDS, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
