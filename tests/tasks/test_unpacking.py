"""Within an ingest a packed file is unpacked once for all tables that read it, and nothing of it stays."""

import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from configs.sections.data import TableSection
from tasks.core.errors import SourceError
from tasks.ingestion import stage_table
from tasks.leftovers import clear_away
from tasks.stores import source_files
from tasks.unpacking import shared_places, unpacking_once

START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    with zipfile.ZipFile(tmp_path / "readings.zip", "w") as archive:
        archive.writestr("one.csv", "sensor,moment\na,2013-01-02\nb,2013-01-03\n")
        archive.writestr("other.csv", "sensor,moment\nc,2013-01-04\n")
    return tmp_path / "readings.zip"


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every unpacking, by its URI."""
    seen: list[str] = []
    unpack = source_files._unpack
    monkeypatch.setattr(source_files, "_unpack", lambda uri, folder: (seen.append(uri), unpack(uri, folder))[1])
    return seen


def section(packed: Path, member: str, **changes: Any) -> TableSection:
    return TableSection.model_validate(
        {
            "description": "One row per sensor and reading.",
            "source": {"format": "csv", "path": f"zip://{member}.csv::{packed}"},
            "columns": {"sensor": "sensor"},
            "key": ["sensor"],
            "event_timestamp": "moment",
            "created_timestamp": "moment",
            **changes,
        }
    )


def stage(name: str, table: TableSection) -> int:
    return stage_table.fn("p", name, table, START, END).rows


def test_one_file_of_two_tables_is_unpacked_once_and_another_as_ever(packed: Path, unpacked: list[str]) -> None:
    tables = {"first": section(packed, "one"), "second": section(packed, "one"), "third": section(packed, "other")}
    with unpacking_once("p", tables):
        assert list(shared_places()) == [tables["first"].source.path]  # type: ignore[union-attr]
        assert [stage(name, table) for name, table in tables.items()] == [2, 2, 1]
    assert [uri.partition("::")[0] for uri in unpacked] == ["zip://one.csv", "zip://other.csv"]
    assert [path.name for path in (packed.parent / "home").rglob("*.csv")] == []
    assert dict(shared_places()) == {}
    stage("first", tables["first"])
    assert len(unpacked) == 3  # what another ingest finds in the source is not what this one found


def test_what_could_not_be_unpacked_is_tried_again(packed: Path) -> None:
    table = section(packed, "late")
    with unpacking_once("p", {"first": table, "second": table}):
        with pytest.raises(SourceError):
            stage("first", table)
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr("late.csv", "sensor,moment\na,2013-01-02\n")
        assert stage("second", table) == 1


def test_what_a_killed_ingest_unpacked_is_cleared_away(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, home = section(packed, "one"), packed.parent / "home"
    monkeypatch.setattr("tasks.unpacking.shutil.rmtree", lambda *_, **__: None)  # as if it were killed
    monkeypatch.setattr("tasks.core.owners.os.getpid", lambda: 2**22 + 1)  # a number that no process has
    with unpacking_once("p", {"first": table, "second": table}):
        stage("first", table)
    monkeypatch.undo()
    assert list(home.rglob("*.csv"))
    clear_away(home)
    assert not list(home.rglob("*.csv"))
