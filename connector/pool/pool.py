"""The front door: one pool of images in one prefix of one bucket.

A pool is one naming domain. Calls may come from several threads; a writer or a reader belongs to
one thread at a time. One process at a time uses a journal.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from catalog.errors import (
    ConfigError,
    CorruptObject,
    ImageExists,
    ImageNotFound,
    NameInvalid,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.ledger import Ledger
from catalog.model import Fact, LockMode, StorageClass, iso
from connector.pool import erase, names, outbox, sidecar, verify
from connector.pool.attempts import Attempts, AttemptState, WriteRequest
from connector.pool.coding import Coding
from connector.pool.commit import MANIFEST_OPTIONS, OnCommit, commit, finish_commit
from connector.pool.config import PoolConfig
from connector.pool.context import WRITER, Arena, PoolContext
from connector.pool.frames import FrameCode, check_fits, layout
from connector.pool.journal import Journal
from connector.pool.manifest import CEILING, Manifest, Origin, Retention, Within
from connector.pool.outbox import Outbox
from connector.pool.prices import Prices
from connector.pool.reader import ImageReader
from connector.pool.recall import RecallPolicy, Wanted
from connector.pool.recalling import Recalls
from connector.pool.resume import begin_writer, clean_away, resume_writer
from connector.pool.tickets import Ticket
from connector.pool.writer import ImageWriter
from connector.store.interface import (
    PROBE_PREFIX,
    ObjectStore,
    RecallTier,
    Upload,
)

log = logging.getLogger(__name__)

POOL_FORMAT = "tapelift-pool/1"


class Pool:
    """Images, copies and fragments on an object store.

    run_id goes into every fact, so that the ledger can tell one run's work from another's.
    """

    def __init__(
        self,
        store: ObjectStore,
        journal: Journal,
        ledger: Ledger,
        *,
        config: PoolConfig | None = None,
        clock: Callable[[], int] = time.time_ns,
        run_id: str | None = None,
        actor: str | None = None,
        encryption: str = "none",
        coding: Coding | None = None,
        prices: Prices | None = None,
        recall: RecallPolicy | None = None,
        fragment_tags: tuple[tuple[str, str], ...] = (),
        create: bool = True,
    ) -> None:
        """Open the pool; with create also in a prefix that has none yet, and to be written to.

        encryption names what the store itself does; coding is what we do to new images before
        they leave this host, and holds the key that encrypted ones are read with. prices and
        recall are for ``prepare``. fragment_tags are put on every fragment, see ``lifecycle.py``.

        Raises:
            StoreUnusable: the bucket is missing or may not be used.
            CorruptObject: what lies in the prefix is not a pool that we know.
            ConfigError: there is no pool, and none is to be created.
        """
        config, coding = config or PoolConfig(), coding or Coding()
        self.journal = journal
        self._context = PoolContext(
            store=store,
            journal=journal,
            attempts=Attempts(journal),
            config=config,
            arena=Arena(config.images_open * (config.parts_in_flight + 1), config.part_size),
            coded_arena=_coded_arena(config, coding),
            threads=ThreadPoolExecutor(
                config.images_open * config.parts_in_flight, thread_name_prefix="part"
            ),
            clock=clock,
            actor=actor or _actor(),
            run_id=run_id,
            encryption=encryption,
            coding=coding,
        )
        self._outbox = Outbox(
            journal,
            ledger,
            batch_rows=config.ledger_rows,
            batch_seconds=config.ledger_seconds,
        )
        self._fragment_tags = fragment_tags
        self._recalls = Recalls(self._context, prices or Prices.load(), recall or RecallPolicy())
        if create:
            _probe(store, journal)
        _create_or_check(store, clock, create=create)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; the journal stays open. Call ``flush`` before for the ledger."""
        self._context.threads.shutdown(wait=True, cancel_futures=True)

    @property
    def context(self) -> PoolContext:
        """The pool's parts, for the neighbours in this package."""
        return self._context

    @property
    def uri(self) -> str:
        """Where the pool is; holds no secret."""
        return self._context.store.uri

    def take_over(
        self, *, recall: RecallPolicy, fragment_tags: tuple[tuple[str, str], ...]
    ) -> None:
        """Change what may change while the pool is open; images that are open keep their tags."""
        self._recalls.policy = recall
        self._fragment_tags = fragment_tags

    # --- writing -------------------------------------------------------------------------

    def check_lock(self, mode: LockMode) -> None:
        """Say early that a lock cannot be kept.

        Raises:
            Unsupported: the bucket has no Object Lock.
        """
        if mode is not LockMode.NONE and not self._context.capabilities.object_lock:
            raise Unsupported(
                f"{self.uri} has no Object Lock, so images cannot be locked as {mode}",
                hint="enable Object Lock on the bucket (it needs versioning), or use --lock none",
            )

    def write_image(
        self,
        name: str,
        copy: int,
        *,
        storage_class: StorageClass = StorageClass.STANDARD,
        tags: tuple[tuple[str, str], ...] = (),
        on_commit: OnCommit | None = None,
    ) -> ImageWriter:
        """Begin to write a copy of an image, or go on where an earlier process stopped.

        ``offset`` of the writer is where the next byte belongs. A resumed writer keeps the class
        and the sizes it was begun with.

        Raises:
            ImageExists: the copy is complete already.
            NameInvalid: the name cannot be a key.
        """
        names.image_folder(name, copy, prefix_length=len(self.uri))
        attempt = self._context.attempts.find(name, copy)
        if attempt is not None and attempt.state is AttemptState.COMMITTING:
            finish_commit(self._context, attempt, on_commit)
            attempt = None
        if attempt is not None:
            writer = resume_writer(self._context, attempt, self._committer(on_commit))
            if writer is not None:
                return writer
            clean_away(self._context, attempt)
        if self.find(name, copy) is not None:
            raise ImageExists(
                f"image {name!r} copy {copy} is in {self.uri} already",
                hint="nothing needs to be done; verify it if in doubt",
            )
        coding = self._context.coding
        request = WriteRequest(
            storage_class=storage_class,
            tags=(*self._fragment_tags, *tags),
            part_size=self._context.config.part_size,
            fragment_size=self._context.config.fragment_size,
            compression=coding.compression,
            encrypted=coding.client_key is not None,
            frame_size=min(coding.frame_size, self._context.config.part_size),
        )
        attempt = self._context.attempts.begin(secrets.token_hex(8), name, copy, request)
        return begin_writer(self._context, attempt, self._committer(on_commit))

    def place_image(
        self,
        name: str,
        copy: int,
        *,
        within: Sequence[Within],
        origin: Origin,
        retention: Retention,
        size: int | None = None,
        on_commit: OnCommit | None = None,
    ) -> Manifest:
        """Commit an image whose bytes lie inside other images (multiplexed tape files).

        Raises:
            ImageExists: the copy is complete already.
            NameInvalid: the name cannot be a key.
        """
        names.image_folder(name, copy, prefix_length=len(self.uri))
        attempt = self._context.attempts.find(name, copy)
        if attempt is not None:
            clean_away(self._context, attempt)
        token = secrets.token_hex(8)
        request = WriteRequest(
            storage_class=StorageClass.STANDARD, tags=(), part_size=1, fragment_size=1
        )
        self._context.attempts.begin(token, name, copy, request)
        manifest = Manifest(
            name=name,
            copy=copy,
            token=token,
            created_at=self._context.clock(),
            writer=WRITER,
            size=size,
            sha256=None,
            fragments=(),
            within=tuple(within),
            origin=origin,
            retention=retention,
        )
        return commit(self._context, manifest, on_commit)

    def abort(self, writer: ImageWriter) -> None:
        """Give an image up: no part, no object and no journal row of it is left.

        An image whose manifest is up is complete, whatever failed after it, and stays: ``recover``
        does the rest.
        """
        writer.release()
        self.abandon(writer.name, writer.copy)

    def pending(self) -> list[tuple[str, int, AttemptState]]:
        """Images that an earlier process left, as (name, copy, state)."""
        return [(row.name, row.copy, row.state) for row in self._context.attempts.all()]

    def recover(self, on_commit: OnCommit | None = None) -> list[Manifest]:
        """Finish every commit and erasure that a crash interrupted; what is being written is left.

        A commit that the store refuses to finish is left too, and does not keep the others back.
        """
        finished: list[Manifest] = []
        for attempt in self._context.attempts.all():
            if attempt.state is AttemptState.COMMITTING:
                try:
                    finished.append(finish_commit(self._context, attempt, on_commit))
                except ImageExists:
                    continue
                except (TransientStoreError, StoreUnusable):
                    raise
                except StoreError as exc:
                    log.warning("image %s: its commit cannot be finished: %s", attempt.name, exc)
        erase.finish_erasures(self._context)
        return finished

    def abandon(self, name: str, copy: int) -> None:
        """Clean away an image that an earlier process left and nobody will finish; see abort."""
        attempt = self._context.attempts.find(name, copy)
        if attempt is None:
            return
        if attempt.state is AttemptState.COMMITTING:
            there = self.find(name, copy)
            if there is not None and there.token == attempt.token:
                return
        clean_away(self._context, attempt)

    def orphans(self) -> Iterator[Upload]:
        """Uploads below this pool that this journal does not know. Another host may own them."""
        own = {row.token for row in self._context.attempts.all()}
        for upload in self._context.store.uploads(f"{names.IMAGES}/"):
            if upload.key.rpartition("/")[2].partition("-")[0] not in own:
                yield upload

    def _committer(self, on_commit: OnCommit | None) -> Callable[[Manifest], Manifest]:
        return lambda manifest: commit(self._context, manifest, on_commit)

    # --- reading -------------------------------------------------------------------------

    def find(self, name: str, copy: int) -> Manifest | None:
        """The manifest of a complete copy, or None."""
        key = names.manifest_key(name, copy)
        try:
            data = self._context.store.read(key, ceiling=CEILING)
        except ObjectNotFound:
            return None
        return Manifest.from_json(data, where=f"{self.uri}/{key}")

    def stat(self, name: str, copy: int | None = None) -> Manifest:
        """The manifest of a copy; without a number that of the lowest copy there is.

        Raises:
            ImageNotFound: there is none.
        """
        copies = self.copies(name) if copy is None else [copy]
        for number in copies:
            manifest = self.find(name, number)
            if manifest is not None:
                return manifest
        which = "" if copy is None else f" copy {copy}"
        raise ImageNotFound(
            f"image {name!r}{which} is not in {self.uri}",
            hint="list the pool's images, or look the name up with tapecatalog ls",
        )

    def copies(self, name: str) -> list[int]:
        """Numbers of the copies that have a folder, ascending."""
        folder = f"{names.IMAGES}/{names.encode(name)}"
        return sorted(int(n) for n in self._context.store.folders(folder) if n.isdecimal())

    def images(self) -> Iterator[tuple[str, int]]:
        """Every complete copy as (name, copy), in the order of the keys."""
        for stored in self._context.store.scan(f"{names.IMAGES}/"):
            parts = stored.key.split("/")
            if len(parts) == 4 and parts[3] == names.MANIFEST and parts[2].isdecimal():
                try:
                    yield names.decode(parts[1]), int(parts[2])
                except NameInvalid:
                    log.warning("%s is not an image of ours", stored.key)

    def open_image(self, manifest: Manifest) -> ImageReader:
        """Read a complete copy."""
        return ImageReader(self._context, manifest)

    def verify(self, manifest: Manifest, depth: verify.Depth) -> verify.Verification:
        """Compare a copy with its manifest, to a depth; a result, not an exception.

        An image within tape files has no bytes of its own: those files are checked, and at most
        to their checksums, because each of them is an image that can be read in full itself.
        """
        if not manifest.within:
            try:  # locks and holds are compared with what was decided since the commit
                kept = sidecar.read_kept(self._context.store, manifest)
            except CorruptObject as exc:
                return verify.Verification(depth=depth, problems=(exc.message,))
            return verify.verify(self._context, sidecar.effective(manifest, kept), depth)
        depth = verify.Depth.HEAD if depth is verify.Depth.HEAD else verify.Depth.CHECKSUM
        problems: list[str] = []
        for name, copy in dict.fromkeys((part.image, part.copy) for part in manifest.within):
            tape_file = self.find(name, copy)
            if tape_file is None:
                problems.append(f"the tape file {name!r} that it lies in is not in the pool")
            else:
                problems += verify.verify(self._context, tape_file, depth).problems
        return verify.Verification(depth=depth, problems=tuple(problems))

    # --- recall --------------------------------------------------------------------------

    def prepare(
        self,
        wanted: Iterable[Wanted],
        *,
        tier: RecallTier | None = None,
        days: int = 0,
        max_cost: float | None = None,
        dry_run: bool = False,
    ) -> Ticket:
        """Recall what holds the wanted bytes, all in one batch; with dry_run only the offer.

        The same set in the same tier is the same ticket, also after a restart: what was asked for
        is not asked for again. tier None is the pool's own choice. A faster tier than that of a
        ticket that waits speeds it up. More days than a ticket has make its copies stay longer;
        days 0 are the pool's own, and lengthen nothing. Ends when everything was sent; another
        thread may ``cancel_ticket`` meanwhile.

        Raises:
            OverBudget: above max_cost or the pool's monthly budget; nothing was asked for.
            Unsupported: a class has no such tier, or the store no recall.
            ImageDamaged: an object is not there; nothing was asked for.
            TransientStoreError: the store is away; the same call goes on.
        """
        return self._recalls.prepare(
            self._sources(wanted), tier=tier, days=days, max_cost=max_cost, dry_run=dry_run
        )

    def ticket(self, ticket: str) -> Ticket:
        """How far a ticket is; goes on with what an earlier process did not come to send.

        Raises:
            ImageNotFound: this journal has no such ticket.
        """
        return self._recalls.ticket(ticket)

    def cancel_ticket(self, ticket: str) -> Ticket:
        """Stop what was not sent to the store yet; the ticket says what is billed all the same.

        Raises:
            ImageNotFound: this journal has no such ticket.
        """
        return self._recalls.cancel(ticket)

    def continue_recalls(self) -> int:
        """Send what an earlier process did not come to send; gives the number of tickets."""
        return self._recalls.resume()

    def _sources(self, wanted: Iterable[Wanted]) -> Iterator[Wanted]:
        """Images that lie within tape files are recalled with all of those."""
        for one in wanted:
            if not one.manifest.within:
                yield one
                continue
            for name, copy in dict.fromkeys(
                (part.image, part.copy) for part in one.manifest.within
            ):
                yield Wanted(manifest=self.stat(name, copy), mapped=False)

    # --- the ledger ----------------------------------------------------------------------

    def record(self, facts: Iterable[Fact]) -> None:
        """Put facts on their way to the ledger."""
        with self.journal.transaction(durable=True) as db:
            outbox.add(db, facts)

    def flush_due(self) -> None:
        """Commit to the ledger if enough waits, or long enough."""
        self._outbox.flush_due()

    def flush(self) -> None:
        """Commit everything that waits to the ledger."""
        self._outbox.flush()


def _coded_arena(config: PoolConfig, coding: Coding) -> Arena:
    """Buffers of coded parts; each image that is coded takes parts_in_flight + 2 at most.

    Raises:
        ConfigError: coded parts of this size would not fit S3's limits.
    """
    code = FrameCode(
        compression=coding.compression,
        encrypted=coding.client_key is not None,
        frame_size=min(coding.frame_size, config.part_size),
    )
    if coding.active:
        check_fits(code, config)
    size = layout(code, config.part_size).capacity
    return Arena(config.images_open * (config.parts_in_flight + 2), size)


def _probe(store: ObjectStore, journal: Journal) -> None:
    """What the store can do; first, clear away what a process left that died while it tried."""
    intent = f"probing {store.uri}"
    if journal.setting(intent) == "begun":
        for upload in list(store.uploads(PROBE_PREFIX)):
            store.abort_upload(upload)
        for left in list(store.scan(PROBE_PREFIX)):
            store.delete(left.key, version_id=store.stat(left.key).version_id)
    journal.remember(intent, "begun")
    store.probe()
    journal.remember(intent, "done")


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _create_or_check(store: ObjectStore, clock: Callable[[], int], *, create: bool) -> None:
    fields = {"format": POOL_FORMAT, "created_at": iso(clock()), "writer": WRITER}
    try:
        data = store.read(names.POOL_FILE, ceiling=65_536)
    except ObjectNotFound:
        if not create:
            raise ConfigError(
                f"there is no pool at {store.uri}", hint="check the bucket and the prefix"
            ) from None
        try:
            text = json.dumps(fields, indent=1).encode() + b"\n"
            store.put(names.POOL_FILE, text, MANIFEST_OPTIONS, only_if_absent=True)
            return
        except ObjectExists:
            data = store.read(names.POOL_FILE, ceiling=65_536)
    try:
        found = json.loads(data)["format"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found != POOL_FORMAT:
        raise CorruptObject(
            f"{store.uri}/{names.POOL_FILE} is not of a pool that this program knows ({found!r})",
            hint="choose another prefix, or use a newer Tapelift",
        )
