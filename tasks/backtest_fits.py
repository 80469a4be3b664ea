"""The fits of a backtest and their scores: each made once, by digest, and shared between policies and runs."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.baselines import Scores, fit_and_score, thinned
from tasks.core.records import FitResult, RowRange, TrainingSetRef, digest
from tasks.evaluation import trace_procedure
from tasks.resume import once
from tasks.run import Run
from tasks.training import Metrics, fit_spec, launch_fit, progress_text, refit_steps

if TYPE_CHECKING:
    import pyarrow as pa


class Fits:
    """`rows` is the whole file, sorted by time; every fit and every score is of a range of it."""

    def __init__(self, run: Run, whole: TrainingSetRef, rows: "pa.Table", folder: Path) -> None:
        self.run, self.whole, self.rows, self.folder = run, whole, rows, folder
        self.tell: Callable[[str], None] = lambda text: None  # whoever waits for a fit, how far it is
        self._kept: dict[tuple[str, int, int], Scores] = {}
        self._contents: dict[tuple[int, int], str] = {}

    @cached_property
    def procedure(self) -> str:
        """Digest of what a fit is made by, its code too: one that is kept from other code is not used again."""
        return digest([trace_procedure(self.run.recipe, self.whole.service), self.run.recipe.seed])

    @cached_property
    def classes(self) -> tuple[Any, ...]:
        """All classes there are in the span; empty unless there are several columns of scores."""
        from tasks.core.gate_rows import all_classes

        return all_classes(self.rows["label"], ()) if self.whole.label_kind == "multiclass" else ()

    def content(self, part: RowRange) -> str:
        """Digest of the rows themselves: equal in a run over another span, and in production's own training set."""
        from tasks.core.content import ContentDigest

        key = (part.start, part.stop)
        if key not in self._contents:
            rows = self.rows.slice(part.start, part.stop - part.start)
            content = ContentDigest(rows.schema)
            for batch in rows.to_batches():
                content.update(batch)
            self._contents[key] = content.hexdigest()
        return self._contents[key]

    def fit(self, at: TrainingSetRef, steps: int | None, warm: FitResult | None) -> FitResult:
        """On the splits of a moment; with the `steps` of a judged fit the refit on all of its rows."""
        model, seed = self.run.recipe.model, self.run.recipe.seed
        steps = steps and refit_steps(at, model.batch_size, steps)
        spec = fit_spec(at, model, seed, Path(), steps, None if warm is None else Path(warm.model))
        key = digest([at.digest, self.procedure, dataclasses.replace(spec, training_set="", output="")])
        folder = self.folder / "fits" / key

        def report(lines: Metrics) -> None:
            kind = "refit" if steps else "fit"
            self.tell(f"{kind} of {at.as_of:%Y-%m-%d} · {progress_text(lines[-1], model, steps)}")

        return once(
            folder / "fit.json", FitResult,
            lambda: launch_fit(dataclasses.replace(spec, output=str(folder)), report),
        )  # fmt: skip

    def scores(self, fit: FitResult, start: int, stop: int) -> Scores:
        """Of rows [start, stop), and the classes of the columns. Rows once scored to the end are not scored again."""
        from tasks.core.score_files import read_scores, write_scores
        from tasks.stores.serving import load_model_folder

        for (weights, first, last), (found, classes) in self._kept.items():
            if weights == fit.weights_sha256 and first <= start and stop <= last:
                return found[start - first : stop - first], classes
        name = digest([fit.weights_sha256, self.whole.digest, start, stop])
        path = self.folder / "scores" / f"{name}.arrow"
        if not path.exists():
            self.tell(f"scores of {stop - start:,} rows")
            model = load_model_folder(fit.model)
            found = model.predict(self.rows.slice(start, stop - start)).astype("float64")
            write_scores(path, found, model.classes if found.ndim == 2 else ())
        self._kept[fit.weights_sha256, start, stop] = read_scores(path)
        return self._kept[fit.weights_sha256, start, stop]

    def trees(self, fit: RowRange, part: RowRange) -> Scores:
        """Scores of `part` by a probe's trees, which are fitted once for a range and score all rows after it."""
        from tasks.core.score_files import read_scores, write_scores

        probe, whole = self.run.recipe.monitor.probe, self.whole
        name = digest([self.content(fit), whole.inputs, probe.model_dump(mode="json"), fit.stop, len(self.rows)])
        path = self.folder / "trees" / f"{name}.arrow"
        if not path.exists():
            self.tell(f"probe: trees on the rows until {fit.window.end:%Y-%m-%d}")
            rows = thinned(self.rows.slice(fit.start, fit.stop - fit.start), probe.max_rows)
            later = self.rows.slice(fit.stop)
            found, classes = fit_and_score(
                path.with_suffix(""), rows, later, whole.inputs, whole.label_kind, probe.iterations
            )
            write_scores(path, found, classes)
        found, classes = read_scores(path)
        return found[part.start - fit.stop : part.stop - fit.stop], classes
