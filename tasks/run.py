"""What a run is about: its recipe, its moment, and the decision it works for."""

from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

from configs.recipe import Recipe, load_recipe
from configs.sections.data import TableSection
from configs.settings import load_settings
from tasks import leftovers
from tasks.clock import present
from tasks.core.errors import RecipeError
from tasks.core.records import digest


@dataclass(frozen=True, slots=True)
class Run:
    """One decision in the making. Equal project, moment, cause, recipe and attempt are one and the same decision."""

    recipe: Recipe
    as_of: datetime
    cause: str
    attempt: int
    decided: str | None = None  # the id of the decision that this run carries out, where it was made before

    @property
    def project(self) -> str:
        return self.recipe.project

    @property
    def start(self) -> datetime:
        """The first moment that is ingested."""
        return datetime.combine(self.recipe.start, time(), tzinfo=UTC)

    @property
    def entity_table(self) -> TableSection:
        """The table whose rows are predicted."""
        return self.recipe.tables[self.recipe.features.entity_rows.table]

    @property
    def decision_id(self) -> str:
        return self.decided or digest([self.project, self.as_of, self.cause, self.recipe.digest, self.attempt])

    @property
    def folder(self) -> Path:
        """Where the records of this decision's finished steps lie."""
        return load_settings().folder("runs", self.project) / self.decision_id


def open_run(
    recipe: str,
    as_of: datetime | None,
    overrides: dict[str, Any] | None,
    *,
    cause: str = "person",
    attempt: int = 0,
    decided: str | None = None,
) -> Run:
    """Read the recipe and fix the moment: `as_of`, or else what the recipe's clock says.

    Raises:
        RecipeError: an unreadable recipe, or a moment before the recipe's first day.
    """
    leftovers.begin(load_settings().root)
    loaded = load_recipe(recipe, overrides)
    moment = to_utc(as_of or present(loaded))
    if moment.date() <= loaded.start:
        raise RecipeError(
            "as_of is before there is any data",
            got=moment.isoformat(),
            expected=f"a moment after start={loaded.start} of recipe {loaded.project!r}",
        )
    return Run(recipe=loaded, as_of=moment, cause=cause, attempt=attempt, decided=decided)


def to_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
