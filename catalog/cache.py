"""Local copies of ledger files that lie in S3, for questions; never for ``verify``.

Ledger files never change, so a copy is good for ever. It is taken for good when the listing still
shows the size and the etag that it was fetched with, and the copy still has the size, the
modification time and the inode that it was given; else its digest decides, and a copy that is
damaged is fetched again. The cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.errors import CatalogError
from catalog.files import FolderFiles, LedgerFiles, sequence_of

if TYPE_CHECKING:
    from catalog.s3_files import ListedFile, S3Files

logger = logging.getLogger(__name__)

FETCHERS = 8
_INDEX = "index.json"


def local_paths(files: LedgerFiles, root: Path | None = None) -> list[Path]:
    """Paths of all of a ledger's files, in order; those in S3 are fetched where they must be.

    root is where the cache is, by default ``$XDG_CACHE_HOME/tapelift/ledgers``. Raises
    CatalogError when the cache cannot be written, StoreError when the store does not answer.
    """
    if isinstance(files, FolderFiles):
        return [files.path.absolute() / n for n in files.names() if sequence_of(n) is not None]
    from catalog.s3_files import S3Files

    if not isinstance(files, S3Files):
        raise CatalogError(f"{files.uri} cannot be queried", hint="copy the ledger into a folder")
    folder = (root or default_root()) / cache_name(files)
    try:
        return _Cache(files, folder).filled()
    except OSError as exc:
        raise CatalogError(
            f"the cache {folder} cannot be used: {exc.strerror}",
            hint="free some space there, or set XDG_CACHE_HOME to another folder",
        ) from exc


def default_root() -> Path:
    """Where caches are. Source: XDG Base Directory Specification."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return home / "tapelift" / "ledgers"


def cache_name(files: S3Files) -> str:
    """The folder of one ledger in the cache: the same names at two endpoints are two ledgers."""
    where = f"{files.location.endpoint_url or 'aws'}\n{files.uri}"
    return hashlib.sha256(where.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class _Copy:
    """What is remembered of a copy: how S3 listed it, and what it was on disk."""

    size: int
    etag: str
    sha256: str
    mtime_ns: int
    inode: int


class _Cache:
    """The copies of one ledger's files. Several processes may fill it at once."""

    def __init__(self, files: S3Files, folder: Path) -> None:
        self._files = files
        self._folder = folder
        self._known: dict[str, _Copy] = {}

    def filled(self) -> list[Path]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._known = _read_index(self._folder / _INDEX)
        listed = [f for f in self._files.listing() if sequence_of(f.name) is not None]
        needed = [file for file in listed if not self._is_good(file)]
        if needed:
            with ThreadPoolExecutor(FETCHERS) as pool:
                fetched = pool.map(self._fetch, needed)
                self._known.update(zip((file.name for file in needed), fetched, strict=True))
        self._forget({file.name for file in listed})
        if needed:
            self._write(_INDEX, _index(self._known))
            logger.info("%s: %d of %d files fetched", self._files.uri, len(needed), len(listed))
        return [self._folder / file.name for file in listed]

    def _is_good(self, listed: ListedFile) -> bool:
        known = self._known.get(listed.name)
        if known is None or (known.size, known.etag) != (listed.size, listed.etag):
            return False
        path = self._folder / listed.name
        try:
            found = path.stat()
            if (found.st_size, found.st_mtime_ns, found.st_ino) == (
                known.size,
                known.mtime_ns,
                known.inode,
            ):
                return True
            return hashlib.sha256(path.read_bytes()).hexdigest() == known.sha256
        except FileNotFoundError:
            return False

    def _fetch(self, listed: ListedFile) -> _Copy:
        data = self._files.read(listed.name)
        if len(data) != listed.size:
            raise CatalogError(
                f"{listed.name} in {self._files.uri} changed from {listed.size} to {len(data)} "
                "bytes while it was read",
                hint=f"run: tapecatalog verify --ledger {self._files.uri}",
            )
        found = self._write(listed.name, data)
        return _Copy(
            size=len(data),
            etag=listed.etag,
            sha256=hashlib.sha256(data).hexdigest(),
            mtime_ns=found.st_mtime_ns,
            inode=found.st_ino,
        )

    def _write(self, name: str, data: bytes) -> os.stat_result:
        """Never half a file, whoever else writes the same one."""
        temporary = self._folder / f".{name}.{secrets.token_hex(8)}.tmp"
        try:
            temporary.write_bytes(data)
            found = temporary.stat()
            temporary.replace(self._folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        return found

    def _forget(self, names: set[str]) -> None:
        """Remove copies of files that the ledger does not have."""
        for name in set(self._known) - names:
            del self._known[name]
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()


def _index(known: dict[str, _Copy]) -> bytes:
    return json.dumps({name: asdict(copy) for name, copy in known.items()}).encode()


def _read_index(path: Path) -> dict[str, _Copy]:
    """What an index says; an index that cannot be understood is as none."""
    try:
        entries = json.loads(path.read_bytes())
        return {str(name): _Copy(**entry) for name, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as exc:
        logger.warning("the cache index %s is damaged and is made anew: %s", path, exc)
        return {}
