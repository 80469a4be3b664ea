"""The page about a training set: its splits, its labels, and what the audit found."""

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.audit import AuditReport
from tasks.core.records import TrainingSetRef
from tasks.core.splits import ALL, PARTS

SHOWN_SCORES, SHOWN_CLASSES = 10, 8


def write_page(made: TrainingSetRef, report: AuditReport, labels: pa.ChunkedArray) -> str:
    lines = [
        f"**{made.rows:,} rows** known at {made.as_of:%Y-%m-%d %H:%M} UTC, {len(made.inputs.numeric)} numeric and"
        f" {len(made.inputs.categorical)} categorical inputs of service `{made.service}`;"
        f" {made.unlabelled_rows:,} matured rows have no label.",
        "",
        "| split | from | until | rows | label |",
        "|---|---|---|--:|---|",
    ]
    for name in (*PARTS, ALL):
        part = made.splits[name]
        about = _label_summary(labels.slice(part.start, part.stop - part.start), made.label_kind)
        span = f"{part.window.start:%Y-%m-%d %H:%M} | {part.window.end:%Y-%m-%d %H:%M}"
        lines.append(f"| {name} | {span} | {part.stop - part.start:,} | {about} |")
    lines += ["", "### Audit", ""]
    findings = [f"{leak.check}: {leak.subject} {leak.detail}" for leak in (*report.leaks, *report.allowed)]
    lines += [f"- {finding}" for finding in findings or ["no findings"]]
    lines += ["", "| input | score alone |", "|---|--:|"]
    best = sorted(report.scores.items(), key=lambda item: -item[1])
    lines += [f"| {name} | {score:.3f} |" for name, score in best[:SHOWN_SCORES]]
    return "\n".join(lines)


def _label_summary(labels: pa.ChunkedArray, kind: str) -> str:
    if kind == "multiclass":
        counts = sorted(pc.value_counts(labels).to_pylist(), key=lambda item: -item["counts"])
        return ", ".join(f"{item['values']} {item['counts'] / len(labels):.3f}" for item in counts[:SHOWN_CLASSES])
    name = "rate" if kind == "binary" else "mean"
    return f"{name} {pc.mean(labels).as_py():.4g}"
