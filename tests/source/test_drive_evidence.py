"""TapeAlert, log pages and cartridge memory, of drives that answer, half answer, or do not."""

from __future__ import annotations

import ctypes
import errno
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import TapeError
from migrate.source.drive_evidence import (
    ALERTS,
    CRITICAL,
    Evidence,
    attributes,
    counters,
    gather,
    parse_attributes,
    tape_alerts,
)
from migrate.source.drive_mount import Drive
from migrate.source.drive_scsi import (
    ALLOWED,
    NotOffered,
    Reply,
    SgHeader,
    ask,
    generic_of,
    sense_of,
)
from migrate.source.drive_st import ForbiddenOperation
from tests.source.fake_st import error

ILLEGAL = Reply(b"", status=2, sense=bytes([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0]))


def page(number: int, parameters: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(struct.pack(">HBB", code, 0, len(value)) + value for code, value in parameters)
    return struct.pack(">BBH", number, 0, len(body)) + body


def attribute(number: int, kind: int, value: bytes) -> bytes:
    return struct.pack(">HBH", number, kind, len(value)) + value


def memory(*found: bytes) -> bytes:
    return struct.pack(">I", sum(map(len, found))) + b"".join(found)


INQUIRY_DATA = bytes([1, 0x80, 6, 2, 91, 0, 0, 2]) + b"IBM     ULT3580-TD8     P3A1"
ALERT_PAGE = page(0x2E, [(number, bytes([number in (3, 4)])) for number in range(1, 65)])
MEMORY = memory(
    attribute(0x0003, 0x80, struct.pack(">Q", 41)),
    attribute(0x020A, 0x80, b"IBM     " + b"SERIAL01".ljust(32)),
    attribute(0x0401, 1, b"MEDIUM7".ljust(32)),
    attribute(0x0806, 1, b"A00001L8".ljust(32)),
    attribute(0x7777, 0, b"nobody knows"),
)


class FakeDrive:
    """Answers by the first bytes of a command; cut to the length that was asked for."""

    def __init__(self, answers: dict[bytes, bytes | Reply | OSError]) -> None:
        self.answers = answers
        self.closed = False

    def send(self, cdb: bytes, length: int) -> Reply:
        for begin, answer in self.answers.items():
            if cdb.startswith(begin):
                if isinstance(answer, OSError):
                    raise answer
                return answer if isinstance(answer, Reply) else Reply(answer[:length])
        return ILLEGAL

    def close(self) -> None:
        self.closed = True


WHOLE: dict[bytes, bytes | Reply | OSError] = {
    b"\x12\x00": INQUIRY_DATA,
    b"\x12\x01\x80": b"\x01\x80\x00\x0aSERIAL01  ",
    b"\x4d\x00\x6e": ALERT_PAGE,
    b"\x4d\x00\x43": page(0x03, [(3, struct.pack(">Q", 17)), (6, b"\0\0\0\2")]),
    b"\x4d\x00\x57": page(0x17, [(1, b"\0\0\0\x29"), (0x200, b"a text that is long")]),
    b"\x8c\x00": MEMORY,
}


def test_everything_that_a_drive_says_is_kept_in_words() -> None:
    evidence = gather(FakeDrive(WHOLE))
    assert evidence.is_critical
    assert evidence.detail() == {
        "drive": "IBM ULT3580-TD8 P3A1",
        "drive_serial": "SERIAL01",
        "tape_alerts": ["3 hard error", "4 media"],
        "cartridge_memory": {
            "load_count": 41,
            "last_drive": "IBM     SERIAL01",
            "medium_serial": "MEDIUM7",
            "barcode": "A00001L8",
        },
        "read_errors": {"0x0003": 17, "0x0006": 2},
        "statistics": {"0x0001": 41},
    }


@pytest.mark.parametrize("lost", sorted(WHOLE), ids=lambda cdb: cdb.hex())
@pytest.mark.parametrize("how", [ILLEGAL, error(errno.EPERM), Reply(b"", host_status=3), b""])
def test_what_a_drive_does_not_say_is_named_and_the_rest_is_kept(
    lost: bytes, how: bytes | Reply | OSError
) -> None:
    evidence = gather(FakeDrive({**WHOLE, lost: how}))
    empty = how == b"" and lost in (b"\x12\x00", b"\x12\x01\x80", b"\x8c\x00")
    assert len(evidence.missing) == (0 if empty else 1)
    assert len(evidence.detail()) >= 5


def test_a_command_that_is_not_offered_and_one_that_failed_are_told_apart() -> None:
    drive = FakeDrive({b"\x8c": Reply(b"", status=2, sense=bytes([0x72, 6, 0x28, 0]))})
    with pytest.raises(NotOffered, match="illegal request \\(24/00\\)"):
        tape_alerts(drive)
    with pytest.raises(TapeError, match="unit attention \\(28/00\\)"):
        attributes(drive)


def test_another_page_than_the_one_asked_for_is_refused() -> None:
    with pytest.raises(TapeError, match="another page"):
        counters(FakeDrive({b"\x4d": page(0x02, [])}), 0x03)


def test_a_command_that_could_move_or_write_is_never_sent() -> None:
    for opcode in set(range(256)) - ALLOWED:
        drive = FakeDrive({bytes([opcode]): OSError(errno.EIO, "it was sent")})
        with pytest.raises(ForbiddenOperation):
            ask(drive, bytes([opcode, 0, 0, 0, 0, 0]), 8, "anything")


def test_the_commands_that_are_sent_neither_move_nor_write() -> None:
    assert {0x12, 0x4D, 0x8C} == ALLOWED


def test_the_header_has_the_size_that_the_kernel_expects() -> None:
    assert ctypes.sizeof(SgHeader) == 88 or ctypes.sizeof(ctypes.c_void_p) != 8


def test_every_critical_alert_has_a_name() -> None:
    assert set(ALERTS) >= CRITICAL


@given(st.binary(max_size=64))
def test_any_sense_any_page_and_any_memory_give_a_result(data: bytes) -> None:
    sense_of(data)
    parse_attributes(data)
    replies: dict[bytes, bytes | Reply | OSError] = {bytes([opcode]): data for opcode in ALLOWED}
    evidence = gather(FakeDrive(replies))
    assert len(evidence.missing) <= 6


def test_the_generic_device_of_a_drive_is_the_one_that_the_kernel_names(tmp_path: Path) -> None:
    device = tmp_path / "nst0" / "device"
    device.mkdir(parents=True)
    (device / "generic").symlink_to("scsi_generic/sg7")
    assert generic_of("/dev/nst0", system=tmp_path) == "/dev/sg7"
    assert generic_of("/dev/nst1", system=tmp_path) is None
    link = tmp_path / "by-id"
    link.symlink_to("/dev/nst0")
    assert generic_of(str(link), system=tmp_path) == "/dev/sg7"


def test_a_drive_without_a_generic_device_gives_no_evidence_and_says_why() -> None:
    assert Drive(path="/dev/nst99").evidence() == Evidence(
        missing=("/dev/nst99 has no /dev/sg device",)
    )


def test_the_generic_device_is_closed_whatever_it_said() -> None:
    fake = FakeDrive(WHOLE)
    drive = Drive(path="/dev/nst0", generic="/dev/sg1", open_generic=lambda path: fake)
    assert drive.evidence().serial == "SERIAL01"
    assert fake.closed

    def refuse(path: str) -> FakeDrive:
        raise error(errno.EACCES)

    refused = Drive(path="/dev/nst0", generic="/dev/sg1", open_generic=refuse)
    assert refused.evidence().missing == ("cannot open /dev/sg1: Permission denied",)
