"""The process that has imported what training needs. Each fit, trees, plots and trial of a served model is its fork.

`prepare` starts it, `fork` gives it an order. As a program, `python -m tasks.stores.fork_server`, it reads a line of
JSON for each order (number, work, argument, log, path, environment, folder) and tells, by the order's number, the
process id of the fork and, when it ended, its exit code. A fork is as if it had been started for its order alone; it
ends with the server, and the server with the process that started it.
"""

import importlib
import json
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from tasks.core import fit
from tasks.core.fit_output import PARENT
from tasks.core.forks import Fork, Forks
from tasks.core.imports import importing
from tasks.core.threads import SHORT_SPINS, SHORTEST_SPINS
from tasks.stores import served_check

REPOSITORY = Path(__file__).resolve().parents[2]
LOG_LINES = 20
GIVES_WAY = 10  # what nobody waits for leaves the cores to what does
forks = Forks("-m", "tasks.stores.fork_server")


# --- whoever asks -----------------------------------------------------------------------------------


def prepare() -> None:
    forks.prepare(child_environment())


def fork(
    work: str,
    argument: str,
    log: Path,
    *,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> AbstractContextManager[Fork]:
    """One that does `work` (`fit`, `trees`, `plots`, `check`) and appends what it says to `log`.

    Raises:
        ChildProcessError: the server could not begin.
    """
    own = child_environment()
    order = {"work": work, "argument": argument, "log": str(log), "path": own_path(), "folder": folder}
    return forks.fork(order | {"environment": own | dict(environment or {})}, own)


def carry_out(work: str, argument: str, log: Path) -> str | None:
    """Wait for one that does `work`; where it failed, the end of what it said."""
    log.unlink(missing_ok=True)
    try:
        with fork(work, argument, log) as child:
            code = child.wait()
        return failure(log, code) if code else None
    except ChildProcessError as error:
        return str(error)
    finally:
        log.unlink(missing_ok=True)


def failure(log: Path, code: int) -> str:
    return last_lines(log) or f"it ended with exit code {code} and said nothing"


def last_lines(log: Path) -> str:
    """The end of what a child said. One that was killed at once has no log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]) if log.exists() else ""


def child_environment() -> dict[str, str]:
    """A child finds this package, and a network of the user's own, where this process does, and ends with it."""
    told = {PARENT: str(os.getpid()), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    told["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asked otherwise, CUDA could not be used in a fork
    return os.environ | told | {"PYTHONPATH": os.pathsep.join(own_path())}


def own_path() -> list[str]:
    own = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    return [str(REPOSITORY), *own]


# --- the server -------------------------------------------------------------------------------------


def main() -> None:
    fit.die_with_parent()
    with importing():
        import_all()
    orders, ended = _Lines(sys.stdin.fileno()), os.pipe()
    for end in ended:
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ended[1])
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(orders.descriptor, selectors.EVENT_READ)
        ready.register(ended[0], selectors.EVENT_READ)
        while not orders.is_over:
            for key, _ in ready.select():
                if key.fd == ended[0]:
                    os.read(ended[0], 4096)
                    _tell_ended(running)
                    continue
                for line in orders.read():
                    order = json.loads(line)
                    pid = _begin(order)
                    running[pid] = order["number"]
                    print(json.dumps({"number": order["number"], "pid": pid}), flush=True)


def import_all() -> None:
    """What the forks need. The trees come first: with torch's OpenMP in place they would share it and its way to wait,
    see `core.threads`."""
    given = {name: os.environ.get(name) for name in SHORTEST_SPINS}
    os.environ.update(SHORTEST_SPINS)
    importlib.import_module("tasks.core.baseline")
    importlib.import_module("sklearn.ensemble")
    for name, value in given.items():
        os.environ[name] = SHORT_SPINS[name] if value is None else value
    importlib.import_module("tasks.core.train")
    from tasks.core import export

    export.warm_up()
    for name in ("tasks.core.plots", "matplotlib.backends.backend_agg", *served_check.IMPORTS):
        with suppress(ImportError):  # then the order itself says so
            importlib.import_module(name)
    served_check.know_packages()


class _Lines:
    """The whole lines that have come down a pipe, without waiting for more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.is_over, self._rest = descriptor, False, b""

    def read(self) -> list[bytes]:
        came = os.read(self.descriptor, 1 << 20)
        self.is_over = not came
        *whole, self._rest = (self._rest + came).split(b"\n")
        return whole


def _tell_ended(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        print(json.dumps({"number": running.pop(pid), "code": os.waitstatus_to_exitcode(status)}), flush=True)


def _begin(order: dict[str, Any]) -> int:
    """The process id of the fork, which leads a process group of its own."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            code = run(order)
        finally:
            os._exit(code)  # whatever comes, it must not go on as a second server
    with suppress(OSError):  # it has done so itself
        os.setpgid(pid, pid)
    return pid


def run(order: dict[str, Any]) -> int:
    """The fork: as if it had been started for this order alone; its exit code."""
    with suppress(OSError):  # its parent has done so
        os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(target, stream)
    os.environ.clear()
    os.environ.update(order["environment"] | {PARENT: str(os.getppid())})
    sys.path[:0] = [path for path in order["path"] if path not in sys.path]
    code = 0
    try:
        fit.die_with_parent()
        if order["folder"] is not None:
            os.chdir(order["folder"])
        WORK[order["work"]](order["argument"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _trees(page: str) -> None:
    from tasks.core import baseline

    baseline.main(page)


def _plots(told: str) -> None:
    from tasks.core import plots

    os.nice(GIVES_WAY)
    plots.main(told)


def _check(order: str) -> None:
    served_check.forget(REPOSITORY)
    sys.exit(served_check.check(json.loads(order)))


WORK: dict[str, Callable[[str], None]] = {"fit": fit.main, "trees": _trees, "plots": _plots, "check": _check}

if __name__ == "__main__":
    main()
