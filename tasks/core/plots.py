"""The pictures of a judgement, drawn from what it left on disk. Each is a Figure that nothing global knows of.

Colours are Okabe and Ito's, which people with any colour vision tell apart; line styles and markers differ as well.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.core.arrow_files import appearing
from tasks.core.metrics import Floats, reliability, roc_curve
from tasks.core.records import Comparison, Evaluation, Record, Scorecard
from tasks.core.score_files import read_predictions
from tasks.core.scorecards import MIN_SLICE_ROWS
from tasks.core.summary import format_number

Kind = Literal["binary", "multiclass", "regression"]
Style = tuple[str, str, str]  # colour, line, marker
STYLES: dict[str, Style] = {
    "challenger": ("#0072B2", "-", "o"),
    "champion": ("#D55E00", "--", "s"),
    "baseline": ("#009E73", "-.", "^"),
    "persistence": ("#CC79A7", ":", "D"),
    "anchor": ("#8C6D00", (0, (5, 1)), "v"),  # type: ignore[dict-item]
}
GREY = "#6E6E6E"
MAX_POINTS = 2_000  # of a curve, and of a cloud: a picture shows no more
MAX_SLICES = 24
MIN_BIN_ROWS = 20  # a bin of fewer says nothing, and draws the eye


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotsSpec(Record):
    """All that the process which draws is told. It writes PNG files into `folder`, each whole or not at all."""

    evaluation: str  # path of its record
    stream: str  # the metrics of the judged fit; there may be none
    label_kind: Kind
    primary: str
    folder: str


def main(told: str) -> None:
    """Every figure that fits the kind of label, and the learning curve; `told` is the spec as JSON."""
    spec = PlotsSpec.from_dict(json.loads(told))
    evaluation, stream = Evaluation.read(Path(spec.evaluation)), Path(spec.stream)
    cards = evaluation.scorecards
    models = [card.model for card in cards]
    label, scores = read_predictions(Path(evaluation.predictions_uri), spec.label_kind, models)
    comparisons = evaluation.verdict.comparisons
    figures = judgement_figures(spec.label_kind, label, scores, cards, comparisons, spec.primary)
    if stream.exists():
        figures["learning_curve"] = plot_learning_curve([json.loads(line) for line in stream.read_text().splitlines()])
    for name, figure in figures.items():
        with appearing(Path(spec.folder) / f"{name}.png") as path:
            figure.savefig(path, format="png")


def _figure(width: float = 8.0, height: float = 5.0, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(1, columns, **options)))
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#E4E4E4", linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, panels


def plot_roc(label: Floats, scores: Mapping[str, Floats], areas: Mapping[str, float]) -> Figure:
    """ROC curves of all models; `areas` are their AUCs."""
    figure, (panel,) = _figure(6.4, 6.0)
    for name, values in scores.items():
        false, true = roc_curve(label, values)
        kept = np.unique(np.linspace(0, len(false) - 1, MAX_POINTS).astype(np.int64))
        colour, line, _ = STYLES[name]
        panel.plot(false[kept], true[kept], color=colour, linestyle=line, label=f"{name}, {format_number(areas[name])}")
    panel.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="chance, .5000")
    panel.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    panel.set_title("ROC curve, with the area under it", loc="left")
    panel.legend(loc="lower right", frameon=False)
    return figure


def plot_reliability(label: Floats, scores: Mapping[str, Floats]) -> Figure:
    """Predicted against observed rate, and below how the challenger's predictions are spread."""
    figure = Figure(figsize=(6.4, 6.8), dpi=100, layout="constrained")
    panel, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for part in (panel, below):
        part.spines[["top", "right"]].set_visible(False)
        part.grid(color="#E4E4E4", linewidth=0.8)
        part.set_axisbelow(True)
    panel.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="perfect")
    for name, values in scores.items():
        bins = reliability(label, values)
        colour, line, marker = STYLES[name]
        text, kept = f"{name}, error {format_number(bins.error)}", bins.rows >= MIN_BIN_ROWS
        panel.plot(
            bins.predicted[kept],
            bins.observed[kept],
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=5,
            label=text,
        )
    first, values = next(iter(scores.items()))
    spread = values.max(axis=1) if values.ndim == 2 else values
    below.hist(spread, bins=30, range=(0, 1), color=STYLES[first][0], alpha=0.6)
    what = "the most likely class" if values.ndim == 2 else "class 1"
    panel.set(ylabel="observed rate", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel=f"predicted probability of {what}", ylabel=f"rows of the\n{first}")
    panel.set_title("Reliability: expected calibration error over 15 bins", loc="left")
    panel.legend(loc="upper left", frameon=False)
    return figure


def plot_slices(scorecards: Sequence[Scorecard], comparisons: Sequence[Comparison], primary: str) -> Figure:
    """A dot and its 95% interval for each model and slice; beside it challenger minus champion and its margin."""
    shown = [card for card in scorecards if card.model in ("challenger", "champion")]
    # The intervals of small slices would be all that the others leave room for.
    told = [score for score in shown[0].slices if score.rows >= MIN_SLICE_ROWS]
    largest = sorted(told, key=lambda score: -score.rows)[:MAX_SLICES]
    kept = {(score.column, score.value) for score in largest}
    slices = [score for score in shown[0].slices if (score.column, score.value) in kept]
    differences = {found.slice: found for found in comparisons if found.against == "champion" and found.slice}
    figure, panels = _figure(
        9.0, 1.8 + 0.34 * len(slices), columns=2 if differences else 1, **({"sharey": True} if differences else {})
    )
    places = np.arange(len(slices))[::-1]
    for offset, card in zip(np.linspace(0.13, -0.13, len(shown)) if len(shown) > 1 else [0.0], shown, strict=True):
        found = {(score.column, score.value): score.metric for score in card.slices}
        metrics = [found[score.column, score.value] for score in slices]
        _dots(panels[0], places + offset, [(m.value, m.low, m.high) for m in metrics], card.model)
        overall = card.metrics[primary].value
        panels[0].axvline(overall, color=STYLES[card.model][0], linestyle=STYLES[card.model][1], linewidth=0.9)
    panels[0].set_yticks(places, [f"{score.column}={score.value} ({score.rows:,})" for score in slices])
    panels[0].set_ylim(-0.7, len(slices) - 0.3)
    panels[0].set_xlabel(f"{primary}; lines: all rows")
    panels[0].set_title(f"Slices of {MIN_SLICE_ROWS} rows or more, 95% intervals", loc="left")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    if differences:
        _difference_panel(panels[1], slices, places, differences)
    return figure


def _difference_panel(panel: Axes, slices: Sequence[Any], places: Any, differences: Mapping[str, Comparison]) -> None:
    rows = [differences.get(f"{score.column}={score.value}") for score in slices]
    margin = -next(iter(differences.values())).margin
    panel.axvline(0, color=GREY, linewidth=0.8)
    panel.axvline(margin, color=GREY, linewidth=1.2, linestyle=":")
    for place, found in zip(places, rows, strict=True):
        if found is None or found.interval is None:
            continue
        is_veto = found.outcome == "worse"
        spread = [(found.difference, found.interval.low, found.interval.high)]
        _dots(panel, np.array([place]), spread, "champion" if is_veto else "challenger", label=None, filled=is_veto)
    panel.set_xlabel("challenger minus champion, positive is better;\ndotted: the margin; filled: veto")
    panel.set_title("Paired difference", loc="left")


def _dots(
    panel: Axes,
    places: Any,
    spread: Sequence[tuple[float, float, float]],
    model: str,
    *,
    label: Any = "",
    filled: bool = True,
) -> None:
    value, low, high = np.array(spread).T
    errors = np.nan_to_num(np.stack([value - low, high - value]), nan=0.0).clip(0)
    colour, _, marker = STYLES[model]
    panel.errorbar(
        value,
        places,
        xerr=errors,
        fmt=marker,
        markersize=5,
        color=colour,
        markerfacecolor=colour if filled else "white",
        elinewidth=1.3,
        capsize=2,
        label=model if label == "" else label,
    )


def plot_learning_curve(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Loss on fit and validation rows by epoch, the best epoch marked, and below the other validation metric.

    `rows` are the lines of a fit's metrics stream.
    """
    others = [n for n in rows[-1] if n.startswith("validation_") and n != "validation_loss"][:1]
    figure, panels = _figure(8.0 if others else 6.4, 4.2, columns=1 + len(others))
    epochs = [row["epoch"] for row in rows]
    panels[0].plot(epochs, [row["train_loss"] for row in rows], color=GREY, linestyle="--", marker=".", label="fit")
    if "validation_loss" in rows[-1]:
        losses = [row["validation_loss"] for row in rows]
        best = int(np.argmin(losses))
        panels[0].plot(epochs, losses, color=STYLES["challenger"][0], marker="o", markersize=4, label="validation")
        for panel in panels:
            panel.axvline(epochs[best], color=GREY, linewidth=0.9, linestyle=":")
        panels[0].set_title(f"Learning curve; epoch {epochs[best]:g} is best", loc="left")
    panels[0].set(xlabel="epoch", ylabel="loss")
    panels[0].legend(frameon=False)
    for panel, name in zip(panels[1:], others, strict=True):
        panel.plot(epochs, [row[name] for row in rows], color=STYLES["challenger"][0], marker="o", markersize=4)
        panel.set(xlabel="epoch", ylabel=f"{name.removeprefix('validation_').replace('_', ' ')} on validation rows")
    for panel in panels:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def plot_predicted_actual(label: Floats, scores: Mapping[str, Floats]) -> Figure:
    """A cloud for each model, on the same axes and the same sample of rows."""
    figure, panels = _figure(2.7 * len(scores) + 0.6, 3.4, columns=len(scores), sharex=True, sharey=True)
    chosen = _sample(len(label))
    low, high = np.quantile(np.concatenate([label, *scores.values()]), [0.001, 0.999])
    for panel, (name, values) in zip(panels, scores.items(), strict=True):
        panel.scatter(values[chosen], label[chosen], s=6, alpha=0.35, color=STYLES[name][0], linewidths=0)
        panel.plot([low, high], [low, high], color=GREY, linewidth=0.9)
        panel.set(xlabel="predicted", xlim=(low, high), ylim=(low, high))
        panel.set_title(name, loc="left")
    panels[0].set_ylabel("actual")
    return figure


def plot_residuals(label: Floats, scores: Mapping[str, Floats]) -> Figure:
    """How large the errors are, and whether they depend on what is predicted (means over 20 equal shares of rows)."""
    figure, (left, right) = _figure(9.0, 4.2, columns=2)
    everything = np.concatenate([label - values for values in scores.values()])
    low, high = np.quantile(everything, [0.005, 0.995])
    for name, values in scores.items():
        colour, line, marker = STYLES[name]
        residual = label - values
        left.hist(residual, bins=60, range=(low, high), histtype="step", color=colour, linestyle=line, label=name)
        shares = np.array_split(np.argsort(values, kind="stable"), 20)
        middle = [values[share].mean() for share in shares if len(share)]
        mean = [residual[share].mean() for share in shares if len(share)]
        right.plot(middle, mean, color=colour, linestyle=line, marker=marker, markersize=4, label=name)
    left.set(xlabel="actual minus predicted", ylabel="rows")
    left.set_title("Residuals, the middle 99%", loc="left")
    left.legend(frameon=False)
    right.axhline(0, color=GREY, linewidth=0.8)
    right.set(xlabel="predicted", ylabel="mean of actual minus predicted")
    right.set_title("Bias by prediction", loc="left")
    return figure


def _sample(rows: int) -> Any:
    return np.random.default_rng(0).permutation(rows)[:MAX_POINTS]


def judgement_figures(
    kind: Kind,
    label: Floats,
    scores: Mapping[str, Floats],
    scorecards: Sequence[Scorecard],
    comparisons: Sequence[Comparison],
    primary: str,
) -> dict[str, Figure]:
    """Every figure that fits the kind of label, by the name of its file."""
    figures: dict[str, Figure] = {}
    if kind == "binary" and 0 < label.mean() < 1:
        areas = {card.model: card.metrics["auc"].value for card in scorecards}
        figures["roc"] = plot_roc(label, scores, areas)
    if kind == "regression":
        figures["predicted_actual"] = plot_predicted_actual(label, scores)
        figures["residuals"] = plot_residuals(label, scores)
    else:
        figures["reliability"] = plot_reliability(label, scores)
    if any(score.rows >= MIN_SLICE_ROWS for score in scorecards[0].slices):
        figures["slices"] = plot_slices(scorecards, comparisons, primary)
    return figures
