"""Image names and object keys: every name maps to one key and back, exactly.

A name is opaque bytes, given as ``str`` with ``surrogateescape`` for what is not UTF-8. Nothing is
normalised. Source: docs/format.md, "Names".
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from catalog.errors import NameInvalid

MAX_KEY = 1024
"""Longest object key, in bytes. Source: S3 user guide, "Object key names"."""

IMAGES = "images"
POOL_FILE = "pool.json"
MANIFEST = "manifest.json"
LEDGER = "ledger"
KEYS = "keys"
ERASED = "erased"

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_LONGEST_TAIL = len("/4294967295/") + len("0123456789abcdef-00000")
_KEY_OBJECT = re.compile(rf"{KEYS}/([^/]+)/([1-9][0-9]*)/([0-9a-f]{{16}})\.json")
_ENCODED = re.compile(r"(?:[A-Za-z0-9\-_.]|%[0-9A-F]{2})+")


def encode(name: str) -> str:
    """Write an image name as one path element of an object key.

    Letters, digits, ``-``, ``_`` and ``.`` stay; every other byte becomes ``%XX``. A leading dot is
    encoded, so that no name is ``.`` or ``..``.

    Raises:
        NameInvalid: the name is empty.
    """
    raw = name.encode("utf-8", "surrogateescape")
    if not raw:
        raise NameInvalid("an image name cannot be empty", hint="give every image a name")
    text = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)
    return "%2E" + text[1:] if text.startswith(".") else text


def decode(element: str) -> str:
    """Read a path element that ``encode`` wrote.

    Raises:
        NameInvalid: this is not how we write any name, so it is not ours.
    """
    if _ENCODED.fullmatch(element):
        name = unquote_to_bytes(element).decode("utf-8", "surrogateescape")
        if encode(name) == element:
            return name
    raise NameInvalid(f"{element!r} is not an encoded image name")


def image_folder(name: str, copy: int, *, prefix_length: int = 0) -> str:
    """The key prefix of one copy of an image, without a trailing slash.

    prefix_length is the length in bytes of what stands before it in the bucket.

    Raises:
        NameInvalid: the longest key of the image would pass 1,024 bytes.
    """
    folder = f"{IMAGES}/{encode(name)}"
    if prefix_length + len(folder) + _LONGEST_TAIL > MAX_KEY:
        raise NameInvalid(
            f"the image name {name[:60]!r}... needs {len(folder)} bytes as a key",
            hint=f"S3 keys end at {MAX_KEY} bytes: use a shorter name or a shorter pool prefix",
        )
    return f"{folder}/{copy}"


def fragment_key(name: str, copy: int, token: str, number: int) -> str:
    """The key of a fragment. number counts from 0 here, as in the file's name."""
    return f"{image_folder(name, copy)}/{token}-{number:05d}"


def manifest_key(name: str, copy: int) -> str:
    """The key of a copy's manifest, its only commit point."""
    return f"{image_folder(name, copy)}/{MANIFEST}"


def image_key(name: str, copy: int, token: str) -> str:
    """The key of the object that holds an encrypted image's key. Never longer than a fragment's."""
    return f"{KEYS}/{encode(name)}/{copy}/{token}.json"


def tombstone_key(name: str, copy: int, token: str) -> str:
    """The key of the object that says that an image was erased."""
    return f"{ERASED}/{encode(name)}/{copy}/{token}.json"


def parse_image_key(key: str) -> tuple[str, int, str] | None:
    """Name, copy and token of a key that ``image_key`` wrote; None for any other."""
    found = _KEY_OBJECT.fullmatch(key)
    if found is None:
        return None
    try:
        return decode(found[1]), int(found[2]), found[3]
    except NameInvalid:
        return None
