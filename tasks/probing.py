"""The probe: the same trees on the rows of then and of now, on the newest matured rows. Would a retrain help?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from configs.sections.gate import GateSection
from configs.sections.loop import MonitorSection
from configs.settings import load_settings
from tasks import home, joins
from tasks.account import Step, step
from tasks.baselines import Scores, fit_and_score, thinned
from tasks.core.records import Inputs, ModelRef, TableRef, Window, digest
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


class ProbeWindows(NamedTuple):
    """Trees are fitted on `then` and on `now`, and tested on `test`, of which `newest` is the end."""

    then: Window
    now: Window
    test: Window
    newest: Window

    @property
    def whole(self) -> Window:
        return Window(start=min(self.then.start, self.now.start), end=self.test.end)


def probe_windows(
    monitor: MonitorSection, maturity: timedelta, made_at: datetime, since: datetime, as_of: datetime
) -> ProbeWindows:
    """Before the test, and before the champion was made, lies a maturity in which labels were unknown.

    The test begins no earlier than the champion was made, which has seen all before.
    """
    cut, reach = as_of - maturity, monitor.probe.fit
    test = Window(start=min(max(cut - monitor.probe.test, made_at), cut), end=cut)
    then, now = (Window(start=at - maturity - reach, end=at - maturity) for at in (made_at, max(test.start, made_at)))
    newest = Window(start=max(test.start, min(since - maturity, cut - NEWEST)), end=cut)
    return ProbeWindows(then, now, test, newest)


def run_probe(
    project: str,
    champion: ModelRef,
    own: joins.ModelRows,
    monitor: MonitorSection,
    gate: GateSection,
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
        with joins.join_model_rows(project, champion, own, windows.whole, as_of, tables, labelled=True) as joined:
            rows = joined.read(inputs).read_all()
        test = within(rows, windows.test)

        def trees(window: Window) -> Scores:
            fit = thinned(within(rows, window), monitor.probe.max_rows)
            line.progress(f"trees on {fit.num_rows:,} rows until {window.end:%Y-%m-%d}")
            folder = load_settings().folder("scratch", project) / f"probe-{digest([window, windows.test])}"
            return fit_and_score(folder, fit, test, inputs, own.label.kind, monitor.probe.iterations)

        return judge_probe(served, rows, own, monitor, gate, windows, trees, line)


def judge_probe(
    served: Predictor,
    rows: "pa.Table",
    own: joins.ModelRows,
    monitor: MonitorSection,
    gate: GateSection,
    windows: ProbeWindows,
    trees: Callable[[Window], Scores],
    line: Step,
) -> Probed:
    """Of rows that are joined and labelled, sorted by time. `trees` are fitted on a window, and score the test."""
    from tasks.core.quality import label_faults, make_probe, plain
    from tasks.core.scorecards import ScoredModel

    test = within(rows, windows.test)
    if not test.num_rows or not all(within(rows, window).num_rows for window in (windows.then, windows.now)):
        line.note("too few matured rows")
        return Probed(None, ())
    champion = (served.predict(test), tuple(served.classes or ()))
    models = {"then": trees(windows.then), "now": trees(windows.now), "champion": champion}
    on = [_on(test, models, own, gate, window) for window in (windows.test, windows.newest)]
    made = [{name: ScoredModel(name, plain(rows), values) for name, values in told.items()} for rows, told in on]
    newest = (made[1]["now"], made[1]["champion"])
    probe = make_probe(
        made[0]["now"], made[0]["then"], newest, gate.primary, margin=gate.margin, level=monitor.probe.level
    )
    line.note(f"{test.num_rows:,} rows to test on")
    line.note("too few days to tell" if probe is None else f"newer rows are worth {probe.gain.value:+.4f}")
    return Probed(probe, label_faults(newest[1]))


def within(rows: "pa.Table", window: Window) -> "pa.Table":
    import pyarrow.compute as pc

    times = rows["prediction_time"]
    return rows.filter(pc.and_(pc.greater_equal(times, window.start), pc.less(times, window.end)))


def _on(test: "pa.Table", models: dict, own: joins.ModelRows, gate: GateSection, window: Window):
    """The rows of a window, and the checked scores of each model on them."""
    import pyarrow as pa

    from tasks.core.gate_rows import all_classes, check_scores

    kept = within(test.append_column("__place", pa.array(range(test.num_rows))), window)
    places = kept["__place"].to_numpy()
    several = own.label.kind == "multiclass"
    classes = all_classes(test["label"], (known for _, known in models.values())) if several else ()
    rows = matured_rows(kept, own, gate, window, classes)
    return rows, {
        name: check_scores(name, scores[places], kept.num_rows, known, classes)
        for name, (scores, known) in models.items()
    }
