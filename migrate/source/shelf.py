"""A shelf: a folder in which each entry is one cartridge, named by its barcode.

A file is a cartridge when its suffix is that of a container (``containers.SUFFIXES``), or when its
first bytes follow a container's framing; a folder is a folder of tape files. Other files (catalogue
exports, digests, raw dumps) are no cartridges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import ConfigError
from migrate.errors import TapeError, TapeMissing
from migrate.source.containers import SUFFIXES, identify, open_container
from migrate.source.folder import FolderTape
from migrate.source.interface import TapeSource

Opener = Callable[[Path, str], TapeSource]

NAMES_SHOWN = 8

MEDIA_ID_LENGTH = 6


@dataclass(frozen=True, slots=True)
class Cartridge:
    """One entry of a shelf. opener mounts it."""

    barcode: str
    path: Path
    opener: Opener


class Shelf:
    """The cartridges of one folder, as they were when the shelf was opened."""

    def __init__(self, directory: Path) -> None:
        """List the folder.

        Raises:
            ConfigError: there is no such folder, or two entries claim one barcode.
        """
        self._directory = directory
        self._cartridges: dict[str, Cartridge] = {}
        self._ignored: list[str] = []
        try:
            entries = sorted(directory.iterdir())
        except OSError as exc:
            raise ConfigError(
                f"cannot list the tapes in {directory}: {exc.strerror}",
                hint="--tapes must be a folder with one entry per cartridge",
            ) from exc
        for entry in entries:
            if not entry.name.startswith("."):
                self._place(entry)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the entries that are no cartridges, sorted."""
        return tuple(self._ignored)

    def cartridges(self) -> dict[str, Cartridge]:
        """All cartridges by barcode, in the order of their names."""
        return dict(self._cartridges)

    def mount(self, barcode: str) -> TapeSource:
        """Open a cartridge; the caller closes it.

        Raises:
            TapeMissing: no entry has this barcode.
            TapeError: the entry cannot be opened.
            ContainerDamaged: the file is not what its suffix says.
        """
        cartridge = self._cartridges.get(barcode)
        if cartridge is None:
            raise TapeMissing(f"cartridge {barcode} is not on the shelf", hint=self._what_is_here())
        return cartridge.opener(cartridge.path, cartridge.barcode)

    def match(self, media_id: str, barcode: str | None = None) -> Cartridge:
        """The cartridge that holds a catalogue's media.

        The barcode decides when it is here; else the cartridge that is named by the media id;
        else the only one whose last six characters are the media id, as NetBackup makes media
        ids from barcodes unless it is told otherwise. Whether it really is that tape, its label
        says.

        Raises:
            TapeMissing: none of these is here.
            TapeError: several cartridges end in the media id.
        """
        for name in (barcode, media_id):
            if name and name in self._cartridges:
                return self._cartridges[name]
        called = f"{media_id} (barcode {barcode})" if barcode else media_id
        ending = [
            cartridge
            for name, cartridge in self._cartridges.items()
            if len(media_id) == MEDIA_ID_LENGTH and name.endswith(media_id)
        ]
        if not ending:
            raise TapeMissing(
                f"no cartridge for media {called} is on the shelf", hint=self._what_is_here()
            )
        if len(ending) > 1:
            names = ", ".join(cartridge.path.name for cartridge in ending)
            raise TapeError(
                f"media {called} may be any of {names}",
                hint="give the catalogue's barcodes, or leave only the right one on the shelf",
            )
        return ending[0]

    def _place(self, entry: Path) -> None:
        if entry.is_dir():
            cartridge = Cartridge(entry.name, entry, FolderTape)
        elif entry.is_file() and (entry.suffix.lower() in SUFFIXES or identify(entry)):
            cartridge = Cartridge(entry.stem, entry, open_container)
        else:
            self._ignored.append(entry.name)
            return
        other = self._cartridges.setdefault(cartridge.barcode, cartridge)
        if other is not cartridge:
            raise ConfigError(
                f"{other.path} and {cartridge.path} are both cartridge {cartridge.barcode}",
                hint="leave one of them on the shelf",
            )

    def _what_is_here(self) -> str:
        names = list(self._cartridges)
        if not names:
            return f"{self._directory} holds no cartridge"
        more = len(names) - NAMES_SHOWN
        here = ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"put it into {self._directory}, which holds {here}"
