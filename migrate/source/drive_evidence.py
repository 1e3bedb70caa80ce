"""What a drive and a cartridge say of themselves: TapeAlert, log pages and the cartridge's memory.

Values for the ledger, kept beside what was read: which drive, how often the cartridge was loaded,
whether the drive complained. Layouts: SPC-4 and SSC-4, log pages 0x2E, 0x02, 0x03 and 0x17, and
READ ATTRIBUTE. A drive that offers less gives less; nothing here stops a migration.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from migrate.errors import TapeError
from migrate.source.drive_scsi import INQUIRY, LOG_SENSE, READ_ATTRIBUTE, Transport, ask

Value = TypeVar("Value")

TAPE_ALERT = 0x2E
READ_ERRORS = 0x03
VOLUME_STATISTICS = 0x17

ALERTS = {  # SSC-4, table of TapeAlert flags; those that a reader can meet
    1: "read warning",
    2: "write warning",
    3: "hard error",
    4: "media",
    5: "read failure",
    6: "write failure",
    7: "media life",
    8: "not data grade",
    9: "write protect",
    10: "no removal",
    11: "cleaning media",
    12: "unsupported format",
    13: "recoverable snapped tape",
    14: "unrecoverable snapped tape",
    15: "cartridge memory failure",
    16: "forced eject",
    17: "read-only format",
    18: "tape directory corrupted on load",
    19: "nearing media life",
    20: "clean now",
    21: "clean periodic",
    22: "expired cleaning media",
    23: "invalid cleaning tape",
    26: "cooling fan",
    30: "hardware A",
    31: "hardware B",
    32: "interface",
    33: "eject media",
    34: "download failure",
    35: "humidity",
    36: "temperature",
    37: "voltage",
    38: "predictive failure",
    39: "diagnostics required",
    50: "lost statistics",
    51: "directory invalid at unload",
    52: "system area write failure",
    53: "system area read failure",
    54: "no start of data",
    55: "loading failure",
    59: "WORM integrity",
    60: "WORM overwrite attempted",
}
CRITICAL = {4, 5, 6, 9, 13, 14, 16, 20, 22, 23, 30, 31, 33, 38, 52, 53, 54, 55}

ATTRIBUTES = {  # SPC-4, medium auxiliary memory; those that tell cartridges apart and their age
    0x0000: "remaining_capacity_mib",
    0x0001: "maximum_capacity_mib",
    0x0003: "load_count",
    0x0005: "assigning_organisation",
    0x0006: "formatted_density",
    0x0009: "volume_change_reference",
    0x020A: "last_drive",
    0x0220: "megabytes_written_in_life",
    0x0221: "megabytes_read_in_life",
    0x0400: "manufacturer",
    0x0401: "medium_serial",
    0x0405: "medium_density",
    0x0406: "manufacture_date",
    0x0408: "medium_type",
    0x0800: "application_vendor",
    0x0801: "application_name",
    0x0802: "application_version",
    0x0803: "text_label",
    0x0804: "last_written",
    0x0806: "barcode",
}
BINARY = 0

TEXT_IN_BINARY = {0x020A}
"""Vendor and serial number of a drive: a text that is called binary."""

OTHER_HINT = "the migration does not need it"

PAGE_LENGTH = 16 * 1024
ATTRIBUTES_LENGTH = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was asked, at one time. alerts are TapeAlert numbers; missing says what was not to be
    had, and why. Reading TapeAlert clears it: ask once before a tape and once after it."""

    vendor: str = ""
    product: str = ""
    revision: str = ""
    serial: str = ""
    alerts: tuple[int, ...] = ()
    attributes: dict[str, str | int] = field(default_factory=dict)
    read_errors: dict[int, int] = field(default_factory=dict)
    statistics: dict[int, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def is_critical(self) -> bool:
        """Whether the drive complains of something that must be looked at."""
        return any(alert in CRITICAL for alert in self.alerts)

    def detail(self) -> dict[str, object]:
        """As the ledger keeps it: without what is empty, with alerts by number and name."""
        logs = {"read_errors": self.read_errors, "statistics": self.statistics}
        found: dict[str, object] = {
            "drive": " ".join(filter(None, (self.vendor, self.product, self.revision))),
            "drive_serial": self.serial,
            "tape_alerts": [f"{alert} {ALERTS.get(alert, 'unknown')}" for alert in self.alerts],
            "cartridge_memory": dict(self.attributes),
            **{
                name: {f"{key:#06x}": value for key, value in log.items()}
                for name, log in logs.items()
            },
            "not_available": list(self.missing),
        }
        return {name: value for name, value in found.items() if value}


def gather(transport: Transport) -> Evidence:
    """Ask for everything. Never raises for a drive that will not say: it is told in ``missing``."""
    missing: list[str] = []

    def part(ask_for: Callable[[Transport], Value], nothing: Value) -> Value:
        try:
            return ask_for(transport)
        except TapeError as exc:
            missing.append(exc.message)
            return nothing

    vendor, product, revision = part(identity, ("", "", ""))
    return Evidence(
        vendor=vendor,
        product=product,
        revision=revision,
        serial=part(serial_number, ""),
        alerts=part(tape_alerts, ()),
        attributes=part(attributes, {}),
        read_errors=part(lambda each: counters(each, READ_ERRORS), {}),
        statistics=part(lambda each: counters(each, VOLUME_STATISTICS), {}),
        missing=tuple(missing),
    )


def identity(transport: Transport) -> tuple[str, str, str]:
    """Vendor, product and revision (INQUIRY)."""
    data = ask(transport, bytes([INQUIRY, 0, 0, 0, 96, 0]), 96, "the drive's name")
    return text(data[8:16]), text(data[16:32]), text(data[32:36])


def serial_number(transport: Transport) -> str:
    """The unit serial number (INQUIRY, vital product data page 0x80)."""
    data = ask(transport, bytes([INQUIRY, 1, 0x80, 0, 252, 0]), 252, "the drive's serial number")
    length = struct.unpack_from(">H", data, 2)[0] if len(data) >= 4 else 0
    return text(data[4 : 4 + length])


def tape_alerts(transport: Transport) -> tuple[int, ...]:
    """The TapeAlert flags that are set; asking clears them in the drive."""
    page = log_page(transport, TAPE_ALERT)
    return tuple(sorted(code for code, value in page if value and value[-1] & 1))


def counters(transport: Transport, page: int) -> dict[int, int]:
    """The parameters of a log page that are numbers of up to eight bytes, by their codes."""
    return {
        code: int.from_bytes(value, "big")
        for code, value in log_page(transport, page)
        if 0 < len(value) <= 8
    }


def log_page(transport: Transport, page: int) -> Iterator[tuple[int, bytes]]:
    """The parameters of a log page (cumulative values), as code and value."""
    control = 0x40 | page
    cdb = struct.pack(">BBBBBHHB", LOG_SENSE, 0, control, 0, 0, 0, PAGE_LENGTH, 0)
    data = ask(transport, cdb, PAGE_LENGTH, f"log page {page:#04x}")
    if len(data) < 4 or data[0] & 0x3F != page:
        raise TapeError(f"log page {page:#04x}: the drive gave another page", hint=OTHER_HINT)
    end = min(len(data), 4 + struct.unpack_from(">H", data, 2)[0])
    return iter(list(_parameters(data, 4, end)))


def attributes(transport: Transport) -> dict[str, str | int]:
    """What the cartridge's memory says, by name (ATTRIBUTES)."""
    cdb = struct.pack(">BB6xHIBB", READ_ATTRIBUTE, 0, 0, ATTRIBUTES_LENGTH, 0, 0)
    data = ask(transport, cdb, ATTRIBUTES_LENGTH, "the cartridge's memory")
    return parse_attributes(data)


def parse_attributes(data: bytes) -> dict[str, str | int]:
    """The attributes of a READ ATTRIBUTE reply that have a name here.

    Numbers of up to eight bytes become int, text loses its padding, other bytes become hex. A
    reply that is cut ends with its last whole attribute.
    """
    found: dict[str, str | int] = {}
    end = min(len(data), 4 + struct.unpack_from(">I", data)[0]) if len(data) >= 4 else 0
    at = 4
    while at + 5 <= end:
        number, kind, length = struct.unpack_from(">HBH", data, at)
        at += 5
        if at + length > end:
            break
        value, at = data[at : at + length], at + length
        name = ATTRIBUTES.get(number)
        if name is None or not value:
            continue
        if kind & 3 != BINARY or number in TEXT_IN_BINARY:
            found[name] = text(value)
        elif length <= 8:
            found[name] = int.from_bytes(value, "big")
        else:
            found[name] = value.hex()
    return found


def _parameters(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= end:
        code, _, length = struct.unpack_from(">HBB", data, at)
        if at + 4 + length > end:
            return
        yield code, data[at + 4 : at + 4 + length]
        at += 4 + length


def text(value: bytes) -> str:
    """Printable text without padding; anything else is shown as a question mark."""
    plain = value.rstrip(b" \0").decode("ascii", "replace")
    shown = (each if each.isprintable() and each != "\ufffd" else "?" for each in plain)
    return "".join(shown).strip()
