"""Reading an image back, into a stream or a file; into a file a broken read is gone on with.

What was read so far lies beside the file, named after the image's SHA-256, so that bytes of two
images can never be mixed. The file itself appears when it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import ConfigError, ImageDamaged, PoolError
from connector.client import Client, ConnectionLost, Reader, failure_in
from connector.commands.streams import PIECE, enlarge, passable, target_exists, write_all
from connector.wire.messages import Name

log = logging.getLogger(__name__)

ATTEMPTS = 8
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
STDOUT = 1

Connect = Callable[[], Client]
Progress = Callable[[int], None]
"""Is told how many bytes are there, now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to read and where to. out None is standard output; length None is to the end.

    descriptor: whether to let the daemon write it itself. digest: whether to hash what passes
    through here instead, and compare it with the image's SHA-256.
    """

    pool: str
    image: Name
    copy: int | None = None
    offset: int = 0
    length: int | None = None
    out: Path | None = None
    force: bool = False
    descriptor: bool = True
    digest: bool = False
    attempts: int = ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was read: size bytes from offset. sha256 is of the whole image, as it was stored;
    resumed_at: what an earlier try had left."""

    image: Name
    copy: int
    offset: int
    size: int
    sha256: str | None
    resumed_at: int


def fetch(connect: Connect, wish: Wish, progress: Progress) -> Fetched:
    """Read it; every part was compared with its checksum by the daemon.

    Raises:
        ConfigError: the file exists, or cannot be written.
        BrokenPipeError: nobody reads standard output.
        PoolError: what the daemon said.
    """
    if wish.out is None:
        with connect() as client, _opened(client, wish) as reader:
            return _to_stream(reader, wish, progress, client)
    if target_exists(wish.out) and not wish.force:
        raise ConfigError(f"{wish.out} exists", hint="choose another --out, or use --force")
    pause = FIRST_PAUSE_S
    for attempt in range(1, wish.attempts + 1):
        try:
            with connect() as client, _opened(client, wish) as reader:
                return _to_file(reader, wish, wish.out, progress, client)
        except PoolError as exc:
            if not exc.retryable or attempt == wish.attempts:
                if isinstance(exc, ConnectionLost):
                    exc.hint = "the same command goes on where this one ended"
                raise
            failure = failure_in(exc)
            wait = max(pause, failure.retry_after_s if failure else 0.0)
            log.warning("%s; trying again in %.1f s", exc, wait)
            time.sleep(min(wait, LONGEST_PAUSE_S))
            pause = min(2 * pause, LONGEST_PAUSE_S)
    raise AssertionError("the last attempt either ends or raises")


@contextlib.contextmanager
def _opened(client: Client, wish: Wish) -> Iterator[Reader]:
    """The reader; an error while reading is not covered by another one of letting it go."""
    reader = client.open(wish.pool, wish.image, copy=wish.copy, verify=wish.digest)
    yield reader
    reader.close()


def _span(reader: Reader, wish: Wish) -> tuple[int, int]:
    if wish.offset > reader.size:
        raise ConfigError(
            f"--offset {wish.offset} is past the end: the image has {reader.size} bytes",
            hint="choose a smaller one",
        )
    left = reader.size - wish.offset
    return wish.offset, left if wish.length is None else min(wish.length, left)


def _fetched(reader: Reader, wish: Wish, size: int, resumed_at: int) -> Fetched:
    return Fetched(
        image=reader.image,
        copy=reader.copy,
        offset=wish.offset,
        size=size,
        sha256=reader.sha256,
        resumed_at=resumed_at,
    )


# --- to a stream ----------------------------------------------------------------------------------


def _to_stream(reader: Reader, wish: Wish, progress: Progress, client: Client) -> Fetched:
    offset, length = _span(reader, wish)
    reader.seek(offset)
    _move(reader, STDOUT, length, wish, progress, client)
    return _fetched(reader, wish, length, 0)


def _move(
    reader: Reader, descriptor: int, length: int, wish: Wish, progress: Progress, client: Client
) -> None:
    """Bring length bytes from the reader's place into a descriptor."""
    able = passable(descriptor) and "DESCRIPTORS" in client.hello().capabilities
    if wish.descriptor and able:
        try:
            came = reader.read_to(descriptor, length).size
        except PoolError as exc:
            if exc.code == "descriptor" and _reader_is_gone(descriptor):
                raise BrokenPipeError from exc
            raise
        if came != length:
            raise ImageDamaged(f"the daemon gave {came} bytes of {length} and no reason")
        return
    enlarge(descriptor)
    begin = reader.tell()
    for piece in reader.pieces(length):
        write_all(descriptor, piece)
        progress(reader.tell())
    if reader.tell() - begin != length:
        raise ImageDamaged(f"the daemon gave {reader.tell() - begin} bytes of {length}")


def _reader_is_gone(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


# --- to a file ------------------------------------------------------------------------------------


def _to_file(reader: Reader, wish: Wish, out: Path, progress: Progress, client: Client) -> Fetched:
    offset, length = _span(reader, wish)
    part = _part(reader, wish, out)
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as exc:
        raise ConfigError(f"cannot write {part}: {exc.strerror}", hint="check --out") from exc
    try:
        _alone(descriptor, part)
        there = min(os.fstat(descriptor).st_size, length)
        if reader.sha256 is None or (offset, length) != (0, reader.size):
            there = 0  # nothing could say afterwards that it is what it should be
        _finish(reader, wish, descriptor, offset, length, there, progress, client)
        os.fsync(descriptor)
        _publish(part, out, force=wish.force)
    except ImageDamaged:
        part.unlink(missing_ok=True)  # the next try begins anew
        raise
    except OSError as exc:
        raise ConfigError(f"cannot write {out}: {exc.strerror}", hint="free some space") from exc
    finally:
        os.close(descriptor)
    return _fetched(reader, wish, length, there)


def _part(reader: Reader, wish: Wish, out: Path) -> Path:
    identity = f"{reader.sha256} {reader.size} {wish.offset} {wish.length}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return out.with_name(f".{out.name[:200]}.{name}.part")


def _alone(descriptor: int, part: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        raise ConfigError(f"{part} is being written by another get", hint="wait for it") from exc


def _finish(
    reader: Reader, wish: Wish, descriptor: int, offset: int, length: int, there: int,
    progress: Progress, client: Client,
) -> None:  # fmt: skip
    """Bring what is missing; compare the digest of all of it when an earlier try is gone on with.

    A whole image that comes in one go was compared part by part by the daemon.
    """
    os.ftruncate(descriptor, there)
    os.lseek(descriptor, there, os.SEEK_SET)
    reader.seek(offset + there)
    if there:
        log.warning("going on at byte %d", offset + there)
    progress(there)
    _move(reader, descriptor, length - there, wish, progress, client)
    if os.fstat(descriptor).st_size != length:
        raise ImageDamaged(f"{os.fstat(descriptor).st_size} bytes arrived where {length} were read")
    if there and _digest(descriptor) != reader.sha256:
        raise ImageDamaged(
            "what an earlier try had left does not fit",
            hint="run the command again: it begins anew",
        )
    progress(length)


def _digest(descriptor: int) -> str:
    digest = hashlib.sha256()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while piece := os.read(descriptor, PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _publish(part: Path, out: Path, *, force: bool) -> None:
    """Give the file its name; without force never over another one."""
    if force:
        part.replace(out)
        return
    try:
        os.link(part, out)
    except FileExistsError:
        raise ConfigError(
            f"{out} exists by now", hint="choose another --out, or use --force"
        ) from None
    except OSError:  # a file system without links
        part.rename(out)
        return
    part.unlink()
