"""Feeding a format and looking at what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from migrate.formats.interface import Done, Extract, Gap, Piece, Wanted
from migrate.source.interface import Block, EndOfTape, Filemark, TapeEvent, TapeSource


@dataclass
class Taken:
    """What was given of one fragment. runs holds the sizes of pieces, and of gaps as negatives."""

    data: bytes = b""
    gaps: list[Gap] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    dones: list[Done] = field(default_factory=list)

    @property
    def done(self) -> Done:
        assert len(self.dones) == 1, self.dones
        return self.dones[0]


def tape_file(source: TapeSource) -> Iterator[TapeEvent]:
    """The events of a tape file up to its filemark."""
    while not isinstance(event := source.read(), Filemark):
        yield event
        if isinstance(event, EndOfTape):
            return


def collect(items: Iterable[Extract]) -> dict[Wanted, Taken]:
    found: dict[Wanted, Taken] = {}
    for item in items:
        taken = found.setdefault(item.wanted, Taken())
        assert not taken.dones, "something came behind a Done"
        if isinstance(item, Piece):
            assert len(item.data)
            taken.data += bytes(item.data)
            taken.runs.append(len(item.data))
        elif isinstance(item, Gap):
            taken.gaps.append(item)
            taken.runs.append(-(item.size or 0))
        else:
            taken.dones.append(item)
    return found


def only(items: Iterable[Extract]) -> Taken:
    found = collect(items)
    assert len(found) == 1
    taken = next(iter(found.values()))
    assert taken.done
    return taken


def blocks(*data: bytes) -> Iterator[TapeEvent]:
    return iter([Block(each) for each in data])


def want(size: int | None, *, exact: bool = True, image: str = "web_1690000100") -> Wanted:
    return Wanted(image_id=image, copy=1, fragment_number=1, size=size, size_is_exact=exact)
