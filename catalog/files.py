"""Where the ledger's files are: a folder, a prefix in S3, or memory.

A place can list, read, and create a file that was not there; nothing else, because a ledger file
never changes. Every place passes ``tests/conformance/ledger_files.py``. What is in the files is
not known here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from catalog.errors import (
    CatalogError,
    CommitConflict,
    ConfigError,
    ObjectNotFound,
)

if TYPE_CHECKING:
    from catalog.s3 import S3Limits

SUFFIX = ".parquet"
MAX_SEQUENCE = 2**63 - 1  # the column's type; a name has room for more
MAX_FILE_BYTES = 256 * 1024 * 1024  # a reader holds one file in memory
_NAME = re.compile(r"(\d{20})\.parquet")
_STALE_S = 86_400.0


def name_of(sequence: int) -> str:
    """The file name of a commit, ``00000000000000000042.parquet``."""
    return f"{sequence:020d}{SUFFIX}"


def sequence_of(name: str) -> int | None:
    """The number in a ledger file's name; None when it is not such a name."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) > MAX_SEQUENCE:
        return None
    return int(match[1])


def is_aside(name: str) -> bool:
    """Whether a name is one that every reader of Parquet folders passes over.

    pyarrow, pandas, Athena and Trino skip names that begin with a dot or an underscore; a glob
    of ``*.parquet`` does not, so such a name is no exception when it ends like a ledger file.
    """
    return name.startswith((".", "_")) and not name.endswith(SUFFIX)


class LedgerFiles(Protocol):
    """A place for the files of one ledger.

    Promises, checked by the conformance suite:

    - A file is there whole or not at all, and never changes.
    - Of several writers that create one name at once, one succeeds.
    - What create() returned from survives a power cut, as far as the place does.
    - Calls may come from several threads at once.
    - Only CatalogError, StoreError and their children leave it.
    """

    @property
    def uri(self) -> str:
        """Where it is: a path, ``s3://BUCKET/PREFIX`` or ``memory:``; holds no secret."""
        ...

    def names(self, after: str = "") -> Iterator[str]:
        """Names of the files directly in the place that sort behind ``after``, ascending.

        Strange names are listed too, and folders with a slash at the end; what ``is_aside`` is
        not. A folder or prefix that does not exist is empty.
        """
        ...

    def read(self, name: str) -> bytes:
        """A file whole. ObjectNotFound; CatalogError when larger than MAX_FILE_BYTES."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """Create a file; success too when it is there with these very bytes.

        Raises:
            CommitConflict: it is there with other bytes.
            CommitUnknown: the answer was lost, and the place does not answer now. The same call
                may be made again at any time; it settles it.
        """
        ...

    def below(self, folder: str) -> LedgerFiles:
        """The folder of that name in this place, as a place of its own; it need not exist yet."""
        ...


def open_files(
    uri: str, endpoint_url: str | None = None, limits: S3Limits | None = None
) -> LedgerFiles:
    """The place that a URI names: ``s3://BUCKET/PREFIX``, ``file:///PATH`` or a path.

    limits are for S3. Raises ConfigError for any other scheme. Nothing is read or created yet.
    """
    if uri.startswith("s3://"):
        # boto3 takes half a second to load; a folder needs none of it.
        from catalog.s3 import parse_uri
        from catalog.s3_files import S3Files

        return S3Files(parse_uri(uri, endpoint_url), limits)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise ConfigError(
            f"a ledger cannot be at {uri!r}", hint="write s3://BUCKET/PREFIX or a folder's path"
        )
    path = rest if separator else uri
    if not path:
        raise ConfigError("an empty ledger URI", hint="write s3://BUCKET/PREFIX or a folder's path")
    return FolderFiles(Path(path))


def check_size(name: str, size: int) -> None:
    """Refuse a file that is too large to be held in memory; CatalogError."""
    if size > MAX_FILE_BYTES:
        raise CatalogError(
            f"{name} has {size} bytes, a ledger file has at most {MAX_FILE_BYTES}",
            hint="see whether a foreign file was put into the ledger",
        )


def taken(name: str, uri: str) -> CommitConflict:
    """The error of a create that came second."""
    return CommitConflict(f"{name} in {uri} was written by somebody else")


# --- memory ---------------------------------------------------------------------------------


class MemoryFiles:
    """A ledger that is gone with the process; for tests."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._below: dict[str, MemoryFiles] = {}
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        """``memory:``."""
        return "memory:"

    def names(self, after: str = "") -> Iterator[str]:
        """See LedgerFiles."""
        with self._lock:
            return iter(sorted(n for n in self._files if n > after and not is_aside(n)))

    def read(self, name: str) -> bytes:
        """See LedgerFiles."""
        with self._lock:
            data = self._files.get(name)
        if data is None:
            raise ObjectNotFound(f"no {name} in {self.uri}")
        check_size(name, len(data))
        return data

    def create(self, name: str, data: bytes) -> None:
        """See LedgerFiles."""
        with self._lock:
            if self._files.setdefault(name, data) != data:
                raise taken(name, self.uri)

    def below(self, folder: str) -> MemoryFiles:
        """See LedgerFiles."""
        with self._lock:
            return self._below.setdefault(folder, MemoryFiles())


# --- a folder -------------------------------------------------------------------------------


class FolderFiles:
    """A ledger in a local folder, made at the first create.

    A file is written under a hidden name, forced to disk, and then linked to its own name: link(2)
    fails when the name exists, and never shows half a file. The file system must know hard links.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._swept = False

    @property
    def uri(self) -> str:
        """The folder's path."""
        return str(self.path)

    def names(self, after: str = "") -> Iterator[str]:
        """See LedgerFiles."""
        try:
            with os.scandir(self.path) as entries:
                found = [e.name + "/" if e.is_dir() else e.name for e in entries]
        except FileNotFoundError:
            found = []
        except OSError as exc:
            raise self._failed("list", exc) from exc
        return iter(sorted(name for name in found if name > after and not is_aside(name)))

    def read(self, name: str) -> bytes:
        """See LedgerFiles."""
        try:
            with (self.path / name).open("rb") as file:
                check_size(name, os.fstat(file.fileno()).st_size)
                return file.read()
        except FileNotFoundError as exc:
            raise ObjectNotFound(f"no {name} in {self.uri}") from exc
        except OSError as exc:
            raise self._failed(f"read {name} in", exc) from exc

    def create(self, name: str, data: bytes) -> None:
        """See LedgerFiles."""
        try:
            self._make_folder()
            temporary = self.path / f".{name}.{secrets.token_hex(8)}.tmp"
            try:
                _write_durably(temporary, data)
                os.link(temporary, self.path / name)
            except FileExistsError:
                if self.read(name) != data:
                    raise taken(name, self.uri) from None
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(self.path)
        except OSError as exc:
            raise self._failed(f"write {name} in", exc) from exc

    def below(self, folder: str) -> FolderFiles:
        """See LedgerFiles."""
        return FolderFiles(self.path / folder)

    def _make_folder(self) -> None:
        if not self.path.is_dir():
            self.path.mkdir(parents=True, exist_ok=True)
            _sync_folder(self.path.parent)
        if not self._swept:
            self._swept = True
            self._sweep()

    def _sweep(self) -> None:
        """Remove what writers left that died between their first byte and their last, days ago."""
        for leftover in self.path.glob(".[0-9]*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _STALE_S:
                    leftover.unlink()

    def _failed(self, what: str, exc: OSError) -> CatalogError:
        if exc.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            hint = "the file system must support hard links; put the ledger on another one"
        elif exc.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space and run the same command again"
        else:
            hint = "check the path and its permissions"
        return CatalogError(f"cannot {what} the ledger {self.uri}: {exc.strerror}", hint=hint)


def _write_durably(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
