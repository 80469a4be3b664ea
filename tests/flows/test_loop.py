"""The loop from the shell on real flights: monitored after a week, retrained on an event, once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "split.holdout": "5d", "split.validation": "3d", "split.embargo": "36h", "model.max_epochs": 1,
    "model.refit": "none", "baseline.iterations": 5, "gate.floors": "{}", "gate.max_latency_ms": 10000,
}  # fmt: skip
MADE, WEEK_LATER = "2013-02-01", "2013-02-08"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = tmp_path_factory.mktemp("loop")
    for flow, moment in (("pipeline", MADE), ("ingest", WEEK_LATER)):
        run_flow(made, flow, "--as-of", moment)
    return made


def run_flow(home: Path, flow: str, *options: str) -> str:
    words = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", f"flows.{flow}", "--recipe", "flights", *options, *words], cwd=ROOT, text=True,
        env={**environment, "PERENNIAL_HOME": str(home)}, capture_output=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_monitored_week_leaves_a_report_a_page_and_a_decision(home):
    said = run_flow(home, "monitor", "--as-of", WEEK_LATER)
    assert "govern " in said
    (report,) = (home / "monitor" / "flights").glob("*.json")
    found = read(report)
    assert found["rows"] == found["predicted_rows"] > 5000
    assert found["observation"]["faults"] == [], "a week of real flights is whole"
    assert found["quality"]["rows"] == found["observation"]["matured_labels"] > 4000
    assert len(found["columns"]) == 90, "every input, and the scores"
    (decision,) = (home / "decisions" / "flights").glob("*-monitor.json")
    assert read(decision)["action"] in ("wait", "alert")
    logged = list((home / "mlartifacts").rglob("monitor/*.html"))
    assert len(logged) == 1
    before = report.stat().st_mtime_ns
    run_flow(home, "monitor", "--as-of", WEEK_LATER)
    assert report.stat().st_mtime_ns == before


def test_an_event_from_outside_is_decided_claimed_and_done_once(home):
    run_flow(home, "retrain", "--as-of", WEEK_LATER)
    (folder,) = (path for path in (home / "outbox" / "flights").iterdir() if path.is_dir())
    wanted, done = read(folder / "wanted.json"), read(folder / "done.json")
    assert wanted["cause"] == "event"
    assert done["attempt"] == 1
    ledger = [read(path) for path in sorted((home / "ledger" / "flights").glob("*.json"))]
    assert ledger[-1]["decision_id"] == wanted["decision_id"] == folder.name
    assert ledger[-1]["kind"] == done["outcome"]
    again = run_flow(home, "retrain", "--as-of", WEEK_LATER, "--decision-id", folder.name)
    assert "has done it" in again
    assert [path.name for path in sorted(folder.glob("claim-*"))] == ["claim-001.json"]
    other = run_flow(home, "retrain", "--as-of", "2013-02-08T12:00:00")
    assert "cool-down" in other
    assert len(list((home / "outbox" / "flights").glob("*/wanted.json"))) == 1


def test_a_monitor_run_that_is_given_no_moment_plays_the_next_week(home):
    run_flow(home, "monitor", "--set", "clock={replay: {start: 2013-02-08, step: 7d, end: 2013-02-16}}")
    (tick,) = (home / "clock" / "flights").glob("*.json")
    assert read(tick)["as_of"] == "2013-02-15T00:00:00+00:00"
    report = read(home / "monitor" / "flights" / "20130215T000000Z.json")
    assert report["predicted_rows"] == report["rows"] > 5000
    rows = {table["table"]: table["rows"] for table in report["tables"]}
    assert rows["departures"] > rows["arrivals"] > 5000, "the week was ingested first"
    decision = read(home / "decisions" / "flights" / "20130215T000000Z-monitor.json")
    # The blizzard of 9 February: whether rows are missing, or flights, is for a person to say, or for the next week.
    assert decision["action"] == "halt"
    assert [reason.split(",")[0] for reason in decision["reasons"]] == [
        "departures: 222 rows on 1 of 7 days", "arrivals: 141 rows on 1 of 7 days",
    ]  # fmt: skip
