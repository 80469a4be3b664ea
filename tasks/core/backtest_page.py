"""A backtest as one HTML page that stands alone: what is recommended, a table, and what each policy did in time."""

import itertools
from collections.abc import Sequence
from html import escape

from tasks.core import svg
from tasks.core.backtest import Path, Step
from tasks.core.backtest_results import Result
from tasks.core.monitor_page import STYLE
from tasks.core.summary import format_interval, format_number, text_table

# Okabe and Ito 2008: told apart by the colour-blind too.
COLOURS = ("#6E6E6E", "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#8FD4BC", "#CC79A7", "#7A3E65")
PROMOTED, REFUSED, HALTED = "#009E73", "#E69F00", "#B23C00"
HEAD = (
    "policy", "retrains", "promoted", "rejected", "undecided", "halts", "gain over never (95%)", "regret (95%)",
    "recovers in, longest", "fit seconds",
)  # fmt: skip
EXPLANATION = (
    "Quality is the mean over calendar months of all rows that were served. Gain is over the first model kept for good,"
    " the mean over windows; regret is the sum over windows of what an oracle that always serves the best of all models"
    " made until then is ahead by. Intervals are 95%, with days as clusters. An episode is a run of windows in which a"
    " model better than the served one by more than the gate's margin was there: how long one lasts is the time to"
    " recover. Fit seconds are those that the policy alone would have spent; fits that several ask for are made"
    " once. The oracle picks by the same rows that it is measured on, so that every policy's regret is told too high by"
    " the same."
)


def table(results: Sequence[Result], metric: str) -> list[str]:
    """The results as lines of text."""
    guards = list(results[0].guards)
    return text_table((HEAD[0], metric, *guards, *HEAD[1:]), [_cells(result, guards) for result in results])


def _cells(result: Result, guards: Sequence[str]) -> list[str]:
    recovers = "–" if result.recover_days is None else f"{result.recover_days:.0f} d, {result.longest_days:.0f} d"
    return [
        result.name, format_number(result.quality), *(format_number(result.guards[name]) for name in guards),
        str(result.retrains), str(result.promoted), str(result.rejected), str(result.undecided), str(result.halts),
        format_interval(result.gain), format_interval(result.regret), recovers, f"{result.seconds:.0f}",
    ]  # fmt: skip


def write_page(
    title: str,
    about: str,
    recommendation: str,
    metric: str,
    paths: Sequence[Path],
    results: Sequence[Result],
    oracle: Sequence[float],
) -> str:
    """`oracle` are the values of the best model of each window."""
    names = [f"{step.window.end:%m-%d}" for step in paths[0].steps]
    regret = svg.lines(
        names,
        [
            svg.Line(result.name, colour, result.cumulative, ends=(result.regret.low, result.regret.high))
            for result, colour in zip(results, itertools.cycle(COLOURS), strict=False)
        ],
    )
    parts = [
        f"<h1>Backtest of {escape(title)}</h1>",
        f'<div class="sub">{escape(about)}</div>',
        f'<div class="verdict wait">{escape(recommendation)}</div>',
        _table(results, metric),
        f'<p class="note">{escape(EXPLANATION)}</p>',
        f"<h2>Cumulative regret, {escape(metric)}</h2>{regret}{_key(results)}",
        _months(results, metric),
        *(_policy(names, path, result, metric, oracle) for path, result in zip(paths, results, strict=True)),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}body{{max-width:1320px}}td.n{{white-space:nowrap}}</style></head><body>{''.join(parts)}</body></html>"
    )


def _table(results: Sequence[Result], metric: str) -> str:
    guards = list(results[0].guards)
    heads = "".join(f'<th class="n">{escape(name)}</th>' for name in (metric, *guards, *HEAD[1:]))
    lines = ""
    for result in results:
        first, *cells = _cells(result, guards)
        lines += f"<tr><td>{escape(first)}</td>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + "</tr>"
    return f"<h2>Policies</h2><table><tr><th>{HEAD[0]}</th>{heads}</tr>{lines}</table>"


def _key(results: Sequence[Result]) -> str:
    spans = (
        f'<span style="background:{colour}"></span>{escape(result.name)}'
        for result, colour in zip(results, itertools.cycle(COLOURS), strict=False)
    )
    return f'<div class="note key">{"".join(spans)}</div>'


def _months(results: Sequence[Result], metric: str) -> str:
    months = list(results[0].by_month)
    heads = "".join(f'<th class="n">{month}</th>' for month in months)
    lines = "".join(
        f"<tr><td>{escape(result.name)}</td>"
        + "".join(f'<td class="n">{format_number(result.by_month[month])}</td>' for month in months)
        + "</tr>"
        for result in results
    )
    return f"<h2>{escape(metric)} by month</h2><table><tr><th>policy</th>{heads}</tr>{lines}</table>"


def _policy(names: Sequence[str], path: Path, result: Result, metric: str, oracle: Sequence[float]) -> str:
    """Quality in time with what was done at the end of each window, and in words what came of each retrain."""
    marks = [(place, *mark) for place, step in enumerate(path.steps) for mark in _marks(step)]
    drawn = [
        svg.Line("the best of the models", svg.REFERENCE, oracle, is_dashed=True),
        svg.Line(path.name, svg.WINDOW, result.by_window, marks=marks),
    ]
    key = (
        f'<div class="note key"><span style="background:{svg.WINDOW}"></span>{escape(metric)} of what was served'
        f'<span style="background:{svg.REFERENCE}"></span>of the best of the models'
        f'<span style="background:{PROMOTED}"></span>promoted<span style="background:{REFUSED}"></span>rejected,'
        f' undecided or rolled back<span style="background:{HALTED}"></span>halted</div>'
    )
    listed = "".join(f"<li>{escape(told)}</li>" for step in path.steps for told in _told(step))
    picture = svg.lines(names, drawn, height=170)
    return f"<h2>{escape(path.name)}</h2>{picture}{key}<ul class='note'>{listed}</ul>"


def _marks(step: Step) -> list[tuple[str, str]]:
    if not (told := _told(step)):
        return []
    if step.decision.action == "halt":
        return [(HALTED, told[-1])]
    return [(PROMOTED if step.trial is not None and step.trial.made is not None else REFUSED, told[-1])]


def _told(step: Step) -> list[str]:
    day = f"{step.window.end:%Y-%m-%d}"
    told = [f"{day} rolled back: shown worse than the model before it"] if step.taken_off else []
    if step.decision.action == "halt":
        return [*told, f"{day} halted: {'; '.join(step.decision.reasons)}"]
    if step.trial is None:
        return told
    why = "; ".join(step.trial.reasons[:2])
    return [*told, f"{day} {step.trial.outcome} ({'; '.join(step.decision.reasons)}){': ' + why if why else ''}"]
