"""Score: the champion's predictions for what has come since the last scored window, into the prediction log."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from tasks.core.records import PredictionsRef
from tasks.naming import run_name
from tasks.rivals import find_rivals
from tasks.run import open_run
from tasks.scoring import score_window, unscored_window
from tasks.tables import current_tables


@flow(name="score", flow_run_name=run_name)
def score(recipe: str, as_of: datetime | None = None, overrides: dict[str, Any] | None = None) -> PredictionsRef | None:
    """Score the rows between the last scored window and `as_of` with the champion; None while there is no champion."""
    run = open_run(recipe, as_of, overrides)
    rivals = find_rivals(run.project, run.as_of)
    if rivals.champion is None:
        return None
    window = unscored_window(run.project, rivals.champion, run.as_of)
    tables = current_tables(run, rivals.features)
    return score_window(run.project, rivals.champion.ref, window, run.as_of, tables)


if __name__ == "__main__":
    shell.main(score)
