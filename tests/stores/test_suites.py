"""Great Expectations on plain JSON, and the same row expectations as SQL."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.recipe import load_recipe
from tasks.core.errors import ValidationError
from tasks.core.records import Finding
from tasks.stores import suite_audit, suite_sql, suites
from tasks.stores.row_rules import judge_rows, row_rules, write_clean, write_quarantine
from tasks.stores.suite_sql import parquet_rows
from tasks.stores.suites import Suite, load_suite

NAN, INF = math.nan, math.inf
MORNING = datetime(2013, 1, 1, 6, tzinfo=UTC)
EDGES = pa.table(
    {
        "x": [None, NAN, -INF, -1.0, -0.0, 0.0, 5.0, 10.0, 10.5, INF],
        "y": [None, 1.0, NAN, None, 0.0, -0.5, 5.0, NAN, 11.0, INF],
        "n": pa.array([None, 1, 2, 2, None, 3, 0, -1, 100, 5], pa.int32()),
        "s": [None, "", " ", "a", "ab", "abc", "é", "it's", "NULL", "a"],
        "t": ["", None, "a", "a", "b", "abc", "é", "it's", None, "A"],
        "at": [None, *(MORNING + timedelta(hours=h) for h in range(9))],
    }
)


def write_suite(folder: Path, expectations: list[dict[str, Any]], **more: Any) -> Path:
    path = folder / "suite.json"
    path.write_text(json.dumps({"name": "test", "expectations": expectations, **more}))
    return path


def line(kind: str, severity: str = "critical", meta: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity, "meta": meta or {}}


def audit(path: str, suite: Suite, *, docs: Path, **more: Any) -> list[Finding]:
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        return suite_audit.audit(connection, path, suite, docs=docs, **more)


AGREE = [
    line("column_values_to_not_be_null", column="x"),
    line("column_values_to_not_be_null", column="s"),
    line("column_values_to_be_null", column="n"),
    line("column_values_to_be_between", column="x", min_value=0, max_value=10),
    line("column_values_to_be_between", column="x", min_value=0, max_value=10, strict_min=True, strict_max=True),
    line("column_values_to_be_between", column="x", min_value=0),
    line("column_values_to_be_between", column="x", max_value=10),
    line("column_values_to_be_between", column="n", min_value=2, max_value=5),
    line("column_values_to_be_between", column="at", min_value="2013-01-01 07:00:00", max_value="2013-01-01 12:00:00"),
    line("column_value_lengths_to_be_between", column="s", min_value=1, max_value=2),
    line("column_value_lengths_to_be_between", column="s", min_value=1),
    line("column_value_lengths_to_equal", column="s", value=1),
    line("column_values_to_be_in_set", column="s", value_set=["a", "it's", ""]),
    line("column_values_to_be_in_set", column="n", value_set=[1, 2, 100]),
    line("column_values_to_not_be_in_set", column="s", value_set=["a", "é"]),
    line("column_values_to_be_unique", column="s"),
    line("column_values_to_be_unique", column="n"),
    line("compound_columns_to_be_unique", column_list=["n", "s"]),
    line("compound_columns_to_be_unique", column_list=["n", "at"]),
    line("column_pair_values_a_to_be_greater_than_b", column_A="x", column_B="y"),
    line("column_pair_values_a_to_be_greater_than_b", column_A="x", column_B="y", or_equal=True),
    line("column_pair_values_a_to_be_greater_than_b", column_A="at", column_B="at", or_equal=False),
    line("column_pair_values_to_be_equal", column_A="s", column_B="t"),
    line("column_pair_values_to_be_equal", column_A="x", column_B="y"),
]  # fmt: skip


def test_our_sql_and_great_expectations_agree_row_for_row(tmp_path: Path) -> None:
    assert {one["type"] for one in AGREE} == set(suite_sql.ROW_FORMS)
    pq.write_table(EDGES, tmp_path / "edges.parquet")
    suite = load_suite(write_suite(tmp_path, AGREE))
    rules = row_rules(suite)
    assert len({rule.reason for rule in rules}) == len(AGREE)
    found = audit(str(tmp_path / "edges.parquet"), suite, docs=tmp_path / "docs.html")
    assert not [finding.reason for finding in found if finding.scope == "batch"]
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        judged = judge_rows(connection, parquet_rows(str(tmp_path / "edges.parquet")), rules)
    assert dict(judged.reasons) == {finding.reason: finding.failing_rows for finding in found}
    assert len(judged.reasons) > 15


WHOLE = [
    *AGREE,
    line("column_values_to_be_unique", column="x"),  # zero and minus zero are one
    line("column_values_to_not_be_null", column="s", mostly=0.9),
    line("column_values_to_not_be_null", column="s", mostly=0.91),
    line("column_values_to_be_between", column="n", min_value=0, mostly=0.875),
    line("column_values_to_be_between", column="n", min_value=0, mostly=0.88),
    line("column_values_to_be_in_set", column="s", value_set=["a"], mostly=0.2),
    line("table_row_count_to_be_between", min_value=1, max_value=10),
    line("table_row_count_to_be_between", min_value=2),
    line("column_unique_value_count_to_be_between", column="s", min_value=1, max_value=8),
    line("column_unique_value_count_to_be_between", column="x", max_value=7),
    *(
        line(f"column_{what}_to_be_between", column=column, min_value=low, max_value=high, strict_min=strict)
        for what in ("mean", "min", "max")
        for column in ("n", "x", "y")
        for low, high, strict in ((-1, 100, False), (-1, 14, True), (None, 5, False))
    ),
    line("column_distinct_values_to_contain_set", column="s", value_set=["a", "it's", ""]),
    line("column_distinct_values_to_contain_set", column="s", value_set=["a", "b"]),
    line("table_columns_to_match_set", column_set=["at", "n", "s", "t", "x", "y"]),
    line("table_columns_to_match_set", column_set=["n", "s"], exact_match=False),
    line("table_columns_to_match_set", column_set=["n", "s"]),
]  # fmt: skip
BATCHES = {
    "edges": EDGES,
    "empty": EDGES.slice(0, 0),
    "null": pa.table([pa.nulls(3, kind) for kind in EDGES.schema.types], schema=EDGES.schema),
    "one": EDGES.slice(8, 1),
    "well": EDGES.slice(4, 3).set_column(2, "n", pa.array([2, 3, 100], pa.int32())),
}


@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES)
def test_what_one_query_shows_to_hold_is_what_great_expectations_says(
    rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "rows.parquet")
    pq.write_table(rows, path)
    suite = load_suite(write_suite(tmp_path, WHOLE))
    lines = {suites.describe(one): place for place, one in enumerate(suite.expectations)}
    assert len(lines) == len(WHOLE)
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        asked = [(one.type, one.kwargs) for one in suite.expectations]
        shown = suite_sql.show(connection, parquet_rows(path), asked)
    both = audit(path, suite, docs=tmp_path / "docs.html")
    monkeypatch.setattr(suite_audit, "show", lambda *_: {})
    alone = audit(path, suite, docs=tmp_path / "docs.html")
    assert both == alone
    failing = {lines[finding.reason.partition(", observed")[0]] for finding in alone}
    assert shown.keys() == lines_of(WHOLE) - failing


def test_the_page_of_a_batch_that_is_well_is_great_expectations_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, page = str(tmp_path / "rows.parquet"), tmp_path / "docs.html"
    pq.write_table(BATCHES["well"], path)
    everything = load_suite(write_suite(tmp_path, WHOLE))
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        asked = [(one.type, one.kwargs) for one in everything.expectations]
        holding = suite_sql.show(connection, parquet_rows(path), asked)
    suite = Suite("well", tuple(everything.expectations[place] for place in sorted(holding)))
    assert len(suite.expectations) > 30
    with monkeypatch.context() as patched:
        patched.setattr(suite_audit, "_validate", None)  # it is not asked
        assert audit(path, suite, docs=page) == []
    ours = page.read_text()
    monkeypatch.setattr(suite_audit, "show", lambda *_: {})
    assert audit(path, suite, docs=page) == []
    assert text_of(ours) == text_of(page.read_text())


def text_of(page: str) -> list[str]:
    """What a reader sees, but for the moment."""
    body = re.sub(r"(?s)<(style|script).*?</\1>|<[^>]+>", "\n", page)
    return re.sub(r"\d{8}T\d{6}\.\d{6}Z", "moment", body).split()


def lines_of(expectations: list[dict[str, Any]]) -> set[int]:
    return set(range(len(expectations)))


def test_scope_and_severity_of_what_does_not_hold(tmp_path: Path) -> None:
    pq.write_table(EDGES, tmp_path / "edges.parquet")
    suite = load_suite(
        write_suite(
            tmp_path,
            [
                line("column_values_to_be_between", column="n", min_value=0),
                line("column_values_to_be_between", column="n", min_value=0, meta={"scope": "batch"}),
                line("column_values_to_be_between", column="n", min_value=0, mostly=0.95, severity="warning"),
                line("column_mean_to_be_between", column="n", max_value=1, severity="info"),
                line("column_values_to_match_regex", column="s", regex="^a", severity="info"),
                line("column_max_to_be_between", column="nowhere", max_value=1, severity="warning"),
                line("table_row_count_to_be_between", min_value=1),
            ],
        )
    )
    standing = Finding(
        expectation="rows", column=None, severity="info", scope="batch", failing_rows=3, reason="a < b & known before"
    )
    page = tmp_path / "docs" / "page.html"
    found = audit(str(tmp_path / "edges.parquet"), suite, docs=page, standing=[standing])
    told = {(f.expectation.removeprefix("expect_"), f.severity, f.scope, f.failing_rows) for f in found[1:]}
    assert found[0] == standing
    assert told == {
        ("column_values_to_be_between", "critical", "row", 1),
        ("column_values_to_be_between", "critical", "batch", 1),
        ("column_values_to_be_between", "warning", "batch", 1),
        ("column_mean_to_be_between", "info", "batch", 0),
        # What cannot be checked does not pass: DuckDB is given no regular expressions, and there is no such column.
        ("column_values_to_match_regex", "critical", "batch", 0),
        ("column_max_to_be_between", "critical", "batch", 0),
    }
    html = page.read_text()
    assert "a &lt; b &amp; known before, 3 rows" in html.replace("</b>", "")
    assert "n mean between -∞ and 1, observed 14.0" in html
    assert [rule.reason for rule in row_rules(suite)] == ["n between 0 and ∞"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "edges.parquet", "suite.json"]
    # Nothing of it stays open: the same file can be audited again at once, with other means.
    again = audit(str(tmp_path / "edges.parquet"), suite, docs=page, standing=[standing], threads=1, memory_limit="1GB")
    assert again == found


@pytest.mark.parametrize(
    ("expectations", "more", "said"),
    [
        ([{"type": "expect_column_values_to_be_unique", "kwarg": {}}], {}, "unknown keys"),
        ([line("column_mean_to_be_between", severity="fatal", column="x")], {}, "severity 'fatal'"),
        ([line("column_mean_to_be_between", column="x", meta={"scope": "row"})], {}, "cannot be told row by row"),
        (
            [line("column_values_to_not_be_null", column="x", mostly=0.9, meta={"scope": "row"})],
            {},
            "row by row, for mostly",
        ),
        ([], {"evaluation_parameters": {}}, "unknown keys"),
    ],
)
def test_a_suite_that_cannot_be_used_names_the_file(
    tmp_path: Path, expectations: list[dict[str, Any]], more: dict[str, Any], said: str
) -> None:
    path = write_suite(tmp_path, expectations, **more)
    with pytest.raises(ValidationError, match=said) as caught:
        load_suite(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_broken_suite(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name in ("missing.json", "broken.json"):
        with pytest.raises(ValidationError, match=name):
            load_suite(tmp_path / name)


def test_an_expectation_that_nobody_knows(tmp_path: Path) -> None:
    pq.write_table(EDGES, tmp_path / "edges.parquet")
    suite = load_suite(write_suite(tmp_path, [line("miracles_to_happen")]))
    with pytest.raises(ValidationError, match="expect_miracles_to_happen in suite"):
        audit(str(tmp_path / "edges.parquet"), suite, docs=tmp_path / "docs.html")


def test_rows_go_to_one_file_or_the_other(tmp_path: Path) -> None:
    pq.write_table(EDGES, tmp_path / "edges.parquet")
    rules = row_rules(
        load_suite(
            write_suite(
                tmp_path,
                [
                    line("column_values_to_be_between", column="n", min_value=0, max_value=50),
                    line("column_values_to_be_in_set", column="t", value_set=["a", "abc", "é"]),
                ],
            )
        )
    )
    clean, quarantine = tmp_path / "clean.parquet", tmp_path / "aside" / "q.parquet"
    with duckdb.connect() as connection:
        source = parquet_rows(str(tmp_path / "edges.parquet"))
        judged = judge_rows(connection, source, rules)
        write_clean(connection, clean, judged)
        write_quarantine(connection, quarantine, judged)
        assert (judged.rows, judged.failing_rows) == (5, 5)
        assert pq.read_table(clean)["s"].to_pylist() == ["", " ", "a", "abc", "é"]
        reasons = dict(zip(*(pq.read_table(quarantine)[c].to_pylist() for c in ("s", "reasons")), strict=True))
        assert reasons["it's"] == ["n between 0 and 50", "t in set value set ['a', 'abc', 'é']"]
        judged = judge_rows(connection, source, [])  # and once everything passes, nothing is left behind
        write_quarantine(connection, quarantine, judged)
        write_clean(connection, clean, judged)
        assert (judged.rows, judged.failing_rows, judged.reasons, quarantine.exists()) == (10, 0, {}, False)
        assert pq.read_table(clean).drop(["x", "y"]).equals(EDGES.drop(["x", "y"]))  # NaN equals nothing


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "expectations").glob("*/*.json")),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_suites_of_the_house_speak_of_their_recipes_columns(path: Path) -> None:
    suite, table = load_suite(path), load_recipe(path.parent.name).tables[path.stem]
    known = {*table.columns, "event_timestamp", "created_timestamp"}
    assert len(suite_audit._build(suite).expectations) == len(suite.expectations)
    for kwargs in (expectation.kwargs for expectation in suite.expectations):
        named = {kwargs.get("column"), kwargs.get("column_A"), kwargs.get("column_B"), *kwargs.get("column_list", ())}
        assert named - {None} <= known
        assert set(kwargs.get("column_set", known)) == known


def test_every_large_table_of_flights_has_eight_expectations() -> None:
    folder = Path(__file__).parents[2] / "expectations" / "flights"
    for name in ("schedule", "departures", "arrivals", "weather"):
        assert len(load_suite(folder / f"{name}.json").expectations) >= 8
