"""What a backup product's tape format must tell: whose tape this is, and whose bytes these are.

A format knows nothing of drives: it is fed events and gives pieces. It knows nothing of S3. It
trusts no length of the tape or of the catalogue. Interleaved formats give pieces of several
images in turn; file-based ones find their images themselves (``Found``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from migrate.source.interface import TapeEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a tape says it is. volume is None when the tape carries no name."""

    format: str
    volume: str | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One fragment that is expected in a tape file.

    image_id, copy and fragment_number as in the catalogue. size is bytes of image data, or None
    when unknown: take all. size_is_exact false: the catalogue rounded down to KiB.
    """

    image_id: str
    copy: int
    fragment_number: int
    size: int | None = None
    size_is_exact: bool = True
    block_size: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a wanted fragment, in order, nothing added."""

    wanted: Wanted
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a wanted fragment that could not be read. size is None when not even that is
    known; then nothing after the gap can be placed."""

    wanted: Wanted
    size: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """A wanted fragment has ended as it should: ``problem`` is empty, or says what is wrong.

    note is for the record where the bytes are good but something deserves a line.
    """

    wanted: Wanted
    problem: str = ""
    note: str = ""


Extract = Piece | Gap | Done


class TapeFormat(Protocol):
    """One product's way of writing tapes."""

    @property
    def name(self) -> str:
        """How the format is called in reports, ``netbackup``."""
        ...

    @property
    def has_label(self) -> bool:
        """Whether tape file 0 is a label of its own, and not data."""
        ...

    def identify(self, first: bytes) -> Label | None:
        """What the tape's first block says; None when it is not of this format."""
        ...

    def extract(self, events: Iterator[TapeEvent], wanted: Sequence[Wanted]) -> Iterator[Extract]:
        """Take the wanted fragments out of one tape file.

        events begins with the tape file's first block and ends before its filemark; a medium
        that ends early gives an EndOfTape event. Every wanted fragment gets exactly one Done,
        whatever the bytes are.
        """
        ...


class Demultiplexer(Protocol):
    """Takes a multiplexed tape file apart. The control blocks' layout of NetBackup is not
    public: Tapelift ships none, and takes one as a plug-in."""

    def extract(self, events: Iterator[TapeEvent], wanted: Sequence[Wanted]) -> Iterator[Extract]:
        """As TapeFormat.extract, for a multiplexed tape file."""
        ...
