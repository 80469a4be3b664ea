"""A replay told line by line: what a model was made from and what came of it, then and now, in the order of cause."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from tasks.core.model_card import CodeVersion, markdown_table
from tasks.core.records import Evaluation, Record, TrainingSetRef, Verdict, digest

# What a model is made with. It may differ and change nothing, so it is told, and the digests decide.
CONDITIONS = ("code", "lock", "python", "library", "device")
NOT_MADE = "not made"
SHOWN = 28  # letters of a value in the table of the log
Facts = dict[tuple[str, str], str]  # (part, name) -> digest, or the value itself where it is short


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayLine(Record):
    """One fact of the version, and of the replay."""

    part: str
    name: str  # within the part; may be empty
    then: str
    now: str

    @property
    def is_equal(self) -> bool:
        return self.then == self.now

    @property
    def label(self) -> str:
        return f"{self.part} {self.name}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport(Record):
    """A version and its replay. `stopped`: why the replay did not come to its end."""

    project: str
    version: int
    decision_id: str
    as_of: datetime
    lines: tuple[ReplayLine, ...]
    changed_metrics: tuple[str, ...] = ()
    stopped: str | None = None

    @property
    def differing(self) -> list[ReplayLine]:
        """The digests that differ, the first of them the nearest to the reason."""
        return [line for line in self.lines if not line.is_equal and line.part not in CONDITIONS]

    @property
    def is_equal(self) -> bool:
        return not self.differing

    @property
    def told(self) -> str:
        """The last line: equal, or what differs first."""
        others = [line.label for line in self.lines if not line.is_equal and line.part in CONDITIONS]
        made_with = f"; it was made with another {', '.join(others)}" if others else ""
        if self.is_equal:
            compared = sum(line.part not in CONDITIONS for line in self.lines)
            return f"equal: all {compared} digests{made_with}"
        first, *later = self.differing
        parts = list(dict.fromkeys(line.part for line in later if line.part != first.part))
        after = f"; after it {', '.join(parts)}" if parts else ""
        return f"differs first in {first.label}: {_short(first.then)} then, {_short(first.now)} now{after}{made_with}"


def compare(then: Facts, now: Facts) -> tuple[ReplayLine, ...]:
    """Lines in the order of `then`; what is only there now stands behind the last line of its part."""
    parts = list(dict.fromkeys(part for part, _ in (*then, *now)))
    keys = [key for part in parts for key in dict.fromkeys((*then, *now)) if key[0] == part]
    return tuple(
        ReplayLine(part=part, name=name, then=then.get((part, name), "none"), now=now.get((part, name), NOT_MADE))
        for part, name in keys
    )


# --- facts ------------------------------------------------------------------------------------------


def given_facts(code: CodeVersion, fit_code: str, device: str, recipe_digest: str, seed: int) -> Facts:
    """What a model is made with, and what it is told."""
    commit = "none" if code.commit is None else code.commit[:12] + (" and changes" if code.is_dirty else "")
    return {
        ("code", ""): commit,
        ("lock", ""): code.lock_digest,
        ("python", ""): code.python,
        **{("library", name): version for name, version in code.libraries.items()},
        ("device", ""): device,
        ("code of the fit", ""): fit_code,
        ("recipe", ""): recipe_digest,
        ("seed", ""): str(seed),
    }


def table_facts(part: str, digests: Mapping[str, str]) -> Facts:
    return {(part, name): digests[name] for name in sorted(digests)}


def training_set_facts(made: TrainingSetRef) -> Facts:
    splits = {name: (rows.start, rows.stop) for name, rows in made.splits.items()}
    return {
        ("training set", ""): made.digest,
        ("training set", "splits"): digest([splits, made.inputs, made.unlabelled_rows]),
    }


def made_facts(
    judged: str | None, metrics: Mapping[str, float] | None, served: str | None, verdict: Verdict | None
) -> Facts:
    """What came of it, as far as it came: weights, metrics and verdict, each only where it is there."""
    found = {
        "judged weights": judged,
        "metrics": None if metrics is None else digest(metrics),
        "served weights": served,
        "verdict": None if verdict is None else verdict_digest(verdict),
    }
    return {(part, ""): value for part, value in found.items() if value is not None}


def verdict_digest(verdict: Verdict) -> str:
    """Of what it says; the digests of the procedure in its evidence have lines of their own."""
    said = verdict.to_dict()
    said["evidence"] = {name: value for name, value in verdict.evidence.items() if name != "procedure"}
    return digest(said)


def flat_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Every metric of every model on the gate rows, by slice too; not what depends on the machine, as latency does."""
    found = {
        f"{card.model} {name}": value.value for card in evaluation.scorecards for name, value in card.metrics.items()
    }
    for card in evaluation.scorecards:
        found |= {f"{card.model} {one.column}={one.value}": one.metric.value for one in card.slices}
        if card.calibration_error is not None:
            found[f"{card.model} calibration_error"] = card.calibration_error
    return found


def changed_metrics(then: Mapping[str, float], now: Mapping[str, float]) -> tuple[str, ...]:
    """`challenger auc .77 -> .78` for each metric that is not the same to the last bit."""
    return tuple(
        f"{name} {then.get(name)} -> {now.get(name)}"
        for name in dict.fromkeys((*then, *now))
        if digest(then.get(name)) != digest(now.get(name))
    )


# --- what a person sees -------------------------------------------------------------------------------


def fold(lines: Sequence[ReplayLine]) -> Iterator[ReplayLine]:
    """The equal lines of a part as one, under the digest of all of them; each that differs as it is."""
    for part, group in groupby(lines, key=lambda line: line.part):
        of_part = list(group)
        equal = [line for line in of_part if line.is_equal]
        if len(equal) < 2:
            yield from of_part
            continue
        whole = digest([line.to_dict() for line in equal])
        yield ReplayLine(part=part, name=f"({len(equal)} equal)", then=whole, now=whole)
        yield from (line for line in of_part if not line.is_equal)


def write_table(report: ReplayReport) -> str:
    """For the log: a line for each part, equal or told apart."""
    rows = [(line.label, _short(line.then), _short(line.now), _word(line)) for line in fold(report.lines)]
    wide = max(len(label) for label, *_ in rows)
    heads = [("", "then", "now", "")]
    return "\n".join(
        f"  {label:<{wide}}  {then:<{SHOWN}}  {now:<{SHOWN}}  {word}".rstrip()
        for label, then, now, word in heads + rows
    )


def write_page(report: ReplayReport) -> str:
    """For the Prefect UI, as Markdown; every line."""
    rows = [(line.label, f"`{line.then}`", f"`{line.now}`", _word(line)) for line in report.lines]
    head = f"# {report.project} v{report.version} as of {report.as_of:%Y-%m-%d}, replayed"
    stopped = [f"The replay stopped: {report.stopped}", ""] if report.stopped else []
    changed = ["", "## Metrics that changed", "", *(f"- {text}" for text in report.changed_metrics)]
    table = markdown_table(["", "then", "now", ""], rows)
    return "\n".join(
        [head, "", f"**{report.told}**", "", *stopped, *table, *(changed if report.changed_metrics else [])]
    )


def _word(line: ReplayLine) -> str:
    return "equal" if line.is_equal else "differs"


def _short(value: str) -> str:
    return value if len(value) <= SHOWN else value[: SHOWN - 1] + "…"
