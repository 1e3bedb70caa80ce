"""The other commands, and every exit code: inventory, plan, status, verify, rehydrate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.s3 import S3Location
from tests.inventory.support import expected
from tests.migrate.support import (
    CATALOGS,
    MPX_FILE,
    NBU,
    SYNTHMPX,
    Bucket,
    Ended,
    expected_nbu,
    quiet_logs,
    run_words,
    tapemigrate,
    tapemigrate_bytes,
    tapemigrate_status,
)
from tests.support import faults
from tests.support.faults import FaultProxy
from tests.support.servers import new_bucket

MakeBucket = Callable[..., S3Location]
BETA = "beta_1690000200"
ZETA = "zeta_1690000400"


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is found or left outside of the test's folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with quiet_logs():
        yield


def migrated(endpoint: str, folder: Path, *more: str) -> Bucket:
    bucket = Bucket(new_bucket(endpoint, prefix="pool"))
    words = run_words(NBU / "nbu.csv", NBU, bucket.location, folder, "--quiet", *more)
    ended = tapemigrate(*words)
    assert ended.code == 0, ended
    return bucket


@pytest.fixture(scope="module")
def warm(moto_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """A pool that is read by many tests and changed by none."""
    return migrated(moto_endpoint, tmp_path_factory.mktemp("warm") / "work")


def rehydrate(bucket: Bucket, image: str, out: str | Path, *more: str | Path) -> Ended:
    return tapemigrate(*rehydrate_words(bucket, image, out, *more))


def rehydrate_words(bucket: Bucket, image: str, out: str | Path, *more: str | Path) -> list[Any]:
    to = bucket.location
    words = ["rehydrate", image, "--from", to.uri, "--endpoint-url", to.endpoint_url, "--out", out]
    return [*words, *more]


def verify(bucket: Bucket, *more: str) -> Ended:
    to = bucket.location
    return tapemigrate("verify", "--to", to.uri, "--endpoint-url", to.endpoint_url or "", *more)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- inventory and plan ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nbu.csv", "bpimagelist_l.txt"])
def test_inventory_prints_the_neutral_model(name: str) -> None:
    ended = tapemigrate(
        "inventory", "--catalog", CATALOGS / name, "--catalog", CATALOGS / "bpmedialist_l.txt",
        "--as-of", "2024-06-01", "--json",
    )  # fmt: skip
    assert ended.code == 0, ended
    assert ended.json["images"] == expected("nbu_expected.json")


def test_inventory_sums_up_for_people() -> None:
    ended = tapemigrate("inventory", "--catalog", CATALOGS / "nbu.csv", "--as-of", "2024-06-01")
    assert ended.code == 0, ended
    assert "UNIX_FS_PROD" in ended.out
    assert "expired" in ended.out


def plan(*more: str) -> Any:
    ended = tapemigrate(
        "plan", "--catalog", CATALOGS / "nbu.csv", "--catalog", CATALOGS / "bpmedialist_l.txt",
        "--as-of", "2024-06-01", "--json", *more,
    )  # fmt: skip
    assert ended.code == 0, ended
    return ended.json


def test_a_plan_of_terabytes_reads_every_tape_once_and_in_the_order_of_what_spans() -> None:
    made = plan()
    model = expected("nbu_expected.json")
    visits = [visit["media_id"] for drive in made["drives"] for visit in drive["visits"]]
    assert len(visits) == len(set(visits)) == made["mounts"]
    place = visits.index
    assert place("0101L6") < place("0102L6") < place("0103L6")
    left_out = sum(entry["images"] for entry in made["images"]["left_out"])
    assert made["images"]["planned"] + left_out == len(model)
    assert made["bytes"] == sum(tape["bytes"] for tape in made["tapes"]) > 10**12
    for tape in made["tapes"]:
        rate = {"LTO-6": 160e6, "LTO-7": 300e6, "LTO-8": 360e6}[tape["generation"]]
        assert tape["bytes"] / rate / 3600 <= tape["hours"] <= tape["bytes"] / rate / 3600 + 1
    (drive,) = made["drives"]
    assert drive["hours"] == pytest.approx(sum(tape["hours"] for tape in made["tapes"]), rel=0.01)


def test_a_plan_skips_what_has_expired_and_keeps_what_is_held() -> None:
    made = plan()
    reasons = {entry["reason"]: entry["images"] for entry in made["images"]["left_out"]}
    model = expected("nbu_expected.json")
    expired = [image for image in model if image["problems"] == ["expired"]]
    assert reasons["expired"] == len(expired)
    earlier = plan("--as-of", "2019-06-01")
    assert earlier["images"]["planned"] > made["images"]["planned"]


def test_a_plan_names_the_price_of_every_class_and_the_one_it_takes() -> None:
    costs = plan("--class", "deep_archive")["costs"]
    assert [cost["storage_class"] for cost in costs["chosen"]] == ["DEEP_ARCHIVE"]
    prices = {cost["storage_class"]: cost["writing_and_keeping"] for cost in costs["if_all_in"]}
    assert prices["DEEP_ARCHIVE"] < prices["GLACIER"] < prices["STANDARD"]
    assert costs["currency"]
    chosen = plan("--class", "auto")["costs"]["chosen"]
    assert sum(cost["images"] for cost in chosen) == plan()["images"]["planned"]


def test_two_drives_share_the_tapes_and_the_hours() -> None:
    one, two = plan(), plan("--drives", "2")
    longest = max(drive["hours"] for drive in two["drives"])
    assert longest < one["drives"][0]["hours"]
    assert two["bytes"] == one["bytes"]


def test_a_plan_explains_why_an_image_goes_to_its_class() -> None:
    words = ("plan", "--catalog", str(CATALOGS / "nbu.csv"), "--as-of", "2024-06-01")
    ended = tapemigrate(*words, "--class", "auto", "--explain", "bigdb.example.com_1610758800")
    assert ended.code == 0
    assert ended.out.startswith("DEEP_ARCHIVE for 3650 days (USD: DEEP_ARCHIVE ")
    assert "left out: ONEZONE_IA: kept in one zone only" in ended.out
    assert tapemigrate(*words, "--explain", "nothing").code == 2


def test_a_dry_run_is_a_plan_and_touches_nothing(moto_endpoint: str, tmp_path: Path) -> None:
    bucket = Bucket(new_bucket(moto_endpoint))
    words = run_words(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    ended = tapemigrate(*words, "--dry-run")
    assert ended.code == 0, ended
    assert ended.json["mounts"] == 2
    assert bucket.keys() == []
    assert not (tmp_path / "work").exists()


# --- status ---------------------------------------------------------------------------------------


def test_status_says_what_became_of_images_and_tapes(moto_endpoint: str, tmp_path: Path) -> None:
    bucket = migrated(moto_endpoint, tmp_path / "work")
    status = tapemigrate_status(tmp_path / "work")
    assert status["pool"] == bucket.location.uri
    assert status["images"]["stored"] == 7
    assert (status["in_progress"], status["facts_waiting"]) == (0, 0)
    assert [tape["released"] for tape in status["tapes"]] == [True, True]
    text = tapemigrate("status", "--workdir", tmp_path / "work")
    assert "NBU001: may be destroyed" in text.out


def test_status_is_told_while_the_run_has_the_work_folder(
    moto_endpoint: str, tmp_path: Path
) -> None:
    seen: list[Any] = []
    bucket = Bucket(new_bucket(moto_endpoint, prefix="pool"))
    with FaultProxy(moto_endpoint) as proxy:

        def look(*answer: Any) -> Any:
            seen.append(tapemigrate_status(tmp_path / "work"))
            return answer

        # the manifest of the first image is on its way
        proxy.play(*(faults.altered("HeadObject", look) for _ in range(2)))
        to = S3Location(bucket.location.bucket, "pool", proxy.url)
        words = run_words(NBU / "nbu.csv", NBU, to, tmp_path / "work", "--quiet")
        ended = tapemigrate(*words)
    assert ended.code == 0, ended
    assert all(status["pool"] == bucket.location.uri for status in seen)
    assert seen[-1]["images"]["stored"] < 7


def test_status_of_no_work_folder_is_an_error(tmp_path: Path) -> None:
    ended = tapemigrate("status", "--workdir", tmp_path / "none")
    assert ended.code == 4
    assert "--workdir" in ended.err
    assert not (tmp_path / "none").exists()


# --- verify --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", ["head", "checksum", "full"])
def test_a_pool_as_it_was_written_is_as_it_should_be(warm: Bucket, depth: str) -> None:
    ended = verify(warm, "--depth", depth, "--json")
    assert ended.code == 0, ended
    assert ended.json == {
        "depth": depth, "checked": 8, "ok": 8, "problems": {}, "unknown": {},
        "unfinished_uploads": 0,
    }  # fmt: skip


def test_the_result_of_a_check_is_in_the_ledger(moto_endpoint: str, tmp_path: Path) -> None:
    bucket = migrated(moto_endpoint, tmp_path / "work")
    before = bucket.kinds()["verified", BETA]
    assert verify(bucket, "--depth", "full", BETA).code == 0
    assert bucket.kinds()["verified", BETA] == before + 1
    assert bucket.kinds()["verified", ZETA] == 1


def test_missing_and_changed_objects_are_found(moto_endpoint: str, tmp_path: Path) -> None:
    bucket = migrated(moto_endpoint, tmp_path / "work")
    to = bucket.location
    gone = bucket.manifest(BETA)["fragments"][0]["key"]
    bucket.client.delete_object(Bucket=to.bucket, Key=to.key(gone))
    part = bucket.manifest(ZETA)["fragments"][1]
    data = bytearray(bucket.get(part["key"]))
    data[1000] ^= 1
    bucket.client.put_object(Bucket=to.bucket, Key=to.key(part["key"]), Body=bytes(data))
    head = verify(bucket, "--depth", "head", "--json")
    assert head.code == 3, head
    assert list(head.json["problems"]) == [f"{BETA} copy 1"]
    for depth in ("checksum", "full"):
        ended = verify(bucket, "--depth", depth, "--json")
        assert ended.code == 3, ended
        assert set(ended.json["problems"]) == {f"{BETA} copy 1", f"{ZETA} copy 1"}
        assert ended.json["ok"] == 6
    facts = [fact for fact in bucket.facts() if fact.kind == "damaged"]
    assert {fact.image for fact in facts} == {BETA, ZETA}
    text = verify(bucket)
    assert (text.code, text.out.count("wrong: ")) == (3, 2)


# --- rehydrate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [BETA, ZETA, "alpha_1690000500"])
def test_an_image_comes_back_byte_for_byte(warm: Bucket, tmp_path: Path, image: str) -> None:
    out = tmp_path / "image"
    ended = rehydrate(warm, image, out, "--json")
    assert ended.code == 0, ended
    assert sha256(out) == expected_nbu()[image] == ended.json["sha256"]
    assert ended.json["size"] == out.stat().st_size
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_an_image_can_be_piped(warm: Bucket) -> None:
    ended, data = tapemigrate_bytes(*rehydrate_words(warm, ZETA, "-"))
    assert ended.code == 0, ended
    assert hashlib.sha256(data).hexdigest() == expected_nbu()[ZETA]


def test_an_interleaved_image_needs_the_demultiplexer(warm: Bucket, tmp_path: Path) -> None:
    out = tmp_path / "image"
    refused = rehydrate(warm, "delta_1690000301", out)
    assert refused.code == 2
    assert MPX_FILE in refused.err
    assert not out.exists()
    ended = rehydrate(warm, "delta_1690000301", out, "--demultiplexer", SYNTHMPX)
    assert ended.code == 0, ended
    assert sha256(out) == expected_nbu()["delta_1690000301"]


def test_what_an_earlier_try_left_is_gone_on_with(warm: Bucket, tmp_path: Path) -> None:
    out = tmp_path / "image"
    whole = warm.image(ZETA)
    (tmp_path / "image.partial").write_bytes(whole[:123_456])
    ended = rehydrate(warm, ZETA, out, "--json")
    assert ended.code == 0, ended
    assert ended.json["resumed_at"] == 123_456
    assert out.read_bytes() == whole


@pytest.mark.parametrize("left", [b"other bytes" * 1000, b"x" * 900_000])
def test_what_another_program_left_is_never_taken_for_the_image(
    warm: Bucket, tmp_path: Path, left: bytes
) -> None:
    out = tmp_path / "image"
    (tmp_path / "image.partial").write_bytes(left)
    ended = rehydrate(warm, ZETA, out)
    if ended.code:
        assert ended.code == 4
        assert not out.exists()
        ended = rehydrate(warm, ZETA, out)
    assert ended.code == 0, ended
    assert sha256(out) == expected_nbu()[ZETA]


def test_an_existing_file_is_only_replaced_by_force(warm: Bucket, tmp_path: Path) -> None:
    out = tmp_path / "image"
    out.write_text("dear")
    ended = rehydrate(warm, BETA, out)
    assert ended.code == 2
    assert "--force" in ended.err
    assert out.read_text() == "dear"
    assert rehydrate(warm, BETA, out, "--force").code == 0
    assert sha256(out) == expected_nbu()[BETA]


def test_an_image_that_is_not_there_is_said_so(warm: Bucket, tmp_path: Path) -> None:
    ended = rehydrate(warm, "nobody_1690000000", tmp_path / "image")
    assert ended.code == 2
    assert "nobody_1690000000" in ended.err
    assert list(tmp_path.glob("image*")) == []


def test_a_pool_that_is_not_there_is_not_made(moto_endpoint: str, tmp_path: Path) -> None:
    bucket = Bucket(new_bucket(moto_endpoint, prefix="nothing"))
    ended = rehydrate(bucket, BETA, tmp_path / "image")
    assert ended.code == 2
    assert "there is no pool at" in ended.err
    assert bucket.keys() == []


def test_a_damaged_object_gives_an_error_and_no_file(moto_endpoint: str, tmp_path: Path) -> None:
    bucket = migrated(moto_endpoint, tmp_path / "work")
    part = bucket.manifest(ZETA)["fragments"][1]
    data = bytearray(bucket.get(part["key"]))
    data[-1] ^= 1
    key = bucket.location.key(part["key"])
    bucket.client.put_object(Bucket=bucket.location.bucket, Key=key, Body=bytes(data))
    out = tmp_path / "image"
    ended = rehydrate(bucket, ZETA, out)
    assert ended.code == 4
    assert "checksum" in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.glob("image*")) == []


# --- rehydrate from a cold class ------------------------------------------------------------------


@pytest.fixture
def cold(moto_endpoint: str, tmp_path: Path) -> Bucket:
    return migrated(moto_endpoint, tmp_path / "work", "--class", "deep_archive")


def restores(proxy: FaultProxy) -> int:
    return proxy.seen.count("RestoreObject")


def through(proxy: FaultProxy, bucket: Bucket) -> Bucket:
    to = bucket.location
    return Bucket(S3Location(to.bucket, to.prefix, proxy.url))


def test_a_cold_image_has_a_price_first_and_comes_back_with_consent(
    moto_endpoint: str, cold: Bucket, tmp_path: Path
) -> None:
    out = tmp_path / "image"
    with FaultProxy(moto_endpoint) as proxy:
        seen = through(proxy, cold)
        looked = rehydrate(seen, ZETA, out, "--dry-run", "--json")
        assert looked.code == 0, looked
        assert looked.json["objects"] == 2
        assert looked.json["bytes"] == cold.manifest(ZETA)["size"]
        assert looked.json["cost"] > 0
        assert looked.json["hours"] == 48
        refused = rehydrate(seen, ZETA, out)
        assert refused.code == 2
        assert "--yes" in refused.err
        dear = rehydrate(seen, ZETA, out, "--max-cost", "0")
        assert dear.code == 2
        assert "--max-cost" in dear.err
        assert restores(proxy) == 0, "nothing was asked for"
        assert not out.exists()
        ended = rehydrate(seen, ZETA, out, "--yes", "--wait")
        assert ended.code == 0, ended
        assert restores(proxy) == 2
    assert sha256(out) == expected_nbu()[ZETA]
    kinds = cold.kinds()
    assert kinds["recalled", ZETA] == kinds["restored", ZETA] == 1


def test_a_recall_on_its_way_ends_with_5_and_the_same_command_fetches_it(
    moto_endpoint: str, cold: Bucket, tmp_path: Path
) -> None:
    out = tmp_path / "image"

    def on_its_way(status: int, headers: dict[str, str], body: bytes) -> Any:
        kept = {k: v for k, v in headers.items() if k.lower() != "x-amz-restore"}
        return status, {**kept, "x-amz-restore": 'ongoing-request="true"'}, body

    def plain(*answer: Any) -> Any:
        return answer

    with FaultProxy(moto_endpoint) as proxy:
        seen = through(proxy, cold)
        # two looks for the offer and two for the ticket, then two for the progress
        proxy.play(*(faults.altered("HeadObject", plain) for _ in range(4)))
        proxy.play(*(faults.altered("HeadObject", on_its_way) for _ in range(2)))
        ended = rehydrate(seen, ZETA, out, "--yes")
        assert ended.code == 5, ended
        assert "--wait" in ended.err
        assert list(tmp_path.glob("image*")) == []
        asked = restores(proxy)
        assert asked == 2
        again = rehydrate(seen, ZETA, out)
        assert again.code == 0, again
        assert restores(proxy) == asked, "what was recalled is not asked for again"
    assert sha256(out) == expected_nbu()[ZETA]


def test_a_faster_tier_costs_more(cold: Bucket, tmp_path: Path) -> None:
    quotes = {
        tier: rehydrate(cold, ZETA, tmp_path / "x", "--dry-run", "--json", "--tier", tier).json
        for tier in ("bulk", "standard")
    }
    assert quotes["bulk"]["cost"] < quotes["standard"]["cost"]
    assert quotes["bulk"]["hours"] > quotes["standard"]["hours"]
    refused = rehydrate(cold, ZETA, tmp_path / "x", "--dry-run", "--tier", "expedited")
    assert refused.code in (2, 4), "DEEP_ARCHIVE has no expedited recalls"
    assert "xpedited" in refused.err


# --- options, configuration, exit codes -----------------------------------------------------------


def test_a_toml_file_gives_defaults_and_the_command_line_wins(
    moto_endpoint: str, tmp_path: Path
) -> None:
    bucket = Bucket(new_bucket(moto_endpoint, prefix="pool"))
    Path("tapelift.toml").write_text(
        f"""
        endpoint-url = "{moto_endpoint}"
        class = "standard_ia"
        [run]
        catalog = ["{NBU / "nbu.csv"}"]
        tapes = "{NBU}"
        to = "{bucket.location.uri}"
        workdir = "{tmp_path / "work"}"
        quiet = true
        """
    )
    ended = tapemigrate("run", "--json")
    assert ended.code == 0, ended
    part = bucket.manifest(BETA)["fragments"][0]
    assert part["storage_class"] == "STANDARD_IA"
    other = Bucket(new_bucket(moto_endpoint, prefix="pool"))
    words = ["--to", other.location.uri, "--class", "glacier_ir", "--workdir", tmp_path / "two"]
    assert tapemigrate("run", *words).code == 0
    assert other.manifest(BETA)["fragments"][0]["storage_class"] == "GLACIER_IR"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('colour = "red"', "colour"),
        ('[run]\nstorage = "x"', "run.storage"),
        ("[nonsense]\nx = 1", "nonsense"),
        ("= 3", "TOML"),
    ],
)
def test_an_unknown_key_is_named_and_nothing_is_done(text: str, names: str) -> None:
    Path("tapelift.toml").write_text(text)
    ended = tapemigrate("inventory", "--catalog", CATALOGS / "nbu.csv")
    assert ended.code == 2
    assert names in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--catalog", "nowhere.csv"], "nowhere.csv"),
        (["--tapes", "nowhere"], "nowhere"),
        (["--to", "http://bucket/pool"], "s3://BUCKET/PREFIX"),
        (["--class", "marble"], "marble"),
        (["--lock", "double"], "double"),
        (["--as-of", "yesterday"], "yesterday"),
        (["--part-mib", "1"], "part"),
        (["--demultiplexer", "nothing"], "nothing"),
        (["--drive", "/dev/nst0"], "drive"),
        (["--drives", "0"], "--drives"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_leaves_nothing(
    moto_endpoint: str, tmp_path: Path, words: list[str], says: str
) -> None:
    bucket = Bucket(new_bucket(moto_endpoint))
    base = run_words(NBU / "nbu.csv", NBU, bucket.location, tmp_path / "work")
    ended = tapemigrate(*base, *words)
    assert ended.code == 2, ended
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert ended.json["error"]["message"]
    assert bucket.keys() == []


def test_another_pool_or_catalogue_needs_another_work_folder(
    moto_endpoint: str, tmp_path: Path
) -> None:
    migrated(moto_endpoint, tmp_path / "work")
    other = Bucket(new_bucket(moto_endpoint))
    for catalog in (NBU / "nbu.csv", CATALOGS / "small.csv"):
        ended = tapemigrate(*run_words(catalog, NBU, other.location, tmp_path / "work"))
        assert ended.code == 2
        assert "choose another --workdir" in ended.err
    assert other.keys() == []


def test_a_work_folder_in_use_is_left_alone(moto_endpoint: str, tmp_path: Path) -> None:
    bucket = Bucket(new_bucket(moto_endpoint, prefix="pool"))
    seen: list[Ended] = []
    with FaultProxy(moto_endpoint) as proxy:
        to = S3Location(bucket.location.bucket, "pool", proxy.url)
        words = run_words(NBU / "nbu.csv", NBU, to, tmp_path / "work", "--quiet")

        def again(*answer: Any) -> Any:
            seen.append(tapemigrate(*words))
            return answer

        proxy.play(faults.altered("HeadObject", again))
        assert tapemigrate(*words).code == 0
    assert seen[0].code == 4
    assert "in use by another process" in seen[0].err


def test_json_says_what_went_wrong() -> None:
    ended = tapemigrate("inventory", "--catalog", "nowhere.csv", "--json")
    error = json.loads(ended.out)["error"]
    assert set(error) == {"code", "message", "hint", "retryable"}
    assert ended.code == 2
