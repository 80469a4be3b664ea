"""Latency: how long a caller waits for predictions, in the median and at the 99th percentile."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

BATCH_ROWS = 1_000
CALLS, BATCH_CALLS = 120, 10
WARM_UP = 0.2  # of the calls are not counted


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one prediction, and of 1,000 at once (median)."""

    one_ms: float
    one_p99_ms: float
    batch_ms: float

    @property
    def told(self) -> str:
        return f"one row {self.one_ms:.2g} ms, p99 {self.one_p99_ms:.2g} ms"

    def is_over(self, limit_ms: float | None) -> bool:
        """In the median: a single slow call may be the machine's."""
        return limit_ms is not None and self.one_ms > limit_ms


def measure_latency(predict: Callable[[pa.Table], Any], table: pa.Table) -> Latency:
    """Of a caller who asks again and again, after warming up. The table has a row or more."""
    batch = table.take(np.arange(BATCH_ROWS) % table.num_rows)
    one = time_calls(predict, batch.slice(0, 1), CALLS)
    return Latency(
        one_ms=float(np.median(one)),
        one_p99_ms=float(np.quantile(one, 0.99)),
        batch_ms=float(np.median(time_calls(predict, batch, BATCH_CALLS))),
    )


def time_calls(predict: Callable[[pa.Table], Any], rows: pa.Table, times: int) -> list[float]:
    """Milliseconds of each call but the first ones."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        predict(rows)
        taken.append((time.perf_counter() - started) * 1_000)
    return taken[int(times * WARM_UP) :]
