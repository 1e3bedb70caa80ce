"""Storing a file or a stream as an image, so that repeating the command never stores it twice.

A file has a token that follows from what it is, so that the same command goes on where an earlier
one ended, and says the same when it is complete. A stream can be read once: when the connection is
lost, what was stored of it is given up, and the caller begins anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from catalog.errors import (
    ImageBusy,
    ImageComplete,
    ImageDamaged,
    ImageExists,
    ImageNotFound,
    PoolError,
    SizeMismatch,
)
from connector.client import Client, ConnectionLost, Writer, failure_in
from connector.commands.options import NoDaemon
from connector.commands.pumping import pump
from connector.commands.streams import Given
from connector.wire.messages import Closed, Keep, Name, Source

log = logging.getLogger(__name__)

ATTEMPTS = 8
"""How often a file is gone on with after the connection was lost, or the daemon was busy."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
GIVE_UP_S = 5.0
"""How long to try to tell the daemon that a stream is given up."""

Connect = Callable[[], Client]
Progress = Callable[[int], None]
"""Is told how many bytes of the image the daemon has, now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to store and as what. descriptor: whether to let the daemon read it itself. digest:
    whether to hash what passes through here instead, and have it compared at the end."""

    pool: str
    image: Name
    copy: int = 1
    token: str | None = None
    expected_size: int = 0
    block_size: int = 0
    source: Source = field(default_factory=Source)
    keep: Keep = field(default_factory=Keep)
    replace: bool = False
    descriptor: bool = True
    digest: bool = False
    attempts: int = ATTEMPTS


def send(connect: Connect, order: Order, given: Given, progress: Progress) -> Closed:
    """Store it, and say how it was closed.

    A file is gone on with when the connection is lost, a bounded number of times. A program that
    makes the bytes is run once, and not at all when the token says that the image is complete.

    Raises:
        ConnectionLost: the daemon was away for too long; the message says how to go on.
        ProducerFailed: the program did not end well; nothing of its output stays.
        PoolError: what the daemon said.
    """
    try:
        return _send_or_go_on(connect, order, given, progress)
    finally:
        if given.producer is not None:
            given.producer.stop()


def _send_or_go_on(connect: Connect, order: Order, given: Given, progress: Progress) -> Closed:
    token = order.token or _token(order, given)
    pause = FIRST_PAUSE_S
    for attempt in range(1, order.attempts + 1):
        try:
            with connect() as client:
                return _send(client, order, token, given, progress, again=attempt > 1)
        except KeyboardInterrupt:
            _give_up(connect, order, token, given)
            raise
        except PoolError as exc:
            if _is_used_up(given):
                _give_up(connect, order, token, given)
                raise _lost_stream(exc, given) from exc
            absent = attempt == 1 and isinstance(exc, NoDaemon)  # likely the wrong place
            if not exc.retryable or absent or attempt == order.attempts:
                raise _with_hint(exc, "the same command goes on where this one ended") from exc
            failure = failure_in(exc)
            wait = max(pause, failure.retry_after_s if failure else 0.0)
            log.warning("%s; trying again in %.1f s", exc, wait)
            time.sleep(min(wait, LONGEST_PAUSE_S))
            pause = min(2 * pause, LONGEST_PAUSE_S)
    raise AssertionError("the last attempt either ends or raises")


def _send(
    client: Client, order: Order, token: str, given: Given, progress: Progress, *, again: bool
) -> Closed:
    """One connection's worth: begin or resume, send the rest, close."""
    if again and not given.unchanged():
        raise SizeMismatch(
            f"{given.name} was changed while it was stored",
            hint="the same command begins anew, with --replace",
        )
    try:
        writer = _begin(client, order, token, given)
    except ImageComplete:
        return _settle(client, order, token, given)
    progress(writer.offset)
    if given.rewindable:
        given.seek(writer.offset)
    elif writer.offset:
        raise ImageDamaged(
            f"{writer.offset} bytes of it are there, and a stream cannot be read again",
            hint="begin anew, with --replace and without --token",
        )
    try:
        _fill(client, order, writer, given, progress)
    except PoolError:  # after an interruption the daemon still reads: it is given up from outside
        if _is_thrown_away(order, given):
            with contextlib.suppress(PoolError):
                writer.abort()
        raise
    if not given.unchanged():
        log.warning("%s was changed while it was stored; what was read is stored", given.name)
    return writer.close()


def _fill(client: Client, order: Order, writer: Writer, given: Given, progress: Progress) -> None:
    """Send all that there is.

    Raises:
        SizeMismatch: a file became shorter.
        ProducerFailed: the program did not end well.
    """
    if given.producer is not None:
        given.producer.start()
    size = feed(client, writer, given, progress, descriptor=order.descriptor)
    if given.producer is not None:
        given.producer.finish(size)
    if given.size is not None and size < given.size:
        raise SizeMismatch(
            f"{given.name} became shorter while it was stored: {size} of {given.size} bytes",
            hint="the same command begins anew, with --replace",
        )


def _is_thrown_away(order: Order, given: Given) -> bool:
    """Whether nobody can go on with what was stored of it."""
    return given.producer is not None or not (given.rewindable or order.token is not None)


def _is_used_up(given: Given) -> bool:
    """Whether what was begun cannot be begun again: a stream that may have been read from."""
    if given.producer is not None:
        return given.producer.started
    return not given.rewindable


def _settle(client: Client, order: Order, token: str, given: Given) -> Closed:
    """How the image ended that is there already: success if it is this one, or if a file has the
    same bytes.

    Raises:
        ImageExists: it is another one.
    """
    try:
        return client.settle(order.pool, order.image, token, copy=order.copy, size=given.size)
    except ImageExists:
        digest = given.digest(given.size) if given.size is not None else None
        if digest is None:
            raise
        return client.settle(
            order.pool, order.image, token,
            copy=order.copy, size=given.size, sha256=digest.hexdigest(),
        )  # fmt: skip


def _begin(client: Client, order: Order, token: str, given: Given) -> Writer:
    if given.producer is not None:
        with contextlib.suppress(ImageNotFound):  # what it wrote before cannot be gone on with
            client.discard(order.pool, order.image, token=token, copy=order.copy)
    elif given.rewindable or order.token is not None:
        with contextlib.suppress(ImageNotFound):
            return client.resume(
                order.pool, order.image, token,
                copy=order.copy, digest=order.digest, digest_to=_digests(order, given),
            )  # fmt: skip
    return client.create(
        order.pool,
        order.image,
        token=token,
        copy=order.copy,
        expected_size=order.expected_size or given.size or 0,
        block_size=order.block_size,
        source=order.source,
        keep=order.keep,
        replace=order.replace,
        digest=order.digest,
    )


def _digests(order: Order, given: Given) -> Callable[[int], hashlib._Hash | None] | None:
    """Hash again what is stored already, where a digest is wanted."""
    return given.digest if order.digest and given.rewindable else None


def feed(
    client: Client, writer: Writer, given: Given, progress: Progress, *, descriptor: bool = True
) -> int:
    """Give a writer all that is left to read, and say how long the image is then.

    With descriptor the daemon reads it itself, if it takes such a one.
    """
    if descriptor and given.passable and "DESCRIPTORS" in client.hello().capabilities:
        while not writer.write_from(given.descriptor).eof:
            progress(writer.offset)
        progress(writer.offset)
        return writer.offset
    return pump(given.descriptor, writer, progress)


def _token(order: Order, given: Given) -> str:
    """For a file, the same as long as it is the same file on the same host; else a new one."""
    if not given.rewindable:
        return secrets.token_hex(16)
    told = (socket.gethostname(), given.identity, order.pool, order.image, order.copy)
    text = "\0".join(str(one) for one in told)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _give_up(connect: Connect, order: Order, token: str, given: Given) -> None:
    """Take away what was stored of a stream, as far as the daemon can be told."""
    if not _is_thrown_away(order, given):
        return
    end = time.monotonic() + GIVE_UP_S
    while time.monotonic() < end:
        try:
            with connect() as client:
                client.discard(order.pool, order.image, token=token, copy=order.copy)
            return
        except ImageBusy:  # the daemon has not noticed yet that we are gone
            time.sleep(0.1)
        except (PoolError, OSError) as exc:
            log.debug("could not give up %s: %s", order.image, exc)
            return


def _lost_stream(exc: PoolError, given: Given) -> PoolError:
    if not isinstance(exc, ConnectionLost):
        return exc
    if given.producer is not None:
        return _with_hint(exc, "run the same command again")
    return _with_hint(
        exc, f"{given.name} cannot be read again: run what makes it once more, with --replace"
    )


def _with_hint(exc: PoolError, hint: str) -> PoolError:
    if exc.retryable:
        exc.hint = f"{exc.hint}; {hint}" if exc.hint else hint
    return exc
