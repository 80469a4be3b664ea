"""What is monitored: one champion in one window, and all that is read of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tasks import joins
from tasks.core.records import ModelRef, TableRef, Window
from tasks.run import Run

if TYPE_CHECKING:
    from tasks.core.observation import MonitorReport
    from tasks.core.reference import Reference


@dataclass(frozen=True, slots=True)
class Subject:
    run: Run
    model: ModelRef
    made_at: datetime
    own: joins.ModelRows
    reference: "Reference"
    window: Window
    before: Sequence["MonitorReport"]
    tables: tuple[TableRef, ...]

    @property
    def matured_until(self) -> datetime:
        return self.run.as_of - self.own.label.maturity

    def table(self, name: str) -> TableRef:
        return next(table for table in self.tables if table.name == name)
