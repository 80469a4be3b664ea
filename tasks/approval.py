"""Approval: a challenger that passes the gate waits for a person's word, where the recipe asks for one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.input import RunInput

from tasks.account import logger, step
from tasks.core import ledger as history
from tasks.core.errors import PromotionError
from tasks.core.records import LedgerEntry
from tasks.home import open_ledger
from tasks.naming import caller
from tasks.promotion import record_outcome
from tasks.run import Run

PATIENCE = timedelta(days=30)  # for as long a suspended run can be resumed


class Answer(RunInput):
    """What the Prefect UI asks when a suspended run is resumed."""

    approve: bool
    who: str
    why: str


def ask_person(run: Run, entry: LedgerEntry) -> LedgerEntry:
    """Pass on an entry that waits for nobody. Else suspend the run until a person has answered, and do what they say.

    A run that cannot be suspended, such as one from the shell, says which command answers, and ends.
    """
    if entry.kind != "waiting":
        return entry
    if (answer := _suspend(entry)) is None:
        words = f"--recipe {run.project} --version {entry.version} --who NAME --why REASON"
        logger.info("%-10s %-22s python -m flows.approve %s [--reject]", "waiting", run.project, words)
        return entry
    return answer_verdict(run.project, entry.version or 0, answer.approve, answer.who, answer.why)


def _suspend(entry: LedgerEntry) -> Answer | None:
    """The answer, once it has been given; until then this leaves the run, which begins anew when it is resumed."""
    from prefect.flow_runs import suspend_flow_run
    from prefect.runtime import deployment

    if deployment.id is None:
        return None
    reasons = "\n".join(f"- {reason}" for reason in entry.reasons)
    against = f"in place of version {entry.champion}" if entry.champion else "as the first champion"
    page = f"**Is version {entry.version} to serve, {against}?**\n\nThe gate says promote:\n\n{reasons}"
    try:
        return suspend_flow_run(
            wait_for_input=Answer.with_initial_data(description=page),
            key=f"approval-{entry.decision_id}",
            timeout=int(PATIENCE.total_seconds()),
        )
    except RuntimeError as error:  # part of another run, which Prefect does not suspend
        logger.info("%-10s %-22s %s", "waiting", "", error)
        return None


@task(task_run_name="answer verdict")
def answer_verdict(project: str, version: int, approve: bool, who: str, why: str) -> LedgerEntry:
    """Promote or reject a version that waits; both go to the ledger, with who and why. Answered before: that answer.

    Raises:
        PromotionError: the version waits for nobody, or the champion is not the one that it was judged against.
    """
    with step("approval", project) as line:
        entries = open_ledger(project).entries()
        waiting = next((e for e in reversed(entries) if e.kind == "waiting" and e.version == version), None)
        if waiting is None:
            open_versions = [e.version for e in entries if e.kind == "waiting" and _is_open(entries, e)]
            raise PromotionError(
                f"version {version} of {project!r} does not wait for approval",
                got=f"waiting: {open_versions or 'none'}",
                expected="a version whose verdict is promote, under a recipe with gate.approval: person",
            )
        said = f"{'approved' if approve else 'rejected'} by {who or caller()}: {why or 'no reason given'}"
        draft = replace(
            waiting, kind="intent" if approve else "rejected", reasons=(*waiting.reasons, said),
            at=datetime.now(UTC), who=who or caller(),
        )  # fmt: skip
        entry = record_outcome(project, draft, waiting.champion)
        line.note(f"{entry.reasons[-1]} · champion is version {entry.champion}")
    return entry


def _is_open(entries: tuple[LedgerEntry, ...], waiting: LedgerEntry) -> bool:
    return history.decided(entries, waiting.decision_id) == waiting
