"""What the st driver answers, step by step: asked of a real kernel once, and of the fake in tests.

    python -m tests.source.st_scenario NAME /dev/nst0 > tests/fixtures/st/NAME.json

runs the steps of one scenario on a drive that holds that scenario's tape and prints the answers.
``python -m tests.source.st_scenario NAME FILE.tap`` writes the tape. A record that begins with
``BAD`` is one that the drive has to fail with a medium error, behind it, and one that begins with
``STUCK`` one that it fails without moving: a target that serves the tapes must do so.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

from migrate.source.drive_st import Flag, Kernel, LinuxKernel, Op, TapeDevice
from tests.source.tapes import MARK, Item, tap

KIB = 1024
TAPES: dict[str, list[Item]] = {
    "marks": [b"L" * KIB, MARK, b"a" * KIB, b"b" * 100, MARK, MARK, b"c", MARK, MARK],
    "no_last_mark": [b"L" * KIB, MARK, b"a" * KIB, b"b" * 100],
    "long_record": [b"L" * KIB, b"x" * (96 * KIB), b"y", MARK],
    "bad_record": [b"a" * KIB, b"BAD" * 100, b"c" * KIB, MARK, b"STUCK" * 20, b"e", MARK],
}

READ = 64 * KIB
STEPS: dict[str, list[str]] = {
    "marks": [
        *["read"] * 12,
        "op REWIND 1",
        "op FORWARD_FILES 1",
        "read",
        "op FORWARD_FILES 2",
        "read",
        "op FORWARD_FILES 3",
        "read",
        "op REWIND 1",
        "op FORWARD_FILES 5",
        "read",
        "read",
        "op REWIND 1",
        "op LOCATE 3",
        "read",
        "read",
        "op LOCATE 9",
        "read",
        "op LOCATE 0",
        "op LOCATE 99",
        "read",
        "op REWIND 1",
        "op FORWARD_RECORDS 1",
        "op FORWARD_RECORDS 1",
        "op FORWARD_RECORDS 2",
        "op BACK_RECORDS 1",
        "read",
    ],
    "no_last_mark": [
        *["read"] * 6,
        "op FORWARD_RECORDS 1",
        "read",
        "op REWIND 1",
        "op FORWARD_FILES 2",
        "read",
        "op REWIND 1",
        "op LOCATE 4",
        "read",
        "op FORWARD_FILES 1",
    ],
    "long_record": ["read", "read", "op BACK_RECORDS 1", "read 131072", "read", "read", "read"],
    "bad_record": [
        *["read"] * 5,
        "read",
        "op FORWARD_RECORDS 1",
        "read",
        "read",
        "op REWIND 1",
        "op FORWARD_FILES 1",
        "read",
    ],
}

SEEN = (
    Flag.FILEMARK
    | Flag.BEGINNING
    | Flag.END_OF_TAPE
    | Flag.END_OF_DATA
    | Flag.ONLINE
    | Flag.NO_TAPE
)
"""The flags that a reader may rely on."""


def run(name: str, path: str, kernel: Kernel) -> list[dict[str, object]]:
    """The answers to a scenario's steps; behind each step, status and address are asked too."""
    device = TapeDevice(path, kernel)
    device.operate(Op.REWIND)
    device.operate(Op.BLOCK_SIZE, 0)
    answers = []
    try:
        for step in ["start", *STEPS[name]]:
            answer: dict[str, object] = {"step": step}
            try:
                answer["result"] = perform(device, step)
            except OSError as exc:
                answer["result"] = errno.errorcode[exc.errno or 0]
            status = device.status()
            answer |= {
                "flags": sorted(flag.name or "" for flag in Flag if flag in status.flags & SEEN),
                "file": status.file,
                "block": status.block,
                "address": device.address(),
            }
            answers.append(answer)
    finally:
        device.close()
    return answers


def perform(device: TapeDevice, step: str) -> int:
    verb, *words = step.split()
    if verb == "read":
        return device.read(bytearray(int(words[0]) if words else READ))
    if verb == "op":
        device.operate(Op[words[0]], int(words[1]))
    return 0


def main() -> None:
    name, where = sys.argv[1:]
    if where.startswith("/dev/"):
        answers = run(name, where, LinuxKernel())
        lines = ",\n ".join(json.dumps(answer) for answer in answers)
        print(f'{{"kernel": "{os.uname().release}", "answers": [\n {lines}\n]}}')
    else:
        Path(where).write_bytes(tap(TAPES[name]))


if __name__ == "__main__":
    main()
