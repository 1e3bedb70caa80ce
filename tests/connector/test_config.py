"""The configuration: what is read, what is refused, and what an error says."""

from __future__ import annotations

import grp
import os
import pwd
import re
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from catalog.model import LockMode, StorageClass
from connector.config import SECTIONS, load
from connector.pool.coding import Compression
from connector.settings import Ack, PoolSettings, Settings
from connector.store.interface import RecallTier
from connector.store.s3_encryption import EncryptionKind

MIB = 1 << 20
SMALLEST = """
[socket]
path = "pool.socket"
[state]
dir = "state"
[pools.main]
bucket = "backups"
prefix = "main"
endpoint_url = "http://127.0.0.1:9000"
class = "standard"
"""
TOKEN = "0123456789abcdef-secret"
KEY = bytes(range(32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything that a configuration may name."""
    for name, data, mode in (
        ("key", KEY, 0o600),
        ("short-key", KEY[:31], 0o600),
        ("open-key", KEY, 0o604),
        ("token", TOKEN.encode() + b"\n", 0o600),
        ("open-token", TOKEN.encode(), 0o644),
        ("short-token", b"hush", 0o600),
        ("tls.pem", b"certificate", 0o644),
        ("tls.key", b"key", 0o600),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        path.chmod(mode)
    (tmp_path / "spool").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    return tmp_path


def read(folder: Path, text: str) -> Settings:
    path = folder / "tapeconnector.toml"
    path.write_text(text)
    return load(path)


def pool_with(folder: Path, more: str) -> PoolSettings:
    (pool,) = read(folder, SMALLEST + more).pools
    return pool


def test_the_smallest_file_is_enough(folder: Path) -> None:
    settings = read(folder, SMALLEST)
    assert settings.socket is not None
    assert settings.socket.path == folder / "pool.socket"
    assert settings.state == folder / "state"
    (pool,) = settings.pools
    assert (pool.name, pool.bucket, pool.prefix) == ("main", "backups", "main")
    assert pool.endpoint_url == "http://127.0.0.1:9000"
    assert pool.policy.fixed is StorageClass.STANDARD
    assert (settings.tcp, settings.metrics_port, settings.log_json) == (None, None, False)


def test_every_key_is_taken(folder: Path) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    group = grp.getgrgid(os.getgid()).gr_name
    settings = read(
        folder,
        f"""
        [socket]
        path = "/tmp/s"
        users = ["{user}", 1234]
        groups = [4321, "{group}"]
        mode = "0600"
        [state]
        dir = "/var/lib/x"
        [tcp]
        host = "::1"
        port = 4711
        certificate = "tls.pem"
        key = "tls.key"
        token_file = "token"
        [limits]
        connections = 10
        handles = 3
        half_open_s = 1.5
        idle_s = 60
        call_s = 30
        abandoned_s = 0
        [metrics]
        port = 9464
        [log]
        format = "json"
        [pools.one]
        bucket = "backups"
        prefix = ""
        class = "auto"
        expected_restores = 1
        max_wait_hours = 12
        one_zone = true
        lock = "compliance"
        keep_days = 30
        fragment_size = "1 GiB"
        part_size = 8388608
        parts_in_flight = 2
        images_open = 64
        ledger = "s3://books/one"
        ledger_rows = 7
        ledger_seconds = 9
        compression = "zstd"
        encryption = "client"
        key_file = "key"
        key_id = "2026"
        earlier_keys = [{{ key_file = "key", key_id = "2025" }}]
        ack = "spooled"
        spool = {{ dir = "spool", limit = "100 GB" }}
        bandwidth = [
            {{ limit = "10 MB", from = "08:00", to = "18:00", days = ["fri", "mon"] }},
            {{ limit = "100 MiB" }},
        ]
        soft_quota = "1 TiB"
        hard_quota = "2 TiB"
        capacity = "4 TiB"
        recall = {{ tier = "bulk", days = 3, automatic = true, max_cost = 1.5, monthly_budget = 9 }}
        deadline_s = 45
        [pools.two]
        bucket = "others"
        prefix = "x/y"
        class = "STANDARD"
        lifecycle = [{{ days = 30, class = "glacier_ir" }}, {{ days = 90, class = "deep_archive" }}]
        encryption = "sse-kms"
        kms_key_id = "alias/backups"
        """,
    )
    assert settings.socket is not None
    assert settings.socket.users == (os.getuid(), 1234)
    assert settings.socket.groups == (4321, os.getgid())
    assert settings.socket.mode == 0o600
    assert settings.tcp is not None
    assert (settings.tcp.host, settings.tcp.port, settings.tcp.token) == ("::1", 4711, TOKEN)
    assert (settings.limits.connections, settings.limits.abandoned_s) == (10, 0)
    assert (settings.metrics_port, settings.log_json) == (9464, True)
    one, two = settings.pools
    assert (one.policy.fixed, one.policy.one_zone, one.policy.recall_days) == (None, True, 3)
    assert (one.lock, one.keep_days, one.ack) == (LockMode.COMPLIANCE, 30, Ack.SPOOLED)
    assert (one.config.part_size, one.config.fragment_size) == (8 * MIB, 1024 * MIB)
    assert (one.config.images_open, one.config.ledger_rows, one.config.ledger_seconds) == (64, 7, 9)
    assert one.coding.compression is Compression.ZSTD
    assert one.coding.client_key is not None
    assert (one.coding.client_key.id, one.coding.client_key.key) == ("2026", KEY)
    assert [key.id for key in one.coding.earlier_keys] == ["2025"]
    assert one.spool is not None
    assert (one.spool.folder, one.spool.limit) == (folder / "spool", 100 * 10**9)
    day, night = one.bandwidth
    assert (day.bytes_per_second, day.from_minute, day.to_minute) == (10**7, 480, 1080)
    assert day.days == (0, 4)
    assert (night.from_minute, night.to_minute, len(night.days)) == (0, 1440, 7)
    assert one.recall.tier is RecallTier.BULK
    assert (one.recall.max_cost, one.recall.monthly_budget) == (1.5, 9.0)
    assert one.s3_deadline_s == 45
    assert [(step.days, step.storage_class) for step in two.lifecycle] == [
        (30, StorageClass.GLACIER_IR),
        (90, StorageClass.DEEP_ARCHIVE),
    ]
    assert two.encryption.kind is EncryptionKind.SSE_KMS
    assert two.encryption.kms_key_id == "alias/backups"


def test_the_key_of_sse_c_comes_from_its_file(folder: Path) -> None:
    pool = pool_with(folder, 'encryption = "sse-c"\nkey_file = "key"\n')
    assert pool.encryption.customer_key == KEY


def test_no_secret_is_shown(folder: Path) -> None:
    settings = read(
        folder,
        SMALLEST
        + 'encryption = "client"\nkey_file = "key"\nkey_id = "k"\n'
        + '[tcp]\nport = 1\ncertificate = "tls.pem"\nkey = "tls.key"\ntoken_file = "token"\n',
    )
    assert settings.tcp is not None
    assert settings.tcp.token == TOKEN
    assert TOKEN not in repr(settings)
    assert repr(KEY) not in repr(settings)


SECOND = '[pools.two]\nbucket = "backups"\nendpoint_url = "http://127.0.0.1:9000"\n'
TCP = '[tcp]\nport = 1\ncertificate = "tls.pem"\nkey = "tls.key"\n'
CLIENT = 'encryption = "client"\nkey_id = "k"\n'

BROKEN: dict[str, tuple[str, str, str]] = {  # what is added; the key; what is said of it
    "a section that is none": ("[sockets]\n", "sockets", "is not a section"),
    "a key that is none": ("bukket = 1\n", "pools.main.bukket", "did you mean bucket?"),
    "a number as text": ('keep_days = "30"\n', "pools.main.keep_days", "not a whole number"),
    "a yes as text": ('one_zone = "yes"\n', "pools.main.one_zone", "write true or false"),
    "a yes as number": ("keep_days = true\n", "pools.main.keep_days", "not a whole number"),
    "no size": ('part_size = "16 megs"\n', "pools.main.part_size", '"16 MiB"'),
    "a small part": ('part_size = "1 MiB"\n', "pools.main.part_size", "5 MiB to 5 GiB"),
    "a huge size": ('capacity = "9999999 PiB"\n', "pools.main.capacity", "2^63 - 1"),
    "too many parts": (
        'part_size = "5 MiB"\nfragment_size = "1 TiB"\n',
        "pools.main.fragment_size",
        "larger parts or smaller fragments",
    ),
    "part above fragment": (
        'part_size = "16 MiB"\nfragment_size = "8 MiB"\n',
        "pools.main.fragment_size",
        "not between a part and",
    ),
    "a lock that is none": ('lock = "strict"\n', "pools.main.lock", "use none, governance"),
    "a price table that is not there": (
        'prices = "prices.toml"\n', "pools.main.prices", "cannot read",
    ),
    "spooled without spool": ('ack = "spooled"\n', "pools.main.spool", "dir and limit"),
    "a spool for nothing": (
        'spool = { dir = "spool", limit = "1 GiB" }\n', "pools.main.spool", 'ack = "spooled"',
    ),
    "a spool that is not there": (
        'ack = "spooled"\nspool = { dir = "gone", limit = "1 GiB" }\n',
        "pools.main.spool.dir",
        "there is no folder",
    ),
    "a spool without a bound": (
        'ack = "spooled"\nspool = { dir = "spool" }\n', "pools.main.spool.limit", "is missing",
    ),
    "a spool that holds nothing": (
        'ack = "spooled"\nspool = { dir = "spool", limit = "2 MiB" }\n',
        "pools.main.spool.limit",
        "less than a part",
    ),
    "steps that get warmer": (
        'lifecycle = [{ days = 30, class = "deep_archive" }, { days = 60, class = "glacier" }]\n',
        "pools.main.lifecycle",
        "moves go one way only",
    ),
    "steps in no order": (
        'lifecycle = [{ days = 30, class = "glacier" }, { days = 30, class = "deep_archive" }]\n',
        "pools.main.lifecycle",
        "order the steps by their days",
    ),
    "a window of no length": (
        'bandwidth = [{ limit = "1 MB", from = "08:00", to = "08:00" }]\n',
        "pools.main.bandwidth[1]",
        "begins and ends at the same time",
    ),
    "a time that is none": (
        'bandwidth = [{ limit = "1 MB", from = "25:00" }]\n',
        "pools.main.bandwidth[1].from",
        '"06:30"',
    ),
    "a day that is none": (
        'bandwidth = [{ limit = "1 MB", days = ["monday"] }]\n',
        "pools.main.bandwidth[1].days",
        "mon, tue",
    ),
    "a recall without a bound": (
        "recall = { automatic = true }\n", "pools.main.recall", "give max_cost",
    ),
    "a recall above its budget": (
        "recall = { max_cost = 9, monthly_budget = 1 }\n", "pools.main.recall", "lower max_cost",
    ),
    "marks in the wrong order": (
        "soft_quota = 10\nhard_quota = 9\n", "pools.main.soft_quota", "above hard_quota",
    ),
    "a mark above the capacity": (
        "capacity = 10\nhard_quota = 11\n", "pools.main.hard_quota", "above capacity",
    ),
    "an encryption that is none": ('encryption = "aes"\n', "pools.main.encryption", "use none"),
    "a key without use": ('key_file = "key"\n', "pools.main.key_file", "sse-c or client"),
    "a kms key without use": (
        'encryption = "sse-s3"\nkms_key_id = "x"\n', "pools.main.kms_key_id", "use sse-kms",
    ),
    "client without a key": (CLIENT, "pools.main.key_file", "make one: (umask 077"),
    "client without a name": (
        'encryption = "client"\nkey_file = "key"\n', "pools.main.key_id", "name the key",
    ),
    "a short key": (f'{CLIENT}key_file = "short-key"\n', "pools.main.key_file", "holds 31 bytes"),
    "an open key": (f'{CLIENT}key_file = "open-key"\n', "pools.main.key_file", "chmod o= "),
    "a key that is not there": (
        f'{CLIENT}key_file = "no-key"\n', "pools.main.key_file", "cannot be read",
    ),
    "a key that is a folder": (
        f'{CLIENT}key_file = "spool"\n', "pools.main.key_file", "Is a directory",
    ),
    "two keys of one name": (
        f'{CLIENT}key_file = "key"\nearlier_keys = [{{ key_file = "key", key_id = "k" }}]\n',
        "pools.main.encryption",
        "give each its own",
    ),
    "an earlier key that is short": (
        'earlier_keys = [{ key_file = "short-key", key_id = "k" }]\n',
        "pools.main.earlier_keys[1]",
        "holds 31 bytes",
    ),
    "a key that is a pipe": (
        f'{CLIENT}key_file = "pipe"\n',
        "pools.main.key_file",
        "is not a file",
    ),
    "the same place": (SECOND + 'prefix = "main"\n', "pools.two.prefix", "same bucket and prefix"),
    "a nested place": (SECOND + 'prefix = "main/b"\n', "pools.two.prefix", "are nested"),
    "a place around": (SECOND + 'prefix = ""\n', "pools.two.prefix", "are nested"),
    "a pool of no name": ('["pools"."a/b"]\n', "pools.a/b", "cannot be a pool's name"),
    "a pool without a bucket": ('[pools.two]\nprefix = "x"\n', "pools.two.bucket", "is missing"),
    "a bucket with a folder": (
        '[pools.two]\nbucket = "a/b"\nprefix = "x"\n', "pools.two.bucket", "as prefix",
    ),
    "a prefix with dots": (
        '[pools.two]\nbucket = "bbb"\nprefix = "a/../b"\n', "pools.two.prefix", "without //",
    ),
    "an endpoint that is none": (
        '[pools.two]\nbucket = "bbb"\nprefix = "a"\nendpoint_url = "minio:9000"\n',
        "pools.two.endpoint_url",
        "http",
    ),
    "a class that is none": (
        '[pools.two]\nbucket = "bbb"\nprefix = "a"\nclass = "standart"\n',
        "pools.two.class",
        "did you mean standard?",
    ),
    "auto and steps": (
        '[pools.two]\nbucket = "bbb"\nprefix = "a"\nclass = "auto"\n'
        'lifecycle = [{ days = 30, class = "glacier" }]\n',
        "pools.two.lifecycle",
        "cannot go with class auto",
    ),
    "a token in the open": (f'{TCP}token_file = "open-token"\n', "tcp.token_file", "chmod o= "),
    "a short token": (f'{TCP}token_file = "short-token"\n', "tcp.token_file", "one word of 16"),
    "no token": (TCP, "tcp.token_file", "is missing"),
    "a token in the file": (f'{TCP}token = "{TOKEN}"\n', "tcp.token", "did you mean token_file?"),
    "a door to the world": (
        f'{TCP}host = "0.0.0.0"\ntoken_file = "token"\n', "tcp.host", "is not loopback",
    ),
    "one port for two": (
        f'{TCP}token_file = "token"\n[metrics]\nport = 1\n', "metrics.port", "use another port",
    ),
    "no such user": ('[socket]\npath = "s"\nusers = ["nobody-here"]\n', "socket.users", "create"),
    "no such group": ('[socket]\npath = "s"\ngroups = ["none-here"]\n', "socket.groups", "create"),
    "users that are no list": ('[socket]\npath = "s"\nusers = "root"\n', "socket.users", '["'),
    "a mode that is none": ('[socket]\npath = "s"\nmode = "rw"\n', "socket.mode", "0660"),
    "a long socket": (f'[socket]\npath = "/{"x" * 107}"\n', "socket.path", "at most 107"),
    "a table that is none": ("limits = 5\n", "limits", "is 5 and not a table"),
    "a limit out of bounds": ("[limits]\nhandles = 0\n", "limits.handles", "use 1 to 4096"),
    "a limit that is no number": ("[limits]\nidle_s = nan\n", "limits.idle_s", "use 1 to"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_an_error_names_the_file_the_key_and_the_remedy(folder: Path, what: str) -> None:
    added, key, said = BROKEN[what]
    text = SMALLEST + added
    if added.startswith("[socket]"):
        text = text.replace('[socket]\npath = "pool.socket"\n', "", 1)
    if not added.startswith("[") and key.partition(".")[0] not in ("pools",):
        text = added + SMALLEST
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert f"{folder}/tapeconnector.toml" in caught.value.message
    assert f"{key}: " in caught.value.message, caught.value
    assert said in str(caught.value)
    assert caught.value.hint
    assert TOKEN not in str(caught.value)


def test_all_errors_are_told_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, '[pools.main]\nclass = "x"\n[log]\nformat = "xml"\n')
    for key in ("state.dir", "socket.path", "pools.main.bucket", "pools.main.prefix",
                "pools.main.class", "log.format"):  # fmt: skip
        assert f"{key}: " in caught.value.message
    assert "6 errors" in caught.value.message


@pytest.mark.parametrize("text", ["[socket", "a = \x00", "= 1", "[a]\n[a]\n"])
def test_what_is_not_toml_is_said_so(folder: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        read(folder, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml.*check --config"):
        load(tmp_path / "none.toml")


def test_bytes_that_are_no_text_are_an_error_of_the_file(folder: Path) -> None:
    (folder / "bin.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(folder / "bin.toml")


def test_a_file_without_pools_serves_nobody(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no pool"):
        read(folder, '[socket]\npath = "s"\n[state]\ndir = "d"\n')


def test_pools_beside_each_other_are_taken(folder: Path) -> None:
    settings = read(folder, SMALLEST + SECOND + 'prefix = "main2"\n')
    assert [pool.prefix for pool in settings.pools] == ["main", "main2"]


def test_the_same_place_at_another_endpoint_is_another_place(folder: Path) -> None:
    text = SMALLEST + '[pools.two]\nbucket = "backups"\nprefix = "main"\n'
    assert len(read(folder, text).pools) == 2


@pytest.mark.parametrize("name", ["smallest", "larger"])
def test_the_examples_of_the_page_can_be_used(folder: Path, name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
    (example,) = re.findall(rf"^```toml {name}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    example = example.replace('"bareos", "postgres"', "1001, 1002").replace('"backup"', "1003")
    assert read(folder, example).pools


def test_every_key_of_the_settings_is_read_by_some_test() -> None:
    text = Path(__file__).read_text("utf-8")
    for section in SECTIONS:
        for key in section.keys:
            assert re.search(rf"\b{key.name} = ", text), f"{section.title} {key.name}"
