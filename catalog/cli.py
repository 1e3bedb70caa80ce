"""The auditor's command: ``tapecatalog``. Parses, asks one thing, prints."""

from __future__ import annotations

import csv
import itertools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from catalog import console
from catalog.audit import Verdict, parse_expected, verify
from catalog.console import DebugOption, ExitCode, JsonOption, VerboseOption
from catalog.errors import ConfigError, ImageNotFound
from catalog.files import FolderFiles, LedgerFiles, open_files, sequence_of
from catalog.ledger import Ledger
from catalog.query import Query

if TYPE_CHECKING:
    from catalog.keys import Signer

NAME = "tapecatalog"

app = typer.Typer(
    name=NAME,
    rich_markup_mode=None,
    help="""Look into the ledger of everything that was moved off tape, and check it.

    The ledger is a folder of Parquet files, locally or in S3; nothing here ever changes them.
    Exit codes: 0 done, 2 wrong option, 3 the ledger is broken, 4 it cannot be read, 5 interrupted.
    """,
)

LedgerOption = Annotated[
    str,
    typer.Option(
        "--ledger", metavar="URI", help="Folder or s3://BUCKET/PREFIX of a ledger or its pool."
    ),
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="S3 endpoint, when it is not AWS."),
]


class State(StrEnum):
    """States of an image, as the view ``images`` gives them."""

    STORED = "stored"
    DAMAGED = "damaged"
    EXPIRED = "expired"
    ERASED = "erased"
    DELETED = "deleted"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNKNOWN = "unknown"


def main() -> NoReturn:
    """Entry point of the command."""
    console.run(app, NAME, codes={ImageNotFound: ExitCode.USAGE})


def _show_version(asked: bool) -> None:
    if asked:
        print(f"{NAME} {version('tapelift')}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: VerboseOption = 0,
    debug: DebugOption = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    console.set_up_logging(max(verbose, 2 if debug else 0))


# --- ls -------------------------------------------------------------------------------------

_LIST = """
SELECT * FROM images
WHERE (? IS NULL OR client GLOB ?) AND (? IS NULL OR policy GLOB ?) AND (? IS NULL OR state = ?)
ORDER BY backup_time, image, copy_number
"""


@app.command("ls")
def list_images(
    ledger: LedgerOption,
    client: Annotated[
        str | None, typer.Option(help="Only images of this client; * and ? stand for any.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Only images of this policy; * and ? stand for any.")
    ] = None,
    state: Annotated[
        State | None, typer.Option("--state", "--kind", help="Only images in this state.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 for all.")] = 100,
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """List images and their state, oldest backup first.

    Example: tapecatalog ls --ledger s3://backups/pool --client 'db*' --state failed
    """
    parameters = [value for value in (client, policy, state) for _ in range(2)]
    with Query(open_ledger(ledger, endpoint_url)) as query:
        answer = query.ask(_LIST, parameters).dicts()
        rows = list(itertools.islice(answer, limit or None))
        more = limit > 0 and next(answer, None) is not None
    if as_json:
        console.print_json(rows)
    else:
        _print_images(rows)
    if more:
        console.say(f"there are more than {limit}; see all with --limit 0")


def _print_images(rows: Sequence[Mapping[str, Any]]) -> None:
    console.print_table(
        ("image", "copy", "state", "client", "policy", "backup", "size", "class", "locked until",
         "expires", "hold", "tapes"),
        (
            (
                row["image"], row["copy_number"], row["state"], row["client"], row["policy"],
                row["backup_time"], console.size_text(row["size_bytes"]), row["storage_class"],
                row["lock_until"], _expiry(row), row["hold"], row["tapes"],
            )
            for row in rows
        ),
    )  # fmt: skip


def _expiry(row: Mapping[str, Any]) -> str | None:
    return "never" if row["expires_infinite"] else row["expires_at"]


# --- show -----------------------------------------------------------------------------------


@app.command()
def show(
    image: Annotated[str, typer.Argument(help="Name of the image, in full.")],
    ledger: LedgerOption,
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one image's chain of custody: from tape, drive and block to object and digest.

    Example: tapecatalog show client1_1717200000 --ledger s3://backups/pool
    """
    files = open_ledger(ledger, endpoint_url)
    with Query(files) as query:
        states = list(
            query.ask(
                "SELECT * FROM images WHERE image = ? ORDER BY pool, copy_number", [image]
            ).dicts()
        )
        facts = list(
            query.ask(
                "SELECT * FROM facts WHERE image = ? ORDER BY sequence, row_index", [image]
            ).dicts()
        )
    if not states:
        raise ImageNotFound(
            f"the ledger {files.uri} knows no image {image!r}",
            hint=f"list them: {NAME} ls --ledger {ledger} --limit 0",
        )
    if as_json:
        console.print_json({"images": states, "facts": facts})
        return
    for state in states:
        own = [fact for fact in facts if _is_about(fact, state)]
        _print_custody(state, own)


def _is_about(fact: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    return (fact["pool"], fact["copy_number"] or 1) == (state["pool"], state["copy_number"])


def _print_custody(state: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> None:
    locked = " until ".join(str(v) for v in (state["lock_mode"], state["lock_until"]) if v)
    client = [state[name] for name in ("product", "client", "policy", "schedule", "schedule_type")]
    size = state["size_bytes"]
    lines = {
        "image": state["image"],
        "copy": state["copy_number"],
        "state": " - ".join(v for v in (state["state"], state["reason"]) if v),
        "findings": ", ".join(state["problems"]),
        "backup": " / ".join(str(value) for value in client if value),
        "made": state["backup_time"],
        "expires": _expiry(state),
        "size": None if size is None else f"{size} bytes ({console.size_text(size)})",
        "sha256": state["sha256"],
        "pool": state["pool"],
        "manifest": state["manifest_key"],
        "class": state["storage_class"],
        "lock": locked,
        "legal hold": "yes" if state["hold"] else "no",
        "stored": state["stored_at"],
        "verified": state["verified_at"],
    }
    for label, value in lines.items():
        if value not in (None, ""):
            print(f"{label + ':':<12}{console.printable(str(value))}")
    _print_places(facts)
    _print_objects(state["fragments"])
    _print_history(facts)


def _print_places(facts: Sequence[Mapping[str, Any]]) -> None:
    places = next(
        (fact["places"] for fact in sorted(facts, key=_stored_last)[::-1] if fact["places"]), ()
    )
    if places:
        print("\nOn tape:")
        columns = ("media_id", "barcode", "fragment_number", "tape_file", "block_offset",
                   "size_bytes")  # fmt: skip
        _print_dicts(
            ("media", "barcode", "fragment", "tape file", "block", "bytes"), columns, places
        )


def _stored_last(fact: Mapping[str, Any]) -> tuple[bool, int, int]:
    return (fact["kind"] == State.STORED, fact["sequence"], fact["row_index"])


def _print_objects(fragments: Sequence[Mapping[str, Any]]) -> None:
    if fragments:
        print("\nObjects in the pool:")
        columns = ("key", "version_id", "size_bytes", "sha256", "crc64nvme")
        _print_dicts(("key", "version", "bytes", "sha256", "crc64nvme"), columns, fragments)


def _print_history(facts: Sequence[Mapping[str, Any]]) -> None:
    print("\nWhat happened, in order:")
    columns = ("recorded_at", "sequence", "kind", "actor", "writer", "drive", "reason")
    _print_dicts(("when", "commit", "what", "who", "by", "drive", "why"), columns, facts)
    print()


def _print_dicts(
    heads: Sequence[str], columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    console.print_table(heads, ([row[name] for name in columns] for row in rows))


# --- sql ------------------------------------------------------------------------------------


@app.command()
def sql(
    question: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT; - reads stdin.")],
    ledger: LedgerOption,
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
) -> None:
    """Ask the ledger in SQL. Tables: facts, images, tapes; see docs/ledger.md.

    Example: tapecatalog sql "SELECT state, COUNT(*) FROM images GROUP BY 1" --ledger ledger/
    """
    if as_json and as_csv:
        raise ConfigError("--json and --csv at once", hint="choose one")
    text = sys.stdin.read() if question == "-" else question
    with Query(open_ledger(ledger, endpoint_url)) as query:
        answer = query.ask(text)
        if as_csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(answer.columns)
            writer.writerows([_csv_cell(value) for value in row] for row in answer.rows())
        elif as_json:
            console.print_json(list(answer.dicts()))
        else:
            console.print_table(answer.columns, answer.rows())


def _csv_cell(value: Any) -> Any:
    if isinstance(value, (bool, dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return value


# --- verify ---------------------------------------------------------------------------------


CheckpointsOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoints", metavar="URI", help="Where its checkpoints are, when not in the ledger."
    ),
]


@app.command("verify")
def verify_chain(
    ledger: LedgerOption,
    expect: Annotated[
        str | None,
        typer.Option(metavar="DIGEST@NUMBER", help="A head that was noted before, as printed."),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Public key that signed the first checkpoint; may be repeated."
        ),
    ] = None,
    checkpoints: CheckpointsOption = None,
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk the chain of the ledger's files and name the first bad one; exits with 3 then.

    Example: tapecatalog verify --ledger s3://backups/pool/ledger --key ledger-key.pub
    """
    noted = parse_expected(expect) if expect else None
    verdict = verify(
        open_ledger(ledger, endpoint_url),
        checkpoints=open_files(checkpoints, endpoint_url) if checkpoints else None,
        trusted=_public_keys(key or ()),
        expect=noted,
    )
    if as_json:
        console.print_json({"ok": verdict.ok, **asdict(verdict)})
    else:
        _print_verdict(verdict)
    if not verdict.ok:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _public_keys(paths: Sequence[Path]) -> list[str]:
    if not paths:
        return []
    from catalog.keys import read_public_key  # the cryptography library takes a while to load

    return [read_public_key(path) for path in paths]


def _print_verdict(verdict: Verdict) -> None:
    sound = f"{verdict.files} files, {verdict.rows} rows, {console.size_text(verdict.bytes)}"
    if verdict.bad is None:
        print(f"sound: {verdict.uri}: {sound}")
    else:
        print(f"BROKEN: {verdict.uri}")
        print(f"first bad file: {console.printable(verdict.bad.name)}")
        print(f"why: it {console.printable(verdict.bad.why)}")
        print(f"linked before the break: {sound}")
    if verdict.head is not None:
        print(f"head: {verdict.head.sequence} {verdict.head.sha256}")
        print(f"to note elsewhere: {verdict.head.sha256}@{verdict.head.sequence}")
    if verdict.anchored is not None:
        print(f"anchored: up to {verdict.anchored}, by {verdict.checkpoints} checkpoints")
    if verdict.first_key is not None:
        print(f"first key: {verdict.first_key}")
    if verdict.cannot_see:
        print(f"note: {verdict.cannot_see}")


# --- anchor ---------------------------------------------------------------------------------


@app.command()
def anchor(
    ledger: LedgerOption,
    key_file: Annotated[
        Path | None, typer.Option(help="Private Ed25519 key that signs; PEM, mode 0600.")
    ] = None,
    key_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Program that signs its standard input, as a KMS client; needs --public-key.",
        ),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Public key of --key-command, in PEM.")
    ] = None,
    next_key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Public key that may sign from now on, instead; may be repeated."
        ),
    ] = None,
    lock_days: Annotated[
        int, typer.Option(min=0, max=36_500, help="Object Lock, COMPLIANCE, for so long; 0: none.")
    ] = 0,
    checkpoints: CheckpointsOption = None,
    endpoint_url: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the ledger's head in a checkpoint, and print it, to be noted elsewhere.

    Example: tapecatalog anchor --ledger s3://backups/pool --key-file key.pem --lock-days 3650
    """
    from catalog.anchor import Anchor, Anchoring

    files = open_ledger(ledger, endpoint_url)
    how = Anchoring(
        signer=_signer(key_file, key_command, public_key),
        place=open_files(checkpoints, endpoint_url) if checkpoints else None,
        lock_days=lock_days,
    )
    head = Ledger(files).head()
    writer = Anchor(files, how)
    last = writer.write(head)
    if next_key:
        last = writer.hand_over(_public_keys(next_key))
    told = {
        "uri": files.uri,
        "checkpoint": last.name if last else None,
        "head": f"{head.sha256}@{head.sequence}" if head else None,
    }
    if as_json:
        console.print_json(told)
    else:
        print(f"checkpoint: {told['checkpoint'] or 'none was needed'}")
        print(f"to note elsewhere: {told['head'] or 'nothing, the ledger is empty'}")


def _signer(key_file: Path | None, key_command: str | None, public_key: Path | None) -> Signer:
    from catalog.keys import CommandKey, FileKey, read_public_key

    if key_file is not None and key_command is None and public_key is None:
        return FileKey(key_file)
    if key_file is None and key_command is not None and public_key is not None:
        try:
            words = shlex.split(key_command)
        except ValueError as exc:
            raise ConfigError(f"--key-command: {exc}", hint="close its quotation marks") from exc
        return CommandKey(words, read_public_key(public_key))
    raise ConfigError(
        "it is not clear what signs", hint="give --key-file, or --key-command and --public-key"
    )


# --- finding the ledger ---------------------------------------------------------------------


def open_ledger(uri: str, endpoint_url: str | None = None) -> LedgerFiles:
    """The ledger at a URI, or in the pool at that URI, which is then said on stderr.

    A folder that is there and empty, and the place of a ledger in a pool that has none yet, are
    empty ledgers. Raises ConfigError when there is neither.
    """
    files = open_files(uri, endpoint_url)
    names = list(itertools.islice(files.names(), 1000))
    if any(sequence_of(name) is not None for name in names):
        return files
    if "ledger/" in names or "pool.json" in names:
        inside = open_files(f"{uri.rstrip('/')}/ledger", endpoint_url)
        console.say(f"{uri} is a pool; reading its ledger {inside.uri}")
        return inside
    if isinstance(files, FolderFiles) and files.path.is_dir() and not names:
        return files
    parent, _, last = uri.rstrip("/").rpartition("/")
    if last == "ledger" and "pool.json" in open_files(parent or "/", endpoint_url).names():
        return files
    raise ConfigError(
        f"there is no ledger at {uri}",
        hint="give the pool, or the folder that holds 00000000000000000000.parquet",
    )
