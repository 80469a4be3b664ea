"""Cost of the main job beside the same computation without its vendors: both dates of `make run`.

Ours is the command of `make run` in an empty home: Prefect's temporary server, Delta, Great Expectations, Feast, MLflow
and Lightning. The plain script makes the same rows of the same files in one process and one DuckDB, joins them by ASOF
joins, runs the same networks over the same batches in a bare PyTorch loop with the same trees beside it, judges them by
the gate's own functions, refits, writes the newest features to SQLite and scores what came since. Of what ours
validates it asks for ranges, sets, keys that are told twice and missing times; it audits, draws and keeps nothing.

Their training sets are compared by digest and their scores by metric. Asked for: at most 25 s more.

Run: python -m tests.benchmarks main_job [--repetitions 1]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tasks.core.threads import SHORT_SPINS
from tests.benchmarks.measuring import machine
from tests.benchmarks.plain_main_job import DATES

MOST_SECONDS = 25.0


def read_ours(home: str) -> dict[str, Any]:
    """Of each date what ours made: the training set's digest, the verdict and each model's metrics."""
    found: dict[str, Any] = {}
    made = [json.loads(path.read_text()) for path in Path(home).glob("training/flights/*/training_set.json")]
    digests = {json.dumps(one["splits"]["holdout"]["window"]["end"]): (one["as_of"], one["digest"]) for one in made}
    for path in Path(home).glob("runs/flights/*/evaluation.json"):
        evaluation = json.loads(path.read_text())
        cards = evaluation["scorecards"]
        as_of, digest = digests[json.dumps(cards[0]["window"]["end"])]
        metrics = {card["model"]: {name: each["value"] for name, each in card["metrics"].items()} for card in cards}
        found[as_of[:10]] = {"digest": digest, "outcome": evaluation["verdict"]["outcome"], "metrics": metrics}
    return found


def spend(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command with all that it starts."""
    began = time.perf_counter()
    child = subprocess.Popen(command, env=os.environ | environment)
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, command
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def compare(folder: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Wall and CPU seconds of ours and of the plain script; prints how near their results are."""
    home, plain = f"{folder}/home", f"{folder}/plain"
    Path(plain).mkdir(parents=True)
    dates = [word for as_of in DATES for word in ("--as-of", f"{as_of:%Y-%m-%d}")]
    pipeline = [sys.executable, "-m", "flows.pipeline", "--recipe", "flights", *dates]
    costs = spend(pipeline, {"PERENNIAL_HOME": home})
    beside = spend([sys.executable, "-m", "tests.benchmarks.plain_main_job", plain], SHORT_SPINS)
    print_nearness(read_ours(home), json.loads(Path(plain, "plain.json").read_text()))
    return costs, beside


def print_nearness(ours: dict[str, Any], plain: dict[str, Any]) -> None:
    for date, made in plain.items():
        same = "the same" if ours[date]["digest"] == made["digest"] else "ANOTHER"
        print(f"  {date}: {same} training set; verdict {ours[date]['outcome']}, plain {made['outcome']}")
        for model, metrics in ours[date]["metrics"].items():
            other = made["metrics"][model]
            told = [f"{name} {value:.6f}, plain {other[name]:.6f}" for name, value in metrics.items()]
            print(f"    {model:11}{' · '.join(told)}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repetitions", type=int, default=1)
    chosen = options.parse_args()
    print(machine())
    rounds = []
    for _ in range(chosen.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(compare(folder))
        ours, plain = rounds[-1]
        for name, (wall, cpu) in (("make run", ours), ("plain", plain)):
            print(f"  {name:10}{wall:7.1f} s {cpu:7.1f} CPU s", flush=True)
    for place, unit in enumerate(("s", "CPU s")):
        more = median(ours[place] - plain[place] for ours, plain in rounds)
        print(f"  ours takes {more:.1f} {unit} more" + (f"; asked for at most {MOST_SECONDS:g}" if place == 0 else ""))


if __name__ == "__main__":
    main()
