"""Flows from the shell: options come from the flow, moments are UTC, errors are for people."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
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


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_no_process(sent, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    running = subprocess.Popen(
        [sys.executable, "-m", "flows.ingest", "--as-of", "2013-01-03"], cwd=Path(__file__).parents[2], text=True,
        env=environment | {"PERENNIAL_HOME": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Whoever runs the tests in the background ignores Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert running.stdout.readline().startswith("ingest")
    started = psutil.Process(running.pid).children(recursive=True)
    assert any("uvicorn" in " ".join(process.cmdline()) for process in started)
    running.send_signal(sent)
    _, said = running.communicate(timeout=120)
    # Within a flow SIGTERM is Prefect's, and a query that it interrupts calls it an error.
    assert running.returncode == 130 or (sent == signal.SIGTERM and running.returncode == 1), said
    assert running.returncode == 1 or said.strip().endswith("stopped; the same command goes on from what is finished")
    assert not [process for process in started if process.is_running()]
