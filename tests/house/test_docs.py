"""The documents say what the programs do: commands, options, JSON, links, calls, tables."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import botocore.validate
import cfnlint.decode
import pytest

import connector.cli
from catalog import console
from catalog.console import ExitCode
from catalog.model import LockMode, StorageClass
from connector import config
from connector.dplcompat import OPTIONS
from connector.metrics import POOL_METRICS
from connector.pool.classes import ClassPolicy
from connector.pool.prices import Prices
from migrate import lto
from migrate.cli import CODES
from migrate.inventory.detect import FORMATS, read_catalogs
from migrate.inventory.store import Inventory
from migrate.model import Problem
from migrate.options import defaults_from
from migrate.selection import Outcome
from tests.connector.support import answered, answering
from tests.serve.support import World
from tests.support.moto_s3 import moto_server

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DEMO = ROOT / "scripts" / "demo_files"
CODE = [
    path
    for package in ("catalog", "connector", "migrate")
    for path in (ROOT / package).rglob("*.py")
]
FOREIGN_OPTIONS = {
    "--label",  # tar's
    "--require-hashes",  # pip's
    "--create-bucket-configuration",  # the aws command line's
    "--compress",  # pg_dump's
    "--lock-tables",  # mariadb-dump's, as the next two
    "--routines",
    "--single-transaction",
}


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scripts_docs", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def example(name: str, language: str = "json", where: str = "docs/cli.md") -> str:
    (only,) = fenced(page(where), f"{language} {name}")
    return only


# --- commands and options -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["docs/cli.md", "docs/configuration.md"])
def test_commands_and_settings_are_listed_as_the_code_has_them(docs: ModuleType, name: str) -> None:
    assert name in docs.PAGES
    old = page(name)
    assert docs.page(name, old) == old, "run scripts/docs"


def test_every_command_and_every_option_has_help(docs: ModuleType) -> None:
    for program in docs.PROGRAMS:
        group = docs.command_of(program)
        assert group.help
        for name, command in group.commands.items():
            assert f"Example: {program} {name} " in " ".join(command.help.split()) + " ", name
            missing = [p.name for p in command.params if not p.help]
            assert missing == [], f"{program} {name}"
        assert [p.name for p in group.params if not p.help] == []


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


def commands_in(text: str) -> Iterator[str]:
    """Every call of ours in code: in fenced blocks and between backticks, to its end."""
    code = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for piece in [*code, *re.findall(r"`([^`]+)`", prose)]:
        for line in piece.replace("\\\n", " ").splitlines():
            for found in re.finditer(
                r"(?<![\w/.-])tape(?:connector|migrate|catalog)\b(?!-)[^|;&]*", line
            ):
                yield found[0].strip()


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_no_page_names_a_command_or_an_option_that_does_not_exist(
    docs: ModuleType, path: Path
) -> None:
    groups = {program: docs.command_of(program) for program in docs.PROGRAMS}
    for call in commands_in(path.read_text("utf-8")):
        call = re.sub(r'"[^"]*"|\'[^\']*\'', "TEXT", call)
        call = call.partition(" -- ")[0]  # what follows is another program's
        program, *words = call.split()
        known = options_of(groups[program])
        command = next((word for word in words if not word.startswith("-")), None)
        if command and re.fullmatch(r"[a-z]+", command):
            assert command in groups[program].commands, call
            known |= options_of(groups[program].commands[command])
        used = {word.partition("=")[0] for word in words if re.fullmatch(r"--[a-z][\w=-]*", word)}
        assert used <= known, call


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_no_page_names_an_option_that_nobody_has(docs: ModuleType, path: Path) -> None:
    known = FOREIGN_OPTIONS | {"--deep", "--keep"}
    for program in docs.PROGRAMS:
        group = docs.command_of(program)
        known |= options_of(group).union(*(options_of(one) for one in group.commands.values()))
    used = set(re.findall(r"`(--[a-z][a-z-]+)", path.read_text("utf-8")))
    assert used - known == set()


# --- links --------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """As code hosts make them from headings: lower case, no punctuation, dashes for blanks."""
    heads = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_no_link_is_broken(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target
    for mentioned in re.findall(r"\bdocs/[\w/]+\.md\b", path.read_text("utf-8")):
        assert (ROOT / mentioned).is_file(), mentioned


def test_every_page_that_the_code_sends_people_to_is_there() -> None:
    for path in [*CODE, *(ROOT / "catalog" / "sql").iterdir()]:
        for mentioned, section in re.findall(
            r'\b(docs/[\w/]+\.md)\b(?:, "([^"]+)")?', path.read_text("utf-8")
        ):
            there = ROOT / mentioned
            assert there.is_file(), f"{named(path)}: {mentioned}"
            heads = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            section = " ".join(section.split())
            assert not section or section in heads, f"{named(path)}: {mentioned}, {section}"


def test_the_readme_begins_with_two_commands_that_are_there() -> None:
    commands = re.findall(r"^    (\./scripts/\w+)", page("README.md"), re.MULTILINE)
    assert commands == ["./scripts/demo", "./scripts/test"]
    assert all((ROOT / command).is_file() for command in commands)


def test_decisions_are_numbered_and_say_context_decision_and_consequences() -> None:
    found = sorted((ROOT / "docs" / "adr").iterdir())
    assert [int(path.name[:4]) for path in found] == list(range(1, len(found) + 1))
    for path in found:
        text = path.read_text("utf-8")
        assert text.startswith(f"# {int(path.name[:4])}. "), path.name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
        ], path.name


# --- examples that are fed to the program ---------------------------------------------------------


def test_the_native_catalogue_is_read_without_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "tapes.json"
    path.write_text(example("native"))
    with Inventory.create(":memory:") as found:
        report = read_catalogs([path], found)
        (image,) = found.images()
        labels = [media.label for media in found.media()]
    assert report.findings == []
    assert (image.product, image.expires_infinite) == ("tar", True)
    assert [part.tape_file_number for part in image.copies[0].fragments] == [0, 0, 0]
    assert labels == [f"PROJECTS Volume {number}" for number in (1, 2, 3)]


def test_the_file_of_defaults_has_only_options_that_are_there(
    docs: ModuleType, tmp_path: Path
) -> None:
    (text,) = fenced(page("docs/cli.md"), "toml")
    path = tmp_path / "tapelift.toml"
    path.write_text(text)
    commands = docs.command_of("tapemigrate").commands
    parameters = {name: {p.name for p in command.params} for name, command in commands.items()}
    found = defaults_from(path, parameters)
    assert found["run"]["class_name"] == "auto"
    assert "lock" not in found["plan"]


def test_the_price_table_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(example("prices", "toml", "docs/operations.md"))
    prices = Prices.load(path)
    cost = prices.storing(StorageClass.DEEP_ARCHIVE, size=10**12, days=3650)
    assert 118 < cost < 120  # 1 TB, 120 months at 0.00099 per GB


def test_the_lifecycle_rule_is_one() -> None:
    rules = json.loads(example("lifecycle", where="docs/operations.md"))
    client = boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    shape = client.meta.service_model.operation_model("PutBucketLifecycleConfiguration").input_shape
    found = botocore.validate.ParamValidator().validate(
        {"Bucket": "backups", "LifecycleConfiguration": rules}, shape
    )
    assert not found.has_errors(), found.generate_report()


# --- what the docs tabulate -----------------------------------------------------------------------

ACTIONS = {
    "abort_multipart_upload": ["s3:AbortMultipartUpload"],
    "complete_multipart_upload": ["s3:PutObject"],
    "create_multipart_upload": ["s3:PutObject", "s3:PutObjectTagging"],
    "delete_bucket_lifecycle": ["s3:PutLifecycleConfiguration"],
    "delete_object": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
    "get_bucket_lifecycle_configuration": ["s3:GetLifecycleConfiguration"],
    "get_bucket_versioning": ["s3:GetBucketVersioning"],
    "get_object": ["s3:GetObject", "s3:GetObjectVersion"],
    "get_object_lock_configuration": ["s3:GetBucketObjectLockConfiguration"],
    "head_object": ["s3:GetObject", "s3:GetObjectRetention", "s3:GetObjectLegalHold"],
    "list_multipart_uploads": ["s3:ListBucketMultipartUploads"],
    "list_object_versions": ["s3:ListBucketVersions"],
    "list_objects_v2": ["s3:ListBucket"],
    "list_parts": ["s3:ListMultipartUploadParts"],
    "put_bucket_lifecycle_configuration": ["s3:PutLifecycleConfiguration"],
    "put_object": ["s3:PutObject", "s3:PutObjectTagging"],
    "put_object_legal_hold": ["s3:PutObjectLegalHold"],
    "put_object_retention": ["s3:PutObjectRetention"],
    "restore_object": ["s3:RestoreObject"],
    "upload_part": ["s3:PutObject"],
}
"""The rights that a call needs. Source: S3 user guide, "Required permissions"."""


def granted_by_the_page() -> list[str]:
    policy = json.loads(example("policy", where="docs/operations.md"))
    return [action for statement in policy["Statement"] for action in statement["Action"]]


def test_the_policy_allows_every_call_that_the_code_makes_and_nothing_else() -> None:
    client = boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    calls = {
        name
        for path in CODE
        for name in re.findall(r"\bclient\.([a-z_0-9]+)", path.read_text("utf-8"))
        if name in client.meta.method_to_api_mapping
    }
    needed = {action for call in calls for action in ACTIONS[call]}
    assert sorted(granted_by_the_page()) == sorted(needed)


def test_the_template_grants_what_the_page_grants() -> None:
    template, _ = cfnlint.decode.decode(str(ROOT / "scripts" / "aws" / "tapelift.yaml"))
    statements = template["Resources"]["Policy"]["Properties"]["PolicyDocument"]["Statement"]
    granted: list[str] = []
    for statement in statements:
        actions = statement.get("Fn::If", [None, statement])[1]["Action"]
        granted += [actions] if isinstance(actions, str) else actions
    on_objects = [action for action in granted if action.startswith("s3:")]
    assert sorted(on_objects) == sorted(granted_by_the_page())
    kms = sorted(set(granted) - set(on_objects))
    assert kms == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert all(f"`{action}`" in page("docs/operations.md") for action in kms)


def test_every_right_has_its_reason() -> None:
    section = page("docs/operations.md").partition("### The least policy")[2].partition("\n### ")[0]
    reasons = set(re.findall(r"`(s3:\w+)`", section.partition("| right |")[2]))
    assert reasons >= set(granted_by_the_page())


def test_every_right_is_tried_by_the_doctor() -> None:
    """But those that cannot be tried without changing something; these it names as well."""
    code = "".join(p.read_text("utf-8") for p in (ROOT / "connector" / "doctor").iterdir())
    assert [one for one in granted_by_the_page() if f'"{one}"' not in code] == []


def test_the_configuration_of_a_new_installation_is_one(tmp_path: Path) -> None:
    path = tmp_path / "tapeconnector.toml"
    path.write_text(example("installation", "toml", "docs/operations.md").replace('"backup"', "0"))
    settings = config.load(path)
    (pool,) = settings.pools
    assert (pool.bucket, pool.prefix, pool.keep_days) == ("backups", "pool/main", 365)
    assert pool.lock is LockMode.GOVERNANCE
    assert settings.metrics_port == 9464


def test_every_metric_is_explained() -> None:
    section = page("docs/operations.md").partition("## Metrics")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(tapelift_\w+)`", section, re.MULTILINE))
    ours = {f"tapelift_{row.name}" + ("_total" if row.counter else "") for row in POOL_METRICS}
    assert ours <= told
    alerts = set(
        re.findall(r"tapelift_\w+", "".join(fenced(page("docs/operations.md"), "yaml alerts")))
    )
    assert alerts <= told


def test_every_code_of_an_error_says_what_to_do_at_night() -> None:
    section = page("docs/operations.md").partition("## At 3 a.m.")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.M))))
    listed = page("docs/protocols.md").partition("## Errors")[2].partition("\n## ")[0]
    codes = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`.*?) \|", listed, re.M))))
    assert codes
    assert codes - told == set()


def test_every_exit_code_is_explained() -> None:
    rows = [int(code) for code in re.findall(r"^\| (\d+) \|", page("docs/cli.md"), re.MULTILINE)]
    assert rows == [code.value for code in ExitCode]
    assert {*CODES.values(), *connector.cli.CODES.values()} <= set(ExitCode)


def test_every_catalogue_format_is_listed() -> None:
    for name in FORMATS:
        assert f"`{name}`" in page("docs/cli.md")


def test_every_finding_and_every_outcome_is_named() -> None:
    for problem in Problem:
        assert f"`{problem.value}`" in page("docs/cli.md")
        assert f"`{problem.value}`" in page("docs/semantics.md")
    for outcome in Outcome:
        assert f"| `{outcome.value}` |" in page("docs/semantics.md")


def test_the_planning_times_are_those_of_the_code() -> None:
    rows = {
        cells[1].split(" s")[0].strip(): [int(cell) for cell in cells[2:-1]]
        for line in page("docs/operations.md").splitlines()
        if re.fullmatch(r"\| [a-z ,/MBs]+ (\| \d+ )+\|", line)
        for cells in (line.split("|"),)
    }
    every = lto.GENERATIONS.values()
    assert rows == {
        "native MB/s, full height": [one.rate // lto.MB for one in every],
        "load": [one.load_s for one in every],
        "average locate": [one.locate_s for one in every],
        "rewind": [one.rewind_s for one in every],
        "unload": [one.unload_s for one in every],
    }
    assert f"Robot: {lto.ROBOT_S:g} s" in page("docs/operations.md")


def test_the_messages_that_are_explained_can_appear() -> None:
    joined = "\n".join(path.read_text("utf-8") for path in CODE)
    source = re.sub(r'"\s*\n\s*f?"', "", joined)  # literals that stand one after the other
    section = page("docs/operations.md").partition("## Error messages")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        for piece in re.split(r" *\.\.\. *| N | \(HTTP 403|\)", message):
            assert piece in source or piece == "Unable to locate credentials", message


# --- JSON -------------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """Keys, as deep as they go; of a list, those of all its elements together."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        merged: dict[str, Any] = {}
        for inner in value:
            if isinstance(inner, dict):
                merged |= shape(inner)
        return merged
    return None


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the commands print as JSON, on the demo's tapes."""
    folder = tmp_path_factory.mktemp("docs")
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    with moto_server() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "docs",
            "AWS_SECRET_ACCESS_KEY": "docs",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        boto3.client("s3").create_bucket(Bucket="backups")
        yield {name: _run(words) for name, words in CALLS.items()}
    root.handlers = handlers
    root.setLevel(level)


POOL = "s3://backups/pool"
TAPES = ("--catalog", str(DEMO / "nbu.csv"), "--tapes", str(DEMO / "shelf"))
ZETA = ("tapemigrate", "rehydrate", "zeta_1690000400", "--from", POOL)
CALLS: dict[str, tuple[str, ...]] = {
    "inventory": ("tapemigrate", "inventory", *TAPES[:2]),
    "plan": ("tapemigrate", "plan", *TAPES, "--class", "deep_archive"),
    "run": ("tapemigrate", "run", *TAPES, "--to", POOL, "--class", "deep_archive", "-q"),
    "status": ("tapemigrate", "status"),
    "verify": ("tapemigrate", "verify", "--to", POOL),
    "quote": (*ZETA, "--dry-run"),
    "rehydrate": (*ZETA, "--out", "zeta.tar", "--yes"),
    "ledger-verify": ("tapecatalog", "verify", "--ledger", POOL),
    "error": ("tapemigrate", "run", *TAPES),
}


def _run(words: tuple[str, ...]) -> Any:
    import catalog.cli
    import migrate.cli

    app = {"tapemigrate": migrate.cli.app, "tapecatalog": catalog.cli.app}[words[0]]
    codes = CODES if words[0] == "tapemigrate" else None
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        console.run(app, words[0], codes=codes, args=[*words[1:], "--json"])
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the daemon's clients print as JSON."""
    folder = tmp_path_factory.mktemp("pool")
    world, sizes = World(folder / "world"), {"part_size": 16 << 10, "fragment_size": 64 << 10}
    cold = ClassPolicy(fixed=StorageClass.DEEP_ARCHIVE)
    pools = (world.pool(sizes=sizes), world.pool("cold", policy=cold, sizes=sizes))
    (folder / "db.dump").write_bytes(b"x" * 1000)
    with answering(folder, world, *pools) as socket:
        return {
            name: answered(words[0], "--socket", str(socket), *words[1:])
            for name, words in _of_clients(folder).items()
        }


def _of_clients(folder: Path) -> dict[str, tuple[str, ...]]:
    image, file = "main/db_17", str(folder / "db.dump")
    return {
        "put": ("put", image, file),
        "get": ("get", image, "--out", str(folder / "out")),
        "ls": ("ls", "main/"),
        "stat": ("stat", image),
        "cold": ("put", "cold/old", file),
        "prepare": ("prepare", "cold/old", "--dry-run"),
        "copy": ("copy", image, "cold"),
        "connector-verify": ("verify", image),
        "events": ("events", "--limit", "2"),
        "pools": ("pools", "main"),
        "connector-status": ("status",),
    }


@pytest.mark.parametrize("name", [name for name in _of_clients(Path()) if name != "cold"])
def test_the_json_of_clients_has_the_keys_that_are_printed(told: dict[str, Any], name: str) -> None:
    shown = json.loads(example(name))
    assert shape(shown) == shape(told[name])
    if isinstance(shown, list):
        assert shape(shown[0]) == shape(told[name][0])


def test_every_option_of_the_wrapper_is_listed() -> None:
    rows = re.findall(r"^\| `(tapelift_\w+)` \| (.*) \|$", page("docs/cli.md"), re.MULTILINE)
    assert dict(rows) == OPTIONS


@pytest.mark.parametrize("name", CALLS)
def test_the_json_that_is_shown_has_the_keys_that_are_printed(
    printed: dict[str, Any], name: str
) -> None:
    assert shape(json.loads(example(name))) == shape(printed[name])
    assert list(json.loads(example(name))) == list(printed[name])


def test_the_figures_of_the_example_are_those_of_the_demo(printed: dict[str, Any]) -> None:
    shown = json.loads(example("run"))
    assert {**printed["run"], "run_id": "", "workdir": "", "warnings": []} == {
        **shown,
        "run_id": "",
        "workdir": "",
    }
    assert json.loads(example("rehydrate")) == printed["rehydrate"]
