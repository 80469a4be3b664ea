"""The long-running processes of a home: started once, known by process id and start time, ended with their children.

The start time keeps an id that was given to another program meanwhile from being taken for ours.
"""

import json
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.owners import began_then
from tasks.core.records import write_text_atomically

if TYPE_CHECKING:
    import psutil

STOP_SECONDS = 10


def running(home: Path, name: str) -> int | None:
    """The process id of a service of this home, if it is alive and still the process that was started."""
    import psutil

    try:
        known = json.loads(_file(home, name).read_text())
        process = psutil.Process(known["pid"])
        is_ours = began_then(process.create_time(), known["started"]) and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process.pid if is_ours else None


def address(home: Path, name: str) -> str | None:
    """Where a running service answers."""
    return None if running(home, name) is None else json.loads(_file(home, name).read_text())["address"]


def start(home: Path, name: str, command: Sequence[str], environment: Mapping[str, str], address: str | None) -> int:
    """Start a service in a session of its own: it outlives the shell, and Ctrl-C there does not reach it."""
    import psutil

    log_file(home, name).parent.mkdir(parents=True, exist_ok=True)
    with log_file(home, name).open("ab") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    known = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "address": address}
    write_text_atomically(_file(home, name), json.dumps(known))
    return process.pid


def end(home: Path, name: str) -> int | None:
    """End a service and everything it started; its process id, or None when it was not running."""
    import psutil

    if (pid := running(home, name)) is not None:
        with suppress(psutil.NoSuchProcess):
            _end_family(psutil.Process(pid))
    _file(home, name).unlink(missing_ok=True)
    return pid


def _end_family(root: "psutil.Process") -> None:
    import psutil

    left = [root, *root.children(recursive=True)]
    # A worker passes over the first SIGTERM while it waits for its runs, which may report yet; the second one it heeds.
    steps = ((signal.SIGTERM, left, 2), (signal.SIGTERM, [root], STOP_SECONDS), (signal.SIGKILL, left, STOP_SECONDS))
    for number, addressed, seconds in steps:
        for process in addressed:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if not psutil.wait_procs(left, timeout=seconds)[1]:
            return


def clear_unused(folder: Path) -> None:
    """Remove what lies in a folder, save where a process is at work: a run may outlive the worker that started it."""
    import psutil

    used: set[Path] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            place = Path(process.cwd())
            used.update((place, *place.parents))
    for path in folder.glob("*"):
        if path not in used:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def log_file(home: Path, name: str) -> Path:
    return home / "logs" / f"{name}.log"


def _file(home: Path, name: str) -> Path:
    return home / "services" / f"{name}.json"
