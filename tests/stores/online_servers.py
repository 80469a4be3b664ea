"""PostgreSQL and Redis of our own, in temporary folders on free loopback ports, where their programs are installed."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def find_program(name: str) -> str:
    places = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))  # where Debian keeps them
    found = shutil.which(name, path=os.pathsep.join([*places[::-1], os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def own_folder(user: str | None) -> Iterator[Path]:
    """Outside of pytest's own folders, which no other user may enter."""
    with tempfile.TemporaryDirectory(prefix="perennial-server-", ignore_cleanup_errors=True) as name:
        if user is not None:
            shutil.chown(name, user)
        yield Path(name)


@contextmanager
def running(command: list[str], is_up: Callable[[], object], **options: Any) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    is_up()
                    break
                except Exception:
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL's word for not to wait until its clients have gone
            server.wait(30)


@contextmanager
def postgres() -> Iterator[dict[str, Any]]:
    """Feast's settings of an empty database. Its server lives in New York, which Feast's own write does not expect."""
    initdb, program, port = find_program("initdb"), find_program("postgres"), free_port()
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to be run by root
    with own_folder(user) as folder:
        as_user: dict[str, Any] = {"cwd": folder, **({"user": user} if user else {})}
        made = [initdb, "-D", str(folder / "data"), "-U", "feast", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(made, check=True, capture_output=True, **as_user)
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
                   "TimeZone": "America/New_York"}  # fmt: skip
        told = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        settings = {
            "type": "postgres", "host": "127.0.0.1", "port": port, "database": "postgres", "db_schema": "public",
            "user": "feast", "password": "", "sslmode": "disable",
        }  # fmt: skip
        with running(
            [program, "-D", str(folder / "data"), "-p", str(port), *told],
            lambda: connect(settings).close(), **as_user,
        ):  # fmt: skip
            yield settings


@contextmanager
def redis() -> Iterator[dict[str, Any]]:
    """Feast's settings of an empty Redis that writes nothing to disk."""
    from redis import Redis

    program, port = find_program("redis-server"), free_port()
    with own_folder(None) as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]

        def ping() -> None:
            with Redis(port=port) as client:
                client.ping()

        with running(command, ping):
            yield {"type": "redis", "connection_string": f"127.0.0.1:{port}"}


def clear(settings: dict[str, Any]) -> None:
    if settings["type"] == "redis":
        from redis import Redis

        with Redis(port=int(settings["connection_string"].rpartition(":")[2])) as client:
            client.flushall()
        return
    with connect(settings) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")


def connect(settings: dict[str, Any]) -> Any:
    import psycopg

    return psycopg.connect(f"host=127.0.0.1 port={settings['port']} user=feast dbname=postgres")
