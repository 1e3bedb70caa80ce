"""What may be asked of a drive: a list; everything else is refused before the kernel sees it."""

from __future__ import annotations

import errno
import struct

import pytest

from migrate.source.drive_st import Flag, ForbiddenOperation, Op, Status, TapeDevice
from tests.source.fake_st import FakeKernel, error

WRITING = {5: "MTWEOF", 13: "MTERASE", 27: "MTWSM", 34: "MTMKPART", 35: "MTWEOFI"}
HARMLESS = {1, 3, 4, 6, 7, 20, 22}


@pytest.mark.parametrize("op", [op for op in range(64) if op not in HARMLESS])
def test_an_operation_that_is_not_on_the_list_never_reaches_the_kernel(op: int) -> None:
    kernel = FakeKernel([b"data"])
    device = TapeDevice("/dev/nst0", kernel)
    with pytest.raises(ForbiddenOperation):
        device.operate(op)  # type: ignore[arg-type]
    assert kernel.calls == ["open"]


def test_the_list_holds_no_operation_that_writes() -> None:
    assert {int(op) for op in Op} == HARMLESS
    assert not HARMLESS & set(WRITING)


def test_a_fixed_block_size_is_refused() -> None:
    kernel = FakeKernel([b"data"])
    with pytest.raises(ForbiddenOperation):
        TapeDevice("/dev/nst0", kernel).operate(Op.BLOCK_SIZE, 512)
    assert kernel.calls == ["open"]


def test_the_drivers_error_comes_through_as_it_is() -> None:
    def before(name: str) -> None:
        raise error(errno.EACCES)

    with pytest.raises(PermissionError):
        TapeDevice("/dev/nst0", FakeKernel([], before=before))


def test_a_status_with_its_high_bit_set_is_a_negative_number_and_means_the_same() -> None:
    data = struct.pack("@lllllii", 0x72, 0, 0x5A000200, -0x80000000 | 0x01000000, 0x10007, 3, 0)
    status = Status.parse(data)
    assert status.flags == Flag.FILEMARK | Flag.ONLINE
    assert (status.density, status.block_size, status.soft_errors) == (0x5A, 512, 7)
    assert (status.file, status.block) == (3, 0)


def test_a_closed_device_is_not_used() -> None:
    device = TapeDevice("/dev/nst0", FakeKernel([]))
    device.close()
    device.close()
    assert device.closed
    with pytest.raises(ValueError, match="was closed"):
        device.status()
