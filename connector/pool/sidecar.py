"""How an image is kept, beside its manifest: ``retention.json``, of which the newest counts.

A manifest never changes; what was decided about its image afterwards (kept longer, held, released)
is written here, with who, when and why. Only an object whose token is the manifest's counts: one
that outlived an earlier image of the same name says nothing. Source: docs/format.md, "How an image
is kept".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from catalog.errors import CorruptObject, ObjectNotFound
from catalog.model import LockMode, from_iso, iso
from connector.pool import names
from connector.pool.manifest import Manifest, Retention
from connector.store.interface import ObjectStore, PutOptions

FORMAT = "tapelift-retention/1"
FILE = "retention.json"
CEILING = 1024 * 1024
"""Largest sidecar that is read, in bytes."""
HISTORY = 100
HISTORY_BYTES = 256 * 1024
"""Changes that a sidecar remembers at most, and their size as JSON; the ledger has all of them."""
_OPTIONS = PutOptions(content_type="application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One decision. id is that of its fact in the ledger; what is a kind of fact."""

    id: str
    at: int
    what: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How an image is kept now.

    Nothing of it is deleted before lock_until, or ever with lock_infinite, or while hold is on.
    lock_mode says what else enforces that: Object Lock in this mode; with NONE, Tapelift alone.
    expires_at is what the product is told; it forbids nothing by itself.
    """

    expires_at: int | None = None
    expires_infinite: bool = False
    lock_mode: LockMode = LockMode.NONE
    lock_until: int | None = None
    lock_infinite: bool = False
    hold: bool = False
    history: tuple[Change, ...] = ()


def kept_by(retention: Retention) -> Kept:
    """How a manifest alone keeps its image."""
    locked = retention.lock_mode is not LockMode.NONE
    return Kept(
        expires_at=retention.expires_at,
        expires_infinite=retention.expires_infinite,
        lock_mode=retention.lock_mode,
        lock_until=retention.lock_until if locked else None,
        hold=retention.hold,
    )


def effective(manifest: Manifest, kept: Kept) -> Manifest:
    """The manifest with the retention that counts now; as a lock only what Object Lock keeps."""
    locked = kept.lock_mode is not LockMode.NONE
    retention = Retention(
        expires_at=kept.expires_at,
        expires_infinite=kept.expires_infinite,
        lock_mode=kept.lock_mode,
        lock_until=kept.lock_until if locked else None,
        hold=kept.hold,
    )
    return replace(manifest, retention=retention)


def with_change(kept: Kept, change: Change) -> Kept:
    """Remember a change, once."""
    if any(known.id == change.id for known in kept.history):
        return kept
    return replace(kept, history=(*kept.history, change))


def sidecar_key(name: str, copy: int) -> str:
    """Where a copy's sidecar lies."""
    return f"{names.image_folder(name, copy)}/{FILE}"


def read_kept(store: ObjectStore, manifest: Manifest) -> Kept:
    """How the store says that an image is kept now.

    Raises:
        CorruptObject: the sidecar is of no version that we know; then nothing may be deleted.
    """
    key = sidecar_key(manifest.name, manifest.copy)
    try:
        data = store.read(key, ceiling=CEILING)
    except ObjectNotFound:
        return kept_by(manifest.retention)
    token, kept = from_json(data, where=key)
    return kept if token == manifest.token else kept_by(manifest.retention)


def write_kept(store: ObjectStore, manifest: Manifest, kept: Kept) -> None:
    """Make this how the image is kept."""
    store.put(sidecar_key(manifest.name, manifest.copy), to_json(manifest, kept), _OPTIONS)


def to_json(manifest: Manifest, kept: Kept) -> bytes:
    """A sidecar as it lies in the bucket; the oldest of a long history are left out."""
    history, room = list[dict[str, object]](), HISTORY_BYTES
    for change in reversed(kept.history[-HISTORY:]):
        line = _change_json(change)
        room -= len(json.dumps(line))
        if room < 0:
            break
        history.insert(0, line)
    fields = {
        "format": FORMAT,
        "key_name": names.encode(manifest.name),
        "copy": manifest.copy,
        "token": manifest.token,
        "expires_at": iso(kept.expires_at),
        "expires_infinite": kept.expires_infinite,
        "lock_mode": kept.lock_mode,
        "lock_until": iso(kept.lock_until),
        "lock_infinite": kept.lock_infinite,
        "hold": kept.hold,
        "history": history,
    }
    return json.dumps(fields, indent=1).encode() + b"\n"


def _change_json(change: Change) -> dict[str, object]:
    return {
        "id": change.id,
        "at": iso(change.at),
        "what": change.what,
        "actor": change.actor,
        "reason": change.reason,
    }


def from_json(data: bytes, *, where: str) -> tuple[str, Kept]:
    """The token of the image that a sidecar is about, and how that is kept.

    Raises:
        CorruptObject: this is not a sidecar of a version that we know.
    """
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise CorruptObject(
                f"{where} has the format {fields['format']!r}, and this program reads {FORMAT}",
                hint="use a newer Tapelift",
            )
        return str(fields["token"]), _from_fields(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CorruptObject(
            f"{where} does not say how its image is kept ({type(exc).__name__}: {exc})",
            hint="compare it with its earlier version or with the ledger",
        ) from exc


def _from_fields(fields: Mapping[str, Any]) -> Kept:
    return Kept(
        expires_at=_time(fields["expires_at"]),
        expires_infinite=_flag(fields["expires_infinite"]),
        lock_mode=LockMode(fields["lock_mode"]),
        lock_until=_time(fields["lock_until"]),
        lock_infinite=_flag(fields["lock_infinite"]),
        hold=_flag(fields["hold"]),
        history=tuple(
            Change(
                id=str(change["id"]),
                at=from_iso(change["at"]),
                what=str(change["what"]),
                actor=str(change["actor"]),
                reason=str(change["reason"]),
            )
            for change in fields["history"]
        ),
    )


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _time(text: str | None) -> int | None:
    return None if text is None else from_iso(text)
