"""F3, more is asked of a model than it can answer. F9, the first prediction after a model was loaded."""

import threading

import numpy as np
import psutil
import pyarrow as pa

from tasks.core.latency import measure_latency, time_calls
from tasks.evaluation import evaluate_challenger
from tasks.rivals import trace_challenger
from tasks.stores.served_model import ServedModel
from tests.faults.plant import MADE, tell

SPIKE_ROWS, CALLERS = 400_000, 8
MAX_MEGABYTES = 300  # of memory beside the rows themselves, whatever their number


def ask(count):
    random = np.random.default_rng(1)
    return pa.table(
        {
            "pressure": random.normal(12, 2, count),
            "recent__mean_vibration": random.normal(20, 2, count),
            "kind": random.choice(["old", "new"], count),
        }
    )


def test_f3_overload_slows_down_and_loses_nothing_and_a_model_that_is_too_slow_is_refused(plant):
    model, spike = plant.load(), ask(SPIKE_ROWS)
    alone = measure_latency(model.predict, spike)
    sizes, answers, megabytes = predict_watched(model, spike)
    assert max(sizes) <= 16_384 < SPIKE_ROWS == sum(sizes)
    assert megabytes < MAX_MEGABYTES
    assert np.isfinite(answers).all()
    np.testing.assert_allclose(answers[:1000], model.predict(spike.slice(0, 1000)), rtol=1e-5, atol=1e-6)

    waits, wrong = overload(model, spike.slice(0, 200))
    assert (len(waits), wrong) == (CALLERS * 96, 0)
    p99 = float(np.quantile(waits, 0.99))
    assert p99 > alone.one_ms

    # The gate's own limit is what keeps a model that would be overloaded from serving at all.
    plant.changes = {"gate.max_latency_ms": alone.one_ms / 1000}
    run, lineage = plant.run(MADE, cause="overload"), plant.lineage(1)
    verdict = evaluate_challenger.fn(
        "pumps", run.decision_id, run.recipe.gate, run.recipe.baseline, lineage.training_set,
        trace_challenger(run, lineage.judged),
    ).verdict  # fmt: skip
    assert verdict.outcome == "reject"
    assert any("more than max_latency_ms" in reason for reason in verdict.reasons)
    tell(
        "F3 serving overload", f"latency of {CALLERS} callers at once p99 {p99:.1f} ms, alone {alone.told}",
        f"rows in chunks of {max(sizes):,}, {megabytes:.0f} MB more at most; a model over its limit is rejected",
        f"{SPIKE_ROWS:,} rows and {len(waits)} concurrent calls answered, none otherwise than alone",
    )  # fmt: skip


def predict_watched(model, rows):
    """Rows of each call of the program, the answers, and by how many megabytes the process grew at most."""
    sizes, program, own = [], model.program, psutil.Process()
    before = peak = own.memory_info().rss

    def watched(numeric, categorical):
        nonlocal peak
        sizes.append(len(numeric))
        peak = max(peak, own.memory_info().rss)
        return program(numeric, categorical)

    model.program = watched
    answers = model.predict(rows)
    model.program = program
    return sizes, answers, (peak - before) / 1e6


def overload(model, rows):
    """What each of many calls at once had to wait, in milliseconds, and how many were answered otherwise than alone."""
    expected, waits, wrong = model.predict(rows), [], []

    def caller(number):
        row = rows.slice(number, 1)
        waits.extend(time_calls(model.predict, row, 120))
        wrong.append(not np.allclose(model.predict(row), expected[number : number + 1], rtol=1e-5, atol=1e-6))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits, sum(wrong)


class Watched(ServedModel):
    """Keeps the shapes that its program was asked for while it was loaded."""

    def _warm_up(self):
        program, self.asked = self.program, []
        self.program = lambda numeric, codes: (self.asked.append(tuple(numeric.shape)), program(numeric, codes))[1]
        super()._warm_up()


def test_f9_the_first_prediction_after_a_load_is_within_its_bound(plant):
    # Taken when it was registered, by a process that had never loaded a model before.
    registered, limit = plant.tags(1), plant.run(MADE).recipe.gate.max_latency_ms
    first_ms, load_seconds = (
        float(registered[f"perennial.{name}"]) for name in ("first_prediction_ms", "load_seconds")
    )
    assert 0 < first_ms < limit
    loaded = Watched(plant.lineage(1).judged.model)
    assert loaded.asked == [(1, 2)], "a load asks for a row before any caller does"
    warm_ms = float(np.median(time_calls(loaded.predict, ask(1), 50)))
    tell(
        "F9 cold start", f"the first prediction of a new process takes {first_ms:.1f} ms, later ones {warm_ms:.1f} ms",
        f"a load of {load_seconds:.1f} s ends with a prediction for nobody; within the {limit:g} ms of the gate",
        "no version is registered that has not answered so",
    )  # fmt: skip
