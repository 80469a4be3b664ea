"""Is the data whole? Each lake table by day, against what is usual for it: volume, freshness, values that stand still.

Days are counted back from the moment of the monitor, 24 hours each, number 0 the latest: seven earlier is then the same
weekday, whatever the time of day.
"""

from dataclasses import dataclass, field
from statistics import median

from tasks.core.records import Record

USUAL_WEEKS = 4
MIN_USUAL_ROWS = 20  # of a day; below it, half of them missing can be chance
MIN_USUAL_DAYS = 7
MIN_USUAL_VALUES, STANDS_STILL = 8, 1 / 3  # different values of a day, and the share of the least usual that is too few
LATER, MIN_LATER_HOURS = 2.0, 6.0  # than the oldest that the newest row usually is


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDays(Record):
    """One table, by day."""

    table: str
    rows: tuple[int, ...]
    newest_age_hours: tuple[float | None, ...]  # at the end of each day: how long ago the newest row became known
    different_values: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of each column of numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHealth(Record):
    """One table in the window, beside what is usual, and what is wrong with it."""

    table: str
    rows: int
    usual_rows: float | None  # None where there is no usual yet
    newest_age_hours: float | None
    usual_age_hours: float | None  # at most
    quarantined_fraction: float = 0.0
    faults: tuple[str, ...] = ()


def days_to_read(window_days: int) -> int:
    return window_days + 7 * USUAL_WEEKS


def judge_table(
    days: TableDays,
    window_days: int,
    *,
    max_volume_change: float,
    quarantined: float = 0.0,
    max_quarantined: float = 1.0,
) -> TableHealth:
    """`quarantined` is the share of the window's rows that were put aside."""
    usual = [_usual_rows(days.rows, day, window_days) for day in range(window_days)]
    known = [value for value in usual if value is not None]
    ages = [age for age in days.newest_age_hours[window_days:] if age is not None]
    usual_age = max(ages) if len(ages) >= MIN_USUAL_DAYS else None
    faults = [
        *_late(days, window_days, usual_age),
        *_volume(days, usual, max_volume_change),
        *_still(days, window_days),
    ]
    if quarantined > max_quarantined:
        faults.append(
            f"{days.table}: {quarantined:.1%} of its rows were quarantined, at most {max_quarantined:.1%} may be"
        )
    return TableHealth(
        table=days.table,
        rows=sum(days.rows[:window_days]),
        usual_rows=sum(known) if len(known) == window_days else None,
        newest_age_hours=days.newest_age_hours[0],
        usual_age_hours=usual_age,
        quarantined_fraction=quarantined,
        faults=tuple(faults),
    )


def _usual_rows(rows: tuple[int, ...], day: int, window_days: int) -> float | None:
    """The median of the same weekday in the weeks before the window; None where it is too little to go by."""
    first = day + 7 * -(-(window_days - day) // 7)
    before = rows[first : first + 7 * USUAL_WEEKS : 7]
    usual = median(before) if before else 0
    return float(usual) if usual >= MIN_USUAL_ROWS else None


def _volume(days: TableDays, usual: list[float | None], max_change: float) -> list[str]:
    """Days with too few rows, or too many; as one sentence."""
    low, high = 1 - max_change, 1 / (1 - max_change)
    odd = [
        (day, days.rows[day], expected)
        for day, expected in enumerate(usual)
        if expected is not None and not low <= days.rows[day] / expected <= high
    ]
    if not odd:
        return []
    got, expected = sum(rows for _, rows, _ in odd), sum(value for _, _, value in odd)
    return [
        f"{days.table}: {got:,} rows on {len(odd)} of {len(usual)} days, the latest {_ago(odd[0][0])}, "
        f"usually {expected:,.0f} ({got / expected:.0%})"
    ]


def _late(days: TableDays, window_days: int, usual: float | None) -> list[str]:
    if usual is None:
        return []
    limit = max(LATER * usual, usual + MIN_LATER_HOURS)
    for day, age in enumerate(days.newest_age_hours[:window_days]):
        if age is not None and age > limit:
            return [
                f"{days.table}: no new row for {age:,.0f} hours ({_ago(day)}), usually {usual:,.1f} at most: "
                "the feed stands still, or ingest refuses it"
            ]
    return []


def _still(days: TableDays, window_days: int) -> list[str]:
    """Columns that keep a few values through a whole day, where a day usually brings many.

    A day with few rows has few values; that its rows are missing is said elsewhere.
    """
    faults = []
    enough = max(MIN_USUAL_ROWS, median(days.rows[window_days:] or (0,)) / 2)
    for column, values in days.different_values.items():
        usual = [value for value, rows in zip(values, days.rows, strict=True) if rows >= MIN_USUAL_ROWS][window_days:]
        least = min(usual) if len(usual) >= MIN_USUAL_DAYS else 0
        for day in range(window_days):
            rows = days.rows[day]
            if least >= MIN_USUAL_VALUES and rows >= enough and values[day] <= least * STANDS_STILL:
                faults.append(
                    f"{days.table}.{column}: {values[day]} different values in a day ({_ago(day)}), usually at least "
                    f"{least}: the feed is frozen"
                )
                break
    return faults


def _ago(day: int) -> str:
    return {0: "in the last 24 hours", 1: "a day ago"}.get(day, f"{day} days ago")
