"""Retrains that were decided, and what came of them, read from the records alone: pending, claimed, done.

A decision is written first and sent second, so that a server that is down or killed loses nothing: whoever comes next
finds it pending. Many may be told of it; the one that claims it does it.
"""

from collections.abc import Sequence
from typing import Literal

from tasks.core.governor import Retrain
from tasks.core.ledger import OUTCOMES
from tasks.core.records import LedgerEntry, OutboxEntry

State = Literal["pending", "claimed", "given_up", "done"]


def state(entry: OutboxEntry, max_attempts: int, is_alive: bool) -> State:
    """`is_alive`: a run holds it at this moment."""
    if entry.done is not None:
        return "done"
    if is_alive:
        return "claimed"
    return "given_up" if len(entry.claims) >= max_attempts else "pending"


def unfinished(entries: Sequence[OutboxEntry], max_attempts: int) -> OutboxEntry | None:
    """The oldest that has not ended and has attempts left."""
    return next((e for e in entries if e.done is None and len(e.claims) < max_attempts), None)


def given_up(entries: Sequence[OutboxEntry], max_attempts: int) -> tuple[OutboxEntry, ...]:
    """Those that were begun as often as they may be and have not ended."""
    return tuple(entry for entry in entries if entry.done is None and len(entry.claims) >= max_attempts)


def carried_out_by(entries: Sequence[OutboxEntry], flow_run: str | None) -> OutboxEntry | None:
    """The one that a flow run claimed and ended: a run that was suspended comes again from its start."""
    return next((e for e in entries if e.done and e.claims and flow_run and e.claims[-1].flow_run == flow_run), None)


def retrains(entries: Sequence[OutboxEntry], ledger: Sequence[LedgerEntry]) -> tuple[Retrain, ...]:
    """Every retrain there was, by a decision or by a person, in order of `as_of`: each spends cool-down and budget."""
    decided = {entry.wanted.decision_id: entry.wanted for entry in entries}
    found = [Retrain(as_of=wanted.as_of, cause=wanted.cause) for wanted in decided.values()]
    known = set(decided)
    for line in ledger:
        if line.kind in OUTCOMES and line.decision_id not in known:
            known.add(line.decision_id)
            found.append(Retrain(as_of=line.as_of, cause="person"))
    return tuple(sorted(found, key=lambda retrain: retrain.as_of))
