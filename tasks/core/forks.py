"""Processes that have done their imports and fork one for each order, which so begins at once and not after seconds.

What serves (`core.fit_server`, `stores.served_check`) reads a line of JSON for each order and answers with the id of
the fork, then with its exit code; one at a time. It ends with the process that started it, at the latest when its
input does. On Linux alone: elsewhere it is not safe to fork what has loaded numerical libraries.
"""

import atexit
import json
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

CAN_FORK = sys.platform == "linux"


class Servers:
    """Those of one kind: an idle one is taken again, and only where there is none another is started."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.idle: list[Server] = []
        self._lock = threading.Lock()
        atexit.register(self._end_idle)

    def prepare(self, environment: Mapping[str, str], **options: Any) -> None:
        """Let one import what it needs while other work is done, unless one has."""
        with self._lock:
            if CAN_FORK and not self.idle:
                self.idle.append(Server(self.arguments, environment, **options))

    @contextmanager
    def fork(self, order: Mapping[str, Any], environment: Mapping[str, str], **options: Any) -> Iterator["Fork"]:
        """The fork that carries out `order`. Whoever does not wait for its end ends it here.

        Raises:
            ChildProcessError: the server could not begin; the error has the end of what it said.
        """
        server, fork = self._take(environment, **options), None
        try:
            fork = server.begin(order)
            yield fork
        finally:
            if fork is not None and fork.returncode is not None:
                with self._lock:
                    self.idle.append(server)
            else:
                server.end()  # and with it what it has begun

    def _take(self, environment: Mapping[str, str], **options: Any) -> "Server":
        with self._lock:
            while self.idle:
                if (server := self.idle.pop()).process.poll() is None:
                    return server
                server.end()
        return Server(self.arguments, environment, **options)

    def _end_idle(self) -> None:
        while self.idle:
            self.idle.pop().end()


class Server:
    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], **options: Any) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the server
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            env=environment, start_new_session=True, bufsize=0, **options,
        )  # fmt: skip

    def begin(self, order: Mapping[str, Any]) -> "Fork":
        """Raises: ChildProcessError: it is dead."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it is dead: there will be no answer
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
        if not (answer := self.process.stdout.readline()):
            self._said.seek(0)
            raise ChildProcessError(self._said.read()[-2000:].decode(errors="replace"))
        return Fork(int(answer), self.process.stdout)

    def end(self) -> None:
        self.process.kill()
        with self.process:  # waits, and closes the pipes
            self._said.close()


class Fork:
    """Told of as `subprocess.Popen` tells of a child."""

    def __init__(self, pid: int, answers: Any) -> None:
        self.pid, self._answers = pid, answers
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises: TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("fork", timeout or 0)
            # A server that was killed says nothing, and its fork died with it.
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)
        return self.returncode
