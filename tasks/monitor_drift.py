"""A window's inputs and scores, counted in one pass each, against what they were like in training."""

from typing import TYPE_CHECKING

from tasks import joins, matured
from tasks.core.records import Inputs
from tasks.monitor_subject import Subject

if TYPE_CHECKING:
    from tasks.core.drift import ColumnDrift
    from tasks.core.reference import WindowCounts


def count_inputs(subject: Subject) -> "WindowCounts":
    """The inputs of the window's rows, joined anew as they were known at each prediction time, in one pass."""
    from tasks.core.reference import count_window

    run, columns = subject.run, subject.reference.columns
    numeric = tuple(name for name, column in columns.items() if column.binning.kind == "numeric")
    inputs = Inputs(numeric=numeric, categorical=tuple(name for name in columns if name not in numeric))
    with joins.join_model_rows(
        run.project, subject.model, subject.own, subject.window, run.as_of, subject.tables
    ) as joined:
        return count_window(columns, joined.read(inputs, is_sorted=False))  # counts know no order


def count_scores(subject: Subject) -> "WindowCounts":
    from tasks.core.reference import PREDICTION, count_window
    from tasks.references import prediction_rows

    log = matured.read_log(subject.run.project, subject.own.table.key, subject.model.version, subject.window)
    scores, classes = matured.log_scores(log)
    times = log["event_timestamp"]
    rows = prediction_rows(times, scores, classes)
    return count_window({PREDICTION: subject.reference.prediction}, rows.to_batches())


def drift_of(subject: Subject, inputs: "WindowCounts", predicted: "WindowCounts") -> tuple["ColumnDrift", ...]:
    """Drift of every input and of the scores. The family's rate of false alarms is shared between the two references,
    which span different days and cannot be resampled together."""
    from tasks.core.observation import days_of
    from tasks.core.reference import PREDICTION, measure_drift

    if not inputs.rows:
        return ()
    days, rate = days_of(subject.window), subject.run.recipe.monitor.false_alarm_rate
    share, columns = 1 / (1 + len(subject.reference.columns)), subject.reference.columns
    drift = measure_drift(columns, inputs.counts, window_days=days, false_alarm_rate=rate * (1 - share))
    if not predicted.rows:
        return drift
    scores = {PREDICTION: subject.reference.prediction}
    return (*drift, *measure_drift(scores, predicted.counts, window_days=days, false_alarm_rate=rate * share))
