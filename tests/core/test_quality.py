"""Quality on matured rows: what is lost, what a probe says, and what labels alone can tell."""

from datetime import UTC, datetime

import numpy as np
import pytest

from tasks.core.metrics import METRICS
from tasks.core.quality import compare, is_lost, label_faults, make_probe, measure, no_skill
from tasks.core.records import Window
from tasks.core.scorecards import GateRows, ScoredModel

WINDOW = Window(start=datetime(2013, 4, 1, tzinfo=UTC), end=datetime(2013, 5, 1, tzinfo=UTC))
DAYS, A_DAY = 28, 200


def rows(kind: str = "binary", days: int = DAYS, seed: int = 0) -> GateRows:
    generator = np.random.default_rng(seed)
    label = generator.normal(size=days * A_DAY)
    label = (label > 0.8).astype(float) if kind == "binary" else label
    return GateRows(kind=kind, label=label, ways=(np.repeat(np.arange(days), A_DAY),), window=WINDOW, resamples=0)


def model(on: GateRows, noise: float, seed: int = 1, sign: float = 1.0) -> ScoredModel:
    wobble = np.random.default_rng(seed).normal(size=len(on.label))
    scores = sign * on.label + noise * wobble
    return ScoredModel("m", on, 1 / (1 + np.exp(-scores)) if on.kind == "binary" else scores)


def test_a_loss_is_one_where_the_best_that_it_can_be_is_below_the_promise():
    on = rows()
    found = measure(model(on, 1.0), "auc")
    assert found.low < found.value < found.high
    rules = {"tolerance": 0.0, "level": 0.2}
    assert not is_lost(model(on, 1.0), "auc", found.value, **rules)
    assert is_lost(model(on, 1.0), "auc", found.value + 0.05, **rules)
    assert not is_lost(model(on, 1.0), "auc", found.value + 0.05, tolerance=0.06, level=0.2)


def test_for_a_loss_metric_lower_is_better():
    on = rows("regression")
    found = measure(model(on, 1.0), "mae")
    assert is_lost(model(on, 1.0), "mae", found.value - 0.1, tolerance=0.0, level=0.2)
    assert not is_lost(model(on, 1.0), "mae", found.value + 0.1, tolerance=0.0, level=0.2)


def test_too_few_days_say_nothing():
    on = rows(days=4)
    assert measure(model(on, 1.0), "auc") is None
    assert not is_lost(model(on, 1.0), "auc", 0.99, tolerance=0.0, level=0.2)
    assert compare(model(on, 1.0), model(on, 2.0, 2), "auc") is None


def test_the_probe_is_ahead_by_what_newer_rows_are_worth_and_says_whether_that_is_more_than_the_margin():
    on = rows()
    better, worse = model(on, 1.0), model(on, 1.5, 2)
    gain = compare(better, worse, "auc")
    probe = make_probe(better, worse, (better, worse), "auc", margin=gain.low, level=0.2)
    assert probe.gain == gain
    assert probe.is_worth_it
    assert not make_probe(better, worse, (better, worse), "auc", margin=gain.value, level=0.2).is_worth_it
    assert not make_probe(better, better, (better, worse), "auc", margin=0.0, level=0.2).is_worth_it
    assert probe.no_skill == 0.5
    assert probe.score.low > probe.champion.high


def test_of_a_loss_the_probe_is_turned_so_that_higher_is_better():
    on = rows("regression")
    now, then = model(on, 1.0), model(on, 1.5, 2)
    probe = make_probe(now, then, (now, then), "mae", margin=0.01, level=0.2)
    assert probe.gain.low > 0
    assert probe.is_worth_it
    assert probe.score.value > probe.champion.value
    assert probe.score.value < 0


@pytest.mark.parametrize(("sign", "count"), [(1.0, 0), (-1.0, 1)])
def test_labels_that_are_the_wrong_way_round_are_told(sign, count):
    assert len(label_faults(model(rows(), 1.0, sign=sign))) == count


@pytest.mark.parametrize(
    ("kind", "metric", "expected"),
    [
        ("binary", "auc", 0.5),
        ("binary", "accuracy", 0.79),
        ("binary", "brier", 0.167),
        ("binary", "log_loss", 0.516),
        ("regression", "r2", 0.0),
        ("regression", "rmse", 1.0),
        ("regression", "mae", 0.798),
    ],
)
def test_no_skill_is_that_of_the_best_constant(kind, metric, expected):
    assert no_skill(METRICS[kind][metric], rows(kind)) == pytest.approx(expected, abs=0.02)
