"""The page about a training set."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from tasks.core.audit import AuditReport, Leak
from tasks.core.records import Inputs, RowRange, TrainingSetRef, Window
from tasks.core.training_set_page import write_page

START = datetime(2013, 1, 1, tzinfo=UTC)


def part(start: int, stop: int) -> RowRange:
    return RowRange(start=start, stop=stop, window=Window(start=START + timedelta(start), end=START + timedelta(stop)))


MADE = TrainingSetRef(
    uri="rows.arrow",
    digest="abc",
    rows=10,
    as_of=START + timedelta(12),
    service="delay",
    inputs=Inputs(numeric=("speed", "miles"), categorical=("dest",)),
    label_kind="binary",
    key=("flight",),
    splits={"holdout": part(7, 10), "fit": part(0, 4), "all": part(0, 10), "validation": part(5, 6)},
    unlabelled_rows=2,
    tables=(),
)
REPORT = AuditReport(
    leaks=(),
    allowed=(Leak(check="single feature", subject="speed", detail="predicts it; allowed: it is known"),),
    scores={"miles": 0.6, "speed": 0.95},
)


def test_splits_in_order_of_time_with_their_label_rates() -> None:
    page = write_page(MADE, REPORT, pa.chunked_array([[1, 0, 0, 0, 1, 1, 0], [0, 1, 1]]))
    rows = [line for line in page.splitlines() if line.startswith("| ") and "2013" in line]
    assert rows == [
        "| fit | 2013-01-01 00:00 | 2013-01-05 00:00 | 4 | rate 0.25 |",
        "| validation | 2013-01-06 00:00 | 2013-01-07 00:00 | 1 | rate 1 |",
        "| holdout | 2013-01-08 00:00 | 2013-01-11 00:00 | 3 | rate 0.6667 |",
        "| all | 2013-01-01 00:00 | 2013-01-11 00:00 | 10 | rate 0.5 |",
    ]
    assert "2 matured rows have no label" in page
    assert "- single feature: speed predicts it; allowed: it is known" in page
    assert page.index("| speed | 0.950 |") < page.index("| miles | 0.600 |")


def test_classes_by_their_shares() -> None:
    made = dataclasses.replace(MADE, label_kind="multiclass")
    page = write_page(made, REPORT, pa.chunked_array([["a", "b", "b", "b", *"bbbbbb"]]))
    assert "| fit | 2013-01-01 00:00 | 2013-01-05 00:00 | 4 | b 0.750, a 0.250 |" in page
