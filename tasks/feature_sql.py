"""What a feature's SQL says of itself: the tables it reads, and how far before `$start`; and the parts that a long
build of it is done in."""

import json
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import FeatureError
from tasks.core.records import TableRef

if TYPE_CHECKING:
    import duckdb

# Of the largest table that is read. The running sums over as many flights, and their order, take 4 GB; those of more go
# through the disk, or end for want of memory (docs/benchmarks.md, "Features").
PART_ROWS = 3_000_000


def parse(connection: "duckdb.DuckDBPyConnection", path: Path, sql: str) -> dict[str, Any]:
    """DuckDB's own tree of the statement. Raises FeatureError where it is none."""
    parsed: dict[str, Any] = json.loads(connection.execute("select json_serialize_sql(?)", [sql]).fetchall()[0][0])
    if parsed["error"]:
        raise FeatureError(f"{path} is not SQL", got=parsed["error_message"])
    return parsed


def tables_read(parsed: dict[str, Any], path: Path, known: Collection[str]) -> list[str]:
    # A name that is also a CTE's is kept where there is such a table: too many sources cost a rebuild, too few
    # would leave a feature stale.
    ctes = {entry["key"].lower() for node in _nodes(parsed) for entry in node.get("cte_map", {}).get("map", [])}
    names = sorted({node["table_name"] for node in _nodes(parsed) if node.get("type") == "BASE_TABLE"})
    return [name for name in names if name.lower() not in ctes or (name in known and name != path.stem)]


def lookback(connection: "duckdb.DuckDBPyConnection", parsed: dict[str, Any]) -> timedelta | None:
    """The longest interval that is taken from `$start`; None where it is not known: `$start` is used in another way
    than compared, or with an interval taken from it, or not at all."""
    nodes = list(_nodes(parsed))
    known = sum(_is_start(side) for node in nodes for side in _compared(node))
    taken = [
        other["expression"]
        for node in nodes
        if node.get("function_name") == "-" and len(node["arguments"]) == 2
        for first, other in [node["arguments"]]
        if _is_start(first["expression"])
    ]
    if not 0 < sum(map(_is_start, nodes)) == known + len(taken):
        return None
    intervals = [_value(connection, one) for one in taken]
    return max(intervals, default=timedelta(0)) if all(isinstance(one, timedelta) for one in intervals) else None


def part_ends(
    connection: "duckdb.DuckDBPyConnection",
    path: Path,
    sql: str,
    sources: Collection[TableRef],
    start: datetime,
    end: datetime,
) -> list[datetime]:
    """Where the parts of a build of [start, end) end: each of some `PART_ROWS` rows of the largest table that is read,
    by known time, in whole days.

    None is shorter than the lookback, which is read before each: so no more than twice the rows are read. It is one
    part where the lookback is not known.
    """
    largest = max(sources, key=lambda ref: ref.rows, default=None)
    if largest is None or largest.rows <= PART_ROWS:
        return [end]
    before = lookback(connection, parse(connection, path, sql))
    if before is None:
        return [end]
    days = (
        f"select date_trunc('day', created_timestamp) as day, count(*) from \"{largest.name}\""
        " where created_timestamp >= $start and created_timestamp < $end group by day order by day"
    )
    ends, began, rows = [], start, 0
    for day, more in connection.execute(days, {"start": start, "end": end}).fetchall():
        if rows + more > PART_ROWS and rows and day - began >= before:
            ends.append(day)
            began, rows = day, 0
        rows += more
    return [*ends, end]


def _compared(node: dict[str, Any]) -> list[dict[str, Any]]:
    sides = {"COMPARISON": ("left", "right"), "BETWEEN": ("lower", "upper")}.get(node.get("class", ""), ())
    return [node[side] for side in sides]


def _is_start(node: dict[str, Any]) -> bool:
    return node.get("class") == "PARAMETER" and node.get("identifier") == "start"


def _value(connection: "duckdb.DuckDBPyConnection", expression: dict[str, Any]) -> Any:
    """Of an expression; None of one that reads columns."""
    import duckdb

    tree = json.loads(connection.execute("select json_serialize_sql('select 1')").fetchall()[0][0])
    tree["statements"][0]["node"]["select_list"] = [expression]
    try:
        return connection.execute("from json_execute_serialized_sql(?)", [json.dumps(tree)]).fetchall()[0][0]
    except duckdb.Error:
        return None


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a parsed query."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)
