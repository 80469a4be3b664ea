"""Retrain: claim what was decided, train, judge, promote. Without a decision the governor is asked for one."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows import shell
from flows.train import train
from tasks.approval import ask_person
from tasks.claiming import claiming, finish_retrain, own_verdict, wanted_retrain
from tasks.closing import close_run, show_decided
from tasks.core.records import LedgerEntry, Wanted
from tasks.naming import run_name
from tasks.promotion import current_champion, past_decision, promote
from tasks.run import open_run


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    recipe: str, as_of: datetime | None = None, overrides: dict[str, Any] | None = None, decision_id: str = ""
) -> LedgerEntry | None:
    """Do the retrain that was decided; of many runs that are told of it, one. None where it is not for this one.

    Without `decision_id` it is the one that is pending; where none is, the governor decides, as on an event.
    """
    run = open_run(recipe, as_of, overrides)
    if (entry := own_verdict(run.project)) is not None:
        return ask_person(run, entry)
    wanted = wanted_retrain(run, recipe, overrides, decision_id)
    if wanted is None:
        return None
    with claiming(wanted) as claim:
        if claim is None:
            return None
        entry = finish_retrain(wanted, claim, carry_out(wanted))
    return ask_person(run, entry)


def carry_out(wanted: Wanted) -> LedgerEntry:
    """Train, judge and promote, unless an attempt that died had come that far."""
    chosen = {"cause": wanted.cause, "decided": wanted.decision_id}
    run = open_run(wanted.recipe, wanted.as_of, wanted.overrides, **chosen)
    if (entry := past_decision(run.project, run.decision_id)) is not None:
        return show_decided(run, entry)
    current_champion(run.project, run.as_of)
    trained = train(wanted.recipe, as_of=run.as_of, overrides=wanted.overrides, **chosen)
    judged_against = trained.champion.ref if trained.champion else None
    entry = promote(
        run, trained.version, judged_against, trained.training_set, trained.judged, trained.served, trained.evaluation
    )
    return close_run(run, trained.evaluation, entry)


if __name__ == "__main__":
    shell.main(retrain)
