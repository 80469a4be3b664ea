"""Planted faults: each halts the loop, with a reason that names it, and none starts a retrain."""

import pytest

from tests.torture.planted import FAULTS
from tests.torture.test_weekly_flights import play

SAID = {
    "celsius": ("temperature_fahrenheit", "degrees Celsius instead of Fahrenheit"),
    "seconds": ("departures is refused at ingest", "departure_delay_minutes mean"),
    "repeats itself for a day": ("weather.", "the feed is frozen"),
    "stops for a day": ("departures: no new row for", "the feed stands still"),
    "half of the rows": ("departures:", "arrivals:", " of 7 days"),
    "a new schema": ("weather is refused at ingest", "temp"),
    "shuffled labels": ("label fault", "no signal"),
}


@pytest.fixture(scope="module")
def decisions(tmp_path_factory):
    return play("planted", tmp_path_factory.mktemp("planted") / "homes", "decisions.json")


def test_every_fault_is_judged(decisions):
    assert set(decisions) == set(FAULTS) == {"none", *SAID}


def test_without_a_fault_nothing_halts(decisions):
    assert [made["action"] for made in decisions["none"]] in (["wait"], ["alert"])


@pytest.mark.parametrize(("fault", "table"), [("seconds", "departures"), ("a new schema", "weather")])
def test_a_table_that_is_refused_keeps_no_other_from_being_ingested(decisions, fault, table):
    reasons = decisions[fault][0]["reasons"]
    assert not [reason for reason in reasons if not reason.startswith(table)]


@pytest.mark.parametrize("fault", SAID)
def test_a_fault_halts_and_is_named(decisions, fault):
    last, told = decisions[fault][-1], " ".join(decisions[fault][-1]["reasons"])
    assert last["action"] == "halt"
    assert [part for part in SAID[fault] if part not in told] == []
    assert "retrain" not in [made["action"] for made in decisions[fault]]
