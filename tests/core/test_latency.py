"""Latency as a caller has it."""

import time

import pyarrow as pa

from tasks.core.latency import Latency, measure_latency


def test_the_median_is_that_of_a_usual_call_and_p99_that_of_a_slow_one():
    calls = []

    def predict(rows: pa.Table) -> None:
        calls.append(rows.num_rows)
        time.sleep(0.03 if len(calls) in (60, 90) else 0.0002)

    found = measure_latency(predict, pa.table({"x": [1.0, 2.0, 3.0]}))
    assert found.one_ms < 15 < 30 <= found.one_p99_ms
    assert set(calls) == {1, 1000}, "three rows make a thousand"


def test_over_a_limit_is_told_by_the_median():
    latency = Latency(one_ms=2.4, one_p99_ms=60.0, batch_ms=5.0)
    assert latency.told == "one row 2.4 ms, p99 60 ms"
    assert [latency.is_over(limit) for limit in (None, 50.0, 2.0)] == [False, False, True]


def test_what_is_just_allowed_is_allowed():
    assert not Latency(one_ms=2.4, one_p99_ms=2.4, batch_ms=2.4).is_over(2.4)
