"""Prefect's temporary server for a run from the shell: as Prefect itself would start one, which ends with this process.

It is a fork of the run, which has imported Prefect by then: a process that begins anew would do so again, for a second.
And it comes up in two thirds of the time without Prefect's hundred types of blocks, which a server that stays notes in
the same database, and with a collector that seldom looks through what the imports make.
"""

import atexit
import gc
import multiprocessing
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from configs.settings import load_settings
from flows import prefect_database
from tasks.core.errors import PerennialError
from tasks.core.forks import CAN_FORK
from tasks.leftovers import note_server

STOP_SECONDS = 5
PORT_TAKEN = 3  # uvicorn's exit code when it cannot begin
ATTEMPTS = 5
APPLICATION = "prefect.server.api.server:create_app"
TOLD = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",  # it would note that they are registered
}
# Every flow would ask whether the server is of its own version, and for a token that it does not want.
NOT_ASKED = {
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
}
ALONE = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy lies between this machine and itself


@contextmanager
def starting() -> Iterator[None]:
    """Start it, and wait at the end until it answers; from then on Prefect's settings name it.

    Not in a thread beside imports: a fork would have their locks, and nobody to open them.

    Raises:
        PerennialError: it does not come up.
    """
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    prefect_database.place(Path(os.environ["PREFECT_HOME"]).expanduser())
    seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    deadline = time.monotonic() + seconds
    server = _begin(port := _free_port())
    yield
    others = ATTEMPTS - 1
    while not _answers(port):
        ended = server.exitcode
        if ended == PORT_TAKEN and others:
            server, others = _begin(port := _free_port()), others - 1
        elif ended is not None or time.monotonic() > deadline:
            raise PerennialError(
                "Prefect's temporary server did not come up",
                got=f"no answer in {seconds} s" if ended is None else f"exit code {ended}",
                fix="read what it said above, or name a running server in PREFECT_API_URL",
            )
        time.sleep(0.05)
    _tell_prefect(f"http://127.0.0.1:{port}/api")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _begin(port: int) -> BaseProcess:
    server = multiprocessing.get_context("fork" if CAN_FORK else "spawn").Process(target=_serve, args=(port,))
    server.start()
    atexit.register(_stop, server)
    note_server(load_settings().root, server.pid)  # the next run ends it, if this one is killed
    return server


def _serve(port: int) -> None:
    """In a session of its own: Ctrl-C reaches all of a terminal's group, and the run would go on asking a dead server
    for minutes to note that it was stopped. It is the run that ends it."""
    os.setsid()
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sent, signal.SIG_DFL)
    gc.set_threshold(50_000, 20, 20)
    os.environ.update(TOLD)
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    import uvicorn

    uvicorn.run(APPLICATION, factory=True, host="127.0.0.1", port=port, log_level="error", lifespan="on")


def _stop(server: BaseProcess) -> None:
    server.terminate()
    server.join(STOP_SECONDS)
    if server.exitcode is None:
        server.kill()
        server.join()


def _answers(port: int) -> bool:
    try:
        with ALONE.open(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _tell_prefect(url: str) -> None:
    """For all threads of this process; not in the environment, where one looks for a server that stays."""
    from prefect.context import refresh_global_settings_context

    before = dict(os.environ)
    os.environ.update(PREFECT_API_URL=url, **NOT_ASKED)
    refresh_global_settings_context()
    os.environ.clear()
    os.environ.update(before)
