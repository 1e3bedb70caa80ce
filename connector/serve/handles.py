"""Images open for writing: offsets, repeats, quota, errors that stay.

Where the bytes go is a ``Sink``: the pool here, or the spool next door.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from catalog.errors import (
    DigestMismatch,
    ImageComplete,
    ImageDamaged,
    ImageExists,
    JournalError,
    JournalFull,
    NoSpace,
    OffsetMismatch,
    PoolError,
    SizeMismatch,
    StoreUnusable,
    TransientStoreError,
)
from connector.logs import Step
from connector.pool.commit import finish_commit
from connector.pool.digest import crc64, crc64_join
from connector.pool.writer import ImageWriter
from connector.serve import drafts
from connector.serve.drafts import Draft, DraftState
from connector.serve.events import EventKind
from connector.serve.keeping import origin_of, retention_of
from connector.serve.sinks import Finished, Sink
from connector.serve.units import Unit
from connector.wire.messages import Closed, LiveHandle, Name


class PoolSink:
    """Into the pool: part by part into the store."""

    mode = "write"

    def __init__(self, unit: Unit, draft: Draft, writer: ImageWriter) -> None:
        self._unit = unit
        self._draft = draft
        self._writer = writer

    @property
    def id(self) -> str:
        """The pool's own token."""
        return self._writer.token

    @property
    def offset(self) -> int:
        """See Sink."""
        return self._writer.offset

    @property
    def low(self) -> bool:
        """The store has no end; the pool's marks are watched elsewhere."""
        return False

    def room(self) -> memoryview:
        """See Sink."""
        return self._writer.buffer()

    def advance(self, size: int) -> None:
        """See Sink. Waits while as many parts as may be are on their way."""
        self._writer.advance(size)

    def durable(self) -> int:
        """See Sink."""
        return self._writer.durable()

    def checkpoint(self) -> None:
        """End the fragment here."""
        self._writer.cut()

    def finish(self, sha256: str | None) -> Finished:
        """Commit."""
        draft, settings = self._draft, self._unit.settings
        try:
            manifest = self._writer.close(
                origin=origin_of(draft.definition),
                retention=retention_of(
                    draft.definition.keep,
                    settings,
                    begun_at=draft.begun_at,
                    now=self._unit.clock(),
                ),
                size=self._writer.offset,
                sha256=sha256,
            )
        except ImageDamaged as exc:  # the size is ours, so it is the digest
            raise DigestMismatch(exc.message, hint=exc.hint) from exc
        assert manifest.sha256 is not None
        return Finished(state="complete", sha256=manifest.sha256, id=manifest.token)

    def suspend(self) -> None:
        """See Sink."""
        self._writer.suspend()

    def release(self) -> None:
        """See Sink. Waits for the parts on their way, each within the store's deadline."""
        self._writer.release()

    def abort(self) -> None:
        """See Sink."""
        pool, name, copy = self._unit.pool(), self._draft.name, self._draft.copy
        pool.abort(self._writer)
        left = pool.context.attempts.find(name, copy)
        if left is not None:  # its manifest is up
            finish_commit(pool.context, left, self._unit.on_commit)
            raise ImageComplete(f"image {name!r} copy {copy} is complete", hint="delete it")


P = ParamSpec("P")
R = TypeVar("R")


def _in_turn(
    method: Callable[Concatenate[Writing, P], R],
) -> Callable[Concatenate[Writing, P], R]:
    """One thread at a time: a daemon that ends lets go of images whose threads still work."""

    @functools.wraps(method)
    def taking_turns(self: Writing, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.turn:
            return method(self, *args, **kwargs)

    return taking_turns


@dataclass(slots=True)
class _LastWrite:
    """The write before this one, so that its repetition can be told from another."""

    offset: int
    size: int
    crc: int


class Writing:
    """An image open for writing (``WriteHandle``). Holds one use of its unit."""

    def __init__(self, unit: Unit, draft: Draft, sink: Sink, use: int, client: str) -> None:
        self.unit = unit
        self.draft = draft
        self._sink = sink
        self._use = use
        self._client = client
        self._failure: PoolError | None = None
        self._last: _LastWrite | None = None
        self._opened = self._touched = time.monotonic()
        self._began_at = self._offset = self._durable = sink.offset
        self._ended = False
        self.turn = threading.RLock()
        unit.in_use.show(use, self)
        unit.space.pending(draft.name, draft.copy, sink.offset)

    @property
    def name(self) -> str:
        """The image's name."""
        return self.draft.name

    @property
    def copy(self) -> int:
        """Its copy number."""
        return self.draft.copy

    @property
    def id(self) -> str:
        """The attempt's id."""
        return self._sink.id

    @property
    def offset(self) -> int:
        """Where the next byte belongs."""
        return self._offset

    @property
    def low_space(self) -> bool:
        """Whether the pool's soft mark is reached, or the spool nearly full."""
        return self.unit.space.low or self._sink.low

    # --- bytes ---------------------------------------------------------------------------

    def begin(self, offset: int, length: int) -> bool:
        """See WriteHandle.

        Raises:
            NoSpace: the pool's hard quota would be passed; the handle stays usable.
        """
        self._check()
        self._touched = time.monotonic()
        if offset == self._offset:
            left = self.unit.space.left()
            if left is not None and length > left:
                raise self._full()
            self._last = _LastWrite(offset, 0, 0) if length else None
            return True
        last = self._last
        if last and (offset, length) == (last.offset, last.size) and length:
            return False
        raise OffsetMismatch(
            f"image {self.name!r}: bytes for offset {offset}, the next one is {self._offset}",
            offset=self._offset,
            hint="send on from the offset that was told, or repeat exactly the last write",
        )

    @_in_turn
    def room(self) -> memoryview:
        """See WriteHandle."""
        self._check()
        left = self.unit.space.left()
        if left == 0:
            raise self._full()
        try:
            view = self._sink.room()
        except NoSpace as exc:
            raise self._no_space(exc) from exc
        except PoolError as exc:
            raise self._fail(exc) from exc
        if left is not None and left < view.nbytes:
            whole, view = view, view[:left]
            whole.release()
        return view

    @_in_turn
    def advance(self, size: int) -> None:
        """See WriteHandle."""
        self._check()
        last = self._last
        try:
            if last is not None:
                with self._sink.room() as room, room[:size] as view:
                    last.crc = crc64_join(last.crc, crc64(view), size)
                last.size += size
            self._sink.advance(size)
        except NoSpace as exc:
            self._last = None  # these bytes were not accepted
            raise self._no_space(exc) from exc
        except PoolError as exc:
            raise self._fail(exc) from exc
        self._offset += size
        self._touched = time.monotonic()
        self.unit.moved(taken=size)
        self.unit.space.pending(self.name, self.copy, self._offset)
        if self.unit.space.became_low():
            self.unit.say(EventKind.QUOTA_SOFT, used=self.unit.space.used())

    def repeated(self, data: memoryview) -> None:
        """See WriteHandle."""
        self._check()
        last = self._last
        if last is None or data.nbytes != last.size or crc64(data) != last.crc:
            raise OffsetMismatch(
                f"image {self.name!r}: a repeated write has other bytes than the first time",
                offset=self._offset,
                hint="send on from the offset that was told",
            )

    # --- ends ----------------------------------------------------------------------------

    @_in_turn
    def flush(self, *, checkpoint: bool) -> int:
        """Wait for what is on its way; the durable offset."""
        self._check()
        try:
            if checkpoint:
                self._sink.checkpoint()
            self._durable = self._sink.durable()
        except NoSpace as exc:
            raise self._no_space(exc) from exc
        except PoolError as exc:
            raise self._fail(exc) from exc
        if checkpoint:
            self._journal(DraftState.WRITING)
        return self._durable

    @_in_turn
    def complete(self, size: int | None, sha256: str | None) -> Closed:
        """Complete the image; the handle is of no use after success.

        Raises:
            SizeMismatch: nothing was done; the handle stays usable.
            DigestMismatch, ImageExists: the handle failed; abort it.
        """
        self._check()
        if size is not None and size != self._offset:
            raise SizeMismatch(
                f"image {self.name!r}: {self._offset} bytes were received, the sender says {size}",
                hint="send the rest, or abort it and send it again",
            )
        try:
            done = self._sink.finish(None if sha256 is None else sha256.lower())
        except ImageExists as exc:
            self.unit.drafts.drop(self.name, self.copy)
            self.unit.space.pending(self.name, self.copy, 0)
            self._fail(exc)
            self._end()
            raise
        except NoSpace as exc:
            raise self._no_space(exc) from exc
        except PoolError as exc:
            raise self._fail(exc) from exc
        step = Step.SPOOLED if done.state == "spooled" else Step.COMPLETED
        self.unit.count("spooled" if done.state == "spooled" else "completed")
        if done.state == "complete":
            self.unit.space.changed(self.name, self.copy)
        self.unit.woken()
        self.unit.told(step, self.name, self.copy, done.id, size=self._offset, sha256=done.sha256)
        self._end()
        return Closed(
            pool=self.unit.name,
            image=Name(self.name),
            copy=self.copy,
            state=done.state,
            offset=self._offset,
            sha256=done.sha256,
            id=done.id,
        )

    @_in_turn
    def suspend(self) -> Closed:
        """Make a checkpoint and let go; ``resume`` goes on there."""
        self._check()
        try:
            self._sink.suspend()
        except NoSpace as exc:
            raise self._no_space(exc) from exc
        except PoolError as exc:
            raise self._fail(exc) from exc
        self._durable = self._offset
        self._left_incomplete("closed as incomplete")
        return Closed(
            pool=self.unit.name,
            image=Name(self.name),
            copy=self.copy,
            state="incomplete",
            offset=self._durable,
            sha256=None,
            id=self.id,
        )

    @_in_turn
    def abandon(self) -> None:
        """The client has left: keep what can be kept, and let go. Raises for bugs only, and lets
        go all the same.

        While the store answers the rest that fills no part is sent too; else it is lost, and the
        client goes on a little earlier.
        """
        if self._ended:
            return
        try:
            try:
                if self._failure is None and self.unit.up:
                    self._sink.suspend()
                    self._durable = self._offset
            except PoolError as exc:
                self._failure = exc
            finally:
                self._sink.release()
            with contextlib.suppress(PoolError):  # a full disk: ``writing`` is resumable as well
                self._left_incomplete("its client left")
        finally:
            self._end()

    @_in_turn
    def abort(self) -> None:
        """Give the image up. What the store does not let go of now is removed later.

        Raises:
            ImageComplete: its commit had happened though ``close`` failed, so that it stays.
        """
        if self._ended:
            return
        self.unit.drafts.change(
            self.draft, DraftState.ABORTED, durable=0, now=self.unit.clock(), id=self.id
        )
        try:
            self._sink.abort()
            self.unit.drafts.drop(self.name, self.copy)
        except ImageComplete:
            self.unit.space.changed(self.name, self.copy)
            self.unit.count("completed")
            self.unit.woken()
            self._end()
            raise
        except PoolError:
            self._sink.release()
            self.unit.suspect()
        self.unit.space.pending(self.name, self.copy, 0)
        self.unit.count("aborted")
        self.unit.told(Step.ABORTED, self.name, self.copy, self.id)
        self.unit.say(EventKind.ABORTED, self.name, self.copy)
        self._end()

    def live(self) -> LiveHandle:
        """As ``server_props`` shows it."""
        now = time.monotonic()
        seconds = max(now - self._opened, 1e-3)
        return LiveHandle(
            pool=self.unit.name,
            image=Name(self.name),
            copy=self.copy,
            mode=self._sink.mode,
            client=self._client,
            offset=self._offset,
            unsafe=max(0, self._offset - self._durable),
            bytes_per_second=(self._offset - self._began_at) / seconds,
            open_seconds=seconds,
            idle_seconds=now - self._touched,
        )

    # --- within --------------------------------------------------------------------------

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, exc: PoolError) -> PoolError:
        """Remember the first error, in the words that a client gets every time."""
        if self._failure is None:
            self.unit.count("failed")
            self.unit.told(Step.FAILED, self.name, self.copy, self.id, why=exc.message)
            if isinstance(exc, TransientStoreError | StoreUnusable):
                self.unit.suspect()
            if isinstance(exc, JournalFull) or (isinstance(exc, NoSpace) and exc.offset is None):
                exc = NoSpace(exc.message, offset=self._durable, hint=exc.hint)
            self._failure = exc
        return self._failure

    def _no_space(self, exc: NoSpace) -> NoSpace:
        """No failure that stays: nothing was lost, and the client may wait, make a checkpoint or
        go on elsewhere. It always says what is durable."""
        offset = self._durable if exc.offset is None else exc.offset
        return NoSpace(exc.message, offset=offset, hint=exc.hint)

    def _full(self) -> NoSpace:
        """The hard quota is reached; what was accepted is made as safe as it can be."""
        with_offset = self._durable
        try:
            with_offset = self._durable = self._sink.durable()
        except PoolError as exc:
            self._fail(exc)
        return NoSpace(
            f"pool {self.unit.name} has reached its hard quota of"
            f" {self.unit.settings.hard_quota} bytes",
            offset=with_offset,
            hint="close what was accepted and go on elsewhere, or raise hard_quota",
        )

    def _journal(self, state: DraftState) -> None:
        try:
            self.unit.drafts.change(
                self.draft, state, durable=self._durable, now=self.unit.clock(), id=self.id
            )
        except JournalError as exc:
            raise self._fail(exc) from exc

    def _left_incomplete(self, why: str) -> None:
        unit = self.unit
        self._durable = min(self._durable, self._offset)
        with unit.journal.transaction(durable=True) as db:
            drafts.change(
                db,
                self.draft,
                DraftState.INCOMPLETE,
                durable=self._durable,
                now=unit.clock(),
                id=self.id,
            )
            unit.announce(
                db, EventKind.INCOMPLETE, self.name, self.copy, durable=self._durable, why=why
            )
        unit.woken()
        unit.count("incomplete")
        unit.told(Step.CHECKPOINTED, self.name, self.copy, self.id, durable=self._durable, why=why)
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._failure = self._failure or PoolError(f"image {self.name!r} is closed here")
        self.unit.in_use.let_go(self._use)
