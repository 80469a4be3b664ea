"""Quarantine: replay the rows that were put aside, after they or the suites have been mended."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from tasks.core.records import PublishedBatch
from tasks.quarantine import replay_quarantine
from tasks.run import open_run


@flow(name="quarantine")
def quarantine(
    recipe: str, as_of: datetime | None = None, overrides: dict[str, Any] | None = None
) -> list[PublishedBatch]:
    """Validate every quarantined row again and publish those that pass; the others stay, with their reasons."""
    run = open_run(recipe, as_of, overrides)
    published: list[PublishedBatch] = []
    for name, table in run.recipe.tables.items():
        published += replay_quarantine(run.project, name, table, run.as_of)
    return published


if __name__ == "__main__":
    shell.main(quarantine)
