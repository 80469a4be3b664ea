"""The worker killed twelve times, alone, with its run, and with every server: each decision is carried out once."""

import pytest

from tests.torture import worker_kills
from tests.torture.test_kills import folder  # noqa: F401
from tests.torture.trials import table


@pytest.fixture(scope="module")
def played(folder):  # noqa: F811
    return worker_kills.run_trials(folder / "worker")


def test_after_the_worker_was_killed_everything_is_as_if_it_had_not_been(played, capsys):
    with capsys.disabled():
        print(f"\n{table(played, worker_kills.VICTIMS)}")
    assert sum(len(trial["kills"]) for trial in played) >= worker_kills.KILLS
    assert [trial for trial in played if trial["problems"]] == []
