"""Every way to tamper with a ledger, before both verifiers: ours, and the script that stands in
docs/auditors.md. Both must name the same first bad file. The ledger has 1,000 commits in the deep
suite, and 200 in the fast one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.anchor import Anchor, Anchoring
from catalog.audit import Verdict, parse_expected, verify
from catalog.checkpoint import FOLDER, checkpoint_name, decode, make
from catalog.files import FolderFiles, name_of
from catalog.ledger import Head, Ledger
from catalog.schema import FIRST_PREVIOUS, encode, read_footer
from tests.catalog.keyring import MadeKey
from tests.catalog.samples import fact

CHECKPOINTS = 11  # of 9 % of the commits each; the last 1 % is behind them
DOC = (Path(__file__).parents[2] / "docs" / "auditors.md").read_text("utf-8")
(SCRIPT,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
CODE = compile(SCRIPT, "docs/auditors.md", "exec")


@dataclass
class Copy:
    """A ledger's copy that may be tampered with; its files are links to those of all copies."""

    folder: Path
    digests: list[str]
    key: MadeKey

    @property
    def size(self) -> int:
        return len(self.digests)

    @property
    def anchored(self) -> int:
        """Files that checkpoints list."""
        return self.size * 9 // 100 * CHECKPOINTS

    def at(self, thousandth: int) -> int:
        """A place in the ledger, in thousandths of it."""
        return self.size * thousandth // 1_000

    def path(self, number: int) -> Path:
        return self.folder / name_of(number)

    def checkpoint(self, number: int) -> Path:
        return self.folder / FOLDER / checkpoint_name(number)

    def put(self, path: Path, data: bytes) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def noted(self, number: int) -> str:
        return f"{self.digests[number]}@{number}"

    def rewrite(self, start: int, end: int) -> None:
        """Write all files from start to end anew, each upon the one before it."""
        previous = self.digests[start - 1] if start else FIRST_PREVIOUS
        for number in range(start, end):
            data = encode([fact(image="forged")], sequence=number, previous_sha256=previous)
            self.put(self.path(number), data)
            previous = _sha256(data)


@pytest.fixture(scope="module", params=[200, pytest.param(1_000, marks=pytest.mark.deep)])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder = tmp_path_factory.mktemp("original")
    key = MadeKey()
    copy = Copy(folder, [], key)
    anchor = Anchor(FolderFiles(folder), Anchoring(signer=key))
    previous = FIRST_PREVIOUS
    for number in range(request.param):
        data = encode([fact(image=str(number))], sequence=number, previous_sha256=previous)
        copy.path(number).write_bytes(data)
        previous = _sha256(data)
        copy.digests.append(previous)
        anchor.note(number, previous)
        if (number + 1) % (request.param * 9 // 100) == 0:
            anchor.write(Head(number, previous))
    return copy


@pytest.fixture
def copy(original: Copy, tmp_path: Path) -> Copy:
    folder = tmp_path / "ledger"
    shutil.copytree(original.folder, folder, copy_function=os.link)
    return replace(original, folder=folder)


def ours(copy: Copy, head: str = "-", key: str = "") -> Verdict:
    return verify(
        FolderFiles(copy.folder),
        expect=parse_expected(head) if head != "-" else None,
        trusted=[key] if key else [],
    )


def theirs(copy: Copy, head: str = "-", key: str = "") -> str | None:
    """The first bad file by the page's script; None when it finds the ledger sound."""
    said = io.StringIO()
    words, sys.argv = sys.argv, ["audit.py", str(copy.folder), head, key]
    try:
        with contextlib.redirect_stdout(said):
            exec(CODE, {})
        code = 0
    except SystemExit as exc:
        code = int(str(exc.code))
    finally:
        sys.argv = words
    first, *_ = said.getvalue().splitlines()
    assert (code, first.partition(":")[0]) in [(0, "sound"), (3, "first bad file")]
    return first.removeprefix("first bad file: ") if code else None


def both_name(copy: Copy, bad: int | str | None, head: str = "-", key: str = "") -> Verdict:
    """Both come to this verdict: a ledger file by its number, another by its name, or sound."""
    name = name_of(bad) if isinstance(bad, int) else bad
    verdict = ours(copy, head, key)
    assert (verdict.bad.name if verdict.bad else None) == name, verdict.bad
    assert theirs(copy, head, key) == name
    return verdict


def test_the_script_is_short_and_needs_little() -> None:
    assert len(SCRIPT.splitlines()) <= 60
    assert set(re.findall(r"^(?:import|    from) (.*)$", SCRIPT, re.M)) == {
        "base64, hashlib, itertools, json, pathlib, re, sys",
        "pyarrow as pa, pyarrow.parquet as pq",
        "cryptography.hazmat.primitives.serialization import load_der_public_key as load_key",
    }


def test_a_sound_ledger_is_sound_to_both(copy: Copy) -> None:
    verdict = both_name(copy, None, copy.noted(copy.size - 1), copy.key.public_key)
    assert (verdict.files, verdict.anchored) == (copy.size, copy.size - 1)
    verdict = both_name(copy, None)
    assert (verdict.checkpoints, verdict.anchored) == (CHECKPOINTS, copy.anchored - 1)
    assert f"behind number {copy.anchored - 1} are linked" in verdict.cannot_see


def edited(data: bytes) -> bytes:
    """The file with one row altered and its footer kept, as a forger with a tool would."""
    file = pq.ParquetFile(io.BytesIO(data))
    table = file.read()
    at = table.column_names.index("actor")
    table = table.set_column(at, table.schema.field(at), pa.array(["nobody"] * len(table)))
    pairs = {k: v for k, v in file.metadata.metadata.items() if k.startswith(b"tapelift.")}
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(pairs)
    return sink.getvalue()


def swap(copy: Copy, one: int, other: int) -> None:
    copy.path(one).rename(copy.folder / ".spare")
    copy.path(other).rename(copy.path(one))
    (copy.folder / ".spare").rename(copy.path(other))


def remove(copy: Copy, start: int, end: int) -> None:
    for number in range(start, end):
        copy.path(number).unlink()


def close_the_gap(copy: Copy, gone: int) -> None:
    for number in range(gone, copy.size - 1):
        copy.path(number + 1).rename(copy.path(number))


def fork(copy: Copy, number: int) -> None:
    """A second file upon the same one as the last, under the next number."""
    upon = read_footer(copy.path(number).read_bytes()).previous_sha256
    data = encode([fact()], sequence=number + 1, previous_sha256=upon)
    copy.put(copy.path(number + 1), data)


def edit(copy: Copy, number: int) -> None:
    copy.put(copy.path(number), edited(copy.path(number).read_bytes()))


TAMPERED: dict[str, tuple[Callable[[Copy], object], Callable[[Copy], int | str]]] = {
    "the first row edited": (lambda c: edit(c, 0), lambda c: 0),
    "a row edited": (lambda c: edit(c, c.at(410)), lambda c: c.at(410)),
    "the last anchored file edited": (
        lambda c: edit(c, c.anchored - 1),
        lambda c: c.anchored - 1,
    ),
    "a row edited behind the anchor": (lambda c: edit(c, c.size - 2), lambda c: c.size - 2),
    "two edited": (lambda c: (edit(c, c.at(700)), edit(c, c.at(300))), lambda c: c.at(300)),
    "reordered": (lambda c: swap(c, c.at(30), c.at(510)), lambda c: c.at(30)),
    "reordered neighbours": (lambda c: swap(c, c.at(30), c.at(30) + 1), lambda c: c.at(30)),
    "removed in the middle": (lambda c: remove(c, c.at(500), c.at(500) + 1), lambda c: c.at(500)),
    "removed at the beginning": (lambda c: remove(c, 0, 5), lambda c: 0),
    "removed and the gap closed": (lambda c: close_the_gap(c, c.at(640)), lambda c: c.at(640)),
    "removed at the end": (lambda c: remove(c, c.at(900), c.size), lambda c: c.at(900)),
    "all removed": (lambda c: remove(c, 0, c.size), lambda c: 0),
    "a chain written anew": (lambda c: c.rewrite(c.at(950), c.size), lambda c: c.at(950)),
    "one file written anew, with a link that fits": (
        lambda c: c.rewrite(c.at(70), c.at(70) + 1),
        lambda c: c.at(70),
    ),
    "two heads at the end": (lambda c: fork(c, c.size - 1), lambda c: c.size),
    "two heads in the middle": (lambda c: fork(c, c.at(200)), lambda c: c.at(200) + 1),
    "two heads under one number": (
        lambda c: shutil.copy(c.path(5), c.folder / f"{5:020d} (1).parquet"),
        lambda c: f"{5:020d} (1).parquet",
    ),
    "rubbish": (
        lambda c: c.put(c.path(c.at(320)), b"PAR1" + bytes(100) + b"PAR1"),
        lambda c: c.at(320),
    ),
    "an empty file": (lambda c: c.put(c.path(c.size - 1), b""), lambda c: c.size - 1),
    "a cut file": (
        lambda c: c.put(c.path(c.size - 1), c.path(c.size - 1).read_bytes()[:-9]),
        lambda c: c.size - 1,
    ),
}


@pytest.mark.parametrize("way", TAMPERED)
def test_both_verifiers_name_the_same_first_bad_file(copy: Copy, way: str) -> None:
    act, bad = TAMPERED[way]
    act(copy)
    both_name(copy, bad(copy), key=copy.key.public_key)


def without_checkpoints(copy: Copy) -> None:
    shutil.rmtree(copy.folder / FOLDER)


@pytest.mark.parametrize(
    ("act", "bad"),
    [
        (lambda c: remove(c, c.at(900), c.size), lambda c: c.at(900)),
        (lambda c: remove(c, c.size - 1, c.size), lambda c: c.size - 1),
        (lambda c: c.rewrite(c.at(950), c.size), lambda c: c.size - 1),
        (lambda c: c.rewrite(c.size - 1, c.size), lambda c: c.size - 1),
        (lambda c: c.rewrite(0, c.at(20)), lambda c: c.at(20) - 1),
        (lambda c: fork(c, c.at(400)), lambda c: c.at(400) + 1),
    ],
)
def test_a_noted_head_is_enough_without_checkpoints(
    copy: Copy, act: Callable[[Copy], object], bad: Callable[[Copy], int]
) -> None:
    without_checkpoints(copy)
    act(copy)
    both_name(copy, bad(copy), copy.noted(copy.size - 1))


def test_a_removed_tail_is_not_seen_without_an_anchor_and_the_verdict_says_so(copy: Copy) -> None:
    without_checkpoints(copy)
    remove(copy, copy.at(900), copy.size)
    assert "removed at its end" in both_name(copy, None).cannot_see


def test_a_noted_head_is_held_against_a_history_that_was_signed_anew(copy: Copy) -> None:
    """Who has the key signs what he likes; what was noted elsewhere he cannot reach."""
    without_checkpoints(copy)
    copy.rewrite(copy.at(800), copy.size)
    files = FolderFiles(copy.folder)
    Anchor(files, Anchoring(signer=copy.key)).write(Ledger(files).head())
    verdict = both_name(copy, None, key=copy.key.public_key)
    assert "Who holds the signing key" in verdict.cannot_see
    both_name(copy, copy.at(900), copy.noted(copy.at(900)), copy.key.public_key)


# --- checkpoints ----------------------------------------------------------------------------


def in_folder(number: int) -> str:
    return f"{FOLDER}/{checkpoint_name(number)}"


def forge(copy: Copy, number: int, old: bytes, new: bytes) -> None:
    path = copy.checkpoint(number)
    data = path.read_bytes()
    assert old in data
    copy.put(path, data.replace(old, new, 1))


def sign_by_another(copy: Copy) -> None:
    before, one = (decode(copy.checkpoint(n).read_bytes()) for n in (2, 3))
    other = MadeKey()
    copy.put(copy.checkpoint(3), make(before, one.files, 0, [other.public_key], other).data)


FORGED: dict[str, tuple[Callable[[Copy], object], str]] = {
    "removed in the middle": (lambda c: c.checkpoint(4).unlink(), in_folder(4)),
    "the first removed": (lambda c: c.checkpoint(0).unlink(), in_folder(0)),
    "all removed": (lambda c: shutil.rmtree(c.folder / FOLDER), in_folder(0)),
    "a digest replaced": (
        lambda c: forge(c, 5, c.digests[c.at(460)].encode(), c.digests[0].encode()),
        in_folder(5),
    ),
    "the time altered": (lambda c: forge(c, 6, b'"at":"2', b'"at":"1'), in_folder(6)),
    "a signature of another key": (sign_by_another, in_folder(3)),
    "rubbish": (lambda c: c.put(c.checkpoint(7), b"{}\n[]\n{}\n"), in_folder(7)),
    "a strange name": (lambda c: c.put(c.folder / FOLDER / "x", b""), f"{FOLDER}/x"),
    "a line more": (
        lambda c: c.put(c.checkpoint(1), c.checkpoint(1).read_bytes() + b"{}"),
        in_folder(1),
    ),
    "swapped": (
        lambda c: (
            (
                c.checkpoint(1).rename(c.folder / ".x"),
                c.checkpoint(2).rename(c.checkpoint(1)),
                (c.folder / ".x").rename(c.checkpoint(2)),
            )[0]
            and None
        ),
        in_folder(1),
    ),
}


@pytest.mark.parametrize("way", FORGED)
def test_both_verifiers_name_the_same_bad_checkpoint(copy: Copy, way: str) -> None:
    act, name = FORGED[way]
    act(copy)
    both_name(copy, name, key=copy.key.public_key)


def test_checkpoints_of_a_key_that_nobody_knows_do_not_count(copy: Copy) -> None:
    without_checkpoints(copy)
    files = FolderFiles(copy.folder)
    forger = MadeKey()
    anchor = Anchor(files, Anchoring(signer=forger))
    anchor.write(Ledger(files).head())
    anchor.hand_over([copy.key.public_key])
    both_name(copy, in_folder(0), key=copy.key.public_key)
    assert "The first key was taken at its word" in both_name(copy, None).cannot_see


def test_a_checkpoint_is_found_bad_before_a_file_that_it_lists(copy: Copy) -> None:
    edit(copy, copy.at(500))
    forge(copy, 5, b'"at":"2', b'"at":"1')
    both_name(copy, in_folder(5))
    edit(copy, copy.at(400))  # which an earlier checkpoint lists
    both_name(copy, copy.at(400))


# --- the page -------------------------------------------------------------------------------


def test_the_script_checks_all_but_signatures_without_cryptography(copy: Copy) -> None:
    sign_by_another(copy)  # whose key the checkpoint before does not name: no library is needed
    edit(copy, copy.at(100))
    blocked = f"import sys; sys.modules['cryptography'] = None\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", blocked, str(copy.folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert name_of(copy.at(100)) in done.stdout


def test_openssl_checks_one_signature_as_the_page_says(copy: Copy, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    (text,) = re.findall(r"```sh\n(head -n 1.*?)```", DOC, re.DOTALL)
    for number in (0, 7):
        shutil.copy(copy.checkpoint(number), tmp_path / checkpoint_name(7))
        pem = f"-----BEGIN PUBLIC KEY-----\n{copy.key.public_key}\n-----END PUBLIC KEY-----\n"
        (tmp_path / "ledger-key.pub").write_text(pem)
        done = subprocess.run(
            ["sh", "-c", text],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Verified Successfully" in done.stdout, done.stderr


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
