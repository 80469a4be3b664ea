"""A challenger of a short window against the expanding champion, on a December that neither has seen."""

from datetime import UTC, datetime

import pytest

from tasks import backtesting
from tasks.backtest_world import ReplayedWorld
from tasks.backtesting import join_span, open_backtest

CHAMPION, JUDGED = datetime(2013, 12, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)
FLAGSHIP = {"backtest.model": {}}
# Fitted and selected on September to November, judged on December.
AUTUMN = {"split.window": "74d", "split.holdout": "29d"}


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """What the gate says of the champion of 1 December, and of the autumn's challenger a month later."""
    from flows.ingest import ingest
    from tasks.features import build_features
    from tasks.tables import current_tables
    from tasks.training_set import build_training_set

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(tmp_path_factory.mktemp("december")))
        patch.setattr("tasks.tables.build_features", build_features.fn)
        patch.setattr(backtesting, "build_training_set", build_training_set.fn)
        replayed = open_backtest("flights", None, FLAGSHIP, CHAMPION, JUDGED, 7, 28)
        ingest("flights", as_of=replayed.run.as_of)
        tables = current_tables(replayed.run)
        whole = join_span(replayed, tables)
        first = ReplayedWorld(replayed.run, whole, tables).train(CHAMPION, None, None, is_gated=False)
        autumn = open_backtest("flights", None, FLAGSHIP | AUTUMN, CHAMPION, JUDGED, 7, 28)
        second = ReplayedWorld(autumn.run, whole, tables).train(JUDGED, first.made, None, is_gated=True)
    return first, second


def test_the_autumns_challenger_is_not_promoted(trials):
    _, second = trials
    print("\n", second.outcome, *second.reasons, sep="\n  ")
    assert second.outcome == "reject"
    assert second.made is None


def test_the_log_loss_guard_says_that_it_is_shown_worse(trials):
    _, second = trials
    (guard,) = [reason for reason in second.reasons if reason.startswith("log_loss ")]
    assert "worse by" in guard
    assert "shown worse" in guard
