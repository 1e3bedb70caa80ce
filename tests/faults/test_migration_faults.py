"""Bad tapes and bad networks: the run ends as it says, records nothing that is not there, goes on.

Every test ends with the fault gone and the same command: it must finish the work.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from catalog.s3 import S3Location
from migrate.source.interface import EndOfTape, Filemark
from migrate.source.simh import SimhTape
from tests.migrate.support import (
    INSIDE_MPX,
    MIB,
    MPX_FILE,
    NBU,
    Bucket,
    Ended,
    TapeSet,
    assert_clean_failure,
    expected_nbu,
    quiet_logs,
    run_words,
    spanning_set,
    tape_items,
    tapemigrate,
    tapemigrate_status,
)
from tests.source.tapes import tap
from tests.support import faults
from tests.support.faults import Fault, FaultProxy

MakeBucket = Callable[..., S3Location]
WHOLE = {name: sha for name, sha in expected_nbu().items() if name not in INSIDE_MPX}


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with quiet_logs():
        yield


class Nbu:
    """The NetBackup set on a shelf that can be spoilt, and a bucket for it."""

    def __init__(self, make_bucket: MakeBucket, folder: Path) -> None:
        self.bucket = Bucket(make_bucket(prefix="pool"))
        self.shelf = folder / "shelf"
        self.shelf.mkdir()
        self.workdir = folder / "work"
        self.mend()

    def mend(self) -> None:
        """Put the right cartridges on the shelf."""
        for name in ("NBU001.tap", "NBU002.tap"):
            (self.shelf / name).unlink(missing_ok=True)
            shutil.copy(NBU / name, self.shelf / name)

    def run(self, *more: str, to: S3Location | None = None) -> Ended:
        words = run_words(
            NBU / "nbu.csv", self.shelf, to or self.bucket.location, self.workdir, "--quiet", *more
        )
        return tapemigrate(*words)

    def assert_honest(self) -> None:
        """Work folder, ledger and bucket say the same of every image."""
        assert_honest(self.bucket, self.workdir)

    def assert_finishes(self) -> None:
        """With the fault gone the same command does the rest."""
        self.mend()
        ended = self.run()
        assert ended.code == 0, ended
        assert ended.json["images"] == {"stored": 7, "skipped": 0, "damaged": 0, "failed": 0}
        assert ended.json["tapes"]["released"] == ["NBU001", "NBU002"]
        found = self.bucket.sha256s()
        found.pop(MPX_FILE)
        assert found == WHOLE
        assert self.bucket.orphans() == self.bucket.uploads() == []
        self.assert_honest()
        kinds = self.bucket.kinds()
        assert all(count == 1 for key, count in kinds.items() if key[0] == "stored")


def assert_honest(bucket: Bucket, workdir: Path) -> None:
    """What is recorded is there, and what is there is whole."""
    status = tapemigrate_status(workdir)
    names = set(bucket.names())
    facts = bucket.facts()
    for kind in ("stored", "verified"):
        assert {fact.image for fact in facts if fact.kind == kind} <= names
    images = {name for name in names if "-file-" not in name}
    assert status["images"]["stored"] == len(images)
    released = [fact.media[0] for fact in facts if fact.kind == "tape_released"]
    assert len(released) == len(set(released))
    for media in released:
        on_tape = {image for image in expected_nbu() if _lies_on(image, media)}
        assert on_tape <= images, f"{media} was released without {on_tape - images}"


def _lies_on(image: str, media: str) -> bool:
    rows = (NBU / "nbu.csv").read_text().splitlines()[1:]
    return any(row.startswith(f"{image},") and f",{media}," in row for row in rows)


@pytest.fixture
def nbu(moto_bucket: MakeBucket, tmp_path: Path) -> Nbu:
    return Nbu(moto_bucket, tmp_path)


# --- tapes --------------------------------------------------------------------------------------


def test_a_wrong_cartridge_under_the_right_name_is_never_migrated(nbu: Nbu) -> None:
    shutil.copy(nbu.shelf / "NBU002.tap", nbu.shelf / "NBU001.tap")
    ended = nbu.run()
    assert_clean_failure(ended, 4)
    assert ended.json["tapes"]["unusable"] == ["NBU001"]
    assert ended.json["images"] == {"stored": 1, "skipped": 0, "damaged": 0, "failed": 6}
    status = tapemigrate_status(nbu.workdir)
    reasons = {image["image"]: image["reason"] for image in status["not_stored"]}
    assert reasons["zeta_1690000400"] == "tape NBU001: the tape in the drive is NBU002, not NBU001"
    assert set(nbu.bucket.sha256s()) == {"alpha_1690000500"}
    nbu.assert_honest()
    nbu.assert_finishes()


def test_two_cartridges_that_were_swapped_are_both_refused(nbu: Nbu) -> None:
    one, two = nbu.shelf / "NBU001.tap", nbu.shelf / "NBU002.tap"
    one.rename(nbu.shelf / "aside")
    two.rename(one)
    (nbu.shelf / "aside").rename(two)
    ended = nbu.run()
    assert_clean_failure(ended, 4)
    assert ended.json["tapes"]["unusable"] == ["NBU001", "NBU002"]
    assert nbu.bucket.keys("images/") == []
    nbu.assert_honest()
    nbu.assert_finishes()


@pytest.mark.parametrize("gone", ["NBU001", pytest.param("NBU002", marks=pytest.mark.deep)])
def test_a_missing_tape_fails_its_images_and_no_others(nbu: Nbu, gone: str) -> None:
    (nbu.shelf / f"{gone}.tap").unlink()
    ended = nbu.run()
    assert_clean_failure(ended, 4)
    assert ended.json["tapes"]["unusable"] == [gone]
    assert ended.json["images"]["failed"] == {"NBU001": 6, "NBU002": 2}[gone]
    assert f"no cartridge for media {gone} is on the shelf" in str(
        tapemigrate_status(nbu.workdir)["not_stored"]
    )
    nbu.assert_honest()
    nbu.assert_finishes()
    places = nbu.bucket.manifest("zeta_1690000400")["origin"]["places"]
    assert [place["barcode"] for place in places] == ["NBU001", "NBU002"]


@pytest.mark.deep
def test_an_unreadable_cartridge_is_named(nbu: Nbu) -> None:
    (nbu.shelf / "NBU002.tap").unlink()
    (nbu.shelf / "NBU002.tap").symlink_to(nbu.shelf / "nothing")
    (nbu.shelf / "NBU001.tap").unlink()
    (nbu.shelf / "NBU001.tap").mkdir()  # a folder without tape files
    ended = nbu.run()
    assert_clean_failure(ended, 4)
    assert nbu.bucket.keys("images/") == []
    nbu.assert_honest()
    (nbu.shelf / "NBU001.tap").rmdir()
    nbu.assert_finishes()


def test_a_tape_of_a_product_that_is_not_known_is_left_alone(nbu: Nbu, tmp_path: Path) -> None:
    catalog = tmp_path / "other.json"
    catalog.write_text(
        '{"product": "other", "images":'
        ' [{"image_id": "a", "copies": [{"fragments": [{"media_id": "NBU001"}]}]}]}'
    )
    ended = tapemigrate(*run_words(catalog, nbu.shelf, nbu.bucket.location, nbu.workdir, "--quiet"))
    assert_clean_failure(ended, 4)
    assert ended.json["images"]["failed"] == 1
    assert "no tape format is known for 'other'" in str(tapemigrate_status(nbu.workdir))
    assert nbu.bucket.keys("images/") == []


def test_a_tape_without_a_label_is_not_read_unless_that_is_allowed(nbu: Nbu) -> None:
    data = bytearray((NBU / "NBU001.tap").read_bytes())
    data[4 : 4 + 1024] = bytes(1024)
    (nbu.shelf / "NBU001.tap").write_bytes(data)
    ended = nbu.run()
    assert_clean_failure(ended, 4)
    assert "should be a netbackup tape" in str(tapemigrate_status(nbu.workdir)["tapes"])
    nbu.assert_honest()
    nbu.assert_finishes()


def mark_offsets() -> list[int]:
    """Where the filemarks of the first tape stand in its file."""
    source = SimhTape(NBU / "NBU001.tap", "NBU001")
    found: list[int] = []
    while not isinstance(event := source.read(), EndOfTape):
        if isinstance(event, Filemark):
            found.append(source._offset)
    source.close()
    return found


MARKS = mark_offsets()
CUTS = {
    "nothing left": 0,
    "inside the label": 500,
    "behind the label": MARKS[0],
    "inside a backup header": MARKS[0] + 300,
    "between two records": MARKS[0] + 1032,
    "inside a record": MARKS[1] + 1032 + 30_000,
    "inside a length": MARKS[2] + 2,
    "before the multiplexed file": MARKS[4],
    "inside the multiplexed file": MARKS[4] + 200_000,
    "before the span's last record": MARKS[5] + 1032 + 3 * 65_544,
    "without the last marks": MARKS[6] - 4,
}
USUAL_CUTS = ("inside a record", "inside the m", "without")


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(at, id=name, marks=[] if name.startswith(USUAL_CUTS) else [pytest.mark.deep])
        for name, at in CUTS.items()
    ],
)
def test_a_truncated_tape_gives_what_is_whole_and_says_what_is_not(nbu: Nbu, cut: int) -> None:
    whole = (NBU / "NBU001.tap").read_bytes()
    (nbu.shelf / "NBU001.tap").write_bytes(whole[:cut])
    ended = nbu.run()
    images = ended.json["images"]
    if cut == CUTS["without the last marks"]:
        assert ended.code == 0, "every image is whole"
    else:
        assert_clean_failure(ended, 3 if cut >= MARKS[0] else 4)
        assert images["damaged"] + images["failed"] > 0
        assert "NBU001" not in ended.json["tapes"]["released"]
    found = nbu.bucket.sha256s()
    found.pop(MPX_FILE, None)
    assert found.items() <= WHOLE.items(), "nothing that is not whole has an image's name"
    assert nbu.bucket.orphans() == nbu.bucket.uploads() == []
    nbu.assert_honest()
    nbu.assert_finishes()


def test_a_record_that_is_marked_bad_damages_its_image_alone(nbu: Nbu) -> None:
    data = bytearray((NBU / "NBU001.tap").read_bytes())
    at = MARKS[1] + 1032  # the first data record of tape file 2
    for place in (at, at + 4 + 65_536):
        data[place + 3] |= 0x80
    (nbu.shelf / "NBU001.tap").write_bytes(data)
    ended = nbu.run()
    assert_clean_failure(ended, 3)
    assert ended.json["images"] == {"stored": 6, "skipped": 0, "damaged": 1, "failed": 0}
    facts = {fact.image: fact for fact in nbu.bucket.facts() if fact.kind == "damaged"}
    assert list(facts) == ["beta_1690000200"]
    assert "fragment 1 on NBU001" in str(facts["beta_1690000200"].reason)
    nbu.assert_honest()
    nbu.assert_finishes()


def test_a_tape_that_fails_behind_a_safe_fragment_does_not_fail_that_image(
    moto_bucket: MakeBucket, tmp_path: Path
) -> None:
    tapes = spanning_set(big=200_000)
    catalog, shelf = tapes.write(tmp_path)
    path = shelf / "TAPE02.tap"
    first = len(tap(tape_items("TAPE02", tapes.tapes["TAPE02"][:1])))
    path.write_bytes(path.read_bytes()[: first + 500])
    bucket = Bucket(moto_bucket())
    words = run_words(catalog, shelf, bucket.location, tmp_path / "work", "--quiet")
    ended = tapemigrate(*words)
    assert_clean_failure(ended, 3)
    assert ended.json["images"] == {"stored": 3, "skipped": 0, "damaged": 2, "failed": 0}
    assert "huge_1700000002" in bucket.names(), "its fragment on the tape was whole"
    tapes.write(tmp_path)
    ended = tapemigrate(*words)
    assert ended.code == 0, ended
    assert bucket.sha256s() == tapes.sha256s()


# --- the network and the store ------------------------------------------------------------------

ONCE = {
    "503 SlowDown": lambda op: faults.refuse(op, 503, "SlowDown"),
    "500 InternalError": lambda op: faults.refuse(op, 500, "InternalError"),
    "reset": faults.reset,
    "answer lost": faults.lose_answer,
}


@pytest.fixture
def proxy(moto_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(moto_endpoint) as running:
        yield running


def behind(proxy: FaultProxy, bucket: Bucket) -> S3Location:
    return S3Location(bucket.location.bucket, bucket.location.prefix, proxy.url)


def cases(names: Iterable[str], operations: Sequence[str]) -> list[Any]:
    """Every name with every operation; the fast suite meets each of them once at least."""
    found: list[Any] = []
    for row, name in enumerate(names):
        for column, operation in enumerate(operations):
            usual = row % len(operations) == column
            marks = [] if usual else [pytest.mark.deep]
            found.append(pytest.param(name, operation, marks=marks))
    return found


@pytest.mark.parametrize(
    ("name", "operation"), cases(ONCE, ["PutObject", "HeadObject", "GetObject"])
)
def test_a_fault_that_passes_is_not_seen_by_anybody(
    nbu: Nbu, proxy: FaultProxy, name: str, operation: str
) -> None:
    if (name, operation) == ("answer lost", "GetObject"):
        proxy.play(ONCE["reset"]("GetObject"))  # pool.json is not there yet: nothing to lose
    else:
        proxy.play(ONCE[name](operation))
    ended = nbu.run(to=behind(proxy, nbu.bucket))
    assert ended.code == 0, ended
    found = nbu.bucket.sha256s()
    found.pop(MPX_FILE)
    assert found == WHOLE
    nbu.assert_honest()


@pytest.mark.parametrize(
    ("name", "operation"),
    cases(reversed(ONCE), ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]),
)
def test_a_fault_that_passes_in_an_upload_is_not_seen_by_anybody(
    moto_bucket: MakeBucket, tmp_path: Path, proxy: FaultProxy, name: str, operation: str
) -> None:
    tapes = TapeSet({"TAPE03": spanning_set(big=6 * MIB).tapes["TAPE03"][2:]})
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket(prefix="pool"))
    proxy.play(ONCE[name](operation))
    words = run_words(
        catalog, shelf, behind(proxy, bucket), tmp_path / "work", "--quiet", "--part-mib", "5"
    )
    ended = tapemigrate(*words)
    assert ended.code == 0, ended
    assert bucket.sha256s() == tapes.sha256s()
    assert bucket.orphans() == bucket.uploads() == bucket.keys(".probe-") == []


def forever(operation: str, make: Callable[[str], Fault]) -> list[Fault]:
    return [make(operation) for _ in range(500)]


FOREVER: dict[str, Callable[[str], Fault]] = {
    "503": lambda op: faults.refuse(op, 503, "SlowDown"),
    "500": lambda op: faults.refuse(op, 500, "InternalError"),
    "resets": faults.reset,
    "stalls": faults.stall,
}


@pytest.mark.parametrize(
    "name",
    ["stalls", *(pytest.param(n, marks=pytest.mark.deep) for n in ("503", "500", "resets"))],
)
def test_a_store_that_stays_away_ends_the_run_and_it_can_be_resumed(
    nbu: Nbu, proxy: FaultProxy, name: str
) -> None:
    proxy.play(*forever("PutObject", FOREVER[name]))
    ended = nbu.run("--s3-deadline", "2", to=behind(proxy, nbu.bucket))
    assert_clean_failure(ended, 4)
    assert "given up after" in ended.err or "timed out" in ended.err.lower()
    assert ended.err.count("error: ") == 1
    proxy.forget()
    assert nbu.bucket.keys("images/") == []
    nbu.assert_finishes()


def test_a_store_that_goes_away_in_the_middle_loses_nothing(nbu: Nbu, proxy: FaultProxy) -> None:
    to = behind(proxy, nbu.bucket)
    calm = [faults.altered("PutObject", lambda *answer: answer) for _ in range(9)]
    proxy.play(*calm, *forever("PutObject", FOREVER["503"]))
    ended = nbu.run("--s3-deadline", "2", to=to)
    assert_clean_failure(ended, 4)
    assert "SlowDown" in ended.err
    proxy.forget()
    status = tapemigrate_status(nbu.workdir)
    assert status["images"]["failed"] == status["images"]["damaged"] == 0
    ended = nbu.run(to=to)
    assert ended.code == 0, ended
    found = nbu.bucket.sha256s()
    found.pop(MPX_FILE)
    assert found == WHOLE
    assert nbu.bucket.orphans() == nbu.bucket.uploads() == []
    assert all(count == 1 for key, count in nbu.bucket.kinds().items() if key[0] == "stored")


@pytest.mark.parametrize("operation", ["CompleteMultipartUpload"])
@pytest.mark.parametrize(
    "code", ["InternalError", pytest.param("SlowDown", marks=pytest.mark.deep)]
)
def test_an_error_within_a_200_is_an_error(
    moto_bucket: MakeBucket, tmp_path: Path, proxy: FaultProxy, operation: str, code: str
) -> None:
    tapes = TapeSet({"TAPE03": spanning_set(big=6 * MIB).tapes["TAPE03"][2:]})
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket(prefix="pool"))
    words = run_words(catalog, shelf, behind(proxy, bucket), tmp_path / "work", "--quiet")
    proxy.play(faults.error_in_200(operation, code))
    ended = tapemigrate(*words, "--part-mib", "5")
    assert ended.code == 0, ended
    assert bucket.sha256s() == tapes.sha256s()
    assert bucket.uploads() == []


def test_an_error_within_a_200_that_does_not_pass_stores_nothing(
    moto_bucket: MakeBucket, tmp_path: Path, proxy: FaultProxy
) -> None:
    tapes = TapeSet({"TAPE03": spanning_set(big=6 * MIB).tapes["TAPE03"][2:]})
    catalog, shelf = tapes.write(tmp_path)
    bucket = Bucket(moto_bucket(prefix="pool"))
    words = run_words(catalog, shelf, behind(proxy, bucket), tmp_path / "work", "--quiet")
    words += ["--part-mib", "5", "--s3-deadline", "2"]
    proxy.play(*forever("CompleteMultipartUpload", faults.error_in_200))
    ended = tapemigrate(*words)
    assert_clean_failure(ended, 4)
    assert bucket.names() == []
    proxy.forget()
    sent = proxy.seen.count("UploadPart")
    ended = tapemigrate(*words)
    assert ended.code == 0, ended
    assert proxy.seen.count("UploadPart") == sent + 2, "only the probe sends parts again"
    assert bucket.sha256s() == tapes.sha256s()


def test_a_bucket_that_does_not_exist_is_said_before_a_tape_moves(
    nbu: Nbu, moto_endpoint: str
) -> None:
    wrong = S3Location("no-such-bucket-anywhere", "pool", moto_endpoint)
    ended = nbu.run(to=wrong)
    assert_clean_failure(ended, 4)
    assert "no-such-bucket-anywhere" in ended.err
    assert "mounted" not in ended.err
    nbu.assert_finishes()


def test_an_endpoint_where_nobody_listens_ends_within_the_deadline(nbu: Nbu) -> None:
    nowhere = S3Location(nbu.bucket.location.bucket, "pool", "http://127.0.0.1:9")
    ended = nbu.run("--s3-deadline", "2", to=nowhere)
    assert_clean_failure(ended, 4)
    assert "127.0.0.1:9" in ended.err


@pytest.mark.parametrize(
    "code",
    [
        "AccessDenied",
        pytest.param("InvalidAccessKeyId", marks=pytest.mark.deep),
        pytest.param("SignatureDoesNotMatch", marks=pytest.mark.deep),
    ],
)
def test_credentials_that_are_refused_are_said_once_and_clearly(
    nbu: Nbu, proxy: FaultProxy, code: str
) -> None:
    for operation in ("CreateMultipartUpload", "GetObject", "PutObject", "BucketGet"):
        proxy.play(*(faults.refuse(operation, 403, code) for _ in range(20)))
    ended = nbu.run(to=behind(proxy, nbu.bucket))
    proxy.forget()
    assert_clean_failure(ended, 4)
    assert ended.err.count("error: ") == 1
    assert code in ended.err
    assert ended.err.count(";") >= 1, "says what to do"
    nbu.assert_finishes()


def test_without_credentials_the_run_says_so(nbu: Nbu, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as env:
        env.delenv("AWS_ACCESS_KEY_ID")
        env.delenv("AWS_SECRET_ACCESS_KEY")
        ended = nbu.run()
    assert_clean_failure(ended, 4)
    assert "credentials" in ended.err
    nbu.assert_finishes()


def test_a_ledger_that_cannot_be_written_keeps_its_rows_in_the_work_folder(
    nbu: Nbu, tmp_path: Path
) -> None:
    blocked = tmp_path / "ledger"
    blocked.write_text("not a folder")
    ended = nbu.run("--ledger", str(blocked))
    assert_clean_failure(ended, 4)
    blocked.unlink()
    ended = nbu.run("--ledger", str(blocked))
    assert ended.code == 0, ended
    kinds = [fact.kind.value for fact in nbu.bucket.facts(str(blocked))]
    assert kinds.count("stored") == kinds.count("verified") == 8
    assert kinds.count("tape_released") == 2


def test_an_object_that_is_not_what_was_sent_is_not_verified(nbu: Nbu, proxy: FaultProxy) -> None:
    def other_size(status: int, headers: dict[str, str], body: bytes) -> Any:
        return status, {**headers, "Content-Length": "5", "content-length": "5"}, body

    proxy.play(faults.altered("HeadObject", other_size))
    ended = nbu.run(to=behind(proxy, nbu.bucket))
    assert_clean_failure(ended, 3)
    assert ended.json["images"]["failed"] == 1
    assert len(ended.json["tapes"]["released"]) < 2
    again = nbu.run(to=behind(proxy, nbu.bucket))
    assert again.code == 0, again
    nbu.assert_honest()
