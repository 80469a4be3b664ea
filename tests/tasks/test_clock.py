"""The clock of a replay: a step for each monitor run, the same step for the same run, and an end."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from configs.recipe import load_recipe
from configs.sections.loop import ReplaySection
from tasks.clock import Turn, advance, present, simulated_time, turn_clock
from tasks.core.records import LedgerEntry
from tasks.home import open_ledger
from tasks.run import open_run

PROJECT = "flights"
WEEK = timedelta(days=7)
START = datetime(2013, 4, 1, tzinfo=UTC)
REPLAY = ReplaySection(start=START.date(), step=WEEK, end=date(2013, 4, 20))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    return tmp_path


def promote(as_of: datetime) -> None:
    open_ledger(PROJECT).append(
        LedgerEntry(
            number=1, kind="promoted", decision_id="d", as_of=as_of, version=1, champion=1, previous=None,
            reasons=(), digests={}, at=as_of,
        )
    )  # fmt: skip


def test_each_run_is_a_step_on_until_the_end() -> None:
    assert simulated_time(PROJECT, REPLAY) == START
    assert advance(PROJECT, REPLAY, "a") == START + WEEK
    assert advance(PROJECT, REPLAY, "b") == START + 2 * WEEK == simulated_time(PROJECT, REPLAY)
    assert advance(PROJECT, REPLAY, "c") is None, "a third week would be beyond the end"
    assert simulated_time(PROJECT, REPLAY) == START + 2 * WEEK


def test_a_run_that_comes_again_finds_its_own_step() -> None:
    """A retry or a resume has the id of the run that it repeats, also when others have gone on meanwhile."""
    first, second = (advance(PROJECT, REPLAY, run) for run in "ab")
    assert [advance(PROJECT, REPLAY, run) for run in "abba"] == [first, second, second, first]


def test_of_many_at_once_each_has_a_step_of_its_own() -> None:
    long = REPLAY.model_copy(update={"end": date(2014, 1, 1)})
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda run: advance(PROJECT, long, f"run {run}"), range(8)))
    assert sorted(made) == [START + number * WEEK for number in range(1, 9)]


def test_time_does_not_lie_before_the_champion() -> None:
    """A person has trained at a later moment: what the champion has seen already is not monitored."""
    promote(as_of=datetime(2013, 4, 10, tzinfo=UTC))
    assert simulated_time(PROJECT, REPLAY) == datetime(2013, 4, 10, tzinfo=UTC)
    assert advance(PROJECT, REPLAY, "a") == datetime(2013, 4, 17, tzinfo=UTC)


def test_runs_that_are_given_no_moment_act_at_the_simulated_time() -> None:
    recipe = load_recipe("flights")
    assert present(recipe) == open_run("flights", None, None).as_of == START
    advance(PROJECT, recipe.clock.replay, "a")
    assert present(recipe) == open_run("flights", None, None).as_of == START + WEEK
    assert open_run("flights", START + WEEK / 2, None).as_of == START + WEEK / 2


def test_a_monitor_run_before_there_is_a_champion_moves_nothing(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert turn_clock("flights", None, None) is None
    assert "run pipeline first" in caplog.text
    assert not (home / "clock").exists()


def test_a_moment_that_is_given_and_a_real_clock_move_nothing(home: Path) -> None:
    promote(as_of=START)
    assert turn_clock("flights", START + WEEK, None) == Turn(START + WEEK)
    assert turn_clock("flights", None, {"clock": "real"}) == Turn(None)
    assert not (home / "clock").exists()


def test_after_the_end_a_monitor_run_says_so_and_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    promote(as_of=START)
    until_tomorrow = {"clock": {"replay": {"start": "2013-04-01", "step": "7d", "end": "2013-04-02"}}}
    assert turn_clock("flights", None, until_tomorrow) is None
    assert "the replay is over: it ends on 2013-04-02" in caplog.text
