"""Ingest: every table's new rows are staged, validated and only then published (write-audit-publish)."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from tasks.core.errors import PerennialError
from tasks.core.records import PublishedBatch
from tasks.ingestion import ingesting, publish_batch, stage_table
from tasks.naming import run_name
from tasks.refusals import collecting, noting_refusal
from tasks.run import open_run
from tasks.unpacking import unpacking_once
from tasks.validation import validate_batch


@flow(name="ingest", flow_run_name=run_name)
def ingest(recipe: str, as_of: datetime | None = None, overrides: dict[str, Any] | None = None) -> list[PublishedBatch]:
    """Stage, validate and publish what became known since the last time, for every table of the recipe.

    Raises:
        PerennialError: a table was refused; the others are published all the same.
    """
    run = open_run(recipe, as_of, overrides)
    published: list[PublishedBatch] = []
    refused: list[PerennialError] = []
    with unpacking_once(run.project, run.recipe.tables):
        for name, table in run.recipe.tables.items():
            with collecting(refused), noting_refusal(run.project, name, run.as_of), ingesting(run.project, name):
                staged = stage_table(run.project, name, table, run.start, run.as_of)
                validated = validate_batch(staged, table)
                published.append(publish_batch(validated, table))
    if refused:
        raise refused[0]
    return published


if __name__ == "__main__":
    shell.main(ingest)
