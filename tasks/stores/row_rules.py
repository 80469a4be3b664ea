"""A suite's critical row expectations, compiled to SQL: they agree with Great Expectations row for row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.owners import unfinished
from tasks.stores.suite_sql import ROW_FORMS, literal
from tasks.stores.suites import Suite, describe

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class RowRule:
    """`failing` is SQL that is true of a row that has to be put aside, for `reason`."""

    reason: str
    failing: str


def row_rules(suite: Suite) -> list[RowRule]:
    """The suite's critical row expectations, compiled; they agree with Great Expectations row for row."""
    return [
        RowRule(describe(e), ROW_FORMS[e.type].failing(e.kwargs))
        for e in suite.expectations
        if e.scope == "row" and e.severity == "critical"
    ]


@dataclass(frozen=True, slots=True)
class Judged:
    """How many rows keep every rule, how many do not, and how many fail by each reason."""

    rows: int
    failing_rows: int
    reasons: Mapping[str, int]
    clean: str  # the rows that keep every rule, in SQL


def judge_rows(connection: "duckdb.DuckDBPyConnection", rows: str, rules: Sequence[RowRule]) -> Judged:
    """Try every row of the relation `rows` (SQL) against every rule; where one fails, into the temporary table
    `judged`."""
    fails = " or ".join(["false", *(f"({rule.failing})" for rule in rules)])
    ((total, failing),) = connection.execute(
        f"select count(*), count(*) filter (fails) from (select {fails} as fails from {rows})"
    ).fetchall()
    if not failing:
        return Judged(total, 0, {}, f"from {rows}")
    reasons = ", ".join(f"case when ({rule.failing}) then {literal(rule.reason)} end" for rule in rules)
    connection.execute(
        f"create or replace temp table judged as select *, "
        f"list_filter([{reasons}]::varchar[], lambda x: x is not null) as reasons from {rows}"
    )
    counts = connection.execute("select unnest(reasons) as reason, count(*) from judged group by 1 order by 2 desc, 1")
    clean = "select * exclude (reasons) from judged where len(reasons) = 0"
    return Judged(total - failing, failing, dict(counts.fetchall()), clean)


def write_clean(connection: "duckdb.DuckDBPyConnection", path: Path, judged: Judged) -> None:
    """The judged rows that keep every rule, whole under `path` or not at all."""
    _write(connection, judged.clean, path)


def write_quarantine(connection: "duckdb.DuckDBPyConnection", path: Path, judged: Judged) -> None:
    """The judged rows that fail, with their `reasons`; no file where none fails, nor one of an earlier audit."""
    if judged.failing_rows:
        _write(connection, "select * from judged where len(reasons) > 0", path)
    else:
        path.unlink(missing_ok=True)


def _write(connection: "duckdb.DuckDBPyConnection", query: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    connection.execute(f"copy ({query}) to {literal(str(temporary))} (format parquet)")
    temporary.replace(path)
