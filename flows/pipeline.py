"""The main job: from source tables to a verdict, and to a new champion if the challenger passes."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from flows.ingest import ingest
from flows.materialize import materialize
from flows.score import score
from flows.train import train
from tasks.approval import ask_person
from tasks.closing import close_run, show_decided
from tasks.core.records import LedgerEntry
from tasks.naming import run_name
from tasks.promotion import current_champion, past_decision, promote, promoting
from tasks.run import open_run
from tasks.stores import fork_server


@flow(name="pipeline", flow_run_name=run_name)
def pipeline(
    recipe: str, as_of: datetime | None = None, overrides: dict[str, Any] | None = None, attempt: int = 0
) -> LedgerEntry:
    """Ingest, validate, build features, score with the champion, train a challenger, judge it, promote it if it passes.

    What has been decided is shown, not decided again; a person who wants another look raises `attempt`.
    """
    run = open_run(recipe, as_of, overrides, attempt=attempt)
    if (entry := past_decision(run.project, run.decision_id)) is not None:
        return ask_person(run, show_decided(run, entry))
    current_champion(run.project, run.as_of)
    fork_server.prepare()  # ingest leaves a core free
    moment = {"as_of": run.as_of, "overrides": overrides}
    with promoting(run.project, run.decision_id):
        ingest(recipe, **moment)
        materialize(recipe, **moment)
        score(recipe, **moment)
        trained = train(recipe, attempt=attempt, **moment)
        judged_against = trained.champion.ref if trained.champion else None
        entry = promote(
            run, trained.version, judged_against, trained.training_set, trained.judged, trained.served,
            trained.evaluation,
        )  # fmt: skip
    return ask_person(run, close_run(run, trained.evaluation, entry))


if __name__ == "__main__":
    shell.main(pipeline)
