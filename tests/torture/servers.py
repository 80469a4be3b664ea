"""A Prefect server that many runs share: a temporary one for each would cost seconds."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil

from tests.flows.homes import free_port

START_SECONDS = 600  # on a machine that many share


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """A Prefect server for all runs; the environment that finds it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PERENNIAL_"))}
    port, own = free_port(), kept | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "0"}
    (folder / "prefect").mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--no-services", "--port", str(port)],
            env=own, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{url}/health"):
            assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.2)
        yield own | {"PREFECT_API_URL": url}
    finally:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        for process in family:  # nothing of it is kept
            with suppress(psutil.NoSuchProcess):
                process.kill()
        server.wait()


def open_runs(environment: dict[str, str], since: datetime) -> list[str]:
    """Runs begun since a moment that the server takes for alive."""
    alive = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
    asked = json.dumps({"flow_runs": {"state": alive, "start_time": {"after_": since.isoformat()}}}).encode()
    url, kind = f"{environment['PREFECT_API_URL']}/flow_runs/filter", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, asked, kind), timeout=60) as answer:
        return [f"{run['name']} {run['state']['name']}" for run in json.load(answer)]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
