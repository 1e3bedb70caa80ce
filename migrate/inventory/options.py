"""What an operator may state about catalogue files that the files do not say themselves."""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from catalog.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Options of ``read_catalogs``.

    timezone is an IANA name for local times without a zone. encoding is for files that are
    neither marked by a byte order mark nor UTF-8. format is one of detect.FORMATS and skips
    detection. Wrong names raise ConfigError at once, before a file is opened.
    """

    timezone: str | None = None
    encoding: str | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        self.zone()
        if self.encoding is not None:
            _check_encoding(self.encoding)

    def zone(self) -> ZoneInfo | None:
        """The stated time zone, or None."""
        if self.timezone is None:
            return None
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ConfigError(
                f"--timezone {self.timezone!r} is not a known time zone",
                hint="use an IANA name such as Europe/Berlin or UTC",
            ) from exc


def _check_encoding(name: str) -> None:
    """Refuse names that Python does not know or that do not decode bytes to text (base64)."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name).close()
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError) as exc:
        raise ConfigError(
            f"--encoding {name!r} is not a known text encoding",
            hint="use a code page name such as cp1252, cp932 or utf-16",
        ) from exc
