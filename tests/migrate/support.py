"""Tape sets to migrate, the command as a user calls it, and a bucket as docs/format.md reads it.

Nothing here uses the pool to look at what the pool wrote: keys, manifests and bytes are read with
boto3 and hashlib, by the words of docs/format.md alone.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from catalog.ledger import Ledger
from catalog.model import Fact
from catalog.s3 import S3Location, make_client
from migrate import cli
from tests.source.tapes import END, MARK, Item, tap

FIXTURES = Path(__file__).parents[1] / "fixtures"
NBU = FIXTURES / "tapes" / "nbu"
GNUTAR = FIXTURES / "tapes" / "gnutar"
CATALOGS = FIXTURES / "catalogs" / "netbackup"
SYNTHMPX = "tests.plugins.synthmpx:SynthMpx"
MPX_FILE = "NBU001-file-00005"
INSIDE_MPX = ("gamma_1690000300", "delta_1690000301", "eps_1690000302")

BLOCK = 65_536
MIB = 1024 * 1024


# --- the command ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class _Stdout(io.TextIOWrapper):
    """Standard output that can be asked for bytes as well as for text."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def taken(self) -> bytes:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue()


def tapemigrate(*words: str | Path) -> Ended:
    """Run the command's own ``main`` in this process; ``out`` is what it printed."""
    ended, _ = tapemigrate_bytes(*words)
    return ended


def tapemigrate_bytes(*words: str | Path) -> tuple[Ended, bytes]:
    """As ``tapemigrate``, with standard output as bytes too."""
    out, err = _Stdout(), io.StringIO()
    root = logging.getLogger()
    handlers, level, argv = list(root.handlers), root.level, sys.argv
    sys.argv = ["tapemigrate", *map(str, words)]
    code: Any = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as exc:
                code = exc.code
    finally:
        sys.argv = argv
        root.handlers, root.level = handlers, level
    data = out.taken()
    return Ended(int(code or 0), data.decode("utf-8", "replace"), err.getvalue()), data


def run_words(
    catalog: Path | Sequence[Path], tapes: Path, to: S3Location, workdir: Path, *more: str | Path
) -> list[str]:
    """The words of ``tapemigrate run``; more options follow."""
    catalogs = [catalog] if isinstance(catalog, Path) else catalog
    words: list[str | Path] = ["run"]
    for path in catalogs:
        words += ["--catalog", path]
    words += ["--tapes", tapes, "--to", to.uri, "--endpoint-url", to.endpoint_url or ""]
    return [str(word) for word in [*words, "--workdir", workdir, "--json", *more]]


def assert_clean_failure(ended: Ended, code: int) -> None:
    """An expected failure: its code, one line that says what to do, and no traceback."""
    assert ended.code == code, ended
    assert "Traceback" not in ended.err, ended.err
    assert "unexpected" not in ended.err, ended.err


# --- a bucket, read without us ------------------------------------------------------------------


@dataclass
class Bucket:
    """What lies in a pool, by docs/format.md."""

    location: S3Location
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = make_client(self.location)

    def keys(self, below: str = "") -> list[str]:
        """All keys below a prefix of the pool, relative to the pool."""
        prefix = self.location.key(below)
        found: list[str] = []
        for page in self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.location.bucket, Prefix=prefix
        ):
            found += [item["Key"] for item in page.get("Contents", [])]
        cut = f"{self.location.prefix}/" if self.location.prefix else ""
        return sorted(key.removeprefix(cut) for key in found)

    def get(self, key: str, version_id: str | None = None) -> bytes:
        """An object's bytes."""
        which = {"VersionId": version_id} if version_id else {}
        answer = self.client.get_object(
            Bucket=self.location.bucket, Key=self.location.key(key), **which
        )
        return bytes(answer["Body"].read())

    def head(self, key: str, version_id: str | None = None) -> Any:
        """An object's facts."""
        which = {"VersionId": version_id} if version_id else {}
        return self.client.head_object(
            Bucket=self.location.bucket, Key=self.location.key(key), **which
        )

    def manifest(self, name: str) -> dict[str, Any]:
        """An image's manifest."""
        key = f"images/{quote(name, safe='-_.')}/1/manifest.json"
        found: dict[str, Any] = json.loads(self.get(key))
        return found

    def manifests(self) -> dict[str, dict[str, Any]]:
        """The manifests of all complete images."""
        keys = (key for key in self.keys("images/") if key.endswith("/manifest.json"))
        found = (json.loads(self.get(key)) for key in keys)
        return {manifest["name"]: manifest for manifest in found}

    def names(self) -> list[str]:
        """Names of all complete images."""
        return list(self.manifests())

    def image(self, name: str) -> bytes:
        """An image's bytes: its fragments, joined; each is compared with its own digest."""
        return self.read(self.manifest(name))

    def read(self, manifest: dict[str, Any]) -> bytes:
        """The bytes that a manifest tells of."""
        out = bytearray()
        for part in manifest["fragments"]:
            data = self.get(part["key"], part["version_id"])
            assert hashlib.sha256(data).hexdigest() == part["sha256"], part["key"]
            assert len(data) == part["size"]
            out += data
        return bytes(out)

    def sha256s(self) -> dict[str, str]:
        """The digest of every image that has bytes of its own; the manifest must say the same."""
        found: dict[str, str] = {}
        for name, manifest in self.manifests().items():
            if not manifest["within"]:
                digest = hashlib.sha256(self.read(manifest)).hexdigest()
                assert manifest["sha256"] == digest
                found[name] = digest
        return found

    def uploads(self) -> list[str]:
        """Keys of multipart uploads that were neither completed nor aborted."""
        answer = self.client.list_multipart_uploads(Bucket=self.location.bucket)
        return [item["Key"] for item in answer.get("Uploads", [])]

    def orphans(self) -> list[str]:
        """Objects below images/ that no manifest names."""
        named = set()
        for manifest in self.manifests().values():
            folder = f"images/{manifest['key_name']}/{manifest['copy']}"
            named |= {part["key"] for part in manifest["fragments"]} | {f"{folder}/manifest.json"}
        return [key for key in self.keys("images/") if key not in named]

    def facts(self, uri: str | None = None) -> list[Fact]:
        """The ledger's rows in order."""
        uri = uri or f"{self.location.uri}/ledger"
        return list(Ledger.open(uri, endpoint_url=self.location.endpoint_url).facts())

    def kinds(self) -> dict[tuple[str, str], int]:
        """How many ledger rows there are by kind and image (or tape)."""
        counts: dict[tuple[str, str], int] = {}
        for fact in self.facts():
            key = (fact.kind.value, fact.image or ",".join(fact.media))
            counts[key] = counts.get(key, 0) + 1
        return counts


# --- what the fixtures must become ----------------------------------------------------------------


def expected_nbu() -> dict[str, str]:
    """SHA-256 of every image of the NetBackup set."""
    images = json.loads((NBU / "expected.json").read_text())["images"]
    return {image["backup_id"]: image["sha256"] for image in images}


def tar_catalog(path: Path) -> Path:
    """A native catalogue for the GNU tar set: each volume is an image on a tape of its own."""
    volumes = json.loads((GNUTAR / "expected.json").read_text())["volumes"]
    entries: list[dict[str, Any]] = []
    media: list[dict[str, Any]] = []
    for number, volume in enumerate(volumes, start=1):
        tape = f"gmv.{number}"
        fragment = {"media_id": tape, "tape_file_number": 0, "size_bytes": volume["size"]}
        entries.append({"image_id": f"volume {number}", "copies": [{"fragments": [fragment]}]})
        media.append({"media_id": tape, "label": f"FIXSET Volume {number}"})
    path.write_text(json.dumps({"product": "tar", "images": entries, "media": media}))
    return path


def expected_tar() -> dict[str, str]:
    """SHA-256 of every volume of the GNU tar set."""
    volumes = json.loads((GNUTAR / "expected.json").read_text())["volumes"]
    return {f"volume {number}": volume["sha256"] for number, volume in enumerate(volumes, 1)}


# --- writing NetBackup-like tapes -----------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One fragment: bytes of an image on one tape."""

    image_id: str
    number: int
    data: bytes


def media_header(media_id: str) -> bytes:
    """The label record, as far as its layout is public."""
    record = bytearray(1024)
    record[0:4] = b"VOL1"
    record[4:10] = media_id.encode().ljust(6, b"\0")
    record[112:136] = b"ThIs Is A BP tApE hEaDer"
    return bytes(record)


def backup_header(image_id: str) -> bytes:
    """A backup header whose inside is invented, and names the image."""
    return f"SYNTHBH 1\nbackup_id={image_id}\n".encode().ljust(1024, b"\0")


def tape_items(media_id: str, runs: Sequence[Run], block: int = BLOCK) -> list[Item]:
    """A tape's records and marks: the label, then a tape file for each run."""
    items: list[Item] = [media_header(media_id), MARK]
    for run in runs:
        items.append(backup_header(run.image_id))
        items += [run.data[at : at + block] for at in range(0, len(run.data), block)]
        items.append(MARK)
    return [*items, MARK, END]


@dataclass
class TapeSet:
    """Tapes with runs in their order, and the catalogue that tells of them."""

    tapes: dict[str, list[Run]]
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """More fields of an image's catalogue entry, by its id."""

    def images(self) -> dict[str, bytes]:
        """Every image's bytes."""
        runs = sorted(
            (run for tape in self.tapes.values() for run in tape), key=lambda run: run.number
        )
        images: dict[str, bytes] = {}
        for run in runs:
            images[run.image_id] = images.get(run.image_id, b"") + run.data
        return images

    def sha256s(self) -> dict[str, str]:
        """Every image's digest."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.images().items()}

    def write(self, folder: Path, block: int = BLOCK) -> tuple[Path, Path]:
        """Write the shelf and the catalogue; gives the catalogue and the shelf."""
        shelf = folder / "shelf"
        shelf.mkdir(parents=True, exist_ok=True)
        for media_id, runs in self.tapes.items():
            (shelf / f"{media_id}.tap").write_bytes(tap(tape_items(media_id, runs, block)))
        catalog = folder / "catalog.json"
        catalog.write_text(json.dumps({"product": "netbackup", "images": self.entries()}))
        return catalog, shelf

    def entries(self) -> list[dict[str, Any]]:
        """The images as the native catalogue names them."""
        fragments: dict[str, list[dict[str, Any]]] = {}
        for media_id, runs in self.tapes.items():
            for number, run in enumerate(runs, start=1):
                fragments.setdefault(run.image_id, []).append(
                    {
                        "media_id": media_id,
                        "fragment_number": run.number,
                        "tape_file_number": number,
                        "size_bytes": len(run.data),
                    }
                )
        return [
            {
                "image_id": name,
                "client": name.rpartition("_")[0],
                "backup_time": "2024-01-02T03:04:05Z",
                "size_bytes": sum(part["size_bytes"] for part in parts),
                "copies": [{"fragments": sorted(parts, key=lambda p: p["fragment_number"])}],
                **self.facts.get(name, {}),
            }
            for name, parts in fragments.items()
        ]


def some_bytes(size: int, seed: int) -> bytes:
    """Bytes that are the same every time and differ everywhere."""
    return random.Random(seed).randbytes(size)


def spanning_set(*, big: int = 12 * MIB) -> TapeSet:
    """Three tapes: two images that span, one of them twice, among small and large ones."""
    huge = some_bytes(big + 11 * MIB + 777, 1)
    third = len(huge) // 3
    wide = some_bytes(big + 12_345, 2)
    return TapeSet(
        {
            "TAPE01": [
                Run("first_1700000001", 1, some_bytes(100_000, 3)),
                Run("huge_1700000002", 1, huge[:third]),
            ],
            "TAPE02": [
                Run("huge_1700000002", 2, huge[third : 2 * third]),
                Run("tiny_1700000003", 1, some_bytes(7, 4)),
                Run("wide_1700000004", 1, wide[:MIB]),
            ],
            "TAPE03": [
                Run("wide_1700000004", 2, wide[MIB:]),
                Run("huge_1700000002", 3, huge[2 * third :]),
                Run("large_1700000005", 1, some_bytes(big, 5)),
            ],
        }
    )


def nbu_rows(rows: Sequence[Sequence[object]]) -> str:
    """An ``nbu.csv`` of the fixture's columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = (NBU / "nbu.csv").read_text().splitlines()[0]
    writer.writerow(header.split(","))
    writer.writerows(rows)
    return out.getvalue()


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep warnings about damage that a test makes on purpose out of its output."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def tapemigrate_status(workdir: Path) -> Any:
    """What ``tapemigrate status --json`` says."""
    ended = tapemigrate("status", "--workdir", workdir, "--json")
    assert ended.code == 0, ended
    return ended.json
