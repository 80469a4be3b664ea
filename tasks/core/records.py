"""What travels between tasks, processes and machines: small frozen records of references, JSON both ways.

Standard library only, because the training child process reads them too.
"""

import dataclasses
import hashlib
import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from tasks.core.owners import unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Base of everything that travels. `from_json(to_json(x)) == x`."""

    def to_dict(self) -> dict[str, Any]:
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_json(self) -> str:
        """Canonical: keys sorted, so that equal records have equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, indent=2)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        hints = typing.get_type_hints(cls)
        return cls(**{name: _typed(hints[name], value) for name, value in data.items()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(json.loads(text))

    def write(self, path: Path | str) -> None:
        """Atomic: a reader finds the old record, or the whole new one."""
        write_text_atomically(Path(path), self.to_json() + "\n")

    @classmethod
    def read(cls, path: Path | str) -> Self:
        return cls.from_json(Path(path).read_text())


def _plain(value: Any) -> Any:
    match value:
        case Record():
            return value.to_dict()
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case _:
            return value


def _typed(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _typed(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        return tuple(_typed(arguments[0], item) for item in value)
    if origin is dict:
        return {key: _typed(arguments[1], item) for key, item in value.items()}
    if hint is datetime:
        return datetime.fromisoformat(value)
    if hint is timedelta:
        return timedelta(seconds=value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    return value


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a record or of plain values, 16 hex digits."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_text_atomically(path: Path, text: str) -> None:
    """Write beside, flush to disk, rename: never a half-written file under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Record):
    """Half-open in time: start <= t < end, both UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRef(Record):
    """One version of one Delta table of the lake."""

    name: str
    uri: str
    version: int
    rows: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRef(Record):
    """Rows read from a source and staged as Parquet; nobody but validation reads them."""

    project: str
    table: str
    batch_id: str
    uri: str
    rows: int
    window: Window
    as_of: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Record):
    """One expectation that did not hold.

    scope `batch`: about the table as a whole; `row`: about rows that can be told apart.
    """

    expectation: str
    column: str | None
    severity: Literal["critical", "warning", "info"]
    scope: Literal["batch", "row"]
    failing_rows: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedBatch(Record):
    """A batch that passed its audit; the only thing that can be published."""

    batch: BatchRef
    uri: str  # the clean rows, Parquet
    rows: int
    quarantined_rows: int
    quarantine_uri: str | None
    docs_uri: str  # the Data Docs page
    num_expectations: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedBatch(Record):
    """What a publish did to the table; running it again inserts 0 rows."""

    table: TableRef
    inserted_rows: int
    quarantined_rows: int


# --- training set ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRange(Record):
    """Rows [start, stop) of the training set, which is sorted by prediction time, and the time they span."""

    start: int
    stop: int
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs(Record):
    """The columns a model reads, in order. Numeric may be null; categorical are strings, may be null."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetRef(Record):
    """One Arrow IPC file of matured rows, one row per entity row, sorted by (prediction_time, key).

    Columns: the entity key, `prediction_time`, every input, `label`. The splits are contiguous row ranges.
    """

    uri: str
    digest: str  # sha256 over the content of the columns, 16 hex digits
    rows: int
    as_of: datetime
    service: str
    inputs: Inputs
    label_kind: Literal["binary", "multiclass", "regression"]
    key: tuple[str, ...]
    splits: dict[str, RowRange]  # fit, validation, holdout, and all
    unlabelled_rows: int  # matured rows without a label, treated as the recipe says
    tables: tuple[TableRef, ...]  # lake and feature table versions read


# --- model ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSpec(Record):
    """All the training child process is told. It writes under `output` and nowhere else."""

    training_set: str  # path of the Arrow file
    inputs: Inputs
    label: str
    label_kind: Literal["binary", "multiclass", "regression"]
    fit_rows: tuple[int, ...]  # (start, stop)
    validation_rows: tuple[int, ...] | None  # None: a refit, for `steps` optimizer steps
    steps: int | None
    network: str  # a name of core.networks, or module:Class
    network_options: dict[str, Any]
    optimizer: dict[str, Any]
    batch_size: int
    max_epochs: int
    patience: int
    gradient_clip: float
    precision: str  # auto, 32-true, bf16-mixed
    devices: int
    seed: int
    output: str  # folder
    memory_fraction: float = 0.5  # above this share of memory the Arrow file is memory mapped
    warm_start: str | None = None  # the model folder of an earlier fit
    loss: Literal["mse", "huber"] = "mse"  # of a regression; a classification has its own


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult(Record):
    """What a fit left behind. Paths are inside the spec's output folder.

    `model` is a folder that stands alone: program.pt2 (torch.export, dynamic batch), model.json (inputs,
    category tables, label kind, classes).
    """

    model: str
    weights_sha256: str
    best_step: int
    best_epoch: int
    epochs: int
    rows: int
    seconds: float
    rows_per_second: float
    num_parameters: int
    device: str
    micro_batch_size: int
    metrics: dict[str, float]  # last of each of the metrics stream, at the best epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef(Record):
    """A version in the registry."""

    name: str
    version: int
    run_id: str
    uri: str


# --- judgement -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender(Record):
    """A model that stands for judgement: a fit's folder that is not registered yet, or a version."""

    name: Literal["challenger", "champion", "anchor"]
    as_of: datetime  # its own: every row until then counts as seen by it
    folder: str | None = None
    ref: ModelRef | None = None
    procedure: dict[str, str] = field(default_factory=dict)  # digests of what it was made by, see gate.mode_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval(Record):
    """A point estimate with its confidence interval, dependence of rows within clusters respected."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceScore(Record):
    column: str
    value: str
    rows: int
    metric: Interval  # the primary metric; nan bounds where it cannot be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard(Record):
    """One model on the gate rows."""

    model: str  # champion, challenger, baseline, persistence
    version: int | None
    rows: int
    window: Window
    metrics: dict[str, Interval]
    slices: tuple[SliceScore, ...] = ()
    calibration_error: float | None = None
    latency_one_ms: float | None = None  # one prediction, median
    latency_one_p99_ms: float | None = None
    latency_batch_ms: float | None = None  # 1,000 predictions, median
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Record):
    """Challenger minus champion on one metric, oriented so that positive is better; paired."""

    metric: str
    slice: str | None  # "origin=JFK"
    role: Literal["primary", "guard", "watched", "reported"]
    difference: float
    low: float  # one-sided lower bound at the test's level
    high: float  # one-sided upper bound
    standard_error: float
    clusters: int
    rows: int
    margin: float
    outcome: Literal["superior", "non_inferior", "worse", "undecided"]
    against: Literal["champion", "anchor", "baseline", "persistence"] = "champion"
    level: float = 0.05  # of `low`
    values: tuple[float, ...] = ()  # the metric of the challenger and of the other model
    interval: Interval | None = None  # of the difference, two-sided 95%
    detectable: float | None = None  # a gain that would be shown at 80% power; of a watched slice: a loss, at 90%


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """What the gate says, and why."""

    outcome: Literal["promote", "reject", "undecided"]
    mode: Literal["first", "change", "refresh"]
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    rows: int = 0
    clusters: int = 0
    smallest_detectable_effect: float | None = None
    days_that_would_do: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Record):
    """Scorecards side by side on the same rows, and the verdict over them."""

    scorecards: tuple[Scorecard, ...]
    verdict: Verdict
    baseline_wins: bool
    predictions_uri: str  # Arrow: prediction_time, label, slices, a column of scores per model


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry(Record):
    """One numbered line of the promotion ledger; the aliases are a projection of these."""

    number: int
    kind: Literal["intent", "promoted", "rejected", "undecided", "waiting", "rolled_back", "abandoned"]
    decision_id: str
    as_of: datetime
    version: int | None  # the model version this is about
    champion: int | None  # the champion after this entry
    previous: int | None  # and the one before it
    reasons: tuple[str, ...]
    digests: dict[str, str]  # training_set, judged_weights, promoted_weights, recipe
    at: datetime  # wall clock, for people; nothing is decided on it
    mode: Literal["first", "change", "refresh", "person"] | None = None  # how it was judged, or that a person decided
    is_superior: bool = False  # shown better, not only no worse
    intends: Literal["promoted", "rolled_back"] = "promoted"  # of an intent: the kind of the entry that will end it
    who: str | None = None  # where a person decided


# --- retrains that were decided ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted(Record):
    """A retrain that was decided, with all that a run needs to do it."""

    decision_id: str
    project: str
    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    as_of: datetime
    cause: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Record):
    """One run's word that it does it. A claim whose run is dead is followed by the next one's."""

    attempt: int
    who: str
    at: datetime  # wall clock, for people
    flow_run: str | None = None  # one that was suspended comes again, and finds its claim by this


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Record):
    """How it ended."""

    outcome: str  # promoted, rejected, undecided, superseded; waiting: the rest is a person's, and stands in the ledger
    attempt: int
    at: datetime  # wall clock, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry(Record):
    """One decided retrain with its claims, in order."""

    wanted: Wanted
    claims: tuple[Claim, ...] = ()
    done: Done | None = None

    @property
    def next_attempt(self) -> int:
        return len(self.claims) + 1


# --- predictions -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionsRef(Record):
    """A scored window in the prediction log."""

    table: TableRef
    window: Window
    rows: int
    inserted_rows: int
    model: ModelRef
