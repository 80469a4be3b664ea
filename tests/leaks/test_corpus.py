"""The corpus of planted leaks, through the real stages from source file to training set: each is caught, by the stage
that the table names, in the words that it names, and nothing is left that a fit could read. docs/leaks.md tells it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks import training_set
from tasks.core.arrow_files import map_rows
from tasks.core.audit import AuditReport
from tasks.core.errors import FeatureError, LeakageError, PerennialError, ValidationError
from tasks.core.records import Window
from tasks.home import open_lake
from tasks.stores import asof_store
from tests.leaks.ferries import AS_OF, RECENT, START, Ferries

DOCS = Path(__file__).parents[2] / "docs" / "leaks.md"
TOLD_TWICE = "from {0} union all (select * replace ({1}) from {0} order by all limit 40)"
FLIPPED = "select * replace (is_late <> ({}) as is_late) from arrivals"


@dataclass(frozen=True)
class Plant:
    """What is spoiled, and what is said by whom. `rows`, `recipe` and `recent` as in Ferries; `code` spoils ours."""

    kind: type[PerennialError]
    says: str
    rows: dict[str, str] | None = None
    recipe: dict[str, Any] | None = None
    recent: str = RECENT
    code: Callable[[pytest.MonkeyPatch], None] | None = None


def join_looks_ahead(patch: pytest.MonkeyPatch) -> None:
    honest = asof_store.join_sql

    def ahead(*arguments: Any, **options: Any) -> str:
        query = honest(*arguments, **options)
        assert "e.time_ >= v0_." in query
        return query.replace("e.time_ >= v0_.", "e.time_ + interval 1 hour >= v0_.")

    patch.setattr(asof_store, "join_sql", ahead)


def join_loses_rows(patch: pytest.MonkeyPatch) -> None:
    honest = asof_store.join_sql
    patch.setattr(asof_store, "join_sql", lambda *a, **k: f"select * from ({honest(*a, **k)}) limit 4000")


def fit_reaches_into_validation(patch: pytest.MonkeyPatch) -> None:
    honest = training_set.split_windows

    def overlapping(**arguments: Any) -> dict[str, Window]:
        made = honest(**arguments)
        until = made["validation"].start + timedelta(hours=6)
        return {**made, "fit": Window(start=made["fit"].start, end=until)}

    patch.setattr(training_set, "split_windows", overlapping)


PLANTS = {
    "a key told twice": Plant(
        ValidationError, r"duplicate keys: 40 values of \(trip, event_timestamp, created_timestamp\)",
        rows={"arrivals": TOLD_TWICE.format("arrivals", "delay + 90 as delay")},
    ),
    "a feature told twice": Plant(
        FeatureError, r"recent\.sql gives several rows of one key at one moment",
        recent=f"{RECENT} union all select * replace (mean_delay + 1 as mean_delay) from ({RECENT})",
    ),
    "a clock ahead": Plant(
        ValidationError, r"rows: known before it happened",
        rows={"queue": "select * replace (measured + interval 2 hour as measured) from queue"},
    ),
    "labels in another time zone": Plant(
        LeakageError, r"early labels: label was known before the prediction time in [\d,]+ of [\d,]+ rows",
        rows={"arrivals": "select * replace (arrived - interval 5 hour as arrived, told - interval 5 hour as told)"
              " from arrivals"},
    ),
    "splits that overlap": Plant(
        LeakageError, r"split times: fit and validation must be(.|\n)*row keys: trip is in two parts",
        code=fit_reaches_into_validation,
    ),
    "splits closer than the embargo": Plant(
        LeakageError, r"split times: validation and holdout must be 1 day, 12:00:00 apart",
        code=lambda patch: patch.setattr(
            training_set, "split_windows", _with_embargo(training_set.split_windows, timedelta(hours=1))
        ),
    ),
    "the target copied with noise": Plant(
        LeakageError, r"single feature: hint predicts the label by itself with a score of \.?\d",
        rows={"trips": "select trips.*, delay + 5 * sin(trip * 7) as hint from trips join arrivals using (trip)"},
        recipe={"tables.trips.columns.hint": "hint", "features.entity_rows.columns.hint": "hint"},
    ),
    "an aggregate of whatever is there": Plant(
        FeatureError, r"recent\.sql looks ahead(.|\n)*rows of the day before",
        recent=RECENT.replace(" order by created_timestamp", "").replace(
            "range between interval 2 hour preceding and current row", ""
        ),
    ),
    "an aggregate that looks ahead by an hour": Plant(
        FeatureError, r"recent\.sql looks ahead(.|\n)*rows of the day before",
        recent=RECENT.replace("current row", "interval 1 hour following"),
    ),
    "a join that looks ahead by an hour": Plant(
        LeakageError, r"known time: queue has [\d,]+ rows known after the prediction time", code=join_looks_ahead
    ),
    "a join that loses rows": Plant(
        LeakageError, r"does not keep the entity rows(.|\n)*4,000 rows", code=join_loses_rows
    ),
    "an entity in fit and holdout": Plant(
        LeakageError, r"entities: pier has 4 values in both fit and holdout",
        recipe={"audit.disjoint_entities": ["pier"]},
    ),
    "labels that mature at different speeds": Plant(
        LeakageError, r"label maturity: label became known later than label\.maturity \(36 h",
        rows={"arrivals": "select * replace (told + case when pier = 'p3' then interval 9 day else interval 0 day end"
              " as told) from arrivals"},
    ),
    "a maturity that is too short": Plant(
        LeakageError, r"label maturity: label became known later than label\.maturity \(2 h",
        recipe={"label.maturity": "2h", "label.missing": 1.0},
    ),
    "a label rate that jumps to one": Plant(
        LeakageError, r"missing labels: label is not there for \d+ of \d+ rows of the last matured day",
        rows={"arrivals": f"from arrivals where arrived < timestamptz '{AS_OF - timedelta(days=4)}'"},
        recipe={"label.missing": 1.0},
    ),
    "labels flipped in one segment of late": Plant(
        LeakageError, r"1 fault\n(.|\n)*segment labels: pier=p1 has labels that look inverted in \d+ rows of holdout",
        rows={"arrivals": FLIPPED.format(f"pier = 'p1' and arrived > timestamptz '{AS_OF - timedelta(days=16)}'")},
    ),
    "labels always flipped in one segment": Plant(
        LeakageError, r"3 faults\n(.|\n)*segment labels: pier=p2(.|\n)*rows of fit(.|\n)*rows of holdout",
        rows={"arrivals": FLIPPED.format("pier = 'p2'")},
    ),
    "labels all flipped of late": Plant(
        LeakageError, r"segment labels: all rows has labels that look inverted in [\d,]+ rows of holdout",
        rows={"arrivals": FLIPPED.format(f"arrived > timestamptz '{AS_OF - timedelta(days=16)}'")},
    ),
}  # fmt: skip


def _with_embargo(honest: Callable[..., dict[str, Window]], embargo: timedelta) -> Callable[..., dict[str, Window]]:
    return lambda **arguments: honest(**arguments | {"embargo": embargo})


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ferries]:
    def prepared(name: str = "home", **spoiled: Any) -> Ferries:
        home = tmp_path / name
        monkeypatch.setenv("PERENNIAL_HOME", str(home / "state"))
        monkeypatch.setenv("PERENNIAL_FEATURE_REPO", str(home / "features"))
        monkeypatch.setenv("PERENNIAL_EXPECTATIONS", str(home / "suites"))
        return Ferries(home, **{key: value for key, value in spoiled.items() if value is not None})

    return prepared


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_leak_is_caught(name: str, make: Callable[..., Ferries], monkeypatch: pytest.MonkeyPatch) -> None:
    plant = PLANTS[name]
    if plant.code:
        plant.code(monkeypatch)
    ferries = make(rows=plant.rows, recipe=plant.recipe, recent=plant.recent)
    with pytest.raises(plant.kind, match=plant.says):
        ferries.train()
    left = (ferries.home / "state" / "training").rglob("*")
    assert [path for path in left if path.name.endswith((".arrow", "training_set.json"))] == []
    if plant.kind is FeatureError:
        assert open_lake("ferries").names() == ["arrivals", "queue", "trips"], "nothing of it was written"


def test_nothing_is_reported_where_nothing_is_planted(make: Callable[..., Ferries]) -> None:
    made = make().train()
    assert made.rows > 4000
    report = AuditReport.read(Path(made.uri).with_name("audit.json"))
    assert (report.leaks, report.allowed) == ((), ())
    assert max(report.scores.values()) > 0.6, "there is something to learn, and to flip"


LATE_ANSWERS = {  # what comes to be known only when it is too late
    "queue": "from queue union all select pier, 1000.0 * is_late::int as waiting, leaves - interval 61 minute as"
    " measured, leaves + interval 6 hour as told from arrivals join trips using (trip, pier)",
    "arrivals": f"from arrivals union all select * replace (not is_late as is_late, timestamptz '{AS_OF}' +"
    " interval 1 minute as told) from arrivals",
}


@pytest.mark.parametrize("table", LATE_ANSWERS)
def test_a_late_correction_changes_no_row(table: str, make: Callable[..., Ferries]) -> None:
    """The answer itself as a feature, told when it is older than its ttl, and as a label, told after the training."""
    clean, spoiled = make("clean").train(), make("spoiled", rows={table: LATE_ANSWERS[table]}).train()
    assert (clean.rows, clean.digest) == (spoiled.rows, spoiled.digest)


def test_a_feature_is_as_old_as_its_ttl_and_no_microsecond_older(make: Callable[..., Ferries]) -> None:
    day = START + timedelta(days=20)
    edge = f"timestamptz '{day}'"
    trips = [(900_001, timedelta(hours=7)), (900_002, timedelta(hours=7, microseconds=1))]
    planted = "".join(
        f" union all select {trip}, 'edge', 5.0, {edge} + interval '{after // timedelta(microseconds=1)} microseconds',"
        f" {edge} - interval 5 day" for trip, after in trips
    )  # fmt: skip
    made = make(
        rows={
            "trips": f"from trips{planted}",
            "queue": f"from queue union all select 'edge', 17.0, {edge}, {edge}",
            "arrivals": "from arrivals union all " + " union all ".join(
                f"select {trip}, 'edge', 3.0, false, {edge} + interval {9 + n} hour, {edge} + interval {9 + n} hour"
                for n, (trip, _) in enumerate(trips)
            ),
        }
    ).train()  # fmt: skip
    rows = {row["trip"]: row["queue__waiting"] for row in map_rows(made.uri).to_pylist() if row["trip"] > 900_000}
    assert rows == {900_001: 17.0, 900_002: None}


def test_a_segment_that_is_so_by_nature_is_allowed_with_its_reason(make: Callable[..., Ferries]) -> None:
    allowed = {"audit.allow": {"pier=p2": "its ferries wait for the crowd"}}
    made = make(rows={"arrivals": FLIPPED.format("pier = 'p2'")}, recipe=allowed).train()
    report = AuditReport.read(Path(made.uri).with_name("audit.json"))
    assert {leak.subject for leak in report.allowed} == {"pier=p2"}
    assert "its ferries wait for the crowd" in report.allowed[0].detail


def test_every_plant_stands_in_the_docs() -> None:
    table = DOCS.read_text()
    assert [name for name in PLANTS if f"| {name} |" not in table] == []
