"""The ledger: a chain of commits, to which facts are appended and nothing else is done.

A commit is one file. Its name is the next number, created only if it is absent; its footer
carries the SHA-256 of the file before it. Writers on several hosts need no other agreement: who
comes second takes the next number. Whether a chain is sound is checked in ``audit.py``; questions
are asked in ``query.py``.

``schema`` is imported where it is used. It brings pyarrow, 0.1 s and 25 MiB, and most programs open
a ledger long before they have a row for it, or never have one.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import (
    CatalogError,
    ChainBroken,
    CommitConflict,
    ObjectNotFound,
    PoolError,
)
from catalog.files import (
    MAX_FILE_BYTES,
    MAX_SEQUENCE,
    LedgerFiles,
    name_of,
    open_files,
    sequence_of,
)
from catalog.model import Fact

if TYPE_CHECKING:
    from catalog.anchor import Anchoring
    from catalog.checkpoint import Checkpoint
    from catalog.s3 import S3Limits
    from catalog.schema import Footer

logger = logging.getLogger(__name__)

APPEND_ATTEMPTS = 200
_LONGEST_WAIT_S = 0.25


@dataclass(frozen=True, slots=True)
class Head:
    """The last commit of a ledger: its number, and the SHA-256 of its file in hex."""

    sequence: int
    sha256: str


@dataclass(frozen=True, slots=True, repr=False)
class Commit:
    """A file that is ready to be committed; data is all of it, sha256 its digest in hex."""

    sequence: int
    name: str
    data: bytes
    sha256: str
    rows: int

    def __repr__(self) -> str:
        return f"Commit({self.name}, {self.rows} rows, {len(self.data)} bytes)"


class Ledger:
    """One ledger, open for appending. Calls may come from several threads at once.

    anchoring says how its head is signed; without, it is not.
    """

    def __init__(self, files: LedgerFiles, anchoring: Anchoring | None = None) -> None:
        self._files = files
        self._anchor = None
        if anchoring is not None:
            from catalog.anchor import Anchor  # brings the cryptography library

            self._anchor = Anchor(files, anchoring)
        self._lock = threading.RLock()
        self._head: Head | None = None
        self._known = False

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        endpoint_url: str | None = None,
        limits: S3Limits | None = None,
        anchoring: Anchoring | None = None,
    ) -> Ledger:
        """The ledger at ``s3://BUCKET/PREFIX`` or in a folder; it need not exist yet."""
        return cls(open_files(uri, endpoint_url, limits), anchoring)

    @property
    def uri(self) -> str:
        """Where the ledger is; holds no secret."""
        return self._files.uri

    def head(self) -> Head | None:
        """The last commit; None for an empty ledger.

        Kept after the first call; a commit of this object moves it, and after a conflict it is
        read again. Raises ChainBroken when the last file is not a ledger file.
        """
        with self._lock:
            if not self._known:
                self._refresh()
            return self._head

    def prepare(self, facts: Sequence[Fact], head: Head | None) -> Commit:
        """The commit that follows head; writes nothing, and gives the same bytes every time.

        Raises CatalogError for no facts, more than a million, more than MAX_FILE_BYTES, or a
        value that does not fit its column.
        """
        from catalog.schema import FIRST_PREVIOUS, encode

        sequence = 0 if head is None else head.sequence + 1
        if sequence > MAX_SEQUENCE:
            raise CatalogError(f"the ledger's numbers are used up at {sequence - 1}")
        previous = FIRST_PREVIOUS if head is None else head.sha256
        data = encode(facts, sequence=sequence, previous_sha256=previous)
        if len(data) > MAX_FILE_BYTES:
            raise CatalogError(
                f"{len(facts)} facts make a file of {len(data)} bytes",
                hint=f"commit fewer at a time; a file has at most {MAX_FILE_BYTES} bytes",
            )
        return Commit(
            sequence=sequence,
            name=name_of(sequence),
            data=data,
            sha256=hashlib.sha256(data).hexdigest(),
            rows=len(facts),
        )

    def commit(self, commit: Commit) -> None:
        """Put a prepared commit into the ledger; safe to repeat, also by a later process.

        Raises:
            CommitConflict: another file has its number. Prepare again upon the new head().
            CommitUnknown: the outcome could not be settled; call again with the same commit.
            ChainBroken: the commit before it is not the one that it was prepared upon.
        """
        with self._lock:
            self._check_link(commit)
            try:
                self._files.create(commit.name, commit.data)
            except CommitConflict:
                self._known = False
                raise
            if self._head is None or self._head.sequence < commit.sequence:
                self._head = Head(commit.sequence, commit.sha256)
                self._known = True
        if self._anchor is not None:
            self._anchor.note(commit.sequence, commit.sha256)

    def append(self, facts: Sequence[Fact]) -> Commit:
        """Commit facts upon whatever the head is by then.

        Raises CommitConflict when other writers were faster APPEND_ATTEMPTS times in a row, and
        what commit() raises otherwise. After CommitUnknown the facts may be in the ledger or not:
        who must not write them twice keeps the Commit and uses prepare() and commit().
        """
        with self._lock:
            for attempt in range(APPEND_ATTEMPTS):
                commit = self.prepare(facts, self.head())
                try:
                    self.commit(commit)
                except CommitConflict:
                    logger.debug("%s: %s was taken, trying the next", self.uri, commit.name)
                    time.sleep(
                        random.uniform(0, min(_LONGEST_WAIT_S, 0.002 * 2 ** min(attempt, 9)))
                    )
                else:
                    return commit
        raise CommitConflict(
            f"other writers of {self.uri} were faster {APPEND_ATTEMPTS} times",
            hint="run the same command again, or commit larger batches less often",
        )

    def anchor(self) -> Checkpoint | None:
        """Sign the head now; the last checkpoint that this wrote, None when nothing was new.

        For the end of a run. Raises CatalogError without an anchoring, and what
        ``catalog.anchor.Anchor.write`` raises.
        """
        if self._anchor is None:
            raise CatalogError(f"the ledger {self.uri} was opened without a key to sign with")
        with self._lock:
            self._refresh()
            head = self._head
        return self._anchor.write(head)

    def anchor_due(self) -> None:
        """Sign the head if it is time to. For after a commit, which stands whatever happens here:

        an anchor that fails is told in the log and tried again at the next call.
        """
        if self._anchor is None:
            return
        try:
            self._anchor.write_due(self.head())
        except PoolError as exc:
            logger.warning("the ledger %s is not anchored for now: %s", self.uri, exc)

    def facts(self, start: int = 0) -> Iterator[Fact]:
        """Yield all facts from commit number ``start`` on, in order; holds one file in memory.

        The chain is not checked; see ``catalog.audit.verify``.
        """
        from catalog.schema import decode

        after = name_of(start - 1) if start > 0 else ""
        for name in self._files.names(after):
            if sequence_of(name) is not None:
                yield from decode(self._files.read(name))

    def _refresh(self) -> None:
        """Find the last file, looking only behind the one that was the last."""
        after = name_of(self._head.sequence) if self._head else ""
        last = max(
            (n for n in self._files.names(after) if sequence_of(n) is not None), default=None
        )
        if last is not None:
            self._head = self._read_head(last)
        self._known = True

    def _read_head(self, name: str) -> Head:
        data = self._files.read(name)
        try:
            footer = _read_footer(data)
        except CatalogError as exc:
            raise self._broken(f"{name} is damaged: {exc.message}") from exc
        if footer.sequence != sequence_of(name):
            raise self._broken(f"{name} says that it is number {footer.sequence}")
        return Head(footer.sequence, hashlib.sha256(data).hexdigest())

    def _check_link(self, commit: Commit) -> None:
        """A commit that was journaled may come back to a ledger that is not the same any more."""
        footer = _read_footer(commit.data)
        if hashlib.sha256(commit.data).hexdigest() != commit.sha256:
            raise CatalogError(f"{commit.name} was altered before it was committed")
        if footer.sequence != commit.sequence or name_of(commit.sequence) != commit.name:
            raise CatalogError(f"{commit.name} holds number {footer.sequence}")
        if commit.sequence == 0:
            return
        before = Head(commit.sequence - 1, footer.previous_sha256)
        if self._known and self._head == before:
            return
        try:
            there = hashlib.sha256(self._files.read(name_of(before.sequence))).hexdigest()
        except ObjectNotFound as exc:
            raise self._broken(f"{commit.name} has no file before it") from exc
        if there != before.sha256:
            raise self._broken(
                f"{commit.name} was prepared upon another {name_of(before.sequence)}"
            )

    def _broken(self, what: str) -> ChainBroken:
        return ChainBroken(
            f"the ledger {self.uri} cannot be continued: {what}",
            hint=f"run: tapecatalog verify --ledger {self.uri}",
        )


def _read_footer(data: bytes) -> Footer:
    from catalog.schema import read_footer

    return read_footer(data)
