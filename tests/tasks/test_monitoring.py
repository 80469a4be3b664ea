"""Monitoring a made-up project, with the real lake and join: what a window was like, and each planted fault by name."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks import home, joins, monitoring, scoring
from tasks.claiming import wanted_retrain
from tasks.core.arrow_files import map_rows
from tasks.core.errors import PerennialError
from tasks.core.observation import MonitorReport
from tasks.core.records import Contender, Inputs, Interval, LedgerEntry, ModelRef, Window
from tasks.core.reference import PREDICTION, Reference, build_columns
from tasks.deciding import clear_halt, decide, decisions, dispatch_pending, open_outbox
from tasks.monitor_report import show_report
from tasks.refusals import noting_refusal
from tasks.run import Run
from tasks.training_set import build_training_set

DAY = timedelta(days=1)
INPUTS = Inputs(numeric=("miles", "load__waiting", "load_age_hours"), categorical=("station", "weekday", "facts__kind"))


class KnowingModel:
    """Says what the delay will be, with noise: `noise` decides how good it is."""

    label_kind, classes, inputs = "binary", (), INPUTS

    def __init__(self, delays: dict[int, float], noise: float) -> None:
        self.delays, self.noise = delays, noise

    def predict(self, rows: pa.Table) -> np.ndarray:
        trips = rows["trip"].to_numpy()
        wobble = np.array([np.random.default_rng(int(trip)).normal() for trip in trips])
        known = np.array([self.delays.get(int(trip), 20.0) for trip in trips])
        return 1 / (1 + np.exp(-(known - 30 + 25 * self.noise * wobble) / 20))


class FakeRegistry:
    def __init__(self, recipe: dict[str, Any], models: dict[int, KnowingModel]) -> None:
        self.recipe, self.models, self.logged = recipe, models, []

    def load(self, ref: ModelRef) -> KnowingModel:
        return self.models[ref.version]

    def tags(self, ref: ModelRef) -> dict[str, str]:
        return {}

    def read_text(self, run_id: str, name: str) -> str:
        return json.dumps(self.recipe)

    def log_file(self, run_id: str, path: Path, folder: str) -> None:
        self.logged.append((run_id, path.name, folder))


@pytest.fixture
def registry(trips: Any, trip_rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """Version 2 is good, version 1 less so. The home is the lake's; what is monitored is written elsewhere."""
    delays = {row["trip"]: row["delay"] for row in trip_rows["arrivals"]}
    models = {2: KnowingModel(delays, 0.5), 1: KnowingModel(delays, 3.0)}
    made = FakeRegistry(trips.recipe.model_dump(mode="json"), models)
    for module in (home, joins):
        monkeypatch.setattr(module, "open_registry", lambda project: made)
    monkeypatch.setattr("tasks.monitor_report.open_registry", lambda project: made)
    monkeypatch.setenv("PERENNIAL_LAKE_URI", str(Path(trips.lake.uri).parent))
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return made


@pytest.fixture
def made_at(trips: Any, trip_rows: Any) -> datetime:
    """Of the champion: fitted on the four weeks before."""
    return min(row["event_timestamp"] for row in trip_rows["trips"]).replace(hour=0, minute=0) + 27 * DAY


@pytest.fixture
def reference(trips: Any, registry: FakeRegistry, made_at: datetime, monkeypatch: pytest.MonkeyPatch) -> Reference:
    recipe = trips.recipe
    made = build_training_set.fn(
        "trips", recipe.tables["trips"], recipe.features, recipe.label, recipe.split, recipe.audit,
        made_at - 27 * DAY, made_at, trips.tables,
    )  # fmt: skip
    rows = map_rows(made.uri)
    scores = pa.table({"prediction_time": rows["prediction_time"], PREDICTION: registry.models[2].predict(rows)})
    found = Reference(
        version=2,
        as_of=made_at,
        columns=build_columns(rows, [*INPUTS.numeric, *INPUTS.categorical]),
        prediction=build_columns(scores, [PREDICTION])[PREDICTION],
        promise={"auc": Interval(value=0.93, low=0.9, high=0.95)},
    )
    for module in ("tasks.monitoring", "tasks.monitor_report"):
        monkeypatch.setattr(f"{module}.champion_reference", lambda project, model: found)
    return found


def contender(version: int, as_of: datetime) -> Contender:
    ref = ModelRef(name="trips", version=version, run_id=f"run{version}", uri="")
    return Contender(name="champion", as_of=as_of, ref=ref)


def watch(
    trips: Any, made_at: datetime, days: int, previous: Contender | None = None, **monitor: Any
) -> tuple[Run, MonitorReport]:
    """Score and observe, `days` after the champion was made."""
    sections = {"max_volume_change": 0.7, "effect_after": "4d", "probe": {"fit": "12d", "test": "6d"}} | monitor
    recipe = trips.recipe.model_validate(trips.recipe.model_dump(mode="json") | {"monitor": sections})
    run = Run(recipe=recipe, as_of=made_at + days * DAY, cause="person", attempt=0)
    champion = contender(2, made_at)
    window = scoring.unscored_window("trips", champion, run.as_of)
    scoring.score_window.fn("trips", champion.ref, window, run.as_of, trips.tables)
    if previous is not None:
        monitoring.score_previous.fn(run, champion, previous, trips.tables)
    return run, monitoring.observe_window.fn(run, champion, previous, trips.tables)


def test_a_quiet_week_is_whole_and_keeps_its_promise(trips, registry, reference, made_at) -> None:
    run, report = watch(trips, made_at, 7)
    assert report.observation.faults == ()
    assert report.window == Window(start=made_at, end=run.as_of)
    assert report.rows == report.predicted_rows > 200
    assert {drift.column for drift in report.columns} == {*INPUTS.numeric, *INPUTS.categorical, PREDICTION}
    assert not report.observation.is_quality_lost
    assert report.quality.value.low < 0.93 < report.quality.value.high
    assert 0 < report.observation.matured_labels == report.quality.rows < report.rows, "the last 36 h have not matured"
    assert decide.fn(run, "trips", None).action in ("wait", "alert")


def test_labels_that_came_early_are_not_counted_before_they_have_matured(trips, registry, reference, made_at) -> None:
    """Early labels are those of short delays: taking them as they come would flatter or harm by when one looks."""
    _, report = watch(trips, made_at, 7)
    assert report.quality.window.end == made_at + 7 * DAY - timedelta(hours=36)


def test_monitored_twice_it_is_looked_at_once_and_going_back_is_refused(trips, registry, reference, made_at) -> None:
    _, first = watch(trips, made_at, 7)
    _, again = watch(trips, made_at, 7)
    assert again == first
    _, second = watch(trips, made_at, 12)
    assert second.window.start == first.as_of
    with pytest.raises(PerennialError, match="later moment"):
        watch(trips, made_at, 9)


def test_a_column_in_other_units_halts_and_says_which(trips, registry, reference, made_at) -> None:
    registry.recipe["features"]["entity_rows"]["columns"]["miles"] = "miles * 1.609344"
    run, report = watch(trips, made_at, 7)
    (fault,) = report.observation.faults
    assert fault.startswith("miles: other units (miles and kilometres)")
    decision = decide.fn(run, "trips", None)
    assert (decision.action, decision.reasons) == ("halt", (fault,))


def test_a_column_that_is_not_filled_any_more_halts(trips, registry, reference, made_at) -> None:
    registry.recipe["features"]["entity_rows"]["columns"]["miles"] = "case when trip % 2 = 0 then miles end"
    _, report = watch(trips, made_at, 7)
    (fault,) = report.observation.faults
    assert fault.startswith("miles: ")
    assert "are missing" in fault


def test_shuffled_labels_halt_and_are_called_that(trips, registry, reference, made_at) -> None:
    registry.recipe["label"]["expression"] = "hash(trip) % 3 = 0"
    run, report = watch(trips, made_at, 12)
    assert report.observation.is_quality_lost
    decision = decide.fn(run, "trips", None)
    assert decision.action == "halt"
    assert "label fault" in decision.reasons[0]


def test_inverted_labels_halt_even_where_a_probe_would_learn_them(trips, registry, reference, made_at) -> None:
    registry.recipe["label"]["expression"] = "delay < 30"
    run, report = watch(trips, made_at, 12)
    assert any("inverted" in fault for fault in report.observation.faults)
    assert decide.fn(run, "trips", None).action == "halt"


def test_an_ingest_that_is_refused_halts_until_one_passes(trips, registry, reference, made_at) -> None:
    def ingest(day: int, error: PerennialError | None) -> None:
        with noting_refusal("trips", "arrivals", made_at + day * DAY):
            if error is not None:
                raise error

    with pytest.raises(PerennialError):
        ingest(7, PerennialError("table 'arrivals' asks for a column that is not there", got='"delay" not found'))
    run, report = watch(trips, made_at, 7)
    assert report.observation.faults == (
        "arrivals is refused at ingest: table 'arrivals' asks for a column that is not there: \"delay\" not found",
    )
    assert decide.fn(run, "trips", None).action == "halt"
    ingest(12, None)
    assert watch(trips, made_at, 12)[1].observation.faults == ()


def test_rows_that_nobody_scored_are_a_fault(trips, registry, reference, made_at) -> None:
    run = Run(recipe=trips.recipe, as_of=made_at + 7 * DAY, cause="person", attempt=0)
    some = Window(start=made_at, end=made_at + 3 * DAY)
    champion = contender(2, made_at)
    scoring.score_window.fn("trips", champion.ref, some, run.as_of, trips.tables)
    report = monitoring.observe_window.fn(run, champion, None, trips.tables)
    assert any(fault.startswith("predictions: ") for fault in report.observation.faults)


def test_whether_the_retrain_helped_is_told_once_enough_has_matured(trips, registry, reference, made_at) -> None:
    previous = contender(1, made_at - 20 * DAY)
    assert watch(trips, made_at, 5, previous)[1].effect is None, "four days have not matured yet"
    _, report = watch(trips, made_at, 7, previous)
    assert report.effect is None, "four days are too few for an interval"


def test_the_effect_has_the_size_it_has(trips, registry, reference, made_at) -> None:
    _, report = watch(trips, made_at, 12, contender(1, made_at - 20 * DAY), effect_after="8d")
    assert report.effect.difference.low > 0
    assert "version 2 helped" in report.effect.told
    log = trips.lake.connect({"predictions": None})
    latest = log.sql("select max(event_timestamp) from predictions where model_version = 1").fetchall()[0][0]
    assert latest < made_at + 8 * DAY, "the one before is scored no longer than needed"


def test_a_retrain_that_did_harm_is_shown_worse_by_the_gate(trips, registry, reference, made_at) -> None:
    registry.models = {1: registry.models[2], 2: registry.models[1]}
    _, report = watch(trips, made_at, 14, contender(1, made_at - 20 * DAY), effect_after="11d")
    assert "version 2 did harm" in report.effect.told
    assert any(reason.startswith("auc ") and "worse by" in reason for reason in report.effect.worse)


# --- decisions ------------------------------------------------------------------------------------


def test_a_halt_stops_what_comes_from_outside_and_a_person_ends_it(trips, registry, reference, made_at) -> None:
    registry.recipe["features"]["entity_rows"]["columns"]["miles"] = "miles * 1.609344"
    run, _ = watch(trips, made_at, 7)
    assert decide.fn(run, "trips", None).action == "halt"
    assert wanted_retrain(run, "trips", None, "") is None
    later = Run(recipe=with_policy(run, min_new_labels=0), as_of=run.as_of + DAY, cause="person", attempt=0)
    clear_halt(later, "ann", "the new unit is what we want")
    wanted = wanted_retrain(later, "trips", None, "")
    assert wanted.cause == "event"
    assert open_outbox("trips").entry(wanted.decision_id).wanted == wanted


def with_policy(run: Run, **policy: Any) -> Any:
    return run.recipe.model_validate(run.recipe.model_dump(mode="json") | {"govern": policy})


def test_events_from_outside_are_one_retrain_and_the_next_waits(trips, registry, reference, made_at) -> None:
    run, _ = watch(trips, made_at, 7)
    free = Run(recipe=with_policy(run, min_new_labels=0), as_of=run.as_of, cause="person", attempt=0)
    first = wanted_retrain(free, "trips", None, "")
    minute_later = Run(recipe=free.recipe, as_of=run.as_of + DAY / 1440, cause="person", attempt=0)
    assert wanted_retrain(minute_later, "trips", None, "") == first, "it is pending, so that is the one to do"
    open_outbox("trips").finish(first.decision_id, "rejected", 1)
    assert wanted_retrain(minute_later, "trips", None, "") is None, "cool-down"
    (said,) = [d for d in decisions("trips").read(type(decide.fn(free, "trips", None)), "-event") if d.action == "wait"]
    assert "cool-down" in " ".join(said.reasons)
    with pytest.raises(PerennialError, match="no decision 'nobody'"):
        wanted_retrain(free, "trips", None, "nobody")


def test_without_a_server_it_stays_pending(trips, registry, reference, made_at, caplog) -> None:
    run, _ = watch(trips, made_at, 7)
    free = Run(recipe=with_policy(run, min_new_labels=0), as_of=run.as_of, cause="person", attempt=0)
    wanted = wanted_retrain(free, "trips", None, "")
    with caplog.at_level("INFO", logger="perennial"):
        assert dispatch_pending.fn("trips", 3) == []
    assert f"--decision-id {wanted.decision_id}" in caplog.text


def test_the_page_stands_alone_and_names_what_moved(trips, registry, reference, made_at) -> None:
    registry.recipe["features"]["entity_rows"]["columns"]["miles"] = "miles + 40"
    run, report = watch(trips, made_at, 7)
    decision = decide.fn(run, "trips", None)
    show_report.fn(run, contender(2, made_at), report, decision)
    (logged,) = registry.logged
    assert logged[0] == "run2"
    page = next((Path(trips_home()) / "monitor" / "trips" / "pages").glob("*.html")).read_text()
    assert "http" not in page, "it needs nothing from anywhere"
    assert "src=" not in page
    assert page.index("miles") < page.index("weekday")
    assert page.count("<svg") >= 2
    assert decision.action in page


def trips_home() -> Path:
    from configs.settings import load_settings

    return load_settings().root


def test_a_champion_is_not_compared_with_itself_where_another_one_is_promoted_meanwhile(
    trips, registry, made_at, monkeypatch
) -> None:
    def contender(_: object, name: str, ref: ModelRef) -> Contender:
        return Contender(name=name, as_of=made_at, ref=ref)

    monkeypatch.setattr(monitoring, "registered_contender", contender)
    registry.version = lambda number: ModelRef(name="trips", version=number, run_id="r", uri="u")
    registry.has_version = lambda number: True
    first, second = (contender(registry, "champion", registry.version(number)) for number in (1, 2))
    promoted = {"kind": "promoted", "as_of": made_at, "reasons": (), "digests": {}, "at": made_at}
    for number, previous in ((1, None), (2, 1)):
        line = LedgerEntry(
            number=number, decision_id=str(number), version=number, champion=number, previous=previous, **promoted
        )
        home.open_ledger("trips").append(line)
    assert monitoring.find_previous("trips", first) is None
    assert monitoring.find_previous("trips", second).ref.version == 1


def test_a_person_who_promotes_counts_as_a_retrain(trips, registry, reference, made_at) -> None:
    run, _ = watch(trips, made_at, 7)
    free = Run(recipe=with_policy(run, min_new_labels=0), as_of=run.as_of, cause="person", attempt=0)
    home.open_ledger("trips").append(
        LedgerEntry(
            number=1, kind="rejected", decision_id="x", as_of=run.as_of - DAY, version=3, champion=2, previous=None,
            reasons=(), digests={}, at=run.as_of,
        )
    )  # fmt: skip
    assert wanted_retrain(free, "trips", None, "") is None
