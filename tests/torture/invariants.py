"""What is looked at in a home: after each kill that there is a champion and it predicts, at the end everything."""

import re
import sqlite3
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.settings import load_settings
from tasks.core import ledger as history
from tasks.core.records import digest
from tasks.home import open_feature_store, open_lake, open_ledger, open_registry
from tests.torture.small_flights import FIRST

PROJECT = "flights"
READ_AT = datetime.fromisoformat(FIRST).replace(tzinfo=UTC)
# Names that are another one each time: of runs, models and Delta's files.
RANDOM = re.compile(r"(?<=m-)[0-9a-f]{32}|[0-9a-f]{16,32}")
# Folders that are somebody else's to look after, or are looked at by content.
OTHERS = ("prefect", "logs", "feast", "docs")
# Data files are compared by content; how often a decision was begun is what a kill may change.
COUNTED_ELSEWHERE = ("lake/*/*/event_month=*/*.parquet", "outbox/*/*/claim-*.json")


def champion(example: str) -> dict[str, Any]:
    """Who serves, by the alias as any reader takes it, and a digest of its predictions. Nothing is repaired here."""
    import pyarrow as pa

    if not Path(load_settings().mlflow_uri.removeprefix("sqlite:///")).exists():
        return {"version": None, "scores": None}
    registry = open_registry(PROJECT)
    version = registry.aliases().get("champion")
    if version is None:
        return {"version": None, "scores": None}
    served = registry.load(registry.version(version))
    with pa.memory_map(example) as file:
        rows = pa.ipc.open_file(file).read_all().slice(0, 64)
    scores = served.predict(rows.select([*served.inputs.numeric, *served.inputs.categorical]))
    return {"version": version, "scores": digest([f"{score:.6f}" for score in scores])}


def state() -> dict[str, Any]:
    """All that a run leaves, without what differs between two runs by right: times, ids, latencies."""
    entries = open_ledger(PROJECT).entries()
    return {
        "ledger": [[e.kind, e.version, e.champion, e.previous, e.decision_id, e.digests] for e in entries],
        "aliases": open_registry(PROJECT).aliases(),
        "aliases by the ledger": history.aliases(entries),
        "versions": _versions(),
        "runs": _runs(),
        "tables": {name: _table(name) for name in open_lake(PROJECT).names()},
        "online": _online(),
        "files": _files(),
        "unreferenced data files": _unreferenced(),
    }


def _versions() -> dict[str, list[str]]:
    """Decision -> the weights of its versions."""
    registry, found = open_registry(PROJECT), {}
    for made in registry.client.search_model_versions(f"name = '{PROJECT}'"):
        found.setdefault(made.tags["perennial.decision_id"], []).append(made.tags["perennial.weights_sha256"])
    return found


def _runs() -> list[list[Any]]:
    """Decision, status, and how many lines each curve has beyond one for each step."""
    registry = open_registry(PROJECT)
    found = []
    for run in registry.client.search_runs([registry.experiment_id], order_by=["start_time"]):
        curves = {name: registry.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        doubled = {name: len(c) for name, c in curves.items() if len(c) != len({m.step for m in c})}
        found.append([run.data.tags["perennial.decision_id"], run.info.status, sorted(curves), doubled])
    return found


def _table(name: str) -> dict[str, Any]:
    """Rows, rows that differ, and the sum of the rows' hashes: equal where the same rows are there, each once."""
    lake = open_lake(PROJECT)
    with lake.session() as connection:
        rows = connection.sql(
            f"select count(*), count(distinct hash(t)), sum(hash(t)::hugeint)::varchar from {lake.scan(name)} t"
        )
        return dict(zip(("rows", "distinct", "content"), rows.fetchall()[0], strict=True))


def _online() -> dict[str, str]:
    """Feast's online tables, without the moment at which a value was written."""
    path = load_settings().feast(PROJECT) / "online.db"
    with sqlite3.connect(path) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        asked = "select hex(entity_key), feature_name, hex(value), event_ts from"
        return {name: digest(sorted(map(str, connection.execute(f'{asked} "{name}"')))) for name in sorted(tables)}


def _files() -> dict[str, int]:
    """How many files there are of each name; a name that is made up each time is a star. Data files are not here."""
    root = load_settings().root
    names = [path.relative_to(root) for path in root.rglob("*") if path.is_file() or not any(path.iterdir())]
    kept = [
        str(name)
        for name in names
        if name.parts[0] not in OTHERS and not any(name.match(pattern) for pattern in COUNTED_ELSEWHERE)
    ]
    return dict(Counter(RANDOM.sub("*", name) for name in kept))


def _unreferenced() -> list[str]:
    """Data files that no version of their table knows: of an append that was cut off before its commit."""
    lake, left = open_lake(PROJECT), []
    for name in lake.names():
        known = {path for commit in lake.commits(name) for path in lake.files(name, commit.version)}
        left += [str(path) for path in Path(lake.uri, name).rglob("*.parquet") if str(path) not in known]
    return left


def read_while_materialized(marks: str) -> dict[str, Any]:
    """Read online features over and over until they are materialized: each row's values are all missing, or final."""
    import pyarrow as pa

    store, seen, before = open_feature_store(PROJECT), set(), 0
    rows = pa.table({"origin": ["EWR", "JFK", "LGA"], "tailnum": ["none"] * 3})
    deadline, answers = time.monotonic() + 300, 0
    while True:
        is_over = "after materialize" in read_marks(marks) or time.monotonic() > deadline
        for row in store.online(("small_delay",), rows, as_of=READ_AT).to_pylist():
            values = tuple(sorted((name, value) for name, value in row.items() if name.startswith("departures_")))
            answers, before = answers + 1, before + all(value is None for _, value in values)
            seen.add((row["origin"], values))
        if is_over:
            break
    known = [one for one in seen if any(value is not None for _, value in one[1])]
    mixed = [one for one in known if sum(other[0] == one[0] for other in known) > 1]
    return {"answers": answers, "before": before, "after": len(known), "mixed": sorted(map(str, mixed))}


def read_marks(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
