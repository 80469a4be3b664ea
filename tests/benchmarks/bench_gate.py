"""Speed of the gate: 100,000 rows, 20 slices, 2,000 resamples, two models. At most 2 CPU seconds.

Run: python -m tests.benchmarks gate [--rows 100000 10000000]
"""

import argparse
import time
from datetime import UTC, datetime, timedelta

import numpy as np

from configs.sections.gate import GateSection
from tasks.core.gate import judge
from tasks.core.records import Window
from tasks.core.scorecards import GateRows, ScoredModel, SliceColumn
from tests.benchmarks.measuring import machine, measure

HERE = "tests.benchmarks.bench_gate"
IMPORTS = ("numpy", "tasks.core.gate")
ROWS, DAYS, RESAMPLES = 100_000, 30, 2_000
MOST_CPU_SECONDS = 2.0


def spend(rows: int) -> float:
    """CPU seconds from scores to a verdict, both models' scorecards with all their metrics and slices included."""
    random = np.random.default_rng(0)
    days = np.sort(random.integers(0, DAYS, rows))
    label = (random.random(rows) < 0.3).astype(float)
    scores = [1 / (1 + np.exp(-(label + random.normal(size=rows) - 1))) for _ in range(2)]
    slices = {
        name: SliceColumn(random.integers(0, count, rows), tuple(f"{name}{k}" for k in range(count)))
        for name, count in (("origin", 4), ("carrier", 16))
    }
    start = datetime(2013, 6, 1, tzinfo=UTC)
    window = Window(start=start, end=start + timedelta(days=DAYS))
    rules = GateSection(primary="auc", margin=0.01, guards={"log_loss": 0.01}, slices=("origin", "carrier"))
    began = time.process_time()
    compared = GateRows(kind="binary", label=label, ways=(days,), window=window, slices=slices, resamples=RESAMPLES)
    challenger, champion = (
        ScoredModel(n, compared, s) for n, s in zip(("challenger", "champion"), scores, strict=True)
    )
    cards = [model.scorecard("auc") for model in (challenger, champion)]
    judge(rules, challenger, champion, card=cards[0], mode="change")
    return time.process_time() - began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, nargs="+", default=[ROWS])
    options.add_argument("--repetitions", type=int, default=3)
    chosen = options.parse_args()
    print(machine())
    for rows in chosen.rows:
        costs = [measure(f"{HERE}:spend", IMPORTS, rows=rows) for _ in range(chosen.repetitions)]
        cheapest = min(costs, key=lambda cost: cost.result)
        limit = f" (at most {MOST_CPU_SECONDS:g})" if rows == ROWS else ""
        rest = f"{rows:,} rows, 20 slices, {RESAMPLES:,} resamples, two models, {cheapest.peak_mb:,.0f} MB"
        print(f"gate: {cheapest.result:.2f} CPU s{limit} for {rest}", flush=True)


if __name__ == "__main__":
    main()
