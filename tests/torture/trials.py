"""A hundred kills at random, two homes side by side, one line of JSON for each trial; goes on where it was stopped.

python -m tests.torture.trials FOLDER [KILLS]    # FOLDER/kills.jsonl, and the table at the end
"""

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.torture.kills import VICTIMS, Mark, Scene, Zygote, draw_kills
from tests.torture.servers import open_runs, prefect_server
from tests.torture.small_flights import FIRST, SECOND, write_features, write_world

KILLS, SLOTS = 100, 2
KILLS_PER_TRIAL = 5  # a run again is killed too: up to so many times before it may end
MOMENTS = {"empty": FIRST, "first": SECOND}  # what is kept -> the moment that is run from it
BASES = ("first", "first", "first", "empty")
Expected = dict[str, dict[str, Any]]


def make_world(folder: Path) -> Path:
    """What every trial is played in, unless it is there; the path of the recipe."""
    recipe = write_world(folder)
    if not (folder / "features").exists():
        write_features(folder / "features")
    return recipe


def prepare(scene: Scene) -> Expected:
    """Two undisturbed runs, from an empty home to a first and a second champion: what every trial must come to."""
    path = scene.folder / "expected.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    expected: Expected = {}
    scene.reset("empty")
    before = {"version": None, "scores": None}
    for base, as_of in MOMENTS.items():
        ended = scene.run(as_of)
        assert ended.code == 0, ended.said
        after = scene.ask("champion", example(scene))
        expected[base] = {"state": scene.ask("state"), "champions": [before, after], "timeline": scene.marks()}
        before = after
        if base == "empty":
            scene.keep("first")
    path.write_text(json.dumps(expected))
    return expected


def example(scene: Scene) -> str:
    """Rows to predict, the same in every trial."""
    kept = scene.folder / "example.arrow"
    if not kept.exists():
        (rows,) = scene.home.glob("training/flights/*/rows.arrow")
        kept.write_bytes(rows.read_bytes())
    return str(kept)


def play(scene: Scene, expected: Expected, number: int, kills: int) -> dict[str, Any]:
    """One trial: kill and run again until it ends by itself, and say all that is not as it must be."""
    draw, began = random.Random(number), time.monotonic()
    base = draw.choice(BASES)
    goal, moment = expected[base], MOMENTS[base]
    timeline = [Mark(*mark) for mark in goal["timeline"]]
    scene.reset(base)
    fell: list[dict[str, Any]] = []
    problems: list[str] = []
    for point, victim in draw_kills(timeline, kills, draw):
        ended = scene.run(moment, point=point, victim=victim, timeline=timeline)
        if ended.victim is None:
            problems += [f"ended with {ended.code} before it was killed: {ended.said[-1000:]}"] if ended.code else []
            break
        champion = scene.ask("champion", example(scene))
        fell.append({"victim": ended.victim, "step": ended.step, "code": ended.code, "champion": champion["version"]})
        problems += check_killed(ended.victim, ended.code, ended.said, champion, goal)
    ended = scene.run(moment)
    problems += [f"run again ended with {ended.code}: {ended.said[-2000:]}"] if ended.code else []
    problems += check_end(scene, goal)
    seconds = round(time.monotonic() - began, 1)
    return {"trial": number, "base": base, "kills": fell, "problems": problems, "seconds": seconds}


def play_named(scene: Scene, expected: Expected, base: str, boundaries: Sequence[str]) -> dict[str, Any]:
    """One home killed at every one of these boundaries in turn, each time by a run again."""
    goal, began = expected[base], time.monotonic()
    scene.reset(base)
    fell: list[dict[str, Any]] = []
    problems: list[str] = []
    for boundary in boundaries:
        ended = scene.run(MOMENTS[base], boundary=boundary)
        victim = "rank" if boundary == "checkpoint half-written" else "flow"
        champion = scene.ask("champion", example(scene))
        fell.append({"victim": victim, "step": boundary, "code": ended.code, "champion": champion["version"]})
        told = check_killed(victim, ended.code, ended.said, champion, goal)
        problems += [f"{boundary}: {problem}" for problem in told]
    ended = scene.run(MOMENTS[base])
    problems += [f"run again ended with {ended.code}: {ended.said[-2000:]}"] if ended.code else []
    problems += check_end(scene, goal)
    seconds = round(time.monotonic() - began, 1)
    return {"trial": "named", "base": base, "kills": fell, "problems": problems, "seconds": seconds}


def check_killed(victim: str, code: int, said: str, champion: Any, goal: dict[str, Any]) -> list[str]:
    """What must hold between a kill and the next start."""
    problems = [] if champion in goal["champions"] else [f"the champion is {champion}, not one of {goal['champions']}"]
    if victim == "rank" and not ((code == 1 and "signal SIGKILL" in said) or code == 0):
        problems.append(f"a training process was killed and the run ended with {code}: {said[-1000:]}")
    if victim != "rank" and code != -9:
        problems.append(f"it was killed and ended with {code}: {said[-1000:]}")
    return problems


def check_end(scene: Scene, goal: dict[str, Any]) -> list[str]:
    """What must hold at the end: the same as after an undisturbed run, and nothing beside it."""
    found, wanted = scene.ask("state"), goal["state"]
    problems = [f"{name}: {differences(found[name], wanted[name])}" for name in wanted if found[name] != wanted[name]]
    champion = scene.ask("champion", example(scene))
    problems += [] if champion == goal["champions"][1] else [f"champion: {champion}"]
    for what, look in (("processes", scene.left_processes), ("temporary", scene.left_temporary)):
        deadline = time.monotonic() + 20
        while (left := look()) and time.monotonic() < deadline:
            time.sleep(0.5)
        problems += [f"{what} left: {left}"] if left else []
    return problems


def differences(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = sorted({*found, *wanted})
        return str({n: (found.get(n), wanted.get(n)) for n in names if found.get(n) != wanted.get(n)})
    return f"{found}, not {wanted}"


# --- all of them ------------------------------------------------------------------------------------


def run_trials(folder: Path, kills: int = KILLS, slots: int = SLOTS) -> list[dict[str, Any]]:
    """Trials until so many kills have fallen; those that stand in the file are not made again."""
    world, lines, lock = folder / "world", folder / "kills.jsonl", threading.Lock()
    began = datetime.now(UTC)
    recipe = make_world(world)
    done = read_trials(lines)
    numbers = iter(number for number in range(10_000) if number not in {one["trial"] for one in done})

    def work(slot: int) -> None:
        zygote = Zygote(environment)
        try:
            scene = Scene(folder / f"slot-{slot}", zygote, world, recipe)
            expected = prepare(scene)
            while True:
                with lock:
                    left = kills - sum(len(one["kills"]) for one in done)
                    if left <= 0:
                        return
                    number = next(numbers)
                one = play(scene, expected, number, min(KILLS_PER_TRIAL, left))
                with lock, lines.open("a") as file:
                    done.append(one)
                    file.write(json.dumps(one) + "\n")
                print(f"trial {number}: {len(one['kills'])} kills, {one['problems'] or 'all holds'}", flush=True)
                if one["problems"]:
                    scene.set_aside(f"trial-{number}")
        finally:
            zygote.end()

    with prefect_server(folder) as environment, ThreadPoolExecutor(slots) as pool:
        for worker in [pool.submit(work, slot) for slot in range(slots)]:
            worker.result()
        assert (left := open_runs(environment, began)) == [], f"Prefect takes them for alive: {left}"
    return done


def read_trials(lines: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def table(trials: Sequence[dict[str, Any]], victims: Sequence[str] = VICTIMS) -> str:
    """Where the kills fell, as Markdown: one row per step of the run, one column per victim."""
    fell = Counter((kill["step"], kill["victim"]) for trial in trials for kill in trial["kills"])
    steps = list(dict.fromkeys(kill["step"] for trial in trials for kill in trial["kills"]))
    rows = [f"| {step} | " + " | ".join(str(fell[step, v] or "") for v in victims) + " |" for step in sorted(steps)]
    head = ["| where | " + " | ".join(victims) + " |", "|---" * (len(victims) + 1) + "|"]
    bad = sum(bool(trial["problems"]) for trial in trials)
    return "\n".join([*head, *rows, "", f"{sum(fell.values())} kills in {len(trials)} trials, {bad} with a problem"])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        print(table(run_trials(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
