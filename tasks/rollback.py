"""Roll back: the previous champion takes its place again, because a person says so, or because rows that came after
the promotion show that it was the better one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect import task

from tasks.account import step
from tasks.core import ledger as history
from tasks.core.errors import PromotionError
from tasks.core.records import LedgerEntry
from tasks.home import open_ledger, open_registry
from tasks.naming import caller
from tasks.promotion import settle
from tasks.run import Run

if TYPE_CHECKING:
    from tasks.core.observation import MonitorReport

GATE = "the gate"  # who rolls back where no person does


@task(task_run_name="roll back")
def roll_back(project: str, as_of: datetime, who: str, reason: str, version: int | None = None) -> LedgerEntry:
    """Make `previous` the champion again. A training that is on its way is not waited for; its promotion is refused.

    The same person with the same reason, or a `version` that was taken off before: the rollback that is there already.

    Raises:
        PromotionError: there is nothing to go back to, or `version` is not the champion.
    """
    with step("rollback", project) as line:
        entry = undo_promotion(project, as_of, who or caller(), reason or "no reason given", version)
        line.note(f"version {entry.version} is taken off · version {entry.champion} is the champion again")
    return entry


@task(task_run_name="roll back if worse")
def roll_back_if_worse(run: Run, report: "MonitorReport | None") -> LedgerEntry | None:
    """Take off a champion that is shown worse than the one before it, on the rows since its promotion.

    The gate judged a fit on fewer rows than the one that is served, and in another month. A champion that a person put
    there stays: the report says what it does.
    """
    effect = None if report is None else report.effect
    if effect is None or not effect.worse:
        return None
    entries = open_ledger(run.project).entries()
    promotion = history.promotion_of(entries, effect.version)
    if history.champion(entries) != effect.version or promotion is None or promotion.mode == "person":
        return None
    with step("rollback", run.project) as line:
        entry = undo_promotion(run.project, run.as_of, GATE, "; ".join(effect.worse), effect.version)
        line.note(f"version {entry.version} did harm and is taken off · version {entry.champion} is the champion again")
    return entry


def undo_promotion(project: str, as_of: datetime, who: str, reason: str, version: int | None) -> LedgerEntry:
    ledger, registry = open_ledger(project), open_registry(project)
    with ledger.writing(f"rollback by {who}"):
        entries = settle(ledger, registry)
        if (done := _done_before(entries, who, reason, version)) is not None:
            return done
        _check_asked(entries, project, version)
        champion, previous = history.champion(entries), history.previous(entries)
        promotion = history.promotion_of(entries, champion) if champion else None
        if promotion is None or previous is None:
            raise _nothing_to_go_back_to(entries, project)
        registry.version(previous)
        intent = replace(
            promotion, kind="intent", intends="rolled_back", as_of=as_of, reasons=(reason,), at=datetime.now(UTC),
            mode=promotion.mode if who == GATE else "person", is_superior=False, who=who,
        )  # fmt: skip
        ledger.append(history.follow(entries, intent))
        return settle(ledger, registry)[-1]


def _done_before(entries: Sequence[LedgerEntry], who: str, reason: str, version: int | None) -> LedgerEntry | None:
    """Asked again, by a retry or by someone who is not sure: going back twice would be worse than not at all."""
    if version is not None and version != history.champion(entries):
        return history.rollback_of(entries, version)
    last = next((e for e in reversed(entries) if e.kind in ("promoted", "rolled_back")), None)
    is_same = last is not None and last.kind == "rolled_back" and (last.who, last.reasons) == (who, (reason,))
    return last if is_same and version is None else None


def _check_asked(entries: Sequence[LedgerEntry], project: str, version: int | None) -> None:
    if version is not None and version != (champion := history.champion(entries)):
        raise PromotionError(
            f"version {version} of {project!r} is not the champion",
            got="no champion" if champion is None else f"version {champion}",
            expected=f"version {version}, which is to be taken off",
            fix="look again at which version misbehaves; leave `version` out to take off whichever is champion",
        )


def _nothing_to_go_back_to(entries: Sequence[LedgerEntry], project: str) -> PromotionError:
    last = next((e for e in reversed(entries) if e.kind in ("promoted", "rolled_back")), None)
    if last is None:
        got = "no champion"
    elif last.kind == "rolled_back":
        got = f"version {last.champion}, which came back when version {last.version} was {history.told(last)}"
    else:
        got = f"version {last.champion}, the first"
    return PromotionError(
        f"there is no previous champion of {project!r} to go back to",
        got=got,
        expected="a champion that took another one's place",
        fix=f"train another: python -m flows.pipeline --recipe {project}",
    )
