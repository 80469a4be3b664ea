"""From comparisons to an outcome with reasons: the rules of promotion, and nothing that looks at rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from tasks.core.clusters import MIN_CLUSTERS
from tasks.core.comparisons import describe
from tasks.core.records import Comparison
from tasks.core.summary import format_number

Mode = Literal["first", "change", "refresh"]
Outcome = Literal["promote", "reject", "undecided"]
PASSED = ("superior", "non_inferior")


class Spending(Protocol):
    @property
    def rate(self) -> float: ...
    @property
    def per_attempts(self) -> int: ...


class Rules(Protocol):
    """What the gate section of a recipe says."""

    @property
    def primary(self) -> str: ...
    @property
    def margin(self) -> float: ...
    @property
    def guards(self) -> Mapping[str, float]: ...
    @property
    def slices(self) -> tuple[str, ...]: ...
    @property
    def guarded_slices(self) -> tuple[str, ...]: ...
    @property
    def slice_margin(self) -> float: ...
    @property
    def floors(self) -> Mapping[str, float]: ...
    @property
    def smallest_useful_gain(self) -> float: ...
    @property
    def min_rows(self) -> int: ...
    @property
    def level(self) -> float: ...
    @property
    def false_promotions(self) -> Spending: ...
    @property
    def max_latency_ms(self) -> float | None: ...
    @property
    def max_size_bytes(self) -> int | None: ...


def short(value: float) -> str:
    """A number that a person set: `.01`, not `.0100`."""
    return f"{value:g}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:g}"


def spent_level(rules: Rules, mode: Mode) -> float:
    """The one-sided level at which the primary metric is tested."""
    return rules.false_promotions.rate / rules.false_promotions.per_attempts if mode == "change" else rules.level


def decide_first(failures: Sequence[str], shortage: Sequence[str]) -> tuple[Outcome, list[str]]:
    """There is no champion to compare with: floors and servability decide, on enough rows to tell."""
    if failures:
        return "reject", list(failures)
    if shortage:
        return "undecided", list(shortage)
    return "promote", ["there is no champion yet; every floor and every limit of serving is kept"]


def decide(
    rules: Rules,
    mode: Mode,
    comparisons: Sequence[Comparison],
    failures: Sequence[str] = (),
    shortage: Sequence[str] = (),
    unit: str = "days",
) -> tuple[Outcome, list[str]]:
    """The outcome against a champion, and a sentence for each thing it rests on.

    Bounds of the primary metric are L and U, m is its margin. `change`: promote if L > 0, reject if U < smallest
    useful gain. `refresh`: promote if L > -m against champion and anchor and not U < 0 against the champion; reject
    if U < 0 against the champion or U < -m against either. Guards and guarded slices must be non-inferior, a watched
    slice shown worse rejects, and so does every failure of a floor or a limit of serving.
    """
    primary = [found for found in comparisons if found.role == "primary"]
    guards = [found for found in comparisons if found.role == "guard"]
    watched = [found for found in comparisons if found.role == "watched"]
    standing = [_standing(rules, mode, found) for found in primary]
    rejected = bool(failures) or any(found.outcome == "worse" for found in (*guards, *watched))
    passed = all(state == "pass" for state in standing) and all(found.outcome in PASSED for found in guards)
    reasons = [
        f"{describe(found, unit)}; {_ruling(rules, mode, found, state)}"
        for found, state in zip(primary, standing, strict=True)
    ]
    reasons += [f"{describe(found, unit)}; {_guard_ruling(found)}" for found in guards]
    reasons += [*_watched_reasons(watched, unit), *failures, *shortage]
    if rejected or (not shortage and "fail" in standing):
        return "reject", reasons
    if passed and not shortage:
        return "promote", reasons
    return "undecided", reasons


def rejecting(rules: Rules, mode: Mode, comparisons: Sequence[Comparison], unit: str) -> tuple[str, ...]:
    """A sentence for each comparison that by itself rejects."""
    return tuple(
        describe(found, unit)
        for found in comparisons
        if (_standing(rules, mode, found) == "fail" if found.role == "primary" else found.outcome == "worse")
    )


def _standing(rules: Rules, mode: Mode, found: Comparison) -> Literal["pass", "fail", "open"]:
    """Of the primary metric against one model. Fewer than ten clusters show nothing."""
    if found.clusters < MIN_CLUSTERS:
        return "open"
    if mode == "change":
        worthless = found.high < rules.smallest_useful_gain
        return "pass" if found.low > 0 else "fail" if worthless else "open"
    is_champion = found.against == "champion"
    if found.high < -rules.margin or (is_champion and found.high < 0):
        return "fail"
    return "pass" if found.low > -rules.margin else "open"


def _ruling(rules: Rules, mode: Mode, found: Comparison, state: str) -> str:
    margin, gain = short(rules.margin), short(rules.smallest_useful_gain)
    if mode == "change":
        level = f"at the level that one attempt may spend, {short(found.level)}"
        useless = "shown worse" if found.high < 0 else f"shown to gain less than the {gain} that is worth a change"
        return {"pass": f"shown better {level}", "fail": useless, "open": f"not shown better {level}"}[state]
    worse = "shown worse" if found.against == "champion" else f"shown worse by more than the margin of {margin}"
    return {
        "pass": f"shown to be within the margin of {margin}",
        "fail": worse,
        "open": f"not shown to be within the margin of {margin}",
    }[state]


def _guard_ruling(found: Comparison) -> str:
    kind = "guarded slice" if found.slice else "guard"
    margin = f"the {kind}'s margin of {short(found.margin)}"
    if found.outcome == "worse":
        return f"shown worse, and not within {margin}"
    return f"within {margin}" if found.outcome in PASSED else f"not shown to be within {margin}"


def _watched_reasons(watched: Sequence[Comparison], unit: str) -> list[str]:
    if not watched:
        return []
    vetoes = [found for found in watched if found.outcome == "worse"]
    margin = short(watched[0].margin)
    reasons = [f"veto: {describe(found, unit)}; shown worse by more than {margin}" for found in vetoes]
    small = [found.slice for found in watched if not is_tested(found)]
    tested = len(watched) - len(small)
    if not vetoes and tested:
        reasons.append(f"{tested} watched slices: none is shown worse by more than {margin}")
    if small:
        reasons.append(f"too few rows to tell about {', '.join(str(name) for name in small)}")
    return reasons


def is_tested(found: Comparison) -> bool:
    """A watched slice that was large enough has a figure for the loss it would show."""
    return found.detectable is not None


# --- too little to tell -----------------------------------------------------------------------------


def find_failures(
    rules: Rules, metrics: Mapping[str, tuple[float, bool]], latency_ms: float | None, size_bytes: int | None
) -> list[str]:
    """Floors and limits of serving that are not kept. `metrics` are (value, whether higher is better)."""
    failures = []
    for name, floor in rules.floors.items():
        value, is_higher_better = metrics[name]
        if not (value >= floor if is_higher_better else value <= floor):
            bound = "at least" if is_higher_better else "at most"
            failures.append(f"{name} {format_number(value)} is beyond its floor: {bound} {short(floor)}")
    if rules.max_latency_ms is not None and latency_ms is not None and latency_ms > rules.max_latency_ms:
        failures.append(f"one prediction takes {latency_ms:.3g} ms, more than max_latency_ms {rules.max_latency_ms:g}")
    if rules.max_size_bytes is not None and size_bytes is not None and size_bytes > rules.max_size_bytes:
        failures.append(f"the model is {size_bytes:,} bytes, more than max_size_bytes {rules.max_size_bytes:,}")
    return failures


def find_shortage(
    rules: Rules, mode: Mode, rows: int, clusters: int, days: float, unit: str = "days"
) -> tuple[list[str], float | None]:
    """What there is too little of to judge, and the days of such rows that would be enough.

    Without a champion nothing is tested, so clusters need not be enough.
    """
    reasons, needed = [], 0.0
    if rows < rules.min_rows:
        reasons.append(f"{rows:,} rows that no model has seen are fewer than min_rows {rules.min_rows:,}")
        needed = days * rules.min_rows / rows if rows else math.inf
    if mode != "first" and clusters < MIN_CLUSTERS:
        reasons.append(f"{clusters} {unit} are fewer than the {MIN_CLUSTERS} clusters that an interval needs")
        needed = max(needed, days * MIN_CLUSTERS / clusters if clusters else math.inf)
    return reasons, needed if reasons and math.isfinite(needed) else None


def days_that_would_do(rules: Rules, mode: Mode, comparisons: Sequence[Comparison], days: float) -> float | None:
    """Days of rows like these after which what is open would be shown at 80% power, were it as large as it looks.

    None where no number of days would do: what is seen so far points the other way. The standard error falls with
    the square root of the number of clusters.
    """
    needed = [0.0]
    for found in comparisons:
        is_open = found.role == "guard" and found.outcome not in PASSED
        effect = found.difference + found.margin
        if found.role == "primary":
            is_open = _standing(rules, mode, found) != "pass"
            effect = max(found.difference, rules.smallest_useful_gain) if mode == "change" else effect
        if is_open:
            ratio = (found.detectable or math.nan) / effect if effect > 0 else math.nan
            needed.append(days * ratio**2)
    longest = max(needed) if not any(math.isnan(value) for value in needed) else math.nan
    return longest if math.isfinite(longest) and longest > 0 else None
