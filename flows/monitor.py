"""Monitor: what the champion's window was like, what is to be done about it, and the page that shows it."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from flows.ingest import ingest
from flows.materialize import materialize
from flows.score import score
from tasks.clock import turn_clock
from tasks.core.governor import Decision
from tasks.deciding import decide, dispatch_pending
from tasks.monitor_report import show_report
from tasks.monitoring import find_previous, observe_window, score_previous
from tasks.naming import run_name
from tasks.refusals import going_on_refused
from tasks.rivals import find_rivals
from tasks.rollback import roll_back_if_worse
from tasks.run import open_run
from tasks.tables import current_tables


@flow(name="monitor", flow_run_name=run_name)
def monitor(recipe: str, as_of: datetime | None = None, overrides: dict[str, Any] | None = None) -> Decision | None:
    """Look at inputs, scores, tables and quality since the last time, decide, and dispatch what is pending.

    In a replay, where nothing else brings rows in, each run without an `as_of` ingests a step more first.
    """
    if (turn := turn_clock(recipe, as_of, overrides)) is None:
        return None
    run = open_run(recipe, turn.as_of, overrides)
    if turn.is_replayed:
        with going_on_refused(run.project, run.as_of):
            ingest(recipe, as_of=run.as_of, overrides=overrides)
        materialize(recipe, as_of=run.as_of, overrides=overrides)
    score(recipe, as_of=run.as_of, overrides=overrides)
    rivals = find_rivals(run.project, run.as_of)
    if rivals.champion is None:
        return None
    previous = find_previous(run.project, rivals.champion)
    tables = current_tables(run, rivals.features)
    if previous is not None:
        score_previous(run, rivals.champion, previous, tables)
    report = observe_window(run, rivals.champion, previous, tables)
    roll_back_if_worse(run, report)
    decision = decide(run, recipe, overrides)
    show_report(run, rivals.champion, report, decision)
    dispatch_pending(run.project, run.recipe.govern.max_attempts)
    return decision


if __name__ == "__main__":
    shell.main(monitor)
