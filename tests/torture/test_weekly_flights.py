"""The loop over nine months of real flights: it retrains when that helps, and is neither deaf nor a nuisance."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def play(module: str, home: Path, result: str) -> Any:
    """A script of this folder in a process of its own, and what it wrote; its lines go to the terminal."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PERENNIAL_"))}
    command = [sys.executable, "-W", "ignore", "-m", f"tests.torture.{module}", str(home)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return json.loads((home / result).read_text())


@pytest.fixture(scope="module")
def weeks(tmp_path_factory):
    return play("weekly", tmp_path_factory.mktemp("weekly") / "home", "weeks.json")


def retrains(weeks):
    return [week for week in weeks if week["action"] == "retrain"]


def test_every_week_until_the_end_of_the_year_is_seen(weeks):
    assert len(weeks) == 39
    assert (weeks[0]["as_of"], weeks[-1]["as_of"]) == ("2013-04-08", "2013-12-30")


def test_the_seasons_move_the_inputs_and_start_no_retrain(weeks):
    temperature = "weather_at_origin__temperature_fahrenheit"
    moved = [week for week in weeks if temperature in week["drifted"]]
    assert len(moved) > 10
    assert all(week["is_worth_it"] or week["cause"] == "refresh" for week in moved if week["action"] == "retrain")


def test_a_retrain_is_made_where_a_probe_shows_that_it_helps_or_the_last_is_long_ago_and_nowhere_else(weeks):
    causes = [week["cause"] for week in retrains(weeks)]
    assert 3 <= len(causes) <= 6
    assert "quality" in causes
    assert all(week["is_worth_it"] for week in retrains(weeks) if week["cause"] == "quality")


def test_what_was_promoted_did_no_harm(weeks):
    effects = [week["effect"] for week in weeks if week["effect"]]
    assert effects
    assert not [told for told in effects if "did harm" in told]


def test_real_flights_are_taken_for_whole(weeks):
    assert [(week["as_of"], week["faults"]) for week in weeks if week["faults"]] == []
