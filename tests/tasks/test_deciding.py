"""Decisions on their way to a run: sent until someone has them, claimed by one, ended once."""

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.recipe import load_recipe
from tasks.claiming import claiming, finish_retrain, own_verdict
from tasks.core.errors import PerennialError, PromotionError
from tasks.core.records import LedgerEntry, Wanted
from tasks.deciding import clear_halt, dispatch_pending, open_outbox
from tasks.home import open_ledger
from tasks.run import Run

AS_OF = datetime(2013, 5, 6, tzinfo=UTC)
WANTED = Wanted(
    decision_id="d1", project="flights", recipe="flights", as_of=AS_OF, cause="quality", reasons=("it was low",)
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    open_outbox("flights").put(WANTED)
    return tmp_path


class Server:
    """Prefect's side of `run_deployment`: one run for one key, in the state that a test says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.parameters: list[dict[str, Any]] = []
        self.ended: set[str] = set()

    def run_deployment(self, *, name: str, parameters: dict[str, Any], idempotency_key: str, **_: Any) -> Any:
        assert name == "retrain/flights"
        self.asked.append(idempotency_key)
        self.parameters.append(parameters)
        return SimpleNamespace(name="a-run", state=SimpleNamespace(is_final=lambda: idempotency_key in self.ended))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr("prefect.deployments.run_deployment", made.run_deployment)
    return made


def dispatch() -> list[str]:
    return dispatch_pending.fn("flights", 3)


def test_the_same_decision_is_sent_with_the_same_key_until_it_is_claimed(server: Server) -> None:
    assert dispatch() == dispatch() == ["d1"]
    assert server.asked == ["d1:1", "d1:1"]
    assert server.parameters[0]["decision_id"] == "d1"
    assert server.parameters[0]["as_of"] == AS_OF.isoformat()
    with claiming(WANTED):
        assert dispatch() == [], "someone does it at this moment"
    assert dispatch() == ["d1"], "that run is gone and has not ended it"
    assert server.asked[-1] == "d1:2"
    with claiming(WANTED) as claim:
        finish_retrain(WANTED, claim, line("rejected"))
    assert dispatch() == []


def test_a_run_that_ended_before_it_could_claim_is_followed_by_another(server: Server) -> None:
    server.ended = {"d1:1", "d1:1.1"}
    assert dispatch() == ["d1"]
    assert server.asked == ["d1:1", "d1:1.1", "d1:1.2"]


def test_what_fails_again_and_again_is_given_up_and_said(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError), claiming(WANTED):
            raise RuntimeError("no disk")
    with caplog.at_level("WARNING", logger="perennial"):
        assert dispatch() == []
    assert server.asked == []
    assert "begun 3 times and never ended" in caplog.text


def test_a_server_that_is_down_loses_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr("prefect.deployments.run_deployment", refuse)
    with caplog.at_level("WARNING", logger="perennial"):
        assert dispatch() == []
    assert "connection refused" in caplog.text
    assert open_outbox("flights").entry("d1").done is None


# --- claiming -------------------------------------------------------------------------------------


def line(kind: str, as_of: datetime = AS_OF, decision_id: str = "d1") -> LedgerEntry:
    return LedgerEntry(
        number=1, kind=kind, decision_id=decision_id, as_of=as_of, version=2, champion=2, previous=None, reasons=(),
        digests={}, at=AS_OF,
    )  # fmt: skip


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process, which is another holder of locks; its exit code."""
    if (pid := os.fork()) == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_second_run_of_the_same_decision_loses_and_is_no_error() -> None:
    def lose() -> None:
        with claiming(WANTED) as claim:
            assert claim is None

    with claiming(WANTED) as claim:
        assert claim.attempt == 1
        assert in_child(lose) == 0
        finish_retrain(WANTED, claim, line("promoted"))
    lose()
    assert open_outbox("flights").entry("d1").done.outcome == "promoted"


def test_a_run_that_was_suspended_finds_its_own_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.claiming.flow_run_id", lambda: "run-1")
    assert own_verdict("flights") is None
    with claiming(WANTED) as claim:
        waiting = finish_retrain(WANTED, claim, open_ledger("flights").append(line("waiting")))
    assert own_verdict("flights") == waiting
    monkeypatch.setattr("tasks.claiming.flow_run_id", lambda: "run-2")
    assert own_verdict("flights") is None, "another run asks nobody"


def test_a_promotion_on_its_way_refuses_and_spends_no_attempt(home: Path) -> None:
    if (pid := os.fork()) == 0:
        with open_ledger("flights").lock("somebody"):
            (home / "locked").touch()
            time.sleep(60)
        os._exit(0)
    try:
        while not (home / "locked").exists():
            time.sleep(0.01)
        with pytest.raises(PromotionError, match="is promoting"), claiming(WANTED):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert open_outbox("flights").entry("d1").claims == ()


def test_a_decision_that_a_newer_champion_overtook_is_ended_without_a_training() -> None:
    open_ledger("flights").append(line("promoted", AS_OF + timedelta(days=1), "another"))
    with claiming(WANTED) as claim:
        assert claim is None
    assert open_outbox("flights").entry("d1").done.outcome == "superseded"


def test_a_kill_between_promotion_and_the_last_note_leaves_it_to_be_claimed() -> None:
    """It is decided in the ledger: the next attempt finds it there, and only notes it."""
    open_ledger("flights").append(line("promoted"))
    with claiming(WANTED) as claim:
        assert claim is not None


def test_a_halt_is_cleared_by_someone_with_a_reason() -> None:
    run = Run(recipe=load_recipe("flights"), as_of=AS_OF, cause="person", attempt=0)
    with pytest.raises(PerennialError, match="who says why"):
        clear_halt(run, "ann", "")
    assert clear_halt(run, "ann", "it is meant") == clear_halt(run, "bob", "mine too")
