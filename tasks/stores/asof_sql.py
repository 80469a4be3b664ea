"""The point-in-time join as SQL for DuckDB.

For each entity row and view: among the feature rows with the same key whose *effective time*,
`greatest(event, created)`, is not after the entity row's time, the one with the latest event (a tie: the latest
created); its features, unless the event is older than the view's ttl. Rows become visible in the order of their
effective times, so it is enough to drop the rows that are beaten by one already visible when they appear: what is left
grows in event and effective time at once, and one ASOF join on the effective time finds the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

import duckdb
import pandas as pd
import pyarrow as pa

from tasks.core.errors import FeatureError
from tasks.stores.repeats import may_repeat

TIMESTAMP = "event_timestamp"
KNOWN_TIME = "__known_time"
PART_ROWS = 4_000_000  # entity rows that are joined at once: with what they find, they fit into memory
WORTH_NUMBERS = 9  # columns for each view, from which carrying them costs more than coming back by number
SAMPLED = 1_000  # one row of so many tells where to cut
AMBIGUOUS = "two rows of one key"  # in DuckDB's error, by which it is told from others


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class JoinedView:
    """One feature view as the join sees it."""

    name: str
    table: str
    keys: tuple[tuple[str, str], ...]  # column of the feature table, column of the entity rows
    features: tuple[tuple[str, str], ...]  # column of the feature table, name in the result
    event: str
    created: str | None
    ttl: timedelta | None


def load_entities(
    connection: duckdb.DuckDBPyConnection, entities: pd.DataFrame | pa.Table | str
) -> tuple[list[str], str]:
    """Make the table `entity_`, with a row number and the time in `time_`; its given columns and which is the time."""
    if isinstance(entities, str):
        query = entities
    else:
        given = entities if isinstance(entities, pa.Table) else pa.Table.from_pandas(entities, preserve_index=False)
        connection.register("given_entities_", given)
        query = "select * from given_entities_"
    described = {name: kind for name, kind, *_ in connection.execute(f"describe ({query})").fetchall()}
    times = [name for name, kind in described.items() if kind.startswith("TIMESTAMP")]
    if TIMESTAMP not in times and len(times) != 1:
        raise FeatureError(
            "entity rows without a time",
            got=described,
            expected=f"a timestamp column {TIMESTAMP!r}, or one timestamp column in all",
        )
    timestamp = TIMESTAMP if TIMESTAMP in times else times[0]
    connection.execute(
        f"create temp table entity_ as select row_number() over () as row_, {quote(timestamp)}::timestamptz as time_, *"
        f" from ({query})"
    )
    return list(described), timestamp


def join_sql(
    connection: duckdb.DuckDBPyConnection,
    columns: list[str],
    timestamp: str,
    views: Sequence[JoinedView],
    *,
    known_times: bool = False,
) -> str:
    """The join as one query; of many entity rows it is made here, part after part of their time, and read by it."""
    _check_names(columns, views)
    for view in views:
        if missing := [key for _, key in view.keys if key not in columns]:
            raise FeatureError(f"entity rows lack {missing}, keys of view {view.name!r}", got=columns)
    join = partial(_part_sql, connection, columns, timestamp, views, known_times)
    parts = _parts(connection, views)
    if len(parts) == 1:
        return f"select * exclude (row_) from ({join('entity_')})"
    ends = []
    for number, part in enumerate(parts):
        connection.execute(f"create or replace temp table part_ as select * from entity_ where {part}")
        rows = join("part_")
        connection.execute(f"insert into joined_ {rows}" if number else f"create temp table joined_ as {rows}")
        ends += connection.execute("select min(row_), max(row_) from part_").fetchall()[0]
    connection.execute("drop table part_; drop table entity_")
    found = [row for row in ends if row is not None]
    # Entity rows in the order of time, the usual ones, are in order already.
    return "select * exclude (row_) from joined_" + ("" if found == sorted(found) else " order by row_")


def _parts(connection: duckdb.DuckDBPyConnection, views: Sequence[JoinedView]) -> list[str]:
    """Conditions on the entity rows that cut them by time into parts that a join can hold in memory.

    None but `true` where there are few, or where cutting would more than double what is read: each part reads of a view
    what is younger than its ttl, and of one without ttl everything before.
    """
    rows, first, last = connection.execute("select count(*), min(time_), max(time_) from entity_").fetchall()[0]
    count = -(-rows // PART_ROWS)
    if count < 2 or first == last:
        return ["true"]
    again, read = 0.0, rows
    for view in views:
        ((total,),) = connection.execute(f"select count(*) from {quote(view.table)}").fetchall()
        again += total * (count * (view.ttl / (last - first)) if view.ttl else count / 2)
        read += total
    if again > read:
        return ["true"]
    sample = connection.execute(
        f"select time_ from entity_ where row_ % {SAMPLED} = 0 and time_ is not null order by time_"
    ).fetchall()
    cuts = sorted({sample[place * len(sample) // count][0] for place in range(1, count)}) if sample else []
    if not cuts:
        return ["true"]
    bounds = [_literal(cut) for cut in cuts]
    between = [f"time_ >= {low} and time_ < {high}" for low, high in pairwise(bounds)]
    return [f"time_ < {bounds[0]} or time_ is null", *between, f"time_ >= {bounds[-1]}"]


def _part_sql(
    connection: duckdb.DuckDBPyConnection,
    columns: list[str],
    timestamp: str,
    views: Sequence[JoinedView],
    known_times: bool,
    entities: str,
) -> str:
    """`row_`, the entity columns and the features of the table `entities`, in the order of `row_`.

    An ASOF join sorts both its sides with all that they carry. Where that is much, each view is joined with times and
    keys alone, and what it finds comes to the entity rows by their number. A view with one row a key needs none.
    """
    first, last = connection.execute(f"select min(time_), max(time_) from {entities}").fetchall()[0]
    is_wide = _carried(columns, views) > WORTH_NUMBERS * len(views)
    output = [f"e.time_ as {quote(name)}" if name == timestamp else f"e.{quote(name)}" for name in columns]
    joins = []
    for number, view in enumerate(views):
        alias = f"v{number}_"
        found, is_single = _visible_rows(connection, view, first, last)
        on = [f"e.{quote(key)} = {alias}.key{i}_" for i, (_, key) in enumerate(view.keys)]
        join = f"left join ({found}) {alias} on {' and '.join([*on, f'e.time_ >= {alias}.effective_'])}"
        if is_wide and not is_single:
            needed = ", ".join(["row_", "time_", *dict.fromkeys(quote(key) for _, key in view.keys)])
            by_number = f"select e.row_, {alias}.* from (select {needed} from {entities}) e asof {join}"
            join = f"left join ({by_number}) {alias} on {alias}.row_ = e.row_"
        elif not is_single:
            join = f"asof {join}"
        joins.append(join)
        fresh = f"{alias}.event_ >= e.time_ - {_interval(view.ttl)}" if view.ttl else "true"
        output += [f"{alias}.effective_ as {quote(view.name + KNOWN_TIME)}"] if known_times else []
        output += [
            f"case when {fresh} then {alias}.feature{i}_ end as {quote(name)}"
            for i, (_, name) in enumerate(view.features)
        ]
    return f"select e.row_, {', '.join(output)} from {entities} e {' '.join(joins)} order by e.row_"


def _carried(columns: Sequence[str], views: Sequence[JoinedView]) -> int:
    """Columns of the entity rows' side in a chain of joins, over all views: each one's features go on to the next."""
    return sum(len(columns) + sum(len(before.features) for before in views[:number]) for number in range(len(views)))


def _visible_rows(
    connection: duckdb.DuckDBPyConnection, view: JoinedView, first: datetime | None, last: datetime | None
) -> tuple[str, bool]:
    """The rows of a view that are, for some time, the newest that is known; and whether there is but one of each key.

    Without key, nothing matches.
    """
    event = quote(view.event)
    created = f"coalesce({quote(view.created)}, {event})" if view.created else event
    selected = [f"{quote(column)} as key{i}_" for i, (column, _) in enumerate(view.keys)]
    selected += [f"{quote(column)} as feature{i}_" for i, (column, _) in enumerate(view.features)]
    selected += [f"{event} as event_", f"{created} as created_", f"greatest({event}, {created}) as effective_"]
    where = [f"{quote(column)} is not null" for column, _ in view.keys] + [f"{event} is not null"]
    if first is not None and last is not None:
        # What is older than the ttl at the first entity row is null for all of them, and so is what it hides.
        where += [f"{event} >= {_literal(first)} - {_interval(view.ttl)}"] if view.ttl else []
        where += [f"{event} <= {_literal(last)}", f"{created} <= {_literal(last)}"]
    rows = f"select {', '.join(selected)} from {quote(view.table)} where {' and '.join(where)}"
    keys = [f"key{i}_" for i in range(len(view.keys))]
    if not may_repeat(connection, f"({rows})", keys):
        return rows, True
    if _appear_in_order(connection, rows, keys):  # the usual feature table; windows would double the time of the join
        return rows, False
    return (
        f"select * from ({rows}) window known as (partition by {', '.join(keys)}"
        " order by effective_, event_, created_)"
        " qualify case when lead(event_) over known = event_ and lead(created_) over known = created_"
        f" then {_duplicate(view.table, keys, 'event_')}"
        " when lead(effective_) over known = effective_ then false"
        " else max(event_) over known <= event_ end"
    ), False


def _appear_in_order(connection: duckdb.DuckDBPyConnection, rows: str, keys: Sequence[str]) -> bool:
    """Whether no row can beat another: one row for each event of a key, all of them known equally long after it."""
    # Infinite times have no distance; -1 tells them from those that have one.
    late = (
        "case when isfinite(event_) and isfinite(effective_) then epoch_us(effective_) - epoch_us(event_) else -1 end"
    )
    (is_even,) = connection.execute(f"select min({late}) is not distinct from max({late}) from ({rows})").fetchall()[0]
    # Where two hashes are equal by chance, windows are used without need.
    return bool(is_even) and not may_repeat(connection, f"({rows})", [*keys, "event_"])


def _check_names(columns: list[str], views: Sequence[JoinedView]) -> None:
    # DuckDB's names know no case.
    taken = {name.lower(): "an entity column" for name in columns}
    for view in views:
        for _, name in view.features:
            if other := taken.get(name.lower()):
                raise FeatureError(
                    f"feature {name!r} of view {view.name!r} has the name of {other}",
                    fix="rename one of them, or ask for full feature names",
                )
            taken[name.lower()] = f"a feature of view {view.name!r}"


def all_sql(
    table: str,
    columns: Sequence[str],
    event: str,
    start: datetime | None,
    end: datetime | None,
) -> str:
    """The rows whose event is in [start, end]."""
    selected = ", ".join(quote(column) for column in dict.fromkeys(columns))
    bounds = [f"{quote(event)} >= {_literal(start)}"] if start else []
    bounds += [f"{quote(event)} <= {_literal(end)}"] if end else []
    return f"select {selected} from {quote(table)} where {' and '.join(bounds) or 'true'}"


def _literal(moment: datetime) -> str:
    utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"timestamptz '{utc.isoformat()}'"


def _interval(length: timedelta) -> str:
    return f"to_microseconds({length // timedelta(microseconds=1)})"


def _duplicate(table: str, keys: Sequence[str], event: str) -> str:
    values = " || ', ' || ".join(f"coalesce({key}::varchar, 'null')" for key in [*keys, event])
    return f"error('{table}: {AMBIGUOUS}, event and created time: ' || {values})"
