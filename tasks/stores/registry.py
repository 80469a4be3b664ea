"""MLflow: the runs, model versions and aliases of one project. Only this module and the served model know MLflow.

`MlflowClient` with explicit run ids throughout: MLflow's fluent API keeps its active run in a thread-local, so that a
metric logged from a worker thread silently opens another run.
"""

import tempfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import ModelError
from tasks.core.records import ModelRef
from tasks.stores.serving import check_as_served, load_registered_folder, save_served_model
from tasks.stores.tracking_database import create_database, is_dead, keep_quiet, own_process

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from mlflow.tracking import MlflowClient

    from tasks.stores.served_model import ServedModel

DECISION = "perennial.decision_id"
DESCRIPTION = "mlflow.note.content"  # what the UI shows of a run as its description, Markdown
PROCESS = "perennial.process"
METRICS_PER_CALL = 1000  # MLflow's limit
MAX_PAGE, MAX_SUMMARY = 8000, 5000  # MLflow's limits on the length of a tag and of a description


class Registry:
    """MLflow: runs, versions and aliases of one project. The experiment and the model are named after it."""

    def __init__(self, tracking_uri: str, artifacts_uri: str, project: str) -> None:
        self.tracking_uri, self.artifacts_uri, self.project = tracking_uri, artifacts_uri, project
        self._starts: dict[str, int] = {}  # of runs, which are asked for with all that they have logged

    @cached_property
    def client(self) -> "MlflowClient":
        keep_quiet()
        from mlflow.tracking import MlflowClient

        create_database(self.tracking_uri, self.artifacts_uri)
        return MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)

    @cached_property
    def experiment_id(self) -> str:
        """The project's experiment, made on first use. Two processes may come first at once: one of them makes it."""
        from mlflow.exceptions import MlflowException

        if (found := self.client.get_experiment_by_name(self.project)) is None:
            try:
                # Without a location of its own MLflow writes into ./mlruns of whoever happens to run.
                return self.client.create_experiment(
                    self.project, artifact_location=f"{self.artifacts_uri}/{self.project}"
                )
            except MlflowException:
                if (found := self.client.get_experiment_by_name(self.project)) is None:
                    raise
        return found.experiment_id

    # --- runs -------------------------------------------------------------------------------------

    def run(
        self, decision_id: str, *, name: str = "", params: Mapping[str, object] = {}, tags: Mapping[str, str] = {}
    ) -> str:
        """The id of the decision's run: made on first use, taken up again after a kill. Parameters never change."""
        from mlflow.entities import Param, RunTag

        own = {**tags, DECISION: decision_id, PROCESS: own_process()}
        found = self.client.search_runs(
            [self.experiment_id], f"tags.`{DECISION}` = '{decision_id}'", max_results=1, order_by=["start_time ASC"]
        )
        run = found[0] if found else self.client.create_run(self.experiment_id, run_name=name or decision_id, tags=own)
        if run.info.status in ("FAILED", "KILLED"):
            self.client.update_run(run.info.run_id, status="RUNNING")
        self.client.log_batch(
            run.info.run_id,
            params=[Param(name, str(value)) for name, value in params.items() if name not in run.data.params],
            tags=[RunTag(name, value) for name, value in own.items()] if found else [],
        )
        return str(run.info.run_id)

    def log_metrics(self, run_id: str, rows: Iterable[tuple[str, float, int]]) -> None:
        """Log (name, value, step) in as few calls as can be. The same row logged twice stands there once."""
        from mlflow.entities import Metric

        # MLflow tells rows apart by their timestamp too; a wall clock would double the curve of a resumed run.
        start = self._starts.get(run_id) or self.client.get_run(run_id).info.start_time
        self._starts[run_id] = start
        metrics = [Metric(name, value, start + step, step) for name, value, step in rows]
        for first in range(0, len(metrics), METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[first : first + METRICS_PER_CALL])

    def log_text(self, run_id: str, name: str, text: str) -> None:
        self.client.log_text(run_id, text, name)

    def read_text(self, run_id: str, name: str) -> str:
        """Raises: FileNotFoundError: the run has no such artifact."""
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as scratch:
            try:
                return Path(self.client.download_artifacts(run_id, name, scratch)).read_text()
            except (OSError, MlflowException) as error:
                raise FileNotFoundError(f"run {run_id} has no artifact {name!r}") from error

    def describe(self, ref: ModelRef, page: str, summary: str) -> None:
        """Show `page` (Markdown) with the run of a version, and `summary` in the list of versions."""
        self.set_tags(ref.run_id, {DESCRIPTION: page[:MAX_PAGE]})
        self.client.update_model_version(self.project, str(ref.version), summary[:MAX_SUMMARY])

    def log_file(self, run_id: str, path: str | Path, folder: str = "") -> None:
        self.client.log_artifact(run_id, str(path), folder or None)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(run_id, status)

    def reap(self) -> list[str]:
        """Close the runs that a dead process of this machine left RUNNING, as KILLED; returns their ids."""
        left = self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'", max_results=1000)
        dead = [run.info.run_id for run in left if is_dead(run.data.tags.get(PROCESS))]
        for run_id in dead:
            self.client.set_terminated(run_id, "KILLED")
        return dead

    # --- versions ---------------------------------------------------------------------------------

    def register(
        self,
        run_id: str,
        model_folder: str,
        *,
        decision_id: str,
        tags: Mapping[str, str],
        example: "pa.Table",
        expected: "np.ndarray",
    ) -> ModelRef:
        """Register the folder of a fit as the one version of `decision_id`, after it has predicted as served.

        Raises:
            ModelError: it does not load with pickle refused and without this repository, or predicts otherwise.
        """
        if (registered := self.by_decision(decision_id)) is not None:
            return registered
        tags = {**tags, DECISION: decision_id}
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            save_served_model(model_folder, folder, run_id)
            cold = check_as_served(folder, example, expected)
            tags |= {f"perennial.{name}": value for name, value in cold.items()}
            model = self._logged_model(run_id, decision_id, tags)
            self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.set_tags(run_id, tags)
        self._ensure_registered_model()
        # The location, not `models:/…`: MLflow would look that up in its global tracking URI, which is not ours.
        made = self.client.create_model_version(
            self.project,
            source=model.artifact_location,
            run_id=run_id,
            model_id=model.model_id,
            tags=dict(tags),
            await_creation_for=0,
        )
        return self._ref(made)

    def _logged_model(self, run_id: str, decision_id: str, tags: Mapping[str, str]) -> Any:
        """MLflow's entity that owns the files; the one of an interrupted registration is used again."""
        from mlflow.entities import LoggedModelOutput

        found = self.client.search_logged_models(
            [self.experiment_id], f"tags.`{DECISION}` = '{decision_id}'", max_results=1
        )
        if found:
            return found[0]
        model = self.client.create_logged_model(
            self.experiment_id, name=self.project, source_run_id=run_id, tags=dict(tags), model_type="perennial"
        )
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        return model

    def _ensure_registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.project)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def load(self, ref: ModelRef) -> "ServedModel":
        """The predictor, made by the copy of the code that was registered with it, never by today's."""
        return load_registered_folder(self.fetch(ref))

    def model_folder(self, ref: ModelRef) -> Path:
        """Where the files of its fit lie, as `FitResult.model` names them."""
        from mlflow.models import Model

        folder = self.fetch(ref)
        flavor = Model.load(str(folder)).flavors["python_function"]
        return folder / flavor["artifacts"]["model"]["path"]

    def fetch(self, ref: ModelRef) -> Path:
        """The registered folder: the fit's files, and the code to load them by."""
        from mlflow.artifacts import download_artifacts

        uri = self.client.get_model_version_download_uri(ref.name, str(ref.version))
        # A local path is used where it lies; anything else is fetched.
        return Path(download_artifacts(artifact_uri=uri, tracking_uri=self.tracking_uri))

    def version(self, number: int) -> ModelRef:
        """Raises: ModelError: there is no such version."""
        return self._ref(self._version(number))

    def has_version(self, number: int) -> bool:
        try:
            return bool(self._version(number))
        except ModelError:
            return False

    def tags(self, ref: ModelRef) -> dict[str, str]:
        return dict(self._version(ref.version).tags)

    def by_decision(self, decision_id: str) -> ModelRef | None:
        found = self.client.search_model_versions(
            f"name = '{self.project}' and tags.`{DECISION}` = '{decision_id}'", max_results=1
        )
        return self._ref(found[0]) if found else None

    def _version(self, number: int) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version(self.project, str(number))
        except MlflowException as error:
            raise ModelError(
                f"model {self.project!r} has no version {number}",
                got=error.message,
                expected="a version that is registered and was not deleted",
                fix=f"look at the versions of {self.project!r} in MLflow",
            ) from error

    def _ref(self, made: Any) -> ModelRef:
        number = int(made.version)
        return ModelRef(name=self.project, version=number, run_id=made.run_id, uri=f"models:/{self.project}/{number}")

    # --- aliases ----------------------------------------------------------------------------------

    def aliases(self) -> dict[str, int]:
        found = self.client.search_registered_models(f"name = '{self.project}'", max_results=1)
        return {alias: int(number) for alias, number in found[0].aliases.items()} if found else {}

    def set_alias(self, alias: str, version: int) -> None:
        """Raises: ModelError: there is no such version."""
        self._version(version)
        self.client.set_registered_model_alias(self.project, alias, str(version))

    def delete_alias(self, alias: str) -> None:
        self.client.delete_registered_model_alias(self.project, alias)
