"""A model as it is served: saved so that it stands alone, loaded by its own code, and tried before it is registered."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from tasks.core.errors import ModelError
from tasks.core.forks import CAN_FORK
from tasks.core.imports import importing
from tasks.stores import served_check
from tasks.stores.fork_server import fork
from tasks.stores.served_check import is_repository

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tasks.stores.served_model import ServedModel

SERVED_WITH = ("mlflow", "torch", "numpy", "pyarrow")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}  # of float32 scores, computed twice
CHECK_FILES = {"asked": "example.arrow", "answer": "answer.npy", "told": "told.txt"}


@contextmanager
def warming_up() -> Iterator[None]:
    """Beside what waits for queries, do what the first model that is loaded and registered would wait for seconds for.

    Of torch alone it imports: two threads that import one package may see it half-made, and the other imports no torch.
    """
    thread = Thread(target=_warm_up, name="warm up")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _warm_up() -> None:
    with importing(), suppress(ImportError):  # whoever needs it says so
        for name in served_check.IMPORTS:
            if name.startswith("torch"):
                importlib.import_module(name)
        served_check.know_packages()


def load_model_folder(path: str) -> "ServedModel":
    """The predictor for the folder of a fit that is not registered yet."""
    return _loaded(path, (Path(path) / "program.pt2").stat().st_mtime_ns)


def load_registered_folder(folder: str | Path) -> "ServedModel":
    """The predictor of a registered folder: its own `served_model.py` on its own files."""
    return _loaded_by_its_code(str(folder), (Path(folder) / "MLmodel").stat().st_mtime_ns)


# Both are kept, since a run asks several times for the same few, and each loading takes most of a second.


@lru_cache(maxsize=4)
def _loaded(path: str, written: int) -> "ServedModel":
    from tasks.stores.served_model import ServedModel

    return ServedModel(path)


@lru_cache(maxsize=4)
def _loaded_by_its_code(path: str, written: int) -> "ServedModel":
    from mlflow.models import Model

    folder = Path(path)
    flavor = Model.load(path).flavors["python_function"]
    code = folder / Path(flavor["model_code_path"]).name
    spec = importlib.util.spec_from_file_location(f"served_model_{folder.parent.name.replace('-', '_')}", code)
    if spec is None or spec.loader is None:
        raise ModelError(f"{code} cannot be imported", expected="the Python file that the model was registered with")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ServedModel(folder / flavor["artifacts"]["model"]["path"])


def save_served_model(model_folder: str, folder: Path, run_id: str) -> None:
    """Write an MLflow model (models-from-code pyfunc) that stands alone: its files, its code, its requirements.

    Without a signature: with one MLflow refuses Arrow tables, pandas categories and integers, which the model takes.
    """
    from tasks.stores import served_model

    # isort: split
    import mlflow.pyfunc  # after the served model, which keeps the warnings of its import quiet
    from mlflow.models import Model

    mlflow.pyfunc.save_model(
        folder,
        python_model=served_model.__file__,
        artifacts={"model": model_folder},
        # Without a list MLflow infers one by running the model in another process, for 19 s.
        pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in SERVED_WITH],
        mlflow_model=Model(run_id=run_id),
    )
    # MLflow writes down where the files came from on this machine, and needs neither.
    saved = Model.load(str(folder))
    flavor = saved.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    flavor["artifacts"]["model"]["uri"] = flavor["artifacts"]["model"]["path"]
    saved.save(str(folder / "MLmodel"))


def check_as_served(folder: Path, example: "pa.Table", expected: "np.ndarray") -> dict[str, str]:
    """Load and predict in a process that refuses pickle and cannot see this repository; compare with `expected`.

    Returns how long the load took there, its imports done, and the first prediction after it: `load_seconds`,
    `first_prediction_ms`.

    Raises:
        ModelError: it fails there, or its predictions differ.
    """
    import numpy as np
    import pyarrow as pa

    order = {name: str(folder.parent / file) for name, file in CHECK_FILES.items()} | {"folder": str(folder)}
    with pa.ipc.new_file(order["asked"], example.schema) as writer:
        writer.write_table(example)
    code = _check(order)
    told = Path(order["told"]).read_text() if Path(order["told"]).exists() else ""
    if code != 0:
        raise ModelError(
            "the model does not work as served, so it is not registered",
            got=told.strip()[-2000:] or f"exit code {code}",
            expected="it loads without pickle, in a process without this repository, and predicts the example rows",
        )
    got = np.load(order["answer"])
    if got.shape != expected.shape or not np.allclose(got, expected, **TOLERANCE, equal_nan=True):
        raise ModelError(
            "the model predicts otherwise as served than it did, so it is not registered",
            got=f"shape {got.shape}, first {got.ravel()[:3]}",
            expected=f"shape {expected.shape}, first {expected.ravel()[:3]}",
        )
    return dict(json.loads(told.splitlines()[-1]))


def _check(order: Mapping[str, str]) -> int:
    """The exit code of the process that loads and predicts.

    Raises:
        ModelError: no process could begin.
    """
    refused = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    if not CAN_FORK:
        # -I -S: no PYTHONPATH, no working directory, and none of the .pth files by which an editable install is found.
        packages = [path for path in sys.path if path and not is_repository(Path(path))]
        command = [sys.executable, "-I", "-S", served_check.__file__, json.dumps(packages), json.dumps(order)]
        return subprocess.run(command, env=os.environ | refused, cwd=tempfile.gettempdir(), check=False).returncode
    try:
        folder = tempfile.gettempdir()
        with fork("check", json.dumps(order), Path(os.devnull), folder=folder, environment=refused) as check:
            return check.wait()
    except ChildProcessError as error:
        raise ModelError("no process could begin in which to try the model", got=error) from error
