"""When the loop looks, what it measures a window by, and when it retrains."""

from datetime import date, timedelta
from typing import Any, Self

from pydantic import Field, model_validator

from configs.sections.section import Duration, Fraction, Section


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
