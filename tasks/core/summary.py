"""The closing words of a run: a table of models side by side, the verdict, and what to open next."""

from collections.abc import Iterable, Sequence

from tasks.core.records import Evaluation, Interval, LedgerEntry, Scorecard

RULE = "─" * 80


def format_interval(interval: Interval) -> str:
    """`.7612 (.7511 to .7713)`; four decimals below one, four significant digits above."""
    return f"{format_number(interval.value)} ({format_number(interval.low)} to {format_number(interval.high)})"


def format_number(value: float) -> str:
    if value != value:
        return "–"
    if abs(value) >= 1:
        return f"{value:.4g}"
    return f"{value:.4f}".replace("0.", ".", 1)


def format_milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g} ms" if value < 10 else f"{value:,.0f} ms"


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell, two spaces apart."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def summarise(
    project: str,
    as_of: str,
    metrics: Sequence[str],
    evaluation: Evaluation,
    entry: LedgerEntry,
    next_steps: Sequence[tuple[str, str]],
) -> str:
    """What a person reads when a pipeline has ended. `next_steps` are (what, path or command)."""
    verdict = evaluation.verdict
    lines = ["", RULE, f"{project} as of {as_of}: {_headline(evaluation, entry)}", RULE]
    lines += _scoreboard(evaluation.scorecards, metrics)
    lines += ["", f"verdict  {verdict.outcome} ({_mode(verdict.mode)})"]
    lines += [f"  · {reason}" for reason in dict.fromkeys((*verdict.reasons, *entry.reasons))]
    if evaluation.baseline_wins:
        lines += ["  · the baseline does better than the network on these rows: consider using it instead"]
    width = max(len(what) for what, _ in next_steps) if next_steps else 0
    lines += ["", "open", *(f"  {what.ljust(width)}  {where}" for what, where in next_steps), RULE]
    return "\n".join(lines)


def _headline(evaluation: Evaluation, entry: LedgerEntry) -> str:
    if entry.kind == "rolled_back":
        return f"version {entry.version} was rolled back by {entry.who}, version {entry.champion} is the champion again"
    if entry.kind == "waiting":
        stays = f", version {entry.champion} stays the champion until then" if entry.champion else ""
        return f"version {entry.version} passes and waits for a person's approval{stays}"
    if entry.kind == "promoted":
        before = f", version {entry.previous} is kept as previous" if entry.previous else ", the first"
        return f"version {entry.champion} is the champion{before}"
    stays = f"version {entry.champion} stays the champion" if entry.champion else "there is no champion yet"
    return f"version {entry.version} is not promoted, {stays}"


def _mode(mode: str) -> str:
    return {
        "first": "there is no champion yet: floors and servability decide",
        "refresh": "same recipe on newer data: must be no worse than its margin",
        "change": "the recipe or the code changed: must be better",
    }[mode]


def _scoreboard(scorecards: Sequence[Scorecard], metrics: Sequence[str]) -> list[str]:
    first = scorecards[0]
    names = [name for name in metrics if all(name in card.metrics for card in scorecards)]
    header = [f"{first.rows:,} rows", *(name.replace("_", " ") for name in names), "calibration", "one row", "size"]
    rows = []
    for card in scorecards:
        label = f"{card.model} v{card.version}" if card.version else card.model
        rows.append(
            [
                label,
                *(format_interval(card.metrics[name]) for name in names),
                "–" if card.calibration_error is None else format_number(card.calibration_error),
                format_milliseconds(card.latency_one_ms),
                "–" if card.size_bytes is None else f"{card.size_bytes / 1e6:.1f} MB",
            ]
        )
    window = f"{first.window.start:%Y-%m-%d} to {first.window.end:%Y-%m-%d}, unseen by every model; 95% intervals"
    return [window, *text_table(header, rows)]
