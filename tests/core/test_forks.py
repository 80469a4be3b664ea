"""A process that forks one for each order: begun once, asked again, replaced when it died, gone with its owner."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tasks.core.forks import Servers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
SERVER = """
import json, os, sys, time
print("imports are done", file=sys.stderr)
for line in sys.stdin:
    if (pid := os.fork()) == 0:
        order = json.loads(line)
        time.sleep(order.get("seconds", 0))
        open(order["file"], "a").write(f"{os.getppid()} ")
        os._exit(order["code"])
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def run(servers: Servers, file: Path, code: int = 0) -> int:
    with servers.fork({"file": str(file), "code": code}, os.environ) as fork:
        return fork.wait()


def test_one_that_was_prepared_carries_out_each_order(tmp_path: Path) -> None:
    servers, file = Servers("-c", SERVER), tmp_path / "said"
    servers.prepare(os.environ)
    servers.prepare(os.environ)
    (server,) = servers.idle
    assert [run(servers, file), run(servers, file, code=3)] == [0, 3]
    assert file.read_text().split() == [str(server.process.pid)] * 2
    servers._end_idle()
    assert not psutil.pid_exists(server.process.pid)


def test_one_that_died_is_replaced(tmp_path: Path) -> None:
    servers = Servers("-c", SERVER)
    run(servers, tmp_path / "said")
    first = servers.idle[0]
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert run(servers, tmp_path / "said") == 0
    assert servers.idle != [first]
    servers._end_idle()


def test_one_that_cannot_begin_says_why(tmp_path: Path) -> None:
    servers = Servers("-c", "import no_such_thing")
    with pytest.raises(ChildProcessError, match="No module named 'no_such_thing'"):
        run(servers, tmp_path / "said")
    assert servers.idle == []


def test_whoever_does_not_wait_ends_it(tmp_path: Path) -> None:
    servers = Servers("-c", SERVER)
    with servers.fork({"file": str(tmp_path / "said"), "code": 0, "seconds": 60}, os.environ) as fork:
        assert fork.poll() is None
        os.kill(fork.pid, signal.SIGKILL)
    assert servers.idle == []
    with servers.fork({"file": str(tmp_path / "said"), "code": 0, "seconds": 60}, os.environ) as fork:
        os.kill(fork.pid, signal.SIGKILL)
        assert fork.wait(10) == -signal.SIGKILL
    servers._end_idle()
