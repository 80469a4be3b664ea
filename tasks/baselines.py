"""Baselines: honest rivals of every challenger, fitted on the same rows. See `core.baseline`."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from configs.sections.model import BaselineSection
from configs.settings import load_settings
from tasks.account import step
from tasks.core.errors import FitError
from tasks.core.forks import CAN_FORK
from tasks.core.records import Inputs, RowRange, TrainingSetRef, Window, digest
from tasks.core.threads import SHORTEST_SPINS
from tasks.leftovers import discard, unfinished_folder
from tasks.stores.fork_server import carry_out, child_environment, failure

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tasks.core.baseline import BaselineSpec

Scores = tuple["np.ndarray", tuple[Any, ...]]  # of each row, and the classes of the columns


@task(task_run_name="fit baseline")
def fit_baseline(project: str, training_set: TrainingSetRef, baseline: BaselineSection) -> None:
    """Fit the trees on the fit rows and keep their scores of the holdout.

    They are kept by the digest of what they follow from: another challenger on the same rows meets the same.

    Raises:
        FitError: the child process failed.
    """
    _kept_trees(project, training_set, baseline)


def _kept_trees(project: str, training_set: TrainingSetRef, baseline: BaselineSection) -> Path:
    from tasks.core.baseline import BaselineSpec

    fit_rows = training_set.splits["fit"]
    spec = BaselineSpec(
        training_set=training_set.uri,
        inputs=training_set.inputs,
        label_kind=training_set.label_kind,
        fit_rows=fit_rows,
        score_rows=training_set.splits["holdout"],
        iterations=baseline.iterations,
        output="",
    )
    key = digest([training_set.digest, dataclasses.replace(spec, training_set="")])
    path = load_settings().folder("baselines", project) / f"{key}.arrow"
    if not path.exists():
        with step("baseline", project) as line:
            fit_trees(dataclasses.replace(spec, output=str(path)))
            line.note(f"{baseline.iterations} rounds of trees on {fit_rows.stop - fit_rows.start:,} rows")
    return path


def baseline_scores(
    project: str, training_set: TrainingSetRef, baseline: BaselineSection, holdout: "pa.Table"
) -> dict[str, Scores]:
    """Scores of the trees, and of the last known value where the recipe names it, on the whole holdout."""
    from tasks.core.baseline import last_known_value
    from tasks.core.gate_rows import read_rows
    from tasks.core.score_files import read_scores

    found = {"baseline": read_scores(_kept_trees(project, training_set, baseline))}
    if baseline.last_known_value is not None:
        fit = read_rows(training_set, "fit")
        found["persistence"] = last_known_value(fit, holdout, baseline.last_known_value, training_set.label_kind)
    return found


def fit_trees(spec: "BaselineSpec") -> None:
    """Fit the baseline in a process of its own, see `core.threads`.

    Raises:
        FitError: the child failed; the error has the end of its words.
    """
    page = Path(spec.output).with_suffix(".json")
    spec.write(page)
    log = page.with_suffix(".log")
    if said := carry_out("trees", str(page), log) if CAN_FORK else _carry_out(page, log):
        raise FitError(
            "the baseline could not be fitted",
            got=said,
            expected="scores of gradient-boosted trees on the fit rows",
            fix=f"run `python -m tasks.core.baseline {page}`",
        )


def _carry_out(page: Path, log: Path) -> str | None:
    command, environment = [sys.executable, "-m", "tasks.core.baseline", str(page)], child_environment()
    with log.open("wb") as file:
        code = subprocess.run(
            command, env=environment | SHORTEST_SPINS, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    said = failure(log, code) if code else None
    log.unlink()
    return said


def thinned(rows: "pa.Table", most: int) -> "pa.Table":
    """Every second row, or third, and so on: evenly in time."""
    import numpy as np

    return rows.take(np.arange(0, rows.num_rows, max(1, -(-rows.num_rows // most))))


def fit_and_score(
    folder: Path, fit: "pa.Table", test: "pa.Table", inputs: Inputs, kind: str, iterations: int
) -> Scores:
    """Scores of trees on `test`, and their classes; fitted by a child process under `folder`, which is removed."""
    import pyarrow as pa

    from tasks.core.baseline import BaselineSpec
    from tasks.core.score_files import read_scores, write_arrow

    rows, output = folder / "rows.arrow", folder / "scores.arrow"
    span = Window(start=fit["prediction_time"][0].as_py(), end=test["prediction_time"][-1].as_py())
    with unfinished_folder(folder):
        write_arrow(rows, pa.concat_tables([fit, test]))
        fit_trees(
            BaselineSpec(
                training_set=str(rows), inputs=inputs, label_kind=kind, iterations=iterations, output=str(output),
                fit_rows=RowRange(start=0, stop=fit.num_rows, window=span),
                score_rows=RowRange(start=fit.num_rows, stop=fit.num_rows + test.num_rows, window=span),
            )
        )  # fmt: skip
        found = read_scores(output)
    discard(folder)
    return found
