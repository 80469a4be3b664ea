"""What killed runs left behind: a run that starts clears it away, and has its own temporary folder in the home.

Whatever a process has not finished bears its name (`core.owners`), so that nothing of a living one is touched.
"""

import atexit
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from tasks.account import in_run
from tasks.core.owners import CLOCK_SECONDS, MEMORY, UNFINISHED, began_then, unfinished
from tasks.naming import flow_run_id

# Where other writers have ways of their own, or another home lies.
NOT_OURS = {"lake", "mlartifacts", "feast", "prefect", "logs", "services", "replays"}
RUN, SERVER = "run", "server"  # a process's temporary folder, and a note that says what server it has started
FLOW_RUNS = "flow-runs"  # in that folder: files by the names of the flow runs that the process is at


def begin(root: Path) -> None:
    """Clear away what the dead left; give this process, and what it starts, a temporary folder of its own.

    Libraries put models and pages into temporary folders, and a kill would leave those in the machine's own for good.
    """
    own = unfinished(root / "scratch" / RUN)
    if not in_run():
        return
    is_first = tempfile.gettempdir() != str(own)
    if is_first and own.exists():
        clear_away(root)  # it is of a dead one that had this process's number
    (own / FLOW_RUNS).mkdir(parents=True, exist_ok=True)
    if (number := flow_run_id()) is not None:
        (own / FLOW_RUNS / number).touch()  # first of all: killed before, it stays alive for Prefect
    if is_first:
        clear_away(root)
        tempfile.tempdir = os.environ["TMPDIR"] = str(own)
        atexit.register(shutil.rmtree, own, ignore_errors=True)


def clear_away(root: Path) -> list[Path]:
    """Remove everything unfinished whose maker is dead; what it was."""
    folders = [folder for folder in root.iterdir() if folder.name not in NOT_OURS] if root.is_dir() else []
    made = [path for folder in folders for path in _unfinished(folder)]
    found = [path for path in (*made, *MEMORY.parent.glob(f".{MEMORY.name}~*~*")) if is_left(path)]
    for path in found:
        if path.name.startswith(f".{SERVER}~"):
            _end_server(path)
        if path.name.startswith(f".{RUN}~") and not _end_flow_runs(path / FLOW_RUNS):
            continue
        _remove(path)
        name = path.name[1:].rsplit("~", 2)[0]
        # What it marked, see `unfinished_folder`, unless a living process is at the same.
        if path.with_name(name).is_dir() and not list(path.parent.glob(f".{name}~*")):
            _remove(path.with_name(name))
    return found


def _unfinished(folder: Path) -> Iterator[Path]:
    # Not `rglob`, which fails where another run removes a folder meanwhile.
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files) if UNFINISHED.fullmatch(name))


def is_left(path: Path) -> bool:
    """Whether its maker is dead. True only where it can be known: on this machine."""
    import psutil

    _, host, process = path.name.rsplit("~", 2)
    if host != socket.gethostname():
        return False
    try:
        found = psutil.Process(int(process))
        # A process that began after the file was last written is another one with the same number.
        began = found.create_time() if found.status() != psutil.STATUS_ZOMBIE else float("inf")
        return began > path.stat().st_mtime + CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return True
    except FileNotFoundError:  # finished at this moment
        return False


def note_server(root: Path, process: int) -> None:
    """Keep in mind a server that this process has started and ends itself, unless it is killed."""
    import psutil

    path = unfinished(root / "scratch" / SERVER)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": process, "started": psutil.Process(process).create_time()}))
    atexit.register(path.unlink, missing_ok=True)


def _end_server(path: Path) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess, ValueError, FileNotFoundError):
        said = json.loads(path.read_text())
        server = psutil.Process(said["pid"])
        if began_then(server.create_time(), said["started"]):
            server.terminate()


def _end_flow_runs(folder: Path) -> bool:
    """Tell Prefect that the runs of a dead process are dead; whether it could be told. It would show them as alive, and
    those of a deployment keep their slot."""
    noted = [path.name for path in folder.glob("*")]
    if noted and not (in_run() or os.environ.get("PREFECT_API_URL")):
        return False
    return not noted or _tell_dead(noted)


def _tell_dead(noted: Sequence[str]) -> bool:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    numbers = [UUID(number) for number in noted]
    alive = filters.FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    own = {"id": filters.FlowRunFilterId(any_=numbers)}
    # One that ran within another may have died before it was noted.
    within = {"parent_flow_run_id": filters.FlowRunFilterParentFlowRunId(any_=numbers)}
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        for chosen in (own, within):
            asked = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=alive), **chosen)
            for run in client.read_flow_runs(flow_run_filter=asked):
                client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)
        return True
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that is this process's until it is discarded or kept. After an error in here it is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished(folder).touch()
    try:
        yield folder
    except BaseException:
        discard(folder)
        raise


def discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    keep(folder)


def keep(folder: Path) -> None:
    """For whoever wants to look into it: no start clears it away."""
    unfinished(folder).unlink(missing_ok=True)
