"""Lines of the prediction log."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.content import row_digests
from tasks.core.errors import ModelError
from tasks.core.predictions import log_key, log_lines
from tasks.core.records import Inputs

MOMENTS = [datetime(2013, 1, 1, hour, tzinfo=UTC) for hour in (5, 6)]
ROWS = pa.table(
    {
        "flight": [7, 8],
        "prediction_time": pa.array(MOMENTS, pa.timestamp("us", "UTC")),
        "miles": [1.0, None],
        "dest": ["BOS", "LAX"],
    }
)
INPUTS = Inputs(numeric=("miles",), categorical=("dest",))


def test_a_line_per_row() -> None:
    lines = log_lines(ROWS, np.float32([0.25, 0.75]), key=["flight"], inputs=INPUTS, classes=(), version=3)
    digests = row_digests(ROWS, ["miles", "dest"]).tolist()
    assert lines.to_pylist() == [
        {
            "flight": flight,
            "model_version": 3,
            "score": score,
            "feature_digest": digest,
            "event_timestamp": moment,
            "created_timestamp": moment,
        }
        for flight, score, digest, moment in zip([7, 8], [0.25, 0.75], digests, MOMENTS, strict=True)
    ]


def test_a_line_per_row_and_class() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]])
    lines = log_lines(ROWS, scores, key=["flight"], inputs=INPUTS, classes=("a", "b", "c"), version=3)
    found = {(line["flight"], line["predicted_class"]): line["score"] for line in lines.to_pylist()}
    assert found == {(7, "a"): 0.1, (7, "b"): 0.7, (7, "c"): 0.2, (8, "a"): 0.6, (8, "b"): 0.3, (8, "c"): 0.1}
    assert len(set(lines["feature_digest"].to_pylist())) == 2
    assert log_key(["flight"], ("a", "b")) == ("flight", "model_version", "predicted_class")


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_scores_that_are_not_finite_are_refused(shape: tuple[int, ...]) -> None:
    scores = np.full(shape, 0.5)
    scores.flat[0] = np.nan
    classes = ("a", "b", "c") if len(shape) == 2 else ()
    with pytest.raises(ModelError, match=r"not finite(.|\n)*1 of 2 rows"):
        log_lines(ROWS, scores, key=["flight"], inputs=INPUTS, classes=classes, version=3)


def test_no_rows_keep_the_columns() -> None:
    some = log_lines(ROWS, np.zeros(2), key=["flight"], inputs=INPUTS, classes=(), version=3)
    none = log_lines(ROWS.slice(0, 0), np.zeros(0), key=["flight"], inputs=INPUTS, classes=(), version=3)
    assert none.schema == some.schema
