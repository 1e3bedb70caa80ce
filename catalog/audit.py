"""Whether a ledger is still what was written: a walk along its chain, beside its checkpoints.

Trusts nothing but the files themselves and what the auditor brings along, keeps a few of them in
memory at a time, and gives a verdict, never an exception, about what is wrong with the files.
``docs/auditors.md`` says how to come to the same verdict without this program.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import (
    CatalogError,
    ConfigError,
    ObjectNotFound,
    StoreError,
    TransientStoreError,
)
from catalog.files import MAX_SEQUENCE, FolderFiles, LedgerFiles, name_of, sequence_of
from catalog.footer import place_of
from catalog.ledger import Head
from catalog.schema import FIRST_PREVIOUS, check_rows

if TYPE_CHECKING:
    from catalog.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

READ_AHEAD = 4
"""Files that are fetched at once from a store; in a folder one is read at a time."""

UNANCHORED = (
    "A chain without an anchor cannot show that files were removed at its end, that its last file "
    "was rewritten, or that the whole chain was written anew: compare the head with one that was "
    "noted elsewhere (--expect DIGEST@NUMBER)."
)
BEHIND_ANCHOR = (
    "Files behind number {} are linked, and nothing vouches for them yet: that they were removed "
    "at the end of the ledger, or written anew, cannot be seen."
)
SIGNER = (
    "Who holds the signing key can sign another history, unless the checkpoints are under Object "
    "Lock or the head was noted elsewhere (--expect DIGEST@NUMBER)."
)
FIRST_KEY = (
    "The first key was taken at its word: compare it with the one that you were given (--key FILE)."
)
_EXPECTED = re.compile(r"([0-9a-fA-F]{64})@(\d{1,19})")


@dataclass(frozen=True, slots=True)
class Bad:
    """The first file that is not as it was written, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a walk along the chain found.

    files, rows and bytes count what was found sound, from the first file on. head is the last of
    these. anchored is the number of the last file that a checkpoint or an expected head vouches
    for, and that was found so; checkpoints counts the sound ones, first_key signed the first of
    them. cannot_see says what no such walk can find.
    """

    uri: str
    bad: Bad | None
    files: int
    rows: int
    bytes: int
    head: Head | None
    anchored: int | None = None
    checkpoints: int = 0
    first_key: str | None = None
    cannot_see: str = UNANCHORED

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.bad is None


def parse_expected(text: str) -> Head:
    """``DIGEST@NUMBER``, as ``verify`` and ``anchor`` print it; ConfigError when it is not that."""
    match = _EXPECTED.fullmatch(text.strip())
    if match is None or int(match[2]) > MAX_SEQUENCE:
        raise ConfigError(
            f"not a noted head: {text!r:.100}", hint="write 64 hex digits, @, and the file's number"
        )
    return Head(int(match[2]), match[1].lower())


def verify(
    files: LedgerFiles,
    *,
    checkpoints: LedgerFiles | None = None,
    trusted: Collection[str] = (),
    expect: Head | None = None,
) -> Verdict:
    """Walk the chain from its first file to its last and name the first bad one.

    checkpoints are where the ledger's are, by default in its folder for them. trusted are public
    keys of which one must have signed the first checkpoint; expect is a head that was noted.

    Found are: a file that was edited, renamed, swapped, removed from the middle or the beginning,
    that cannot be read, a second one upon the same file, and a name that does not belong into a
    ledger; and, as far as checkpoints or the noted head reach, files that were removed at the end
    and a chain that was written anew. Only errors of the place itself (it cannot be listed, the
    store does not answer) are raised: CatalogError, StoreError.
    """
    from catalog.checkpoint import FOLDER, BadCheckpoint

    place = checkpoints or files.below(FOLDER)
    anchors = _Anchors(place, trusted, expect)
    walk = _Walk(files, anchors)
    strange: list[str] = []
    try:
        bad = _first_bad(walk, _own(files, strange))
    except BadCheckpoint as exc:
        bad = Bad(f"{FOLDER}/{exc.name}", exc.why)
    bad = bad or _rewritten(files, "") or _rewritten(place, f"{FOLDER}/")
    if bad is None and strange:
        bad = Bad(strange[0], "does not belong into a ledger: readers of the folder may take it in")
    return Verdict(
        uri=files.uri,
        bad=bad,
        files=walk.count,
        rows=walk.rows,
        bytes=walk.bytes,
        head=walk.head,
        anchored=walk.anchored,
        checkpoints=anchors.count,
        first_key=anchors.first_key,
        cannot_see=_cannot_see(walk, anchors, bool(trusted)),
    )


class _Anchors:
    """What vouches for files: the checkpoints, read as the walk comes to them, and a noted head."""

    def __init__(self, place: LedgerFiles, trusted: Collection[str], expect: Head | None) -> None:
        from catalog.checkpoint import walk

        self._chain = walk(place, trusted)  # lists them now, before anybody lists the files
        self._current: Checkpoint | None = None
        self.expect = expect
        self.count = 0
        self.first_key: str | None = None

    def vouched(self, number: int) -> dict[str, str]:
        """Who vouches for file ``number``, and the SHA-256 that each has for it.

        To be asked for every number in order. Raises BadCheckpoint.
        """
        while self._current is None or self._current.last < number:
            if not self._advance():
                break
        found: dict[str, str] = {}
        current = self._current
        if current is not None and current.statement.first <= number <= current.last:
            found[f"checkpoint {current.name}"] = current.files[number - current.statement.first]
        if self.expect is not None and self.expect.sequence == number:
            found["the noted head"] = self.expect.sha256
        return found

    def vouches_beyond(self, count: int) -> str | None:
        """Who says that there are more than ``count`` files; None when nobody does."""
        for who in self.vouched(count):
            return who
        if self.expect is not None and self.expect.sequence > count:
            return "the noted head"
        return None

    def _advance(self) -> bool:
        following = next(self._chain, None)
        if following is None:
            return False
        self._current = following
        self.first_key = self.first_key or following.statement.signed_by
        self.count += 1
        return True


class _Walk:
    """The chain as far as it is sound."""

    def __init__(self, files: LedgerFiles, anchors: _Anchors) -> None:
        self.files = files
        self.anchors = anchors
        self.count = 0
        self.rows = 0
        self.bytes = 0
        self.head: Head | None = None
        self.anchored: int | None = None
        self._before_head = ""

    def step(self, name: str, read: Callable[[], bytes]) -> Bad | None:
        """Take the next file in order into the chain, or say what is bad, here or before."""
        expected = self.count
        vouched = self.anchors.vouched(expected)
        if sequence_of(name) != expected:
            return Bad(name_of(expected), f"is missing: the next file is {name}")
        try:
            data = read()
        except ObjectNotFound:
            return Bad(name, "was removed while the chain was read")
        except CatalogError as exc:
            return Bad(name, f"cannot be read: {exc.message}")
        sha256 = hashlib.sha256(data).hexdigest()
        for who, has in vouched.items():
            if has != sha256:
                return Bad(name, f"was altered: its SHA-256 is {sha256}, {who} has {has}")
        bad = self._check_link(name, data)
        if bad is not None:
            return bad
        self._before_head = self.head.sha256 if self.head else ""
        self.head = Head(expected, sha256)
        self.count += 1
        self.bytes += len(data)
        if vouched:
            self.anchored = expected
        return None

    def _check_link(self, name: str, data: bytes) -> Bad | None:
        try:
            footer = place_of(data)
        except CatalogError as exc:
            return Bad(name, f"cannot be read: {exc.message}")
        if footer.sequence != self.count:
            return Bad(name, f"holds number {footer.sequence}: it was renamed or reordered")
        if footer.previous_sha256 != (self.head.sha256 if self.head else FIRST_PREVIOUS):
            return self._broken_before(name, footer.previous_sha256)
        self.rows += footer.rows
        return None

    def _broken_before(self, name: str, upon: str) -> Bad:
        if self.head is None:
            return Bad(name, "is the first file, and yet names one before it")
        before = name_of(self.head.sequence)
        if upon == (self._before_head or FIRST_PREVIOUS):
            return Bad(
                name, f"was written upon the same file as {before}: the ledger has two heads"
            )
        if self.anchored == self.head.sequence:
            return Bad(name, f"was written upon another {before} than the one that is vouched for")
        return Bad(
            before,
            f"was altered: its SHA-256 is {self.head.sha256}, {name} was written upon another",
        )

    def end(self) -> Bad | None:
        """What is missing behind the last file; and whether that one, for which no file vouches,
        is whole: its pages carry checksums of their own."""
        says = self.anchors.vouches_beyond(self.count)
        if says is not None:
            return Bad(name_of(self.count), f"is missing at the end: {says} vouches for it")
        if self.head is None or self.anchored == self.head.sequence:
            return None
        name = name_of(self.head.sequence)
        try:
            check_rows(self.files.read(name))
        except CatalogError as exc:
            return Bad(name, f"cannot be read: {exc.message}")
        except ObjectNotFound:
            return Bad(name, "was removed while the chain was read")
        return None


def _first_bad(walk: _Walk, names: Iterable[str]) -> Bad | None:
    for name, read in _reading(walk.files, names):
        bad = walk.step(name, read)
        if bad is not None:
            return bad
    return walk.end()


def _reading(files: LedgerFiles, names: Iterable[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Each name with what gives its content; a store is asked for READ_AHEAD files at once."""
    if isinstance(files, FolderFiles):
        for name in names:
            yield name, lambda name=name: files.read(name)  # type: ignore[misc]
        return
    pool = ThreadPoolExecutor(READ_AHEAD)
    try:
        asked = deque[tuple[str, Callable[[], bytes]]]()
        for name in names:
            asked.append((name, pool.submit(files.read, name).result))
            if len(asked) == READ_AHEAD:
                yield asked.popleft()
        yield from asked
    finally:
        pool.shutdown(cancel_futures=True)


def _own(files: LedgerFiles, strange: list[str]) -> Iterator[str]:
    """The ledger's own names in order; the first strange one is put aside."""
    for name in files.names():
        if sequence_of(name) is not None:
            yield name
        elif not strange:
            strange.append(name)


def _rewritten(place: LedgerFiles, prefix: str) -> Bad | None:
    """A file that a versioned bucket has more than once, or had to hide: nobody may do either."""
    if isinstance(place, FolderFiles) or not place.uri.startswith("s3:"):
        return None
    from catalog.s3_files import S3Files

    if not isinstance(place, S3Files):
        return None
    try:
        kept = next(place.rewritten(), None)
    except TransientStoreError:
        raise
    except StoreError as exc:
        logger.warning("whether files were overwritten cannot be seen: %s", exc.message)
        return None
    if kept is None:
        return None
    how = "removed" if kept.removed else f"written {kept.versions} times: the ledger has two heads"
    return Bad(prefix + kept.name, f"was {how}; the bucket has its first version")


def _cannot_see(walk: _Walk, anchors: _Anchors, trusted: bool) -> str:
    if walk.anchored is None:
        return UNANCHORED
    limits = []
    if walk.head is not None and walk.head.sequence > walk.anchored:
        limits.append(BEHIND_ANCHOR.format(walk.anchored))
    if anchors.expect is None:
        limits.append(SIGNER)
    if anchors.count and not trusted and anchors.expect is None:
        limits.append(FIRST_KEY)
    return " ".join(limits)
