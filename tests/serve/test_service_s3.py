"""The service on a real S3 server: the default store and ledger, several clients at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from catalog.s3 import S3Location
from connector.pool.classes import ClassPolicy
from connector.pool.config import PoolConfig
from connector.pool.prices import Prices
from connector.serve.service import Service
from connector.settings import Ack, PoolSettings, Settings, SpoolSettings
from connector.wire import messages
from connector.wire.messages import Keep, Name
from tests.pool.support import some_bytes
from tests.serve.support import Caller, eventually, sha256

MIB = 1 << 20
CONFIG = PoolConfig(fragment_size=8 * MIB, part_size=5 * MIB, parts_in_flight=2, images_open=8)


def pool_at(location: S3Location, name: str, **changes: object) -> PoolSettings:
    return PoolSettings(
        name=name, bucket=location.bucket, prefix=name, endpoint_url=location.endpoint_url,
        policy=ClassPolicy(), prices=Prices.load(), config=CONFIG, s3_deadline_s=30.0, **changes,
    )  # type: ignore[arg-type]  # fmt: skip


def test_eight_clients_write_and_read_at_once_stored_and_spooled(
    moto_bucket: Callable[..., S3Location], tmp_path: Path
) -> None:
    location = moto_bucket(object_lock=True)
    spool = SpoolSettings(folder=tmp_path / "spool", limit=100 * MIB)
    settings = Settings(
        state=tmp_path / "state",
        socket=None,
        pools=(
            pool_at(location, "stored"),
            pool_at(location, "spooled", ack=Ack.SPOOLED, spool=spool),
        ),
    )
    service = Service(settings)
    service.start()
    images = {f"image-{n}": some_bytes(n * MIB + n, seed=n) for n in range(7)}
    failures: list[BaseException] = []

    def client(name: str, pool: str) -> None:
        try:
            caller = Caller(service, name)
            data = images[name]
            handle = caller.create(name, f"token of {name}", pool=pool)
            caller.write(handle, data, frame=300_000)
            caller.close(handle, size=len(data), sha256=sha256(data))
            assert caller.get(name, pool=pool) == data
            caller.session.end()
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=client, args=(name, ("stored", "spooled")[n % 2]))
        for n, name in enumerate(images)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    caller = Caller(service)
    eventually(lambda: len(caller.list("complete", "spooled")) == 3, 30)
    for n, (name, data) in enumerate(images.items()):
        assert caller.get(name, pool=("stored", "spooled")[n % 2]) == data
    assert service.status().pools[1].traffic is not None
    service.close()

    again = Service(settings)
    again.start()
    caller = Caller(again)
    caller(messages.SetHold(pool="stored", image=Name("image-2"), on=True, reason="x"))
    caller(messages.SetHold(pool="stored", image=Name("image-2"), on=False, reason="x"))
    for name in images:
        for pool in ("stored", "spooled"):
            caller(messages.Delete(pool=pool, image=Name(name), reason="the end"))
    assert caller.list("any", "stored") == caller.list("any", "spooled") == []
    caller.put("x", b"x", pool="stored", keep=Keep(infinite=True))
    again.close()
