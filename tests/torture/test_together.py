"""A monitor during a retrain, and a retrain during a monitor: each stopped in its middle while the other does all.

Real processes on one home. Whichever comes first, all is as when the one was run after the other.
"""

import json
import signal
import time

import psutil
import pytest

from tests.torture.kills import Scene, Zygote
from tests.torture.servers import prefect_server
from tests.torture.small_flights import FIRST, SECOND
from tests.torture.trials import check_end, example, make_world

SECONDS = 300
# Where the one is when the other begins. A monitor has read who is champion before it scores.
STOPPED = {"pipeline": ("in ingest", "in fit", "in evaluate", "in register"), "monitor": ("in score", "in monitor")}
OTHER = {"pipeline": "monitor", "monitor": "pipeline"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A champion, and the rows of two more weeks."""
    folder = tmp_path_factory.mktemp("together")
    recipe = make_world(folder / "world")
    with prefect_server(tmp_path_factory.mktemp("server")) as environment:
        zygote = Zygote(environment)
        try:
            made = Scene(folder / "scene", zygote, folder / "world", recipe)
            made.reset("empty")
            assert made.run(FIRST).code == 0
            assert zygote.wait(made.start(SECOND, flow="ingest", marks="/dev/null")) == 0
            made.keep("ready")
            yield made
        finally:
            zygote.end()


@pytest.fixture(scope="module")
def apart(scene):
    """What a monitor and then a pipeline come to that never meet."""
    scene.reset("ready")
    before = scene.ask("champion", example(scene))
    for flow in ("monitor", "pipeline"):
        process = scene.start(SECOND, flow=flow, marks=str(scene.folder / f"{flow}.marks"))
        assert scene.zygote.wait(process) == 0, said(scene)
    after = scene.ask("champion", example(scene))
    assert after["version"] == before["version"] + 1
    return {"state": scene.ask("state"), "champions": [before, after], "seen": seen(scene)}


@pytest.mark.parametrize(("first", "step"), [(flow, step) for flow in STOPPED for step in STOPPED[flow]])
def test_stopped_in_its_middle_while_the_other_does_all_it_comes_to_the_same(scene, apart, first, step):
    scene.reset("ready")
    marks = scene.folder / "stopped.marks"
    marks.unlink(missing_ok=True)
    running = scene.start(SECOND, flow=first, marks=str(marks))
    stopped = stop_at(running, marks, step)
    try:
        beside = scene.start(SECOND, flow=OTHER[first], marks="/dev/null")
        wait_while_stopped(beside)
    finally:
        send(stopped, signal.SIGCONT)
    assert [scene.zygote.wait(one) for one in (beside, running)] == [0, 0], said(scene)
    assert check_end(scene, apart) == []
    assert seen(scene) == apart["seen"]


def stop_at(running, marks, step):
    deadline = time.monotonic() + SECONDS
    while not (marks.exists() and f" {step} " in marks.read_text()):
        assert time.monotonic() < deadline, f"it never was {step}"
        assert running.is_running()
        time.sleep(0.005)
    family = [running, *running.children(recursive=True)]
    send(family, signal.SIGSTOP)
    return family


def send(family, number):
    for process in family:
        process.send_signal(number)


def wait_while_stopped(beside):
    """Until it has ended, or has come to where it has to wait for the other."""
    deadline, used, since = time.monotonic() + SECONDS, -1.0, time.monotonic()
    while time.monotonic() < deadline and beside.status() != psutil.STATUS_ZOMBIE:
        now = sum(sum(one.cpu_times()[:2]) for one in (beside, *beside.children(recursive=True)))
        if now - used > 0.05:
            used, since = now, time.monotonic()
        if time.monotonic() - since > 10:
            return
        time.sleep(0.2)


def said(scene):
    return (scene.folder / "log.txt").read_text()[-3000:]


def seen(scene):
    """What the monitor saw and decided."""
    (report,) = (scene.home / "monitor" / "flights").glob("*.json")
    (decision,) = (scene.home / "decisions" / "flights").glob("*.json")
    found = json.loads(report.read_text())
    return {name: found[name] for name in ("rows", "observation", "quality", "columns")} | {
        "decision": json.loads(decision.read_text())
    }
