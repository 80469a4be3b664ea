"""Every benchmark in turn: `python -m tests.benchmarks`, or those that are named: `python -m tests.benchmarks gate`.

Options that follow the names are handed on.
"""

import itertools
import sys

from tests.benchmarks import (
    bench_features,
    bench_fit,
    bench_gate,
    bench_ingest,
    bench_join,
    bench_main_job,
    bench_materialize,
    bench_monitor,
    bench_score,
    bench_spins,
    bench_validation,
    curve,
    gate_real_fits,
    gate_simulation,
    monitor_false_alarms,
)

BENCHMARKS = {
    "gate": bench_gate.main,
    "gate_simulation": gate_simulation.main,
    "gate_real_fits": gate_real_fits.main,
    "ingest": bench_ingest.main,
    "validation": bench_validation.main,
    "features": bench_features.main,
    "materialize": bench_materialize.main,
    "join": bench_join.main,
    "fit": bench_fit.main,
    "spins": bench_spins.main,
    "monitor": bench_monitor.main,
    "score": bench_score.main,
    "main_job": bench_main_job.main,
    "monitor_false_alarms": monitor_false_alarms.main,
    "curve": curve.main,
}


def main() -> None:
    named = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    asked, options = named or list(BENCHMARKS), sys.argv[1 + len(named) :]
    if unknown := sorted(set(asked) - set(BENCHMARKS)):
        sys.exit(f"no benchmark {unknown}; there are {sorted(BENCHMARKS)}")
    sys.argv = [sys.argv[0], *options]
    for name in asked:
        print(f"\n== {name}", flush=True)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
