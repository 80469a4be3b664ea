"""The rows of a training set: features, label, splits, and what is taken for a leak."""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from configs.sections.section import Duration, Fraction, Name, Section


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
