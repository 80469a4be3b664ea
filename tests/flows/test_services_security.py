"""Who can reach the servers that `make up` starts: this machine alone, or whoever has a password."""

import base64
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from configs.settings import Settings
from flows import processes, services
from tasks.core.errors import PerennialError
from tests.flows.homes import ROOT, Home

PREFECT, MLFLOW = "ada:a long password", "another long password"
WITH_AUTH = {"PREFECT_SERVER_API_AUTH_STRING": PREFECT, "MLFLOW_AUTH_ADMIN_PASSWORD": MLFLOW}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "localhost.example.org", ""])
@pytest.mark.parametrize("which", ["server_host", "mlflow_host"])
@pytest.mark.parametrize("secret", [None, "", "sesame", "user:pw"])
def test_a_server_that_others_can_reach_is_refused_without_a_password(
    which: str, host: str, secret: str | None
) -> None:
    environment = {} if secret is None else dict.fromkeys(WITH_AUTH, secret)
    with pytest.raises(PerennialError, match=f"PERENNIAL_{which.upper()}={host}, and ") as caught:
        services.refuse_open_servers(Settings(**{which: host}), environment)
    assert not secret or secret not in str(caught.value)
    services.refuse_open_servers(Settings(**{which: host}), WITH_AUTH)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_on_loopback_none_is_asked_for(host: str) -> None:
    services.refuse_open_servers(Settings(server_host=host, mlflow_host=host), {})


def test_no_uri_stands_on_a_command_line() -> None:
    """Everyone on the machine can read it there."""
    settings = Settings(tracking_uri="postgresql://ada:secret@db/mlflow", artifacts_uri="s3://models")
    told = services._mlflow_environment(settings)
    assert told["MLFLOW_BACKEND_STORE_URI"] == settings.tracking_uri
    assert "secret" not in " ".join([*services._server_command(settings), *services._worker_command(settings)])


START = """
from configs.settings import load_settings
from flows import services
settings = load_settings()
services.start_servers(settings, services.server_environment(settings))
"""


@pytest.fixture(scope="module")
def open_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """Both servers on every address of this machine, for real: the home, and where they answer."""
    home = Home(tmp_path_factory.mktemp("open"))
    everywhere = {"PERENNIAL_SERVER_HOST": "0.0.0.0", "PERENNIAL_MLFLOW_HOST": "0.0.0.0"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", START], cwd=ROOT, env=home.environment | everywhere | WITH_AUTH, capture_output=True,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        yield home.folder, f"http://127.0.0.1:{home.mlflow}", f"http://127.0.0.1:{home.server}"
    finally:
        home.services("down")


def ask(url: str, auth: str | None = None, body: bytes | None = None) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    if auth:
        request.add_header("Authorization", f"Basic {base64.b64encode(auth.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_without_the_password_nobody_is_answered(open_servers: tuple[Path, str, str]) -> None:
    home, mlflow, server = open_servers
    flows, runs = f"{server}/api/flows/filter", f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=5"
    assert [ask(flows, auth, b"{}") for auth in (None, "ada:a wrong password", PREFECT)] == [401, 401, 200]
    assert [ask(runs, auth) for auth in (None, "admin:password1234", f"admin:{MLFLOW}")] == [401, 401, 200]
    assert ask(f"{mlflow}/") == 401, "nor are its pages shown"
    # What was given to them stands in no file of the home, nor on a command line.
    given = [PREFECT.encode(), PREFECT.partition(":")[2].encode(), MLFLOW.encode()]
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if any(secret in path.read_bytes() for secret in given)] == []
    for name in ("server", "mlflow"):
        process = psutil.Process(processes.running(home, name))
        for one in (process, *process.children(recursive=True)):
            assert not any(secret.decode() in " ".join(one.cmdline()) for secret in given)
