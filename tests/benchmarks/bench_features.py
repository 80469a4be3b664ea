"""Cost of building every feature table of `flights`: ours against its SQL run by hand, at 3.3 million flights.

By hand is the least that could be done: DuckDB reads the same Delta files, runs the same SQL, and writes each table to
one Parquet file in order of time. Ours finds out what is new, checks what the SQL gave, tries it for look-ahead and
commits to Delta.

Run: python -m tests.benchmarks features [--copies 1 10] [--tables departures_by_dest]
"""

import argparse
import tempfile
from datetime import timedelta
from pathlib import Path

from tests.benchmarks.many_flights import AS_OF, PROJECT, REAL_ROWS, START, enter, references
from tests.benchmarks.measuring import Cost, machine, measure, measure_in_turn, print_costs

HERE, MAKE = "tests.benchmarks.bench_features", "tests.benchmarks.many_flights:make_lake"
IMPORTS = ("feast", "pandas", "prefect", "deltalake", "duckdb", "tasks.features", "tasks.stores.asof_store")
SERVICE, COPIES = ("flight_delay",), (1, 10)


def ours(home: str, tables: list[str]) -> int:
    """Rows written by a build of the feature tables, all of them where none is named."""
    enter(home)
    import shutil

    from tasks import features
    from tasks.home import open_feature_store, open_lake

    lake, store = open_lake(PROJECT), open_feature_store(PROJECT)
    asked = store.definitions.tables(SERVICE)
    for name in asked:
        shutil.rmtree(f"{lake.uri}/{name}", ignore_errors=True)
    sources = {ref.name: ref for ref in references()}
    with features.Builder(lake, store.folder / PROJECT, sources, asked, AS_OF) as builder:
        for name in tables or asked:
            builder.begin(name)
        return sum(one.result().written_rows for one in builder.built.values())


def by_hand(home: str, tables: list[str]) -> int:
    """Rows of the same tables, each in a Parquet file."""
    enter(home)
    from tasks.home import open_feature_store, open_lake

    folder, rows = open_feature_store(PROJECT).folder / PROJECT, 0
    (Path(home) / "by_hand").mkdir(exist_ok=True)
    for path in [folder / f"{name}.sql" for name in tables] or sorted(folder.glob("*.sql")):
        with open_lake(PROJECT).connect({ref.name: ref.version for ref in references()}) as connection:
            sql, told = path.read_text(), {"start": START - timedelta(days=9), "end": AS_OF}
            target = f"{home}/by_hand/{path.stem}.parquet"
            known = {name: value for name, value in told.items() if f"${name}" in sql}
            made = f"copy (select * from ({sql}\n) order by event_timestamp) to '{target}' (format parquet)"
            rows += connection.execute(made, known).fetchall()[0][0]
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--copies", type=int, nargs="+", default=COPIES)
    options.add_argument("--tables", nargs="*", default=[])
    options.add_argument("--repetitions", type=int, default=3)
    chosen = options.parse_args()
    print(machine())
    for copies in chosen.copies:
        with tempfile.TemporaryDirectory() as home:
            measure(MAKE, home=home, copies=copies)
            compare(home, copies, chosen.repetitions, chosen.tables)


def compare(home: str, copies: int, repetitions: int, tables: list[str]) -> dict[str, list[Cost]]:
    functions = {"ours": f"{HERE}:ours", "by hand": f"{HERE}:by_hand"}
    costs = measure_in_turn(functions, repetitions, IMPORTS, home=home, tables=tables)
    print(f"{copies * REAL_ROWS:,} flights, {', '.join(tables) or 'all feature tables'}")
    print_costs(costs, "rows")
    return costs


if __name__ == "__main__":
    main()
