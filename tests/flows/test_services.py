"""The servers of a home, for real: a Prefect server, a process worker and the MLflow UI, started and ended here."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from datetime import datetime

import psutil
import pytest
import yaml

from flows import processes
from tasks.core.records import Wanted
from tests.flows.homes import ROOT, SMALL, Home

AS_OF = "2013-01-22T00:00:00+00:00"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    try:
        home.services("up")
        yield home
    finally:
        home.services("down")


@pytest.fixture(scope="module")
def pipeline_run(home):
    return home.deploy_run("pipeline/flights", as_of=AS_OF, overrides=SMALL)


def test_what_the_server_has_deployed_is_what_the_file_says(home):
    file = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    flows = {flow["id"]: flow["name"] for flow in home.ask("flows/filter")}
    deployed = home.ask("deployments/filter")
    assert sorted((flows[one["flow_id"]], one["name"], one["entrypoint"]) for one in deployed) == sorted(
        (one["entrypoint"].split(".")[1], one["name"], one["entrypoint"]) for one in file
    )
    assert {one["work_pool_name"] for one in deployed} == {"perennial"}
    assert all(one["pull_steps"] in (None, []) for one in deployed)  # no folder of whoever deployed


def test_up_twice_is_harmless(home):
    before = home.processes()
    dead_runs = home.dead_runs()
    assert home.services("up").count("already running") == 3
    assert home.processes() >= before
    assert home.dead_runs() == dead_runs  # a new one would have forgotten which runs it watches
    assert len(dead_runs) == 2


def test_up_marks_a_run_whose_process_is_gone(home):
    """Of a machine that lost its power before anybody had heard of the run: no silence would ever be noticed."""
    deployment = next(one for one in home.ask("deployments/filter") if one["entrypoint"] == "flows.backtest.backtest")
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00+00:00"}}
    states = {}
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, env=home.environment, stdin=subprocess.PIPE, text=True) as process:
        for pid in (process.pid, os.getpid(), 2**22 + 1):  # of this home, another one's, and nobody's
            run = home.ask(f"deployments/{deployment['id']}/create_flow_run", state=later)["id"]
            home.ask(f"flow_runs/{run}/set_state", state={"type": "RUNNING"}, force=True)
            home.ask(f"flow_runs/{run}", method="PATCH", infrastructure_pid=str(pid))
            states[pid] = run
        home.services("up")
        states = {pid: home.ask(f"flow_runs/{run}", method="GET")["state"]["type"] for pid, run in states.items()}
        process.communicate("")
    assert list(states.values()) == ["RUNNING", "CRASHED", "CRASHED"]


def test_mlflow_starts_no_processes_for_jobs_that_nobody_has(home):
    commands = [" ".join(process.cmdline()) for process in home.processes()]
    assert any("mlflow" in command for command in commands)
    assert not [command for command in commands if "huey" in command or "mlflow.server.jobs" in command]


def test_they_listen_on_loopback_alone(home):
    listening = [
        connection.laddr.ip
        for process in home.processes()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2
    assert set(listening) == {"127.0.0.1"}


def test_a_port_that_is_taken_is_told(home, tmp_path):
    other = Home(tmp_path)
    other.environment |= {"PERENNIAL_MLFLOW_PORT": str(home.mlflow)}
    done = other.call("flows.services", "up")
    assert done.returncode == 1
    assert f"something else answers at http://127.0.0.1:{home.mlflow}" in done.stderr
    assert "PERENNIAL_MLFLOW_PORT" in done.stderr
    assert not list(tmp_path.glob("services/*.json"))


def test_what_a_killed_worker_left_goes_save_where_a_run_is_still_at_work(tmp_path):
    folder = tmp_path / "services" / "worker"
    for name in ("tmp1prefect", "tmp2prefect/workspace"):
        (folder / name).mkdir(parents=True)
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, cwd=folder / "tmp2prefect" / "workspace", stdin=subprocess.PIPE, text=True) as run:
        processes.clear_unused(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["tmp2prefect"]
        run.communicate("")
    processes.clear_unused(folder)
    assert list(folder.iterdir()) == []


def test_a_deployed_pipeline_runs_in_the_worker_and_promotes(home, pipeline_run):
    (run,) = home.ask("flow_runs/filter", flow_runs={"id": {"any_": [pipeline_run]}})
    assert (run["state"]["type"], run["name"]) == ("COMPLETED", "flights 2013-01-22")
    (entry,) = [entry for entry in home.ledger() if entry["kind"] == "promoted"]
    assert (entry["version"], entry["champion"]) == (1, 1)
    flows = {flow["id"]: flow["name"] for flow in home.ask("flows/filter")}
    ran = {flows[one["flow_id"]] for one in home.ask("flow_runs/filter")}
    assert ran >= {"pipeline", "ingest", "materialize", "score", "train"}


def test_the_live_account_stands_in_the_runs_log(home, pipeline_run):
    told = [line["message"] for line in home.ask("logs/filter", limit=200) if line["name"] == "perennial"]
    assert any(line.startswith("promote") and "version 1 is champion" in line for line in told)
    assert any(line.startswith("publish    schedule") for line in told)


def test_a_promotion_is_told_as_an_event(home, pipeline_run):
    (event,) = home.events("perennial.model.promoted")
    assert event["resource"]["prefect.resource.id"] == "perennial.model.flights"
    assert event["payload"]["version"] == 1
    assert event["payload"]["decision_id"] == home.ledger()[-1]["decision_id"]
    assert f"prefect.flow-run.{pipeline_run}" in [one["prefect.resource.id"] for one in event["related"]]


def test_mlflow_shows_the_run(home, pipeline_run):
    url = f"http://127.0.0.1:{home.mlflow}/api/2.0/mlflow/registered-models/get?name=flights"
    with urllib.request.urlopen(url, timeout=20) as answer:
        model = json.load(answer)["registered_model"]
    assert [(alias["alias"], alias["version"]) for alias in model["aliases"]] == [("champion", "1")]


def test_a_deployed_rollback_puts_the_previous_champion_back(home, pipeline_run):
    assert add_version(home, kind="intent", overrides={"seed": 8}) == home.ledger()[-1]["champion"] == 2
    run = home.deploy_run("rollback/flights", reason="alarms at EWR", who="Ada")
    entry = home.ledger()[-1]
    assert (entry["kind"], entry["champion"], entry["who"]) == ("rolled_back", 1, "Ada")
    assert len(home.ask("task_runs/filter", flow_runs={"id": {"any_": [run]}})) == 1, "one guarded step"
    assert home.events("perennial.model.rolled_back")


def test_a_run_that_waits_for_a_person_is_suspended_and_goes_on_with_their_answer(home, pipeline_run):
    champion = home.ledger()[-1]["champion"]
    overrides = SMALL | {"gate.approval": "person"}
    version = add_version(home, kind="waiting", overrides=overrides)
    run = home.deploy_run("pipeline/flights", wait=False, as_of=AS_OF, overrides=overrides)
    suspended = home.wait_for(run, "Suspended")
    assert (home.ledger()[-1]["kind"], home.ledger()[-1]["champion"]) == ("waiting", champion)
    keys = suspended["state"]["state_details"]["run_input_keyset"]
    assert f"Is version {version} to serve, in place of version {champion}?" in home.input(run, keys["description"])
    answer = {"approve": True, "who": "Ada", "why": "looked at the slices"}
    assert home.ask(f"flow_runs/{run}/resume", run_input=answer)["status"] == "ACCEPT"
    home.wait_for(run, "Completed")
    entry = home.ledger()[-1]
    assert (entry["kind"], entry["champion"], entry["who"]) == ("promoted", version, "Ada")
    assert entry["reasons"][-1] == "approved by Ada: looked at the slices"


def test_a_retrain_that_waits_for_a_person_finds_its_own_claim_when_it_is_resumed(home, pipeline_run):
    """Prefect runs it from the top: the decision is done by then, and by this very run."""
    overrides = SMALL | {"gate.approval": "person", "seed": 9}
    version = add_version(home, kind="waiting", overrides=overrides)
    decision = home.ledger()[-1]["decision_id"]
    wanted = Wanted(
        decision_id=decision, project="flights", recipe="flights", as_of=datetime.fromisoformat(AS_OF), cause="event",
        reasons=("an event",), overrides=overrides,
    )  # fmt: skip
    entry = home.folder / "outbox" / "flights" / decision
    entry.mkdir(parents=True)
    wanted.write(entry / "wanted.json")
    run = home.deploy_run("retrain/flights", wait=False, decision_id=decision)
    home.wait_for(run, "Suspended")
    assert json.loads((entry / "done.json").read_text())["outcome"] == "waiting"
    home.deploy_run("retrain/flights", decision_id=decision)  # told again, nobody asks twice
    answer = {"approve": False, "who": "Ada", "why": "worse in the evening"}
    assert home.ask(f"flow_runs/{run}/resume", run_input=answer)["status"] == "ACCEPT"
    home.wait_for(run, "Completed")
    last = home.ledger()[-1]
    assert (last["kind"], last["version"], last["who"]) == ("rejected", version, "Ada")
    assert [path.name for path in entry.glob("claim-*")] == ["claim-001.json"]


def add_version(home, kind, overrides):
    """The champion's model once more as another version, whose decision has come to `kind`."""
    script = f"""
from dataclasses import replace
from tasks import promotion
from tasks.run import open_run
from datetime import datetime
run = open_run("flights", datetime.fromisoformat("{AS_OF}"), {overrides!r})
registry, ledger = promotion.open_registry("flights"), promotion.open_ledger("flights")
last = ledger.entries()[-1]
first = registry.client.get_model_version("flights", "1")
made = registry.client.create_model_version("flights", source=first.source, run_id=first.run_id)
draft = replace(
    last, kind="{kind}", version=int(made.version), decision_id=run.decision_id, digests={{}}, who=None,
    intends="promoted",
)
promotion.record_outcome("flights", draft, last.champion)
print(made.version)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=home.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_down_leaves_no_process_and_nothing_of_a_run_that_ended_with_the_worker(home, pipeline_run):
    """Last: it ends what the others use."""
    deployment = home.ask("deployments/filter")[0]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00+00:00"}}
    run = home.ask(f"deployments/{deployment['id']}/create_flow_run", state=later)["id"]
    home.ask(f"flow_runs/{run}/set_state", state={"type": "RUNNING"}, force=True)
    left = home.folder / "scratch" / f".run~{socket.gethostname()}~{2**22 + 1}"  # nobody's number
    (left / "flow-runs").mkdir(parents=True)
    (left / "flow-runs" / run).touch()
    before = home.processes()
    assert len(before) >= 3
    assert home.services("down").count("ended") == 3
    assert not [process for process in before if process.is_running()]
    assert not left.exists()
    with closing(sqlite3.connect(home.folder / "prefect" / "prefect.db")) as database:
        told = database.execute("select state_type from flow_run where id = ?", [run]).fetchall()
    assert told == [("CRASHED",)]
    assert home.services("status").count("not running") == 3
    assert home.services("down") == ""
