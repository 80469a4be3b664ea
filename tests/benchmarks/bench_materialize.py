"""Cost of writing the newest row of 337,000 keys, of 10 features each, to the SQLite online store.

Beside it stands an `executemany` upsert of the very rows that are there afterwards, serialised already, into an empty
file with the same table; and Feast's own `materialize`, which is given fewer rows. With `--servers` on PostgreSQL and
Redis, in turn with Feast's own write of the same rows.

Run: python -m tests.benchmarks materialize [--rows 337000] [--feast-rows 20000]
"""

import argparse
import json
import sqlite3
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.benchmarks.measuring import Cost, machine, measure, measure_in_turn, print_costs, ratio, typical
from tests.stores import online_servers

HERE = "tests.benchmarks.bench_materialize"
IMPORTS = (
    "feast", "pandas", "duckdb", "deltalake", "sqlalchemy", "tasks.stores.feature_store", "tasks.stores.asof_store",
    "feast.infra.online_stores.sqlite",
)  # fmt: skip
ROWS, FEAST_ROWS, AS_OF = 337_000, 20_000, datetime(2013, 6, 1, tzinfo=UTC)
KINDS = {f"f{place}": kind for place, kind in enumerate(["Float64"] * 5 + ["Int64"] * 3 + ["String", "UnixTimestamp"])}
DEFINITIONS = f"""
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String, UnixTimestamp
key = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
source = FileSource(name="wide", path="lake://wide", timestamp_field="event_timestamp",
                    created_timestamp_column="created_timestamp")
wide = FeatureView(name="wide", entities=[key], ttl=timedelta(days=9), source=source, schema=[
    Field(name="key", dtype=String), {", ".join(f'Field(name="{n}", dtype={k})' for n, k in KINDS.items())}])
service = FeatureService(name="service", features=[wide])
"""
VALUES = {
    "Float64": "if(random() < .1, null, random() * 100)",
    "Int64": "(random() * 1000)::bigint",
    "String": "'N' || (random() * 4000)::int",
    "UnixTimestamp": "timestamptz '2013-01-01 00:00Z' + to_seconds((random() * 1e7)::bigint)",
}


def make(home: str, rows: int) -> int:
    from tasks.stores.lake import Lake

    lake, folder = Lake(f"{home}/lake"), Path(home) / "repo"
    folder.mkdir(parents=True)
    (folder / "bench.py").write_text(DEFINITIONS)
    features = ", ".join(f"{VALUES[kind]} as {name}" for name, kind in KINDS.items())
    moment = "timestamptz '2013-05-01 00:00Z' + to_seconds((random() * 1e6)::bigint)"
    with lake.session() as connection:
        made = (
            f"select *, event_timestamp as created_timestamp from (select 'key ' || i as key, {features}, {moment} as"
        )
        reader = connection.sql(f"{made} event_timestamp from range({rows}) r(i))").to_arrow_reader(100_000)
        return lake.replace("wide", reader, start=None, properties={"digest": "0" * 16}).rows


def open_store(home: str, name: str, online_store: str | None = None):
    from tasks.stores.feature_store import FeatureStore

    (Path(home) / name / "online.db").unlink(missing_ok=True)
    return FeatureStore("bench", Path(home) / "repo", Path(home) / name, f"{home}/lake", online_store=online_store)


def ours(home: str, online_store: str | None = None) -> int:
    """Rows written."""
    if online_store is not None and "redis" in online_store:
        online_servers.clear(json.loads(online_store))  # Feast's own write leaves out what seems to be there
    store = open_store(home, "ours", online_store)
    anew = {"wide": str(time.monotonic_ns())}
    return store.materialize(("service",), as_of=AS_OF, lookback=timedelta(days=9), builds=anew)["wide"]


def by_feast(home: str, online_store: str) -> int:
    """As ours, each batch by Feast's own write."""
    from unittest.mock import patch

    with patch("tasks.stores.feature_store.bulk_writer", lambda *_: None):
        return ours(home, online_store)


def stock(home: str) -> int:
    """Feast's own, with our offline store."""
    store = open_store(home, "stock")
    _ = store.definitions
    inner = store._store()
    inner.materialize(datetime(2013, 1, 1, tzinfo=UTC), AS_OF)
    with sqlite3.connect(Path(home) / "stock" / "online.db") as connection:
        return connection.execute("select count(distinct entity_key) from bench_wide").fetchall()[0][0]


def dump(home: str) -> int:
    """Keep the rows that ours wrote, for `upsert`."""
    import pickle

    with sqlite3.connect(Path(home) / "ours" / "online.db") as connection:
        rows = connection.execute("select * from bench_wide order by rowid").fetchall()
        said = connection.execute("select sql from sqlite_master where sql is not null").fetchall()
    (Path(home) / "rows.pickle").write_bytes(pickle.dumps(([one for (one,) in said if "bench_wide" in one], rows)))
    return len(rows)


def upsert(home: str) -> list[float]:
    """CPU and wall seconds, reading the rows left out."""
    import pickle

    said, rows = pickle.loads((Path(home) / "rows.pickle").read_bytes())
    path = Path(home) / "upsert.db"
    path.unlink(missing_ok=True)
    names = ["entity_key", "feature_name", "value", "value_text", "vector_value", "event_ts", "created_ts"]
    news = ", ".join(f"{name} = excluded.{name}" for name in names[2:])
    into = f"insert into bench_wide values ({', '.join('?' * len(names))}) on conflict (entity_key, feature_name)"
    with sqlite3.connect(path) as connection:
        for statement in said:
            connection.execute(statement)
        began, wall = time.process_time(), time.perf_counter()
        connection.executemany(f"{into} do update set {news}", rows)
        connection.commit()
    return [time.process_time() - began, time.perf_counter() - wall]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=ROWS)
    options.add_argument("--feast-rows", type=int, default=FEAST_ROWS)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--servers", action="store_true")
    chosen = options.parse_args()
    print(machine())
    if chosen.servers:
        compare_servers(chosen.feast_rows, chosen.repetitions)
        return
    compare(chosen.rows, chosen.repetitions)
    compare(chosen.feast_rows, 1, with_stock=True)


def compare(rows: int, repetitions: int, with_stock: bool = False) -> list[Cost]:
    with tempfile.TemporaryDirectory() as home:
        measure(f"{HERE}:make", home=home, rows=rows)
        costs, upserts, stocks = [], [], []
        for _ in range(repetitions):
            costs.append(measure(f"{HERE}:ours", IMPORTS, home=home))
            measure(f"{HERE}:dump", home=home)
            bare = measure(f"{HERE}:upsert", home=home)
            upserts.append(Cost(*bare.result, bare.import_seconds, bare.peak_mb, rows))
            stocks += [measure(f"{HERE}:stock", IMPORTS, home=home)] if with_stock else []
    print(f"{rows:,} keys of {len(KINDS)} features")
    print(f"  {'ours':12}{typical(costs)}  {typical(costs).result:,} rows")
    for name, each in {"executemany": upserts, "feast": stocks}.items():
        if each:
            print(f"  {name:12}{typical(each)}  {typical(each).result:,} rows  ours: {ratio(costs, each)}", flush=True)
    return costs


if __name__ == "__main__":
    main()


def compare_servers(rows: int, repetitions: int) -> None:
    """CPU seconds are ours and the driver's; the servers have their own."""
    for server in (online_servers.postgres, online_servers.redis):
        with server() as settings, tempfile.TemporaryDirectory() as home:
            measure(f"{HERE}:make", home=home, rows=rows)
            works = {"ours": f"{HERE}:ours", "by Feast": f"{HERE}:by_feast"}
            told = {"home": home, "online_store": json.dumps(settings)}
            costs = measure_in_turn(works, repetitions, IMPORTS, **told)
            print(f"{settings['type']}, {rows:,} keys of {len(KINDS)} features")
            print_costs(costs, "rows")
