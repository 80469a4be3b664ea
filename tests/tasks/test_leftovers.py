"""What the dead left is cleared away by the next start, and nothing of the living is touched."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tasks import leftovers
from tasks.core.owners import unfinished

LEAVE = """
import os, signal, subprocess, sys
from pathlib import Path
from tasks import leftovers
from tasks.core.arrow_files import appearing
from tasks.core.owners import unfinished
root = Path(sys.argv[1])
server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
leftovers.note_server(root, server.pid)
(unfinished(root / "scratch" / "run") / "model").mkdir(parents=True)
with leftovers.unfinished_folder(root / "staging" / "flights" / "schedule" / "4711") as folder:
    (folder / "rows.parquet").write_text("half")
with leftovers.unfinished_folder(root / "staging" / "flights" / "schedule" / "refused") as folder:
    (folder / "rows.parquet").write_text("to be looked at")
leftovers.keep(folder)
with appearing(root / "training" / "flights" / "1a" / "rows.arrow") as path:
    path.write_text("half")
    print(server.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def leaving(tmp_path):
    """A process in the middle of everything; its server."""
    with subprocess.Popen(
        [sys.executable, "-c", LEAVE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        server = psutil.Process(int(process.stdout.readline()))
        yield process, server
        for one in (process, server):
            if one.poll() is None if one is process else one.is_running():
                one.kill()


def clear(root: Path) -> list[Path]:
    """What was cleared away in this home; in memory others may have left something."""
    return [path for path in leftovers.clear_away(root) if root in path.parents]


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_what_a_living_run_is_at_stays_and_what_it_leaves_when_killed_goes(leaving, tmp_path):
    process, server = leaving
    before = files(tmp_path)
    assert len(before) == 5  # two staged batches and the mark of one, half a file, a note of the server
    assert clear(tmp_path) == []
    assert files(tmp_path) == before
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(clear(tmp_path)) == 4
    assert files(tmp_path) == ["staging/flights/schedule/refused/rows.parquet"]
    assert not (tmp_path / "staging/flights/schedule/4711").exists()
    psutil.wait_procs([server], timeout=20)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert clear(tmp_path) == []


def test_a_folder_that_a_living_run_is_at_too_stays(leaving, tmp_path):
    process, _ = leaving
    with leftovers.unfinished_folder(tmp_path / "staging/flights/schedule/4711"):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        clear(tmp_path)
        assert (tmp_path / "staging/flights/schedule/4711/rows.parquet").exists()


def test_a_folder_whose_making_fails_is_gone(tmp_path):
    with pytest.raises(ValueError, match="no such column"), leftovers.unfinished_folder(tmp_path / "staging" / "1a"):
        raise ValueError("no such column")
    assert files(tmp_path) == []


def test_a_number_that_another_process_has_now_is_a_dead_ones(tmp_path):
    path = unfinished(tmp_path / "runs" / "last.ckpt")
    path.parent.mkdir()
    path.touch()
    assert clear(tmp_path) == []
    os.utime(path, (0, 0))  # long before this process began
    assert clear(tmp_path) == [path]


def test_another_machines_is_left_alone(tmp_path):
    path = tmp_path / "runs" / ".last.ckpt~elsewhere~4711"
    path.parent.mkdir()
    path.touch()
    assert clear(tmp_path) == []


def test_a_run_has_a_temporary_folder_in_its_home_which_goes_with_it(tmp_path):
    script = """
import sys, tempfile
from pathlib import Path
from tasks import leftovers
leftovers.in_run = lambda: True
leftovers.begin(Path(sys.argv[1]))
print(tempfile.mkdtemp())
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent.parent == tmp_path / "scratch"
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not tempfile.gettempdir().startswith(str(tmp_path))


@pytest.mark.parametrize(("set_by", "is_ended"), [(0.9, True), (60.0, False)])
def test_a_server_of_a_dead_run_is_known_though_the_clock_was_set(
    tmp_path: Path, set_by: float, is_ended: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as server:
        note = tmp_path / "scratch" / f".server~{socket.gethostname()}~{_dead_process()}"
        note.parent.mkdir()
        began = psutil.Process(server.pid).create_time() - set_by
        note.write_text(json.dumps({"pid": server.pid, "started": began}))
        leftovers.clear_away(tmp_path)
        try:
            assert (server.wait(10 if is_ended else 0.5) == -signal.SIGTERM) == is_ended
        except subprocess.TimeoutExpired:
            assert not is_ended
        finally:
            server.kill()


def _dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid
