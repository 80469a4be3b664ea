"""The main job killed at three boundaries and disturbed by others at once; a hundred kills more are in `make torture`.

Two homes come to the same: in one the run is killed three times, the last time beside a second one and an ingest of
later rows; in the other it is left alone, save for a reader.
"""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.flows.homes import ROOT, wait_until
from tests.torture.kills import Scene, Zygote
from tests.torture.servers import open_runs, prefect_server
from tests.torture.small_flights import FIRST, SECOND, write_features, write_world
from tests.torture.trials import check_end, check_killed, example

BEGAN = datetime.now(UTC)
KILLED_WITHIN = """
import os, signal
from pathlib import Path
from prefect import flow
from tasks import leftovers

@flow
def outer():
    leftovers.begin(Path(os.environ["PERENNIAL_HOME"]))
    inner()

@flow
def inner():
    os.kill(os.getpid(), signal.SIGKILL)

outer()
"""
CLEAR = "from pathlib import Path; from tasks import leftovers; leftovers.clear_away(Path({!r}))"
BOUNDARIES = ("committed", "checkpoint half-written", "ledger after the intent")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with prefect_server(tmp_path_factory.mktemp("server")) as environment:
        yield environment


@pytest.fixture(scope="module")
def zygote(server):
    started = Zygote(server)
    yield started
    started.end()


@pytest.fixture(scope="module")
def scene(zygote, tmp_path_factory):
    world = tmp_path_factory.mktemp("world")
    recipe = write_world(world)
    write_features(world / "features")
    return Scene(tmp_path_factory.mktemp("scene"), zygote, world, recipe)


@pytest.fixture(scope="module")
def undisturbed(scene):
    """From an empty home to the first champion, with a reader of what is materialized; and an ingest after it."""
    scene.reset("empty")
    running, answer = scene.start(FIRST), scene.folder / "read.json"
    reading = scene.zygote.start(
        does="read_while_materialized", arguments=[str(scene.folder / "marks")], answer=str(answer),
        environment=scene.environment, log=str(scene.folder / "reader.txt"),
    )  # fmt: skip
    assert scene.zygote.wait(running) == 0, said(scene, "log.txt")
    scene.zygote.wait(reading)
    served = scene.ask("champion", example(scene))
    assert scene.zygote.wait(scene.start(SECOND, flow="ingest", log="ingest.txt")) == 0, said(scene, "ingest.txt")
    none = {"version": None, "scores": None}
    return {"state": scene.ask("state"), "champions": [none, served], "read": json.loads(answer.read_text())}


@pytest.fixture(scope="module")
def killed(scene, undisturbed):
    """What was wrong after two of the kills."""
    scene.reset("empty")
    problems = []
    for boundary in BOUNDARIES[:2]:
        ended = scene.run(FIRST, boundary=boundary)
        victim = "rank" if boundary == "checkpoint half-written" else "flow"
        champion = scene.ask("champion", example(scene))
        problems += check_killed(victim, ended.code, ended.said, champion, undisturbed)
    return problems


@pytest.fixture(scope="module")
def crowded(scene, killed):
    """Exit codes of the run that is killed last, of a second pipeline beside it, and of an ingest while it fits."""
    (scene.folder / "marks").unlink()
    last = scene.start(FIRST, boundary=BOUNDARIES[2])
    beside = []
    for step, flow, as_of in (("in ingest", "pipeline", FIRST), ("in fit", "ingest", SECOND)):
        wait_until(
            lambda step=step: step in str(scene.marks()), f"it never was {step}", lambda _: said(scene, "log.txt")
        )
        beside.append(scene.start(as_of, flow=flow, log=f"second-{flow}.txt", marks="/dev/null"))
    return [scene.zygote.wait(one) for one in (last, *beside)]


def said(scene: Scene, log: str) -> str:
    path = Path(scene.folder / log)
    return path.read_text()[-3000:] if path.exists() else ""


def test_between_a_kill_and_the_next_start_the_champion_can_be_loaded(killed):
    assert killed == []


def test_of_two_pipelines_at_once_the_second_is_refused_and_told_who_is_at_it(scene, crowded):
    last, second, ingested = crowded
    told = said(scene, "second-pipeline.txt")
    assert (last, second, ingested) == (-9, 1, 0), told
    assert "another run of project 'flights' is promoting" in told
    assert "process " in told


def test_killed_three_times_it_comes_to_what_an_undisturbed_run_does(server, scene, undisturbed, crowded):
    assert scene.ask("champion", example(scene)) in undisturbed["champions"]
    ended = scene.run(FIRST)
    assert ended.code == 0, ended.said
    assert check_end(scene, undisturbed) == []
    assert open_runs(server, BEGAN) == [], "nor does Prefect take any of them for alive"


def test_a_reader_meets_a_row_as_it_was_or_as_it_is_and_never_a_mixture(undisturbed):
    read = undisturbed["read"]
    assert read["answers"] > 20
    assert read["mixed"] == []
    assert read["before"] > 0, "nothing was read before it was materialized"
    assert read["after"] > 0, "nothing was read after it was"


def test_a_run_within_another_that_dies_before_it_is_noted_is_marked_too(server, tmp_path):
    began, told = datetime.now(UTC), {**server, "PERENNIAL_HOME": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", KILLED_WITHIN], env=told, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(open_runs(server, began)) == 2
    subprocess.run([sys.executable, "-c", CLEAR.format(str(tmp_path))], env=told, cwd=ROOT, check=True)
    assert open_runs(server, began) == []
