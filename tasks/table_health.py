"""Table health: each lake table of the recipe by day, counted in one query, and judged against what is usual."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from configs.sections.loop import MonitorSection
from configs.settings import load_settings
from tasks import home
from tasks.core.health import TableDays, TableHealth, days_to_read, judge_table
from tasks.core.model_rows import CREATED, EVENT, literal, quote
from tasks.core.observation import days_of
from tasks.core.records import TableRef, Window

DAY = timedelta(days=1)
NUMBERS = ("DOUBLE", "FLOAT", "INTEGER", "BIGINT", "SMALLINT", "TINYINT", "HUGEINT")


def judge_tables(
    project: str, tables: Sequence[TableRef], window: Window, monitor: MonitorSection
) -> tuple[TableHealth, ...]:
    """`tables` are versions of lake tables that are ingested."""
    days = days_of(window)
    return tuple(
        judge_table(
            count_days(project, table, window.end, days_to_read(days)),
            days,
            max_volume_change=monitor.max_volume_change,
            quarantined=quarantined_fraction(project, table, window),
            max_quarantined=monitor.max_quarantine_fraction,
        )
        for table in tables
    )


def count_days(project: str, table: TableRef, until: datetime, num_days: int) -> TableDays:
    """Rows, different values and age of the newest row, by day back from `until`, as it was known then."""
    start = until - num_days * DAY
    with home.open_lake(project).connect({table.name: table.version}) as connection:
        types = {name: kind for name, kind, *_ in connection.sql(f"describe {quote(table.name)}").fetchall()}
        columns = [name for name, kind in types.items() if kind in NUMBERS or kind.startswith("DECIMAL")]
        values = "".join(f", count(distinct {quote(name)})" for name in columns)
        known = f"{CREATED} <= {literal(until)}"
        # A day is open at its older end's side of time and begins with it: an event at `until` is not over yet.
        day = f"ceil((epoch({literal(until)}) - epoch({EVENT})) / 86400)::int - 1"
        found = connection.sql(
            f"select {day} as day, count(*){values} from {quote(table.name)} where {known}"
            f" and {EVENT} >= {literal(start)} and {EVENT} < {literal(until)} group by 1"
        ).fetchall()
        moments = [until - day * DAY for day in range(num_days)]
        newest = ", ".join(f"max({CREATED}) filter ({CREATED} <= {literal(moment)})" for moment in moments)
        ages = connection.sql(f"select {newest} from {quote(table.name)} where {known}").fetchall()[0]
    by_day = {int(day): counts for day, *counts in found}
    nothing = [0] * (1 + len(columns))
    lines = [by_day.get(day, nothing) for day in range(num_days)]
    return TableDays(
        table=table.name,
        rows=tuple(line[0] for line in lines),
        newest_age_hours=tuple(
            None if known is None else (moment - known) / timedelta(hours=1)
            for moment, known in zip(moments, ages, strict=True)
        ),
        different_values={name: tuple(line[1 + place] for line in lines) for place, name in enumerate(columns)},
    )


def quarantined_fraction(project: str, table: TableRef, window: Window) -> float:
    """Of the rows of the batches that were published in the window, the share that was put aside and is there still."""
    import pyarrow.parquet as pq

    folder = load_settings().folder("quarantine", project) / table.name
    commits = [commit.properties for commit in home.open_lake(project).commits(table.name)]
    mine = [said for said in commits if _is_within(said, window)]
    published = sum(int(said["inserted_rows"]) for said in mine)
    files = [folder / f"{said.get('batch_id')}.parquet" for said in mine]
    aside = sum(pq.ParquetFile(path).metadata.num_rows for path in files if path.exists())
    return aside / max(published + aside, 1)


def _is_within(said: Mapping[str, str], window: Window) -> bool:
    return "as_of" in said and window.start < datetime.fromisoformat(said["as_of"]) <= window.end
