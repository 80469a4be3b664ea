"""Promotion against a real registry and ledger, killed at every boundary."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from configs.recipe import load_recipe
from tasks import promotion, registering
from tasks.core import ledger as history
from tasks.core.errors import PromotionError
from tasks.core.records import (
    Comparison,
    Evaluation,
    FitResult,
    Inputs,
    Interval,
    LedgerEntry,
    RowRange,
    Scorecard,
    TableRef,
    TrainingSetRef,
    Verdict,
    Window,
)
from tasks.run import Run
from tasks.stores import registry as registry_module

APRIL, JULY = datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 7, 1, tzinfo=UTC)
PROJECT = "flights"


@pytest.fixture(scope="module")
def template(tmp_path_factory, fitted_model):
    """A home whose registry has versions 1, 2 and 3, and whose ledger has made version 1 champion."""
    home = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(home))
        patch.setattr(registry_module, "check_as_served", lambda *_: {})
        registry = promotion.open_registry(PROJECT)
        for decision in ("one", "two", "three"):
            registry.register(
                registry.run(decision), str(fitted_model.folder), decision_id=decision, tags={},
                example=fitted_model.rows, expected=fitted_model.expected,
            )  # fmt: skip
        promotion.record_outcome(PROJECT, draft("intent", 1, "one", as_of=APRIL, mode="first"), None)
    return home


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    folder = shutil.copytree(template, tmp_path / "home")
    monkeypatch.setenv("PERENNIAL_HOME", str(folder))
    return folder


def draft(kind, version, decision_id, *, as_of=JULY, mode="refresh"):
    return LedgerEntry(
        number=0, kind=kind, decision_id=decision_id, as_of=as_of, version=version, champion=None, previous=None,
        reasons=("because",), digests={}, at=as_of, mode=mode,
    )  # fmt: skip


def entries():
    return promotion.open_ledger(PROJECT).entries()


def kinds():
    return [(entry.kind, entry.version) for entry in entries()]


def aliases():
    return promotion.open_registry(PROJECT).aliases()


# --- what a promotion does ------------------------------------------------------------------------


def test_a_promotion_keeps_the_old_champion_as_previous(home):
    written = promotion.record_outcome(PROJECT, draft("intent", 2, "two"), judged_against=1)
    assert (written.kind, written.champion, written.previous) == ("promoted", 2, 1)
    assert kinds()[2:] == [("intent", 2), ("promoted", 2)]
    assert aliases() == {"champion": 2, "previous": 1}
    assert promotion.current_champion.fn(PROJECT).version == 2


def test_a_rejected_challenger_is_named_and_the_champion_stays(home):
    promotion.record_outcome(PROJECT, draft("rejected", 2, "two"), judged_against=1)
    assert kinds()[2:] == [("rejected", 2)]
    assert aliases() == {"champion": 1, "challenger": 2}


def test_a_decision_is_made_once(home):
    first = promotion.record_outcome(PROJECT, draft("intent", 2, "two"), judged_against=1)
    assert promotion.record_outcome(PROJECT, draft("rejected", 2, "two"), judged_against=1) == first
    assert promotion.past_decision.fn(PROJECT, "two") == first
    assert promotion.past_decision.fn(PROJECT, "three") is None
    assert len(entries()) == 4


def test_another_champion_than_the_one_judged_against_is_refused(home):
    for judged_against in (None, 2):
        with pytest.raises(PromotionError, match=r"(?s)champion of 'flights' changed.*got:      version 1"):
            promotion.record_outcome(PROJECT, draft("intent", 2, "two"), judged_against)
    assert len(entries()) == 2


def test_a_moment_before_the_champion_is_refused(home):
    before = APRIL - timedelta(seconds=1)
    with pytest.raises(PromotionError, match="before the champion"):
        promotion.current_champion.fn(PROJECT, before)
    with pytest.raises(PromotionError, match="before the champion"):
        promotion.record_outcome(PROJECT, draft("intent", 2, "two", as_of=before), judged_against=1)
    assert promotion.current_champion.fn(PROJECT, APRIL).version == 1


def test_there_may_be_no_champion_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    assert promotion.current_champion.fn(PROJECT, APRIL) is None


def test_aliases_moved_by_hand_are_put_back_and_others_left_alone(home):
    registry = promotion.open_registry(PROJECT)
    registry.set_alias("champion", 3)
    registry.set_alias("challenger", 2)
    registry.set_alias("mine", 3)
    assert promotion.current_champion.fn(PROJECT).version == 1
    assert aliases() == {"champion": 1, "mine": 3}


# --- two at once ----------------------------------------------------------------------------------


def test_of_two_promotions_at_once_one_is_refused(home):
    def attempt(version, decision):
        try:
            return promotion.record_outcome(PROJECT, draft("intent", version, decision), judged_against=1)
        except PromotionError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(attempt, (2, 3), ("two", "three")))
    refused = [told for told in done if isinstance(told, PromotionError)]
    assert len(refused) == 1
    assert "changed while" in str(refused[0])
    assert [kind for kind, _ in kinds()].count("promoted") == 2
    assert aliases() == history.aliases(entries())


def test_a_second_promoting_run_is_refused_before_it_begins_and_readers_are_not(home):
    with promotion.promoting(PROJECT, "two"), ThreadPoolExecutor(1) as pool:
        promotion.open_registry(PROJECT).set_alias("champion", 3)  # a promotion in the making

        def second_run():
            with promotion.promoting(PROJECT, "three"):
                pass

        with pytest.raises(PromotionError, match=rf"process {os.getpid()} .*decision two"):
            pool.submit(second_run).result()
        assert pool.submit(promotion.current_champion.fn, PROJECT).result().version == 1
        promotion.record_outcome(PROJECT, draft("intent", 2, "two"), judged_against=1)
    assert aliases() == {"champion": 2, "previous": 1}


# --- killed ---------------------------------------------------------------------------------------

BOUNDARIES = ("before intent", "after intent", "between the aliases", "before promoted", "after promoted")


def promote_and_die(home, boundary):
    """In a process of its own: promote version 2, and be killed at the boundary."""
    os.environ["PERENNIAL_HOME"] = home
    from tasks.stores.ledger import Ledger
    from tasks.stores.registry import Registry

    append, set_alias = Ledger.append, Registry.set_alias

    def die(now):
        if now == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    def appending(self, entry):
        die(f"before {entry.kind}")
        append(self, entry)
        die(f"after {entry.kind}")
        return entry

    def setting(self, alias, version):
        set_alias(self, alias, version)
        die("between the aliases")

    Ledger.append, Registry.set_alias = appending, setting
    promotion.record_outcome(PROJECT, draft("intent", 2, "two"), judged_against=1)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.tracking", __name__])
    return context


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_killed_promotion_is_ended_by_the_next_start(home, processes, fitted_model, boundary):
    process = processes.Process(target=promote_and_die, args=(str(home), boundary))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    if boundary == "between the aliases":
        assert aliases() != history.aliases(entries())  # it was a kill that broke something
    started = promotion.current_champion.fn(PROJECT)  # what the next run does first
    assert started.version == (1 if boundary == "before intent" else 2)
    promotion.record_outcome(PROJECT, draft("intent", 2, "two"), judged_against=1)
    assert kinds()[2:] == [("intent", 2), ("promoted", 2)]
    assert aliases() == history.aliases(entries()) == {"champion": 2, "previous": 1}
    champion = promotion.current_champion.fn(PROJECT)
    served = promotion.open_registry(PROJECT).load(champion)
    np.testing.assert_allclose(served.predict(fitted_model.rows), fitted_model.expected, atol=1e-6)


def promote_at(home, version, decision, moment):
    """In a process of its own, at a moment of the machine's clock."""
    os.environ["PERENNIAL_HOME"] = home
    registry = promotion.open_registry(PROJECT)
    registry.aliases()  # what takes long is done before
    time.sleep(max(0.0, moment - time.time()))
    try:
        promotion.record_outcome(PROJECT, draft("intent", version, decision), judged_against=1)
    except PromotionError as error:
        Path(home, decision).write_text(str(error))


def test_of_two_processes_that_promote_at_once_one_is_refused(home, processes):
    moment = time.time() + 3
    both = [
        processes.Process(target=promote_at, args=(str(home), version, decision, moment))
        for version, decision in ((2, "two"), (3, "three"))
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    (refused,) = [home / decision for decision in ("two", "three") if (home / decision).exists()]
    assert "changed while the challenger was being judged" in refused.read_text()
    won = 3 if refused.name == "two" else 2
    assert kinds()[2:] == [("intent", won), ("promoted", won)]
    assert aliases() == history.aliases(entries()) == {"champion": won, "previous": 1}


def test_an_intent_whose_version_is_gone_is_abandoned(home):
    ledger, registry = promotion.open_ledger(PROJECT), promotion.open_registry(PROJECT)
    ledger.append(history.follow(entries(), draft("intent", 2, "two")))
    registry.client.delete_model_version(PROJECT, "2")
    assert promotion.current_champion.fn(PROJECT).version == 1
    assert kinds()[2:] == [("intent", 2), ("abandoned", 2)]
    assert "no version 2" in entries()[-1].reasons[-1]
    assert promotion.past_decision.fn(PROJECT, "two") is None


# --- the whole of it ------------------------------------------------------------------------------


def training_set(folder, model):
    path = folder / "training_set.arrow"
    with pa.ipc.new_file(path, model.rows.schema) as writer:
        writer.write_table(model.rows)
    window = Window(start=APRIL, end=JULY)
    return TrainingSetRef(
        uri=str(path), digest="5e7", rows=40, as_of=JULY, service="flight_delay", label_kind="binary", key=("carrier",),
        inputs=Inputs(numeric=("speed", "hour"), categorical=("carrier", "weekday")),
        splits={"all": RowRange(start=0, stop=40, window=window)}, unlabelled_rows=2,
        tables=(TableRef(name="schedule", uri="lake", version=3, rows=10, digest="1a"),),
    )  # fmt: skip


def fit_result(model):
    return FitResult(
        model=str(model.folder), weights_sha256=model.weights_sha256, best_step=1, best_epoch=1, epochs=1, rows=40,
        seconds=1.0, rows_per_second=40.0, num_parameters=9, device="cpu", micro_batch_size=8, metrics={},
    )  # fmt: skip


def evaluation():
    auc = Interval(value=0.76, low=0.75, high=0.77)
    window = Window(start=APRIL, end=JULY)
    better = Comparison(
        metric="auc", slice=None, role="primary", difference=0.02, low=0.01, high=0.03, standard_error=0.005,
        clusters=30, rows=40, margin=0.01, outcome="superior",
    )  # fmt: skip
    verdict = Verdict(outcome="promote", mode="refresh", reasons=("better",), comparisons=(better,))
    cards = (Scorecard(model="challenger", version=None, rows=40, window=window, metrics={"auc": auc}),)
    return Evaluation(scorecards=cards, verdict=verdict, baseline_wins=False, predictions_uri="")


def test_what_was_judged_is_registered_with_its_pages_and_promoted(home, fitted_model, tmp_path):
    run = Run(recipe=load_recipe(PROJECT), as_of=JULY, cause="person", attempt=0)
    rows, fit, judged = training_set(tmp_path, fitted_model), fit_result(fitted_model), evaluation()
    against = promotion.current_champion.fn(PROJECT, run.as_of)
    challenger = registering.register_challenger.fn(run, rows, fit, fit, judged)
    entry = promotion.promote.fn(run, challenger, against, rows, fit, fit, judged)
    assert (entry.kind, entry.champion, entry.previous, entry.is_superior) == ("promoted", 4, 1, True)
    assert entry.digests == {
        "training_set": "5e7",
        "judged_weights": fitted_model.weights_sha256,
        "promoted_weights": fitted_model.weights_sha256,
        "recipe": run.recipe.digest,
    }
    assert history.anchor(entries()) == 4

    registry = promotion.open_registry(PROJECT)
    tags = registry.tags(challenger)
    assert tags["perennial.lake_versions"] == '{"schedule": 3}'
    assert tags["perennial.decision_id"] == run.decision_id
    assert tags["perennial.weights_sha256"] == fitted_model.weights_sha256
    logged = registry.client.get_run(challenger.run_id)
    assert tags.items() <= logged.data.tags.items()
    assert logged.info.status == "FINISHED"
    folder = logged.info.artifact_uri
    recipe, lineage, verdict, card = (
        Path(folder, name).read_text() for name in ("recipe.json", "lineage.json", "verdict.json", "model_card.md")
    )
    assert json.loads(recipe)["project"] == PROJECT
    assert json.loads(lineage)["training_set"]["tables"][0]["version"] == 3
    assert Verdict.from_json(verdict) == judged.verdict
    assert card.startswith("# flights, version 4\n")

    # Run again after a kill at the very end: nothing is done twice.
    assert registering.register_challenger.fn(run, rows, fit, fit, judged) == challenger
    assert promotion.promote.fn(run, challenger, against, rows, fit, fit, judged) == entry
    assert len(entries()) == 4
