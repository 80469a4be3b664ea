"""Events: their names, resources and payloads; nothing is sent where there is no run."""

from dataclasses import replace
from datetime import UTC, datetime

import prefect.events
import pytest

from tasks import events
from tasks.core.records import BatchRef, LedgerEntry, Window

JULY = datetime(2013, 7, 1, tzinfo=UTC)
ENTRY = LedgerEntry(
    number=4, kind="promoted", decision_id="d", as_of=JULY, version=2, champion=2, previous=1, reasons=("better",),
    digests={}, at=JULY,
)  # fmt: skip
BATCH = BatchRef(
    project="flights", table="weather", batch_id="b", uri="rows.parquet", rows=7, as_of=JULY,
    window=Window(start=JULY, end=JULY),
)  # fmt: skip


@pytest.fixture
def sent(monkeypatch):
    found = []
    monkeypatch.setattr(prefect.events, "emit_event", lambda **event: found.append(event))
    monkeypatch.setattr(events, "in_run", lambda: True)
    return found


@pytest.mark.parametrize(
    ("kind", "name"),
    [("promoted", "promoted"), ("rejected", "rejected"), ("undecided", "rejected"), ("rolled_back", "rolled_back")],
)
def test_a_line_of_the_ledger_is_told_with_what_it_says(sent, kind, name):
    events.announce("flights", replace(ENTRY, kind=kind))
    (event,) = sent
    assert event["event"] == f"perennial.model.{name}"
    assert event["resource"] == {"prefect.resource.id": "perennial.model.flights"}
    told = {key: event["payload"][key] for key in ("outcome", "version", "champion", "previous", "decision_id")}
    assert told == {"outcome": kind, "version": 2, "champion": 2, "previous": 1, "decision_id": "d"}


@pytest.mark.parametrize("kind", ["intent", "waiting", "abandoned"])
def test_what_has_changed_nothing_is_not_told(sent, kind):
    events.announce("flights", replace(ENTRY, kind=kind))
    assert sent == []


def test_the_same_line_told_twice_is_one_event(sent):
    for entry in (ENTRY, ENTRY, replace(ENTRY, number=5)):
        events.announce("flights", entry)
    assert sent[0]["id"] == sent[1]["id"] != sent[2]["id"]


def test_a_refused_batch_is_told_in_brief(sent):
    events.announce_refusal(BATCH, ["x" * 1000] * 50)
    (event,) = sent
    assert event["event"] == "perennial.validation.failed"
    assert event["resource"] == {"prefect.resource.id": "perennial.dataset.flights.weather"}
    assert event["payload"]["reasons"] == ["x" * 300] * 10


def test_outside_a_run_nothing_is_sent(sent, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(prefect.events, "emit_event", lambda **event: sent.append(event))
    events.announce("flights", ENTRY)
    assert sent == []
