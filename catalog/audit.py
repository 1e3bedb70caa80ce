"""Whether a ledger is still what was written: a walk along its chain.

Trusts nothing but the files themselves, keeps one of them in memory at a time, and gives a
verdict, never an exception, about what is wrong with the files. ``docs/ledger.md`` says how to
come to the same verdict without this program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from catalog.errors import CatalogError, ObjectNotFound
from catalog.files import LedgerFiles, name_of, sequence_of
from catalog.ledger import Head
from catalog.schema import FIRST_PREVIOUS, check_rows, read_footer

CANNOT_SEE = (
    "A chain without an anchor cannot show that files were removed at its end, that its last file "
    "was rewritten, or that the whole chain was written anew: compare the head with one that was "
    "noted elsewhere."
)


@dataclass(frozen=True, slots=True)
class Bad:
    """The first file that is not as it was written, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a walk along the chain found.

    files, rows and bytes count what was found sound, from the first file on. head is the last of
    these. cannot_see says what no such walk can find.
    """

    uri: str
    bad: Bad | None
    files: int
    rows: int
    bytes: int
    head: Head | None
    cannot_see: str = CANNOT_SEE

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.bad is None


class _Walk:
    """The chain as far as it is sound."""

    def __init__(self, files: LedgerFiles) -> None:
        self.files = files
        self.count = 0
        self.rows = 0
        self.bytes = 0
        self.head: Head | None = None

    def step(self, name: str) -> Bad | None:
        """Take the next file in order into the chain, or say what is bad, here or before."""
        expected = self.count
        if sequence_of(name) != expected:
            return Bad(name_of(expected), f"is missing: the next file is {name}")
        try:
            data = self.files.read(name)
            footer = read_footer(data)
        except ObjectNotFound:
            return Bad(name, "was removed while the chain was read")
        except CatalogError as exc:
            return Bad(name, f"cannot be read: {exc.message}")
        if footer.sequence != expected:
            return Bad(name, f"holds number {footer.sequence}: it was renamed or reordered")
        if footer.previous_sha256 != (self.head.sha256 if self.head else FIRST_PREVIOUS):
            return self._broken_before(name)
        self.count += 1
        self.rows += footer.rows
        self.bytes += len(data)
        self.head = Head(expected, hashlib.sha256(data).hexdigest())
        return None

    def _broken_before(self, name: str) -> Bad:
        if self.head is None:
            return Bad(name, "is the first file, and yet names one before it")
        return Bad(
            name_of(self.head.sequence),
            f"was altered: its SHA-256 is {self.head.sha256}, {name} was written upon another",
        )

    def last_file(self) -> Bad | None:
        """No file vouches for the last one; its pages carry checksums of their own."""
        if self.head is None:
            return None
        name = name_of(self.head.sequence)
        try:
            check_rows(self.files.read(name))
        except CatalogError as exc:
            return Bad(name, f"cannot be read: {exc.message}")
        except ObjectNotFound:
            return Bad(name, "was removed while the chain was read")
        return None


def verify(files: LedgerFiles) -> Verdict:
    """Walk the chain from its first file to its last and name the first bad one.

    Found are: a file that was edited, renamed, swapped, removed from the middle or the beginning,
    that cannot be read, and a name that does not belong into a ledger. Only errors of the place
    itself (it cannot be listed, the store does not answer) are raised: CatalogError, StoreError.
    """
    walk = _Walk(files)
    strange: list[str] = []
    bad = next((found for name in _own(files, strange) if (found := walk.step(name))), None)
    bad = bad or walk.last_file()
    if bad is None and strange:
        bad = Bad(strange[0], "does not belong into a ledger: readers of the folder may take it in")
    return Verdict(
        uri=files.uri,
        bad=bad,
        files=walk.count,
        rows=walk.rows,
        bytes=walk.bytes,
        head=walk.head,
    )


def _own(files: LedgerFiles, strange: list[str]) -> Iterator[str]:
    """The ledger's own names in order; the first strange one is put aside."""
    for name in files.names():
        if sequence_of(name) is not None:
            yield name
        elif not strange:
            strange.append(name)
