"""The training child: a process group of its own, which ends with what waits for it and with this process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from tasks.core.errors import FitError
from tasks.core.fit_output import LOG
from tasks.core.forks import CAN_FORK, Fork
from tasks.stores.fork_server import child_environment, fork

GRACE_SECONDS = 5.0  # a launcher of several processes needs a moment to end them


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
    with _forked(page) if _can_fork(devices) else _started(page) as child:
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


def _can_fork(devices: int) -> bool:
    return devices == 1 and CAN_FORK


@contextmanager
def _started(page: Path) -> Iterator[subprocess.Popen[bytes]]:
    with page.with_name(LOG).open("ab") as log:
        yield subprocess.Popen(
            [sys.executable, "-m", "tasks.core.fit", str(page)], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, env=child_environment(), start_new_session=True,
        )  # fmt: skip


@contextmanager
def _forked(page: Path) -> Iterator[Fork]:
    try:
        with fork("fit", str(page), page.with_name(LOG)) as child:
            yield child
    except ChildProcessError as error:
        raise FitError("the training process could not begin", got=f"it said:\n{error}") from error
