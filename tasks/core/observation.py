"""What one monitor run saw, whole; and of it, what the governor decides on."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tasks.core import units
from tasks.core.drift import ColumnDrift
from tasks.core.governor import Observation, Probe
from tasks.core.health import TableHealth
from tasks.core.quality import Effect, Quality
from tasks.core.records import Record, Window
from tasks.core.reference import PREDICTION, ColumnReference


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorReport(Record):
    """One monitored window of one champion."""

    project: str
    version: int
    window: Window
    as_of: datetime
    rows: int  # to be predicted in the window
    predicted_rows: int
    columns: tuple[ColumnDrift, ...]  # inputs, and last `prediction`
    tables: tuple[TableHealth, ...]
    quality: Quality | None
    effect: Effect | None
    observation: Observation
    quantiles: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of the inputs that are numbers
    shapes: dict[str, tuple[float, ...]] = field(default_factory=dict)  # counts by bin of what drifted, for the page

    @property
    def is_whole(self) -> bool:
        return not self.observation.faults


def monitored_window(champion_as_of: datetime, last: datetime | None, as_of: datetime) -> Window:
    """From the last monitor, or from the champion's own moment if that is later, until now."""
    start = champion_as_of if last is None else max(champion_as_of, last)
    return Window(start=min(start, as_of), end=as_of)


def days_of(window: Window) -> int:
    """Whole days, at least one."""
    return max(1, round((window.end - window.start) / timedelta(days=1)))


def input_faults(
    columns: Sequence[ColumnDrift],
    references: Mapping[str, ColumnReference],
    quantiles: Mapping[str, Sequence[float]],
    before: Sequence[Mapping[str, Sequence[float]]],
    *,
    max_null_increase: float,
) -> tuple[str, ...]:
    """Columns whose values are missing, or are in other units, than was usual.

    `before` are the quantiles of earlier windows that were whole, in order, after the reference's last week.
    """
    faults = []
    for drift in columns:
        reference = references[drift.column]
        usual_nulls = reference.largest_null_fraction
        if drift.null_fraction > usual_nulls + max_null_increase:
            faults.append(
                f"{drift.column}: {drift.null_fraction:.0%} of its values are missing, usually at most "
                f"{usual_nulls:.0%}"
            )
        usual = [reference.quantiles, *(told[drift.column] for told in before if told.get(drift.column))]
        found = units.find_conversion(
            drift.column,
            quantiles.get(drift.column, ()),
            usual[-1],
            scale=reference.scale,
            usual_jump=_largest_jump(usual, reference),
        )
        if found is not None:
            faults.append(
                f"{drift.column}: {found.told}: it jumped by {found.jump:.1f} spreads, and is off by "
                f"{found.left:.1f} once converted"
            )
    return tuple(faults)


def _largest_jump(usual: Sequence[Sequence[float]], reference: ColumnReference) -> float:
    """Between any two weeks of the reference, or from one whole window to the next since."""
    pairs = [(one, other) for one, other in itertools.pairwise(usual) if one and other]
    jumps = [units.distance(one, other, reference.scale) for one, other in pairs] if reference.scale > 0 else []
    return max(reference.usual_jump, *jumps, 0.0)


def definition_faults(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Feature SQL, file -> digest, that is another one than when the champion was made: it reads other numbers now."""
    return tuple(
        f"{name}: the features of the champion are calculated otherwise than when it was made"
        if name in now
        else f"{name}: the champion's features have no definition any more"
        for name, told in then.items()
        if now.get(name) != told
    )


def unpredicted_faults(rows: int, predicted: int, *, max_unpredicted: float) -> tuple[str, ...]:
    """Rows of the window that nobody predicted: without them neither scores nor quality mean anything."""
    if rows == 0:
        return ("no rows to predict in the window",)
    missing = 1 - predicted / rows
    if missing <= max_unpredicted:
        return ()
    return (f"predictions: {rows - predicted:,} of {rows:,} rows have none in the log",)


def observe(
    window: Window,
    *,
    faults: Sequence[str],
    columns: Sequence[ColumnDrift],
    quality: Quality | None,
    probe: Probe | None,
    matured_labels: int,
) -> Observation:
    return Observation(
        window=window,
        as_of=window.end,
        faults=tuple(faults),
        drifted=tuple(drift.column for drift in by_drift(columns) if drift.is_drifted),
        quality=quality.telling if quality else None,
        promised=quality.promised.value if quality else None,
        is_quality_lost=bool(quality and quality.is_lost),
        probe=probe,
        matured_labels=matured_labels,
    )


def by_drift(columns: Sequence[ColumnDrift]) -> list[ColumnDrift]:
    """Furthest beyond its threshold first; the prediction before all."""
    return sorted(columns, key=lambda drift: (drift.column != PREDICTION, -excess(drift)))


def excess(drift: ColumnDrift) -> float:
    """The largest statistic as a multiple of its threshold."""
    return max(drift.statistics[name] / drift.thresholds[name] for name in drift.statistics)
