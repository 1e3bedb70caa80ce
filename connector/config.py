"""From a TOML file to ``Settings``: every key, and what must hold between them.

docs/configuration.md is made from the tables below. An error names file, key and remedy, and all
errors of a file are told at once; no secret ever stands in one.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from catalog.errors import ConfigError
from connector.config_pools import BANDWIDTH, EARLIER, LIFECYCLE, POOL, RECALL, SPOOL, pool_settings
from connector.config_table import (
    NEEDED,
    File,
    Key,
    Mode,
    Number,
    OneOf,
    People,
    Problems,
    Section,
    Text,
    Whole,
    Wrong,
)
from connector.secret_files import check_private, read_token
from connector.settings import (
    ClientLimits,
    PoolSettings,
    Settings,
    SocketSettings,
    TcpSettings,
)

MAX_FILE = 1 << 20
"""Longest configuration, in bytes."""
MAX_SOCKET_PATH = 107
"""Longest path of a UNIX socket, in bytes. Source: unix(7)."""
LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|::1|localhost")
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LIMITS = ClientLimits()
_DAY_S = 86_400.0

SOCKET = Section(
    "[socket]",
    (
        Key("path", File(), NEEDED, "Where clients connect; at most 107 bytes."),
        Key(
            "users",
            People(),
            (),
            "Who may connect, besides the daemon's own user. Root is not let in by itself.",
        ),
        Key("groups", People(groups=True), (), "Whose members may connect."),
        Key("mode", Mode(), 0o660, "Permissions of the socket's file.", default_text='`"0660"`'),
    ),
)
STATE = Section(
    "[state]",
    (
        Key(
            "dir",
            File(),
            NEEDED,
            "The daemon's journals and indexes. On a local disk, of one daemon only.",
        ),
    ),
)
TCP = Section(
    "[tcp]",
    (
        Key("host", Text(64), "127.0.0.1", "Address to listen at: loopback only."),
        Key("port", Whole(1, 65_535), NEEDED, "Port to listen at."),
        Key(
            "certificate",
            File(),
            NEEDED,
            "The daemon's certificate and what leads to its root, PEM.",
        ),
        Key("key", File(), NEEDED, "The certificate's key, PEM, not readable by every user."),
        Key(
            "token_file",
            File(),
            NEEDED,
            "A file with the word (16 to 1024 characters) that clients must show.",
        ),
    ),
)
LIMITS = Section(
    "[limits]",
    (
        Key("connections", Whole(1, 100_000), _LIMITS.connections, "Clients connected at once."),
        Key("handles", Whole(1, 4096), _LIMITS.handles, "Images that one client has open at once."),
        Key(
            "half_open_s",
            Number(0.1, 3600),
            _LIMITS.half_open_s,
            "Seconds a client may take to say hello, or to finish a frame that it began.",
        ),
        Key("idle_s", Number(1, 30 * _DAY_S), _LIMITS.idle_s, "Seconds a client may say nothing."),
        Key(
            "call_s",
            Number(1, _DAY_S),
            _LIMITS.call_s,
            "Seconds a call may take without a sign of life.",
        ),
        Key(
            "abandoned_s",
            Number(0, 3650 * _DAY_S),
            _LIMITS.abandoned_s,
            "Seconds until an incomplete image that nobody resumed is given up; 0: never.",
        ),
    ),
)
METRICS = Section(
    "[metrics]", (Key("port", Whole(1, 65_535), NEEDED, "Port on loopback that serves metrics."),)
)
LOG = Section(
    "[log]",
    (Key("format", OneOf(("text", "json")), "text", "Lines for people, or one JSON object each."),),
)
SECTIONS = (
    SOCKET,
    STATE,
    TCP,
    LIMITS,
    METRICS,
    LOG,
    POOL,
    LIFECYCLE,
    BANDWIDTH,
    SPOOL,
    RECALL,
    EARLIER,
)
"""Every section, in the order of docs/configuration.md."""
TOP = {"socket", "state", "tcp", "limits", "metrics", "log", "pools"}


def load(path: Path) -> Settings:
    """Read a configuration.

    Raises:
        ConfigError: names the file, each key that is wrong, and what to do.
    """
    path = path.absolute()
    table = _toml(path)
    problems = Problems(path)
    for name in sorted(table.keys() - TOP):
        problems.add(name, "is not a section", f"use {', '.join(sorted(TOP))}")
    state = STATE.read(table.get("state", {}), "state", problems)["dir"]
    socket = _socket(table["socket"], problems) if "socket" in table else None
    tcp = _tcp(table["tcp"], problems) if "tcp" in table else None
    if "socket" not in table and "tcp" not in table:
        problems.add("socket.path", "is missing", "give it: nobody could connect")
    limits = LIMITS.read(table.get("limits", {}), "limits", problems)
    metrics = (
        METRICS.read(table["metrics"], "metrics", problems)["port"] if "metrics" in table else None
    )
    if metrics is not None and tcp is not None and tcp.port == metrics:
        problems.add("metrics.port", f"is {metrics}, as tcp.port is", "use another port")
    log = LOG.read(table.get("log", {}), "log", problems)
    pools = _pools(table.get("pools"), problems)
    problems.raise_if_any()
    return Settings(
        state=state,
        socket=socket,
        pools=pools,
        tcp=tcp,
        limits=ClientLimits(**limits),
        metrics_port=metrics,
        log_json=log["format"] == "json",
    )


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", hint="check --config") from exc
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path} is larger than 1 MiB", hint="check --config")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        why = str(exc) or "nested too deeply"
        raise ConfigError(f"{path} is not TOML: {why}", hint="mend the line it names") from exc


def _socket(table: object, problems: Problems) -> SocketSettings | None:
    before = len(problems)
    read = SOCKET.read(table, "socket", problems)
    if len(problems) > before:
        return None
    check_socket_path(read["path"], problems)
    return SocketSettings(**read)


def check_socket_path(path: Path, problems: Problems) -> None:
    """Note a path that no socket can have."""
    size = len(str(path).encode("utf-8", "surrogateescape"))
    if size > MAX_SOCKET_PATH:
        problems.add("socket.path", f"has {size} bytes", f"use at most {MAX_SOCKET_PATH}")


def _tcp(table: object, problems: Problems) -> TcpSettings | None:
    before = len(problems)
    read = TCP.read(table, "tcp", problems)
    if not LOOPBACK.fullmatch(read["host"]):
        problems.add(
            "tcp.host", f"{read['host']} is not loopback", "use 127.0.0.1, ::1 or localhost"
        )
    token = ""
    for key, check in (("key", check_private), ("token_file", read_token)):
        if read[key] is not None:
            try:
                token = check(read[key]) or token
            except Wrong as exc:
                problems.add(f"tcp.{key}", exc.what, exc.remedy)
    if read["certificate"] is not None and not read["certificate"].is_file():
        problems.add("tcp.certificate", f"there is no file {read['certificate']}", "check the path")
    if len(problems) > before:
        return None
    del read["token_file"]
    return TcpSettings(**read, token=token)


# --- pools ------------------------------------------------------------------------------------


def _pools(table: object, problems: Problems) -> tuple[PoolSettings, ...]:
    if not isinstance(table, dict) or not table:
        problems.add("pools", "there is no pool", "write [pools.main] with bucket and prefix")
        return ()
    pools = []
    for name, entry in table.items():
        where = f"pools.{name}"
        if not _POOL_NAME.fullmatch(name):
            problems.add(
                where, "cannot be a pool's name", "use up to 64 letters, digits, ., _ and -"
            )
            continue
        made = pool_settings(name, entry, where, problems)
        if made is not None:
            pools.append(made)
    for number, pool in enumerate(pools):
        for other in pools[:number]:
            _check_apart(other, pool, problems)
    return tuple(pools)


def _check_apart(first: PoolSettings, second: PoolSettings, problems: Problems) -> None:
    """Two pools must not share a place: their images and their journals would mix."""
    if (first.bucket, first.endpoint_url) == (second.bucket, second.endpoint_url):
        one, two = first.prefix.split("/"), second.prefix.split("/")
        if first.prefix == second.prefix:
            problems.add(
                f"pools.{second.name}.prefix",
                f"pool {first.name} is in the same bucket and prefix",
                "give each pool a prefix of its own",
            )
        elif not (first.prefix and second.prefix) or one[: len(two)] == two[: len(one)]:
            problems.add(
                f"pools.{second.name}.prefix",
                f"{second.prefix!r} and {first.prefix!r} of pool {first.name} are nested",
                "put them beside each other",
            )
    if first.spool and second.spool and first.spool.folder == second.spool.folder:
        problems.add(
            f"pools.{second.name}.spool.dir",
            f"pool {first.name} spools there too",
            "give each pool a folder of its own",
        )
