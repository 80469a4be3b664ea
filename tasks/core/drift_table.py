"""What moved, as a table of the monitor's page: each column's shape then and now, in words, and how far it is."""

import itertools
from collections.abc import Sequence
from html import escape

import numpy as np

from tasks.core import svg
from tasks.core.drift import Binning, ColumnDrift, Counts
from tasks.core.observation import MonitorReport, by_drift
from tasks.core.reference import PREDICTION, ColumnReference, Reference

MAX_COLUMNS = 12


def write(report: MonitorReport, reference: Reference) -> str:
    """The columns that moved furthest, drifted or not."""
    references = {**reference.columns, PREDICTION: reference.prediction}
    shown = [drift for drift in by_drift(report.columns) if drift.column in report.shapes][:MAX_COLUMNS]
    rows = "".join(
        _column(drift, references[drift.column], report.shapes[drift.column], report.quantiles.get(drift.column, ()))
        for drift in shown
    )
    drifted = [drift for drift in report.columns if drift.is_drifted]
    more = len(drifted) - sum(drift.is_drifted for drift in shown)
    key = (
        '<div class="note key"><span style="background:#9aa5b1"></span>when it was trained'
        '<span style="background:#0072B2"></span>this window; values from low to high, in bins that held as many rows '
        "each when it was trained; hover for a bin's values</div>"
    )
    left = f'<p class="note">and {more} more drifted, less far</p>' if more > 0 else ""
    heads = "".join(f"<th>{name}</th>" for name in ("column", "share of rows by value", "how", "how far", "missing"))
    return f"<h2>What moved</h2>{key}<table><tr>{heads}</tr>{rows}</table>{left}"


def _column(drift: ColumnDrift, reference: ColumnReference, counts: Sequence[float], quantiles: Sequence[float]) -> str:
    name, value, limit = worst(drift)
    picture = svg.histogram(reference.matrix.sum(0), np.asarray(counts), bin_names(reference.binning))
    mark = ' class="bad"' if drift.is_drifted else ""
    missing = f"{drift.null_fraction:.1%}" + (
        f" (was {drift.reference_null_fraction:.1%})"
        if abs(drift.null_fraction - drift.reference_null_fraction) > 0.005
        else ""
    )
    return (
        f"<tr><td>{_breakable(drift.column)}</td><td>{picture}</td>"
        f'<td class="o">{escape(how_moved(reference, np.asarray(counts), quantiles))}</td>'
        f'<td class="o"><span{mark}>{name} {value:.3f}</span><br><span class="note">threshold {limit:.3f}</span></td>'
        f'<td class="o">{missing}</td></tr>'
    )


def how_moved(reference: ColumnReference, counts: Counts, quantiles: Sequence[float]) -> str:
    """In words: a number's median then and now, or the share of the category that changed most. Both (bins,)."""
    then, binning = reference.matrix.sum(0), reference.binning
    if binning.kind == "numeric":
        now = quantiles[len(quantiles) // 2] if quantiles else _median(binning, counts)
        middle = _median(binning, then)
        return "" if middle is None or now is None else f"median {middle:.4g} → {now:.4g}"
    shares = [each / max(each.sum(), 1.0) for each in (then, counts)]
    place = int(np.abs(shares[1] - shares[0]).argmax())
    return f"{bin_names(binning)[place]} {shares[0][place]:.1%} → {shares[1][place]:.1%}"


def _median(binning: Binning, counts: Counts) -> float | None:
    """To within a bin: the edge at which half of the values lie below; None where nothing is known."""
    present = counts[:-1]
    if not present.sum() or not binning.edges:
        return None
    reached = int(np.searchsorted(np.cumsum(present), present.sum() / 2))
    return binning.edges[min(reached, len(binning.edges) - 1)]


def _breakable(name: str) -> str:
    """A long name may break after its view, and nowhere else but where it must."""
    return escape(name).replace("__", "__<wbr>")


def bin_names(binning: Binning) -> list[str]:
    """Each bin in words, in order."""
    if binning.kind == "categorical":
        return [*binning.categories, "rare ones", "new ones", "missing"]
    edges = [format(edge, ".4g") for edge in binning.edges]
    if not edges:
        return ["any", "missing"]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} or more", "missing"]


def worst(drift: ColumnDrift) -> tuple[str, float, float]:
    """The statistic that is furthest beyond its threshold, its value and its threshold."""
    name = max(drift.statistics, key=lambda each: drift.statistics[each] / drift.thresholds[each])
    return name, drift.statistics[name], drift.thresholds[name]
