"""Cost of building every feature table of `flights`: ours against its SQL run by hand, at 3.3 million flights.

By hand is the least that could be done: DuckDB reads the same Delta files, runs the same SQL, and writes each table to
one Parquet file in order of time. Ours finds out what is new, checks what the SQL gave, tries it for look-ahead and
commits to Delta. Beside them stands the build of one more day, and the rolling windows as they are mostly written.

Run: python -m tests.benchmarks features [--copies 1 10]
"""

import argparse
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from tests.benchmarks.many_flights import AS_OF, PROJECT, REAL_ROWS, START, enter, references
from tests.benchmarks.measuring import Cost, machine, measure, measure_in_turn, ratio, typical

HERE, MAKE = "tests.benchmarks.bench_features", "tests.benchmarks.many_flights:make_lake"
IMPORTS = ("feast", "pandas", "prefect", "deltalake", "duckdb", "tasks.features", "tasks.stores.asof_store")
SERVICE, LAST_DAY = ("flight_delay",), datetime.fromisoformat("2013-12-30T00:00:00+00:00")
COPIES = (1, 10)


def ours(home: str, until: str = AS_OF.isoformat(), anew: bool = True) -> int:
    """Rows written by a build of every table. `anew`: without those that were built before."""
    enter(home)
    import shutil

    from tasks import features
    from tasks.home import open_feature_store, open_lake

    lake, store = open_lake(PROJECT), open_feature_store(PROJECT)
    asked = store.definitions.tables(SERVICE)
    for name in asked if anew else ():
        shutil.rmtree(f"{lake.uri}/{name}", ignore_errors=True)
    sources = {ref.name: ref for ref in references()}
    builder = features.Builder(lake, store.folder / PROJECT, sources, asked, datetime.fromisoformat(until))
    for name in asked:
        builder.build(name)
    return builder.written_rows


def by_hand(home: str) -> int:
    """Rows of the same tables, each in a Parquet file."""
    enter(home)
    from tasks.home import open_feature_store, open_lake

    folder, rows = open_feature_store(PROJECT).folder / PROJECT, 0
    (Path(home) / "by_hand").mkdir(exist_ok=True)
    for path in sorted(folder.glob("*.sql")):
        with open_lake(PROJECT).connect({ref.name: ref.version for ref in references()}) as connection:
            sql, told = path.read_text(), {"start": START - timedelta(days=9), "end": AS_OF}
            target = f"{home}/by_hand/{path.stem}.parquet"
            known = {name: value for name, value in told.items() if f"${name}" in sql}
            made = f"copy (select * from ({sql}\n) order by event_timestamp) to '{target}' (format parquet)"
            rows += connection.execute(made, known).fetchall()[0][0]
    return rows


def one_more_day(home: str) -> int:
    """Rows written when the build before ended a day earlier."""
    return ours(home, anew=False)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--copies", type=int, nargs="+", default=COPIES)
    options.add_argument("--repetitions", type=int, default=3)
    chosen = options.parse_args()
    print(machine())
    for copies in chosen.copies:
        with tempfile.TemporaryDirectory() as home:
            measure(MAKE, home=home, copies=copies)
            compare(home, copies, chosen.repetitions)


def compare(home: str, copies: int, repetitions: int) -> dict[str, list[Cost]]:
    functions = {"ours": f"{HERE}:ours", "by hand": f"{HERE}:by_hand"}
    costs = measure_in_turn(functions, repetitions, IMPORTS, home=home)
    print(f"{copies * REAL_ROWS:,} flights, 10 feature tables")
    for name, each in costs.items():
        beside = "" if name == "ours" else f"  ours: {ratio(costs['ours'], each)}"
        print(f"  {name:10}{typical(each)}  {typical(each).result:,} rows{beside}", flush=True)
    return costs


if __name__ == "__main__":
    main()
