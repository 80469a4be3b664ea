"""Flows from the shell: `python -m flows.<flow> --recipe flights --as-of 2013-04-01 --set model.max_epochs=5`.

Each flow's own parameters become options. Exit code 0 also when the gate rejects: that is a result. 1 when the run
failed, with an error that says what, got, expected, fix. 130 when it was stopped.
"""

import argparse
import atexit
import inspect
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import yaml
from prefect import Flow
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from configs.recipe import load_recipe
from flows import temporary_server
from tasks.core.errors import PerennialError
from tasks.home import preload

STOPPED = threading.Event()


def main(flow: Flow[..., Any], arguments: Sequence[str] | None = None) -> None:
    """Run `flow` once for each `--as-of`, in this one process, and leave with its exit code."""
    options = vars(_parser(flow).parse_args(arguments))
    moments = options.pop("as_of") or [None]
    options["overrides"] = dict(options.pop("set")) or None
    show_account()
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sent) is not signal.SIG_IGN:  # as under `nohup`
            signal.signal(sent, _stop)
    sys.unraisablehook = _insist
    try:
        load_recipe(options["recipe"], options["overrides"])  # what is wrong in it is told before a server is started
        start_up()
        # Heartbeats let a server notice dead runs; here a person is watching, and each would add a second to its flow.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            for as_of in moments:
                flow(as_of=as_of, **options)
        leave(0)
    except BaseException as error:
        leave(_tell(error))


def _stop(*_: object) -> NoReturn:
    """By Ctrl-C, from outside, or with its terminal: leave as after an error, and leave no temporary server behind."""
    STOPPED.set()
    raise KeyboardInterrupt


def _insist(swallowed: "sys.UnraisableHookArgs") -> None:
    """Stop a moment later, where what was to stop the run arose in the end of an object, which keeps it to itself."""
    if isinstance(swallowed.exc_value, (KeyboardInterrupt, TerminationSignal)):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(swallowed)


def _tell(error: BaseException) -> int:
    """Say how it ended; the exit code. Whoever is interrupted may call it an error of its own."""
    if STOPPED.is_set() or isinstance(error, (KeyboardInterrupt, TerminationSignal)):
        print("\nstopped; the same command goes on from what is finished", file=sys.stderr)
        return 130
    if isinstance(error, PerennialError):
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)  # a fault of ours: where it happened is what helps
    return 1


def start_up() -> None:
    """Start Prefect's temporary server, if there is no other, and import the stack meanwhile: seconds each."""
    if PREFECT_API_URL.value():
        return
    with temporary_server.starting():
        preload()


def leave(code: int) -> NoReturn:
    """End the process: what was registered to run at exit runs, the interpreter itself is not taken apart.

    The threads' own exit comes first, as in Python's: in it Prefect sends the last events and lines of the log, to a
    server that would else be gone.

    DuckDB's binding prints a page about objects that are still alive when an interpreter is taken apart in which Great
    Expectations was imported; there is nothing that a reader could do about it.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parser(flow: Flow[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {flow.fn.__module__}", description=inspect.getdoc(flow.fn))
    parser.add_argument("--recipe", default="flights", help="a name in configs/, or the path of a YAML file")
    parser.add_argument(
        "--as-of", type=parse_moment, action="append", metavar="TIME",
        help="the moment to act at, ISO 8601, UTC unless it says otherwise; may be given several times; default: now",
    )  # fmt: skip
    parser.add_argument(
        "--set", type=_override, action="append", default=[], metavar="KEY=VALUE",
        help="override a key of the recipe, dotted: model.max_epochs=5",
    )  # fmt: skip
    for name, parameter in inspect.signature(flow.fn).parameters.items():
        if name not in ("recipe", "as_of", "overrides"):
            kind = str if parameter.default in (None, inspect.Parameter.empty) else type(parameter.default)
            if isinstance(parameter.default, bool):
                parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
                continue
            required = parameter.default is inspect.Parameter.empty
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=parameter.default, required=required)
    return parser


def parse_moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _override(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    # Overrides travel with decisions, as JSON: a day in YAML becomes its text again.
    return key, json.loads(json.dumps(yaml.safe_load(value), default=str))


def show_account() -> None:
    """Print the live account to the terminal, and of all else only warnings; Prefect keeps the full log."""
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        # Their errors would print a traceback before `main` prints the message that was written for people.
        logging.getLogger(name).propagate = False
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)  # says at the end that it is not at its end yet
    account = logging.getLogger("perennial")
    account.setLevel(logging.INFO)
    account.propagate = False
    account.addHandler(AccountHandler())


class AccountHandler(logging.Handler):
    """One line each; progress of long work rewrites its own line on a terminal, and appears seldom in a file."""

    SECONDS_BETWEEN_PROGRESS = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.is_terminal = sys.stdout.isatty()
        self.last_progress = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not getattr(record, "is_progress", False):
            print(f"\r\x1b[K{text}" if self.is_terminal else text, flush=True)
            self.last_progress = time.monotonic()
        elif self.is_terminal:
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif time.monotonic() - self.last_progress > self.SECONDS_BETWEEN_PROGRESS:
            print(text, flush=True)
            self.last_progress = time.monotonic()
