"""Cost of a monitor run over 10 million rows and 30 columns: at most 25 CPU seconds and 1 GB.

The rows lie in a Parquet file and are read as joined rows are, through DuckDB in Arrow batches. What is measured: one
pass of counts, thresholds by resampling, drift and faults of every column, the page. Beside it stand DuckDB's own scan
of the file (count, min, max and mean of each column) and its `histogram()` over the same bins.

With `--evidently PYTHON`, an interpreter that has Evidently, its default drift report runs on the champion's reference
rows and as many rows of the window as are asked for; ours too, from the reference's rows to the page.

Run: python -m tests.benchmarks monitor [--evidently PYTHON] [--evidently-rows 1000000]
"""

import argparse
import json
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.governor import Decision
from tasks.core.observation import MonitorReport, input_faults, observe
from tasks.core.records import Interval, Window
from tasks.core.reference import PREDICTION, Reference, build_columns, count_window, measure_drift
from tests.benchmarks.measuring import Cost, machine, measure, measure_in_turn, ratio, typical

ROWS, NUMERIC, CATEGORICAL = 10_000_000, 20, 10
REFERENCE_DAYS, REFERENCE_DAY_ROWS, WINDOW_DAYS = 91, 5_000, 7
MOST_CPU_SECONDS, MOST_MB = 25.0, 1_000.0
BATCH_ROWS = 65_536  # as in tasks.joins
START = np.datetime64("2013-01-01", "us")
NUMBERS, NAMES = [f"number{i}" for i in range(NUMERIC)], [f"name{i}" for i in range(CATEGORICAL)]
NAME_COUNTS = (3, 7, 12, 24, 50, 100, 300, 1_000, 3_000, 5_000)
HERE = "tests.benchmarks.bench_monitor"
EVIDENTLY_ROWS, AT_LEAST = 1_000_000, 40  # times cheaper per row
# From Parquet to the report as JSON; what it costs is said as a child of `measuring` says it.
EVIDENTLY = """
import json, re, resource, sys, time
from pathlib import Path
import pandas, pyarrow
import evidently, evidently.presets
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
imported, began = cpu(), time.perf_counter()
rows = [pandas.read_parquet(f"{sys.argv[1]}/{name}.parquet").drop(columns="prediction_time") for name in sys.argv[2:]]
current, reference = (each.astype({name: str for name in each if name.startswith("name")}) for each in rows)
made = evidently.Report([evidently.presets.DataDriftPreset()]).run(current, reference).json()
spent, wall = cpu() - imported, time.perf_counter() - began
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
told = {"rows": len(current), "version": evidently.__version__, "bytes": len(made)}
print(json.dumps([spent, wall, imported, peak, told]))
"""


# --- made-up rows -----------------------------------------------------------------------------------


def make_rows(random: np.random.Generator, days: np.ndarray, levels: np.ndarray) -> pa.Table:
    """Rows of the given days (n,): numbers that wander by day with `levels` (days, NUMERIC), names as common as 1/k."""
    columns = {}
    for place, name in enumerate(NUMBERS):
        values = random.standard_normal(len(days), dtype=np.float32) + levels[days, place].astype(np.float32)
        if place % 4 == 1:
            values = np.exp(values)
        elif place % 4 == 2:
            values = np.round(values * 4)
        elif place % 4 == 3:
            values[random.random(len(days), dtype=np.float32) < 0.05] = np.nan
        columns[name] = pa.array(values, from_pandas=True)
    for count, name in zip(NAME_COUNTS, NAMES, strict=True):
        codes = (count ** random.random(len(days), dtype=np.float32)).astype(np.int32) - 1
        columns[name] = pa.DictionaryArray.from_arrays(codes, [f"{name} no. {i}" for i in range(count)])
    times = START + days.astype("timedelta64[D]")
    return pa.table({"prediction_time": pa.array(times, pa.timestamp("us", "UTC")), **columns})


def make_files(folder: str, rows: int) -> None:
    """The champion's reference from REFERENCE_DAYS, and a file with the rows of the week after."""
    random, here = np.random.default_rng(0), Path(folder)
    levels = random.normal(0, 0.2, (REFERENCE_DAYS + WINDOW_DAYS, NUMERIC))
    fitted = make_rows(random, np.repeat(np.arange(REFERENCE_DAYS), REFERENCE_DAY_ROWS), levels)
    pq.write_table(fitted, here / "reference.parquet")
    write_reference(here)
    days, step = REFERENCE_DAYS + np.arange(rows) * WINDOW_DAYS // rows, 500_000
    schema = make_rows(random, days[:1], levels).schema
    with pq.ParquetWriter(here / "window.parquet", schema) as writer:
        for first in range(0, rows, step):
            writer.write_table(make_rows(random, days[first : first + step], levels))


def write_reference(here: Path) -> None:
    """What is kept with the champion, of its reference's rows."""
    fitted = pq.read_table(here / "reference.parquet")
    for place, name in enumerate(NAMES, start=1 + NUMERIC):
        fitted = fitted.set_column(place, name, fitted[name].cast(pa.string()))
    scores = pa.table({"prediction_time": fitted["prediction_time"], PREDICTION: fitted[NUMBERS[0]]})
    made = Reference(
        version=1,
        as_of=_moment(REFERENCE_DAYS),
        columns=build_columns(fitted, [*NUMBERS, *NAMES]),
        prediction=build_columns(scores, [PREDICTION])[PREDICTION],
        promise={"auc": Interval(value=0.75, low=0.74, high=0.76)},
    )
    (here / "reference.json").write_text(made.to_json())


def _moment(day: int) -> datetime:
    return datetime(2013, 1, 1, tzinfo=UTC) + timedelta(days=day)


# --- what is measured -------------------------------------------------------------------------------


def monitor(folder: str) -> dict[str, int]:
    """The window against the reference, to the page."""
    from tasks.core.monitor_page import write_page

    here = Path(folder)
    reference = Reference.from_json((here / "reference.json").read_text())
    with duckdb.connect() as connection:
        selected = ", ".join([*NUMBERS, *(f"{name}::varchar as {name}" for name in NAMES)])
        rows = connection.sql(f"select {selected} from '{here / 'window.parquet'}'")
        counted = count_window(reference.columns, rows.to_arrow_reader(BATCH_ROWS))
    columns = measure_drift(reference.columns, counted.counts, window_days=WINDOW_DAYS, false_alarm_rate=0.05)
    faults = input_faults(columns, reference.columns, counted.quantiles, (), max_null_increase=0.2)
    window = Window(start=_moment(REFERENCE_DAYS), end=_moment(REFERENCE_DAYS + WINDOW_DAYS))
    observation = observe(window, faults=faults, columns=columns, quality=None, probe=None, matured_labels=0)
    report = MonitorReport(
        project="bench", version=1, window=window, as_of=window.end, rows=counted.rows, predicted_rows=counted.rows,
        columns=columns, tables=(), quality=None, effect=None, observation=observation, quantiles=counted.quantiles,
        shapes={name: tuple(counts.tolist()) for name, counts in counted.counts.items()},
    )  # fmt: skip
    decision = Decision(action="wait", reasons=("nothing",), as_of=window.end)
    page = write_page(report, decision, reference, [report], None)
    (here / "page.html").write_text(page)
    return {"rows": counted.rows, "drifted": sum(drift.is_drifted for drift in columns), "page_bytes": len(page)}


def scan(folder: str) -> int:
    """Count, least, largest and mean of each number; count, least and largest of each name."""
    asked = [f"count({name}), min({name}), max({name}), avg({name})" for name in NUMBERS]
    asked += [f"count({name}), min({name}), max({name})" for name in NAMES]
    with duckdb.connect() as connection:
        found = connection.execute(f"select {', '.join(asked)} from '{folder}/window.parquet'").fetchall()
    return int(found[0][0])


def histograms(folder: str) -> int:
    """Counts of each number between the reference's edges, and of each name."""
    reference = Reference.from_json((Path(folder) / "reference.json").read_text())
    asked = [f"histogram({name}, {list(reference.columns[name].binning.edges)}::float[])" for name in NUMBERS]
    asked += [f"histogram({name})" for name in NAMES]
    with duckdb.connect() as connection:
        found = connection.execute(f"select {', '.join(asked)} from '{folder}/window.parquet'").fetchall()
    return sum(found[0][0].values())


def whole(folder: str) -> dict[str, int]:
    """From both files to the page, as Evidently does it each time: the reference is not kept."""
    write_reference(Path(folder))
    return monitor(folder)


def beside_evidently(python: str, rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure(f"{HERE}:make_files", folder=folder, rows=rows)
        costs = {name: measure(f"{HERE}:{name}", folder=folder) for name in ("monitor", "whole")}
        command = [python, "-c", EVIDENTLY, folder, "window", "reference"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    theirs = Cost(*json.loads(done.stdout.splitlines()[-1]))
    print(f"{rows:,} rows against {REFERENCE_DAYS * REFERENCE_DAY_ROWS:,} of the reference")
    print(f"evidently   {theirs}  {theirs.result}")
    for name, each in costs.items():
        print(f"{name:12}{each}  evidently: {theirs.cpu_seconds / each.cpu_seconds:.0f} x; at least {AT_LEAST}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=ROWS)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--evidently", help="an interpreter that has it")
    options.add_argument("--evidently-rows", type=int, default=EVIDENTLY_ROWS)
    chosen = options.parse_args()
    if chosen.evidently:
        beside_evidently(chosen.evidently, chosen.evidently_rows)
        return
    rows, repetitions = chosen.rows, chosen.repetitions
    with tempfile.TemporaryDirectory() as folder:
        measure(f"{HERE}:make_files", folder=folder, rows=rows)
        size = (Path(folder) / "window.parquet").stat().st_size / 1e6
        functions = {name: f"{HERE}:{name}" for name in ("monitor", "scan", "histograms")}
        costs = measure_in_turn(functions, repetitions, folder=folder)
    print(f"{rows:,} rows, {NUMERIC} numbers and {CATEGORICAL} names, {size:,.0f} MB of Parquet; {machine()}")
    for name, each in costs.items():
        beside = "" if name == "monitor" else f"  monitor: {ratio(costs['monitor'], each)}"
        print(f"{name:12}{typical(each)}{beside}")
    print(f"monitor: {costs['monitor'][0].result}; at most {MOST_CPU_SECONDS:g} CPU s and {MOST_MB:g} MB")


if __name__ == "__main__":
    main()
