"""A first try without any cloud: the daemon's own S3, in this process, and a pool ``main`` in it.

The S3 is moto's server, which comes with the extra ``demo``. What it holds is gone when the daemon
ends; so what the daemon knew of it is thrown away at the next start.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catalog.errors import ConfigError
from catalog.s3 import S3Location, make_client
from connector.places import own_socket, state_folder
from connector.pool.classes import ClassPolicy
from connector.pool.prices import Prices
from connector.settings import PoolSettings, Settings, SocketSettings

BUCKET = "tapelift"
POOL = "main"
STATE = "embedded-state"
MARKER = "thrown-away-at-the-next-start"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "embedded",
    "AWS_SECRET_ACCESS_KEY": "embedded",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def embedded_s3(environ: MutableMapping[str, str]) -> Iterator[str]:
    """S3 on a free loopback port until left; gives its URL.

    The process's credentials are replaced by invented ones, so that nobody's account is touched.

    Raises:
        ConfigError: moto is not installed.
    """
    try:
        import moto.server as moto
        from werkzeug.serving import WSGIRequestHandler, make_server
    except ImportError as exc:
        raise ConfigError(
            f"--embedded needs moto's S3 server, and {exc.name} is not installed",
            hint="install it with: pip install 'tapelift[demo]'; or use --config with an S3",
        ) from exc

    class Quiet(WSGIRequestHandler):
        """Keeps connections open, as S3 does, and says nothing."""

        protocol_version = "HTTP/1.1"

        def log(self, *_: Any, **__: Any) -> None:
            """The daemon's log says what happens."""

    app = moto.DomainDispatcherApplication(moto.create_backend_app)  # type: ignore[attr-defined]
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, name="embedded-s3", daemon=True)
    thread.start()
    for name in [name for name in environ if name.startswith("AWS_")]:
        del environ[name]
    environ.update(CREDENTIALS)
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        make_client(S3Location(BUCKET, "", url)).create_bucket(Bucket=BUCKET)
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def settings_for(url: str, folder: Path | None, socket: Path | None = None) -> Settings:
    """One pool at the URL, with what it must know in folder.

    Without a folder it is the user's, and the socket is where clients look by themselves; with one
    the socket is in it. What an earlier try left is removed.

    Raises:
        ConfigError: the folder cannot be used, or another daemon uses it.
    """
    base = (folder or state_folder()).absolute()
    path = socket or (base / "socket" if folder else own_socket())
    pool = PoolSettings(
        name=POOL,
        bucket=BUCKET,
        prefix=POOL,
        endpoint_url=url,
        policy=ClassPolicy(),
        prices=Prices.load(),
    )
    return Settings(state=base / STATE, socket=SocketSettings(path=path), pools=(pool,))


def forget(state: Path) -> None:
    """Remove what an earlier try left in its state folder. Call it with the folder's lock held.

    Raises:
        ConfigError: the folder holds what is not ours.
    """
    marker = state / MARKER
    try:
        others = [entry for entry in state.iterdir() if entry.name != "daemon.lock"]
        if others and not marker.exists():
            raise ConfigError(
                f"{state} holds what no embedded daemon left there", hint="choose another --dir"
            )
        for entry in others:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != marker:
                entry.unlink()
        marker.touch()
    except OSError as exc:
        raise ConfigError(f"cannot use {state}: {exc.strerror}", hint="choose --dir") from exc
