"""The server of a run from the shell: in Prefect's settings for every thread, not in the environment, gone with it."""

import subprocess
import sys
from pathlib import Path

import psutil

from tests.flows.homes import ROOT

RUN = """
import os, sys, threading
from flows import temporary_server
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

with temporary_server.starting():
    pass
found = []
thread = threading.Thread(target=lambda: found.append(PREFECT_API_URL.value()))
thread.start()
thread.join()
with get_client(sync_client=True) as client:
    types = client.read_block_types()
print(*found, "PREFECT_API_URL" in os.environ, "prefect.server.api.server" in sys.modules, len(types))
"""


def start(home: Path, run: str = RUN, **told: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": "", "PERENNIAL_HOME": str(home), "HOME": str(home), **told}
    return subprocess.run(
        [sys.executable, "-c", run], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


def left(home: Path) -> list[int]:
    found = psutil.process_iter(["environ"])
    return [one.pid for one in found if (one.info["environ"] or {}).get("HOME") == str(home)]


def test_all_threads_know_it_and_it_ends_with_its_process(tmp_path):
    ended = start(tmp_path)
    assert ended.returncode == 0, ended.stderr
    url, in_environment, imported, block_types = ended.stdout.split()
    assert url.startswith("http://127.0.0.1:")
    assert (in_environment, imported) == ("False", "False")
    # Nor did it note that they were: a server that stays finds them missing and registers them.
    assert (block_types, (tmp_path / "prefect" / "memo_store.toml").exists()) == ("0", False)
    assert left(tmp_path) == []


def test_one_that_does_not_answer_in_time_is_an_error_and_is_ended(tmp_path):
    ended = start(tmp_path, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="0")
    assert ended.returncode == 1
    assert "temporary server did not come up\n  got:      no answer in 0 s" in ended.stderr
    assert left(tmp_path) == []


TAKEN = """
import socket

from flows import temporary_server

taken = socket.socket()
taken.bind(("127.0.0.1", 0))
taken.listen()
ports = [taken.getsockname()[1], temporary_server._free_port()]
temporary_server._free_port = iter(ports).__next__
with temporary_server.starting():
    pass
from prefect.settings import PREFECT_API_URL
print(PREFECT_API_URL.value().endswith(f":{ports[1]}/api"))
"""


def test_another_port_is_taken_where_somebody_was_quicker(tmp_path):
    ended = start(tmp_path, TAKEN)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr
    assert left(tmp_path) == []
