"""Load a registered model as a server does and predict: alone, in an interpreter that cannot see this repository.

It is done in a fork of `stores.fork_server`, which first forgets this repository, or where nothing is forked by a bare
interpreter: `python -I -S served_check.py PACKAGES ORDER`. PACKAGES are the package folders (JSON); an order (JSON) has
the model's `folder`, `asked` (an Arrow file of rows), and where to put the scores (`answer`, .npy) and what is to be
told (`told`: how long the load and the first prediction took, or the error).
"""

import importlib
import itertools
import json
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

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
    packages, order = sys.argv[1:]
    sys.path.extend(json.loads(packages))
    for name in IMPORTS:
        with suppress(ImportError):  # then the order itself says so
            importlib.import_module(name)
    sys.exit(check(json.loads(order)))


def know_packages() -> None:
    """Let MLflow look once through all that is installed, half a second, which it does where it first asks of a
    requirement whether it is met."""
    from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches

    warn_dependency_requirement_mismatches(["mlflow"])


def forget(repository: Path) -> None:
    """From here on nothing of the repository can be imported, and nothing of it is."""
    sys.path[:] = [path for path in sys.path if path and not is_repository(Path(path))]
    # By these an editable installation is found.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).is_relative_to(repository) and not file.startswith(sys.prefix):
            del sys.modules[name]


def is_repository(folder: Path) -> bool:
    return (folder / "tasks" / "stores").is_dir()


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
