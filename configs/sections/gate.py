"""What a challenger must show."""

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.sections.section import Fraction, Section

CLASSIFICATION_METRICS = ("auc", "log_loss", "accuracy", "f1", "brier")
REGRESSION_METRICS = ("mae", "rmse", "r2")
MULTICLASS_METRICS = ("log_loss", "accuracy", "macro_f1")


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
