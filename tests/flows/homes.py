"""A home with its own Prefect server, worker and MLflow UI, on ports of its own."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psutil

ROOT = Path(__file__).parents[2]
# Three weeks of flights and a fit of moments; whatever comes of it, it is promoted.
SMALL = {
    "split.holdout": "5d", "split.validation": "3d", "split.embargo": "36h", "model.max_epochs": 1,
    "model.refit": "none", "baseline.iterations": 5, "gate.floors": {}, "gate.max_latency_ms": 10000,
}  # fmt: skip
T = TypeVar("T")


class Home:
    """A home of its own on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server, self.mlflow = free_port(), free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PERENNIAL_"))}
        self.environment = {
            **kept,
            "PERENNIAL_HOME": str(folder),
            "PERENNIAL_SERVER_PORT": str(self.server),
            "PERENNIAL_MLFLOW_PORT": str(self.mlflow),
        }

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, env=self.environment | environment, capture_output=True,
            text=True, timeout=400, check=False,
        )  # fmt: skip

    def services(self, action: str) -> str:
        done = self.call("flows.services", action)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy_run(self, deployment: str, wait: bool = True, **parameters: object) -> str:
        """Run a deployment as a person does, and wait for it; the id of the run."""
        words = ["deployment", "run", deployment, "--params", json.dumps(parameters), *(["--watch"] if wait else [])]
        url = f"http://127.0.0.1:{self.server}/api"
        done = self.call("prefect", *words, PREFECT_API_URL=url, PREFECT_HOME=str(self.folder / "prefect"))
        assert done.returncode == 0, done.stdout + done.stderr + self.log("worker")
        return done.stdout.split("UUID: ")[1].split()[0]

    def wait_for(self, run: str, state: str) -> dict:
        def find() -> dict:
            found = self.ask(f"flow_runs/{run}", method="GET")
            return found if found["state"]["name"] == state else {}

        return wait_until(find, f"run {run} does not become {state}", self.log)

    def input(self, run: str, key: str) -> str:
        """What a suspended run asks for, which Prefect keeps a moment after it has suspended it."""

        def find() -> str:
            try:
                return json.dumps(self.ask(f"flow_runs/{run}/input/{key}", method="GET"))
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                return ""

        return wait_until(find, f"run {run} does not say what it asks for", self.log, seconds=30)

    def ask(self, path: str, method: str = "POST", body: object = None, **fields: object) -> Any:
        url, kind = f"http://127.0.0.1:{self.server}/api/{path}", {"Content-Type": "application/json"}
        data = None if method == "GET" else json.dumps(body or fields).encode()
        request = urllib.request.Request(url, data, kind, method=method)
        for _ in range(30):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return None if answer.status == 204 else json.load(answer)
            except urllib.error.HTTPError as error:
                # The server's own word for "my database is busy, ask again"; Prefect's client does the same.
                if error.code != 503:
                    raise
                time.sleep(2)
        raise AssertionError(f"the server was busy for a minute\n{self.log('server')}")

    def events(self, name: str) -> list[dict]:
        """The events of a name, once there is one: the server writes what it was told a moment later."""
        return wait_until(
            lambda: self.ask("events/filter", filter={"event": {"name": [name]}})["events"], f"no {name}", self.log
        )

    def post_event(self, name: str, **payload: object) -> None:
        """Tell the server of something, as a program outside does."""
        now, resource = datetime.now(UTC).isoformat(), {"prefect.resource.id": "perennial.model.flights"}
        event = {"id": str(uuid4()), "occurred": now, "event": name, "resource": resource, "payload": payload}
        self.ask("events", body=[event])

    def runs(self, flow: str) -> list[dict]:
        return self.ask("flow_runs/filter", flows={"name": {"any_": [flow]}})

    def kill(self, name: str) -> None:
        """SIGKILL a service and all that it started, as when a machine loses its power."""
        root = psutil.Process(json.loads((self.folder / "services" / f"{name}.json").read_text())["pid"])
        family = [root, *root.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()[-3000:]

    def processes(self) -> set[psutil.Process]:
        """What the services are, and what they started."""
        known = [json.loads(path.read_text())["pid"] for path in (self.folder / "services").glob("*.json")]
        roots = [psutil.Process(pid) for pid in known]
        return {*roots, *(child for root in roots for child in root.children(recursive=True))}

    def dead_runs(self) -> list[str]:
        """The automations that mark dead runs, and those that never began."""
        found = self.ask("automations/filter")
        return [one["id"] for one in found if one["name"].startswith("perennial: mark")]

    def ledger(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted((self.folder / "ledger/flights").glob("*.json"))]


def wait_until(find: Callable[[], T], failure: str, log: Callable[[str], str], seconds: float = 240) -> T:
    """What `find` finds, once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, f"{failure} within {seconds:g} s\n{log('worker')}"
        time.sleep(0.2)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
