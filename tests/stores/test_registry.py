"""The registry on a real MLflow database in a temporary folder."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import ModelError
from tasks.stores import registry as module
from tasks.stores import tracking_database
from tasks.stores.registry import PROCESS, Registry
from tasks.stores.serving import load_model_folder
from tasks.stores.tracking_database import create_database


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return make_registry(tmp_path_factory.mktemp("home"))


def make_registry(home, project="flights"):
    return Registry(f"sqlite:///{home / 'mlflow.db'}", str(home / "mlartifacts"), project)


def register(registry, model, decision_id, folder=None, expected=None):
    return registry.register(
        registry.run(decision_id),
        str(folder or model.folder),
        decision_id=decision_id,
        tags={"perennial.training_set_digest": "abc"},
        example=model.rows,
        expected=model.expected if expected is None else expected,
    )


@pytest.fixture
def unchecked(monkeypatch):
    """Spares a test that is about something else the process in which a model predicts as served."""
    monkeypatch.setattr(module, "check_as_served", lambda *_: {})


# --- runs -----------------------------------------------------------------------------------------


def test_a_decision_has_one_run(registry):
    run_id = registry.run("one", params={"batch_size": 8}, tags={"cause": "person"})
    assert make_registry_like(registry).run("one", params={"batch_size": 8, "later": 1}) == run_id
    run = registry.client.get_run(run_id)
    assert run.data.params == {"batch_size": "8", "later": "1"}
    assert run.data.tags["cause"] == "person"
    assert run.info.status == "RUNNING"
    assert registry.run("another") != run_id


def make_registry_like(registry):
    return Registry(registry.tracking_uri, registry.artifacts_uri, registry.project)


def test_metrics_logged_again_after_a_kill_stand_there_once(registry):
    run_id = registry.run("curve")
    rows = [("loss", 1 / (step + 1), step) for step in range(1500)]
    registry.log_metrics(run_id, rows[:900])
    registry.log_metrics(run_id, [*rows, ("loss", float("nan"), 1500)])
    history = registry.client.get_metric_history(run_id, "loss")
    assert [(m.value, m.step) for m in history[:1500]] == [(value, step) for _, value, step in rows]
    assert len(history) == 1501


def test_texts_and_files_lie_with_the_run(registry, tmp_path):
    run_id = registry.run("files")
    (tmp_path / "roc.png").write_bytes(b"png")
    registry.log_text(run_id, "verdict.json", "{}")
    registry.log_file(run_id, tmp_path / "roc.png", "plots")
    found = {info.path for folder in ("", "plots") for info in registry.client.list_artifacts(run_id, folder)}
    assert found == {"verdict.json", "plots", "plots/roc.png"}
    assert registry.client.get_run(run_id).info.artifact_uri.startswith(registry.artifacts_uri)


def test_only_runs_of_dead_processes_are_reaped(tmp_path):
    registry = make_registry(tmp_path)
    own, left, reused, elsewhere, unknown = (registry.run(name) for name in ("own", "left", "reused", "far", "unknown"))
    code = "import os; os.kill(os.getpid(), 9)"
    killed = subprocess.Popen([sys.executable, "-c", code])
    killed.wait()
    process = json.loads(registry.client.get_run(own).data.tags[PROCESS])
    registry.set_tags(left, {PROCESS: json.dumps({**process, "pid": killed.pid})})
    registry.set_tags(reused, {PROCESS: json.dumps({**process, "started": process["started"] - 100})})
    registry.set_tags(elsewhere, {PROCESS: json.dumps({**process, "pid": killed.pid, "host": "elsewhere"})})
    registry.client.delete_tag(unknown, PROCESS)
    assert sorted(registry.reap()) == sorted([left, reused])
    assert registry.client.get_run(left).info.status == "KILLED"
    assert registry.reap() == []
    # Taken up again, it runs, and is this process's own.
    assert registry.run("left") == left
    assert registry.client.get_run(left).info.status == "RUNNING"
    assert registry.reap() == []


def test_two_processes_may_be_the_first_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=first_use, args=(str(tmp_path), barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    registry = make_registry(tmp_path)
    assert len(registry.client.search_runs([registry.experiment_id])) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def first_use(home, barrier):
    import mlflow.tracking  # noqa: F401  the slow part comes before the race

    barrier.wait()
    make_registry(Path(home)).run(str(os.getpid()))


def test_a_half_made_database_is_never_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copy", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(OSError, match="disk full"):
        create_database(uri, str(tmp_path))
    assert not (tmp_path / "mlflow.db").exists()


def test_a_database_that_is_copied_is_the_one_that_would_be_migrated(tmp_path, monkeypatch):
    made = tmp_path / "template.db"
    monkeypatch.setattr(tracking_database, "template", lambda _: made)
    for folder in ("migrated", "copied"):
        create_database(f"sqlite:///{tmp_path / folder / 'mlflow.db'}", f"{tmp_path}/artifacts")
        tracking_database.make_template()
    monkeypatch.setattr(tracking_database, "_migrate", None)
    migrated, copied = (content(tmp_path / folder / "mlflow.db") for folder in ("migrated", "copied"))
    assert copied == migrated
    ((*_, place),) = copied["experiments"]
    assert place == f"{tmp_path}/artifacts/0"
    registry = Registry(f"sqlite:///{tmp_path / 'copied' / 'mlflow.db'}", f"{tmp_path}/artifacts", "p")
    assert len(registry.client.search_experiments()) == 1


def content(path):
    """The rows of every table, without the times at which they were made."""
    found = {}
    with closing(sqlite3.connect(path)) as database:
        for (name,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            columns = [column for _, column, *_ in database.execute(f"pragma table_info('{name}')")]
            kept = sorted((c for c in columns if "time" not in c), key=lambda c: c == "artifact_location")
            found[name] = database.execute(f"select {', '.join(kept)} from '{name}'").fetchall()
    return found


# --- versions -------------------------------------------------------------------------------------


def test_a_registered_model_predicts_the_same_and_is_one_per_decision(registry, fitted_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ref = register(registry, fitted_model, "decision")
    assert register(registry, fitted_model, "decision") == ref == registry.by_decision("decision")
    assert registry.version(ref.version) == ref
    assert registry.by_decision("unheard of") is None
    assert registry.tags(ref)["perennial.training_set_digest"] == "abc"
    assert registry.client.get_run(ref.run_id).data.tags["perennial.training_set_digest"] == "abc"
    model = registry.load(ref)
    np.testing.assert_allclose(model.predict(fitted_model.rows), fitted_model.expected, rtol=1e-5, atol=1e-6)
    assert model.inputs == (("speed", "hour"), ("carrier", "weekday"))
    with open(registry.client.get_model_version_download_uri(ref.name, str(ref.version)) + "/MLmodel") as page:
        assert "uri: artifacts/model\n" in page.read()  # and not where the fit happened to run
    assert list(tmp_path.iterdir()) == []  # MLflow wrote nothing where it was run


def test_a_version_is_bound_to_its_own_copy_of_the_code(registry, fitted_model, unchecked, monkeypatch):
    ref = register(registry, fitted_model, "old code")
    from tasks.stores import served_model

    monkeypatch.setattr(served_model.ServedModel, "predict", lambda *_: "today's code")
    assert load_model_folder(str(fitted_model.folder)).predict(fitted_model.rows) == "today's code"
    np.testing.assert_allclose(registry.load(ref).predict(fitted_model.rows), fitted_model.expected, atol=1e-6)
    assert {path.name for path in registry.model_folder(ref).iterdir()} >= {"model.json", "program.pt2"}


def test_a_registration_that_was_cut_off_is_completed(registry, fitted_model, unchecked, monkeypatch):
    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "create_model_version", kill)
        with pytest.raises(KeyboardInterrupt):
            register(registry, fitted_model, "cut off")
    assert registry.by_decision("cut off") is None
    ref = register(registry, fitted_model, "cut off")
    owned = registry.client.search_logged_models([registry.experiment_id], "tags.`perennial.decision_id` = 'cut off'")
    assert len(owned) == 1
    assert registry.load(ref).predict(fitted_model.rows).shape == (40,)


def test_a_model_that_predicts_otherwise_as_served_is_not_registered(registry, fitted_model):
    with pytest.raises(ModelError, match="predicts otherwise"):
        register(registry, fitted_model, "wrong", expected=fitted_model.expected + 1e-3)
    assert registry.by_decision("wrong") is None


def test_a_model_that_needs_this_repository_is_not_registered(registry, fitted_model, tmp_path, monkeypatch):
    from tasks.stores import served_model

    code = tmp_path / "served_model.py"
    code.write_text("import tasks.core.records\n" + Path(served_model.__file__).read_text())
    monkeypatch.setattr(served_model, "__file__", str(code))
    with pytest.raises(ModelError, match="No module named 'tasks'"):
        register(registry, fitted_model, "bound")
    assert registry.by_decision("bound") is None


def test_a_version_that_is_not_there_is_told(registry):
    with pytest.raises(ModelError, match="no version 99"):
        registry.version(99)


# --- aliases --------------------------------------------------------------------------------------


def test_aliases(registry, fitted_model, unchecked):
    assert make_registry_like(registry).aliases() == {}
    ref = register(registry, fitted_model, "aliased")
    registry.set_alias("champion", ref.version)
    assert registry.aliases() == {"champion": ref.version}
    registry.delete_alias("champion")
    assert registry.aliases() == {}
