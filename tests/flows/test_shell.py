"""Flows from the shell: options come from the flow, moments are UTC, errors are for people."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from prefect import flow
from prefect.exceptions import TerminationSignal

from flows import shell
from flows.shell import _parser, parse_moment
from tasks import leftovers


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


def test_what_is_ignored_stays_ignored(monkeypatch):
    monkeypatch.setattr(shell, "show_account", lambda: None)
    monkeypatch.setattr(shell, "load_recipe", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr(shell, "leave", lambda _: None)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    before = {sent: signal.getsignal(sent) for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
        shell.main(example, [])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is shell._stop
    finally:
        for sent, handler in before.items():
            signal.signal(sent, handler)


class StopsAtItsEnd:
    """Prefect's own handler raises too, wherever the run happens to be."""

    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error


def work(error):
    StopsAtItsEnd(error)
    time.sleep(30)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TerminationSignal(signal.SIGTERM)], ids=["ours", "Prefect's"])
def test_a_stop_that_an_object_keeps_to_itself_is_sent_again(error, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", shell._insist)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work(error)
    finally:
        signal.signal(signal.SIGTERM, before)


def hear_signals():
    """Whoever runs the tests in the background, or under `nohup`, ignores these, and so would what they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def running(tmp_path):
    """A run from the shell that has begun to work, and what it has started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with subprocess.Popen(
        [sys.executable, "-m", "flows.ingest", "--as-of", "2013-01-03"], cwd=Path(__file__).parents[2], text=True,
        env=environment | {"PERENNIAL_HOME": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=hear_signals, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline().startswith("ingest")
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == 1, "its server"
        yield process, started


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the run", "all of its group, as a terminal does"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda sent: sent.name)
def test_a_run_that_is_stopped_leaves_no_process(sent, send, running):
    process, started = running
    send(process.pid, sent)
    _, said = process.communicate(timeout=30)
    # Within a flow SIGTERM is Prefect's, and a query that it interrupts calls it an error.
    assert process.returncode == 130 or (sent == signal.SIGTERM and process.returncode == 1), said
    assert process.returncode == 1 or said.strip().endswith("stopped; the same command goes on from what is finished")
    assert not [child for child in started if child.is_running()]


def test_the_server_of_a_run_that_was_killed_is_ended_by_the_next_start(running, tmp_path):
    process, started = running
    leftovers.clear_away(tmp_path)
    assert [child for child in started if child.is_running()], "it is alive, and so is what it needs"
    process.kill()
    process.wait()
    assert [child for child in started if child.is_running()], "nobody could have ended it yet"
    assert leftovers.clear_away(tmp_path)
    psutil.wait_procs(started, timeout=30)
    assert not [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
