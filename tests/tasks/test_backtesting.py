"""The span of a backtest: what is given, what the recipe's clock says, and what cannot be."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.backtesting import open_backtest
from tasks.core.errors import RecipeError

MAY, JULY = datetime(2013, 5, 1), datetime(2013, 7, 1, tzinfo=UTC)  # noqa: DTZ001


def span_of(recipe="flights", as_of=None, start=None, end=None, step=7.0, every=28.0, overrides=None):
    return open_backtest(recipe, as_of, overrides, start, end, step, every)


def test_a_span_is_what_is_given_in_utc_and_all_of_its_labels_are_known():
    found = span_of(start=MAY, end=JULY)
    assert (found.span.start, found.span.end) == (MAY.replace(tzinfo=UTC), JULY)
    assert found.run.as_of == JULY + timedelta(hours=36)
    assert (found.step, found.every) == (timedelta(days=7), timedelta(days=28))


def test_without_one_it_is_what_the_recipes_clock_replays():
    found = span_of()
    assert (found.span.start, found.span.end) == (datetime(2013, 4, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC))


def test_a_real_clock_names_no_span():
    with pytest.raises(RecipeError, match="has no span"):
        span_of(overrides={"clock": "real"})


@pytest.mark.parametrize("wrong", [{"start": JULY, "end": JULY}, {"step": 0.0}, {"every": -1.0}])
def test_a_span_that_does_not_go_forward_is_refused(wrong):
    with pytest.raises(RecipeError, match="does not go forward"):
        span_of(**wrong)


def test_a_span_whose_last_labels_are_not_known_yet_is_refused_and_told_from_when_on():
    with pytest.raises(RecipeError, match="2013-07-02 12:00"):
        span_of(start=MAY, end=JULY, as_of=JULY + timedelta(hours=12))


def test_its_fits_are_as_small_as_the_recipe_says_unless_someone_says_otherwise():
    small = {"backtest.model": {"max_epochs": 1}, "model.max_epochs": 3}
    assert span_of(overrides={"backtest.model": {"max_epochs": 1}}).run.recipe.model.max_epochs == 1
    assert span_of(overrides=small).run.recipe.model.max_epochs == 3
    assert span_of(overrides={"backtest.model": {}}).run.recipe.model.max_epochs == 4
    with pytest.raises(RecipeError, match=r"model\.epochs"):
        span_of(overrides={"backtest.model": {"epochs": 1}})
