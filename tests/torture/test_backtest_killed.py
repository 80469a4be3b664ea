"""A backtest of two weeks of real flights from the shell: killed, run again, and true to what production had then."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.flows.homes import SMALL

ROOT = Path(__file__).parents[2]
START, MIDDLE, END = "2013-01-22", "2013-01-29", "2013-02-05"
OPTIONS = SMALL | {"model.options": {"members": 1, "width": 16}, "gate.min_rows": 100, "monitor.probe.iterations": 5}


def command(flow: str, *options: str) -> list[str]:
    words = [word for key, value in OPTIONS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return [sys.executable, "-m", f"flows.{flow}", "--recipe", "flights", *options, *words]


BACKTEST = ("backtest", "--start", START, "--end", END, "--every-days", "7")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("backtest")


@pytest.fixture(scope="module")
def environment(home):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PERENNIAL_"))}
    return kept | {"PERENNIAL_HOME": str(home)}


@pytest.fixture(scope="module")
def outside_of_a_run(home):
    """This home, and tasks as plain functions."""
    from tasks.features import build_features
    from tasks.training_set import build_training_set

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(home))
        patch.setattr("tasks.tables.build_features", build_features.fn)
        patch.setattr("tasks.backtesting.build_training_set", build_training_set.fn)
        yield


@pytest.fixture(scope="module")
def then(environment, outside_of_a_run):
    """The training set that production had in the middle of the span, when nothing later was known."""
    from tasks.run import open_run
    from tasks.tables import current_tables
    from tasks.training_set import build_training_set

    subprocess.run(command("ingest", "--as-of", MIDDLE), cwd=ROOT, env=environment, check=True, capture_output=True)
    run = open_run("flights", datetime.fromisoformat(MIDDLE), OPTIONS)
    sections = run.recipe
    return build_training_set.fn(
        run.project, run.entity_table, sections.features, sections.label, sections.split, sections.audit,
        run.start, run.as_of, current_tables(run),
    )  # fmt: skip


@pytest.fixture(scope="module")
def killed(home, environment, then):
    """What a backtest left that was killed after its first fit: path -> when it was written."""
    child = subprocess.Popen(
        command(*BACKTEST), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 500
        while not (fits := list(home.glob("backtest/flights/fits/*/fit.json"))):
            assert child.poll() is None, "it ended before it had fitted anything"
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert not list(home.glob("backtest/flights/*/results.json"))
    return {path: path.stat().st_mtime_ns for path in fits}


@pytest.fixture(scope="module")
def said(killed, environment):
    done = subprocess.run(command(*BACKTEST), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(home, said):
    (path,) = home.glob("backtest/flights/*/results.json")
    return json.loads(path.read_text())


def test_a_killed_backtest_goes_on_and_a_fit_is_made_once_for_all_policies(home, killed, found):
    fits = list(home.glob("backtest/flights/fits/*/fit.json"))
    assert len(fits) == 2, "one at each moment, whoever asks for it"
    assert {path: path.stat().st_mtime_ns for path in killed} == killed


def test_every_policy_is_played_and_one_is_recommended_in_words(said, found):
    results = {result["name"]: result for result in found["results"]}
    assert len(results) == 9
    assert results["never"]["retrains"] == 0
    regular = results["every 7 days, no gate"]
    assert (regular["retrains"], regular["promoted"]) == (1, 1)
    gated = results["every 7 days, gate"]
    assert gated["retrains"] == 1
    assert gated["undecided"] == 1, "five days are fewer than ten clusters"
    assert gated["quality"] == results["never"]["quality"] != regular["quality"]
    assert all(0 <= result["regret"]["value"] < 0.2 for result in results.values())
    assert found["recommendation"] in said
    page = Path(found["page"]).read_text()
    assert "Recommended: " in page
    assert page.count("<svg") == 10, "regret, and a timeline of each policy"


def test_a_moment_of_the_past_has_the_rows_that_production_had_then(home, then, found, outside_of_a_run):
    """To the last bit: features built and rows joined with all that came later give what was known then."""
    from tasks.backtest_world import ReplayedWorld
    from tasks.backtesting import join_span, open_backtest
    from tasks.tables import current_tables
    from tasks.training_set import RECORD

    span = (datetime.fromisoformat(START), datetime.fromisoformat(END))
    replayed = open_backtest("flights", None, OPTIONS, *span, 7.0, 7.0)
    tables = current_tables(replayed.run)
    whole = join_span(replayed, tables)
    assert len(list(home.glob(f"training/flights/*/{RECORD}"))) == 2, "production's, and the one of the backtest"
    now = ReplayedWorld(replayed.run, whole, tables).training_set(then.as_of)
    assert now.digest == then.digest
    assert now.splits == then.splits
