"""The main job as a person runs it, on three weeks of real flights: from an empty home to a champion, and again."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Three weeks instead of three months, and a fit of moments. All else is the flagship.
SMALL = {
    "split.holdout": "5d", "split.validation": "3d", "split.embargo": "36h", "model.max_epochs": 2,
    "baseline.iterations": 10, "gate.floors": "{}", "gate.max_latency_ms": 10000, "gate.max_prediction_change": 1,
}  # fmt: skip
FIRST, SECOND = "2013-01-22", "2013-02-08"


def run_pipeline(
    home: Path, *moments: str, recipe: str = "flights", **overrides: object
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error::UserWarning:tasks", "-m", "flows.pipeline", "--recipe", recipe]
    command += [word for moment in moments for word in ("--as-of", moment)]
    command += [word for key, value in (SMALL | overrides).items() for word in ("--set", f"{key}={value}")]
    environment = {**os.environ, "PERENNIAL_HOME": str(home)}
    environment.pop("PREFECT_HOME", None)
    environment.pop("PREFECT_API_URL", None)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


def ledger(home: Path, project: str = "flights") -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((home / "ledger" / project).glob("*.json"))]


def files(home: Path) -> dict[str, int]:
    """What a run may not change when there is nothing to do: everything but the orchestrator's own records."""
    return {
        str(path.relative_to(home)): path.stat().st_mtime_ns
        for path in home.rglob("*")
        if path.is_file() and "prefect" not in path.relative_to(home).parts and "mlflow.db" not in path.name
        and ".lock" not in path.name
    }  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first_runs(home):
    done = run_pipeline(home, FIRST, SECOND)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_an_empty_home_gets_a_champion_and_the_next_challenger_is_judged_against_it(home, first_runs):
    entries = ledger(home)
    assert [entry["kind"] for entry in entries[:2]] == ["intent", "promoted"]
    assert entries[1]["mode"] == "first"
    assert entries[-1]["mode"] == "refresh", "the same recipe on newer data"
    assert entries[-1]["version"] == 2
    assert "champion v1" in first_runs.stdout
    assert first_runs.stderr == "", "nothing but the account is printed"


def test_every_stage_says_what_it_did(first_runs):
    for stage in ("ingest", "validate", "publish", "features", "materialize", "score", "fit", "register", "promote"):
        assert re.search(rf"^{stage} .* \d+\.\d s$", first_runs.stdout, re.MULTILINE), stage
    assert "auc" in first_runs.stdout


def test_a_run_leaves_the_pages_that_a_person_reads(home, first_runs):
    from tasks.stores.registry import Registry

    registry = Registry(f"sqlite:///{home / 'mlflow.db'}", str(home / "mlartifacts"), "flights")
    version = registry.version(1)
    for page in ("recipe.json", "lineage.json", "verdict.json", "model_card.md"):
        assert registry.read_text(version.run_id, page), page
    tags = registry.tags(version)
    for name in (
        "training_set_digest",
        "lake_versions",
        "feature_service",
        "git_commit",
        "weights_sha256",
        "decision_id",
    ):
        assert tags[f"perennial.{name}"], name
    assert tags["prefect.flow_run_id"] != "none"
    plots = list((home / "mlartifacts").rglob("plots/*.png"))
    assert {"roc.png", "reliability.png", "learning_curve.png"} <= {plot.name for plot in plots}


def test_running_it_again_shows_the_same_verdicts_and_changes_nothing(home, first_runs):
    before = files(home)
    again = run_pipeline(home, FIRST, SECOND)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("decided before") == 2
    assert files(home) == before
    scores = re.findall(r"^(?:challenger|champion v1|baseline) +[.\d]+ \(.*$", first_runs.stdout, re.MULTILINE)
    assert len(scores) == 5
    assert [line for line in scores if line not in again.stdout] == []


def test_a_moment_before_the_champions_own_is_refused(home, first_runs):
    done = run_pipeline(home, "2013-01-20")
    assert done.returncode == 1
    assert "as_of is before the champion" in done.stderr
    assert "Traceback" not in done.stderr


def replay(home: Path, version: int, **environment: str) -> str:
    command = [sys.executable, "-m", "flows.replay", "--recipe", "flights", "--version", str(version)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        command, cwd=ROOT, env=kept | {"PERENNIAL_HOME": str(home)} | environment, capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_version_is_built_again_digest_by_digest_and_its_home_stays_as_it_was(home, first_runs):
    before, database = files(home), (home / "mlflow.db").read_bytes()
    told = replay(home, 2).splitlines()
    assert told[-1].split("  ")[-1].strip().startswith("equal: all "), told
    for part in ("training set", "judged weights", "metrics", "served weights", "verdict"):
        assert [line.split()[-1] for line in told if line.startswith(f"  {part}")] == ["equal"], part
    after = files(home)
    assert set(after) - set(before) == {"replays/flights/v2.json"}
    assert {name: after[name] for name in before} == before
    assert (home / "mlflow.db").read_bytes() == database


def test_after_a_change_in_a_features_sql_a_replay_names_it_first(home, first_runs, tmp_path):
    repository = shutil.copytree(ROOT / "feature_repo", tmp_path / "feature_repo")
    sql = repository / "flights" / "last_arrival.sql"
    sql.write_text(
        sql.read_text().replace("max(arrival).arrival_delay_minutes", "abs(max(arrival).arrival_delay_minutes)")
    )
    told = replay(home, 1, PERENNIAL_FEATURE_REPO=str(repository)).splitlines()[-1]
    assert "differs first in definition flights/last_arrival.sql: " in told
    assert "after it feature table, training set, judged weights, metrics" in told
    report = json.loads((home / "replays" / "flights" / "v1.json").read_text())
    differing = [f"{line['part']} {line['name']}" for line in report["lines"] if line["then"] != line["now"]]
    assert differing[:3] == ["definition flights/last_arrival.sql", "feature table last_arrival", "training set "]


def test_an_unknown_recipe_and_an_unknown_key_are_told_and_nothing_is_written(tmp_path):
    for arguments, message in (
        ({"recipe": "flihgts"}, "no recipe 'flihgts'"),
        ({"model.netwrk": "mlp"}, "model.netwrk"),
    ):
        done = run_pipeline(tmp_path / "home", FIRST, **arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "home" / "lake").exists()
        assert not (tmp_path / "home" / "prefect" / "prefect.db").exists(), "it is told before a server is started"


def test_a_second_project_is_a_recipe_a_feature_file_and_suites_alone(tmp_path):
    """A regression on other tables: no line of flows/ or tasks/ names it."""
    done = run_pipeline(tmp_path, FIRST, recipe="weather", **{"gate.min_rows": 100})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert [entry["kind"] for entry in ledger(tmp_path, "weather")] == ["intent", "promoted"]
    assert re.search(r"^persistence +[.\d]+ \(", done.stdout, re.MULTILINE), "the last known value is a rival"
    code = [*(ROOT / "flows").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]
    assert [path for path in code if re.search(r"wind_ahead|recent_weather|configs/weather", path.read_text())] == []
