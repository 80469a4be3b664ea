"""MLflow's own affairs: its import, its database, and whose run a run is."""

import fcntl
import json
import logging
import os
import shutil
import socket
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tasks.core.owners import MEMORY, began_then, unfinished
from tasks.core.templates import template

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}


def preload() -> None:
    """Import MLflow now, which takes seconds, and not at the first use."""
    keep_quiet()
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401


def keep_quiet() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # says that it makes a database
    logging.getLogger("mlflow.pyfunc").setLevel(logging.ERROR)  # warns of a signature that is left out on purpose


def create_database(tracking_uri: str, artifacts_uri: str) -> None:
    """Make MLflow's SQLite file, once and whole. Two processes that first use an empty one crash each other, and a
    kill amid the migrations would leave one that neither works nor is made anew."""
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    # With options behind it, it is no path, and may hold what must not become a file's name: MLflow makes that itself.
    if not tracking_uri.startswith("sqlite:///") or "?" in tracking_uri or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f"{path.name}.lock")):
        if path.exists():
            return
        temporary = path.with_name(f".{path.name}.new")
        if template("mlflow").exists():
            shutil.copy(template("mlflow"), temporary)
            _place_artifacts(temporary, artifacts_uri)
        else:
            _migrate(temporary, artifacts_uri)
        temporary.replace(path)


def make_template() -> None:
    """Let MLflow migrate an empty database, to be copied from then on, unless that is done."""
    made = template("mlflow")
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        temporary = unfinished(made)
        _migrate(temporary, str(made.parent))
        temporary.replace(made)


def _migrate(path: Path, artifacts_uri: str) -> None:
    keep_quiet()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # The migrations wait a hundred times for the disk (1 to 5 s); in memory there is nothing to wait for (0.7 s).
    with _memory_folder() as scratch, warnings.catch_warnings():
        # It sets up every mapped class of the process, Prefect's too, which SQLAlchemy 2.1 warns of.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        SqlAlchemyStore(f"sqlite:///{scratch / path.name}", artifacts_uri).engine.dispose()
        shutil.copy(scratch / path.name, path)


def _place_artifacts(path: Path, artifacts_uri: str) -> None:
    """The database's one experiment, MLflow's default, keeps its files here and not where the template was made."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("update experiments set artifact_location = ? || '/' || experiment_id", [artifacts_uri])


@contextmanager
def _memory_folder() -> Iterator[Path]:
    """A temporary folder in memory; on disk where there is none."""
    if not MEMORY.parent.is_dir():
        with tempfile.TemporaryDirectory() as on_disk:
            yield Path(on_disk)
        return
    folder = unfinished(MEMORY)
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- whose run it is ------------------------------------------------------------------------------


def own_process() -> str:
    import psutil

    own = psutil.Process()
    return json.dumps({"host": socket.gethostname(), "pid": own.pid, "started": own.create_time()})


def is_dead(process: str | None) -> bool:
    """True only where it can be known: a process of this machine that is gone, or whose number another one has."""
    import psutil

    owner = json.loads(process) if process else {}
    if owner.get("host") != socket.gethostname():
        return False
    try:
        found = psutil.Process(owner["pid"])
        return not began_then(found.create_time(), owner["started"]) or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
