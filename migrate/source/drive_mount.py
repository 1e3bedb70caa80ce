"""A drive of this host, and the tape that a person or a changer puts into it.

This is what a run asks of a drive: wait until the right cartridge is ready, read it, say how drive
and cartridge feel, give it back. Who brings the cartridge is not decided here.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from migrate.errors import TapeError
from migrate.source.drive_evidence import Evidence, gather
from migrate.source.drive_scsi import SgDevice, Transport, generic_of
from migrate.source.drive_st import (
    Flag,
    Kernel,
    LinuxKernel,
    Op,
    Status,
    TapeDevice,
    why_no_tape_device,
)
from migrate.source.drive_tape import DriveTape, drive_failure

READY_S = 600.0
"""A full-height drive needs 15 seconds to load, one that cleans itself first some minutes."""

ASK_AGAIN_S = 1.0

PASSING = {errno.EBUSY, errno.EIO, errno.ENOMEDIUM, errno.EAGAIN}
"""What an open may fail with while a cartridge is being loaded: udev looks at a drive as soon as
there is one, and st lets one program in at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """One tape drive, by its ``/dev/nst*``. clock and sleep are in seconds.

    generic: its ``/dev/sg*``; None: as the kernel says. Without one there is no evidence.
    """

    path: str
    generic: str | None = None
    open_generic: Callable[[str], Transport] = SgDevice
    kernel: Kernel = field(default_factory=LinuxKernel)
    ready_s: float = READY_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def mount(self, barcode: str) -> DriveTape:
        """Wait until the drive has a tape ready, and rewind it; the caller closes it.

        Whether it is the right tape, its label says.

        Raises:
            TapeError: nothing was ready within ready_s, or the drive cannot be used.
        """
        device = self._wait_until_ready()
        try:
            return DriveTape(device, barcode)
        except BaseException:
            device.close()
            raise

    def unload(self) -> None:
        """Give the tape back: rewind, and open the drive. An empty drive stays as it is.

        Raises:
            TapeError: the drive cannot be used, or keeps the tape.
        """
        try:
            device = self._open()
        except OSError as exc:
            raise drive_failure(self.path, "unloading", exc) from exc
        try:
            if Flag.NO_TAPE not in device.status().flags:
                device.operate(Op.UNLOAD)
        except OSError as exc:
            raise drive_failure(self.path, "unloading", exc) from exc
        finally:
            device.close()

    def evidence(self) -> Evidence:
        """What drive and cartridge say of themselves (``drive_evidence``).

        Ask while a tape is mounted, once before it is read and once after: st has then taken
        note of a new cartridge or a reset, which the first command after it is told, whoever
        sends it. Reading moves nothing and stops nothing; never raises for what is not there.
        """
        path = self.generic or generic_of(self.path)
        if path is None:
            return Evidence(missing=(f"{self.path} has no /dev/sg device",))
        try:
            transport = self.open_generic(path)
        except OSError as exc:
            return Evidence(missing=(f"cannot open {path}: {exc.strerror}",))
        try:
            return gather(transport)
        finally:
            transport.close()

    def status(self) -> Status:
        """What the drive says of itself, with or without a tape.

        Raises:
            TapeError: the drive cannot be used, or is in use.
        """
        try:
            device = self._open()
            try:
                return device.status()
            finally:
                device.close()
        except OSError as exc:
            raise drive_failure(self.path, "asking for the status", exc) from exc

    def _wait_until_ready(self) -> TapeDevice:
        """Open the drive again and again until it has a tape: st looks only when it is opened."""
        until = self.clock() + self.ready_s
        while True:
            why = ""
            try:
                device = self._open()
            except OSError as exc:
                if exc.errno not in PASSING:
                    raise drive_failure(self.path, "opening", exc) from exc
                why = drive_failure(self.path, "opening", exc).message
            else:
                ready, why = self._look(device)
                if ready:
                    return device
                device.close()
            if self.clock() >= until:
                raise TapeError(
                    f"no tape was ready within {self.ready_s:g} s: {why}",
                    hint="load the cartridge, or look at the drive's display, and run again",
                )
            self.sleep(ASK_AGAIN_S)

    def _look(self, device: TapeDevice) -> tuple[bool, str]:
        """Whether a tape is ready, and if not, why."""
        try:
            flags = device.status().flags
        except OSError as exc:
            device.close()
            if exc.errno not in PASSING:
                raise drive_failure(self.path, "asking for the status", exc) from exc
            return False, drive_failure(self.path, "asking for the status", exc).message
        if Flag.ONLINE in flags and Flag.NO_TAPE not in flags:
            return True, ""
        return False, f"{self.path} " + (
            "holds no tape" if Flag.NO_TAPE in flags else "is not ready yet"
        )

    def _open(self) -> TapeDevice:
        why = why_no_tape_device(self.path, self.kernel)
        if why:
            raise TapeError(f"{self.path} {why}", hint="give the drive's /dev/nst device")
        return TapeDevice(self.path, self.kernel)
