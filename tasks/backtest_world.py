"""The world of a backtest: what a moment of the past would have seen and made, by the live loop's own functions.

All rows of the span are joined once, at its end. A moment takes what it would have had of them, a range by time:

- Inputs: the point-in-time join gives each row what was known at its prediction time, whenever it is asked; that the
  feature tables, built up to the end, hold for each moment what they would have held then is what the look-ahead guard
  of every build sees to (`tasks.lookahead`).
- Labels: rows are taken by maturity, and the training set's audit has refused labels that become known later than that
  (`audit.max_late_labels`). A label that is corrected later is seen as corrected.

What differs from the live loop: rows that never got a label are missing from the monitored windows too; drift, which
starts nothing by itself, is told by PSI and not by calibrated thresholds; latency and size are not measured.
"""

import dataclasses
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from configs.settings import load_settings
from tasks import joins
from tasks.account import step
from tasks.backtest_fits import Fits
from tasks.baselines import Scores
from tasks.core.records import FitResult, RowRange, TableRef, TrainingSetRef, Verdict, Window, digest
from tasks.core.splits import row_range, split_rows, split_windows
from tasks.evaluation import score_models
from tasks.matured import effect_window, matured_rows
from tasks.probing import Probed, judge_probe, probe_windows
from tasks.resume import once
from tasks.run import Run
from tasks.table_health import judge_tables

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.backtest import Incumbent, Seen, Trial
    from tasks.core.drift import ColumnDrift, Counts
    from tasks.core.quality import Quality
    from tasks.core.reference import ColumnReference
    from tasks.core.scorecards import ScoredModel


class ReplayedWorld:
    """Answers of a `core.backtest.World` from real fits. Each answer is a record on disk, made once."""

    def __init__(self, run: Run, whole: TrainingSetRef, tables: Sequence[TableRef]) -> None:
        from tasks.core.arrow_files import map_rows

        self.run, self.whole, self.tables = run, whole, tables
        self.rows = map_rows(whole.uri)
        self.times = self.rows["prediction_time"].to_numpy()
        sections = run.recipe
        self.own = joins.ModelRows(run.entity_table, sections.features, sections.label)
        self.folder = load_settings().folder("backtest", run.project)
        self.fits = Fits(run, whole, self.rows, self.folder)
        self._references: dict[str, dict[str, ColumnReference]] = {}
        self._faults: dict[Window, tuple[str, ...]] = {}

    # --- retrains ---------------------------------------------------------------------------------------

    def train(
        self, as_of: datetime, champion: "Incumbent | None", anchor: "Incumbent | None", *, is_gated: bool
    ) -> "Trial":
        """Fit as of a moment, judge on what none of the others has seen, and with a pass refit as the recipe says."""
        from tasks.core.backtest import Trial

        sections = self.run.recipe
        asked = [as_of, champion, anchor if is_gated else None, is_gated, self.fits.procedure, self.whole.digest]
        path = self.folder / "trials" / f"{digest([*asked, sections.gate.model_dump(mode='json')])}.json"
        return once(path, Trial, lambda: self._train(as_of, champion, anchor, is_gated))

    def _train(
        self, as_of: datetime, champion: "Incumbent | None", anchor: "Incumbent | None", is_gated: bool
    ) -> "Trial":
        from tasks.core.backtest import Incumbent, Trial
        from tasks.core.gate import refit_check

        sections, at = self.run.recipe, self.training_set(as_of)
        warm = None if champion is None or not sections.model.warm_start else champion.fit
        judged = served = self.fits.fit(at, None, warm)
        verdict, model = self._judge(at, judged, champion, anchor)
        outcome, reasons = verdict.outcome if is_gated else "promote", verdict.reasons
        if outcome == "promote" and sections.model.refit == "all":
            served = self.fits.fit(at, judged.best_step, warm)
            holdout = at.splits["holdout"]
            scores = [self.fits.scores(fit, holdout.start, holdout.stop)[0] for fit in (judged, served)]
            strayed = refit_check(*scores, sections.gate.max_prediction_change, at.label_kind) if is_gated else ()
            outcome, reasons = ("reject", (*reasons, *strayed)) if strayed else (outcome, reasons)
        made = Incumbent(
            name=f"{as_of:%Y-%m-%d %H:%M} {served.weights_sha256[:8]}", made_at=as_of, fit=served, judged=judged,
            judged_from=model.rows.window.start, promise=model.scorecard(sections.gate.primary).metrics,
        )  # fmt: skip
        return Trial(
            outcome=outcome, reasons=reasons, seconds=judged.seconds + (served.seconds if served != judged else 0.0),
            is_superior=any(c.role == "primary" and c.outcome == "superior" for c in verdict.comparisons),
            made=made if outcome == "promote" else None,
        )  # fmt: skip

    def training_set(self, as_of: datetime) -> TrainingSetRef:
        """What it was as of a moment: the splits that the recipe gives, by row range in the one file."""
        sections = self.run.recipe
        windows = split_windows(
            start=self.run.start, as_of=as_of, maturity=sections.label.maturity, holdout=sections.split.holdout,
            validation=sections.split.validation, embargo=sections.split.embargo,
            reach=None if sections.split.window == "expanding" else sections.split.window,
        )  # fmt: skip
        splits = split_rows(self.times, windows)
        seen = self.fits.content(splits["all"])
        return dataclasses.replace(self.whole, as_of=as_of, splits=splits, digest=seen)

    def _judge(
        self, at: TrainingSetRef, judged: FitResult, champion: "Incumbent | None", anchor: "Incumbent | None"
    ) -> "tuple[Verdict, ScoredModel]":
        """The gate's word, and the challenger on the rows that it was judged on."""
        from tasks.core.gate import judge, judge_nothing
        from tasks.core.gate_rows import first_unseen, read_rows, rows_per_day
        from tasks.core.quality import plain
        from tasks.core.scorecards import ScoredModel

        gate, rivals = self.run.recipe.gate, {"champion": champion, "anchor": anchor if anchor != champion else None}
        others = {name: other for name, other in rivals.items() if other is not None}
        mode, verdict, holdout = "refresh" if others else "first", None, read_rows(at, "holdout")
        first, window = first_unseen(at, holdout, [other.made_at for other in others.values()])
        if first == holdout.num_rows:
            verdict = judge_nothing(gate, mode, rows_per_day(at))
            others, first, window = {}, 0, at.splits["holdout"].window
        start, stop = at.splits["holdout"].start + first, at.splits["holdout"].stop
        raw = {"challenger": self.fits.scores(judged, start, stop)}
        judged_on = RowRange(start=start, stop=stop, window=window)
        raw |= {name: self.served_scores(other, judged_on) for name, other in others.items()}
        scored = score_models(gate, at, holdout.slice(first), window, raw, [])
        rows = plain(scored["challenger"].rows)  # the bootstrap is for display, and nobody looks at these
        models = {name: ScoredModel(name, rows, model.scores) for name, model in scored.items()}
        challenger = models["challenger"]
        card = challenger.scorecard(gate.primary)
        champion_on, anchor_on = (models.get(name) for name in ("champion", "anchor"))
        return verdict or judge(gate, challenger, champion_on, anchor_on, card=card, mode=mode), challenger

    # --- monitored windows ------------------------------------------------------------------------------

    def observe(self, champion: "Incumbent", window: Window, before: "Sequence[Seen]", *, is_probed: bool) -> "Seen":
        """As `tasks.monitoring` looks at a window: inputs, tables, quality, and a probe where it is asked for."""
        from tasks.core.backtest import Seen

        sections = self.run.recipe
        whole = [one for one in before if not one.observation.faults]
        asked = [champion, window, [one.observation.as_of for one in whole], is_probed, self.whole.digest]
        rules = [section.model_dump(mode="json") for section in (sections.monitor, sections.gate)]
        path = self.folder / "seen" / f"{digest([*asked, rules])}.json"
        return once(path, Seen, lambda: self._observe(champion, window, whole, is_probed))

    def _observe(self, champion: "Incumbent", window: Window, whole: "Sequence[Seen]", is_probed: bool) -> "Seen":
        from tasks.core import observation
        from tasks.core.backtest import Seen
        from tasks.core.reference import count_window

        monitor, columns = self.run.recipe.monitor, self._reference(champion)
        counted = count_window(columns, self._rows_of(window).to_batches())
        moved = [_drift(column, counted.counts[name]) for name, column in columns.items()]
        faults = [
            *self._table_faults(window),
            *observation.unpredicted_faults(
                counted.rows, counted.rows, max_unpredicted=monitor.max_unpredicted_fraction
            ),
            *observation.input_faults(
                moved, columns, counted.quantiles, [one.quantiles for one in whole],
                max_null_increase=monitor.max_null_increase,
            ),
        ]  # fmt: skip
        quality, matured_labels = self._quality(champion, window)
        started = time.monotonic()
        is_asked = is_probed and not faults
        probed = self._probe(champion, window) if is_asked else Probed(None, ())
        seconds = time.monotonic() - started if is_asked else 0.0
        furthest = max(moved, key=lambda one: one.statistics["psi"])
        seen = observation.observe(
            window, faults=[*faults, *probed.faults], columns=(), quality=quality, probe=probed.probe,
            matured_labels=matured_labels,
        )  # fmt: skip
        return Seen(
            observation=seen, psi=furthest.statistics["psi"], psi_column=furthest.column, quantiles=counted.quantiles,
            seconds=seconds,
        )  # fmt: skip

    def did_harm(self, champion: "Incumbent", displaced: "Incumbent", as_of: datetime) -> bool | None:
        """As the monitor looks back on a promotion: by the gate, on the rows that matured since."""
        from tasks.core.gate import shown_worse

        window = effect_window(self.run.recipe.monitor, champion.made_at)
        if as_of - self.own.label.maturity < window.end:
            return None
        models = [self._scored(one, window) for one in (champion, displaced)]
        return models[0] is not None and models[1] is not None and bool(shown_worse(self.run.recipe.gate, *models))

    def _reference(self, champion: "Incumbent") -> "dict[str, ColumnReference]":
        """Its inputs on the rows that it was fitted on."""
        from tasks.core.gate_rows import read_rows
        from tasks.core.reference import build_columns

        if champion.name not in self._references:
            at, inputs = self.training_set(champion.made_at), self.whole.inputs
            fitted = read_rows(at, "all" if champion.fit != champion.judged else "fit")
            self._references[champion.name] = build_columns(fitted, [*inputs.numeric, *inputs.categorical])
        return self._references[champion.name]

    def _table_faults(self, window: Window) -> tuple[str, ...]:
        """A table that reaches ahead is passed over: in the lake it now holds more than it would have held then."""
        if window not in self._faults:
            recipe = self.run.recipe
            then = [one for one in self.tables if one.name in recipe.tables and not recipe.tables[one.name].ahead]
            judged = judge_tables(self.run.project, then, window, recipe.monitor)
            self._faults[window] = tuple(fault for table in judged for fault in table.faults)
        return self._faults[window]

    def _quality(self, champion: "Incumbent", window: Window) -> "tuple[Quality, int]":
        """Of the trailing window and of what matured since the last monitor; and how many labels did."""
        from tasks.core import quality

        monitor, metric = self.run.recipe.monitor, self.run.recipe.gate.primary
        maturity, made_at, promised = self.own.label.maturity, champion.made_at, champion.promise[metric]
        cut = window.end - maturity
        newest = Window(start=min(max(window.start - maturity, made_at), cut), end=cut)
        trailing = Window(start=min(max(made_at, cut - monitor.quality_window), cut), end=cut)
        found = [self._scored(champion, part) for part in (trailing, newest)]
        values = [None if model is None else quality.measure(model, metric) for model in found]
        rules = {"tolerance": monitor.tolerance, "level": monitor.loss_level}
        lost = [model is not None and quality.is_lost(model, metric, promised.value, **rules) for model in found]
        made = quality.Quality(
            metric=metric, window=trailing, rows=0 if found[0] is None else len(found[0].rows.label),
            value=values[0], newest=values[1], promised=promised, is_lost=any(lost), is_newest_lost=lost[1],
        )  # fmt: skip
        return made, 0 if found[1] is None else len(found[1].rows.label)

    def _scored(self, champion: "Incumbent", window: Window) -> "ScoredModel | None":
        from tasks.core.gate_rows import check_scores
        from tasks.core.quality import plain
        from tasks.core.scorecards import ScoredModel

        part, classes = row_range(self.times, window), self.fits.classes
        if part.start == part.stop:
            return None
        raw, known = self.served_scores(champion, part)
        rows = matured_rows(self._rows_of(window), self.own, self.run.recipe.gate, window, classes)
        scores = check_scores(champion.name, raw, part.stop - part.start, known, classes)
        return ScoredModel(champion.name, plain(rows), scores)

    def _probe(self, champion: "Incumbent", window: Window) -> Probed:
        """As `tasks.probing` does."""
        from tasks.stores.serving import load_model_folder

        sections, maturity = self.run.recipe, self.own.label.maturity
        windows = probe_windows(sections.monitor, maturity, champion.made_at, window.start, window.end)
        test = row_range(self.times, windows.test)
        with step("probe", f"as of {window.end:%Y-%m-%d}") as line:
            return judge_probe(
                load_model_folder(champion.fit.model), self._rows_of(windows.whole), self.own, sections.monitor,
                sections.gate, windows, lambda fitted: self.fits.trees(row_range(self.times, fitted), test), line,
            )  # fmt: skip

    def _rows_of(self, window: Window) -> "pa.Table":
        part = row_range(self.times, window)
        return self.rows.slice(part.start, part.stop - part.start)

    def served_scores(self, model: "Incumbent", part: RowRange) -> Scores:
        """Of rows after its moment, out of one file for all of them."""
        first = row_range(self.times, Window(start=model.made_at, end=model.made_at)).start
        scores, classes = self.fits.scores(model.fit, first, len(self.times))
        return scores[part.start - first : part.stop - first], classes


def _drift(column: "ColumnReference", counts: "Counts") -> "ColumnDrift":
    """Of one column, against the classic values: thresholds for the page of a monitor are not asked for here."""
    from tasks.core.drift import FLOORS, column_drift

    return column_drift(column.binning, column.matrix.sum(0), counts, FLOORS)
