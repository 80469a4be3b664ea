"""The recipe: what data, which features, which model, what gate. One YAML file, checked whole when it is read."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
import yaml
from pydantic import Field, model_validator

from configs.sections.data import TableSection
from configs.sections.gate import CLASSIFICATION_METRICS, MULTICLASS_METRICS, REGRESSION_METRICS, GateSection
from configs.sections.loop import BacktestSection, GovernSection, MonitorSection, ReplayClock
from configs.sections.model import BaselineSection, ModelSection
from configs.sections.rows import AuditSection, FeaturesSection, LabelSection, SplitSection
from configs.sections.section import Name, Section
from tasks.core.errors import RecipeError
from tasks.core.records import digest

CONFIGS = Path(__file__).parent


class Recipe(Section):
    project: Name
    description: str
    start: date  # the first day that is ingested
    clock: Literal["real"] | ReplayClock = "real"  # what time it is for a run that is given no `as_of`
    seed: int = 7
    tables: dict[Name, TableSection] = Field(min_length=1)
    features: FeaturesSection
    label: LabelSection
    split: SplitSection
    audit: AuditSection = AuditSection()
    model: ModelSection
    baseline: BaselineSection = BaselineSection()
    gate: GateSection
    monitor: MonitorSection = MonitorSection()
    govern: GovernSection = GovernSection()
    backtest: BacktestSection = BacktestSection()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for where, table in (
            ("features.entity_rows.table", self.features.entity_rows.table),
            ("label.table", self.label.table),
        ):
            if table not in self.tables:
                raise ValueError(f"{where}={table!r} is not one of the tables {sorted(self.tables)}")
        key, label_columns = self.tables[self.features.entity_rows.table].key, self.tables[self.label.table].columns
        if missing := [name for name in key if name not in label_columns]:
            raise ValueError(
                f"label.table {self.label.table!r} lacks {missing}, the key that entity rows are joined by"
            )
        known = {"binary": CLASSIFICATION_METRICS, "multiclass": MULTICLASS_METRICS, "regression": REGRESSION_METRICS}[
            self.label.kind
        ]
        for name in (self.gate.primary, *self.gate.guards, *self.gate.floors):
            if name not in known:
                raise ValueError(
                    f"gate metric {name!r} does not fit label.kind={self.label.kind!r}; choose from {list(known)}"
                )
        return self

    @model_validator(mode="after")
    def _retrains_leave_unseen_rows(self) -> Self:
        """What a champion was made of, no challenger may be judged on against it."""
        least = self.split.holdout + self.split.embargo
        for name, spacing in (("cooldown", self.govern.cooldown), ("refresh_every", self.govern.refresh_every)):
            if spacing is not None and spacing < least:
                raise ValueError(
                    f"govern.{name}={spacing} is shorter than split.holdout + split.embargo = {least}: the champion"
                    " would have seen a part of the rows that its challenger is judged on"
                )
        return self

    @property
    def cooldown(self) -> timedelta:
        """From a retrain to the next, at least."""
        return self.govern.cooldown or self.split.holdout + self.split.embargo

    @property
    def digest(self) -> str:
        """Of what makes and judges a model: when it is looked at, and what is done then, makes no other model."""
        return digest(self.model_dump(mode="json", exclude={"clock", "description", "monitor", "govern", "backtest"}))


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe by its name in `configs/` or by the path of a YAML file.

    `overrides` are dotted keys: `{"model.max_epochs": 2}`.

    Raises:
        RecipeError: no such recipe, not YAML, or a value that cannot be; the error names the file and the key.
    """
    path = find_recipe(name)
    try:
        data = yaml.safe_load(path.read_text())
    # A date that is none is a ValueError; brackets without an end take all of Python's stack.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read", got=error, expected="a YAML file in UTF-8") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path} is not a recipe", got=type(data).__name__, expected="a mapping of keys")
    for key, value in (overrides or {}).items():
        _set(data, key, value)
    try:
        return Recipe.model_validate(data)
    except pydantic.ValidationError as error:
        raise _readable(error, path) from None


def find_recipe(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
        raise RecipeError(f"no recipe {name!r}", got=path, expected=f"one of {known}, or the path of a YAML file")
    return path


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(data.setdefault(parent, {}), dict):
            raise RecipeError(
                f"override {key!r} goes through {parent!r}, which is a value", fix="name a key of the recipe"
            )
        # A copy: where YAML anchors make two keys one and the same mapping, only the one that is named changes.
        data[parent] = dict(data[parent])
        data = data[parent]
    data[last] = value


def _readable(error: pydantic.ValidationError, path: Path) -> RecipeError:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "recipe"
        got = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r:.80})"
        lines.append(f"{where}: {problem['msg']}{got}")
    return RecipeError(
        f"{path} is not a valid recipe", got="\n            ".join(lines), fix=f"correct these keys in {path}"
    )
