"""Cost of a suite of 20 expectations over 10 million flights: ours against one DuckDB query and Great Expectations.

`audit` is ours, from the staged Parquet file to findings and the Data Docs page. `by hand` is one query that counts
what fails of each expectation. Great Expectations runs the same suite on DuckDB, without the query that shows first
what holds, and on a pandas frame, which is given fewer rows.

Run: python -m tests.benchmarks validation [--rows 10000000] [--pandas-rows 1000000]
"""

import argparse
import tempfile
from pathlib import Path
from unittest.mock import patch

from tests.benchmarks.many_flights import REAL_ROWS, enter, many, stage
from tests.benchmarks.measuring import Cost, machine, measure, measure_in_turn, print_costs

HERE = "tests.benchmarks.bench_validation"
IMPORTS = ("duckdb", "pandas", "pyarrow.parquet", "sqlalchemy", "great_expectations", "tasks.stores.suite_audit")
ROWS, PANDAS_ROWS = 10_000_000, 1_000_000
KEY = ["carrier", "flight", "origin", "scheduled_departure"]
BETWEEN = {
    "flight": (1, 10_000_000), "distance_miles": (10, 6000), "scheduled_departure_hour": (0, 23),
    "scheduled_departure_minute": (0, 59), "scheduled_arrival_hour": (0, 24), "weekday": (1, 7),
}  # fmt: skip
NOT_NULL = ("carrier", "origin", "dest", "scheduled_departure", "event_timestamp", "created_timestamp")
LENGTHS = {"carrier": 2, "origin": 3, "dest": 3}


def expectations() -> list[dict]:
    def line(kind: str, **kwargs: object) -> dict:
        return {"type": f"expect_{kind}", "kwargs": kwargs}

    return [
        *(line("column_values_to_not_be_null", column=name) for name in NOT_NULL),
        *(
            line("column_values_to_be_between", column=name, min_value=low, max_value=high)
            for name, (low, high) in BETWEEN.items()
        ),
        *(
            line("column_value_lengths_to_be_between", column=name, min_value=size, max_value=size)
            for name, size in LENGTHS.items()
        ),
        line("column_values_to_be_in_set", column="origin", value_set=["EWR", "JFK", "LGA"]),
        line("column_mean_to_be_between", column="distance_miles", min_value=500, max_value=1600),
        line("column_unique_value_count_to_be_between", column="carrier", min_value=8, max_value=25),
        line("column_values_to_not_be_null", column="tailnum", mostly=0.9),
        line("compound_columns_to_be_unique", column_list=KEY),
    ]


def make_rows(home: str, rows: int) -> int:
    enter(home)
    import duckdb

    from tests.benchmarks.many_flights import AS_OF, START

    source = many(stage(home)["schedule"], -(-rows // REAL_ROWS), START, AS_OF)
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        made = connection.execute(f"copy (select * from ({source}) limit {rows}) to '{home}/{rows}.parquet'")
        return int(made.fetchall()[0][0])


def ours(path: str) -> int:
    """Findings: none."""
    import duckdb

    from tasks.stores.suite_audit import audit
    from tasks.stores.suites import Expectation, Suite

    lines = (Expectation(one["type"], one["kwargs"], "critical", "batch") for one in expectations())
    suite, docs, limit = Suite("bench", tuple(lines)), Path(path).with_suffix(".html"), "1GB"
    with duckdb.connect(config={"memory_limit": limit}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        return len(audit(connection, path, suite, docs=docs, memory_limit=limit))


def gx_duckdb(path: str) -> int:
    with patch("tasks.stores.suite_audit.show", lambda *_: {}):
        return ours(path)


def gx_pandas(path: str) -> int:
    import great_expectations as gx
    import pandas as pd
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    context = gx.get_context(mode="ephemeral")
    source = context.data_sources.add_pandas("frame").add_dataframe_asset("rows")
    batch = source.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": pd.read_parquet(path)})
    lines = [ExpectationConfiguration(**one).to_domain_obj() for one in expectations()]
    result = batch.validate(gx.ExpectationSuite("bench", expectations=lines), result_format="SUMMARY")
    return sum(not one.success for one in result.results)


def by_hand(path: str) -> int:
    import duckdb

    within = [f"count(*) filter ({name} < {low} or {name} > {high})" for name, (low, high) in BETWEEN.items()]
    asked = [
        *(f"count(*) filter ({name} is null)" for name in NOT_NULL),
        *within,
        *(f"count(*) filter (length({name}) <> {size})" for name, size in LENGTHS.items()),
        "count(*) filter (origin not in ('EWR', 'JFK', 'LGA'))",
        "(avg(distance_miles) not between 500 and 1600)::int",
        "(count(distinct carrier) not between 8 and 25)::int",
        "(count(tailnum) < .9 * count(*))::int",
        f"count(*) - count(distinct ({', '.join(KEY)}))",
    ]
    with duckdb.connect(config={"memory_limit": "4GB"}) as connection:
        found = connection.execute(f"select {', '.join(asked)} from '{path}'").fetchall()[0]
    return sum(map(int, found))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=ROWS)
    options.add_argument("--pandas-rows", type=int, default=PANDAS_ROWS)
    options.add_argument("--repetitions", type=int, default=3)
    chosen = options.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as home:
        compare(home, chosen.rows, ("ours", "by_hand", "gx_duckdb"), chosen.repetitions)
        compare(home, chosen.pandas_rows, ("ours", "gx_pandas"), 1)


def compare(home: str, rows: int, names: tuple[str, ...], repetitions: int) -> dict[str, list[Cost]]:
    if not Path(f"{home}/{rows}.parquet").exists():
        measure(f"{HERE}:make_rows", home=home, rows=rows)
    functions = {name: f"{HERE}:{name}" for name in names}
    costs = measure_in_turn(functions, repetitions, IMPORTS, path=f"{home}/{rows}.parquet")
    print(f"{rows:,} rows, {len(expectations())} expectations")
    print_costs(costs, "fail")
    return costs


if __name__ == "__main__":
    main()
