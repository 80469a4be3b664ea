"""A process that has done its imports and forks one for each order, which so begins at once and not after seconds.

It reads a line of JSON for each order and tells of each the process id of its fork and later its exit code, several at
a time: see `stores.fork_server`. On Linux alone: elsewhere it is not safe to fork what has loaded numerical libraries.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

CAN_FORK = sys.platform == "linux"


class Forks:
    """Those of one server, which is started when it is first needed, and again where it died."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.server: Server | None = None
        self._lock = threading.Lock()
        atexit.register(self.end)

    def prepare(self, environment: Mapping[str, str]) -> None:
        """Let the server import what it needs while other work is done, unless it has."""
        if CAN_FORK:
            self._living(environment)

    @contextmanager
    def fork(self, order: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator["Fork"]:
        """The fork that carries out `order`; `environment` is that of a server that must be started for it. A fork that
        nobody waited for is killed at the end, with all of its process group.

        Raises:
            ChildProcessError: the server could not begin; the error has the end of what it said.
        """
        fork = self._living(environment).begin(order)
        try:
            yield fork
        finally:
            if fork.returncode is None:
                fork.kill()

    def _living(self, environment: Mapping[str, str]) -> "Server":
        with self._lock:
            if self.server is not None and self.server.process.poll() is not None:
                self.server.end()
                self.server = None
            if self.server is None:
                self.server = Server([sys.executable, *self.arguments], environment)
            return self.server

    def end(self) -> None:
        """End the server, and with it what it has forked."""
        with self._lock:
            if self.server is not None:
                self.server.end()
                self.server = None


class Server:
    """The process, and a thread that starts it and hears what it tells.

    Linux ends a process that asked for it (`core.fit.die_with_parent`) with the thread that started it, so that must be
    one that stays.
    """

    process: "subprocess.Popen[bytes]"

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the server
        self._lock = threading.Lock()
        self._forks: list[Fork] = []
        self._is_dead = False
        started: Future[None] = Future()
        self._ear = threading.Thread(target=self._run, args=(command, environment, started), name="forks", daemon=True)
        self._ear.start()
        started.result()

    def begin(self, order: Mapping[str, Any]) -> "Fork":
        """Raises: ChildProcessError: it is dead."""
        assert self.process.stdin is not None
        fork = Fork()
        with self._lock:
            if not self._is_dead:
                line = json.dumps({"number": len(self._forks), **order}).encode() + b"\n"
                self._forks.append(fork)
                with suppress(BrokenPipeError):  # it is dead: there will be no answer
                    self.process.stdin.write(line)
            else:
                fork.ended(-signal.SIGKILL)
        fork.begun.wait()
        if not fork.pid:
            self._said.seek(0)
            raise ChildProcessError(self._said.read()[-2000:].decode(errors="replace"))
        return fork

    def _run(self, command: list[str], environment: Mapping[str, str], started: "Future[None]") -> None:
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment,
                start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(None)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            fork = self._forks[told["number"]]
            if "pid" in told:
                fork.pid = told["pid"]
                fork.begun.set()
            else:
                fork.ended(told["code"])
        with self._lock:
            self._is_dead = True
            for fork in self._forks:
                fork.ended(-signal.SIGKILL)  # a server that was killed says nothing, and its forks died with it

    def end(self) -> None:
        self.process.kill()
        self._ear.join()
        with self.process:  # waits, and closes the pipes
            self._said.close()


class Fork:
    """Told of as `subprocess.Popen` tells of a child."""

    def __init__(self) -> None:
        self.pid = 0  # until it has begun
        self.returncode: int | None = None
        self.begun, self._ended = threading.Event(), threading.Event()

    def ended(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
        self.begun.set()
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises: TimeoutExpired."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("fork", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """It and all of its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
