"""Cost of the point-in-time join: our store against DuckDB's ASOF JOIN written by hand, and Feast's stock store.

Entity rows are joined with three views from the same Delta files: one of many keys by the hour (ttl a day), one of few
keys by the hour that is known an hour late (ttl three hours), one row per key (no ttl). The result is a Parquet file in
the order of the entity rows; ours and the one by hand must be equal. Feast's `file` store (dask) is given few rows; its
`duckdb` store, where ibis-framework[duckdb] is installed, as many as are asked for, under twice our limit of memory.

Run: python -m tests.benchmarks join [--rows 1000000 10000000 34000000] [--peer-rows 337000] [--days 365] [--memory 4GB]
"""

import argparse
import importlib.util
import os
import tempfile
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pandas as pd

from tests.benchmarks.measuring import machine, measure, measure_in_turn, print_costs

HERE = "tests.benchmarks.bench_join"
IMPORTS = ("feast", "pandas", "tasks.stores.lake", "tasks.stores.asof_store", "feast.infra.offline_stores.dask")
SIZES, FEW_ROWS, FEW_KEYS = (1_000_000, 10_000_000), 5_000, 100
DAYS, PLACES = 90, 50
MEMORY, PEER_MEMORY = os.environ.get("BENCH_JOIN_MEMORY", "4GB"), "8GB"  # of DuckDB, in the processes that are measured
START = "timestamptz '2013-01-01 00:00:00+00'"
VIEWS = {
    "recent": ("key", timedelta(days=1), ("delay", "count")),
    "weather": ("place", timedelta(hours=3), ("wind", "rain")),
    "facts": ("key", None, ("size",)),
}
NAMES = [f"{view}__{feature}" for view, (_, _, features) in VIEWS.items() for feature in features]


# --- made-up tables ---------------------------------------------------------------------------------


def make_tables(folder: str, rows: int, keys: int, days: int) -> None:
    """Delta tables: `rows` entity rows over some days, and every hour of them a feature row for each of `keys` keys."""
    from tasks.stores.lake import Lake

    hours, lake = days * 24, Lake(f"{folder}/lake", scratch=f"{folder}/tmp")
    moment = f"{START} + to_microseconds((random() * {hours} * 3600e6)::bigint)"
    hourly = f"{START} + to_hours(hour) as event_timestamp"
    numbers = "random() as {}, (random() * 100)::int as {}"
    queries = {
        "entities": f"select (random() * {keys - 1})::bigint as key, (random() * {PLACES - 1})::bigint as place,"
        f" (random() < 0.2)::int as label, {moment} as event_timestamp from range({rows})",
        "recent": f"select key, {hourly}, {numbers.format('delay', 'count')}"
        f" from range({keys}) k(key), range({hours}) h(hour)",
        "weather": f"select place, {hourly}, {numbers.format('wind', 'rain')}"
        f" from range({PLACES}) p(place), range({hours}) h(hour)",
        "facts": f"select key, {START} as event_timestamp, random() as size from range({keys}) k(key)",
    }
    for name, query in queries.items():
        late = "interval 1 hour" if name == "weather" else "interval 0 hour"
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            timed = f"select *, event_timestamp + {late} as created_timestamp from ({query})"
            lake.replace(
                name, connection.sql(timed).to_arrow_reader(100_000), start=None, properties={"digest": "0" * 16}
            )


def feast_views(paths: dict[str, str]) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64

    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.INT64) for key in ("key", "place")}
    views = []
    for name, (key, ttl, features) in VIEWS.items():
        times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
        source = FileSource(name=name, path=paths[name], **times)
        schema = [Field(name=key, dtype=Int64), *(Field(name=each, dtype=Float64) for each in features)]
        views.append(FeatureView(name=name, entities=[entities[key]], ttl=ttl, source=source, schema=schema))
    return views


# --- what is measured -------------------------------------------------------------------------------


def ours(folder: str) -> int:
    from tasks.stores.asof_store import AsofOfflineStore, AsofOfflineStoreConfig

    views = feast_views({name: f"lake://{name}" for name in VIEWS})
    config: Any = SimpleNamespace(
        offline_store=AsofOfflineStoreConfig(lake_uri=f"{folder}/lake", scratch=f"{folder}/tmp", memory_limit=MEMORY)
    )
    entities = "select key, place, label, event_timestamp from entities"
    refs = [name.replace("__", ":") for name in NAMES]
    job = AsofOfflineStore.get_historical_features(config, views, refs, entities, None, "bench", True)
    return job.write(Path(folder) / "ours.parquet")


def by_hand(folder: str) -> int:
    """The same as SQL: known time, ttl, order of rows."""
    from tasks.stores.lake import Lake

    features, joins = [], []
    for view, (key, ttl, names) in VIEWS.items():
        is_fresh = (
            f"{view}.event_timestamp >= e.event_timestamp - interval {ttl.total_seconds()} second" if ttl else "true"
        )
        features += [f"case when {is_fresh} then {view}.{name} end as {view}__{name}" for name in names]
        joins.append(
            f"asof left join (select *, greatest(event_timestamp, created_timestamp) as known from {view}) {view}"
            f" on e.{key} = {view}.{key} and e.event_timestamp >= {view}.known"
        )
    query = (
        f"select e.key, e.place, e.label, e.event_timestamp, {', '.join(features)}"
        f" from (select row_number() over () as row_, * from entities) e {' '.join(joins)} order by e.row_"
    )
    with Lake(f"{folder}/lake", scratch=f"{folder}/tmp", memory_limit=MEMORY).connect() as connection:
        return int(connection.execute(f"copy ({query}) to '{folder}/by_hand.parquet'").fetchall()[0][0])


def stock_duckdb(folder: str) -> int:
    """Feast's own `duckdb` store, honouring known time; needs `ibis-framework[duckdb]`."""
    import ibis

    ibis.get_backend().raw_sql(f"set memory_limit = '{PEER_MEMORY}'; set temp_directory = '{folder}/tmp'")
    return stock(folder, "duckdb", filter_by_created_timestamp=True)


def stock(folder: str, kind: str = "file", **options: bool) -> int:
    """Feast's own stores on plain Parquet files; `file` may lose rows."""
    entities, refs = _parquet(folder, "entities"), [name.replace("__", ":") for name in NAMES]
    wanted = ["key", "place", "label", "event_timestamp"]
    asked = {"entity_df": pd.read_parquet(entities, columns=wanted), "features": refs, "full_feature_names": True}
    return int(_stock_store(folder, kind).get_historical_features(**asked, **options).to_arrow().num_rows)


def prepare_stock(folder: str) -> None:
    """What Feast's own stores want to find: Parquet files and definitions that are applied."""
    from feast import Entity, ValueType

    from tasks.stores.lake import Lake

    with Lake(f"{folder}/lake").connect() as connection:
        for name in (*VIEWS, "entities"):
            connection.execute(f"copy {name} to '{_parquet(folder, name)}'")
    views = feast_views({name: _parquet(folder, name) for name in VIEWS})
    keys = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.INT64) for view in views for key in view.entities
    }
    _stock_store(folder, "file").apply([*keys.values(), *views])


def _parquet(folder: str, name: str) -> str:
    return f"{folder}/{name}.parquet"


def _stock_store(folder: str, kind: str) -> Any:
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    config = {
        "project": "bench", "provider": "local", "registry": f"{folder}/registry.db", "offline_store": {"type": kind},
        "online_store": None, "entity_key_serialization_version": 3,
    }  # fmt: skip
    return FeatureStore(config=RepoConfig(**config))


def check_equal(folder: str) -> None:
    """The rows of both results, and their order.

    Raises:
        SystemExit: they differ, and then no figure means anything.
    """
    # A hash of each row with its place; the files are read in their order.
    said = [
        duckdb.sql(
            f"select count(*), bit_xor(hash(file_row_number, key, place, label, event_timestamp, {', '.join(NAMES)}))"
            f" from read_parquet('{folder}/{name}.parquet', file_row_number = true)"
        ).fetchall()
        for name in ("ours", "by_hand")
    ]
    if said[0] != said[1]:
        raise SystemExit(f"the join by hand gives other rows than ours: {said}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, nargs="*", default=SIZES)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--peer-rows", type=int, nargs="*", default=(FEW_ROWS,))
    options.add_argument("--days", type=int, default=DAYS, help="of history, an hour of it a row of each key")
    options.add_argument("--memory", default=MEMORY, help="DuckDB's, for ours and the join by hand")
    chosen = options.parse_args()
    os.environ["BENCH_JOIN_MEMORY"] = chosen.memory
    print(machine())
    bare = {"ours": f"{HERE}:ours", "by hand": f"{HERE}:by_hand"}
    for rows in chosen.rows:
        _compare(rows, max(rows // 2_000, 1), chosen.days, bare, chosen.repetitions)
    for rows in chosen.peer_rows:
        peers = bare | ({"feast file": f"{HERE}:stock"} if rows <= FEW_ROWS else {})
        peers |= {"feast duckdb": f"{HERE}:stock_duckdb"} if importlib.util.find_spec("ibis") else {}
        _compare(rows, FEW_KEYS, chosen.days, peers, 1)


def _compare(rows: int, keys: int, days: int, functions: dict[str, str], repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure(f"{HERE}:make_tables", folder=folder, rows=rows, keys=keys, days=days)
        if len(functions) > 2:
            measure(f"{HERE}:prepare_stock", folder=folder)
        costs = measure_in_turn(functions, repetitions, IMPORTS, folder=folder)
        check_equal(folder)
    hours = days * 24
    print(f"{rows:,} entity rows, {keys * hours + PLACES * hours + keys:,} feature rows of {days} days, 3 views")
    print_costs(costs, "rows")


if __name__ == "__main__":
    main()
