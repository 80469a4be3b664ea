"""The monitor's report as one HTML page that stands alone: what moved, how, and what it did to quality."""

from collections.abc import Sequence
from html import escape

from tasks.core import drift_table, svg
from tasks.core.governor import Decision
from tasks.core.health import TableHealth
from tasks.core.observation import MonitorReport, by_drift
from tasks.core.reference import Reference
from tasks.core.summary import format_interval, format_number

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
body{font:15px/1.45 system-ui,sans-serif;color:#1d2733;max-width:1000px;margin:24px auto;padding:0 16px}
h1{font-size:21px;margin:0 0 2px}h2{font-size:16px;margin:26px 0 6px}.sub,.note{color:#5b6673}.note{font-size:13px}
.verdict{border-left:6px solid #6E6E6E;background:#f5f7f9;padding:10px 14px;margin:14px 0}
.verdict b{text-transform:uppercase;letter-spacing:.04em}.retrain{border-color:#0072B2}.alert{border-color:#E69F00}
.halt{border-color:#D55E00;background:#fdf1ec}.wait{border-color:#009E73}
ul{margin:4px 0;padding-left:20px}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:4px 8px 4px 0;
border-bottom:1px solid #e8ebee;vertical-align:middle}th{font-weight:600;font-size:13px;color:#5b6673}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b23c00;font-weight:600}
.o{white-space:nowrap}
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
        drift_table.write(report, reference),
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
    moved = [drift for drift in by_drift(report.columns) if drift.is_drifted][: drift_table.MAX_COLUMNS]
    if moved:
        lines += ["| moved | by | threshold |", "|---|---|---|"]
        lines += [
            f"| {drift.column} | {name} {value:.3f} | {limit:.3f} |"
            for drift in moved
            for name, value, limit in [drift_table.worst(drift)]
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
    if quality is None or (found := quality.telling) is None:
        return "not known yet"
    now = " of late" if quality.is_newest_lost else ""
    return f"{quality.metric} {format_number(found.value)}{now}, promised {format_number(quality.promised.value)}"


def _quality(report: MonitorReport, history: Sequence[MonitorReport]) -> str:
    points = [point for past in history if (point := _point(past)) is not None]
    quality, probe = report.quality, report.observation.probe
    notes = []
    if quality is not None and quality.value is not None:
        newest = "" if quality.newest is None else f", of the newest of them {format_interval(quality.newest)}"
        notes.append(f"{quality.metric} {format_interval(quality.value)} on {quality.rows:,} matured rows since "
                     f"{quality.window.start:%Y-%m-%d}{newest}")  # fmt: skip
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
        '<div class="note key"><span style="background:#0072B2"></span>newly matured rows, 95% interval'
        '<span style="background:#D55E00"></span>below its promise'
        '<span style="border-top:2px solid #0072B2;height:0"></span>trailing'
        '<span style="border-top:2px dashed #6E6E6E;height:0"></span>promised'
        '<span style="border:1.5px solid #6E6E6E;border-radius:50%;width:8px;height:8px"></span>estimate'
        "</div>"
    )
    return f"<h2>Quality</h2>{picture}{key if picture else ''}<ul>{listed}</ul>"


def _point(report: MonitorReport) -> svg.Point | None:
    quality = report.quality
    if quality is None:
        return None
    newest = quality.newest
    return svg.Point(
        name=f"{report.as_of:%m-%d}",
        value=newest.value if newest else None,
        low=newest.low if newest else None,
        high=newest.high if newest else None,
        trailing=quality.value.value if quality.value else None,
        promised=quality.promised.value,
        estimated=quality.estimated,
        is_bad=quality.is_newest_lost,
    )


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
    names = ("rows", "usual rows", "age of the newest", "usual age, at most", "quarantined")
    heads = "<th>table</th>" + "".join(f'<th class="n">{name}</th>' for name in names) + "<th></th>"
    return f"<h2>Tables</h2><table><tr>{heads}</tr>{rows}</table>"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "&ndash;"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} d"
