"""Cost of one more day: the same 3,600 rows inserted into `departures` with 0.3, 3.3 and 33 million rows.

Three days of the batch are there already, as with a lookback for late rows; the fourth, of 983 rows, is new. What is
measured is what depends on the table: the insert, from the staged file to the commit.

Run: python -m tests.benchmarks ingest [--copies 1 10 100]
"""

import argparse
import tempfile
from pathlib import Path

from tests.benchmarks.many_flights import PROJECT, REAL_ROWS, enter, stage
from tests.benchmarks.measuring import Cost, machine, measure, ratio, typical

HERE, MAKE = "tests.benchmarks.bench_ingest", "tests.benchmarks.many_flights:make_lake"
IMPORTS = ("duckdb", "deltalake", "pyarrow", "fsspec", "tasks.stores.lake", "tasks.home", "configs.recipe")
TABLE, COPIES = "departures", (1, 10, 100)
NEW_DAY = "event_timestamp >= timestamptz '2013-12-30 00:00Z' and event_timestamp < timestamptz '2013-12-31 00:00Z'"
THREE_DAYS = "event_timestamp >= timestamptz '2013-12-27 00:00Z' and event_timestamp < timestamptz '2013-12-30 00:00Z'"


def make_batch(home: str) -> int:
    enter(home)
    import duckdb

    rows = f"from '{stage(home)[TABLE]}'"
    new = f"select * replace (flight + 5000 as flight) {rows} where {NEW_DAY}"
    query = f"select * {rows} where {THREE_DAYS} union all {new}"
    return int(duckdb.sql(f"copy ({query}) to '{home}/batch.parquet'").fetchall()[0][0])


def insert(home: str) -> int:
    """Rows inserted."""
    enter(home)
    from configs.recipe import load_recipe
    from tasks.home import open_lake

    key = load_recipe(PROJECT).tables[TABLE].key
    return open_lake(PROJECT).insert(TABLE, f"{home}/batch.parquet", key=key)[1]


def take_back(home: str) -> None:
    """Forget the newest commit, so that the next round finds the table as this one did."""
    max((Path(home) / "lake" / PROJECT / TABLE / "_delta_log").glob("*.json")).unlink()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--copies", type=int, nargs="+", default=COPIES)
    options.add_argument("--repetitions", type=int, default=3)
    chosen = options.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        homes = {copies: f"{folder}/{copies}" for copies in chosen.copies}
        for copies, home in homes.items():
            measure(MAKE, home=home, copies=copies, tables=[TABLE])
        compare(homes, chosen.repetitions)


def compare(homes: dict[int, str], repetitions: int) -> dict[int, list[Cost]]:
    rows = [measure(f"{HERE}:make_batch", home=home).result for home in homes.values()]
    costs: dict[int, list[Cost]] = {copies: [] for copies in homes}
    for _ in range(repetitions):
        for copies, home in homes.items():
            costs[copies].append(measure(f"{HERE}:insert", IMPORTS, home=home))
            take_back(home)
    least = min(homes)
    for copies, each in costs.items():
        beside = "" if copies == least else f"  beside the least: {ratio(each, costs[least])}"
        into = f"{rows[0]:,} rows into {copies * REAL_ROWS:,}"
        print(f"  {into:30}{typical(each)}  {typical(each).result:,} new{beside}", flush=True)
    return costs


if __name__ == "__main__":
    main()
