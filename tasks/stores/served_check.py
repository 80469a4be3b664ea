"""Load a registered model as a server does and predict: alone, in a bare interpreter that cannot see this repository.

`served_check.py PACKAGES ORDER` does one order; without an order it has its imports done and forks one for each that
it reads, see `core.forks`. PACKAGES are the package folders (JSON); an order (JSON) has the model's `folder`, `asked`
(an Arrow file of rows), and where to put the scores (`answer`, .npy) and what is to be told (`told`: how long the load
and the first prediction took, or the error).
"""

import importlib
import itertools
import json
import os
import sys
import time
import traceback
from contextlib import suppress

# What models are served with, and what `torch.export.load` imports when it is called.
IMPORTS = (
    "numpy",
    "pyarrow",
    "mlflow.pyfunc",
    "torch",
    "torch.export.pt2_archive._package",
    "torch._functorch.aot_autograd",
)


def main() -> None:
    packages, *orders = sys.argv[1:]
    sys.path.extend(json.loads(packages))
    for name in IMPORTS:
        with suppress(ImportError):  # then the order itself says so
            importlib.import_module(name)
    if orders:
        sys.exit(check(json.loads(orders[0])))
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            os._exit(check(json.loads(line)))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def check(order: dict[str, str]) -> int:
    """The exit code."""
    with open(order["told"], "w") as told:
        os.dup2(told.fileno(), 2)
        try:
            told.write(json.dumps(load_and_predict(order)))
        except BaseException:
            traceback.print_exc(file=told)
            return 1
    return 0


def load_and_predict(order: dict[str, str]) -> dict[str, str]:
    import mlflow.pyfunc
    import numpy as np
    import pyarrow as pa

    with pa.memory_map(order["asked"]) as file:
        rows = pa.ipc.open_file(file).read_all()
    moments = [time.perf_counter()]
    model = mlflow.pyfunc.load_model(order["folder"])
    moments.append(time.perf_counter())
    model.predict(rows.slice(0, 1))
    moments.append(time.perf_counter())
    np.save(order["answer"], model.predict(rows))
    load, first = (later - earlier for earlier, later in itertools.pairwise(moments))
    return {"load_seconds": f"{load:.3g}", "first_prediction_ms": f"{first * 1_000:.3g}"}


if __name__ == "__main__":
    main()
