"""The verdict as one page of markdown."""

from tasks.core.model_card import markdown_table
from tasks.core.records import Comparison, Evaluation
from tasks.core.summary import format_interval, format_number


def write_verdict(evaluation: Evaluation) -> str:
    """Outcome, reasons, the models side by side, and every comparison."""
    verdict, cards = evaluation.verdict, evaluation.scorecards
    metrics = list(cards[0].metrics)
    quality = [[card.model, *(format_interval(card.metrics[name]) for name in metrics)] for card in cards]
    lines = [f"## {verdict.outcome} ({verdict.mode})", "", *(f"- {reason}" for reason in verdict.reasons), ""]
    if evaluation.baseline_wins:
        lines += ["**The baseline does better than the network on these rows.**", ""]
    lines += [f"{cards[0].rows:,} rows; 95% intervals.", "", *markdown_table(["model", *metrics], quality), ""]
    if verdict.comparisons:
        header = ["metric", "rows", "role", "against", "difference (95%)", "margin", "outcome"]
        lines += ["Positive is better for the challenger.", ""]
        lines += markdown_table(header, [_row(found) for found in verdict.comparisons])
    return "\n".join(lines)


def _row(found: Comparison) -> list[str]:
    difference = format_number(found.difference) if found.interval is None else format_interval(found.interval)
    where = found.slice or "all"
    return [found.metric, where, found.role, found.against, difference, format_number(found.margin), found.outcome]
