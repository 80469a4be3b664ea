"""Prefect's temporary server for a run from the shell: as Prefect itself would start one, which ends with this process.

Prefect would import all of its server's code here first: two seconds before the server's own start, for nothing. And it
comes up in two thirds of the time without Prefect's hundred types of blocks, which a server that stays notes in the
same database, and with a collector that seldom looks through what the imports make.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from configs.settings import load_settings
from flows import prefect_database
from tasks.core.errors import PerennialError
from tasks.leftovers import note_server

STOP_SECONDS = 5
PORT_TAKEN = 3  # uvicorn's exit code when it cannot begin
ATTEMPTS = 5
# As `python -m uvicorn` does it.
SERVE = "import gc, runpy; gc.set_threshold(50_000, 20, 20); runpy.run_module('uvicorn', run_name='__main__')"
TOLD = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",  # it would note that they are registered
}
ALONE = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy lies between this machine and itself


def start() -> None:
    """Start it and wait until it answers; from then on Prefect's settings name it.

    Raises:
        PerennialError: it does not come up.
    """
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    prefect_database.place(Path(os.environ["PREFECT_HOME"]).expanduser())
    seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    deadline = time.monotonic() + seconds
    for _ in range(ATTEMPTS):
        port = _free_port()
        server = _serve(port)
        while server.poll() is None and time.monotonic() < deadline:
            if _answers(f"http://127.0.0.1:{port}/api/health"):
                _tell_prefect(f"http://127.0.0.1:{port}/api")
                return
            time.sleep(0.05)
        if server.poll() != PORT_TAKEN:
            break
    ended = server.poll()
    raise PerennialError(
        "Prefect's temporary server did not come up",
        got=f"no answer in {seconds} s" if ended is None else f"exit code {ended}",
        fix="read what it said above, or name a running server in PREFECT_API_URL",
    )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _serve(port: int) -> "subprocess.Popen[Any]":
    import prefect
    from prefect.settings import get_current_settings

    application = [
        "--factory",
        "prefect.server.api.server:create_app",
        "--app-dir",
        str(Path(prefect.__file__).parents[1]),
    ]
    at = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    # In a session of its own: Ctrl-C reaches all of a terminal's group, and this run would go on asking a dead server
    # for minutes to note that it was stopped. It is the run that ends it.
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, *application, *at], env={**os.environ, **TOLD, **settings},
        start_new_session=True,
    )  # fmt: skip
    atexit.register(_stop, server)
    note_server(load_settings().root, server.pid)  # the next run ends it, if this one is killed
    return server


def _stop(server: "subprocess.Popen[Any]") -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with ALONE.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _tell_prefect(url: str) -> None:
    """For all threads of this process; not in the environment, where one looks for a server that stays."""
    from prefect.context import refresh_global_settings_context

    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
    del os.environ["PREFECT_API_URL"]
