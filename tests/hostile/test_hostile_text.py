"""Recipes and suites of any shape: read, or refused with an error of ours; never another exception, and no code run."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.recipe import CONFIGS, Recipe, load_recipe
from tasks.core.errors import PerennialError, RecipeError, ValidationError
from tasks.stores.suites import Suite, load_suite

RECIPE = yaml.safe_load((CONFIGS / "flights.yaml").read_text())
SUITE = json.loads((CONFIGS.parent / "expectations" / "flights" / "weather.json").read_text())
ONCE = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.datetimes(),
    st.sampled_from(["36h", "9" * 400 + "d", "-1d", "1" * 5000, "select 1; drop table x", "=cmd|'/C calc'!A0", "\x00"]),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | leaves, inner, max_size=3),
    max_leaves=8,
)


def paths(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each node of a tree."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [above, *(path for key, inner in below for path in paths(inner, (*above, key)))]


def with_change(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.copy(tree)
    changed[path[0]] = with_change(tree[path[0]], path[1:], value)
    return changed


def read(load: Callable[[], Any], refusal: type[PerennialError]) -> str:
    """What is said of it; nothing where it is read. Any other exception is the test's failure."""
    try:
        assert isinstance(load(), Recipe | Suite)
    except refusal as error:
        return str(error)
    return ""


@settings(max_examples=150, **ONCE)
@given(path=st.sampled_from(paths(RECIPE)), value=trees)
def test_a_recipe_with_anything_anywhere(path: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(with_change(RECIPE, path, value)))
    said = read(lambda: load_recipe(str(tmp_path / "made.yaml")), RecipeError)
    assert not said or "made.yaml" in said


@settings(max_examples=150, **ONCE)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_recipe_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"made\.yaml"):
        load_recipe(str(tmp_path / "made.yaml"))


@settings(max_examples=100, **ONCE)
@given(key=st.text(max_size=30) | st.sampled_from([".".join(map(str, path)) for path in paths(RECIPE)]), value=trees)
def test_an_override_with_anything_anywhere(key: str, value: Any) -> None:
    read(lambda: load_recipe("flights", {key: value}), RecipeError)


@settings(max_examples=150, **ONCE)
@given(path=st.sampled_from(paths(SUITE)), value=trees)
def test_a_suite_with_anything_anywhere(path: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    changed = with_change(SUITE, path, value)
    (tmp_path / "made.json").write_text(json.dumps(changed, default=str, skipkeys=True))
    said = read(lambda: load_suite(tmp_path / "made.json"), ValidationError)
    assert not said or "made.json" in said


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",  # holds itself
        "a: &a {b: &b {c: *b}}",
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]",
        "[" * 5000,
        "project: !!python/object/apply:os.system ['touch sprung']",
        "project: !!python/name:os.system",
        "!!binary x",
        "2013-99-99",
        "? {a: 1}\n: 2",
        "{1: 2, [a]: 3}",
        "start: 99999-01-01",
    ],
)  # fmt: skip
def test_yaml_that_is_made_to_harm(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"made\.yaml"):
        load_recipe("made.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["made.yaml"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": "' + "x" * 100, "NaN", "9" * 5000, b"\xff\xfe\x00"])
def test_json_that_is_made_to_harm(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValidationError, match=r"made\.json"):
        load_suite(path)
