"""One mount of one tape: the label first, then its wanted tape files, forward only.

The drive reads ahead in its own thread (``source/drive.py``); this one takes the images out and
feeds the pool. Whatever is wrong with one image ends as that image's outcome, and the tape goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain

from catalog.errors import FormatError, ImageExists, PoolError
from catalog.model import Kind
from migrate import facts
from migrate.assembly import Assembly, ImageJob, stop_reading
from migrate.errors import TapeError, WrongTape
from migrate.formats.demux import supervise
from migrate.formats.interface import Done, Extract, Gap, Piece, TapeFormat, Wanted
from migrate.formats.registry import FORMATS, format_named, identify_tape
from migrate.inventory.store import Inventory, PlacedFragment
from migrate.model import Fragment, Media
from migrate.session import Session, StoppedError
from migrate.source.drive import BufferedTape
from migrate.source.interface import Block, EndOfTape, TapeEvent, TapeSource
from migrate.tape_files import TapeFileMover

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One fragment to be read now."""

    image_id: str
    fragment: Fragment
    opaque: bool


@dataclass(slots=True)
class TapeVisit:
    """Reads one tape. inventory belongs to this drive's thread."""

    session: Session
    inventory: Inventory
    drive: int
    media: Media
    _open: dict[str, Assembly] = field(default_factory=dict)
    _claimed: set[str] = field(default_factory=set)
    _following: frozenset[str] = frozenset()
    _moved: int = 0
    _ended: int = 0

    def perform(self) -> None:
        """Read what can be read now; nothing is mounted when there is nothing.

        Raises:
            StoppedError: the run is being stopped.
            PoolError: the pool cannot be used; the run must end.
        """
        try:
            with self.session.tape_in_use(self.media.media_id):
                files = self._files()
                if files:
                    self._mount_and_read(files)
        finally:
            for assembly in self._open.values():
                assembly.release()
            self.session.unclaim(self._claimed)

    # --- what to read --------------------------------------------------------------------

    def _files(self) -> dict[int, list[Item]]:
        """Tape files to be read, ascending, each with its fragments.

        A fragment is read when all that precede it are safe, or are read before it in this visit.
        """
        files: dict[int, list[Item]] = {}
        mine: dict[str, list[Fragment]] = {}
        for placed in self._placed():
            fragment = placed.fragment
            if self.session.is_over(placed.image_id):
                continue
            job = self.session.job(self.inventory, placed.image_id)
            if fragment.tape_file_number is None:
                self._fail(placed.image_id, "the catalogue does not say where on the tape it is")
                continue
            if job.opaque and self.session.settings.demultiplexer is None:
                number = fragment.tape_file_number
                if self.session.work.tape_file_size(self.media.media_id, number) is None:
                    files.setdefault(number, []).append(Item(placed.image_id, fragment, True))
                else:
                    self.session.place_if_complete(job)
                continue
            mine.setdefault(placed.image_id, []).append(fragment)
        for image_id, fragments in mine.items():
            for fragment in self._readable(image_id, fragments):
                number = fragment.tape_file_number or 0
                files.setdefault(number, []).append(Item(image_id, fragment, False))
        return dict(sorted(files.items()))

    def _placed(self) -> Iterator[PlacedFragment]:
        """The data fragments on this tape, in tape order.

        A tape of which the catalogue names one fragment and not its place holds it in its first
        file behind the label; whether it does, the format finds out.
        """
        everything = self.inventory.fragments_on(self.media.media_id, selected_only=True)
        data = (placed for placed in everything if placed.fragment.fragment_number > 0)
        first = next(data, None)
        if first is None:
            return
        second = next(data, None)
        if second is None and first.fragment.tape_file_number is None:
            product = self.session.job(self.inventory, first.image_id).image.product
            number = 1 if product not in FORMATS or format_named(product).has_label else 0
            yield replace(first, fragment=replace(first.fragment, tape_file_number=number))
            return
        yield first
        if second is not None:
            yield second
        yield from data

    def _readable(self, image_id: str, fragments: list[Fragment]) -> list[Fragment]:
        """Those of an image's fragments on this tape, in tape order, that can be read now.

        An image of which nothing can be read stays free for the drive that has its next tape.
        """
        pending = self.session.is_pending(image_id)
        if not pending and all(fragment.fragment_number != 1 for fragment in fragments):
            return []
        if not self.session.claim(image_id):
            return []
        expected = self._first_needed(image_id) if pending else 1
        found: list[Fragment] = []
        for fragment in fragments:
            if fragment.fragment_number == expected:
                found.append(fragment)
                expected += 1
        if found:
            self._claimed.add(image_id)
            return found
        assembly = self._open.pop(image_id, None)
        if assembly is not None:
            assembly.release()
        self.session.unclaim([image_id])
        return []

    def _first_needed(self, image_id: str) -> int:
        """The first fragment that is not safe yet; 0 when the image needs none."""
        job = self.session.job(self.inventory, image_id)
        assembly = self._assembly(image_id, job)
        if assembly is None:
            return 0
        if assembly.next_fragment > job.fragments:  # only the commit was missing
            self._open.pop(image_id)
            self.session.finish(self.drive, assembly)
            return 0
        return assembly.next_fragment

    # --- reading -------------------------------------------------------------------------

    def _mount_and_read(self, files: dict[int, list[Item]]) -> None:
        barcode = self.media.barcode or self.media.media_id
        try:
            cartridge = self.session.shelf.match(self.media.media_id, self.media.barcode)
            barcode = cartridge.barcode
            source = self.session.shelf.mount(barcode)
        except (TapeError, FormatError) as exc:
            self._tape_failed(barcode, exc)
            return
        self.session.mounted(self.drive, self.media, barcode)
        try:
            tape_format = self._checked_format(source, files)
            self._read(source, tape_format, files)
        except (TapeError, FormatError) as exc:
            self._tape_failed(barcode, exc)
            return
        finally:
            source.close()
        detail: dict[str, object] = {"bytes": self._moved, "images": self._ended}
        fact = facts.tape_fact(
            self.session.pool.context,
            Kind.TAPE_READ,
            self.media,
            barcode,
            drive=str(self.drive),
            detail=detail,
        )
        self.session.pool.record([fact])

    def _checked_format(self, source: TapeSource, files: dict[int, list[Item]]) -> TapeFormat:
        """The tape's format, after its label was found to be that of this cartridge."""
        first_item = next(iter(files.values()))[0]
        product = self.session.job(self.inventory, first_item.image_id).image.product
        if product not in FORMATS:
            raise TapeError(
                f"no tape format is known for {product!r}",
                hint=f"known are {', '.join(FORMATS)}; other tapes are left alone",
            )
        tape_format = format_named(
            product,
            keeps_records=source.keeps_records,
            demultiplexer=self.session.settings.demultiplexer,
        )
        event = source.read()
        check_label(
            event, tape_format, self.media, allow_unlabelled=self.session.settings.allow_unlabelled
        )
        return tape_format

    def _read(
        self, source: TapeSource, tape_format: TapeFormat, files: dict[int, list[Item]]
    ) -> None:
        high = self.session.settings.buffer_bytes
        with BufferedTape(source, high_bytes=high, low_bytes=high // 3) as tape:
            tape.start(list(files))
            coming = [frozenset(item.image_id for item in items) for items in files.values()]
            following = [*coming[1:], frozenset()]
            for at, (number, items) in enumerate(files.items()):
                self.session.check_stopped()
                self._following = following[at]
                items = [item for item in items if not self.session.is_over(item.image_id)]
                if not items:
                    continue
                events = iter(tape.stream_file(number))
                first = next(events, None)
                if first is None or isinstance(first, EndOfTape):
                    self._nothing_there(items, first)
                    continue
                whole: Iterator[TapeEvent] = chain([first], events)
                if any(item.opaque for item in items):
                    self._move_whole(number, items, whole, keeps_records=source.keeps_records)
                else:
                    self._extract(tape_format, items, whole)

    def _nothing_there(self, items: list[Item], end: EndOfTape | None) -> None:
        why = (end.reason or "the tape ends before it") if end else "the tape file is empty"
        for item in items:
            self._damaged(item.image_id, why)

    def _extract(
        self, tape_format: TapeFormat, items: list[Item], events: Iterator[TapeEvent]
    ) -> None:
        assemblies: dict[Wanted, Assembly] = {}
        for item in items:
            job = self.session.job(self.inventory, item.image_id)
            assembly = self._assembly(item.image_id, job)
            if assembly is not None:
                assembly.begin(item.fragment.fragment_number)
                assemblies[wanted_of(item)] = assembly
        if not assemblies:
            return
        for extract in self._extracts(tape_format, items, events, list(assemblies)):
            self.session.check_stopped()
            assembly = assemblies[extract.wanted]
            image_id = extract.wanted.image_id
            if image_id not in self._open:
                continue  # it has failed meanwhile
            if isinstance(extract, Piece):
                self._piece(assembly, extract)
            elif isinstance(extract, Gap):
                log.warning("image %s: %s", image_id, extract.reason)
            else:
                self._done(assembly, extract)

    def _extracts(
        self,
        tape_format: TapeFormat,
        items: list[Item],
        events: Iterator[TapeEvent],
        wanted: list[Wanted],
    ) -> Iterator[Extract]:
        """A multiplexed tape file goes to the demultiplexer, even if one image of it is wanted."""
        demultiplexer = self.session.settings.demultiplexer
        if demultiplexer is not None and any(item.fragment.multiplexed for item in items):
            return supervise(demultiplexer, events, wanted)
        return tape_format.extract(events, wanted)

    def _piece(self, assembly: Assembly, piece: Piece) -> None:
        try:
            new = assembly.piece(piece.data)
        except PoolError as exc:
            self._image_failed(assembly, exc)
            return
        self._moved += new
        self.session.progress.moved(self.drive, len(piece.data))

    def _done(self, assembly: Assembly, done: Done) -> None:
        image_id = assembly.job.image.image_id
        if done.problem:
            tape = self.media.media_id
            number = done.wanted.fragment_number
            self._damaged(image_id, f"fragment {number} on {tape}: {done.problem}")
            return
        try:
            assembly.end(done.wanted.fragment_number, done.note)
            if done.wanted.fragment_number == assembly.job.fragments:
                self._open.pop(image_id)
                self._ended += 1
                self.session.finish(self.drive, assembly)
            elif image_id not in self._following:
                # its rest is elsewhere, or behind other images: nothing of it is kept in memory
                assembly.suspend()
                self._open.pop(image_id)
                self.session.advanced.set()
        except PoolError as exc:
            self._image_failed(assembly, exc)

    def _move_whole(
        self, number: int, items: list[Item], events: Iterator[TapeEvent], *, keeps_records: bool
    ) -> None:
        jobs = [self.session.job(self.inventory, item.image_id) for item in items]
        mover = TapeFileMover(self.session, self.drive, self.media, number)
        try:
            problem = mover.move(events, jobs, keeps_records=keeps_records)
        except (StoppedError, TapeError, FormatError):
            raise
        except PoolError as exc:
            if stop_reading(exc):
                raise
            for job in jobs:
                self._fail(job.image.image_id, f"tape file {number}: {exc}")
            return
        self._moved += mover.moved
        for job in jobs:
            if problem:
                self._damaged(job.image.image_id, f"tape file {number}: {problem}")
            else:
                self.session.place_if_complete(job)

    # --- outcomes ------------------------------------------------------------------------

    def _assembly(self, image_id: str, job: ImageJob) -> Assembly | None:
        """The image's assembly; None when it needs none, because it is in the pool already."""
        if image_id not in self._open:
            try:
                self._open[image_id] = Assembly(self.session.pool, self.session.work, job)
            except ImageExists:
                self.session.adopt(job)
                return None
            except PoolError as exc:
                if stop_reading(exc):
                    raise
                self._fail(image_id, str(exc))
                return None
        return self._open[image_id]

    def _image_failed(self, assembly: Assembly, error: PoolError) -> None:
        """An error of one image; one of the pool itself ends the run."""
        if stop_reading(error):
            raise error
        self._open.pop(assembly.job.image.image_id, None)
        assembly.give_up()
        self._fail(assembly.job.image.image_id, str(error))

    def _damaged(self, image_id: str, why: str) -> None:
        assembly = self._open.pop(image_id, None)
        if assembly is None and self.session.is_pending(image_id):
            job = self.session.job(self.inventory, image_id)
            with suppress(ImageExists):
                assembly = Assembly(self.session.pool, self.session.work, job)
        if assembly is not None:
            assembly.give_up()
        self.session.damaged(self.inventory, image_id, why)

    def _fail(self, image_id: str, why: str) -> None:
        self.session.failed(self.inventory, image_id, why)

    def _tape_failed(self, barcode: str, error: PoolError) -> None:
        """The tape cannot be used, or not from here on: what was not read of it has failed."""
        self.session.tape_failed(self.media, barcode, error)
        for placed in self.inventory.fragments_on(self.media.media_id, selected_only=True):
            image_id = placed.image_id
            if placed.fragment.fragment_number > 0 and not self.session.is_over(image_id):
                assembly = self._open.pop(image_id, None)
                if assembly is not None:
                    assembly.release()
                self._fail(image_id, f"tape {barcode}: {error.message}")


def wanted_of(item: Item) -> Wanted:
    """The fragment as a format is asked for it."""
    fragment = item.fragment
    return Wanted(
        image_id=item.image_id,
        copy=1,
        fragment_number=fragment.fragment_number,
        size=fragment.size_bytes,
        size_is_exact=fragment.size_is_exact,
        block_size=fragment.block_size,
    )


def check_label(
    event: TapeEvent, tape_format: TapeFormat, media: Media, *, allow_unlabelled: bool
) -> None:
    """The tape's first block must say that it is the cartridge that was asked for.

    Raises:
        WrongTape: it says something else, or nothing.
    """
    look = "look at the cartridge: nothing of it was taken"
    if not isinstance(event, Block):
        why = event.reason if isinstance(event, EndOfTape) and event.reason else "no readable block"
        raise WrongTape(f"{media.media_id} begins with {why}", hint=look)
    label = tape_format.identify(event.data)
    if label is None:
        other = identify_tape(event.data)
        is_what = f"a {other.format} tape {other.volume or ''}" if other else "no tape that we know"
        raise WrongTape(
            f"{media.media_id} should be a {tape_format.name} tape and is {is_what.rstrip()}",
            hint=look,
        )
    expected = {media.label} if media.label else {media.media_id, media.barcode}
    if label.volume is None:
        if not allow_unlabelled:
            raise WrongTape(
                f"{media.media_id} carries no label, so that nothing proves which tape it is",
                hint="compare the cartridge by hand, then use --allow-unlabelled",
            )
    elif label.volume not in expected:
        wanted = " or ".join(sorted(filter(None, expected)))
        raise WrongTape(f"the tape in the drive is {label.volume}, not {wanted}", hint=look)
