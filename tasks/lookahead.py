"""Look-ahead: does a feature's SQL give at a moment what could be known at it, or more?

The times that a feature row carries are written by its own SQL, so that no check of them can tell. What can: the rows
up to a moment, built from what was known at that moment alone, must be those that were built knowing what came after.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import FeatureError

if TYPE_CHECKING:
    import duckdb

MOMENTS = 2  # at which it is tried, evenly over the rows
WINDOW = timedelta(days=1)  # before each, in which rows are compared: a look-ahead shows right before the moment
INSTANT = timedelta(microseconds=1)
RELATIVE, ABSOLUTE = 1e-9, 1e-12  # sums of floats may differ in their last digits from build to build


def show_known(connection: "duckdb.DuckDBPyConnection", scans: Mapping[str, str], until: datetime) -> None:
    """Views of the tables that a feature's SQL reads, of what was known before `until`, on this connection alone."""
    for table, scan in scans.items():
        known = f"select * from {scan} where created_timestamp < timestamptz '{until.isoformat()}'"
        connection.execute(f'create or replace temp view "{table}" as {known}')


def bounded(sql: str) -> str:
    """The rows of a feature's SQL in [$start, $end)."""
    # The line break ends a comment on the file's last line.
    return f"select * from ({sql}\n) where event_timestamp >= $start and event_timestamp < $end"


def refuse_look_ahead(
    connection: "duckdb.DuckDBPyConnection",
    path: Path,
    sql: str,
    scans: Mapping[str, str],
    start: datetime,
    identity: Sequence[str],
) -> None:
    """Compare table `built_`, of rows from `start`, with what `sql` gives when it is told less. `scans` are the tables
    it reads, `identity` the columns that name a row; none is all of them.

    Leaves the views of those tables as they were at the last moment.

    Raises:
        FeatureError: rows differ; the error names the moment and the first of them.
    """
    for moment in _moments(connection):
        told = moment + INSTANT
        show_known(connection, scans, told)
        bounds = {"start": max(moment - WINDOW, start), "end": told}
        connection.execute(f"create temp table told_ as {bounded(sql)}", bounds)
        found = _differences(connection, bounds, identity)
        connection.execute("drop table told_")
        if found:
            raise FeatureError(
                f"{path} looks ahead",
                got=f"built from what was known at {moment:%Y-%m-%d %H:%M:%S}, {len(found):,} rows of the day before"
                f" it are other ones than when later rows are there, the first {found[0]}",
                expected="the same rows: a feature row may use nothing whose created_timestamp is after its own",
                fix="bound every table that the SQL reads by created_timestamp, and windows by $start and $end",
            )


def _moments(connection: "duckdb.DuckDBPyConnection") -> list[datetime]:
    shares = [(number + 1) / (MOMENTS + 1) for number in range(MOMENTS)]
    query = f"select unnest(quantile_disc(event_timestamp, {shares})) from built_"
    return sorted({moment for (moment,) in connection.execute(query).fetchall() if moment is not None})


def _differences(
    connection: "duckdb.DuckDBPyConnection", bounds: Mapping[str, datetime], identity: Sequence[str]
) -> list[tuple[object, ...]]:
    """Identities of the rows that are in one only, or not the same in both."""
    columns = {name: kind for name, kind, *_ in connection.execute("describe built_").fetchall()}
    identity = identity or list(columns)
    changed = [
        f'a."{name}" is distinct from b."{name}"'
        if kind not in ("FLOAT", "DOUBLE")
        else f'(a."{name}" is null) <> (b."{name}" is null) or abs(a."{name}" - b."{name}")'
        f' > {ABSOLUTE} + {RELATIVE} * abs(b."{name}")'
        for name, kind in columns.items()
        if name not in identity
    ]
    keys = ", ".join(f'"{name}"' for name in identity)
    sides = " or ".join(["a.side is null", "b.side is null", *changed])
    on = " and ".join(f'a."{name}" is not distinct from b."{name}"' for name in identity)
    shared = "event_timestamp >= $start and event_timestamp < $end and created_timestamp < $end"
    chosen = ", ".join(f'coalesce(a."{name}", b."{name}") as "{name}"' for name in identity)
    return connection.execute(
        f"""
        with a as (select *, true as side from told_ where {shared}),
        b as (select *, true as side from built_ where {shared})
        select {chosen} from a full join b on {on} where {sides} order by {keys}
        """,
        bounds,
    ).fetchall()
