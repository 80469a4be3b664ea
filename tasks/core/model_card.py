"""The pages that go with a model: the card for people, the lineage to build it again, the tags to find it by."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tasks.core.records import (
    Comparison,
    Evaluation,
    FitResult,
    ModelRef,
    Record,
    TableRef,
    TrainingSetRef,
    Verdict,
    digest,
)
from tasks.core.summary import format_interval, format_milliseconds, format_number


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeVersion(Record):
    """Which code made a model. `commit` is None outside of a git checkout."""

    commit: str | None
    is_dirty: bool  # changed since the commit
    lock_digest: str  # of requirements.lock
    python: str
    libraries: dict[str, str]  # name -> version


@dataclass(frozen=True, slots=True, kw_only=True)
class Against(Record):
    """Who a challenger was judged against, and after how many looks at a change."""

    champion: ModelRef | None = None
    anchor: ModelRef | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage(Record):
    """Everything that a model was made from: enough to make it again, and to tell what differs when it does not."""

    project: str
    decision_id: str
    as_of: datetime
    cause: str
    attempt: int
    seed: int
    recipe_digest: str
    training_set: TrainingSetRef  # with the versions and digests of every lake and feature table it read
    feature_files: dict[str, str]  # file of feature_repo -> digest of its text
    judged: FitResult
    served: FitResult  # the same as judged, or its refit on everything matured
    code: CodeVersion
    tables: tuple[TableRef, ...] = ()  # of the moment: also those that only feature tables are built from
    against: Against = Against()
    metrics: dict[str, float] = field(
        default_factory=dict
    )  # on the gate rows, of each model, see `replay.flat_metrics`

    @property
    def features_digest(self) -> str:
        """One digest of the feature definitions and the service: what the model is pinned to."""
        return digest([self.training_set.service, self.feature_files])


def version_tags(lineage: Lineage, verdict: Verdict, flow_run_id: str | None) -> dict[str, str]:
    """What a run and a version are found and compared by."""
    code, training_set = lineage.code, lineage.training_set
    return {
        "perennial.decision_id": lineage.decision_id,
        "perennial.as_of": lineage.as_of.isoformat(),
        "perennial.recipe_digest": lineage.recipe_digest,
        "perennial.training_set_digest": training_set.digest,
        "perennial.lake_versions": json.dumps({table.name: table.version for table in training_set.tables}),
        "perennial.feature_service": training_set.service,
        "perennial.features_digest": lineage.features_digest,
        "perennial.git_commit": "none" if code.commit is None else code.commit + ("-dirty" if code.is_dirty else ""),
        "perennial.weights_sha256": lineage.served.weights_sha256,
        "perennial.judged_weights_sha256": lineage.judged.weights_sha256,
        "perennial.verdict": verdict.outcome,
        "perennial.procedure": json.dumps(verdict.evidence.get("procedure", {}), sort_keys=True),
        "prefect.flow_run_id": flow_run_id or "none",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts(Record):
    """What the card needs of the recipe."""

    description: str
    label: str  # the expression
    label_maturity: str
    network: str
    primary: str  # metric
    licence: str | None = None  # of the data


def write_model_card(ref: ModelRef, facts: CardFacts, lineage: Lineage, evaluation: Evaluation) -> str:
    """The card as markdown. A baseline that does better is said before anything else."""
    parts = [
        [f"# {ref.name}, version {ref.version}", "", facts.description],
        _baseline_warning(evaluation),
        _verdict(evaluation.verdict),
        _quality(evaluation),
        _comparisons(evaluation.verdict.comparisons),
        _slices(evaluation, facts.primary),
        _data(facts, lineage),
        _making(facts, lineage),
        _limits(facts, lineage, evaluation),
        _loading(ref, lineage),
    ]
    return "\n".join("\n".join([*part, ""]) for part in parts if part)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def _baseline_warning(evaluation: Evaluation) -> list[str]:
    if not evaluation.baseline_wins:
        return []
    return ["> **The baseline does better than this model on the gate rows.** Consider using the baseline instead."]


def _verdict(verdict: Verdict) -> list[str]:
    reasons = [f"- {reason}" for reason in verdict.reasons]
    return ["## Verdict", "", f"**{verdict.outcome}** ({verdict.mode})", "", *reasons]


def _quality(evaluation: Evaluation) -> list[str]:
    cards = evaluation.scorecards
    metrics = list(cards[0].metrics)
    header = ["", *metrics, "calibration error", "one prediction", "1,000 predictions", "size"]
    rows = [
        [
            card.model + (f" v{card.version}" if card.version else ""),
            *(format_interval(card.metrics[name]) if name in card.metrics else "–" for name in metrics),
            "–" if card.calibration_error is None else format_number(card.calibration_error),
            format_milliseconds(card.latency_one_ms)
            + (f" (p99 {format_milliseconds(card.latency_one_p99_ms)})" if card.latency_one_p99_ms else ""),
            format_milliseconds(card.latency_batch_ms),
            "–" if card.size_bytes is None else f"{card.size_bytes / 1e6:.1f} MB",
        ]
        for card in cards
    ]
    window = f"{cards[0].window.start:%Y-%m-%d} to {cards[0].window.end:%Y-%m-%d}"
    said = f"{cards[0].rows:,} rows from {window} that no model was fitted or selected on; 95% intervals."
    return ["## Quality", "", said, "", *markdown_table(header, rows)]


def _comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return []
    rows = [
        [
            c.metric,
            c.slice or "all",
            c.role if c.against == "champion" else f"{c.role}, against the {c.against}",
            f"{c.difference:+.4f}",
            f"{c.low:+.4f} to {c.high:+.4f}",
            c.margin,
            c.outcome,
        ]
        for c in comparisons
    ]
    header = ["metric", "rows", "role", "difference", "one-sided bounds", "margin", "outcome"]
    said = "Paired, on the same rows; positive is better for the challenger."
    return ["## Challenger against champion", "", said, "", *markdown_table(header, rows)]


def _slices(evaluation: Evaluation, primary: str) -> list[str]:
    cards = [card for card in evaluation.scorecards if card.slices]
    if not cards:
        return []
    named = {card.model: {(s.column, s.value): s for s in card.slices} for card in cards}
    first = cards[-1].slices
    rows = [
        [
            f"{s.column}={s.value}",
            f"{s.rows:,}",
            *(
                format_interval(found[s.column, s.value].metric) if (s.column, s.value) in found else "–"
                for found in named.values()
            ),
        ]
        for s in first
    ]
    return ["## Slices", "", f"By {primary}.", "", *markdown_table(["slice", "rows", *named], rows)]


def _data(facts: CardFacts, lineage: Lineage) -> list[str]:
    data = lineage.training_set
    splits = [
        [
            name,
            f"{part.stop - part.start:,}",
            f"{part.window.start:%Y-%m-%d %H:%M}",
            f"{part.window.end:%Y-%m-%d %H:%M}",
        ]
        for name, part in data.splits.items()
    ]
    tables = [[table.name, table.version, f"{table.rows:,}", table.digest] for table in data.tables]
    return [
        "## Data",
        "",
        f"Predicts `{facts.label}` ({data.label_kind}). Training set `{data.digest}`, {data.rows:,} rows as of "
        f"{data.as_of:%Y-%m-%d %H:%M} UTC; {data.unlabelled_rows:,} matured rows had no label.",
        f"Licence of the data: {facts.licence or 'not given'}.",
        "",
        *markdown_table(["split", "rows", "from", "until (UTC)"], splits),
        "",
        *markdown_table(["table", "version", "rows", "digest"], tables),
        "",
        f"Features: service `{data.service}`, definitions `{lineage.features_digest}`.",
        f"Numbers: {_names(data.inputs.numeric)}.",
        f"Categories: {_names(data.inputs.categorical)}.",
        "",
        "Every input was known at its row's prediction time: each row of the lake carries the moment at which it "
        f"became known, and none was used before it. Rows were chosen by age (at least {facts.label_maturity} before "
        "the training set's moment), never by whether a label had arrived.",
    ]


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _making(facts: CardFacts, lineage: Lineage) -> list[str]:
    fit, code = lineage.served, lineage.code
    steps = f"best epoch {fit.best_epoch}, {fit.best_step:,} steps, {fit.seconds:.1f} s on {fit.device}"
    versions = f"Python {code.python}, torch {code.libraries.get('torch', '–')}"
    commit = f"`{code.commit}`{', with uncommitted changes' if code.is_dirty else ''}" if code.commit else "not in git"
    lines = [
        "## How it was made",
        "",
        f"- network `{facts.network}`, {fit.num_parameters:,} parameters, seed {lineage.seed}",
        f"- {fit.rows:,} rows, {steps}",
        f"- weights `{fit.weights_sha256}`",
        f"- recipe `{lineage.recipe_digest}`, code {commit}, {versions}",
    ]
    if fit.weights_sha256 != lineage.judged.weights_sha256:
        lines.append(
            "- **refitted**: the verdict judged the procedure. The model that was judged "
            f"(`{lineage.judged.weights_sha256}`) left the holdout out; this one was fitted the same way on every "
            "matured row"
        )
    return lines


def _limits(facts: CardFacts, lineage: Lineage, evaluation: Evaluation) -> list[str]:
    verdict, window = evaluation.verdict, evaluation.scorecards[0].window
    limits = [
        f"Its quality was measured from {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}; the world since may differ.",
        "A category that the fit rows did not have is treated as unknown, and a missing number as its mean.",
    ]
    if evaluation.baseline_wins:
        limits.insert(0, "A baseline of gradient-boosted trees does better on these rows.")
    if lineage.training_set.unlabelled_rows:
        limits.append(
            f"{lineage.training_set.unlabelled_rows:,} matured rows without a label were treated as the recipe says; "
            "it says nothing about what they have in common."
        )
    if verdict.smallest_detectable_effect is not None:
        limits.append(
            f"A difference in {facts.primary} below {verdict.smallest_detectable_effect:.4f} could not be seen here."
        )
    unseen = [c.slice for c in verdict.comparisons if c.slice and c.outcome == "undecided"]
    if unseen:
        limits.append(f"Too few rows to tell on {', '.join(unseen)}.")
    return ["## Limits", "", *(f"- {limit}" for limit in limits)]


def _loading(ref: ModelRef, lineage: Lineage) -> list[str]:
    return [
        "## Loading it",
        "",
        "```python",
        "import mlflow",
        "",
        'mlflow.set_tracking_uri("...")  # where this page was found',
        f'model = mlflow.pyfunc.load_model("{ref.uri}")',
        "scores = model.predict(rows)  # a pandas DataFrame or a pyarrow Table with the inputs above",
        "```",
        "",
        "It needs mlflow, torch, numpy and pyarrow, and nothing of this repository; no pickle is read.",
        f"To build it again: `lineage.json` beside this page, decision `{lineage.decision_id}`.",
    ]
