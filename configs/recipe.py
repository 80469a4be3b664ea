"""The recipe: what data, which features, which model, what gate. One YAML file, checked whole when it is read."""

import re
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from tasks.core.errors import RecipeError
from tasks.core.records import digest

CONFIGS = Path(__file__).parent
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(value: object) -> timedelta:
    """`36h`, `14d`, `30m`, `90s`; more than one part may follow another: `1d12h`."""
    if isinstance(value, timedelta):
        return value
    text = str(value).replace(" ", "")
    parts = re.findall(r"(\d+)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{value!r} is not a duration; write it like 36h, 14d, 30m or 1d12h")
    try:
        return sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())
    except OverflowError:
        raise ValueError(f"{value!r:.40} is longer than a duration can be") from None


def format_duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """Frozen, and a key that is not known is an error: a typing mistake must not become a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- data -----------------------------------------------------------------------------------------


class FileSource(Section):
    """Parquet, CSV or JSON lines: a path, a glob, or any fsspec URI. `package://NAME/…` is a file inside an
    installed package; it may stand inside a chained URI (`zip://a.csv::package://NAME/a.zip`)."""

    format: Literal["parquet", "csv", "json"]
    path: str
    null_values: tuple[str, ...] = ("",)
    delimiter: str = Field(default=",", min_length=1)  # of a CSV file
    types: dict[str, str] = {}  # CSV and JSON: column -> DuckDB type, where inference would be wrong


class SqlSource(Section):
    """A query against any SQLAlchemy URL; `:start` and `:end` are bound. `${NAME}` in the URL is read from the
    environment when the source is read, so that no secret stands in a recipe."""

    format: Literal["sql"]
    url: str
    query: str

    @model_validator(mode="after")
    def _password_is_elsewhere(self) -> Self:
        if re.search(r"://[^/@:]*:(?!\$\{\w+\}@)[^@]+@", self.url):
            raise ValueError(
                "a password stands in the url, and the recipe with every model; write ${NAME} in its place"
            )
        return self


class PythonSource(Section):
    """`module:function`, called with (start, end, **arguments); it returns a pyarrow Table, a RecordBatchReader or
    an iterable of record batches."""

    format: Literal["python"]
    function: str = Field(pattern=r"^[\w.]+:\w+$")
    arguments: dict[str, Any] = {}


Source = Annotated[FileSource | SqlSource | PythonSource, Field(discriminator="format")]


class TableSection(Section):
    """One table of the lake. `columns`, `where` and both timestamps are DuckDB expressions over `relation`, in which
    the source is called `source` and each lookup by its own name."""

    description: str
    source: Source
    lookups: dict[Name, Source] = {}
    relation: str = "source"
    columns: dict[Name, str] = Field(min_length=1)
    where: str = "true"
    key: tuple[str, ...] = Field(min_length=1)
    event_timestamp: str  # when it happened, TIMESTAMPTZ
    created_timestamp: str  # when it could first be known, TIMESTAMPTZ
    lookback: Duration = timedelta(days=2)  # how far behind the last ingest late rows are looked for
    ahead: Duration = timedelta(0)  # how far past as_of events are already known (a timetable)
    max_quarantine_fraction: float = Field(default=0.01, ge=0, lt=1)

    @model_validator(mode="after")
    def _key_is_columns(self) -> Self:
        if missing := [name for name in self.key if name not in self.columns]:
            raise ValueError(f"key {missing} not among columns {sorted(self.columns)}")
        if reserved := {"event_timestamp", "created_timestamp", "event_month"} & set(self.columns):
            raise ValueError(f"columns {sorted(reserved)} are reserved; use the keys of the same name beside `columns`")
        return self


# --- features and label --------------------------------------------------------------------------------


class EntityRowsSection(Section):
    """The rows that are predicted: one per key of `table`. `columns` are inputs that are known with the row itself."""

    table: Name
    prediction_time: str  # expression over the table's columns
    columns: dict[Name, str] = {}


class FeaturesSection(Section):
    service: Name  # a Feast feature service: the contract the model is pinned to
    entity_rows: EntityRowsSection
    derived: dict[
        Name, str
    ] = {}  # expressions over entity row, `prediction_time` and joined features (`view__feature`)
    categorical: tuple[str, ...] = ()  # inputs that are numbers in the table but names in meaning
    drop: tuple[str, ...] = ()  # joined, or derived from, but not given to the model
    lookback: Duration = timedelta(days=14)  # materialization: how far before the last one values may have changed


class LabelSection(Section):
    kind: Literal["binary", "multiclass", "regression"]
    table: Name  # joined to the entity rows by their key
    expression: str
    maturity: Duration  # from prediction time until a label can be relied upon to be there
    missing: Literal["drop"] | float | str = "drop"  # matured rows without a label: left out, or given this label


class SplitSection(Section):
    """By prediction time, backwards from `as_of - label.maturity`: holdout, embargo, validation, embargo, fit."""

    holdout: Duration
    validation: Duration
    embargo: Duration
    window: Literal["expanding"] | Duration = "expanding"  # or how far back the fit rows reach


class AuditSection(Section):
    """What in a training set is taken for a leak."""

    max_single_feature_score: float = Field(default=0.9, gt=0.5, le=1)  # AUC, or absolute rank correlation
    max_late_labels: Fraction = 0.005  # of the labels: known only later than label.maturity after the prediction
    allow: dict[str, str] = {}  # input that predicts well, `input=value` or `label` -> why it may be so
    disjoint_entities: tuple[str, ...] = ()  # key columns whose values may not be in both fit and holdout


# --- model ------------------------------------------------------------------------------------------------


class OptimizerSection(Section):
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    schedule: Literal["constant", "cosine"] = "cosine"


class ModelSection(Section):
    network: str  # a name in tasks/core/networks.py, or module:Class
    options: dict[str, Any] = {}
    optimizer: OptimizerSection = OptimizerSection()
    batch_size: int = Field(default=4096, ge=1)
    max_epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=3, ge=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    loss: Literal["mse", "huber"] = "mse"  # of a regression; a classification has its own
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    devices: int = Field(default=1, ge=1)
    refit: Literal["none", "all"] = "none"
    warm_start: bool = False  # from the champion's weights and encodings, where there is one of the same inputs


# --- judgement ---------------------------------------------------------------------------------------------

CLASSIFICATION_METRICS = ("auc", "log_loss", "accuracy", "f1", "brier")
REGRESSION_METRICS = ("mae", "rmse", "r2")
MULTICLASS_METRICS = ("log_loss", "accuracy", "macro_f1")


class BaselineSection(Section):
    """An honest rival: gradient-boosted trees on the same fit rows, and where it is a series the last known value."""

    iterations: int = Field(default=200, ge=1)
    last_known_value: str | None = None  # an input column that holds the label's last known value


class FalsePromotions(Section):
    rate: Fraction = 0.05
    per_attempts: int = Field(default=20, ge=1)


class GateSection(Section):
    primary: str
    margin: float = Field(gt=0)  # non-inferiority margin of the primary metric, in its own units
    guards: dict[str, float] = {}  # metric -> margin
    slices: tuple[str, ...] = ()  # columns whose slices veto when shown worse by more than slice_margin
    guarded_slices: tuple[str, ...] = ()  # "column=value": must be shown non-inferior
    slice_margin: float = Field(default=0.02, gt=0)
    floors: dict[str, float] = {}  # metric -> the least (or for a loss, the most) that any champion may have
    clusters: Literal["day", "week", "entity", "day+entity"] = "day"
    entity: str | None = None
    serial: bool = False
    smallest_useful_gain: float = Field(default=0.0, ge=0)
    min_rows: int = Field(default=1000, ge=1)
    level: Fraction = 0.05
    false_promotions: FalsePromotions = FalsePromotions()
    approval: Literal["none", "person"] = "none"  # whether a challenger that passes waits for a person's word
    max_latency_ms: float | None = None  # of one prediction
    max_size_bytes: int | None = None
    max_prediction_change: float = Field(default=0.1, gt=0)  # refit against judged: mean absolute difference of scores

    @model_validator(mode="after")
    def _entity_is_named(self) -> Self:
        if "entity" in self.clusters and not self.entity:
            raise ValueError(f"clusters={self.clusters!r} needs `entity`, the column that names it")
        if self.serial and self.clusters == "entity":
            raise ValueError("serial=true needs clusters in the order of time: day, week or day+entity")
        if wrong := [text for text in self.guarded_slices if not all(text.partition("="))]:
            raise ValueError(f"guarded_slices {wrong} must read column=value")
        return self


# --- the loop ----------------------------------------------------------------------------------------------


class ReplaySection(Section):
    """A past that is played again: each monitor run without an `as_of` moves the home's time on by a step."""

    start: date
    step: Duration
    end: date  # no step goes beyond it

    @model_validator(mode="after")
    def _goes_forward(self) -> Self:
        if not (self.step > timedelta(0) and self.end > self.start):
            raise ValueError(f"a replay from {self.start} to {self.end} in steps of {self.step} does not go forward")
        return self


class ReplayClock(Section):
    replay: ReplaySection


class ProbeSection(Section):
    """Would a retrain help? Cheap trees, fitted on what was known when the champion was made, and again on what is
    known now, are tested on the newest matured rows: by what the later are ahead, newer rows are worth."""

    fit: Duration = timedelta(days=180)  # how far back the rows of each reach
    test: Duration = timedelta(days=14)
    max_rows: int = Field(default=50_000, ge=100)  # to fit on, evenly chosen
    iterations: int = Field(default=100, ge=1)
    level: float = Field(default=0.2, gt=0, le=0.5)  # one-sided, that the lead is more than gate.margin


class MonitorSection(Section):
    """What a window is measured by."""

    false_alarm_rate: Fraction = 0.05  # of any drift alarm at all in a quiet window, over all columns together
    max_null_increase: float = Field(default=0.2, gt=0, le=1)  # of a column's missing share over its usual
    max_volume_change: Fraction = 0.4  # of a table's rows of a day against its usual: 0.4 takes 60% to 167% for whole
    max_quarantine_fraction: float = Field(default=0.02, ge=0, lt=1)  # of a table's rows in the window
    max_unpredicted_fraction: float = Field(default=0.05, ge=0, lt=1)  # of the window's rows
    quality_window: Duration = timedelta(days=28)  # of matured rows, trailing
    tolerance: float = Field(default=0.0, ge=0)  # below the promise, in the primary metric's units
    # One-sided, of one window's loss. A loss alone changes nothing: the probe has to show that a retrain would help.
    loss_level: float = Field(default=0.2, gt=0, le=0.5)
    effect_after: Duration = timedelta(days=28)  # of matured rows after a promotion: then it is told whether it helped
    probe: ProbeSection = ProbeSection()


class GovernSection(Section):
    """When to retrain. Every span is counted in `as_of` time."""

    lost_windows: int = Field(default=2, ge=1)  # a loss in so many of the last `of_windows`, the latest too: an alert
    of_windows: int = Field(default=3, ge=1)
    # After a retrain, whatever came of it; by default and at least split.holdout + split.embargo.
    cooldown: Duration | None = None
    min_new_labels: int = Field(default=1000, ge=0)  # matured since the last retrain
    budget: int = Field(default=4, ge=1)  # retrains at most,
    budget_period: Duration = timedelta(days=90)  # in any span of this length
    refresh_every: Duration | None = None  # retrain after this long without one; none: never for age alone
    max_attempts: int = Field(default=3, ge=1)  # at one decision, when its runs die

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.lost_windows > self.of_windows:
            raise ValueError(f"lost_windows={self.lost_windows} can never be reached in of_windows={self.of_windows}")
        return self


class BacktestSection(Section):
    """What a backtest does otherwise. Many fits are compared with each other, so that smaller ones tell as much."""

    model: dict[str, Any] = {}  # keys of `model`


class Recipe(Section):
    project: Name
    description: str
    start: date  # the first day that is ingested
    clock: Literal["real"] | ReplayClock = "real"  # what time it is for a run that is given no `as_of`
    seed: int = 7
    tables: dict[Name, TableSection] = Field(min_length=1)
    features: FeaturesSection
    label: LabelSection
    split: SplitSection
    audit: AuditSection = AuditSection()
    model: ModelSection
    baseline: BaselineSection = BaselineSection()
    gate: GateSection
    monitor: MonitorSection = MonitorSection()
    govern: GovernSection = GovernSection()
    backtest: BacktestSection = BacktestSection()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for where, table in (
            ("features.entity_rows.table", self.features.entity_rows.table),
            ("label.table", self.label.table),
        ):
            if table not in self.tables:
                raise ValueError(f"{where}={table!r} is not one of the tables {sorted(self.tables)}")
        key, label_columns = self.tables[self.features.entity_rows.table].key, self.tables[self.label.table].columns
        if missing := [name for name in key if name not in label_columns]:
            raise ValueError(
                f"label.table {self.label.table!r} lacks {missing}, the key that entity rows are joined by"
            )
        known = {"binary": CLASSIFICATION_METRICS, "multiclass": MULTICLASS_METRICS, "regression": REGRESSION_METRICS}[
            self.label.kind
        ]
        for name in (self.gate.primary, *self.gate.guards, *self.gate.floors):
            if name not in known:
                raise ValueError(
                    f"gate metric {name!r} does not fit label.kind={self.label.kind!r}; choose from {list(known)}"
                )
        return self

    @model_validator(mode="after")
    def _retrains_leave_unseen_rows(self) -> Self:
        """What a champion was made of, no challenger may be judged on against it."""
        least = self.split.holdout + self.split.embargo
        for name, spacing in (("cooldown", self.govern.cooldown), ("refresh_every", self.govern.refresh_every)):
            if spacing is not None and spacing < least:
                raise ValueError(
                    f"govern.{name}={spacing} is shorter than split.holdout + split.embargo = {least}: the champion"
                    " would have seen a part of the rows that its challenger is judged on"
                )
        return self

    @property
    def cooldown(self) -> timedelta:
        """From a retrain to the next, at least."""
        return self.govern.cooldown or self.split.holdout + self.split.embargo

    @property
    def digest(self) -> str:
        """Of what makes and judges a model: when it is looked at, and what is done then, makes no other model."""
        return digest(self.model_dump(mode="json", exclude={"clock", "description", "monitor", "govern", "backtest"}))


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe by its name in `configs/` or by the path of a YAML file.

    `overrides` are dotted keys: `{"model.max_epochs": 2}`.

    Raises:
        RecipeError: no such recipe, not YAML, or a value that cannot be; the error names the file and the key.
    """
    path = find_recipe(name)
    try:
        data = yaml.safe_load(path.read_text())
    # A date that is none is a ValueError; brackets without an end take all of Python's stack.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read", got=error, expected="a YAML file in UTF-8") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path} is not a recipe", got=type(data).__name__, expected="a mapping of keys")
    for key, value in (overrides or {}).items():
        _set(data, key, value)
    try:
        return Recipe.model_validate(data)
    except pydantic.ValidationError as error:
        raise _readable(error, path) from None


def find_recipe(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
        raise RecipeError(f"no recipe {name!r}", got=path, expected=f"one of {known}, or the path of a YAML file")
    return path


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(data.setdefault(parent, {}), dict):
            raise RecipeError(
                f"override {key!r} goes through {parent!r}, which is a value", fix="name a key of the recipe"
            )
        # A copy: where YAML anchors make two keys one and the same mapping, only the one that is named changes.
        data[parent] = dict(data[parent])
        data = data[parent]
    data[last] = value


def _readable(error: pydantic.ValidationError, path: Path) -> RecipeError:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "recipe"
        got = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r:.80})"
        lines.append(f"{where}: {problem['msg']}{got}")
    return RecipeError(
        f"{path} is not a valid recipe", got="\n            ".join(lines), fix=f"correct these keys in {path}"
    )
