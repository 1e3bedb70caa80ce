"""A second opinion: what is on the demo's tapes, without a line of Tapelift.

A SIMH file is a run of records, each between two copies of its length (little-endian, data padded
to an even number); a length of zero is a filemark.
"""

from __future__ import annotations

import csv
import hashlib
import struct
from pathlib import Path

BACKUP_HEADER = 1  # the first block of a fragment's tape file is NetBackup's, not the image's


def tape_files(path: Path) -> list[list[bytes]]:
    """The blocks of every tape file of a SIMH tape, in order."""
    data, at, files = path.read_bytes(), 0, [[]]  # type: ignore[var-annotated]
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if size == 0:
            files.append([])
            at += 4
        else:
            files[-1].append(data[at + 4 : at + 4 + size])
            at += 4 + size + size % 2 + 4
    return files


def digests(shelf: Path, catalog: Path) -> dict[str, str]:
    """SHA-256 of every image that lies apart on the tapes, and of every interleaved tape file."""
    tapes = {path.stem: tape_files(path) for path in shelf.glob("*.tap")}
    found = {}
    with catalog.open(newline="") as stream:
        for row in csv.DictReader(stream):
            number = int(row["file_num"])
            blocks = tapes[row["media_id"]][number]
            if row["multiplexed"] == "1":
                name = f"{row['media_id']}-file-{number:05d}"
                found[name] = hashlib.sha256(b"".join(blocks))
            else:
                sha256 = found.setdefault(row["backup_id"], hashlib.sha256())
                sha256.update(b"".join(blocks[BACKUP_HEADER:])[: int(row["bytes"])])
    return {name: sha256.hexdigest() for name, sha256 in found.items()}
