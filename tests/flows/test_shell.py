"""Flows from the shell: options come from the flow, moments are UTC, errors are for people."""

from datetime import UTC, datetime

import pytest
from prefect import flow

from flows.shell import _parser, parse_moment


@flow
def example(recipe: str, as_of: datetime | None = None, overrides: dict | None = None, attempt: int = 0) -> None:
    """Do an example."""


@pytest.mark.parametrize("text", ["2013-04-01", "2013-04-01T00:00:00Z", "2013-03-31T20:00:00-04:00"])
def test_a_moment_is_utc_unless_it_says_otherwise(text):
    assert parse_moment(text) == datetime(2013, 4, 1, tzinfo=UTC)


def test_the_options_are_the_flows_own_parameters():
    moments = ["--as-of", "2013-04-01", "--as-of", "2013-07-01"]
    overrides = ["--set", "model.max_epochs=2", "--set", "gate.slices=[origin]", "--set", "start=2013-02-01"]
    options = _parser(example).parse_args([*moments, *overrides, "--attempt", "1"])
    assert options.as_of == [datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 7, 1, tzinfo=UTC)]
    assert dict(options.set) == {"model.max_epochs": 2, "gate.slices": ["origin"], "start": "2013-02-01"}
    assert (options.recipe, options.attempt) == ("flights", 1)


@pytest.mark.parametrize("arguments", [["--as-of", "yesterday"], ["--set", "model.max_epochs"], ["--atempt", "1"]])
def test_a_wrong_option_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        _parser(example).parse_args(arguments)
    assert arguments[0] in capsys.readouterr().err
