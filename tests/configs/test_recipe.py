"""The recipe is checked whole when it is read, and its errors name the file and the key."""

from datetime import timedelta

import pytest
import yaml

from configs.recipe import CONFIGS, Recipe, load_recipe
from configs.sections.section import format_duration, parse_duration
from tasks.core.errors import RecipeError

SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_valid_and_stable(name):
    recipe = load_recipe(name)
    assert recipe.digest == load_recipe(name).digest
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_recipe_is_found_by_name_or_by_path(tmp_path):
    copy = tmp_path / "mine.yaml"
    copy.write_text((CONFIGS / "flights.yaml").read_text())
    assert load_recipe(str(copy)) == load_recipe("flights")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"no recipe 'flihgts'(.|\n)*'flights'"):
        load_recipe("flihgts")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model.netwrk": "mlp"}, "model.netwrk: Extra inputs are not permitted"),
        ({"split.holdout": "3x"}, "split.holdout: .*'3x' is not a duration"),
        ({"split.embargo": "-1d"}, "split.embargo: .*not a duration"),
        ({"clock.replay.step": "0d"}, "clock.*does not go forward"),
        ({"clock.replay.end": "2013-03-01"}, "clock.*does not go forward"),
        ({"gate.primary": "mae"}, "gate metric 'mae' does not fit label.kind='binary'"),
        ({"label.table": "arrivels"}, "label.table='arrivels' is not one of the tables"),
        ({"tables.weather.key": ["orign"]}, r"tables.weather: .*key \['orign'\] not among columns"),
        ({"gate.clusters": "entity"}, "needs `entity`"),
        ({"model.batch_size": 0}, "model.batch_size: .*greater than or equal to 1"),
        ({"gate.margin": float("nan")}, "gate.margin"),
        ({"tables.weather.source": {"format": "xml"}}, "tables.weather.source"),
        ({"seed": None}, "seed: .*integer"),
        (
            {"govern.cooldown": "29d"},
            r"govern.cooldown=29 days.* is shorter than split.holdout \+ split.embargo = 29 days",
        ),
        ({"govern.refresh_every": "14d"}, "govern.refresh_every=14 days.* would have seen a part of the rows"),
    ],
)
def test_a_wrong_value_is_named_by_file_and_key(override, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("flights", override)
    assert "flights.yaml" in str(caught.value)


def test_an_override_cannot_go_through_a_value():
    with pytest.raises(RecipeError, match="goes through 'seed', which is a value"):
        load_recipe("flights", {"seed.more": 1})


@pytest.mark.parametrize("content", [b"project: [", b"\xff\xfe\x00", b"- a list", b""])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        load_recipe(str(path))


def test_an_override_changes_what_it_names_and_not_what_shares_its_anchor():
    changed = load_recipe("flights", {"tables.departures.source.path": "mine.csv"})
    paths = {name: table.source.path for name, table in changed.tables.items()}
    assert paths == {name: table.source.path for name, table in load_recipe("flights").tables.items()} | {
        "departures": "mine.csv"
    }


def test_a_recipe_cannot_be_changed_after_it_was_read():
    recipe = load_recipe("flights")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 8


@pytest.mark.parametrize("override", [{"model.max_epochs": 3}, {"gate.margin": 0.02}, {"label.maturity": "40h"}])
def test_a_change_of_what_makes_or_judges_a_model_changes_the_digest(override):
    assert load_recipe("flights").digest != load_recipe("flights", override).digest


@pytest.mark.parametrize(
    "override", [{"clock": "real"}, {"monitor.tolerance": 0.1}, {"govern.cooldown": "40d"}, {"description": "Late?"}]
)
def test_a_change_of_when_it_is_looked_at_does_not(override):
    assert load_recipe("flights").digest == load_recipe("flights", override).digest


@pytest.mark.parametrize(
    ("text", "value"), [("36h", timedelta(hours=36)), ("1d12h", timedelta(hours=36)), ("90s", timedelta(seconds=90))]
)
def test_durations_are_read_and_written(text, value):
    assert parse_duration(text) == value
    assert parse_duration(format_duration(value)) == value


def test_a_recipe_runs_no_code(tmp_path):
    path = tmp_path / "hostile.yaml"
    path.write_text("project: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(RecipeError):
        load_recipe(str(path))
    assert yaml.safe_load("a: 1") == {"a": 1}
    assert not (tmp_path / "hacked").exists()
