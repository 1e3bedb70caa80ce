"""Errors of a migration: catalogues, tapes, plans."""

from __future__ import annotations

from catalog.errors import FormatError, PoolError


class InventoryError(PoolError):
    """A catalogue file cannot be understood; names file and line."""

    code = "inventory"


class TapeError(PoolError):
    """A tape or a drive cannot be used."""

    code = "tape"


class TapeMissing(TapeError):
    """The cartridge that is needed is not on the shelf or in the library."""

    code = "tape_missing"


class WrongTape(TapeError):
    """The tape's own label is not that of the cartridge that was asked for."""

    code = "wrong_tape"


class ContainerDamaged(FormatError):
    """A virtual tape file does not follow its container's layout; offset is in the file."""

    code = "container"
