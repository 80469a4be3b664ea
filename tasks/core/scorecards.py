"""The rows that models are compared on, and how one model does on them: metrics with intervals, slices, calibration."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tasks.core.clusters import MIN_CLUSTERS, Replicates, estimate, number_clusters, replicate, resampling_weights
from tasks.core.metrics import METRICS, Floats, Ints, Metric, reliability
from tasks.core.records import Interval, Scorecard, SliceScore, Window

TWO_SIDED = 0.025  # on either side: intervals that are shown are 95%
MIN_SLICE_ROWS = 100  # with fewer, a slice's metric is too far from normal for an interval
Slice = tuple[str, str]  # column, value


@dataclass(frozen=True)
class SliceColumn:
    """One column by which rows are told apart: `values[codes[i]]` is the value of row i."""

    codes: Ints
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GateRows:
    """The rows that models are compared on. `ways` are cluster numbers (n,), see `clusters.cluster_ways`."""

    kind: Literal["binary", "multiclass", "regression"]
    label: Floats  # (n,) 0 or 1, class number, or value
    ways: tuple[Ints, ...]
    window: Window
    unit: str = "days"  # what a cluster is, in the plural
    slices: Mapping[str, SliceColumn] = field(default_factory=dict)
    slices_left_out: tuple[str, ...] = ()  # columns with more values than are told apart, said as such
    serial: bool = False
    resamples: int = 2_000
    classes: tuple[Any, ...] = ()  # of a multiclass label, by their numbers

    @cached_property
    def weights(self) -> Floats:
        """(B, G) of the first way; slices take their clusters' columns, so that all are resampled together."""
        return resampling_weights(self.num_clusters, self.resamples)

    @property
    def num_clusters(self) -> int:
        return int(self.ways[0].max()) + 1

    def rows_of(self, where: Slice | None) -> Ints | slice:
        if where is None:
            return slice(None)
        column = self.slices[where[0]]
        code = column.values.index(where[1]) if where[1] in column.values else -1
        return np.flatnonzero(column.codes == code)

    def metric(self, name: str) -> Metric:
        return METRICS[self.kind][name]


class ScoredModel:
    """One model's scores on the gate rows, (n,) or (n, classes), and each metric's replicates, computed once."""

    def __init__(self, name: str, rows: GateRows, scores: Floats, version: int | None = None) -> None:
        self.name, self.rows, self.scores, self.version = name, rows, scores, version
        self._replicates: dict[tuple[str, Slice | None], tuple[Replicates, ...]] = {}

    def replicates(self, metric: str, where: Slice | None = None) -> tuple[Replicates, ...]:
        """One for each way of clustering; only the first is resampled, because the bootstrap is for display."""
        key = (metric, where)
        if key not in self._replicates:
            chosen = self.rows.rows_of(where)
            label, scores = self.rows.label[chosen], self.scores[chosen]
            made = []
            for number, way in enumerate(self.rows.ways):
                codes, weights = way[chosen], self.rows.weights if number == 0 else None
                if where is not None:
                    there = np.unique(codes)
                    codes, weights = number_clusters(codes), None if weights is None else weights[:, there]
                made.append(replicate(self.rows.metric(metric), label, scores, codes, weights))
            self._replicates[key] = tuple(made)
        return self._replicates[key]

    def interval(self, metric: str, where: Slice | None = None) -> Interval:
        """With its two-sided 95% interval, cut off where the metric ends; nan bounds where nothing can be told."""
        found, (low, high) = estimate(self.replicates(metric, where), self.rows.serial), self.rows.metric(metric).bounds
        is_small = where is not None and len(self.rows.label[self.rows.rows_of(where)]) < MIN_SLICE_ROWS
        if is_small or found.clusters < MIN_CLUSTERS:
            return Interval(value=found.value, low=math.nan, high=math.nan)
        bounds = np.clip([found.lower(TWO_SIDED), found.upper(TWO_SIDED)], low, high)
        return Interval(value=found.value, low=float(bounds[0]), high=float(bounds[1]))

    def scorecard(self, primary: str) -> Scorecard:
        rows = self.rows
        slices = tuple(
            SliceScore(column=column, value=value, rows=len(rows.label[rows.rows_of((column, value))]), metric=score)
            for column, value in all_slices(rows)
            for score in [self.interval(primary, (column, value))]
        )
        return Scorecard(
            model=self.name,
            version=self.version,
            rows=len(rows.label),
            window=rows.window,
            metrics={name: self.interval(name) for name in METRICS[rows.kind]},
            slices=slices,
            calibration_error=None if rows.kind == "regression" else reliability(rows.label, self.scores).error,
        )


def all_slices(rows: GateRows) -> Iterator[Slice]:
    return ((column, value) for column, coded in rows.slices.items() for value in coded.values)
