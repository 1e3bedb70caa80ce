"""The recipes of docs/integrations, with the programs that they are for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connector.dplcompat import OPTIONS, TIMEOUT_S
from tests.compat.recipes import Host, become, block, host, need, user_or_nobody
from tests.support.servers import new_bucket

pytestmark = pytest.mark.deep

# --- PostgreSQL -----------------------------------------------------------------------------------

POSTGRESQL = ("initdb", "pg_ctl", "pg_dump", "pg_basebackup", "pg_verifybackup", "psql", "tar")
SHOP = """
CREATE TABLE customers (id int PRIMARY KEY, name text);
INSERT INTO customers SELECT n, md5(n::text) FROM generate_series(1, 20000) n;
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, note bytea);
INSERT INTO orders SELECT n, n, decode(md5(n::text), 'hex') FROM generate_series(1, 5000) n;
CREATE SEQUENCE numbers START 42;
"""


class Postgres:
    """A server of its own, with its socket in a folder of its own, and peers as users."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.folder = host.make_folder("pg", "postgres")
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        host.environ |= {"PGHOST": str(self.folder), "PGPORT": "5432"}

    def create(self) -> None:
        self.host.do(f"initdb -D {self.data} --auth=peer --no-sync --no-instructions", "postgres")
        self.settle(
            self.data,
            f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\n"
            "fsync = off\nshared_buffers = 16MB\n",
        )
        self.settle(self.data, block("postgresql.md", "ini", "archive"))
        self.start(self.data)
        self.host.do("createdb shop", "postgres")
        self.sql(SHOP)
        self.sql(block("postgresql.md", "sql", "role"))

    def settle(self, data: Path, settings: str) -> None:
        with (data / "postgresql.conf").open("a") as file:
            file.write(settings)

    def start(self, data: Path, port: int = 5432) -> subprocess.CompletedProcess[str]:
        """Start a server; the log is beside its data."""
        return self.host.run(
            f"pg_ctl start -w -t 40 -D {data} -l {data}.log -o '-p {port}'", "postgres"
        )

    def stop(self, data: Path) -> None:
        self.host.run(f"pg_ctl stop -m immediate -D {data}", "postgres")

    def sql(self, text: str, database: str = "shop", port: int = 5432) -> str:
        return self.host.do(
            'psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$database" -c "$sql"', "postgres",
            database=database, sql=text, PGPORT=port,
        ).strip()  # fmt: skip

    def contents(self, database: str, port: int = 5432) -> str:
        """Everything in a database, as text that can be compared."""
        text = self.host.do(f"pg_dump -p {port} {database}", "postgres")
        return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)  # a new word each time


@pytest.fixture(scope="module")
def postgres(moto_endpoint: str) -> Iterator[Postgres]:
    need(*POSTGRESQL)
    with host("postgresql.md", new_bucket(moto_endpoint)) as found:
        server = Postgres(found)
        try:
            server.create()
            yield server
        finally:
            server.stop(server.data)


def named(text: str, name: str) -> str:
    """A block that makes an image, with its name told on standard output."""
    assert name in text
    return f'{text}\nstatus=$?\necho "$name"\nexit $status\n'


def test_a_dump_of_postgresql_comes_back_into_a_database_of_its_own(postgres: Postgres) -> None:
    dump, host = named(block("postgresql.md", "sh", "dump"), "$name"), postgres.host
    name = host.do(dump, "backup").strip()
    assert host.do(dump, "backup").strip() == name  # a job that is repeated
    assert host.images("shop_") == [(name, "complete")]
    host.do(block("postgresql.md", "sh", "restore"), "postgres", name=name)
    assert postgres.contents("shop_restored") == postgres.contents("shop")
    host.do(block("postgresql.md", "sh", "globals"), "backup")
    (globals_,) = [image for image, _ in host.images("globals_")]
    assert "CREATE ROLE backup" in host.do(f"tapeconnector get main/{globals_}", "backup")


def test_a_dump_that_dies_in_the_middle_is_not_stored(postgres: Postgres) -> None:
    # customers is dumped before orders, of which this role may not see all
    postgres.sql("ALTER ROLE backup NOBYPASSRLS; ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    try:
        text = block("postgresql.md", "sh", "dump").replace("shop_", "dying_")
        done = postgres.host.run(text, "backup")
        assert done.returncode == 3
        assert "row-level security" in done.stderr
        assert "pg_dump ended with exit code 1, so nothing was stored" in done.stderr
        assert postgres.host.images("dying_") == []
        # which is why the first page warns of this, and no recipe does it
        wrong = block("README.md", "sh", "wrong").replace("shop.dump", "dying.dump")
        assert postgres.host.run(wrong, "backup").returncode == 0
        assert postgres.host.images("dying") == [("dying.dump", "complete")]
    finally:
        postgres.sql("ALTER TABLE orders DISABLE ROW LEVEL SECURITY; ALTER ROLE backup BYPASSRLS")


def test_who_is_not_listed_stores_nothing(postgres: Postgres) -> None:
    done = postgres.host.run("tapeconnector put main/intruder --run -- echo x", "nobody")
    assert done.returncode == 4
    assert "user nobody" in done.stderr
    assert postgres.host.images("intruder") == []


def archive_command(segment: Path) -> str:
    settings = block("postgresql.md", "ini", "archive")
    (command,) = re.findall(r"^archive_command = '(.*)'$", settings, re.MULTILINE)
    return str(command).replace("%f", segment.name).replace("%p", str(segment))


def test_a_segment_is_archived_once_and_other_bytes_under_its_name_are_refused(
    postgres: Postgres,
) -> None:
    host = postgres.host
    folder = host.make_folder("wal", "postgres")
    segment = folder / "0000000900000000000000AB"
    segment.write_bytes(b"first" * 100_000)
    host.do(archive_command(segment), "postgres")
    host.do(archive_command(segment), "postgres")
    again = folder / "copy"
    again.write_bytes(segment.read_bytes())
    again.replace(segment)  # another file, as on another host
    host.do(archive_command(segment), "postgres")
    segment.write_bytes(b"other" * 100_000)
    done = host.run(archive_command(segment), "postgres")
    assert done.returncode == 2
    assert "it is another image" in done.stderr
    assert host.do(f"tapeconnector get main/shop-wal/{segment.name}") == "first" * 100_000


def test_postgresql_goes_back_to_a_point_in_time_and_never_stops_short_of_it(
    postgres: Postgres,
) -> None:
    restored = postgres.folder / "restored"
    postgres.sql("CREATE TABLE events (what text); INSERT INTO events VALUES ('in the base')")
    try:
        go_back(postgres, restored)
    finally:
        postgres.stop(restored)
        postgres.sql("DROP TABLE IF EXISTS events")


def go_back(postgres: Postgres, restored: Path) -> None:
    host = postgres.host
    name = host.do(named(block("postgresql.md", "sh", "base"), "$name"), "backup").strip()
    postgres.sql("INSERT INTO events VALUES ('in the archive')")
    moment = postgres.sql("SELECT clock_timestamp()")
    postgres.sql("DROP TABLE events")
    segment = postgres.sql("SELECT pg_walfile_name(pg_switch_wal())")
    until(lambda: postgres.sql("SELECT last_archived_wal FROM pg_stat_archiver") >= segment)
    host.do(block("postgresql.md", "sh", "restore-base"), "postgres", name=name,
            restored=restored)  # fmt: skip
    settings = block("postgresql.md", "ini", "recovery")
    settings, count = re.subn(r"(?<=recovery_target_time = ').*(?=')", moment, settings)
    assert count == 1
    postgres.settle(restored, settings)
    host.do(block("postgresql.md", "sh", "recover"), "postgres", restored=restored)
    # the archive cannot be read: PostgreSQL must not take that for its end
    admit(host, old='"postgres", ', new="", answer=4)
    assert postgres.start(restored, 5433).returncode != 0
    log = Path(f"{restored}.log").read_text()
    assert "is not let in" in log
    assert "could not restore file" in log
    assert (restored / "recovery.signal").exists()
    admit(host, old="users = [", new='users = ["postgres", ', answer=0)
    assert postgres.start(restored, 5433).returncode == 0, Path(f"{restored}.log").read_text()
    until(lambda: postgres.sql("SELECT pg_is_in_recovery()", port=5433) == "f")
    assert postgres.sql("SELECT what FROM events", port=5433).splitlines() == [
        "in the base",
        "in the archive",
    ]


def admit(host: Host, *, old: str, new: str, answer: int) -> None:
    """Change who is let in, and wait until postgres is, or is not any longer."""
    config = host.folder / "tapeconnector.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    host.daemon.send(signal.SIGHUP)
    until(lambda: host.run("tapeconnector pools", "postgres").returncode == answer)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


# --- MariaDB --------------------------------------------------------------------------------------

MARIADB = ("mariadb-install-db", "mariadbd", "mariadb", "mariadb-dump")
STORE = """
CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(40), photo BLOB);
INSERT INTO customers SELECT seq, MD5(seq), UNHEX(SHA1(seq)) FROM seq_1_to_20000;
CREATE TABLE orders (id INT PRIMARY KEY, customer INT REFERENCES customers(id));
INSERT INTO orders SELECT seq, seq FROM seq_1_to_5000;
CREATE VIEW buyers AS SELECT DISTINCT customer FROM orders;
CREATE PROCEDURE nothing() SELECT 1;
CREATE TRIGGER stamp BEFORE INSERT ON customers FOR EACH ROW SET NEW.name = UPPER(NEW.name);
"""


class MariaDB:
    """A server of its own, with its socket and data in a folder of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.user = user_or_nobody("mysql")
        self.folder = host.make_folder("my", self.user)
        self.folder.chmod(0o755)
        # where Debian's own settings name a socket, the variable MYSQL_UNIX_PORT does not count
        settings = host.folder / "home" / ".my.cnf"
        settings.write_text(f"[client]\nsocket = {self.folder}/socket\n")
        data = self.folder / "data"
        host.do(
            f"mariadb-install-db --no-defaults --datadir={data} --skip-test-db --skip-log-bin"
            " --auth-root-authentication-method=socket --auth-root-socket-user=root", self.user,
        )  # fmt: skip
        # root is who asks for it through the socket; the server finds users by the system's names
        command = (
            f"exec mariadbd --no-defaults --datadir={data} --socket={self.folder}/socket"
            f" --pid-file={self.folder}/pid --skip-networking --innodb-buffer-pool-size=32M"
            f" --innodb-flush-log-at-trx-commit=0 >{self.folder}/log 2>&1"
        )
        self.process = subprocess.Popen(  # which ends with the tests, however they end
            [*become(self.user), "--pdeathsig", "KILL", "bash", "-c", command],
            env=host.environ, cwd="/",
        )  # fmt: skip

    def wait(self) -> None:
        until(lambda: self.host.run("mariadb --execute='SELECT 1'").returncode == 0)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def sql(self, text: str, database: str = "") -> str:
        return self.host.do('mariadb --batch --skip-column-names --execute="$sql" $database',
                            sql=text, database=database)  # fmt: skip


@pytest.fixture(scope="module")
def mariadb(moto_endpoint: str) -> Iterator[MariaDB]:
    need(*MARIADB)
    with host("mariadb.md", new_bucket(moto_endpoint)) as found:
        server = MariaDB(found)
        try:
            server.wait()
            server.sql("CREATE DATABASE shop")
            server.sql(STORE, "shop")
            server.sql(block("mariadb.md", "sql", "account"))
            yield server
        finally:
            server.close()


def test_a_dump_of_mariadb_comes_back_into_a_database_of_its_own(mariadb: MariaDB) -> None:
    dump, host = named(block("mariadb.md", "sh", "dump"), "$name"), mariadb.host
    name = host.do(dump, "backup").strip()
    assert host.do(dump, "backup").strip() == name
    assert host.images("shop_") == [(name, "complete")]
    host.do(block("mariadb.md", "sh", "restore"), name=name, cwd=host.make_folder("out", "root"))
    for table in ("customers", "orders"):
        sums = mariadb.sql(f"CHECKSUM TABLE shop.{table}, shop_restored.{table}").split()
        assert sums[1] == sums[3] != "0"
    assert mariadb.sql("SELECT COUNT(*) FROM shop_restored.buyers") == "5000\n"
    routines = "SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = '{}'"
    assert mariadb.sql(routines.format("shop_restored")) == "1\n"


def test_a_dump_of_mariadb_that_dies_in_the_middle_is_not_stored(mariadb: MariaDB) -> None:
    mariadb.sql("CREATE TABLE gone (id INT); CREATE VIEW zombie AS SELECT * FROM gone", "shop")
    mariadb.sql("DROP TABLE gone", "shop")
    try:
        text = block("mariadb.md", "sh", "dump").replace("shop_", "dying_")
        done = mariadb.host.run(text, "backup")
        assert done.returncode == 3
        assert "mariadb-dump ended with exit code 2, so nothing was stored" in done.stderr
        assert mariadb.host.images("dying_") == []
    finally:
        mariadb.sql("DROP VIEW zombie", "shop")


def test_a_dump_of_mariadb_that_was_truncated_is_not_restored(mariadb: MariaDB) -> None:
    host = mariadb.host
    cut = "printf 'CREATE TABLE half (id INT);\\n' | tapeconnector put main/cut.sql"
    host.do(cut, "backup")
    text = block("mariadb.md", "sh", "restore").replace("shop_restored", "shop_cut")
    done = host.run(text, name="cut.sql", cwd=host.make_folder("cut", "root"))
    assert done.returncode != 0
    assert "shop_cut" not in mariadb.sql("SHOW DATABASES")


# --- tar ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tarring(moto_endpoint: str) -> Iterator[Host]:
    """A host that has the page's scripts. Its daemon is set up as for MariaDB."""
    need("tar", "awk")
    with host("mariadb.md", new_bucket(moto_endpoint)) as found:
        for name in ("tar-backup", "tar-one", "tar-increment", "tar-chain"):
            found.install(name, block("tar.md", "sh", name))
        yield found


@pytest.fixture
def folder(tarring: Host, request: pytest.FixtureRequest) -> Path:
    """Files as they are: long and odd names, links, holes, nothing."""
    path = tarring.make_folder(f"of-{request.node.name[:60]}", "root")
    (path / "sub").mkdir()
    for name, data in {
        "a": b"a" * 1000,
        "empty": b"",
        "sub/with: a space": b"colon" * 3000,
        "sub/" + "n" * 150: b"long name" * 100,
        "ümlaut": b"utf-8",
        "z last": os.urandom(100_000),
    }.items():
        (path / name).write_bytes(data)
    (path / "link").symlink_to("a")
    os.link(path / "a", path / "zz hard")
    return path


def tree(folder: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): (
            str(path.readlink()) if path.is_symlink() else path.read_bytes()
        )
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def today(host: Host, name: str) -> str:
    """The name of the one archive that begins so, without its ending."""
    (found,) = [image for image, _ in host.images(name) if image.endswith(".tar")]
    return found.removesuffix(".tar")


def test_a_folder_is_stored_listed_compared_and_comes_back(tarring: Host, folder: Path) -> None:
    tarring.do(f"tar-backup '{folder}' etc")
    tarring.do(f"tar-backup '{folder}' etc")  # again, which does nothing
    name = today(tarring, "etc_")
    assert tarring.images("etc_") == [(f"{name}.index", "complete"), (f"{name}.tar", "complete")]
    to = tarring.make_folder("to", "root")
    tarring.do(block("tar.md", "sh", "restore"), name=name, to=to)
    assert tree(to) == tree(folder)
    assert "./sub/with: a space\n" in tarring.do(block("tar.md", "sh", "list"), name=name)
    tarring.do(block("tar.md", "sh", "compare"), name=name, folder=folder)
    (folder / "a").write_bytes(b"b" * 1000)
    done = tarring.run(block("tar.md", "sh", "compare"), name=name, folder=folder)
    assert (done.returncode, "Contents differ" in done.stdout + done.stderr) == (1, True)
    assert "sound" in tarring.do(f'tapeconnector verify "main/{name}.tar" --depth full')


def test_one_file_is_read_without_the_others(tarring: Host, folder: Path) -> None:
    tarring.do(f"tar-backup '{folder}' one")
    name = today(tarring, "one_")
    for file in ("empty", "sub/with: a space", "sub/" + "n" * 150, "z last"):
        out = tarring.folder / "out-one"
        tarring.do('tar-one "$name" "$file" >"$out"', name=name, file=f"./{file}", out=out)
        assert out.read_bytes() == (folder / file).read_bytes(), file
    done = tarring.run(f"tar-one {name} ./nothing")
    assert (done.returncode, done.stdout) == (6, "")
    both = [tarring.run(f"tar-one {name} './{file}'") for file in ("a", "zz hard")]
    assert sorted((one.returncode, one.stdout) for one in both) == [(0, "a" * 1000), (6, "")]
    assert any("link to" in one.stderr for one in both)  # and one of them says of which
    # the list of an attempt that ended before it was stored is made from the archive
    tarring.do(f"tapeconnector rm 'main/{name}.index' --yes && tar-backup '{folder}' one")
    assert tarring.do(f"tar-one {name} ./ümlaut") == "utf-8"


def test_tars_errors_leave_nothing_and_its_warnings_are_taken(tarring: Host, folder: Path) -> None:
    done = tarring.run("tar-backup /nowhere broken")
    assert done.returncode == 3
    assert "tar ended with exit code 2, so nothing was stored" in done.stderr
    real = shutil.which("tar", path=tarring.environ["PATH"])
    tarring.install("tar", f'#!/bin/sh\n{real} "$@"\nexit 1\n')  # as if files had changed
    try:
        tarring.do(f"tar-backup '{folder}' changing")
    finally:
        (tarring.folder / "bin" / "tar").unlink()
    assert today(tarring, "changing_")
    text = block("tar.md", "sh", "compressed")
    done = tarring.run(text, name="squeezed", folder="/nowhere")
    assert done.returncode == 3
    assert tarring.images("broken") + tarring.images("squeezed") == []
    tarring.do(text, name="squeezed", folder=folder)
    listed = tarring.do("tapeconnector get main/squeezed.tar.gz | tar -tzf -")
    assert "./z last\n" in listed


def test_increments_bring_a_folder_back_deletions_included(tarring: Host, folder: Path) -> None:
    def increment(label: str) -> None:
        tarring.do(f"tar-increment '{folder}' docs-2026-11 {label}")

    increment("2026-11-01")
    time.sleep(1.1)  # tar compares times of its snapshot file, some of them in seconds
    (folder / "new").write_bytes(b"new")
    (folder / "a").write_bytes(b"changed" * 50)
    (folder / "empty").unlink()
    increment("2026-11-02")
    increment("2026-11-02")  # again, which does nothing
    # an attempt that ended between the archive and its snapshot file
    tarring.do("tapeconnector rm main/docs-2026-11/2026-11-02.snapshot --yes")
    increment("2026-11-02")
    (folder / "newer").write_bytes(b"newer")
    increment("2026-11-03")
    sizes = [int(one["size"]) for one in listed(tarring, "main/docs-2026-11/") if is_tar(one)]
    assert len(sizes) == 3
    assert max(sizes[1:]) < sizes[0] / 2
    to = tarring.make_folder("chained", "root")
    tarring.do(f"tar-chain docs-2026-11 {to}")
    assert tree(to) == tree(folder)
    assert tarring.run(f"tar-chain no-such-chain {to}").returncode == 6


def listed(host: Host, prefix: str) -> list[dict[str, str]]:
    found = json.loads(host.do(f"tapeconnector ls {prefix} --json"))
    assert isinstance(found, list)
    return found


def is_tar(one: dict[str, str]) -> bool:
    return one["image"].endswith(".tar")


# --- Bareos ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bareos(moto_endpoint: str) -> Iterator[Host]:
    need()
    with host("bareos.md", new_bucket(moto_endpoint), {"bareos": "nobody"}) as found:
        yield found


def test_the_calls_of_bareos_write_read_overwrite_and_remove_parts(bareos: Host) -> None:
    work = bareos.make_folder("work", "nobody")
    label, job, more = b"label" * 100, b"job" * 50_000, os.urandom(300_000)
    for name, data in {"label": label, "label+job": label + job, "more": more}.items():
        (work / name).write_bytes(data)
    said = bareos.do(f"set -e\n{block('bareos.md', 'sh', 'calls')}", "nobody", cwd=work)
    assert said.splitlines() == [
        *OPTIONS, "300000", f"0000 {len(label + job)}", "0001 300000",
    ]  # fmt: skip
    assert (work / "restored").read_bytes() == label + job
    assert bareos.images(pool="bareos") == [("Full-0001/0000", "complete")]


def test_a_part_that_breaks_off_leaves_the_older_one(bareos: Host) -> None:
    environ = "tapelift_pool=bareos tapeconnector-dplcompat"
    bareos.do(f"printf older | {environ} upload Full-0002 0000", "nobody")
    breaking = f"(printf newer; sleep 30) | {environ} upload Full-0002 0000"
    with subprocess.Popen(
        [*become("nobody"), "bash", "-c", breaking], env=bareos.environ, start_new_session=True
    ) as process:
        until(lambda: len(bareos.images("Full-0002/0000", "bareos")) == 2)
        os.killpg(process.pid, signal.SIGKILL)
    assert bareos.do(f"{environ} download Full-0002 0000", "nobody") == "older"
    bareos.do(f"printf newest | {environ} upload Full-0002 0000", "nobody")
    assert bareos.do(f"{environ} download Full-0002 0000", "nobody") == "newest"


def test_the_device_of_bareos_has_only_options_that_are_there() -> None:
    device = block("bareos.md", "ini", "device")
    options = dict(re.findall(r'[",](\w+)=([^"]*)"', device))
    ours = {name for name in options if name.startswith("tapelift_")}
    assert ours
    assert ours <= set(OPTIONS)
    assert float(options["program_timeout"]) > float(options["tapelift_timeout"]) >= TIMEOUT_S
