"""Which container a file is: found by what its first bytes are, where they say so.

Names lie: a ``.tap`` may be an AWSTAPE file, and many dumps have no suffix at all. The suffix
decides only where the bytes do not, in a blank or a damaged file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import FormatError
from migrate.errors import TapeError
from migrate.source.awstape import AwsTape
from migrate.source.interface import Block, EndOfTape, TapeSource
from migrate.source.simh import SimhTape

log = logging.getLogger(__name__)

LOOK_AT = 4
"""So many events of a file must follow each other by a container's framing. Only records prove
anything: marks are zeros to one container and hardly more to the other."""


@dataclass(frozen=True, slots=True)
class Container:
    """One kind of file. suffixes in lower case."""

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[Path, str], TapeSource]


CONTAINERS = (
    Container("SIMH", (".tap",), SimhTape),
    Container("AWSTAPE or HET", (".aws", ".het"), AwsTape),
)

SUFFIXES: Mapping[str, Container] = {
    suffix: container for container in CONTAINERS for suffix in container.suffixes
}


def identify(path: Path) -> Container | None:
    """The container whose framing the file's beginning follows; None where that is none.

    A file that cannot be opened is none; opening it for use will say why.
    """
    for container in CONTAINERS:
        try:
            if _follows(container, path):
                return container
        except (TapeError, FormatError):
            continue
    return None


def open_container(path: Path, barcode: str) -> TapeSource:
    """Mount a file: as what it is, or else as what its suffix says.

    Raises:
        TapeError: it cannot be opened, or is not a container.
        ContainerDamaged: it is not what its suffix says.
    """
    named = SUFFIXES.get(path.suffix.lower())
    found = identify(path)
    if found and named and found is not named:
        log.warning("%s is a %s file, whatever its name says", path, found.name)
    container = found or named
    if container is None:
        raise TapeError(f"{path} is no container that is known", hint="known are " + known())
    return container.open(path, barcode)


def known() -> str:
    """The containers and their suffixes, for people."""
    return ", ".join(f"{each.name} ({', '.join(each.suffixes)})" for each in CONTAINERS)


def _follows(container: Container, path: Path) -> bool:
    """Whether the first events are records and marks without damage, and one is a record."""
    with closing(container.open(path, "")) as tape:
        records = 0
        for _ in range(LOOK_AT):
            event = tape.read()
            if isinstance(event, EndOfTape):
                return records > 0 and not event.abrupt
            if not tape.position.block:
                continue  # a mark
            if not isinstance(event, Block):
                return False
            records += 1
        return records > 0
