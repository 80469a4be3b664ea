"""A home with its own Prefect server, worker and MLflow UI, on ports of its own."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


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
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = self.ask(f"flow_runs/{run}", method="GET")
            if found["state"]["name"] == state:
                return found
            time.sleep(0.5)
        raise AssertionError(f"{found['state']}\n{self.log('worker')}")

    def ask(self, path: str, method: str = "POST", **body: object) -> Any:
        url, kind = f"http://127.0.0.1:{self.server}/api/{path}", {"Content-Type": "application/json"}
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(url, data, kind, method=method)
        for _ in range(30):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # The server's own word for "my database is busy, ask again"; Prefect's client does the same.
                if error.code != 503:
                    raise
                time.sleep(2)
        raise AssertionError(f"the server was busy for a minute\n{self.log('server')}")

    def events(self, name: str) -> list[dict]:
        """The events of a name, once there is one: the server writes what it was told a moment later."""
        deadline = time.monotonic() + 60
        while not (found := self.ask("events/filter", filter={"event": {"name": [name]}})["events"]):
            assert time.monotonic() < deadline, f"no {name} within a minute\n{self.log('worker')}"
            time.sleep(0.5)
        return found

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()[-3000:]

    def processes(self) -> set[psutil.Process]:
        """What the services are, and what they started."""
        known = [json.loads(path.read_text())["pid"] for path in (self.folder / "services").glob("*.json")]
        roots = [psutil.Process(pid) for pid in known]
        return {*roots, *(child for root in roots for child in root.children(recursive=True))}

    def dead_runs(self) -> list[str]:
        """The automations that mark dead runs."""
        found = self.ask("automations/filter")
        return [one["id"] for one in found if one["name"] == "perennial: mark dead runs as crashed"]

    def ledger(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted((self.folder / "ledger/flights").glob("*.json"))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
