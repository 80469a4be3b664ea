"""The loop on a real server and a real worker: told many times it acts once, and whatever is killed, it still acts.

Each test decides at a later moment than the one before, because nothing is decided before the champion's own moment.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from tasks.core.records import OutboxEntry
from tasks.stores.outbox import Outbox
from tests.flows.homes import SMALL, Home, wait_until

WEEK = timedelta(days=7)
FIRST = datetime(2013, 1, 22, tzinfo=UTC)
LAST = FIRST + 3 * WEEK
OPEN = {**SMALL, "govern.min_new_labels": 0, "govern.budget": 100}
# At every moment of these tests, a week apart, a refresh is due, so that a monitor decides a retrain.
DUE = {**OPEN, "govern.refresh_every": "156h"}
PATIENCE = {
    # Soon enough for a test, and long enough for a process on a busy machine. Prefect beats once in 30 s at most.
    "PERENNIAL_SILENCE_SECONDS": "60",
    "PERENNIAL_START_SECONDS": "75",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    made.environment |= PATIENCE
    try:
        made.services("up")
        made.deploy_run("pipeline/flights", as_of=FIRST.isoformat(), overrides=SMALL)
        made.deploy_run("ingest/flights", as_of=LAST.isoformat(), overrides=SMALL)
        yield made
    finally:
        made.services("down")


@pytest.fixture(scope="module")
def weeks() -> Iterator[str]:
    return (moment.isoformat() for moment in (FIRST + number * WEEK for number in range(1, 4)))


def outbox(home: Home) -> Outbox:
    return Outbox(home.folder / "outbox" / "flights")


def decided_at(home: Home, as_of: str) -> OutboxEntry | None:
    found = [entry for entry in outbox(home).entries() if entry.wanted.as_of == datetime.fromisoformat(as_of)]
    assert len(found) <= 1, "one moment, one decision"
    return found[0] if found else None


def wait_for_decision(home: Home, as_of: str) -> OutboxEntry:
    return wait_until(lambda: decided_at(home, as_of), f"no decision at {as_of}", home.log)


def wait_until_done(home: Home, as_of: str) -> OutboxEntry:
    def find() -> OutboxEntry | None:
        entry = decided_at(home, as_of)
        return entry if entry is not None and entry.done is not None else None

    return wait_until(find, f"the retrain of {as_of} is not done", home.log)


def lines_of(home: Home, entry: OutboxEntry) -> list[dict]:
    """Of the ledger, without the intents that come before them."""
    own = [line for line in home.ledger() if line["decision_id"] == entry.wanted.decision_id]
    return [line for line in own if line["kind"] != "intent"]


def retrain_runs(home: Home, entry: OutboxEntry) -> list[dict]:
    return [run for run in home.runs("retrain") if run["parameters"]["decision_id"] == entry.wanted.decision_id]


def deployment_id(home: Home, flow: str) -> str:
    (found,) = [one for one in home.ask("deployments/filter") if one["entrypoint"] == f"flows.{flow}.{flow}"]
    return found["id"]


def assert_done_once(home: Home, entry: OutboxEntry) -> None:
    (line,) = lines_of(home, entry)
    assert line["kind"] == entry.done.outcome
    assert [claim.attempt for claim in entry.claims] == [1]


def test_a_decision_outlives_the_server_and_is_carried_out_once_however_many_tell_of_it(
    home: Home, weeks: Iterator[str]
) -> None:
    moment, lease = next(weeks), take_lease(home)
    home.deploy_run("monitor/flights", wait=False, as_of=moment, overrides=DUE)
    entry = wait_for_decision(home, moment)
    home.kill("server")
    assert entry.wanted.cause == "refresh"
    assert entry.claims == ()
    home.services("up")
    # A lease that is not known any more would be refused, and crash the run that holds it.
    home.ask(f"v2/concurrency_limits/leases/{lease}/renew", lease_duration=60)
    decision = {"decision_id": entry.wanted.decision_id}
    home.post_event("perennial.drift.detected", **decision)
    home.deploy_run("retrain/flights", **decision)
    sent = wait_until(lambda: found if len(found := retrain_runs(home, entry)) == 3 else [], "three runs", home.log)
    for run in sent:
        home.wait_for(run["id"], "Completed")
    assert_done_once(home, wait_until_done(home, moment))


def take_lease(home: Home) -> str:
    home.ask("v2/concurrency_limits/", name="gpu", limit=1)
    taken = home.ask("v2/concurrency_limits/increment-with-lease", names=["gpu"], slots=1, lease_duration=3600)
    return taken["lease_id"]


def test_a_decision_made_without_a_server_waits_and_a_killed_worker_only_delays_it(
    home: Home, weeks: Iterator[str]
) -> None:
    moment, before = next(weeks), home.ledger()
    home.kill("server")
    words = [word for key, value in DUE.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    done = home.call("flows.monitor", "--as-of", moment, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "there is no server to start it" in done.stdout
    entry = decided_at(home, moment)
    assert entry.claims == ()

    home.services("up")
    wait_until(lambda: is_fitting(home), "no fit", home.log)
    (in_the_middle,) = retrain_runs(home, entry)
    not_begun = home.ask(f"deployments/{deployment_id(home, 'materialize')}/create_flow_run")["id"]
    wait_until(lambda: state_type(home, not_begun) == "PENDING", "no run is pending", home.log)
    home.kill("worker")
    home.wait_for(in_the_middle["id"], "Crashed")
    home.wait_for(not_begun, "Crashed")
    assert home.ledger() == before, "the champion is untouched"

    home.services("up")
    entry = wait_until_done(home, moment)
    assert [claim.attempt for claim in entry.claims] == [1, 2]
    assert entry.done.attempt == 2
    assert len(lines_of(home, entry)) == 1
    for run in home.runs("train"):
        assert run["state"]["type"] in ("COMPLETED", "CRASHED")


def state_type(home: Home, run: str) -> str:
    return home.ask(f"flow_runs/{run}", method="GET")["state"]["type"]


def is_fitting(home: Home) -> bool:
    """Whether what forks fits and trees has a fork."""
    servers = [process for process in home.processes() if "tasks.stores.fork_server" in command_of(process)]
    with suppress(psutil.NoSuchProcess):
        return any(process.children() for process in servers)
    return False


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_ten_events_from_outside_within_ten_seconds_start_one_retrain(home: Home, weeks: Iterator[str]) -> None:
    moment, before = next(weeks), {run["id"] for run in home.runs("retrain")}
    # What a person fills in at the deployment's page: the data of these events ends long before today.
    parameters = {"recipe": "flights", "as_of": moment, "overrides": OPEN, "decision_id": ""}
    home.ask(f"deployments/{deployment_id(home, 'retrain')}", method="PATCH", parameters=parameters)
    for _ in range(10):
        home.post_event("perennial.quality.degraded", told_by="a program outside")
        time.sleep(1)
    entry = wait_until_done(home, moment)
    assert entry.wanted.cause == "event"
    assert_done_once(home, entry)
    (run,) = [run for run in home.runs("retrain") if run["id"] not in before]
    home.wait_for(run["id"], "Completed")
