"""The servers of one home: `python -m flows.services up | down | status`.

`up` starts what is not running yet (MLflow UI, Prefect server, worker) and deploys; again is harmless. `down` ends
just those.
"""

import argparse
import ipaddress
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from configs.settings import Settings, load_settings
from flows import prefect_database, processes
from tasks.core.errors import PerennialError
from tasks.core.records import write_text_atomically

POOL = "perennial"
START_SECONDS = 120
MIN_SECRET = 12  # characters; MLflow asks for as many
# MLflow's processes that judge language models, each server's with a folder in memory that outlives it. We have no use.
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
# The password of its first user comes from the environment and stands in no file; others are made in its UI.
MLFLOW_AUTH = """[mlflow]
default_permission = READ
database_uri = sqlite:///{home}/mlflow_auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


def up(settings: Settings) -> None:
    """Start MLflow UI, server and worker of this home, create the work pool, deploy, and send what is pending.

    Raises:
        PerennialError: a server that is not on loopback without authentication, or that does not come up.
    """
    environment = server_environment(settings)
    mlflow, server = start_servers(settings, environment)
    _run(environment, "prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite")
    _run(environment, "prefect", "--no-prompt", "deploy", "--all")
    _run(environment, "flows.automations")
    _start(settings, "worker", _worker_command, _with_own_folder(settings, environment), None, None)
    _wait_until_up(settings, "worker", None)
    if (settings.root / "outbox").exists():
        print(_run(environment, "flows.dispatch"), end="")
    # MLflow opens on its pages for chats with language models unless it is told what one came for.
    print(f"Prefect   {server}\nMLflow    {mlflow}/#/experiments?workflowType=machine_learning")
    print(f"a run     PREFECT_API_URL={server}/api .venv/bin/prefect deployment run pipeline/flights")


def start_servers(settings: Settings, environment: Mapping[str, str]) -> tuple[str, str]:
    """MLflow and Prefect; where they answer."""
    refuse_open_servers(settings, environment)
    prefect_database.place(settings.root / "prefect")
    mlflow, server = mlflow_address(settings), server_address(settings)
    # Both at once: each takes seconds to come up.
    mlflow_health, server_health = f"{mlflow}/health", f"{server}/api/health"
    told = NO_JOBS | dict(environment) | _mlflow_environment(settings)
    _start(settings, "mlflow", _mlflow_command, told, mlflow, mlflow_health)
    _start(settings, "server", _server_command, environment, server, server_health)
    _wait_until_up(settings, "mlflow", mlflow_health)
    _wait_until_up(settings, "server", server_health)
    return mlflow, server


def down(settings: Settings) -> None:
    """End the worker first, so that it can report what it was doing, then the servers."""
    from tasks import leftovers

    for name in ("worker", "server", "mlflow"):
        if (pid := processes.end(settings.root, name)) is not None:
            print(f"{name:8}  ended, it was process {pid}")
        if name == "worker":
            leftovers.clear_away(settings.root)  # of runs that ended with it, while there is a server to tell
    processes.clear_unused(_worker_folder(settings))


def status(settings: Settings) -> None:
    for name in ("mlflow", "server", "worker"):
        pid = processes.running(settings.root, name)
        where = processes.address(settings.root, name) or ""
        print(f"{name:8}  {'not running' if pid is None else f'running, process {pid}  {where}'}".rstrip())


def refuse_open_servers(settings: Settings, environment: Mapping[str, str]) -> None:
    """Whoever reaches the Prefect server can run code here, whoever reaches MLflow can change models.

    Raises:
        PerennialError: one that others can reach, without authentication.
    """
    for setting, host, variable, form in (
        ("PERENNIAL_SERVER_HOST", settings.server_host, "PREFECT_SERVER_API_AUTH_STRING", "user:password"),
        ("PERENNIAL_MLFLOW_HOST", settings.mlflow_host, "MLFLOW_AUTH_ADMIN_PASSWORD", "a password"),
    ):
        secret = environment.get(variable, "")
        if not is_loopback(host) and not (len(secret) >= MIN_SECRET and (":" in secret or ":" not in form)):
            raise PerennialError(
                "a server that others can reach needs authentication",
                got=f"{setting}={host}, and {variable} {'too short or not of that form' if secret else 'not set'}",
                expected=f"loopback, or {variable} as {form} of {MIN_SECRET} characters or more",
                fix=f"set {variable}, and see that what lies between encrypts: the servers themselves speak plain HTTP",
            )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_address(settings: Settings) -> str:
    return f"http://{_reachable(settings.server_host)}:{settings.server_port}"


def mlflow_address(settings: Settings) -> str:
    return f"http://{_reachable(settings.mlflow_host)}:{settings.mlflow_port}"


def _reachable(host: str) -> str:
    """Where this machine finds a server that is bound to every address of it."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def server_environment(settings: Settings) -> dict[str, str]:
    """What server, worker and the runs they start are told."""
    own = {
        "PERENNIAL_HOME": str(settings.root),
        "PREFECT_HOME": str(settings.root / "prefect"),
        "PREFECT_API_URL": f"{server_address(settings)}/api",
    }
    defaults = {
        # Deployments, worker and runs speak to their own server.
        **({"PREFECT_API_AUTH_STRING": auth} if (auth := os.environ.get("PREFECT_SERVER_API_AUTH_STRING")) else {}),
        # Leases in memory crash a long run that holds one when the server restarts.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
    }
    return defaults | dict(os.environ) | own


def _start(
    settings: Settings, name: str, command: Callable[[Settings], list[str]], environment: Mapping[str, str],
    address: str | None, health: str | None,
) -> None:  # fmt: skip
    if (pid := processes.running(settings.root, name)) is not None:
        print(f"{name:8}  already running, process {pid}")
        return
    if health and _answers(health):
        raise PerennialError(
            f"{name} cannot be started", got=f"something else answers at {address}", expected="a free port",
            fix=f"set PERENNIAL_{name.upper()}_PORT to another port, or end what runs there",
        )  # fmt: skip
    pid = processes.start(settings.root, name, command(settings), environment, address)
    print(f"{name:8}  started, process {pid}")


def _wait_until_up(settings: Settings, name: str, health: str | None) -> None:
    def is_up() -> bool:
        return health is None or _answers(health)

    def is_dead() -> bool:
        return processes.running(settings.root, name) is None

    _wait(lambda: is_up() or is_dead(), START_SECONDS)
    if is_dead() or not is_up():
        processes.end(settings.root, name)
        log = processes.log_file(settings.root, name)
        tail = log.read_text(errors="replace")[-1500:]
        raise PerennialError(f"{name} did not come up", got=tail, expected="a running service", fix=f"read {log}")


def _server_command(settings: Settings) -> list[str]:
    at = ["--host", settings.server_host, "--port", str(settings.server_port)]
    return [sys.executable, "-m", "prefect", "server", "start", *at]


def _mlflow_command(settings: Settings) -> list[str]:
    from tasks.stores.tracking_database import create_database

    # Two processes that first use an empty database crash each other.
    create_database(settings.mlflow_uri, settings.mlflow_artifacts)
    at = ["--host", settings.mlflow_host, "--port", str(settings.mlflow_port), "--workers", "1"]
    guard = [] if is_loopback(settings.mlflow_host) else ["--app-name", "basic-auth"]
    return [sys.executable, "-m", "mlflow", "server", *at, "--no-serve-artifacts", *guard]


def _mlflow_environment(settings: Settings) -> dict[str, str]:
    """Where its data lies, and off loopback what its authentication needs: whoever is on the machine can read a command
    line, and a URI may hold a password."""
    told = {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": settings.mlflow_artifacts,
    }
    if is_loopback(settings.mlflow_host):
        return told
    file = settings.root / "services" / "mlflow_auth.ini"
    write_text_atomically(file, MLFLOW_AUTH.format(home=settings.root))
    return told | {"MLFLOW_AUTH_CONFIG_PATH": str(file), "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32)}


def _with_own_folder(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """A worker makes folders for each run, which a kill would leave in the machine's own temporary folder for good."""
    folder = _worker_folder(settings)
    if processes.running(settings.root, "worker") is None:
        processes.clear_unused(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return dict(environment) | {"TMPDIR": str(folder)}


def _worker_folder(settings: Settings) -> Path:
    return settings.root / "services" / "worker"


def _worker_command(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", "perennial"]


def _run(environment: Mapping[str, str], *module: str) -> str:
    """What it printed.

    Raises:
        PerennialError: it failed.
    """
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", *module], env=dict(environment), cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        what = f"python -m {' '.join(module)} failed"
        raise PerennialError(what, got=(done.stdout + done.stderr)[-1500:], expected="exit code 0")
    return done.stdout


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=__doc__)
    parser.add_argument("action", choices=["up", "down", "status"])
    action = {"up": up, "down": down, "status": status}[parser.parse_args().action]
    try:
        action(load_settings())
    except PerennialError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
