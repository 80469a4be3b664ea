"""Decide: what the monitor's history asks for, written before anyone is told of it, then dispatched."""

import os
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect import task

from configs.recipe import Recipe
from configs.settings import load_settings
from tasks import home
from tasks.account import logger, step
from tasks.core import outbox as projections
from tasks.core.errors import PerennialError
from tasks.core.governor import Decision, Policy, govern
from tasks.core.records import OutboxEntry, Record, Wanted, digest
from tasks.events import announce_retrain
from tasks.monitoring import past_reports, stamp
from tasks.run import Run

if TYPE_CHECKING:
    from tasks.stores.outbox import Journal, Outbox

MAX_RUNS = 20  # of one attempt that ended before they could claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance(Record):
    """A person's word that a halt is over."""

    as_of: datetime
    who: str
    reason: str


def open_outbox(project: str) -> "Outbox":
    from tasks.stores.outbox import Outbox

    return Outbox(load_settings().folder("outbox", project))


def decisions(project: str) -> "Journal":
    return _journal("decisions", project)


def _journal(kind: str, project: str) -> "Journal":
    from tasks.stores.outbox import Journal

    return Journal(load_settings().folder(kind, project))


def read_policy(recipe: Recipe) -> Policy:
    limits = {name: getattr(recipe.govern, name) for name in Policy.__slots__}
    return Policy(**limits | {"cooldown": recipe.cooldown})


# --- deciding -------------------------------------------------------------------------------------


@task(task_run_name="decide")
def decide(run: Run, recipe: str, overrides: dict[str, Any] | None) -> Decision:
    """Ask the governor, keep what it says, and put a retrain into the outbox."""
    return ask_governor(run, recipe, overrides)


def ask_governor(run: Run, recipe: str, overrides: dict[str, Any] | None, requested: bool = False) -> Decision:
    """`requested`: an event from outside asks for a retrain."""
    with step("govern", run.project) as line, open_outbox(run.project).deciding():
        decision = make_decision(run, recipe, overrides, requested)
        line.note(f"{decision.action}: {'; '.join(decision.reasons)}")
    return decision


def make_decision(run: Run, recipe: str, overrides: dict[str, Any] | None, requested: bool) -> Decision:
    kept, name = decisions(run.project), f"{stamp(run.as_of)}-{'event' if requested else 'monitor'}"
    if (made := kept.find(name, Decision)) is not None:
        return made
    section, outbox = run.recipe.govern, open_outbox(run.project)
    entries, seen = outbox.entries(), past_reports(run.project, run.as_of)
    cleared = _journal("clearances", run.project).read(Clearance)
    waiting = projections.unfinished(entries, section.max_attempts)
    decision = govern(
        [report.observation for report in seen],
        projections.retrains(entries, home.open_ledger(run.project).entries()),
        read_policy(run.recipe),
        as_of=run.as_of,
        requested=requested,
        cleared_at=max((word.as_of for word in cleared), default=None),
        unfinished=None if waiting is None else f"the retrain {waiting.wanted.decision_id} has not ended",
    )
    if decision.action == "retrain":
        wanted = _wanted(run, recipe, overrides, decision)
        # The outbox first: killed in between, the decision is made again, and is the same.
        outbox.put(wanted)
        announce_retrain(wanted, seen[-1].observation.drifted if seen else ())
    return kept.add(name, decision)


def _wanted(run: Run, recipe: str, overrides: dict[str, Any] | None, decision: Decision) -> Wanted:
    return Wanted(
        decision_id=digest([run.project, run.as_of, decision.cause, run.recipe.digest]), project=run.project,
        recipe=recipe, overrides=overrides or {}, as_of=run.as_of, cause=decision.cause or "event",
        reasons=decision.reasons,
    )  # fmt: skip


def clear_halt(run: Run, who: str, reason: str) -> Clearance:
    """Note a person's word that the data is whole, or may be used as it is. The first word of a moment stands.

    Raises:
        PerennialError: nobody said who they are, or why.
    """
    if not who or not reason:
        raise PerennialError(
            "a halt is cleared by a person, who says why", got={"who": who, "reason": reason},
            fix="give both: --who ann --reason 'the new unit is meant'",
        )  # fmt: skip
    with step("clear", run.project) as line:
        word = _journal("clearances", run.project).add(
            stamp(run.as_of), Clearance(as_of=run.as_of, who=who, reason=reason)
        )
        line.note(f"by {word.who}: {word.reason}")
    return word


# --- dispatching ----------------------------------------------------------------------------------


@task(task_run_name="dispatch pending")
def dispatch_pending(project: str, max_attempts: int) -> list[str]:
    """Start a run for every retrain that is pending; told twice, it is one run. Returns the decisions that have one.

    Without a server, or while it is down, they stay pending: nothing is lost.
    """
    outbox = open_outbox(project)
    entries = outbox.entries()
    for entry in projections.given_up(entries, max_attempts):
        logger.warning(
            "%-10s %-22s begun %d times and never ended", "given up", entry.wanted.decision_id, len(entry.claims)
        )
    states = {
        e.wanted.decision_id: projections.state(e, max_attempts, outbox.is_held(e.wanted.decision_id)) for e in entries
    }
    pending = [entry for entry in entries if states[entry.wanted.decision_id] == "pending"]
    return [entry.wanted.decision_id for entry in pending if dispatch(entry)]


def dispatch(entry: OutboxEntry) -> bool:
    wanted = entry.wanted
    command = f"python -m flows.retrain --recipe {wanted.recipe} --decision-id {wanted.decision_id}"
    if not os.environ.get("PREFECT_API_URL"):
        logger.info("%-10s %-22s there is no server to start it: %s", "pending", wanted.decision_id, command)
        return False
    try:
        run = _start_run(entry)
    except Exception as error:  # whatever a server that is down, or lacks the deployment, says: it stays pending
        logger.warning(
            "%-10s %-22s not started (%s); the next monitor tries again", "pending", wanted.decision_id, error
        )
        return False
    logger.info("%-10s %-22s run %s", "dispatched", wanted.decision_id, run.name)
    return True


def _start_run(entry: OutboxEntry) -> Any:
    """The run of this attempt: a new one, or the one that is there. One that ended without a claim is passed over."""
    from prefect.deployments import run_deployment

    wanted = entry.wanted
    parameters = {
        "recipe": wanted.recipe,
        "as_of": wanted.as_of.isoformat(),
        "overrides": wanted.overrides or None,
        "decision_id": wanted.decision_id,
    }
    for number in range(MAX_RUNS):
        again = f".{number}" if number else ""
        run = run_deployment(
            name=f"retrain/{wanted.project}", parameters=parameters, timeout=0, as_subflow=False,
            idempotency_key=f"{wanted.decision_id}:{entry.next_attempt}{again}",
        )  # fmt: skip
        if run.state is None or not run.state.is_final():
            return run
    raise PerennialError(
        f"{MAX_RUNS} runs of decision {wanted.decision_id} ended before they could begin",
        fix="read the log of the last of them",
    )
