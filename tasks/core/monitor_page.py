"""The monitor's report as one HTML page that stands alone: what moved, how, and what it did to quality."""

import itertools
from collections.abc import Sequence
from html import escape

import numpy as np

from tasks.core import svg
from tasks.core.drift import Binning, ColumnDrift
from tasks.core.governor import Decision
from tasks.core.health import TableHealth
from tasks.core.observation import MonitorReport, by_drift
from tasks.core.reference import PREDICTION, ColumnReference, Reference
from tasks.core.summary import format_interval, format_number

MAX_COLUMNS = 12
MEANING = {
    "retrain": "A retrain is on its way.",
    "wait": "Nothing is to be done.",
    "alert": "Someone should know; nothing is done.",
    "halt": "Nothing is trained on this data until it is whole again, or a person says so.",
}
EXPLANATION = (
    "A column drifted when one of its statistics is above its threshold: what windows of this length, drawn from the "
    "champion's own training days, stay below, over all columns together; never less than the classic values (.1). "
    "psi: population stability index; js: Jensen-Shannon distance; ks: largest distance of the distributions; "
    "cramer_v: Cram&eacute;r's V."
)
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1d2733;max-width:900px;margin:24px auto;padding:0 16px}
h1{font-size:21px;margin:0 0 2px}h2{font-size:16px;margin:26px 0 6px}.sub,.note{color:#5b6673}.note{font-size:13px}
.verdict{border-left:6px solid #6E6E6E;background:#f5f7f9;padding:10px 14px;margin:14px 0}
.verdict b{text-transform:uppercase;letter-spacing:.04em}.retrain{border-color:#0072B2}.alert{border-color:#E69F00}
.halt{border-color:#D55E00;background:#fdf1ec}.wait{border-color:#009E73}
ul{margin:4px 0;padding-left:20px}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:4px 8px 4px 0;
border-bottom:1px solid #e8ebee;vertical-align:middle}th{font-weight:600;font-size:13px;color:#5b6673}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b23c00;font-weight:600}
.cards{display:flex;gap:12px;flex-wrap:wrap}.card{flex:1;min-width:190px;border:1px solid #e1e5e9;border-radius:6px;
padding:8px 12px}.card .big{font-size:20px;font-weight:600}svg text{font:11px system-ui,sans-serif;fill:#5b6673}
.key span{display:inline-block;width:11px;height:11px;margin:0 4px 0 12px;vertical-align:-1px}
"""


def write_page(
    report: MonitorReport,
    decision: Decision,
    reference: Reference,
    history: Sequence[MonitorReport],
    alert_since: str | None,
) -> str:
    """`history` are earlier reports and this one, in order; `alert_since` tells since when an alert has been open."""
    title = f"{report.project}: version {report.version}, {_span(report)}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<div class="sub">{report.rows:,} rows to predict, as of {report.as_of:%Y-%m-%d %H:%M} UTC</div>',
        _decision(decision, alert_since),
        _cards(report),
        _quality(report, history),
        _columns(report, reference),
        _tables(report.tables),
        f'<p class="note">{EXPLANATION}</p>',
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def write_summary(report: MonitorReport, decision: Decision, alert_since: str | None, page: str) -> str:
    """The same in a few lines of Markdown."""
    lines = [f"# {report.project} v{report.version}: {decision.action}", ""]
    lines += [f"- {reason}" for reason in decision.reasons]
    lines += [f"- the same alert has been open since {alert_since}"] if alert_since else []
    lines += ["", f"Window {_span(report)}, {report.rows:,} rows.", ""]
    if report.quality is not None:
        lines += [f"Quality: {_quality_text(report)}", ""]
    if report.effect is not None:
        lines += [report.effect.told + ".", ""]
    moved = [drift for drift in by_drift(report.columns) if drift.is_drifted][:MAX_COLUMNS]
    if moved:
        lines += ["| moved | by | threshold |", "|---|---|---|"]
        lines += [
            f"| {drift.column} | {name} {value:.3f} | {limit:.3f} |"
            for drift in moved
            for name, value, limit in [_worst(drift)]
        ]
    return "\n".join([*lines, "", f"Page: `{page}`"])


def _span(report: MonitorReport) -> str:
    return f"{report.window.start:%Y-%m-%d} to {report.window.end:%Y-%m-%d}"


def _decision(decision: Decision, alert_since: str | None) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in decision.reasons)
    since = f"<div>The same has been open since {escape(alert_since)}.</div>" if alert_since else ""
    return (
        f'<div class="verdict {decision.action}"><b>{decision.action}</b>: {MEANING[decision.action]}'
        f"<ul>{reasons}</ul>{since}</div>"
    )


def _cards(report: MonitorReport) -> str:
    faults, moved = report.observation.faults, [drift for drift in report.columns if drift.is_drifted]
    cards = [
        ("quality", _quality_text(report), report.observation.is_quality_lost),
        ("drift", f"{len(moved)} of {len(report.columns)} columns", False),
        ("data", "whole" if not faults else f"{len(faults)} faults", bool(faults)),
    ]
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card">{name}<div class="big{" bad" if is_bad else ""}">{escape(text)}</div></div>'
            for name, text, is_bad in cards
        )
        + "</div>"
    )


def _quality_text(report: MonitorReport) -> str:
    quality = report.quality
    if quality is None or quality.value is None:
        return "not known yet"
    return f"{quality.metric} {format_number(quality.value.value)}, promised {format_number(quality.promised.value)}"


def _quality(report: MonitorReport, history: Sequence[MonitorReport]) -> str:
    points = [point for past in history if (point := _point(past)) is not None]
    quality, probe = report.quality, report.observation.probe
    notes = []
    if quality is not None and quality.value is not None:
        notes.append(f"{quality.metric} {format_interval(quality.value)} on {quality.rows:,} matured rows since "
                     f"{quality.window.start:%Y-%m-%d}")  # fmt: skip
    if quality is not None and quality.estimated is not None:
        notes.append(
            f"{format_number(quality.estimated)} is estimated from calibrated scores, not measured, for "
            f"{quality.estimated_rows:,} rows without a label yet"
        )
    if probe is not None:
        notes.append(f"a probe, trees fitted on recent rows, is ahead of the champion by {format_interval(probe.gain)}")
    if report.effect is not None:
        notes.append(report.effect.told)
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    picture = svg.series(points)
    key = (
        '<div class="note key"><span style="background:#0072B2"></span>measured, 95% interval'
        '<span style="background:#D55E00"></span>below its promise<span style="border-top:2px dashed #6E6E6E;height:0">'
        '</span>promised<span style="border:1.5px solid #6E6E6E;border-radius:50%;width:8px;height:8px"></span>estimate'
        "</div>"
    )
    return f"<h2>Quality</h2>{picture}{key if picture else ''}<ul>{listed}</ul>"


def _point(report: MonitorReport) -> svg.Point | None:
    quality = report.quality
    if quality is None:
        return None
    value = quality.value
    return svg.Point(
        name=f"{report.as_of:%m-%d}",
        value=value.value if value else None,
        low=value.low if value else None,
        high=value.high if value else None,
        promised=quality.promised.value,
        estimated=quality.estimated,
        is_bad=quality.is_lost,
    )


def _columns(report: MonitorReport, reference: Reference) -> str:
    references = {**reference.columns, PREDICTION: reference.prediction}
    shown = [drift for drift in by_drift(report.columns) if drift.column in report.shapes][:MAX_COLUMNS]
    rows = "".join(_column(drift, references[drift.column], report.shapes[drift.column]) for drift in shown)
    key = (
        '<div class="note key"><span style="background:#9aa5b1"></span>when it was trained'
        '<span style="background:#0072B2"></span>this window; each bar is a bin, hover for its values</div>'
    )
    heads = "<th>column</th><th>share of rows by value</th><th>furthest</th><th>missing</th><th>new</th>"
    return f"<h2>What moved</h2>{key}<table><tr>{heads}</tr>{rows}</table>"


def _column(drift: ColumnDrift, reference: ColumnReference, counts: Sequence[float]) -> str:
    name, value, limit = _worst(drift)
    picture = svg.histogram(reference.matrix.sum(0), np.asarray(counts), bin_names(reference.binning))
    mark = ' class="bad"' if drift.is_drifted else ""
    missing = f"{drift.null_fraction:.1%}" + (
        f" (was {drift.reference_null_fraction:.1%})"
        if abs(drift.null_fraction - drift.reference_null_fraction) > 0.005
        else ""
    )
    return (
        f"<tr><td>{escape(drift.column)}</td><td>{picture}</td><td{mark}>{name} {value:.3f}<br>"
        f'<span class="note">threshold {limit:.3f}</span></td><td>{missing}</td>'
        f"<td>{drift.unseen_fraction:.1%}</td></tr>"
    )


def bin_names(binning: Binning) -> list[str]:
    """Each bin in words, in order."""
    if binning.kind == "categorical":
        return [*binning.categories, "rare ones", "new ones", "missing"]
    edges = [format(edge, ".4g") for edge in binning.edges]
    if not edges:
        return ["any", "missing"]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} or more", "missing"]


def _worst(drift: ColumnDrift) -> tuple[str, float, float]:
    """The statistic that is furthest beyond its threshold, its value and its threshold."""
    name = max(drift.statistics, key=lambda each: drift.statistics[each] / drift.thresholds[each])
    return name, drift.statistics[name], drift.thresholds[name]


def _tables(tables: Sequence[TableHealth]) -> str:
    rows = ""
    for table in tables:
        usual = "&ndash;" if table.usual_rows is None else f"{table.usual_rows:,.0f}"
        said, mark = "; ".join(table.faults) or "whole", ' class="bad"' if table.faults else ""
        rows += (
            f'<tr><td>{escape(table.table)}</td><td class="n">{table.rows:,}</td><td class="n">{usual}</td>'
            f'<td class="n">{_hours(table.newest_age_hours)}</td><td class="n">{_hours(table.usual_age_hours)}</td>'
            f'<td class="n">{table.quarantined_fraction:.1%}</td>'
            f"<td{mark}>{escape(said)}</td></tr>"
        )
    heads = "".join(f"<th>{name}</th>" for name in ("table", "rows", "usual", "newest", "usual, at most", "aside", ""))
    return f"<h2>Tables</h2><table><tr>{heads}</tr>{rows}</table>"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "&ndash;"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} d"
