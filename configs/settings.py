"""Settings: where things are. From the environment (`PERENNIAL_…`), never from a recipe.

Everything defaults to one folder, so that removing it is a reset and two homes never meet.
"""

import os
import re
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.core.threads import SHORT_SPINS

PREFIX = "PERENNIAL_"
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
ACCOUNT = {
    # The live account stands in the Prefect run's log too; outside of a run there is none to put it in.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "perennial",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


class Settings(BaseSettings):
    """Where the state lives. Each URI defaults to a place under `home`."""

    # No error and no log shows a value: a URI may hold a password.
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    home: Path = Field(default=Path(".perennial"), description="the folder of all state")
    lake_uri: str | None = Field(default=None, description="where Delta tables live; a path or an object store URI")
    borrowed_tables: dict[str, str] = Field(
        default={}, description="a JSON object, table -> URI: tables that lie in another lake, read and never written"
    )
    tracking_uri: str | None = Field(default=None, repr=False, description="MLflow's database or server")
    artifacts_uri: str | None = Field(default=None, description="MLflow's artifacts")
    feast_registry: str | None = Field(default=None, repr=False, description="Feast's SQL registry, a SQLAlchemy URL")
    online_store: str | None = Field(
        default=None, repr=False, description="Feast's online store: a JSON object; default SQLite"
    )
    expectations: Path | None = Field(default=None, description="the folder of suites; default: the repository's")
    memory_limit: str = Field(default="4GB", description="DuckDB's memory; beyond it queries spill to disk")
    source_roots: str = Field(
        default="", description="folders and URIs that source files may come from, with | between them; none: anywhere"
    )
    threads: int = Field(default=0, description="threads of a query; 0 is one for each core")
    feature_repo: Path = Field(
        default=Path(__file__).parents[1] / "feature_repo",
        description="the folder of feature definitions and their SQL",
    )
    server_host: str = Field(default="127.0.0.1", description="where `make up` binds the Prefect server")
    server_port: int = Field(default=4200, description="the Prefect server's port")
    mlflow_host: str = Field(default="127.0.0.1", description="where `make up` binds the MLflow UI")
    mlflow_port: int = Field(default=5000, description="the MLflow UI's port")
    silence_seconds: float = Field(
        default=90, gt=30, description="a deployed run without a heartbeat, one each 30 s, for so long is dead"
    )
    start_seconds: float = Field(default=600, gt=0, description="how long a run's process may take to begin")

    @field_validator("lake_uri", "artifacts_uri")
    @classmethod
    def _holds_no_password(cls, uri: str | None) -> str | None:
        if uri and re.search(r"://[^/]*@", uri):
            raise ValueError(
                "this URI stands in every record, lineage and model, and may hold no password: give it to the object"
                " store's own variables (AWS_SECRET_ACCESS_KEY and the like)"
            )
        return uri

    @field_validator("tracking_uri")
    @classmethod
    def _is_no_password_of_http(cls, uri: str | None) -> str | None:
        if uri and re.match(r"https?://[^/]*@", uri):
            raise ValueError(
                "MLflow repeats the URI of its server in every error, so that it may hold no password: give it in"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri

    @property
    def root(self) -> Path:
        return self.home.expanduser().resolve()

    def lake(self, project: str) -> str:
        return f"{self.lake_uri or self.root / 'lake'}/{project}"

    @property
    def source_folders(self) -> list[str]:
        return [root for root in self.source_roots.split("|") if root]

    @property
    def expectations_folder(self) -> Path:
        return self.expectations or Path(__file__).parent.parent / "expectations"

    @property
    def mlflow_uri(self) -> str:
        return self.tracking_uri or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> str:
        return self.artifacts_uri or str(self.root / "mlartifacts")

    def feast(self, project: str) -> Path:
        return self.root / "feast" / project

    def folder(self, kind: str, project: str) -> Path:
        """A working folder: staging, quarantine, docs, training, runs, ledger. Made by whoever writes there."""
        return self.root / kind / project


def load_settings() -> Settings:
    """As the environment has them now; read anew only where that has changed, for runs ask hundreds of times."""
    return _read(tuple((name, value) for name, value in os.environ.items() if name.upper().startswith(PREFIX)))


@lru_cache(maxsize=1)
def _read(_: tuple[tuple[str, str], ...]) -> Settings:
    return Settings()


def prepare_environment() -> None:
    """Telemetry off, the account into Prefect's log, and its state under our home; the environment may say otherwise.

    Has to run before the stack is imported: Prefect and Feast read these variables on import.
    """
    for name, value in (QUIET | ACCOUNT | SHORT_SPINS).items():
        os.environ.setdefault(name, value)
    # On a busy machine the temporary server of a run from the shell needs more than Prefect's 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    os.environ.setdefault("PREFECT_HOME", str(load_settings().root / "prefect"))
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes no parents, and warns
