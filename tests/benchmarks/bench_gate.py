"""Speed of the gate: 100,000 rows, 20 slices, 2,000 resamples, two models. At most 2 CPU seconds.

Run: python -m tests.benchmarks.bench_gate
"""

import time
from datetime import UTC, datetime, timedelta

import numpy as np

from configs.sections.gate import GateSection
from tasks.core.gate import judge
from tasks.core.records import Window
from tasks.core.scorecards import GateRows, ScoredModel, SliceColumn

ROWS, DAYS, RESAMPLES = 100_000, 30, 2_000
MOST_CPU_SECONDS = 2.0


def measure() -> float:
    """CPU seconds from scores to a verdict, both models' scorecards with all their metrics and slices included."""
    random = np.random.default_rng(0)
    days = np.sort(random.integers(0, DAYS, ROWS))
    label = (random.random(ROWS) < 0.3).astype(float)
    scores = [1 / (1 + np.exp(-(label + random.normal(size=ROWS) - 1))) for _ in range(2)]
    slices = {
        name: SliceColumn(random.integers(0, count, ROWS), tuple(f"{name}{k}" for k in range(count)))
        for name, count in (("origin", 4), ("carrier", 16))
    }
    start = datetime(2013, 6, 1, tzinfo=UTC)
    window = Window(start=start, end=start + timedelta(days=DAYS))
    rules = GateSection(primary="auc", margin=0.01, guards={"log_loss": 0.01}, slices=("origin", "carrier"))
    began = time.process_time()
    rows = GateRows(kind="binary", label=label, ways=(days,), window=window, slices=slices, resamples=RESAMPLES)
    challenger, champion = (ScoredModel(n, rows, s) for n, s in zip(("challenger", "champion"), scores, strict=True))
    cards = [model.scorecard("auc") for model in (challenger, champion)]
    judge(rules, challenger, champion, card=cards[0], mode="change")
    return time.process_time() - began


def main() -> None:
    seconds = min(measure() for _ in range(3))
    rest = f"{ROWS:,} rows, 20 slices, {RESAMPLES:,} resamples, two models"
    print(f"gate: {seconds:.2f} CPU s for {rest} (at most {MOST_CPU_SECONDS:g})")


if __name__ == "__main__":
    main()
