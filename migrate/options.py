"""The options of ``tapemigrate``: their names, their help, and settings made from them.

Names are fixed, because people script them. A TOML file gives defaults: keys are the options'
names, at the top for every command, in a table for one.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import ConfigError
from catalog.model import LockMode, from_iso
from connector.pool.classes import ClassPolicy
from connector.pool.config import MIB, PoolConfig
from connector.pool.prices import Prices
from connector.store.s3_encryption import Encryption, EncryptionKind
from migrate.formats.registry import load_demultiplexer
from migrate.inventory.options import ImportOptions
from migrate.settings import Migration
from migrate.source.shelf import Shelf

CONFIG_FILE = Path("tapelift.toml")
WORKDIR = Path("tapelift-work")

Catalog = Annotated[
    list[Path] | None,
    typer.Option(
        "--catalog",
        metavar="PATH",
        help="A catalogue export; repeat it for more, tape lists included.",
    ),
]
Tapes = Annotated[
    Path | None,
    typer.Option(
        "--tapes", metavar="DIR", help="A shelf: each entry is a cartridge named by its barcode."
    ),
]
Drive = Annotated[
    list[str] | None,
    typer.Option("--drive", metavar="DEVICE", help="A tape drive: not in this version."),
]
Drives = Annotated[
    int, typer.Option("--drives", min=1, max=64, help="Cartridges of the shelf read at once.")
]
To = Annotated[
    str | None, typer.Option("--to", metavar="s3://BUCKET/PREFIX", help="The pool to write to.")
]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="S3 endpoint, when it is not AWS."),
]
Workdir = Annotated[
    Path, typer.Option("--workdir", metavar="DIR", help="Where the run keeps what it must know.")
]
Class = Annotated[
    str,
    typer.Option(
        "--class", metavar="CLASS|auto", help="Storage class of the images, or the cheapest one."
    ),
]
Lock = Annotated[
    str,
    typer.Option(
        "--lock", metavar="none|governance|compliance", help="Object Lock until an image expires."
    ),
]
LedgerUri = Annotated[
    str | None,
    typer.Option("--ledger", metavar="URI", help="Where the ledger is; in the pool by default."),
]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="TIME", help="The moment that decides what has expired (UTC)."),
]
Timezone = Annotated[
    str | None,
    typer.Option("--timezone", metavar="NAME", help="Zone of local times in the catalogue."),
]
Encoding = Annotated[
    str | None, typer.Option("--encoding", help="Code page of a catalogue that is not Unicode.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="The catalogue's format, instead of looking.")
]
PriceFile = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE", help="A price table of your own.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Restores = Annotated[
    float,
    typer.Option("--expected-restores", min=0, help="How often each image will be read (auto)."),
]
MaxWait = Annotated[
    float,
    typer.Option("--max-wait-hours", min=0, help="How long a restore may wait (auto)."),
]
Unlabelled = Annotated[
    bool,
    typer.Option("--allow-unlabelled", help="Read tapes that carry no label to be compared."),
]
Demux = Annotated[
    str | None,
    typer.Option("--demultiplexer", metavar="MODULE:NAME", help="Takes multiplexed files apart."),
]
Buffer = Annotated[
    int, typer.Option("--buffer-mib", min=8, help="Read-ahead of each drive, in MiB.")
]
LockInfinite = Annotated[
    int,
    typer.Option("--lock-infinite-days", min=1, help="First lock of images that never expire."),
]
Deadline = Annotated[
    float,
    typer.Option(
        "--s3-deadline",
        metavar="SECONDS",
        min=1,
        help="How long one call to S3 may take, repetitions included.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option("--rate-mb", min=0.1, help="What the way to S3 takes, in MB/s (for the plan)."),
]
EncryptionKindOption = Annotated[
    EncryptionKind,
    typer.Option(
        "--encryption", help="How the store encrypts the images; none: as the bucket does."
    ),
]
KmsKey = Annotated[str | None, typer.Option("--kms-key-id", metavar="ID", help="Key of sse-kms.")]
CustomerKey = Annotated[
    Path | None,
    typer.Option(
        "--customer-key-file",
        metavar="FILE",
        help="Key of sse-c: 32 bytes. Without it nothing can be read again.",
    ),
]
PartMib = Annotated[int, typer.Option("--part-mib", help="Size of upload parts, in MiB.")]
FragmentMib = Annotated[
    int, typer.Option("--fragment-mib", help="Largest object in the pool, in MiB.")
]


def import_options(
    timezone: str | None, encoding: str | None, format_name: str | None
) -> ImportOptions:
    """Options of the catalogue readers."""
    return ImportOptions(timezone=timezone, encoding=encoding, format=format_name)


def required(value: Any, option: str) -> Any:
    """The value of an option that has no default.

    Raises:
        ConfigError: it was not given.
    """
    if not value:
        raise ConfigError(f"{option} is missing", hint=f"give it, or set it in {CONFIG_FILE}")
    return value


def moment(text: str | None) -> int | None:
    """A time given as ISO 8601; without a zone it is UTC."""
    if text is None:
        return None
    try:
        return from_iso(text)
    except ValueError:
        raise ConfigError(
            f"--as-of {text!r} is not a time", hint="write 2024-06-01 or 2024-06-01T00:00:00Z"
        ) from None


def lock_mode(text: str) -> LockMode:
    """A lock mode by its name in any case."""
    try:
        return LockMode(text.upper())
    except ValueError:
        raise ConfigError(
            f"--lock {text!r} is not known", hint="use none, governance or compliance"
        ) from None


def encryption(kind: EncryptionKind, kms_key_id: str | None, key_file: Path | None) -> Encryption:
    """How the store encrypts. The key of sse-c comes from a file, never from the command line.

    Raises:
        ConfigError: the key is missing, unreadable, or for another kind.
    """
    key: bytes | None = None
    if key_file is not None:
        try:
            with key_file.open("rb") as stream:
                key = stream.read(33)
        except OSError as exc:
            raise ConfigError(
                f"cannot read {key_file}: {exc.strerror}", hint="check --customer-key-file"
            ) from exc
    return Encryption(kind=kind, kms_key_id=kms_key_id, customer_key=key)


def reading(key_file: Path | None) -> Encryption:
    """What reading needs: the key of sse-c; the store knows all other keys itself."""
    kind = EncryptionKind.SSE_C if key_file else EncryptionKind.NONE
    return encryption(kind, None, key_file)


def shelf(tapes: Path | None, drives: list[str] | None) -> Shelf:
    """Where the tapes are."""
    if drives:
        raise ConfigError(
            "tape drives are not read by this version",
            hint="use --tapes with virtual tapes or folders of tape files",
        )
    return Shelf(required(tapes, "--tapes"))


def migration(
    *,
    catalog: list[Path] | None,
    tapes: Path | None,
    drive: list[str] | None,
    drives: int,
    to: str | None,
    endpoint_url: str | None,
    workdir: Path,
    class_name: str,
    lock: str,
    ledger: str | None,
    as_of: str | None,
    options: ImportOptions,
    prices: Path | None,
    expected_restores: float,
    max_wait_hours: float,
    lock_infinite_days: int,
    allow_unlabelled: bool,
    demultiplexer: str | None,
    buffer_mib: int,
    rate_mb: float | None,
    part_mib: int,
    fragment_mib: int,
    encrypted: Encryption | None = None,
    s3_deadline: float = 600.0,
    destination: bool = True,
) -> Migration:
    """Settings from options, every one of them checked.

    destination: whether this is more than a plan, so that --to and --tapes are needed.
    """
    pool = str(required(to, "--to")).rstrip("/") if destination or to else "s3://unset"
    return Migration(
        catalogs=tuple(required(catalog, "--catalog")),
        options=options,
        shelf=shelf(tapes, drive) if destination or tapes or drive else None,
        drives=drives,
        to=pool,
        endpoint_url=endpoint_url,
        workdir=workdir,
        ledger=ledger or f"{pool}/ledger",
        policy=ClassPolicy.parse(
            class_name, expected_restores=expected_restores, max_wait_hours=max_wait_hours
        ),
        prices=Prices.load(prices),
        lock=lock_mode(lock),
        lock_infinite_days=lock_infinite_days,
        as_of=moment(as_of),
        config=PoolConfig(part_size=part_mib * MIB, fragment_size=fragment_mib * MIB),
        buffer_bytes=buffer_mib * MIB,
        allow_unlabelled=allow_unlabelled,
        demultiplexer=load_demultiplexer(demultiplexer) if demultiplexer else None,
        rate=rate_mb * 1_000_000 if rate_mb else None,
        s3_deadline_s=s3_deadline,
        encryption=encrypted or Encryption(),
    )


def defaults_from(path: Path | None, commands: dict[str, set[str]]) -> dict[str, dict[str, Any]]:
    """Defaults for each command from a TOML file.

    commands: each command's parameters. path None is ``tapelift.toml`` here, if there is one.

    Raises:
        ConfigError: the file cannot be read, or has a key that no command knows.
    """
    if path is None:
        if not CONFIG_FILE.is_file():
            return {}
        path = CONFIG_FILE
    try:
        table = tomllib.loads(path.read_text())
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", hint="check --config") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not TOML: {exc}") from exc
    known = set().union(*commands.values())
    found: dict[str, dict[str, Any]] = {name: {} for name in commands}
    for key, value in table.items():
        if key in commands and isinstance(value, dict):
            for inner, inner_value in value.items():
                _check_key(path, f"{key}.{inner}", _parameter(inner), commands[key])
                found[key][_parameter(inner)] = inner_value
            continue
        _check_key(path, key, _parameter(key), known)
        for name, parameters in commands.items():
            if _parameter(key) in parameters:
                found[name].setdefault(_parameter(key), value)
    return found


def _parameter(key: str) -> str:
    name = key.replace("-", "_")
    return {"class": "class_name", "json": "as_json", "format": "format_name"}.get(name, name)


def _check_key(path: Path, key: str, parameter: str, known: set[str]) -> None:
    if parameter not in known:
        raise ConfigError(
            f"{path}: there is no option {key!r}", hint="see tapemigrate COMMAND --help"
        )
