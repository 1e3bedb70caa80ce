"""The keys of encrypted images: one for each, wrapped by the pool's master key, in its own object.

Without that object nobody can read the image any more, whatever still lies in the bucket: so it is
never put under Object Lock, and destroying it is how one image is erased. Field by field:
docs/format.md, "Keys".
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
from catalog.model import iso
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

    The image's data stays as it is. The key wrapped by the earlier master key is removed, all
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
    if _fields(whose, data)["master_key"] == coding.client_key.id:
        _unwrap(coding, whose, data)
        _remove_versions(store, whose.object, but=_only(store.stat(whose.object).version_id))
        return False
    key = _unwrap(coding, whose, data)
    wrapped = _wrap(coding.client_key, whose, key, clock())
    stored = store.put(whose.object, wrapped, OPTIONS)
    if store.read(whose.object, ceiling=CEILING, version_id=stored.version_id) != wrapped:
        raise _damaged(whose, "another writer has put one at the same time")
    _remove_versions(store, whose.object, but=_only(stored.version_id))
    return True


def destroy(store: ObjectStore, whose: KeyOf) -> None:
    """Remove every version of an image's key; done already is success.

    Raises:
        ObjectLocked: the bucket itself locks what is put into it.
        StoreError: it could not be settled that nothing is left.
    """
    _remove_versions(store, whose.object, but=())
    left = [one for one in store.scan_versions(whose.object) if one.key == whose.object]
    if left:
        raise StoreError(
            f"{len(left)} versions of {whose.object} are still there",
            hint="erase again; somebody may have put it back",
        )


def erased(store: ObjectStore, whose: KeyOf) -> PoolError:
    """The error for an image whose key is not there: what the bucket says of it."""
    image = f"image {whose.name!r} copy {whose.copy}"
    try:
        told = json.loads(store.read(whose.tombstone, ceiling=CEILING))
        return ImageErased(
            f"{image} was erased at {told['erased_at']} by {told['actor']}: {told['reason']}",
            hint="its key was destroyed; manifest and ledger still prove what it was",
        )
    except (ObjectNotFound, ValueError, KeyError, TypeError):
        return ImageErased(
            f"{image} cannot be read for ever: its key {whose.object} is gone",
            hint="nothing in the bucket says why; look into the ledger, or use another copy",
        )


def key_ids(store: ObjectStore) -> Iterator[tuple[KeyOf, str]]:
    """Every key object of a pool, and the id of the master key that wraps it."""
    for stored in store.scan(f"{names.KEYS}/"):
        whose = names.parse_image_key(stored.key)
        if whose is not None:
            name, copy, token = whose
            found = KeyOf(name=name, copy=copy, token=token)
            data = store.read(stored.key, ceiling=CEILING)
            yield found, str(_fields(found, data)["master_key"])


def _remove_versions(store: ObjectStore, key: str, *, but: tuple[str | None, ...]) -> None:
    """Remove what is kept under a key, hidden versions and delete markers too."""
    for version in list(store.scan_versions(key)):
        if version.key == key and version.version_id not in but:
            store.delete(key, version_id=version.version_id)


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
