"""The worker is killed: alone, with the run that it started, or with every server, as when the power fails.

python -m tests.torture.worker_kills FOLDER [KILLS]    # FOLDER/worker.jsonl, and the table at the end

A trial is a home with its own Prefect server, worker and MLflow in which one decision is carried out by deployed runs:
a pipeline that a person starts again after each kill, or a retrain that `up` itself sends again.
"""

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tasks.core.records import Wanted
from tests.flows.homes import ROOT, Home
from tests.torture.kills import SECONDS, Mark, Point, Scene, Zygote, draw_kills, has_come_to
from tests.torture.servers import prefect_server
from tests.torture.small_flights import FIRST, SECOND
from tests.torture.trials import Expected, check_end, example, make_world, read_trials, table

KILLS, KILLS_PER_TRIAL = 12, 4
VICTIMS = ("worker", "worker and run", "all servers")
BASES = ("first", "empty")  # of trials in turn: a retrain that was decided, and a pipeline that a person starts
DECISION = "0123456789abcdef"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
MARKING = Path(__file__).with_name("marking")
PATIENCE = {
    # As in tests/flows/test_loop_services.py; a run may take long to begin on a busy machine.
    "PERENNIAL_SILENCE_SECONDS": "60",
    "PERENNIAL_START_SECONDS": "240",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}
# Prefect's own, in every temporary folder that it has worked in.
PREFECTS_OWN = ("runner_storage", "db_init_lock-")


@dataclass
class Served(Scene):
    """A scene whose home has servers and a worker."""

    services: Home = field(init=False)

    def up(self) -> None:
        self.services.services("up")

    def reset(self, name: str) -> None:
        super().reset(name)
        self.services = Home(self.home)
        self.services.environment |= self.environment | PATIENCE
        self.services.environment |= {"TORTURE_MARKS": str(self.marked), "PYTHONPATH": f"{MARKING}{os.pathsep}{ROOT}"}
        self.marked.write_text("")

    @property
    def marked(self) -> Path:
        return self.folder / "marks"

    def begin(self, base: str) -> None:
        """Have the run started: by a person, or, where one was decided, by whoever came up."""
        self.marked.write_text(f"{time.monotonic()} in start run\n")  # emptied, not removed: a run may write on
        if base == "empty":
            asked = {"recipe": str(self.recipe), "as_of": FIRST}
            self.services.deploy_run("pipeline/flights", wait=False, **asked)

    def decide(self) -> None:
        """Put a retrain into the outbox, as a monitor does that finds no server."""
        entry = self.home / "outbox" / "flights" / DECISION
        if not entry.exists():
            entry.mkdir(parents=True)
            Wanted(
                decision_id=DECISION, project="flights", recipe=str(self.recipe), cause="event", reasons=("an event",),
                as_of=datetime.fromisoformat(SECOND).replace(tzinfo=UTC), overrides={"govern.max_attempts": 20},
            ).write(entry / "wanted.json")  # fmt: skip

    def is_done(self, base: str) -> bool:
        if base == "first":
            return (self.home / "outbox" / "flights" / DECISION / "done.json").exists()
        return any(entry["kind"] == "promoted" for entry in self.services.ledger())

    def open_runs(self) -> list[str]:
        """Runs that the server takes for alive, or still to come."""
        found = self.services.ask("flow_runs/filter", limit=200)
        return [f"{run['name']} {run['state']['name']}" for run in found if run["state"]["type"] not in FINAL]

    def strike(self, victim: str) -> None:
        own = {process for process in psutil.process_iter() if is_of(process, self.home)}
        worker = psutil.Process(json.loads((self.home / "services" / "worker.json").read_text())["pid"])
        chosen = {"worker": {worker}, "worker and run": {worker, *worker.children(recursive=True)}, "all servers": own}
        for process in chosen[victim]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(chosen[victim], timeout=30)

    def left_temporary(self) -> list[str]:
        return [name for name in super().left_temporary() if not name.startswith(PREFECTS_OWN)]


def is_of(process: psutil.Process, home: Path) -> bool:
    with suppress(psutil.Error):
        return process.environ().get("PERENNIAL_HOME") == str(home)
    return False


def prepare(scene: Served) -> Expected:
    """Undisturbed: a pipeline to the first champion, then a retrain to the second, by deployed runs."""
    path = scene.folder / "expected.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    expected: Expected = {}
    scene.reset("empty")
    before = {"version": None, "scores": None}
    for base in ("empty", "first"):
        if base == "first":
            assert scene.zygote.wait(scene.start(SECOND, flow="ingest", marks="/dev/null")) == 0
            scene.keep("first")
            scene.reset("first")
            scene.decide()
        try:
            scene.up()
            scene.begin(base)
            assert wait_for_end(scene, base) == []
        finally:
            scene.services.services("down")
        after = scene.ask("champion", example(scene))
        expected[base] = {"state": scene.ask("state"), "champions": [before, after], "timeline": scene.marks()}
        before = after
    path.write_text(json.dumps(expected))
    return expected


def play(scene: Served, expected: Expected, number: int, kills: int) -> dict[str, Any]:
    """One trial: kill and come up again until the decision is carried out, and say all that is not as it must be."""
    draw, began = random.Random(number), time.monotonic()
    base = BASES[number % len(BASES)]
    goal = expected[base]
    timeline = [Mark(*mark) for mark in goal["timeline"]]
    fell: list[dict[str, Any]] = []
    problems: list[str] = []
    scene.reset(base)
    if base == "first":
        scene.decide()
    try:
        scene.up()
        scene.begin(base)
        for point, victim in draw_kills(timeline, kills, draw, VICTIMS):
            if not wait_for_point(scene, base, point, timeline):
                break
            step = (scene.marks() or [Mark(0, "start")])[-1].step
            scene.strike(victim)
            champion = scene.ask("champion", example(scene))
            fell.append({"victim": victim, "step": step, "champion": champion["version"]})
            problems += [] if champion in goal["champions"] else [f"after {victim} in {step} champion: {champion}"]
            scene.up()
            scene.begin(base)
        problems += wait_for_end(scene, base)
    finally:
        scene.services.services("down")
    problems += check_end(scene, goal)
    seconds = round(time.monotonic() - began, 1)
    return {"trial": number, "base": base, "kills": fell, "problems": problems, "seconds": seconds}


def wait_for_point(scene: Served, base: str, point: Point, timeline: Sequence[Mark]) -> bool:
    """Whether the run came to the point, or to anything later, before it ended."""
    deadline = time.monotonic() + 2 * SECONDS
    while time.monotonic() < deadline:
        if scene.is_done(base):
            return False
        if has_come_to(point, scene.marks(), timeline):
            time.sleep(point.seconds)
            return not scene.is_done(base)
        time.sleep(0.02)
    return True  # it hangs; what comes up again has to end it


def wait_for_end(scene: Served, base: str) -> list[str]:
    """Wait until it is done and no run is open; what of it did not come."""
    deadline = time.monotonic() + 3 * SECONDS
    while not scene.is_done(base) or scene.open_runs():
        if time.monotonic() > deadline:
            log = scene.services.log("worker")
            return [f"done: {scene.is_done(base)}, open runs: {scene.open_runs()}: {log[-1500:]}"]
        time.sleep(2)
    return []


def run_trials(folder: Path, kills: int = KILLS) -> list[dict[str, Any]]:
    """Trials until so many kills have fallen; those that stand in the file are not made again."""
    lines, world = folder / "worker.jsonl", folder / "world"
    recipe = make_world(world)
    done = read_trials(lines)
    numbers = iter(number for number in range(10_000) if number not in {one["trial"] for one in done})
    with prefect_server(folder) as environment:  # for what is asked and ingested beside
        zygote = Zygote(environment)
        try:
            scene = Served(folder / "services", zygote, world, recipe)
            expected = prepare(scene)
            while (left := kills - sum(len(one["kills"]) for one in done)) > 0:
                one = play(scene, expected, next(numbers), min(KILLS_PER_TRIAL, left))
                done.append(one)
                with lines.open("a") as file:
                    file.write(json.dumps(one) + "\n")
                print(f"trial {one['trial']}: {len(one['kills'])} kills, {one['problems'] or 'all holds'}", flush=True)
                if one["problems"]:
                    scene.set_aside(f"trial-{one['trial']}")
        finally:
            zygote.end()
    return done


if __name__ == "__main__":
    print(table(run_trials(Path(sys.argv[1]), *map(int, sys.argv[2:])), VICTIMS))
