"""What settings and the environment hold stands in no record, log, page or error."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from configs.recipe import load_recipe
from configs.settings import Settings, load_settings
from tasks import closing
from tasks.core.errors import RecipeError
from tasks.stores.tracking_database import create_database
from tests.leaks.ferries import Ferries

SECRET = "s3cr3t-b7f1"
GIVEN = {  # as people give them
    "PERENNIAL_TRACKING_URI": f"postgresql://ada:{SECRET}@db/mlflow",
    "PERENNIAL_ONLINE_STORE": f'{{"type": "redis", "connection_string": "host:6379,password={SECRET}"}}',
    "PERENNIAL_FEAST_REGISTRY": f"postgresql://ada:{SECRET}@db/feast",
}


def test_settings_do_not_show_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert SECRET in settings.mlflow_uri
    assert SECRET not in f"{settings!r} {settings}"


@pytest.mark.parametrize("setting", ["lake_uri", "artifacts_uri"])
def test_a_uri_that_stands_in_records_may_hold_no_password(setting: str) -> None:
    with pytest.raises(ValidationError, match="may hold no password") as caught:
        Settings(**{setting: f"s3://ada:{SECRET}@models"})
    assert SECRET not in str(caught.value)
    assert getattr(Settings(**{setting: "s3://models/a@b"}), setting) == "s3://models/a@b"


def test_the_uri_of_an_mlflow_server_may_hold_no_password() -> None:
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        Settings(tracking_uri=f"https://ada:{SECRET}@mlflow.example")
    assert SECRET not in str(caught.value)
    assert Settings(tracking_uri=(given := "https://mlflow.example/a@b")).mlflow_uri == given


def test_what_a_run_advises_at_its_end_names_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERENNIAL_TRACKING_URI", GIVEN["PERENNIAL_TRACKING_URI"])
    told = dict(closing._next_steps(SimpleNamespace(folder=tmp_path, project="flights")))
    assert SECRET not in str(told)
    assert told["MLflow"].endswith('"$PERENNIAL_TRACKING_URI"')


def test_the_options_of_a_database_become_no_files_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    create_database(f"sqlite:///file:{tmp_path}/mlflow.db?uri=true&token={SECRET}", str(tmp_path))
    assert [path for path in tmp_path.rglob("*") if SECRET in str(path)] == []


def test_a_password_in_a_recipe_is_refused_and_not_repeated() -> None:
    def source(password: str) -> dict[str, object]:
        return {"format": "sql", "url": f"postgresql://ada:{password}@db/x", "query": "select 1"}

    with pytest.raises(RecipeError, match="a password stands in the url") as caught:
        load_recipe("flights", {"tables.weather.source": source(SECRET)})
    assert SECRET not in str(caught.value)
    assert load_recipe("flights", {"tables.weather.source": source("${DB_PASSWORD}")})


def test_stages_that_use_a_secret_leave_it_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A database source and Feast's registry by URLs with a secret, through every stage to the training set."""
    for name, folder in (("HOME", "state"), ("FEATURE_REPO", "features"), ("EXPECTATIONS", "suites")):
        monkeypatch.setenv(f"PERENNIAL_{name}", str(tmp_path / "project" / folder))
    monkeypatch.setenv("DB_PASSWORD", SECRET)
    registry = f"sqlite:///file:{tmp_path}/registry.db?uri=true&timeout=60&token={SECRET}"
    monkeypatch.setenv("PERENNIAL_FEAST_REGISTRY", registry)
    with sqlite3.connect(tmp_path / "pier.db") as database:
        database.execute("create table piers (pier text, built text)")
        database.execute("insert into piers values ('p0', '2019-01-01 00:00:00+00')")
    database.close()
    piers = {
        "description": "A register.",
        "source": {
            "format": "sql", "query": "select * from piers",
            "url": f"sqlite:///file:{tmp_path}/pier.db?uri=true&token=${{DB_PASSWORD}}",
        },
        "columns": {"pier": "pier"}, "key": ["pier"],
        "event_timestamp": "timestamptz '2020-03-01 01:00:00+00'",
        "created_timestamp": "timestamptz '2020-03-01 01:00:00+00'",
    }  # fmt: skip
    made = Ferries(tmp_path / "project", extra={"piers": piers}).train()
    assert made.rows > 4000
    assert (tmp_path / "registry.db").exists(), "it was used"
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err + caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
