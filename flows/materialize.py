"""Materialize: feature tables built up to the moment, and their newest values in the online store."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from tasks.features import materialize_features
from tasks.naming import run_name
from tasks.run import open_run
from tasks.tables import current_tables


@flow(name="materialize", flow_run_name=run_name)
def materialize(recipe: str, as_of: datetime | None = None, overrides: dict[str, Any] | None = None) -> dict[str, int]:
    """Build the feature tables and load the newest value of each key into the online store; rows written per view."""
    run = open_run(recipe, as_of, overrides)
    tables = current_tables(run)
    features = run.recipe.features
    return materialize_features(run.project, (features.service,), tables, run.as_of, features.lookback)


if __name__ == "__main__":
    shell.main(materialize)
