"""A new home's Prefect database: whole, of this version, and never in the place of one that is there."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows import prefect_database


@pytest.fixture(scope="module", autouse=True)
def made() -> None:
    prefect_database.make()


def test_it_is_migrated_as_far_as_this_version_goes(tmp_path: Path) -> None:
    import prefect
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    # Not by Prefect's own modules: their mapped classes would be set up with MLflow's by whoever uses those next.
    migrations = Path(prefect.__file__).parent / "server" / "database" / "_migrations"
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.set_main_option("version_locations", str(migrations / "versions" / "sqlite"))
    config.set_main_option("path_separator", "os")
    prefect_database.place(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["prefect.db"]
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        ((found,),) = database.execute("select version_num from alembic_version")
        ((runs,),) = database.execute("select count(*) from flow_run")
    assert [found] == ScriptDirectory.from_config(config).get_heads()
    assert runs == 0


def test_one_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("someone's runs")
    prefect_database.place(tmp_path)
    assert (tmp_path / "prefect.db").read_text() == "someone's runs"


def test_without_one_to_copy_the_server_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_database, "template", lambda _: tmp_path / "none.db")
    prefect_database.place(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_database_that_settings_name_is_not_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"):
        monkeypatch.setenv(name, f"sqlite+aiosqlite:///{tmp_path}/theirs.db")
    monkeypatch.setattr(prefect_database, "template", lambda _: tmp_path / "made" / "prefect.db")
    prefect_database.make()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.db")] == ["made/prefect.db"]
