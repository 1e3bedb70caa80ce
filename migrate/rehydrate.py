"""Bringing an image back: recalled if it is cold, price first, byte-exact, resumable."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from catalog.errors import ConfigError, ImageDamaged, PoolError
from catalog.model import Kind
from connector.pool import Manifest, Pool
from connector.pool.commit import image_fact
from connector.pool.digest import Sha256
from connector.pool.recall import Wanted as Recalled
from connector.pool.tickets import Ticket
from connector.store.interface import RecallTier
from migrate.formats.demux import supervise
from migrate.formats.interface import Demultiplexer, Done, Piece, Wanted
from migrate.source.interface import Block, TapeEvent

log = logging.getLogger(__name__)

POLL_S = 60.0
PIECE = 1024 * 1024
Say = Callable[[str], None]


class NotYet(PoolError):
    """The recall was asked for; the data will be there later. The same command goes on."""

    code = "archived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehydration:
    """What to bring back and how. poll_s: seconds between two looks at a recall."""

    image: str
    copy: int | None
    out: str
    tier: RecallTier
    max_cost: float | None
    wait: bool
    force: bool
    demultiplexer: Demultiplexer | None
    poll_s: float = POLL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehydrated:
    """What was written. sha256 is of the bytes written; resumed_at where an earlier try ended."""

    manifest: Manifest
    size: int
    sha256: str
    resumed_at: int


def offer(pool: Pool, manifest: Manifest, order: Rehydration) -> Ticket:
    """What bringing the image back costs and takes; asks for nothing.

    Raises:
        ConfigError: it could not be written afterwards, so nothing should be spent on it.
    """
    if manifest.within and order.demultiplexer is None:
        files = ", ".join(part.image for part in manifest.within)
        raise ConfigError(
            f"image {manifest.name} is interleaved with others in {files}",
            hint="give a --demultiplexer that knows the tape's layout, or rehydrate the tape file",
        )
    if order.out not in ("", "-") and Path(order.out).exists() and not order.force:
        raise ConfigError(f"{order.out} exists", hint="choose another --out, or use --force")
    return pool.prepare([Recalled(manifest=manifest)], tier=order.tier, dry_run=True)


def make_readable(
    pool: Pool, manifest: Manifest, offered: Ticket, order: Rehydration, say: Say
) -> None:
    """Recall what is cold and wait for it, if that was asked for.

    Raises:
        OverBudget: nothing was asked for.
        NotYet: it was asked for, and is not there yet.
    """
    if offered.done == offered.total:
        return
    asked = pool.prepare([Recalled(manifest=manifest)], tier=order.tier, max_cost=order.max_cost)
    pool.flush()
    deadline = time.monotonic() + (2 * asked.hours + 1) * 3600
    while True:
        progress = pool.ticket(asked.ticket)
        if progress.done == progress.total:
            return
        say(f"recall {asked.ticket}: {progress.done} of {progress.total} objects are ready")
        if not order.wait:
            raise NotYet(
                f"recall {asked.ticket} is on its way, up to {asked.hours:g} h",
                hint="run the same command later, or with --wait",
            )
        if time.monotonic() > deadline:
            raise NotYet(
                f"recall {asked.ticket} took more than twice the {asked.hours:g} h that are usual",
                hint="look at the objects' restore state, then run the same command again",
            )
        time.sleep(order.poll_s)


def rehydrate(
    pool: Pool, manifest: Manifest, order: Rehydration, moved: Callable[[int], object]
) -> Rehydrated:
    """Write the image to its file or to standard output, and prove it.

    A file appears under its name only when it is whole; until then it is ``NAME.partial``, and the
    same command goes on with it.

    Raises:
        ImageArchived, ImageDamaged: as reading does.
    """
    if order.out == "-":
        done = _copy(pool, manifest, order, sys.stdout.buffer, Sha256(), 0, moved)
        sys.stdout.buffer.flush()
    else:
        done = _to_file(pool, manifest, order, Path(order.out), moved)
    detail: dict[str, object] = {"sha256": done.sha256}
    pool.record([image_fact(pool.context, manifest, Kind.RESTORED, detail=detail)])
    return done


def _to_file(
    pool: Pool,
    manifest: Manifest,
    order: Rehydration,
    path: Path,
    moved: Callable[[int], object],
) -> Rehydrated:
    partial = path.with_name(path.name + ".partial")
    digest, known = Sha256(), 0
    try:
        with partial.open("ab+") as out:
            if not manifest.within:
                known = _take_up(out, manifest, digest)
            out.truncate(known)
            out.seek(known)
            done = _copy(pool, manifest, order, out, digest, known, moved)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    except OSError as exc:
        raise ConfigError(
            f"cannot write {partial}: {exc.strerror}", hint="make room or choose another --out"
        ) from exc
    except ImageDamaged:
        partial.unlink(missing_ok=True)  # whatever is wrong, it is not to be gone on with
        raise
    return done


def _take_up(out: BinaryIO, manifest: Manifest, digest: Sha256) -> int:
    """Hash what an earlier try left; its bytes are proved by the digest of the whole."""
    out.seek(0)
    left = manifest.size or 0
    known = 0
    while left and (piece := out.read(min(PIECE, left))):
        digest.update(piece)
        known += len(piece)
        left -= len(piece)
    return known


def _copy(
    pool: Pool,
    manifest: Manifest,
    order: Rehydration,
    out: BinaryIO,
    digest: Sha256,
    known: int,
    moved: Callable[[int], object],
) -> Rehydrated:
    moved(known)
    size = known
    with closing(_pieces(pool, manifest, order, known)) as pieces:
        for piece in pieces:
            digest.update(piece)
            out.write(piece)
            size += len(piece)
            moved(len(piece))
    found = digest.hexdigest()
    if manifest.sha256 is not None and (size, found) != (manifest.size, manifest.sha256):
        raise ImageDamaged(
            f"image {manifest.name}: {size} bytes with SHA-256 {found} were read, the manifest says"
            f" {manifest.size} and {manifest.sha256}",
            hint="run it again without the .partial file; if it stays so, use another copy",
        )
    return Rehydrated(manifest=manifest, size=size, sha256=found, resumed_at=known)


def _pieces(
    pool: Pool, manifest: Manifest, order: Rehydration, known: int
) -> Generator[bytes | memoryview]:
    if not manifest.within:
        yield from pool.open_image(manifest).stream(known)
        return
    assert order.demultiplexer is not None
    for part in manifest.within:
        wanted = Wanted(
            image_id=manifest.name,
            copy=1,
            fragment_number=part.fragment_number,
            size=part.size,
        )
        tape_file = pool.stat(part.image, part.copy)
        for extract in supervise(order.demultiplexer, _records(pool, tape_file), [wanted]):
            if isinstance(extract, Piece):
                yield extract.data
            elif isinstance(extract, Done) and extract.problem:
                raise ImageDamaged(
                    f"image {manifest.name} in {part.image}: {extract.problem}",
                    hint="check that the demultiplexer is the right one for this tape",
                )


def _records(pool: Pool, tape_file: Manifest) -> Iterator[TapeEvent]:
    """The tape file's records again, by its block map."""
    if not tape_file.blocks:
        raise PoolError(
            f"{tape_file.name} has no block map, so its records are not known",
            hint="it was read from a source that does not keep records",
        )
    held = bytearray()
    sizes = (size for size, count in tape_file.blocks for _ in range(count))
    size = next(sizes, None)
    for view in pool.open_image(tape_file).stream():
        held += view
        at = 0
        while size is not None and len(held) - at >= size:
            yield Block(bytes(held[at : at + size]))
            at += size
            size = next(sizes, None)
        del held[:at]
