"""Train: the fit as a child process, its curves live in MLflow, its result or its reason to stop."""

import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import task

from configs.sections.model import ModelSection
from configs.settings import load_settings
from tasks.account import logger, step
from tasks.core.errors import FitError
from tasks.core.fit_output import LOG, finished, open_output, read_error, read_metrics, read_notes
from tasks.core.records import FitResult, FitSpec, ModelRef, TrainingSetRef
from tasks.fit_process import child_process
from tasks.stores.fork_server import last_lines

POLL_SECONDS = 0.2
LARGE_GAP = 1.5  # validation loss over training loss, from which it is told

Metrics = list[dict[str, Any]]


def _fit_name() -> str:
    from prefect.runtime import task_run

    return "refit" if task_run.parameters.get("steps") else "fit"


@task(task_run_name=_fit_name)
def fit_model(
    project: str,
    training_set: TrainingSetRef,
    model: ModelSection,
    seed: int,
    decision_id: str,
    run_id: str,
    steps: int | None = None,
    champion: ModelRef | None = None,
) -> FitResult:
    """Fit on split `fit`, choosing the best epoch by `validation`; or, given the `steps` of a fit, refit on `all`.

    A refit makes as many passes as the judged fit had made at its best step, under the same schedule: on more rows
    that is proportionally more steps. The literal number of steps on more rows is fewer passes, and was worse.
    With `model.warm_start` both begin with the champion's weights; the gate judges on rows that it has not seen.
    """
    from tasks.stores.registry import Registry

    settings = load_settings()
    registry = Registry(settings.mlflow_uri, settings.mlflow_artifacts, project)
    warm = registry.model_folder(champion) if model.warm_start and champion is not None else None
    folder = settings.folder("runs", project) / decision_id

    def log(lines: Metrics) -> None:
        registry.log_metrics(run_id, metric_rows(lines, "refit" if steps else "fit"))

    return fit_under(folder, training_set, model, seed, steps, warm, log)


def fit_under(
    folder: Path,
    training_set: TrainingSetRef,
    model: ModelSection,
    seed: int,
    steps: int | None = None,
    warm_start: Path | None = None,
    log: Callable[[Metrics], None] = lambda lines: None,
) -> FitResult:
    """Fit under `folder`, or, given the steps of a fit, refit; the live account tells how far it is."""
    kind = "refit" if steps else "fit"
    steps = steps and refit_steps(training_set, model.batch_size, steps)
    spec = fit_spec(training_set, model, seed, folder / kind, steps, warm_start)
    with step(kind, model.network) as line:

        def report(lines: Metrics) -> None:
            line.progress(progress_text(lines[-1], model, steps))
            log(lines)

        result = launch_fit(spec, report)
        line.note(result_text(result))
    for note in (*read_notes(Path(spec.output)), *gap_notes(read_metrics(Path(spec.output)))):
        logger.warning("%-10s %-22s %s", kind, model.network, note)
    return result


def refit_steps(training_set: TrainingSetRef, batch_size: int, steps: int) -> int:
    """Optimizer steps on all rows that are as many passes over them as `steps` were over the fit rows."""
    fit, everything = training_set.splits["fit"], training_set.splits["all"]
    fit_rows, all_rows = fit.stop - fit.start, everything.stop - everything.start
    passes = steps * min(batch_size, fit_rows) / fit_rows
    return max(1, round(passes * all_rows / min(batch_size, all_rows)))


def fit_spec(
    training_set: TrainingSetRef,
    model: ModelSection,
    seed: int,
    output: Path,
    steps: int | None,
    warm_start: Path | None = None,
) -> FitSpec:
    """What the child is told: on splits fit and validation, or for a refit on the split of all rows."""
    splits = training_set.splits
    fit, validation = (splits["all"], None) if steps else (splits["fit"], splits["validation"])
    return FitSpec(
        training_set=training_set.uri,
        inputs=training_set.inputs,
        label="label",
        label_kind=training_set.label_kind,
        fit_rows=(fit.start, fit.stop),
        validation_rows=validation and (validation.start, validation.stop),
        steps=steps,
        network=model.network,
        network_options=model.options,
        optimizer=model.optimizer.model_dump(),
        batch_size=model.batch_size,
        max_epochs=model.max_epochs,
        patience=model.patience,
        gradient_clip=model.gradient_clip,
        precision=model.precision,
        devices=model.devices,
        seed=seed,
        output=str(output),
        loss=model.loss,
        warm_start=warm_start and str(warm_start),
    )


def metric_rows(lines: Metrics, kind: str) -> list[tuple[str, float, int]]:
    """The stream's lines as (name, value, epoch). A refit's curve stands beside the fit's, not on it.

    Without its seconds: an epoch that is done again after a kill gives the same numbers but for the time it took.
    """
    prefix = "" if kind == "fit" else f"{kind}_"
    return [
        (prefix + name, float(value), line["epoch"])
        for line in lines
        for name, value in line.items()
        if name not in ("epoch", "step", "seconds")
    ]


def progress_text(line: dict[str, Any], model: ModelSection, steps: int | None) -> str:
    if steps:
        return f"step {line['step']:,}/{steps:,} · loss {line['train_loss']:.4f}"
    return f"epoch {line['epoch']}/{model.max_epochs} · validation loss {line['validation_loss']:.4f}"


def result_text(result: FitResult) -> str:
    scores = " ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in result.metrics.items() if k.startswith("validation"))
    text = f"{result.rows:,} rows · best of {result.epochs} epochs: {result.best_epoch}"
    return f"{text} · {scores}" if scores else f"{result.rows:,} rows · {result.best_step:,} steps"


def gap_notes(lines: Metrics) -> tuple[str, ...]:
    """A fit that ends far better on its own rows than on the next ones has learned something that those do not have.

    The last epoch shows it; the best one is chosen by the very rows that lack it.
    """
    last = lines[-1] if lines else {}
    fitted, unseen = (last.get(name) for name in ("train_loss", "validation_loss"))
    if fitted is None or unseen is None or unseen <= LARGE_GAP * fitted:
        return ()
    return (
        f"high gap: validation loss {unseen:.4f} where the training loss is {fitted:.4f}; look for an input that knows"
        " the answer in old rows only, or for overfitting",
    )


# --- the child process ------------------------------------------------------------------------------


def launch_fit(spec: FitSpec, on_metrics: Callable[[Metrics], None]) -> FitResult:
    """Run the fit as a child and report its metrics as they come. An equal spec that is finished returns at once.

    Raises:
        FitError: the child's own, or, if it died without one, its exit code and the end of its log.
    """
    if (result := finished(spec)) is not None:
        return result
    page = open_output(spec)
    output, reported = page.parent, 0
    with child_process(page, spec.devices) as child:
        is_running = True
        while is_running:
            # Asked before reading, so that what a child wrote last is read once more after its end.
            is_running = child.poll() is None
            lines = read_metrics(output)
            # Fewer than before: the child began anew, with smaller micro-batches.
            if new := lines[reported if reported <= len(lines) else 0 :]:
                on_metrics(new)
            reported = len(lines)
            if is_running:
                with suppress(subprocess.TimeoutExpired):  # its end is told at once
                    child.wait(POLL_SECONDS)
    if (result := finished(spec)) is None:
        raise read_error(output) or died(child.returncode, output / LOG)
    return result


def died(code: int, log: Path) -> FitError:
    by = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return FitError(
        f"the training process ended with {by}", got=f"the end of {log}:\n{last_lines(log)}", expected="exit code 0"
    )
