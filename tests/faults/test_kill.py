"""kill -9 at any moment: the same command goes on, and nothing is lost, doubled or left over."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from catalog.s3 import S3Location
from connector.pool.journal import Journal
from tests.faults.dying import Death, Mortals
from tests.migrate.support import (
    MIB,
    NBU,
    Bucket,
    expected_nbu,
    run_words,
    spanning_set,
)
from tests.support.faults import FaultProxy, Request
from tests.support.servers import new_bucket

PART = 5 * MIB


class CountingProxy(FaultProxy):
    """Notes every body below images/ that the server has accepted, by what it holds."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.accepted: list[tuple[str, str, int]] = []

    def forward(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        answer = super().forward(request)
        path, _, query = request.target.partition("?")
        is_data = "/images/" in path and not path.endswith("/manifest.json")
        is_data = is_data and not query.startswith(("retention", "legal-hold"))
        if is_data and request.operation in ("PutObject", "UploadPart") and answer[0] < 300:
            body = request.body()
            name = path.partition("/images/")[2].partition("/")[0]
            self.accepted.append((name, hashlib.sha256(body).hexdigest(), len(body)))
        return answer

    def sent_again(self) -> dict[str, int]:
        """Bytes that were accepted more than once, by image."""
        times = Counter(self.accepted)
        again: dict[str, int] = {}
        for (name, _, size), count in times.items():
            if count > 1 and size:
                again[name] = again.get(name, 0) + (count - 1) * size
        return again


@dataclass
class Scene:
    """A migration that can be run many times, each time into a bucket of its own."""

    mortals: Mortals
    endpoint: str
    words: Callable[[S3Location, Path], list[str]]
    folder: Path
    runs: int = 0
    events: int = 0
    whole: Any = None
    digests: dict[str, str] = field(default_factory=dict)

    def begin(self, *, object_lock: bool = False) -> None:
        """Run it once undisturbed: how it must be."""
        with CountingProxy(self.endpoint) as proxy:
            bucket, words = self.stage(proxy, object_lock=object_lock)
            death = self.mortals.run(words)
            assert death.code == 0, death.err
            self.events = death.events
            self.whole = state(bucket)
            self.digests = bucket.sha256s()
            assert proxy.sent_again() == {}

    def stage(self, proxy: CountingProxy, *, object_lock: bool) -> tuple[Bucket, list[str]]:
        """A bucket and a work folder for one more run."""
        self.runs += 1
        real = new_bucket(self.endpoint, object_lock=object_lock)
        seen = S3Location(real.bucket, "pool", proxy.url)
        workdir = self.folder / f"work{self.runs}"
        return Bucket(S3Location(real.bucket, "pool", self.endpoint)), self.words(seen, workdir)

    def survive(
        self, *moments: int, after_s: float | None = None, object_lock: bool = False
    ) -> None:
        """Die at the moments, one after the other, then finish; compare with the whole."""
        with CountingProxy(self.endpoint) as proxy:
            bucket, words = self.stage(proxy, object_lock=object_lock)
            deaths: list[Death] = []
            if after_s is not None:
                deaths.append(self.mortals.run(words, after_s=after_s))
            for moment in moments:
                deaths.append(self.mortals.run(words, at_event=moment))
            kills = sum(death.killed for death in deaths)
            last = self.mortals.run(words)
            assert last.code == 0, last.err
            assert json.loads(last.out)["interrupted"] is False
            check(bucket, self.whole, proxy, kills)


def check(bucket: Bucket, whole: Any, proxy: CountingProxy, kills: int) -> None:
    """Everything that issue "kill -9" promises."""
    assert bucket.uploads() == []
    assert bucket.orphans() == []
    assert bucket.keys(".probe-") == []
    found = state(bucket)
    assert found["images"] == whole["images"]
    assert found["ledger"] == whole["ledger"]
    for name, size in proxy.sent_again().items():
        assert size <= kills * PART, f"{name}: {size} bytes were sent again after {kills} kills"


def state(bucket: Bucket) -> dict[str, Any]:
    """What lies in the bucket, without what is random or a time."""
    images: dict[str, Any] = {}
    for name, manifest in bucket.manifests().items():
        token = manifest.pop("token")
        manifest.pop("created_at")
        manifest["retention"].pop("lock_until")
        for part in manifest["fragments"]:
            data = bucket.get(part["key"], part["version_id"])
            assert hashlib.sha256(data).hexdigest() == part["sha256"]
            head = bucket.head(part["key"], part["version_id"])
            part["lock"] = head.get("ObjectLockMode")
            part["key"] = part["key"].replace(token, "TOKEN")
            part.pop("version_id")
        images[name] = manifest
    facts = bucket.facts()
    assert len({fact.fact_id for fact in facts}) == len(facts)
    ledger = Counter(
        (fact.kind.value, fact.image, fact.media, fact.barcode, fact.size, fact.sha256)
        for fact in facts
        if fact.kind != "tape_read"  # one for each time that a tape was read to its end
    )
    return {"images": images, "ledger": ledger}


@pytest.fixture(scope="module")
def mortals(
    only_test_credentials: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mortals]:
    with Mortals(tmp_path_factory.mktemp("mortals")) as running:
        yield running


@pytest.fixture(scope="module")
def nbu_scene(
    mortals: Mortals, moto_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Scene:
    """The NetBackup set: small images, one span, a multiplexed tape file; locked."""

    def words(to: S3Location, workdir: Path) -> list[str]:
        return run_words(NBU / "nbu.csv", NBU, to, workdir)

    scene = Scene(mortals, moto_endpoint, words, tmp_path_factory.mktemp("nbu"))
    scene.begin()
    expected = expected_nbu()
    assert all(scene.digests.get(name, expected[name]) == expected[name] for name in expected)
    return scene


@pytest.fixture(scope="module")
def wide_scene(
    mortals: Mortals, moto_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Scene:
    """Images of several parts, two of them over several tapes, under compliance locks."""
    folder = tmp_path_factory.mktemp("wide")
    tapes = spanning_set()
    tapes.facts = {
        name: {"expires_at": "2040-01-01T00:00:00Z"} for name in tapes.images() if name[0] != "t"
    }
    catalog, shelf = tapes.write(folder)

    def words(to: S3Location, workdir: Path) -> list[str]:
        locks = ("--part-mib", "5", "--fragment-mib", "15", "--lock", "compliance")
        return run_words(catalog, shelf, to, workdir, *locks)

    scene = Scene(mortals, moto_endpoint, words, folder)
    scene.begin(object_lock=True)
    assert scene.digests == tapes.sha256s()
    return scene


def moments(scene: Scene, number: int, seed: int) -> list[int]:
    """Events at which to die, spread over the whole run, the same every time."""
    chance = random.Random(seed)
    step = scene.events / number
    return [int(at * step + chance.uniform(0, step)) + 1 for at in range(number)]


@pytest.mark.parametrize("which", range(3))
def test_a_killed_run_goes_on_as_if_nothing_had_happened(nbu_scene: Scene, which: int) -> None:
    nbu_scene.survive(moments(nbu_scene, 3, seed=1)[which])


def test_a_run_that_is_killed_again_and_again_ends_the_same(nbu_scene: Scene) -> None:
    nbu_scene.survive(*moments(nbu_scene, 4, seed=2))


@pytest.mark.parametrize("which", [1, pytest.param(0, marks=pytest.mark.deep)])
def test_a_killed_upload_of_many_parts_goes_on_with_the_next_part(
    wide_scene: Scene, which: int
) -> None:
    wide_scene.survive(moments(wide_scene, 2, seed=3)[which], object_lock=True)


def test_a_tape_that_reads_differently_after_a_kill_is_not_joined_to_what_is_safe(
    mortals: Mortals, moto_endpoint: str, tmp_path: Path
) -> None:
    tapes = spanning_set()
    tapes.tapes = {"TAPE03": [tapes.tapes["TAPE03"][-1]]}
    ((name, data),) = tapes.images().items()
    catalog, shelf = tapes.write(tmp_path)
    tape = shelf / "TAPE03.tap"
    good = tape.read_bytes()
    real = new_bucket(moto_endpoint)
    to, workdir = S3Location(real.bucket, "pool", moto_endpoint), tmp_path / "work"
    words = run_words(catalog, shelf, to, workdir, "--part-mib", "5")
    for moment in itertools.count(70, 3):
        death = mortals.run(words, at_event=moment)
        assert death.killed, "it ended before a part was safe"
        if first_part_is_safe(workdir):
            break
    at = good.index(data[2 * MIB : 2 * MIB + 64])
    tape.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    refused = mortals.run(words)
    assert "of the source are not those that were stored" in refused.out + refused.err
    bucket = Bucket(to)
    assert (bucket.names(), bucket.uploads(), bucket.orphans()) == ([], [], [])
    tape.write_bytes(good)
    last = mortals.run(words)
    assert last.code == 0, last.err
    assert bucket.sha256s() == {name: hashlib.sha256(data).hexdigest()}


def first_part_is_safe(workdir: Path) -> bool:
    """Whether a work folder's journal has the receipt of an object's first part."""
    journal = Journal(workdir / "journal.sqlite", read_only=True)
    try:
        with journal.transaction() as db:
            return bool(db.execute("SELECT 1 FROM parts WHERE number = 1").fetchone())
    finally:
        journal.close()


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_fifty_kills_at_random_moments_leave_the_bucket_identical(wide_scene: Scene) -> None:
    for moment in moments(wide_scene, 50, seed=2024):
        wide_scene.survive(moment, object_lock=True)


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_fifty_kills_of_the_netbackup_set_leave_the_bucket_identical(nbu_scene: Scene) -> None:
    for moment in moments(nbu_scene, 50, seed=2025):
        nbu_scene.survive(moment)


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", range(10))
def test_kills_by_the_clock_leave_the_bucket_identical(wide_scene: Scene, which: int) -> None:
    wide_scene.survive(after_s=0.1 + which * 0.25, object_lock=True)
