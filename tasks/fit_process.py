"""The training child: a process group of its own, which ends with what waits for it and with this process."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from tasks.core.errors import FitError
from tasks.core.fit_output import LOG, PARENT

LOG_LINES = 20
GRACE_SECONDS = 5.0  # a launcher of several processes needs a moment to end them
REPOSITORY = Path(__file__).resolve().parents[1]


class Child(Protocol):
    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


@contextmanager
def child_process(page: Path, devices: int) -> Iterator[Child]:
    """The fit of a page, of which several processes are started anew and one is forked where that is safe."""
    can_fork = devices == 1 and sys.platform == "linux"
    with _forked(page) if can_fork else _started(page) as child:
        try:
            yield child
        except BaseException:
            end_group(child)
            raise


def end_group(child: Child) -> None:
    """Terminate the child and what it started; kill what is left after a moment. Checkpoints are whole at any time."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience)


def last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def _environment() -> dict[str, str]:
    # The child finds this package, and a network of the user's own, where this process does.
    told = {PARENT: str(os.getpid()), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    told["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asked otherwise, CUDA could not be used in a fork
    return os.environ | told | {"PYTHONPATH": os.pathsep.join(_own_path())}


def _own_path() -> list[str]:
    own = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    return [str(REPOSITORY), *own]


@contextmanager
def _started(page: Path) -> Iterator[subprocess.Popen[bytes]]:
    with page.with_name(LOG).open("ab") as log:
        yield subprocess.Popen(
            [sys.executable, "-m", "tasks.core.fit", str(page)], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, env=_environment(), start_new_session=True,
        )  # fmt: skip


# --- forked -----------------------------------------------------------------------------------------

_servers: list[subprocess.Popen[bytes]] = []  # that wait for a fit
_lock = threading.Lock()


@contextmanager
def _forked(page: Path) -> Iterator["_Fork"]:
    server, child = _take_server(page.with_name(LOG)), None
    try:
        child = _Fork(server, page)
        yield child
    finally:
        if child is not None and child.returncode is not None:
            with _lock:
                _servers.append(server)
        else:
            _end(server)  # and with it what it has begun


def _take_server(log: Path) -> subprocess.Popen[bytes]:
    """One that is idle, or a new one. They end with this process."""
    with _lock:
        while _servers:
            if (server := _servers.pop()).poll() is None:
                return server
            _end(server)
    with log.open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.core.fit_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, env=_environment(), start_new_session=True, bufsize=0,
        )  # fmt: skip


def _end(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    with server:  # waits, and closes the pipes
        pass


@atexit.register
def _end_idle() -> None:
    while _servers:
        _end(_servers.pop())


class _Fork:
    """A fit of the server's, told as `subprocess.Popen` tells of a child."""

    def __init__(self, server: subprocess.Popen[bytes], page: Path) -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._answers = server.stdout
        self.returncode: int | None = None
        log = page.with_name(LOG)
        order = {"page": str(page), "log": str(log), "path": _own_path(), "environment": _environment()}
        with suppress(BrokenPipeError):  # it is dead: there will be no answer
            server.stdin.write(json.dumps(order).encode() + b"\n")
        if not (answer := self._answers.readline()):
            raise FitError("the training process could not begin", got=f"the end of {log}:\n{last_lines(log)}")
        self.pid = int(answer)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises: TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("fit", timeout or 0)
            # A server that was killed says nothing, and its fork died with it.
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)
        return self.returncode
