"""What a champion's inputs and scores were like when it was made: the reference that windows are compared with.

Counts by day and bin are enough for every statistic and threshold, and stay small however many rows there were.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core import units
from tasks.core.clusters import days_since_epoch
from tasks.core.drift import Binning, ColumnDrift, Counts, column_drift, count_bins, make_binning, thresholds
from tasks.core.estimates import Calibration
from tasks.core.records import Interval, Record

PREDICTION = "prediction"  # the scores, as a column among the others
MAX_BINNED_ROWS = 1_000_000  # bins are chosen on so many rows at most
SAMPLED_ROWS, MAX_SAMPLES = 1_000, 256  # of a batch, and batches: for quantiles
RESAMPLES, SEED = 1_000, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnReference(Record):
    """One column, day after day. Quantiles are those of the last week, for numbers."""

    binning: Binning
    first_day: int  # since 1970-01-01
    counts: tuple[tuple[int, ...], ...]  # (days, bins)
    quantiles: tuple[float, ...] = ()
    scale: float = 0.0  # between the quartiles
    usual_jump: float = 0.0  # the largest between any two weeks, in scales

    @property
    def matrix(self) -> Counts:
        return np.asarray(self.counts, dtype=np.float64).reshape(len(self.counts), self.binning.num_bins)

    @property
    def largest_null_fraction(self) -> float:
        """Of any week; a shorter reference is one."""
        counts = self.matrix
        weeks = [counts[day : day + 7].sum(0) for day in range(max(len(counts) - 6, 1))]
        return max((float(week[-1] / week.sum()) for week in weeks if week.sum() > 0), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference(Record):
    """A champion's: its inputs on the rows it was fitted on, its scores and their worth on rows it was not."""

    version: int
    as_of: datetime
    columns: dict[str, ColumnReference]
    prediction: ColumnReference
    promise: dict[str, Interval]  # metric -> what it showed in the verdict that made it champion
    calibration: Calibration | None = None  # of a binary model
    feature_files: dict[str, str] = field(default_factory=dict)  # SQL of the tables it reads -> digest


@dataclass(slots=True)
class WindowCounts:
    """A window in one pass: counts of each column's bins, and values for quantiles."""

    rows: int
    counts: dict[str, Counts]
    quantiles: dict[str, tuple[float, ...]]


def build_columns(rows: pa.Table, names: Sequence[str]) -> dict[str, ColumnReference]:
    """From rows with `prediction_time`, sorted by it."""
    stride = max(1, rows.num_rows // MAX_BINNED_ROWS)
    some = rows.take(np.arange(0, rows.num_rows, stride)) if stride > 1 else rows
    binnings = [make_binning(name, some[name]) for name in names]
    days = days_since_epoch(rows["prediction_time"].to_numpy())
    first, last = int(days.min()), int(days.max())
    counted = count_bins(binnings, _with_days(rows))
    made = {}
    for binning in binnings:
        by_day, nothing = counted[binning.column], np.zeros(binning.num_bins)
        table = np.stack([by_day.get(day, nothing) for day in range(first, last + 1)]).astype(np.int64)
        counts = tuple(tuple(line) for line in table.tolist())
        made[binning.column] = ColumnReference(
            binning=binning, first_day=first, counts=counts, **_sketch(binning, rows, days)
        )
    return made


def count_window(columns: Mapping[str, ColumnReference], batches: Iterable[pa.RecordBatch]) -> WindowCounts:
    """Count a window's rows into the reference's bins, batch by batch."""
    binnings = [column.binning for column in columns.values()]
    numeric = [binning.column for binning in binnings if binning.kind == "numeric"]
    total, rows = {binning.column: np.zeros(binning.num_bins) for binning in binnings}, 0
    samples: list[pa.RecordBatch] = []
    for number, batch in enumerate(batch for batch in batches if batch.num_rows):
        counted = count_bins(binnings, [(np.zeros(batch.num_rows, np.int64), batch)])
        for name, by_day in counted.items():
            total[name] += by_day[0]
        rows += batch.num_rows
        # Of many batches every second, or fourth, ..., so that samples need no more memory however many there are.
        every = 1 << (number // MAX_SAMPLES).bit_length()
        if number % every == 0:
            places = np.arange(0, batch.num_rows, max(1, batch.num_rows // SAMPLED_ROWS))
            samples = samples[:: 1 + (len(samples) >= MAX_SAMPLES)]
            samples.append(batch.select(numeric).take(pa.array(places)))
    sampled = pa.Table.from_batches(samples) if samples else None
    sketches = {} if sampled is None else {name: units.quantiles(_floats(sampled[name])) for name in numeric}
    return WindowCounts(rows, total, sketches)


def measure_drift(
    columns: Mapping[str, ColumnReference],
    counts: Mapping[str, Counts],
    *,
    window_days: int,
    false_alarm_rate: float,
) -> tuple[ColumnDrift, ...]:
    """Every column of a window against the reference. `false_alarm_rate`: of any alarm at all in a quiet window."""
    shared = {name: column for name, column in columns.items() if name in counts}
    binnings = [column.binning for column in shared.values()]
    matrices = {name: column.matrix for name, column in shared.items()}
    limits = thresholds(
        binnings,
        matrices,
        window_days=window_days,
        false_alarm_rate=false_alarm_rate,
        resamples=RESAMPLES,
        seed=SEED,
    )
    return tuple(
        column_drift(binning, matrices[binning.column].sum(0), counts[binning.column], limits[binning.column])
        for binning in binnings
    )


def _with_days(rows: pa.Table) -> Iterable[tuple[np.ndarray, pa.RecordBatch]]:
    for batch in rows.to_batches(max_chunksize=131_072):
        yield days_since_epoch(batch.column("prediction_time").to_numpy(zero_copy_only=False)), batch


def _sketch(binning: Binning, rows: pa.Table, days: np.ndarray) -> dict[str, Any]:
    if binning.kind != "numeric":
        return {}
    values = _floats(rows[binning.column])
    scale = units.spread(values[:: max(1, len(values) // MAX_BINNED_ROWS)])
    # Weeks counted back from the last day, so that the last one is whole.
    weeks = (days.max() - days) // 7
    sketches = [units.quantiles(values[weeks == week]) for week in range(int(weeks.max()), -1, -1)]
    told = [sketch for sketch in sketches if sketch]
    jumps = [units.distance(a, b, scale) for a, b in itertools.combinations(told, 2)] if scale > 0 else []
    return {"quantiles": told[-1] if told else (), "scale": scale, "usual_jump": max(jumps, default=0.0)}


def _floats(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
