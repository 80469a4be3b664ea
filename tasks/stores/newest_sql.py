"""The newest row of each key, as SQL: what goes to the online store."""

from collections.abc import Sequence
from datetime import datetime

from tasks.stores.asof_sql import AMBIGUOUS, all_sql, quote
from tasks.stores.lake_sql import iso


def newest_sql(
    table: str,
    keys: Sequence[str],
    columns: Sequence[str],
    event: str,
    created: str | None,
    start: datetime,
    end: datetime,
) -> str:
    """The newest row of each key whose event is in [start, end], of those that are known at `end`, in order of keys.

    An online store keeps its rows by key: keys that follow each other are written to pages that do. In any other order
    every batch would touch all of them. Of the rows only times and keys are looked at; the other columns are read of
    the newest alone.
    """
    names, event_ = [quote(key) for key in keys], quote(event)
    key, created_ = ", ".join(names), f"coalesce({quote(created)}, {event_})" if created else event_
    known = f"{created_} <= timestamptz '{iso(end)}'"
    events = f"{all_sql(table, [*keys, event, *([created] if created else [])], event, start, end)} and {known}"
    values = " || ', ' || ".join(f"coalesce({name}::varchar, 'null')" for name in (*names, event_))
    twice = f"error('{table}: {AMBIGUOUS}, event and created time: ' || {values})"
    return (
        f"select * from ({all_sql(table, columns, event, start, end)} and {known})"
        f" semi join (select {key}, max({event_}) as {event_} from ({events}) group by {key}) using ({key}, {event_})"
        f" window newest as (partition by {key} order by {created_} desc)"
        f" qualify case when row_number() over newest > 1 then false"
        f" when lead({created_}) over newest = {created_} then {twice} else true end order by {key}"
    )
