"""The keys of encrypted images: one for each, wrapped by the pool's master key, in its own object.

Without that object nobody can read the image any more, whatever still lies in the bucket: so it is
never put under Object Lock, and destroying it is how one image is erased. Field by field:
docs/format.md, "Keys".
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from catalog.errors import (
    ConfigError,
    CorruptObject,
    ImageDamaged,
    ImageErased,
    ObjectNotFound,
    PoolError,
    StoreError,
)
from catalog.model import from_iso, iso
from connector.pool import names
from connector.pool.coding import KEY_BYTES, ClientKey, Coding
from connector.store.interface import ObjectStore, PutOptions

FORMAT = "tapelift-key/1"
CEILING = 65_536
OPTIONS = PutOptions(content_type="application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOf:
    """Whose key is meant: one attempt at one copy of an image."""

    name: str
    copy: int
    token: str

    @property
    def object(self) -> str:
        """The key object's own key in the bucket."""
        return names.image_key(self.name, self.copy, self.token)

    @property
    def tombstone(self) -> str:
        """The object that says that the key was destroyed, when and why."""
        return names.tombstone_key(self.name, self.copy, self.token)


def create(store: ObjectStore, coding: Coding, whose: KeyOf, *, clock: Callable[[], int]) -> bytes:
    """Make an image's key and store it wrapped; gives the key.

    Raises:
        ConfigError: the pool has no master key.
        StoreError: it could not be stored; nothing may be encrypted with it.
    """
    if coding.client_key is None:
        raise _no_master(whose, None, coding)
    key = secrets.token_bytes(KEY_BYTES)
    wrapped = _wrap(coding.client_key, whose, key, clock())
    store.put(whose.object, wrapped, OPTIONS, only_if_absent=True)
    return key


def load(store: ObjectStore, coding: Coding, whose: KeyOf) -> bytes:
    """An image's key.

    Raises:
        ImageErased: it was destroyed.
        ConfigError: it is wrapped by a master key that this pool was not given, or other bytes
            were given under its id.
        ImageDamaged: the key object is not one.
    """
    try:
        data = store.read(whose.object, ceiling=CEILING)
    except ObjectNotFound:
        raise erased(store, whose) from None
    except CorruptObject as exc:
        raise _damaged(whose, exc.message) from exc
    return _unwrap(coding, whose, data)


def rewrap(store: ObjectStore, coding: Coding, whose: KeyOf, *, clock: Callable[[], int]) -> bool:
    """Wrap an image's key by ``coding.client_key``; whether that was still to be done.

    The image's data stays as it is. The key as wrapped by the earlier master key is removed, all
    versions of it, so that destroying the earlier master key means something.

    Raises:
        ImageErased, ConfigError, ImageDamaged: as ``load``.
    """
    if coding.client_key is None:
        raise _no_master(whose, None, coding)
    try:
        data = store.read(whose.object, ceiling=CEILING)
    except ObjectNotFound:
        raise erased(store, whose) from None
    key = _unwrap(coding, whose, data)
    if _fields(whose, data)["master_key"] == coding.client_key.id:
        _remove_versions(store, whose.object, but=_only(store.stat(whose.object).version_id))
        return False
    wrapped = _wrap(coding.client_key, whose, key, clock())
    stored = store.put(whose.object, wrapped, OPTIONS)
    if read_tombstone(store, whose) is not None:  # it was erased meanwhile
        destroy(store, whose)
        raise erased(store, whose)
    if store.read(whose.object, ceiling=CEILING, version_id=stored.version_id) != wrapped:
        raise _damaged(whose, "what was put is not what is there")
    _remove_versions(store, whose.object, but=_only(stored.version_id))
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapped:
    """What became of the keys of a pool. left: image and why its key could not be wrapped anew."""

    done: int
    already: int
    left: tuple[tuple[KeyOf, str], ...]


def rewrap_all(store: ObjectStore, coding: Coding, *, clock: Callable[[], int]) -> Rewrapped:
    """Wrap every image's key by ``coding.client_key``; the data is not touched.

    Can be interrupted and repeated. When nothing is left, the earlier master keys open nothing.

    Raises:
        StoreError: the store is away.
    """
    done = already = 0
    left: list[tuple[KeyOf, str]] = []
    for stored in store.scan(f"{names.KEYS}/"):
        whose = names.parse_image_key(stored.key)
        if whose is None:
            continue
        found = KeyOf(name=whose[0], copy=whose[1], token=whose[2])
        try:
            if rewrap(store, coding, found, clock=clock):
                done += 1
            else:
                already += 1
        except ImageErased:
            continue
        except (ConfigError, ImageDamaged) as exc:
            left.append((found, str(exc)))
    return Rewrapped(done=done, already=already, left=tuple(left))


def destroy(store: ObjectStore, whose: KeyOf) -> int:
    """Remove every version of an image's key; gives how many there were. Safe to repeat.

    Raises:
        ObjectLocked: the bucket itself locks what is put into it.
        StoreError: something is still there.
    """
    removed = _remove_versions(store, whose.object, but=())
    left = [one for one in store.scan_versions(whose.object) if one.key == whose.object]
    if left:
        raise StoreError(
            f"{len(left)} versions of {whose.object} are still there",
            hint="erase again; somebody may have put it back",
        )
    return removed


def read_tombstone(store: ObjectStore, whose: KeyOf) -> dict[str, Any] | None:
    """When, by whom and why an image was erased: ``erased_at`` in ns, ``actor``, ``reason``,
    ``fact_id``. None when it was not."""
    try:
        told = json.loads(store.read(whose.tombstone, ceiling=CEILING))
        texts = {name: str(told[name]) for name in ("actor", "reason", "fact_id")}
        return texts | {"erased_at": from_iso(told["erased_at"])}
    except ObjectNotFound:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptObject(f"{whose.tombstone} is no record of an erasure ({exc})") from exc


def erased(store: ObjectStore, whose: KeyOf) -> PoolError:
    """The error for an image whose key is not there: what the bucket says of it."""
    image = f"image {whose.name!r} copy {whose.copy}"
    told = read_tombstone(store, whose)
    if told is None:
        return ImageErased(
            f"{image} cannot be read by anybody: its key {whose.object} is gone",
            hint="nothing in the bucket says why; look into the ledger, or use another copy",
        )
    return ImageErased(
        f"{image} was erased on {iso(told['erased_at'])} by {told['actor']}: {told['reason']}",
        hint="its key was destroyed; manifest and ledger still prove what it was",
    )


def _remove_versions(store: ObjectStore, key: str, *, but: tuple[str | None, ...]) -> int:
    """Remove what is kept under a key, hidden versions and delete markers too; gives how many."""
    removed = 0
    for version in list(store.scan_versions(key)):
        if version.key == key and version.version_id not in but:
            store.delete(key, version_id=version.version_id)
            removed += 1
    return removed


def _only(version_id: str | None) -> tuple[str | None, ...]:
    """The ids by which a version may be listed: without versions, none or ``null``."""
    return (None, "null") if version_id is None else (version_id,)


def _wrap(master: ClientKey, whose: KeyOf, key: bytes, now: int) -> bytes:
    nonce = secrets.token_bytes(12)
    wrapped = AESGCM(master.key).encrypt(nonce, key, _bound_to(whose, master.id))
    fields = {
        "format": FORMAT,
        "key_name": names.encode(whose.name),
        "copy": whose.copy,
        "token": whose.token,
        "master_key": master.id,
        "wrapping": "AES-256-GCM",
        "nonce": base64.b64encode(nonce).decode(),
        "wrapped": base64.b64encode(wrapped).decode(),
        "wrapped_at": iso(now),
    }
    return json.dumps(fields, ensure_ascii=False, indent=1).encode() + b"\n"


def _unwrap(coding: Coding, whose: KeyOf, data: bytes) -> bytes:
    fields = _fields(whose, data)
    key_id = fields["master_key"]
    master = coding.master_key(key_id)
    if master is None:
        raise _no_master(whose, key_id, coding)
    try:
        nonce = base64.b64decode(fields["nonce"], validate=True)
        wrapped = base64.b64decode(fields["wrapped"], validate=True)
        key = AESGCM(master.key).decrypt(nonce, wrapped, _bound_to(whose, key_id))
    except InvalidTag:
        raise ConfigError(
            f"the master key {key_id!r} that was given does not open image {whose.name!r}",
            hint=f"other bytes were named {key_id!r} when it was written, or {whose.object} was"
            " altered; nothing was decrypted",
        ) from None
    except ValueError as exc:
        raise _damaged(whose, str(exc)) from exc
    if len(key) != KEY_BYTES:
        raise _damaged(whose, f"a key of {len(key)} bytes")
    return key


def _bound_to(whose: KeyOf, key_id: str) -> bytes:
    return f"{FORMAT}/{whose.token}/{key_id}".encode()


def _fields(whose: KeyOf, data: bytes) -> dict[str, str]:
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise _damaged(whose, f"the format is {fields['format']!r}")
        return {name: str(fields[name]) for name in ("master_key", "nonce", "wrapped")}
    except (ValueError, KeyError, TypeError) as exc:
        raise _damaged(whose, f"{type(exc).__name__}: {exc}") from exc


def _no_master(whose: KeyOf, key_id: str | None, coding: Coding) -> ConfigError:
    if key_id is None:
        return ConfigError(
            f"image {whose.name!r} is to be encrypted, and the pool has no master key",
            hint="give the pool its client key",
        )
    given = [repr(key.id) for key in (coding.client_key, *coding.earlier_keys) if key]
    return ConfigError(
        f"image {whose.name!r} is encrypted under the master key {key_id!r}, and"
        f" {' and '.join(given) if given else 'no key'} was given",
        hint=f"give the pool the master key {key_id!r}",
    )


def _damaged(whose: KeyOf, why: str) -> ImageDamaged:
    return ImageDamaged(
        f"image {whose.name!r}: {whose.object} is not a key ({why})",
        hint="restore that object's earlier version; without it the image cannot be read",
    )
