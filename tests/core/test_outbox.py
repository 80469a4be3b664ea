"""What the outbox says, from its records alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tasks.core.outbox import carried_out_by, given_up, retrains, state, unfinished
from tasks.core.records import Claim, Done, LedgerEntry, OutboxEntry, Wanted

START = datetime(2013, 4, 1, tzinfo=UTC)
DONE = Done(outcome="promoted", attempt=1, at=START)


def entry(number: int, claims: int = 0, done: Done | None = None) -> OutboxEntry:
    as_of = START + number * timedelta(days=7)
    wanted = Wanted(
        decision_id=f"d{number}", project="p", recipe="p", as_of=as_of, cause="quality", reasons=("it was low",)
    )
    made = tuple(Claim(attempt=n + 1, who="me", at=as_of) for n in range(claims))
    return OutboxEntry(wanted=wanted, claims=made, done=done)


@pytest.mark.parametrize(
    ("claims", "done", "is_alive", "said"),
    [
        (0, None, False, "pending"),
        (1, None, True, "claimed"),
        (1, None, False, "pending"),  # its run is dead
        (3, None, True, "claimed"),
        (3, None, False, "given_up"),
        (1, DONE, False, "done"),
    ],
)
def test_states(claims, done, is_alive, said):
    assert state(entry(0, claims, done), 3, is_alive) == said


def test_the_oldest_that_has_attempts_left_is_the_one_to_do():
    entries = [entry(0, 1, DONE), entry(1, 3), entry(2, 1), entry(3)]
    assert unfinished(entries, 3) == entries[2]
    assert given_up(entries, 3) == (entries[1],)
    assert OutboxEntry.from_json(entries[2].to_json()) == entries[2]


def test_a_run_that_comes_again_finds_what_it_has_carried_out():
    def claimed(number: int, flow_run: str, done: Done | None) -> OutboxEntry:
        made = Claim(attempt=1, who="me", at=START, flow_run=flow_run)
        return replace(entry(number), claims=(made,), done=done)

    entries = [claimed(0, "a", DONE), claimed(1, "b", DONE), claimed(2, "c", None), entry(3, 1, DONE)]
    assert carried_out_by(entries, "b") == entries[1]
    assert carried_out_by(entries, "c") is None, "it has not ended it"
    assert carried_out_by(entries, None) is None, "no run of a flow"


def test_a_retrain_counts_once_whether_the_monitor_or_a_person_wanted_it():
    def line(decision_id: str, day: int, kind: str) -> LedgerEntry:
        return LedgerEntry(
            number=1, kind=kind, decision_id=decision_id, as_of=START + timedelta(days=day), version=1, champion=1,
            previous=None, reasons=(), digests={}, at=START,
        )  # fmt: skip

    ledger = [line("person", -1, "intent"), line("person", -1, "promoted"), line("d1", 7, "rejected")]
    found = retrains([entry(1, 1, DONE), entry(0)], ledger)
    assert [(one.cause, (one.as_of - START).days) for one in found] == [("person", -1), ("quality", 0), ("quality", 7)]
