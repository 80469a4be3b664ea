"""The probe: trees fitted on recent matured rows, against the champion on the newest. Would a retrain help?"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from configs.recipe import GateSection, MonitorSection
from configs.settings import load_settings
from tasks import home, joins
from tasks.account import Step, step
from tasks.baselines import fit_trees
from tasks.core.records import Inputs, ModelRef, RowRange, TableRef, Window, digest
from tasks.matured import matured_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.governor import Probe

NEWEST = timedelta(days=7)  # at least so much, for enough clusters


class Predictor(Protocol):
    """A loaded model that knows what it reads."""

    inputs: Any
    classes: Any

    def predict(self, rows: "pa.Table") -> Any: ...


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe found, and what it says of the labels."""

    probe: "Probe | None"
    faults: tuple[str, ...]


def probe_windows(
    monitor: MonitorSection, maturity: timedelta, made_at: datetime, since: datetime, as_of: datetime
) -> tuple[Window, ...]:
    """Fit, test, and of the test the newest rows. Between fit and test lies a maturity, in which labels are unknown.

    The test begins no earlier than the champion was made, which has seen all before.
    """
    cut = as_of - maturity
    test = Window(start=min(max(cut - monitor.probe.test, made_at), cut), end=cut)
    fit = Window(start=test.start - maturity - monitor.probe.fit, end=test.start - maturity)
    newest = Window(start=max(test.start, min(since - maturity, cut - NEWEST)), end=cut)
    return fit, test, newest


def run_probe(
    project: str,
    champion: ModelRef,
    own: joins.ModelRows,
    monitor: MonitorSection,
    gate: GateSection,
    handicap: float,
    made_at: datetime,
    since: datetime,
    as_of: datetime,
    tables: Sequence[TableRef],
) -> Probed:
    """Join, fit, score, compare; None where there are too few rows to tell."""
    windows = probe_windows(monitor, own.label.maturity, made_at, since, as_of)
    with step("probe", f"{project} v{champion.version}") as line:
        served = home.open_registry(project).load(champion)
        inputs = Inputs(numeric=tuple(served.inputs.numeric), categorical=tuple(served.inputs.categorical))
        whole = Window(start=windows[0].start, end=windows[1].end)
        with joins.join_model_rows(project, champion, own, whole, as_of, tables, labelled=True) as joined:
            rows = joined.read(inputs).read_all()
        return probe_rows(project, served, rows, own, monitor, gate, handicap, windows, line)


def probe_rows(
    project: str,
    served: Predictor,
    rows: "pa.Table",
    own: joins.ModelRows,
    monitor: MonitorSection,
    gate: GateSection,
    handicap: float,
    windows: tuple[Window, ...],
    line: Step,
) -> Probed:
    """Of rows that are joined and labelled, sorted by time."""
    import numpy as np

    from tasks.core.quality import label_faults, make_probe, plain
    from tasks.core.scorecards import ScoredModel

    inputs = Inputs(numeric=tuple(served.inputs.numeric), categorical=tuple(served.inputs.categorical))
    fit, test = (_within(rows, window) for window in windows[:2])
    if not fit.num_rows or not test.num_rows:
        line.note("too few matured rows")
        return Probed(None, ())
    fit = fit.take(np.arange(0, fit.num_rows, -(-fit.num_rows // monitor.probe.max_rows)))
    scores = _tree_scores(project, fit, test, inputs, own.label.kind, monitor.probe.iterations)
    models = {"probe": scores, "champion": (served.predict(test), tuple(served.classes or ()))}
    on = [_on(test, models, own, gate, windows[1]), _on(test, models, own, gate, windows[2])]
    made = [{name: ScoredModel(name, plain(rows), values) for name, values in told.items()} for rows, told in on]
    newest = (made[1]["probe"], made[1]["champion"])
    probe = make_probe(made[0]["probe"], made[0]["champion"], newest, gate.primary, handicap)
    faults = label_faults(newest[1])
    line.note(f"{fit.num_rows:,} rows fitted, {test.num_rows:,} to test on")
    line.note("too few days to tell" if probe is None else f"ahead of the champion by {probe.gain.value:+.4f}")
    return Probed(probe, faults)


def _within(rows: "pa.Table", window: Window) -> "pa.Table":
    import pyarrow.compute as pc

    times = rows["prediction_time"]
    return rows.filter(pc.and_(pc.greater_equal(times, window.start), pc.less(times, window.end)))


def _tree_scores(project: str, fit: "pa.Table", test: "pa.Table", inputs: Inputs, kind: str, iterations: int):
    """Scores of trees on `test`, and their classes; fitted by a child process."""
    import pyarrow as pa

    from tasks.core.baseline import BaselineSpec
    from tasks.core.score_files import read_scores, write_arrow

    folder = (
        load_settings().folder("scratch", project) / f"probe-{digest([fit.num_rows, str(test['prediction_time'][0])])}"
    )
    rows, output = folder / "rows.arrow", folder / "scores.arrow"
    write_arrow(rows, pa.concat_tables([fit, test]))
    span = Window(start=fit["prediction_time"][0].as_py(), end=test["prediction_time"][-1].as_py())
    fit_trees(
        BaselineSpec(
            training_set=str(rows), inputs=inputs, label_kind=kind, iterations=iterations, output=str(output),
            fit_rows=RowRange(start=0, stop=fit.num_rows, window=span),
            score_rows=RowRange(start=fit.num_rows, stop=fit.num_rows + test.num_rows, window=span),
        )
    )  # fmt: skip
    found = read_scores(output)
    for path in (rows, output, output.with_suffix(".json")):
        path.unlink()
    folder.rmdir()
    return found


def _on(test: "pa.Table", models: dict, own: joins.ModelRows, gate: GateSection, window: Window):
    """The rows of a window, and the checked scores of each model on them."""
    import pyarrow as pa

    from tasks.core.gate_rows import all_classes, check_scores

    kept = _within(test.append_column("__place", pa.array(range(test.num_rows))), window)
    places = kept["__place"].to_numpy()
    several = own.label.kind == "multiclass"
    classes = all_classes(test["label"], (known for _, known in models.values())) if several else ()
    rows = matured_rows(kept, own, gate, window, classes)
    return rows, {
        name: check_scores(name, scores[places], kept.num_rows, known, classes)
        for name, (scores, known) in models.items()
    }
