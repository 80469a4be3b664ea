"""Claim: of many runs that are told of a decided retrain, one does it; what came of it is noted once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks import home
from tasks.account import in_run, logger
from tasks.core import ledger as history
from tasks.core import outbox as projections
from tasks.core.errors import PerennialError
from tasks.core.records import Claim, LedgerEntry, Wanted
from tasks.deciding import ask_governor, open_outbox
from tasks.naming import flow_run_id
from tasks.promotion import promoting
from tasks.run import Run


def wanted_retrain(run: Run, recipe: str, overrides: dict[str, Any] | None, decision_id: str) -> Wanted | None:
    """The retrain to do: the decision that is named, or else one that is pending, or else what the governor grants.

    Raises:
        PerennialError: a decision that nobody made.
    """
    outbox, section = open_outbox(run.project), run.recipe.govern
    if decision_id:
        if (entry := outbox.entry(decision_id)) is None:
            raise PerennialError(
                f"there is no decision {decision_id!r} in the outbox of {run.project!r}",
                expected=[found.wanted.decision_id for found in outbox.entries()] or "a decision by the monitor",
                fix="leave decision_id out: the governor is asked then",
            )
        return entry.wanted
    if (waiting := projections.unfinished(outbox.entries(), section.max_attempts)) is not None:
        return waiting.wanted
    decision = ask_governor(run, recipe, overrides, requested=True)
    if decision.action != "retrain":
        return None
    entry = projections.unfinished(outbox.entries(), section.max_attempts)
    return entry.wanted if entry is not None else None


def own_verdict(project: str) -> LedgerEntry | None:
    """What this very flow run came to, where it had carried out a decision and was suspended for a person's answer."""
    mine = projections.carried_out_by(open_outbox(project).entries(), flow_run_id())
    return None if mine is None else history.decided(home.open_ledger(project).entries(), mine.wanted.decision_id)


@contextmanager
def claiming(wanted: Wanted) -> Iterator[Claim | None]:
    """Be the one run that does it; None where another one is, or it is done.

    Raises:
        PromotionError: another run of the project is promoting. The attempt is not spent.
    """
    outbox = open_outbox(wanted.project)
    with outbox.hold(wanted.decision_id) as entry:
        if entry is None:
            logger.info("%-10s %-22s another run does it, or has done it", "retrain", wanted.decision_id)
            yield None
            return
        if _is_superseded(wanted):
            outbox.finish(wanted.decision_id, "superseded", entry.next_attempt)
            logger.info("%-10s %-22s a newer champion is there already", "retrain", wanted.decision_id)
            yield None
            return
        with promoting(wanted.project, wanted.decision_id):
            yield outbox.claim(entry, _claimant(), flow_run_id())


def finish_retrain(wanted: Wanted, claim: Claim, entry: LedgerEntry) -> LedgerEntry:
    """Note that it is done."""
    open_outbox(wanted.project).finish(wanted.decision_id, entry.kind, claim.attempt)
    return entry


def _is_superseded(wanted: Wanted) -> bool:
    """Whether a champion was made after this decision, by another one: it cannot be judged against that any more."""
    entries = home.open_ledger(wanted.project).entries()
    made = history.champion_as_of(entries)
    return made is not None and made > wanted.as_of and history.decided(entries, wanted.decision_id) is None


def _claimant() -> str:
    from prefect.runtime import flow_run

    return f"run {flow_run.name}, process {os.getpid()}" if in_run() else f"process {os.getpid()}"
