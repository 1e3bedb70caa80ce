"""The index from the bucket alone: everything local may be lost, and the listing is the same.

One listing of ``images/`` in key order gives each copy's folder as a whole: its fragments, its
manifest, its sidecar. Manifests are read by a few threads, in order, with a bound on how many bytes
are on their way, so memory does not grow with the pool. What was read goes into a new generation of
the index, with the place in the listing, so that a rebuild that was interrupted goes on there; the
old index answers until the new one takes over, in one transaction.
"""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from catalog.errors import CorruptObject, NameInvalid, ObjectNotFound, TooBusy
from catalog.model import NANOSECONDS
from connector.pool import generations, names, sidecar
from connector.pool.index import Index, Row, row_of
from connector.pool.manifest import CEILING, Manifest
from connector.pool.pool import Pool
from connector.pool.sidecar import kept_by
from connector.store.interface import StoredObject

log = logging.getLogger(__name__)

DAY = 86_400 * NANOSECONDS
ORPHAN_AGE = 7 * DAY
"""Fragments without a manifest are reported when they are older: another host may be writing."""
RESUMABLE = DAY
"""A rebuild that was begun longer ago is begun anew."""
READERS = 16
"""Manifests that are read at once."""
BYTES_ON_THEIR_WAY = 16 * 1024 * 1024
"""Bytes of manifests that are being read at once, as far as there is more than one."""
BATCH = 500
"""Copies that go into the index in one transaction."""
NAMED = 100
"""Of each kind of finding so many are named; the rest is only counted."""
MOST_FRAGMENTS = 100_000
"""Fragments of a copy that are looked at: their numbers have five digits."""

_FRAGMENT = re.compile(r"([0-9a-f]{16})-\d{5}")


@dataclass(slots=True)
class Findings:
    """One kind of finding: how many, their bytes where they have any, and the first of them."""

    count: int = 0
    size: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, what: str, size: int = 0) -> None:
        """Count one more."""
        self.count += 1
        self.size += size
        if len(self.named) < NAMED:
            self.named.append(what)

    def join(self, more: Findings) -> None:
        """Add what was counted apart."""
        self.count += more.count
        self.size += more.size
        self.named += more.named[: NAMED - len(self.named)]


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild found.

    images: complete copies, damaged ones among them. damaged: objects that are gone or have another
    size (listed as damaged), or a manifest or sidecar that cannot be read (then not listed).
    foreign: objects below ``images/`` that are not ours. orphans: fragments that no manifest names,
    older than ``ORPHAN_AGE`` and not of an attempt of this journal. uploads: unfinished uploads
    that this journal does not know.
    """

    images: int = 0
    damaged: Findings = field(default_factory=Findings)
    foreign: Findings = field(default_factory=Findings)
    orphans: Findings = field(default_factory=Findings)
    uploads: Findings = field(default_factory=Findings)

    def to_json(self) -> str:
        """As the journal keeps it between the steps of a rebuild."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Rebuilt:
        """Read ``to_json``."""
        fields = json.loads(text)
        kinds = {key: Findings(**value) for key, value in fields.items() if key != "images"}
        return cls(images=fields["images"], **kinds)


Progress = Callable[[Rebuilt], None]
"""Told now and then what was found so far; called from the rebuilding thread. Copy what is kept."""


@dataclass(slots=True)
class Folder:
    """What lies below ``images/NAME/COPY/``, which is its key.

    foreign: what is not ours, here and between the folder before and this one.
    """

    key: str
    name: str
    copy: int
    manifest: StoredObject | None = None
    sidecar: bool = False
    fragments: dict[str, StoredObject] = field(default_factory=dict)
    foreign: Findings = field(default_factory=Findings)


@dataclass(frozen=True, slots=True)
class Looked:
    """A folder whose manifest was read, and the row it makes; None: nothing is committed there, or
    problem says why it cannot be read."""

    folder: Folder
    row: Row | None = None
    problem: str = ""


def rebuild(pool: Pool, index: Index, progress: Progress | None = None) -> Rebuilt:
    """Make the index anew from the bucket; the old one answers until this one is whole.

    The pool may be used meanwhile: what is committed, deleted or kept longer in the meantime is in
    both. Interrupted, the next call within a day goes on where this one was.

    Raises:
        TooBusy: another thread is at it.
        StoreError: the bucket cannot be listed or read; the old index stays.
        JournalError: the disk of the journal fails or is full; the old index stays.
    """
    if not index.rebuilding.acquire(blocking=False):
        raise TooBusy(f"the index of {pool.uri} is being built anew already", hint="wait for it")
    try:
        return _rebuild(pool, index, progress)
    finally:
        index.rebuilding.release()


def _rebuild(pool: Pool, index: Index, progress: Progress | None) -> Rebuilt:
    now = pool.context.clock()
    begun = generations.building(index.journal)
    if begun is None or not 0 <= now - begun[0] < RESUMABLE:
        generations.begin(index.journal, now)
        begun = (now, "", None)
    _, position, text = begun
    found = Rebuilt() if text is None else Rebuilt.from_json(text)
    _Rebuild(pool, index, found, progress, begun[0]).run(position)
    for upload in pool.orphans():
        found.uploads.add(upload.key)
    generations.take_over(index.journal)
    log.info("the index of %s is built anew: %d images", pool.uri, found.images)
    if progress is not None:
        progress(found)
    return found


class _Rebuild:
    """One run over the listing."""

    def __init__(
        self, pool: Pool, index: Index, found: Rebuilt, progress: Progress | None, began_at: int
    ) -> None:
        self._pool = pool
        self._store = pool.context.store
        self._index = index
        self._found = found
        self._progress = progress
        self._began_at = began_at
        self._batch: list[Row] = []
        self._since = 0

    def run(self, position: str) -> None:
        last = position
        with ThreadPoolExecutor(READERS, thread_name_prefix="rebuild") as threads:
            for looked in self._looked(threads, position):
                last = looked.folder.key
                self._take(looked)
                if self._since >= BATCH:
                    self._save(last)
        self._save(last)

    def _looked(self, threads: ThreadPoolExecutor, position: str) -> Iterator[Looked]:
        """Folders in order, each with its manifest, read ahead by the threads."""
        window: deque[tuple[int, Future[Looked]]] = deque()
        on_their_way = 0
        try:
            for folder in self._folders(position):
                size = folder.manifest.size if folder.manifest else 0
                while window and (
                    len(window) >= 2 * READERS or on_their_way + size > BYTES_ON_THEIR_WAY
                ):
                    done, future = window.popleft()
                    on_their_way -= done
                    yield future.result()
                on_their_way += size
                window.append((size, threads.submit(self._look, folder)))
            while window:
                yield window.popleft()[1].result()
        finally:
            for _, future in window:
                future.cancel()

    # --- the listing ------------------------------------------------------------------------

    def _folders(self, position: str) -> Iterator[Folder]:
        """The copies below ``images/``, behind a position, from one listing in key order."""
        folder: Folder | None = None
        between = Findings()
        for stored in self._store.scan(f"{names.IMAGES}/"):
            if position and (stored.key <= position or stored.key.startswith(position)):
                continue
            if folder is None or not stored.key.startswith(folder.key):
                following = _folder(stored.key)
                if following is None:
                    between.add(stored.key, stored.size)
                    continue
                if folder is not None:
                    yield folder
                folder, following.foreign, between = following, between, Findings()
            if not _sort(folder, stored):
                folder.foreign.add(stored.key, stored.size)
        if folder is not None:
            yield folder
        if between.count:
            yield Folder(between.named[0], "", 0, foreign=between)

    # --- one copy ---------------------------------------------------------------------------

    def _look(self, folder: Folder) -> Looked:
        """In a thread: manifest and sidecar, and whether the fragments are as the manifest says."""
        if folder.manifest is None:
            return Looked(folder)
        key = folder.manifest.key
        try:
            manifest = Manifest.from_json(self._store.read(key, ceiling=CEILING), where=key)
            if (manifest.name, manifest.copy) != (folder.name, folder.copy):
                return Looked(folder, problem=f"{key} is the manifest of another image")
            kept = kept_by(manifest.retention)
            if folder.sidecar:
                kept = sidecar.read_kept(self._store, manifest)
            problem = self._missing(folder, manifest)
        except ObjectNotFound:  # deleted while we looked
            return Looked(folder)
        except CorruptObject as exc:
            return Looked(folder, problem=exc.message)
        return Looked(folder, row_of(manifest, kept, damaged=bool(problem)), problem)

    def _missing(self, folder: Folder, manifest: Manifest) -> str:
        """The first fragment that is not as the manifest says; a listing shows the newest version
        only, so what differs there is looked at itself."""
        for part in manifest.fragments:
            listed = folder.fragments.get(part.key)
            if listed is not None and listed.size == part.stored_size:
                continue
            try:
                stored = self._store.stat(part.key, version_id=part.version_id)
            except ObjectNotFound:
                return f"{part.key} is not there"
            if stored.size != part.stored_size:
                return f"{part.key} has {stored.size} bytes, not {part.stored_size}"
        return ""

    def _take(self, looked: Looked) -> None:
        self._since += 1
        self._found.foreign.join(looked.folder.foreign)
        if looked.problem:
            self._found.damaged.add(f"{looked.folder.key}: {looked.problem}")
        if looked.row is not None:
            self._found.images += 1
            self._batch.append(looked.row)
            self._count_orphans(looked.folder, looked.row.entry.token)
        elif not looked.problem:  # of a manifest that cannot be read, the fragments are not known
            self._count_orphans(looked.folder, "")

    def _count_orphans(self, folder: Folder, token: str) -> None:
        latest = self._began_at - ORPHAN_AGE
        strangers = [
            stored
            for stored in folder.fragments.values()
            if _token(stored) != token and (stored.modified_at or 0) < latest
        ]
        if strangers:
            attempt = self._pool.context.attempts.find(folder.name, folder.copy)
            for stored in strangers:
                if attempt is None or _token(stored) != attempt.token:
                    self._found.orphans.add(stored.key, stored.size)

    def _save(self, position: str) -> None:
        generations.add(
            self._index.journal, self._batch, position=position, report=self._found.to_json()
        )
        self._batch, self._since = [], 0
        if self._progress is not None:
            self._progress(self._found)


def _folder(key: str) -> Folder | None:
    """The folder of a copy in which a key lies, or None when that is none of ours."""
    parts = key.split("/", 3)
    if len(parts) != 4 or not re.fullmatch("[1-9][0-9]*", parts[2]):
        return None
    try:
        return Folder("/".join(parts[:3]) + "/", names.decode(parts[1]), int(parts[2]))
    except NameInvalid:
        return None


def _sort(folder: Folder, stored: StoredObject) -> bool:
    """Put an object where it belongs; whether it is ours."""
    file = stored.key.removeprefix(folder.key)
    if file == names.MANIFEST:
        folder.manifest = stored
    elif file == sidecar.FILE:
        folder.sidecar = True
    elif _FRAGMENT.fullmatch(file) and len(folder.fragments) < MOST_FRAGMENTS:
        folder.fragments[stored.key] = stored
    else:
        return False
    return True


def _token(fragment: StoredObject) -> str:
    return fragment.key.rpartition("/")[2].partition("-")[0]
