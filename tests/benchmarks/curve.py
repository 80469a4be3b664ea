"""Cost against rows: the work of each benchmark at the size of the flights of 2013, and at ten and a hundred times it.

Each cost is a line of docs/cost.csv as soon as it is measured, and is not measured again while it stands there, so that
a run can be stopped and gone on with. Then docs/cost.png is drawn, beside a line that grows as n log n, and the table
of exponents is printed: the slope between two sizes on logarithmic axes, which for n log n is 1.07.

Run: python -m tests.benchmarks curve [--works join fit] [--copies 1 10 100]
"""

import argparse
import csv
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log
from pathlib import Path

from tests.benchmarks import (
    bench_features,
    bench_fit,
    bench_ingest,
    bench_join,
    bench_materialize,
    bench_monitor,
    bench_score,
    bench_validation,
)
from tests.benchmarks.many_flights import REAL_ROWS
from tests.benchmarks.measuring import Cost, machine, measure, typical

DOCS = Path(__file__).parents[2] / "docs"
COPIES = (1, 10, 100)
FEATURE_TABLE, FEATURE_SOURCES = "departures_by_dest", ["departures"]
ROUNDS_OF_INGEST = 3


@dataclass(frozen=True)
class Point:
    """One line of the file."""

    work: str
    rows: int
    cpu_seconds: float
    peak_mb: float


# --- the works ------------------------------------------------------------------------------------


def _join(folder: str, copies: int) -> Cost:
    rows, here = copies * REAL_ROWS, bench_join.HERE
    measure(f"{here}:make_tables", folder=folder, rows=rows, keys=rows // 2_000, days=bench_join.DAYS)
    return measure(f"{here}:ours", bench_join.IMPORTS, folder=folder)


def _ingest(folder: str, copies: int) -> Cost:
    here = bench_ingest.HERE
    measure(bench_ingest.MAKE, home=folder, copies=copies, tables=[bench_ingest.TABLE])
    measure(f"{here}:make_batch", home=folder)
    costs = []
    for _ in range(ROUNDS_OF_INGEST):
        costs.append(measure(f"{here}:insert", bench_ingest.IMPORTS, home=folder))
        bench_ingest.take_back(folder)
    return typical(costs)


def _features(folder: str, copies: int) -> Cost:
    measure(bench_features.MAKE, home=folder, copies=copies, tables=FEATURE_SOURCES)
    return measure(f"{bench_features.HERE}:ours", bench_features.IMPORTS, home=folder, tables=[FEATURE_TABLE])


def _validation(folder: str, copies: int) -> Cost:
    rows, here = copies * REAL_ROWS, bench_validation.HERE
    measure(f"{here}:make_rows", home=folder, rows=rows)
    return measure(f"{here}:ours", bench_validation.IMPORTS, path=f"{folder}/{rows}.parquet")


def _fit(folder: str, copies: int) -> Cost:
    rows, here = copies * REAL_ROWS, bench_fit.HERE
    measure(f"{here}:make", folder=folder, rows=rows)
    done = measure(f"{here}:from_disk", bench_fit.IMPORTS, folder=folder, rows=rows, epochs=1)
    return Cost(*done.result, done.import_seconds, done.peak_mb, None)


def _drift(folder: str, copies: int) -> Cost:
    measure(f"{bench_monitor.HERE}:make_files", folder=folder, rows=copies * REAL_ROWS)
    return measure(f"{bench_monitor.HERE}:monitor", folder=folder)


def _materialize(folder: str, copies: int) -> Cost:
    measure(f"{bench_materialize.HERE}:make", home=folder, rows=copies * REAL_ROWS)
    return measure(f"{bench_materialize.HERE}:ours", bench_materialize.IMPORTS, home=folder)


def _scoring(folder: str, copies: int) -> Cost:
    """Reading and the lines of the log with it: what a pass costs from file to file."""
    measure(f"{bench_score.HERE}:make_file", folder=folder, rows=copies * REAL_ROWS)
    done = measure(f"{bench_score.HERE}:score_file", folder=folder)
    parts, wall = done.result
    print("of scoring:", ", ".join(f"{part} {seconds:.2f} CPU s" for part, seconds in parts.items()), flush=True)
    return Cost(sum(parts.values()), wall, done.import_seconds, done.peak_mb, parts)


# Each takes a folder of its own and how many times the real rows.
WORKS: dict[str, Callable[[str, int], Cost]] = {
    "join": _join,
    "ingest": _ingest,
    "validation": _validation,
    "drift": _drift,
    "scoring": _scoring,
    "fit from disk": _fit,
    "features": _features,
    "materialize": _materialize,
}


# --- the file, the table, the plot ----------------------------------------------------------------


def read(path: Path) -> list[Point]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Point(line["work"], int(line["rows"]), float(line["cpu_seconds"]), float(line["peak_mb"]))
            for line in csv.DictReader(file)
        ]


def write(path: Path, points: list[Point]) -> None:
    order = list(WORKS)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["work", "rows", "cpu_seconds", "peak_mb"])
        for point in sorted(points, key=lambda one: (order.index(one.work), one.rows)):
            writer.writerow([point.work, point.rows, f"{point.cpu_seconds:.3f}", f"{point.peak_mb:.0f}"])


def measure_all(path: Path, works: list[str], copies: list[int]) -> None:
    """What is not in the file yet, the small sizes first."""
    for times in sorted(copies):
        for name in works:
            points, rows = read(path), times * REAL_ROWS
            if any((one.work, one.rows) == (name, rows) for one in points):
                continue
            with tempfile.TemporaryDirectory() as folder:
                cost = WORKS[name](folder, times)
            print(f"{name:14}{rows:12,} rows {cost}", flush=True)
            write(path, [*points, Point(name, rows, cost.cpu_seconds, cost.peak_mb)])


def exponent(less: Point, more: Point) -> float:
    return log(more.cpu_seconds / less.cpu_seconds) / log(more.rows / less.rows)


def n_log_n(less: int, more: int) -> float:
    """The exponent of n log n between two sizes."""
    return 1 + log(log(more) / log(less)) / log(more / less)


def lines_of(points: list[Point]) -> dict[str, list[Point]]:
    """The points of each work, in order of rows."""
    found = {name: sorted((p for p in points if p.work == name), key=lambda one: one.rows) for name in WORKS}
    return {name: line for name, line in found.items() if line}


def table(points: list[Point]) -> list[str]:
    """In Markdown: CPU seconds and peak of each size, the exponent of each step, and that from a work's least to its
    largest size.
    """
    sizes = sorted({point.rows for point in points})
    steps = list(pairwise(sizes))
    heads = [*(f"{size:,}: CPU s, MB" for size in sizes), *(f"exponent to {high:,}" for _, high in steps), "of all"]
    out = [f"| work | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, line in lines_of(points).items():
        at = {point.rows: point for point in line}
        cells = [f"{at[size].cpu_seconds:.2f}, {at[size].peak_mb:,.0f}" if size in at else "" for size in sizes]
        cells += [f"{exponent(at[low], at[high]):.2f}" if {low, high} <= set(at) else "" for low, high in steps]
        cells.append(f"**{exponent(line[0], line[-1]):.2f}**" if len(line) > 1 else "")
        out.append(f"| {name} | {' | '.join(cells)} |")
    limits = [f"{n_log_n(low, high):.2f}" for low, high in [*steps, (sizes[0], sizes[-1])]]
    return [*out, f"| n log n |{' |' * len(sizes)} {' | '.join(limits)} |"]


def draw(points: list[Point], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, line in lines_of(points).items():
        axes.loglog([p.rows for p in line], [p.cpu_seconds for p in line], marker="o", label=name)
    sizes = sorted({point.rows for point in points})
    first = min(point.cpu_seconds for point in points if point.rows == sizes[0])
    grown = [first * rows * log(rows) / (sizes[0] * log(sizes[0])) for rows in sizes]
    axes.loglog(sizes, grown, color="black", linestyle="dashed", label="n log n")
    axes.set(xlabel="rows", ylabel="CPU seconds", title="Cost against rows")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside center right")
    figure.savefig(path, dpi=110)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    options.add_argument("--copies", type=int, nargs="+", default=list(COPIES))
    options.add_argument("--folder", type=Path, default=DOCS, help="of cost.csv and cost.png")
    chosen = options.parse_args()
    print(machine())
    measure_all(chosen.folder / "cost.csv", chosen.works, chosen.copies)
    points = read(chosen.folder / "cost.csv")
    draw(points, chosen.folder / "cost.png")
    print("\n".join(table(points)))


if __name__ == "__main__":
    main()
