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
from connector.store import s3_facts
from connector.store.interface import Capabilities, StoredObject
from connector.store.retention import Retention
from connector.store.s3_bucket import S3Bucket

logger = logging.getLogger(__name__)


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
        before = self._retention(key, version_id)
        if not before.check_extended_by(asked, what, now=self.clock()):
            return
        until_there = s3_facts.to_datetime(asked.until)
        parameters = self.bucket.names(key, version_id)
        parameters |= {"Retention": {"Mode": str(mode), "RetainUntilDate": until_there}}
        try:
            self._call(what, self.bucket.client.put_object_retention, parameters)
        except StoreUnusable as exc:
            if not self._retention(key, version_id).holds(self.clock()):
                raise
            raise ObjectLocked(
                f"{what}: the store does not let this lock change: {exc.message}",
                hint="extend it in the mode that it has",
            ) from exc

    def _retention(self, key: str, version_id: str | None) -> Retention:
        stored = self.stat(key, version_id)
        return Retention(stored.lock_mode, stored.lock_until or 0)

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
        if Retention(stored.lock_mode, stored.lock_until or 0).holds(self.clock()):
            return f"locked in {stored.lock_mode} mode until {iso(stored.lock_until)}"
        return None
