"""Writing checkpoints: the head of a ledger, signed, and put where its writer cannot take it back.

An anchor follows a commit and never holds one up. A crash between the two leaves commits that no
checkpoint lists yet; the next one lists them. Several writers may anchor one ledger at once: a
checkpoint is created only if its number is free, and who comes second looks again.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.checkpoint import (
    FOLDER,
    MAX_FILES,
    MAX_KEYS,
    Checkpoint,
    last_checkpoint,
    make,
)
from catalog.errors import (
    CatalogError,
    ChainBroken,
    CommitConflict,
    ConfigError,
    ObjectNotFound,
    Unsupported,
)
from catalog.files import LedgerFiles, name_of
from catalog.keys import Signer
from catalog.model import NANOSECONDS

if TYPE_CHECKING:
    from catalog.ledger import Head

logger = logging.getLogger(__name__)

ATTEMPTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchoring:
    """How a ledger is anchored.

    signer signs. A checkpoint is due when every_commits commits are not listed yet, or when any
    is not and the last checkpoint is every_seconds old. place is where checkpoints go, by default
    the folder ``_checkpoints`` in the ledger. lock_days puts them under Object Lock in COMPLIANCE
    mode for so long; 0 is for stores without.
    """

    signer: Signer
    every_commits: int = 100
    every_seconds: int = 3_600
    place: LedgerFiles | None = None
    lock_days: int = 0

    def __post_init__(self) -> None:
        if self.every_commits < 1 or self.every_seconds < 0 or self.lock_days < 0:
            raise ConfigError("an anchoring interval or lock below its least value")


class Anchor:
    """Writes the checkpoints of one ledger. Calls may come from several threads at once."""

    def __init__(
        self, files: LedgerFiles, how: Anchoring, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """clock gives the time in nanoseconds since 1970. Raises ConfigError for a place without
        Object Lock when there shall be one."""
        self._files = files
        self._how = how
        self._clock = clock
        self._place = _locking(how.place or files.below(FOLDER), how.lock_days)
        self._lock = threading.Lock()
        self._noted: dict[int, str] = {}
        self._last: Checkpoint | None = None
        self._known = False

    @property
    def uri(self) -> str:
        """Where the checkpoints are."""
        return self._place.uri

    def note(self, sequence: int, sha256: str) -> None:
        """Remember the digest of a file that this process committed: it need not be read again."""
        with self._lock:
            if self._last is not None and sequence <= self._last.last:
                return
            self._noted[sequence] = sha256
            while len(self._noted) > 2 * max(self._how.every_commits, MAX_FILES):
                del self._noted[next(iter(self._noted))]

    def write_due(self, head: Head | None) -> Checkpoint | None:
        """Anchor head if it is time to; what others anchored since counts. See ``write``."""
        with self._lock:
            if not self._is_due(head):
                return None
            self._refresh()
            return self._write(head) if self._is_due(head) else None

    def write(self, head: Head | None) -> Checkpoint | None:
        """Sign what the last checkpoint does not list yet, up to head; None when there is nothing.

        Reads the files that other writers committed since. Raises:
            ChainBroken: these files are no sound continuation of what was signed.
            ConfigError: this key may not sign (any more).
            CatalogError, StoreError: the key or the place cannot be used.
        """
        with self._lock:
            return self._write(head)

    def hand_over(self, keys: Sequence[str]) -> Checkpoint:
        """Write a checkpoint that says which keys may sign from now on, signed by one of today's.

        Raises what ``write`` raises, and ConfigError for no keys or more than MAX_KEYS.
        """
        if not 1 <= len(keys) <= MAX_KEYS:
            raise ConfigError(f"{len(keys)} keys", hint=f"name 1 to {MAX_KEYS}")
        with self._lock:
            for _ in range(ATTEMPTS):
                self._refresh()
                try:
                    return self._create((), keys)
                except CommitConflict:
                    continue
        raise self._too_slow()

    def _is_due(self, head: Head | None) -> bool:
        if head is None:
            return False
        self._refresh(only_once=True)
        waiting = head.sequence - (self._last.last if self._last else -1)
        if waiting <= 0:
            return False
        age = self._clock() - (self._last.at_ns if self._last else 0)
        how = self._how
        return waiting >= how.every_commits or age >= how.every_seconds * NANOSECONDS

    def _write(self, head: Head | None) -> Checkpoint | None:
        written: Checkpoint | None = None
        conflicts = 0
        while conflicts < ATTEMPTS:
            self._refresh()
            first = self._last.last + 1 if self._last else 0
            if head is None or head.sequence < first:
                return written
            until = min(head.sequence + 1, first + MAX_FILES)
            try:
                written = self._create(self._digests(first, until), self._keys())
            except CommitConflict:
                conflicts += 1
        raise self._too_slow()

    def _refresh(self, only_once: bool = False) -> None:
        if not (only_once and self._known):
            self._last = last_checkpoint(self._place, self._last)
            self._known = True

    def _keys(self) -> Sequence[str]:
        return self._last.statement.keys if self._last else (self._how.signer.public_key,)

    def _create(self, files: Sequence[str], keys: Sequence[str]) -> Checkpoint:
        mine = self._how.signer.public_key
        if mine not in self._keys():
            raise ConfigError(
                f"{self._place.uri} is not signed with this key (any more): {mine}",
                hint="let a key that may sign hand over: tapecatalog anchor --next-key",
            )
        one = make(self._last, files, self._clock(), keys, self._how.signer)
        try:
            self._place.create(one.name, one.data)
            _check_lock(self._place, one.name, self._how.lock_days)
        except Unsupported as exc:
            raise ConfigError(
                f"{self._place.uri} has no Object Lock: {exc.message}",
                hint="use a bucket with Object Lock; or lock nothing, and note the head elsewhere",
            ) from exc
        self._last = one
        for sequence in [number for number in self._noted if number <= one.last]:
            del self._noted[sequence]
        logger.info("%s: %s lists the ledger up to %d", self._place.uri, one.name, one.last)
        return one

    def _digests(self, first: int, until: int) -> list[str]:
        before = self._last.files[-1] if self._last and self._last.files else None
        found: list[str] = []
        for number in range(first, until):
            sha256 = self._noted.get(number) or self._read_digest(number, before)
            found.append(sha256)
            before = sha256
        return found

    def _read_digest(self, number: int, before: str | None) -> str:
        """The digest of another writer's file; it must follow what is signed already."""
        from catalog.schema import read_footer

        name = name_of(number)
        try:
            data = self._files.read(name)
            footer = read_footer(data)
        except ObjectNotFound as exc:
            raise self._broken(f"{name} is missing") from exc
        except CatalogError as exc:
            raise self._broken(f"{name} is damaged: {exc.message}") from exc
        if footer.sequence != number or before not in (None, footer.previous_sha256):
            raise self._broken(f"{name} does not follow the file before it")
        return hashlib.sha256(data).hexdigest()

    def _broken(self, what: str) -> ChainBroken:
        return ChainBroken(
            f"the ledger {self._files.uri} is not signed: {what}",
            hint=f"run: tapecatalog verify --ledger {self._files.uri}",
        )

    def _too_slow(self) -> CommitConflict:
        return CommitConflict(
            f"other writers of {self._place.uri} were faster {ATTEMPTS} times",
            hint="anchor from one host, or less often",
        )


def _locking(place: LedgerFiles, days: int) -> LedgerFiles:
    if not days:
        return place
    from catalog.s3_files import S3Files

    if not isinstance(place, S3Files):
        raise ConfigError(
            f"{place.uri} has no Object Lock",
            hint="put checkpoints into S3, or note the head elsewhere and lock nothing",
        )
    return place.locking(days)


def _check_lock(place: LedgerFiles, name: str, days: int) -> None:
    """A store may take the lock's headers and not know what they mean."""
    if not days:
        return
    from catalog.s3_files import S3Files

    if isinstance(place, S3Files) and place.locked_until(name) is None:
        raise Unsupported(f"{name} was written, and is not locked")
