"""Retention, legal hold and deletion on S3: what keeps an object, and what a refusal means.

S3 says AccessDenied both when a lock forbids a change and when the caller has no right to ask. The
lock is looked at to tell one from the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from catalog.errors import (
    ObjectLocked,
    ObjectNotFound,
    StoreError,
    StoreUnusable,
    TransientStoreError,
    Unsupported,
)
from catalog.model import NANOSECONDS, LockMode, iso
from catalog.s3 import VENDOR_ERRORS, vendor_code
from connector.store import s3_facts
from connector.store.interface import Capabilities, StoredObject
from connector.store.s3_bucket import S3Bucket

logger = logging.getLogger(__name__)

_NO_RETENTION = ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError")

_STRENGTH = {LockMode.NONE: 0, LockMode.GOVERNANCE: 1, LockMode.COMPLIANCE: 2}


@dataclass(frozen=True, slots=True)
class Retention:
    """A lock on one version; until is nanoseconds, and one that has ended binds nobody."""

    mode: LockMode = LockMode.NONE
    until: int = 0

    def check_extended_by(self, asked: Retention, what: str, *, now: int) -> bool:
        """Whether asked changes anything. Raises ObjectLocked when it would weaken this lock."""
        if asked.mode is LockMode.NONE:
            raise Unsupported(f"{what}: a lock cannot be taken away", hint="wait until it ends")
        if self.mode is LockMode.NONE or self.until <= now:
            return True
        if asked.until < self.until:
            raise ObjectLocked(
                f"{what}: locked until {iso(self.until)}, asked for {iso(asked.until)}",
                hint="a lock can be extended, never shortened",
            )
        if _STRENGTH[asked.mode] < _STRENGTH[self.mode]:
            raise ObjectLocked(
                f"{what}: locked in {self.mode} mode, asked for {asked.mode}",
                hint="a lock can be strengthened, never weakened",
            )
        return asked != self


@dataclass(frozen=True, slots=True, kw_only=True)
class Locks:
    """Locks and deletes in one bucket. probe says whether the bucket has Object Lock at all."""

    bucket: S3Bucket
    probe: Callable[[], Capabilities]
    stat: Callable[[str, str | None], StoredObject]
    clock: Callable[[], int]

    def set_lock(self, key: str, mode: LockMode, until: int, version_id: str | None) -> None:
        """PutObjectRetention, after a look at what holds: some stores shorten when told to.

        until is rounded up to the second, which is what S3 keeps.
        """
        what = f"locking {key}"
        asked = Retention(mode, -(-until // NANOSECONDS) * NANOSECONDS)
        named = self.bucket.names(key, version_id)
        before = self._retention(named, what)
        if not before.check_extended_by(asked, what, now=self.clock()):
            return
        until_there = s3_facts.to_datetime(asked.until)
        parameters = named | {"Retention": {"Mode": str(mode), "RetainUntilDate": until_there}}
        try:
            self._call(what, self.bucket.client.put_object_retention, parameters)
        except StoreUnusable:  # we have no right to, or another one extended it meanwhile
            if self._retention(named, what).check_extended_by(asked, what, now=self.clock()):
                raise

    def _retention(self, named: dict[str, Any], what: str) -> Retention:
        def ask(**parameters: Any) -> Any:
            try:
                return self.bucket.client.get_object_retention(**parameters)
            except VENDOR_ERRORS as exc:
                if vendor_code(exc) in _NO_RETENTION:
                    return {}
                raise

        held: dict[str, Any] = self._call(what, ask, named).get("Retention", {})
        until = s3_facts.to_ns(held.get("RetainUntilDate"))
        return Retention(s3_facts.lock_mode(held.get("Mode")), until or 0)

    def set_hold(self, key: str, on: bool, version_id: str | None) -> None:
        """PutObjectLegalHold."""
        what = f"{'holding' if on else 'releasing'} {key}"
        parameters = self.bucket.names(key, version_id)
        parameters |= {"LegalHold": {"Status": "ON" if on else "OFF"}}
        self._call(what, self.bucket.client.put_object_legal_hold, parameters)

    def _call(self, what: str, operation: Callable[..., Any], parameters: dict[str, Any]) -> Any:
        """What a store without Object Lock refuses in its own words is Unsupported."""
        try:
            return self.bucket.call(what, lambda: operation(**parameters))
        except (TransientStoreError, ObjectNotFound):
            raise
        except StoreError as exc:
            if self.probe().object_lock:
                raise
            raise Unsupported(
                f"{what}: the bucket has no Object Lock: {exc.message}",
                hint="use a bucket that was created with Object Lock",
            ) from exc

    def delete(self, key: str, version_id: str | None) -> None:
        """DeleteObject. What is gone already is success."""
        what = f"deleting {key}"
        parameters = self.bucket.names(key, version_id)
        try:
            self.bucket.call(what, lambda: self.bucket.client.delete_object(**parameters))
        except ObjectNotFound:
            return
        except TransientStoreError:
            raise
        except StoreError as exc:
            locked = self._why_locked(key, version_id)
            if locked is None:
                raise
            raise ObjectLocked(
                f"{what}: {locked}", hint="release the hold, or wait until the lock ends"
            ) from exc

    def _why_locked(self, key: str, version_id: str | None) -> str | None:
        try:
            stored = self.stat(key, version_id)
        except StoreError as exc:
            logger.debug("cannot see whether %s is locked: %s", key, exc)
            return None
        if stored.hold:
            return "under a legal hold"
        if stored.lock_mode is not LockMode.NONE and (stored.lock_until or 0) > self.clock():
            return f"locked in {stored.lock_mode} mode until {iso(stored.lock_until)}"
        return None
