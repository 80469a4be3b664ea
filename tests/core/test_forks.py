"""A process that forks one for each order: begun once, asked again, replaced when it died, gone with its owner."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.core.forks import Fork, Forks
from tasks.stores import fork_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
SERVER = """
import json, os, sys, time
from tasks.stores import fork_server

def work(argument):
    order = json.loads(argument)
    with open(order["file"], "a") as file:
        file.write(f"{os.getppid()} ")
    time.sleep(order["seconds"])
    print("done")
    sys.exit(order["code"])

fork_server.import_all = lambda: None
fork_server.WORK["work"] = work
fork_server.main()
"""


@pytest.fixture
def forks() -> Iterator[Forks]:
    made = Forks("-c", SERVER)
    yield made
    made.end()


def fork(forks: Forks, file: Path, code: int = 0, seconds: float = 0) -> AbstractContextManager[Fork]:
    argument = f'{{"file": "{file}", "code": {code}, "seconds": {seconds}}}'
    order: dict[str, Any] = {"work": "work", "argument": argument, "log": f"{file}.log", "path": [], "folder": None}
    environment = fork_server.child_environment()
    return forks.fork(order | {"environment": environment}, environment)


def run(forks: Forks, file: Path, code: int = 0, seconds: float = 0) -> int:
    with fork(forks, file, code, seconds) as child:
        return child.wait(30)


def test_one_that_was_prepared_carries_out_each_order(forks: Forks, tmp_path: Path) -> None:
    forks.prepare(fork_server.child_environment())
    server = forks.server
    assert server is not None
    assert [run(forks, tmp_path / "said"), run(forks, tmp_path / "said", code=3)] == [0, 3]
    assert (tmp_path / "said").read_text().split() == [str(server.process.pid)] * 2
    assert Path(f"{tmp_path}/said.log").read_text() == "done\n" * 2
    forks.end()
    assert not psutil.pid_exists(server.process.pid)


def test_orders_are_carried_out_side_by_side_and_each_has_its_own_end(forks: Forks, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        begun = time.monotonic()
        ends = [threads.submit(run, forks, tmp_path / f"said{code}", code, seconds) for code, seconds in
                ((1, 2.0), (2, 0.0), (3, 2.0))]  # fmt: skip
        assert [end.result() for end in ends] == [1, 2, 3]
        assert time.monotonic() - begun < 4, "the two long ones waited for each other"


def test_one_outlives_the_thread_that_asked_for_it(forks: Forks, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(run, forks, tmp_path / "said").result()
    server = forks.server
    assert server is not None
    time.sleep(0.3)  # the kernel would have ended it at once
    assert server.process.poll() is None
    assert run(forks, tmp_path / "said") == 0
    assert forks.server is server


def test_one_that_died_is_replaced(forks: Forks, tmp_path: Path) -> None:
    run(forks, tmp_path / "said")
    first = forks.server
    assert first is not None
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert run(forks, tmp_path / "said") == 0
    assert forks.server is not first


def test_one_that_cannot_begin_says_why(tmp_path: Path) -> None:
    forks = Forks("-c", "import no_such_thing")
    for _ in range(2):
        with pytest.raises(ChildProcessError, match="No module named 'no_such_thing'"):
            run(forks, tmp_path / "said")
    forks.end()


def test_a_fork_that_nobody_waited_for_is_ended_and_the_others_go_on(forks: Forks, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(run, forks, tmp_path / "other", 7, 3.0)
        with fork(forks, tmp_path / "said", seconds=60) as child:
            assert child.poll() is None
        assert child.returncode == -signal.SIGKILL
        assert not psutil.pid_exists(child.pid)
        assert other.result() == 7


def test_a_fork_that_was_killed_says_so(forks: Forks, tmp_path: Path) -> None:
    with fork(forks, tmp_path / "said", seconds=60) as child:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL


def test_forks_die_with_their_server(forks: Forks, tmp_path: Path) -> None:
    with fork(forks, tmp_path / "said", seconds=60) as child:
        while not (tmp_path / "said").exists():
            time.sleep(0.01)
        assert forks.server is not None
        forks.server.process.kill()
        assert child.wait(10) == -signal.SIGKILL
        psutil.wait_procs([psutil.Process(child.pid)] if psutil.pid_exists(child.pid) else [], timeout=10)
        assert not psutil.pid_exists(child.pid)


def test_one_that_is_killed_before_it_says_a_word_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the kernel, where memory is short."""
    server = SERVER.replace("time.sleep(order[", "os.kill(os.getpid(), order[")
    forks = Forks("-c", server)
    monkeypatch.setattr(fork_server, "forks", forks)
    said = fork_server.carry_out("work", f'{{"file": "{tmp_path}/said", "seconds": 9, "code": 0}}', tmp_path / "log")
    assert said == "it ended with exit code -9 and said nothing"
    assert fork_server.failure(tmp_path / "no log", -9) == said
    assert not (tmp_path / "log").exists()
    forks.end()
