"""A hundred kills at random and one at every named boundary: after the run again everything is as if there were none.

Results stand in `<PERENNIAL_HOME>/torture/<digest of the code>/kills.jsonl`, a line for each trial; what stands there
is not done again.
"""

import json
from datetime import UTC, datetime

import pytest

from configs.settings import load_settings
from tasks.core.records import digest
from tests.torture import trials
from tests.torture.dying import BOUNDARIES
from tests.torture.kills import Scene, Zygote
from tests.torture.servers import open_runs, prefect_server
from tests.torture.small_flights import ROOT


@pytest.fixture(scope="module")
def folder():
    code = sorted(path for name in ("flows", "tasks", "configs") for path in (ROOT / name).rglob("*.py"))
    return load_settings().root / "torture" / digest([path.read_text() for path in code])


@pytest.fixture(scope="module")
def played(folder):
    return trials.run_trials(folder)


def test_after_a_hundred_kills_at_random_everything_is_as_if_there_were_none(played, capsys):
    with capsys.disabled():
        print(f"\n{trials.table(played)}")
    assert sum(len(trial["kills"]) for trial in played) >= trials.KILLS
    assert [trial for trial in played if trial["problems"]] == []


@pytest.mark.parametrize("base", ["first", "empty"])
def test_killed_at_every_boundary_in_turn_one_home_comes_to_the_same(folder, base):
    recipe, began = trials.make_world(folder / "world"), datetime.now(UTC)
    with prefect_server(folder) as environment:
        zygote = Zygote(environment)
        try:
            scene = Scene(folder / "slot-0", zygote, folder / "world", recipe)
            one = trials.play_named(scene, trials.prepare(scene), base, tuple(BOUNDARIES))
            left = open_runs(environment, began)
        finally:
            zygote.end()
    (folder / f"boundaries-{base}.json").write_text(json.dumps(one))
    assert [kill["step"] for kill in one["kills"]] == list(BOUNDARIES)
    assert one["problems"] == []
    assert left == [], "Prefect takes them for alive"
