"""Tables by day: what is usual passes, what is planted is named."""

import pytest

from tasks.core.health import TableDays, days_to_read, judge_table

WINDOW = 7
NUM_DAYS = days_to_read(WINDOW)


def quiet(table: str = "weather", **changes) -> dict:
    """Five weeks of 72 rows a day, 50 on two days of the week; number 0 is the latest day."""
    rows = [50 if day % 7 in (1, 2) else 72 for day in range(NUM_DAYS)]
    return {
        "table": table,
        "rows": rows,
        "newest_age_hours": [1.0] * NUM_DAYS,
        "different_values": {"temperature": [30 + day % 5 for day in range(NUM_DAYS)], "rain": [1] * NUM_DAYS},
    } | changes


def judge(made: dict, **more):
    days = TableDays(
        table=made["table"],
        rows=tuple(made["rows"]),
        newest_age_hours=tuple(made["newest_age_hours"]),
        different_values={name: tuple(values) for name, values in made["different_values"].items()},
    )
    return judge_table(days, WINDOW, max_volume_change=0.4, **more)


def test_a_quiet_week_has_no_fault_and_is_as_usual():
    health = judge(quiet())
    assert health.faults == ()
    assert health.rows == health.usual_rows == 5 * 72 + 2 * 50


def test_half_of_the_rows_missing_is_named_with_its_share():
    made = quiet()
    made["rows"][:WINDOW] = [rows // 2 for rows in made["rows"][:WINDOW]]
    (fault,) = judge(made).faults
    assert fault.startswith("weather: 230 rows on 7 of 7 days")
    assert "50%" in fault


def test_one_day_without_rows_is_named_and_doubled_rows_too():
    made = quiet()
    made["rows"][3] = 0
    (fault,) = judge(made).faults
    assert "0 rows on 1 of 7 days, the latest 3 days ago, usually 72" in fault
    made["rows"][3] = 144
    assert "144 rows" in judge(made).faults[0]


def test_a_weekend_is_measured_by_weekends():
    made = quiet(rows=[20 if day % 7 in (1, 2) else 72 for day in range(NUM_DAYS)])
    assert judge(made).faults == ()


def test_a_feed_that_stands_still_is_late_and_one_that_repeats_itself_is_frozen():
    made = quiet()
    made["newest_age_hours"][0] = 25.0
    (fault,) = judge(made).faults
    assert "weather: no new row for 25 hours" in fault
    made = quiet()
    made["different_values"]["temperature"][2] = 3
    (fault,) = judge(made).faults
    assert fault.startswith("weather.temperature: 3 different values in a day (2 days ago)")
    made["rows"][2] //= 4
    (fault,) = judge(made).faults
    assert "rows on 1 of 7 days" in fault, "few rows have few values: nothing is frozen"


def test_what_is_always_so_is_no_fault():
    register = {"rows": [0] * NUM_DAYS, "newest_age_hours": [2000 - 24.0 * day for day in range(NUM_DAYS)]}
    health = judge(quiet("planes", different_values={}, **register))
    assert (health.faults, health.usual_rows) == ((), None)


def test_a_table_that_has_no_past_yet_is_not_judged_by_it():
    made = quiet()
    made["rows"][WINDOW:] = [0] * (NUM_DAYS - WINDOW)
    made["newest_age_hours"][WINDOW:] = [None] * (NUM_DAYS - WINDOW)
    assert judge(made).faults == ()


@pytest.mark.parametrize(("share", "faults"), [(0.01, 0), (0.03, 1)])
def test_quarantine_counts_from_its_limit(share, faults):
    assert len(judge(quiet(), quarantined=share, max_quarantined=0.02).faults) == faults
