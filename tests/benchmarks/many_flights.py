"""The flights of 2013 many times over: the lake of `flights` as it would be with 3, 34 or 100 million rows a table.

The real rows are ingested once, as the recipe says. Every further copy is another airline of the same size: its flight
and tail numbers are its own, and its times differ from the real ones by up to an hour, alike in every table.
"""

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.core.records import TableRef

PROJECT, START, AS_OF = "flights", datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 2, 1, tzinfo=UTC)
COPIED, SMALL = ("schedule", "departures", "arrivals"), ("weather", "planes", "airports", "airlines")
REAL_ROWS = 336_776  # of `schedule`
_JITTER = "to_seconds((hash(copy_, carrier, flight, origin, scheduled_departure) % 3600)::int)"
_TIMES = ("scheduled_departure", "event_timestamp", "created_timestamp")


def enter(home: str) -> None:
    """Make `home` this process's home, before anything of the stack is imported."""
    os.environ["PERENNIAL_HOME"] = home
    from configs.settings import prepare_environment

    prepare_environment()


def stage(home: str) -> dict[str, str]:
    """Parquet files of the real rows of each table, made by the recipe's own ingestion where they are not there."""
    from configs.recipe import load_recipe
    from tasks.ingestion import stage_table

    real = Path(home) / "real"
    real.mkdir(parents=True, exist_ok=True)
    for name, table in load_recipe(PROJECT).tables.items():
        if not (real / f"{name}.parquet").exists():
            Path(stage_table.fn(PROJECT, name, table, START, AS_OF).uri).replace(real / f"{name}.parquet")
    return {name: str(real / f"{name}.parquet") for name in (*COPIED, *SMALL)}


def many(path: str, copies: int, start: datetime, end: datetime) -> str:
    """SQL of the rows of [start, end) of a table, those of flights `copies` times."""
    rows, within = f"read_parquet('{path}')", f"event_timestamp < timestamptz '{end}' and event_timestamp"
    if Path(path).stem not in COPIED:
        return f"select * from {rows} where {within} >= timestamptz '{start}'"
    moved = [f"{time} + if(copy_ = 0, interval 0 second, {_JITTER}) as {time}" for time in _TIMES]
    own = ["if(copy_ = 0, tailnum, tailnum || '.' || copy_) as tailnum", "flight + 10000 * copy_::int as flight"]
    near = f"select * from {rows} where {within} >= timestamptz '{start - timedelta(hours=1)}'"
    copied = f"select * exclude (copy_) replace ({', '.join(moved + own)}) from ({near}), range({copies}) c(copy_)"
    return f"select * from ({copied}) where {within} >= timestamptz '{start}'"


def make_lake(home: str, copies: int, tables: tuple[str, ...] = (*COPIED, *SMALL)) -> dict[str, int]:
    """Tables of the lake, month by month; those with flights have `copies` times the real rows. Rows of each."""
    enter(home)
    from tasks.home import open_lake

    lake, staged = open_lake(PROJECT), stage(home)
    for name in tables:
        for start, end in _months():
            said = {"digest": f"{copies:016x}", "inserted_rows": "0", "min_created": start.isoformat()}
            with lake.session() as connection:
                rows = connection.sql(many(staged[name], copies, start, end)).to_arrow_reader(100_000)
                lake.replace(name, rows, start=start if lake.exists(name) else None, properties=said)
    return {name: lake.latest(name).rows for name in tables}


def _months() -> Iterator[tuple[datetime, datetime]]:
    # A jitter moves the last flights into the next year.
    firsts = [datetime(2013 + m // 12, m % 12 + 1, 1, tzinfo=UTC) for m in range(15)]
    yield from itertools.pairwise(firsts)


def references() -> tuple[TableRef, ...]:
    """The tables that were made."""
    from tasks.home import open_lake

    lake = open_lake(PROJECT)
    return tuple(lake.latest(name) for name in (*COPIED, *SMALL) if lake.exists(name))
