"""prefect.yaml against what Prefect accepts: a misspelt key is ignored there without a word."""

import importlib
import inspect
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.events import DeploymentTriggerTypes
from pydantic import TypeAdapter

from configs.recipe import load_recipe

FILE = yaml.safe_load((Path(__file__).parents[1] / "prefect.yaml").read_text())
DEPLOYMENTS = FILE["deployments"]
OWN_KEYS = {"definitions"}  # where anchors stand; Prefect passes over it
IN_EVERY_PROJECT = {"pipeline", "ingest", "materialize", "train", "score", "rollback"}


def name_of(deployment):
    return f"{deployment['entrypoint'].split('.')[1]}/{deployment['name']}"


each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=name_of)


def unknown_keys(data, model):
    names = {field.alias or name for name, field in model.model_fields.items()} | set(model.model_fields)
    return set(data) - names


def load_flow(deployment):
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def unknown_trigger_keys(trigger):
    """Of a trigger and of those it is made of; every kind says with `type` what it is."""
    kinds = {kind.model_fields["type"].default: kind for kind in get_args(get_args(DeploymentTriggerTypes)[0])}
    unknown = unknown_keys(trigger, kinds[trigger.get("type", "event")])
    for part in trigger.get("triggers", ()):
        unknown |= unknown_keys(part, kinds[part.get("type", "event")])
    return unknown


def test_every_key_of_the_file_is_one_that_prefect_knows():
    assert unknown_keys(FILE, PrefectYamlModel) == OWN_KEYS
    PrefectYamlModel.model_validate(FILE)


def test_no_deployment_is_there_twice_and_each_project_has_them_all():
    names = [name_of(deployment) for deployment in DEPLOYMENTS]
    assert len(set(names)) == len(names)
    for project in {deployment["name"] for deployment in DEPLOYMENTS}:
        assert {name.split("/")[0] for name in names if name.endswith(f"/{project}")} >= IN_EVERY_PROJECT


@each_deployment
def test_every_key_of_a_deployment_is_one_that_prefect_knows(deployment):
    assert unknown_keys(deployment, DeploymentConfig) == set()
    assert unknown_keys(deployment["work_pool"], WorkPoolConfig) == set()
    assert deployment["work_pool"] == FILE["definitions"]["work_pool"]  # one place for the pool
    for schedule in deployment.get("schedules", ()):
        assert unknown_keys(schedule, RawScheduleConfig) == set()
        _schedule_config_to_deployment_schedule(schedule)
    for trigger in deployment.get("triggers", ()):
        assert unknown_trigger_keys(trigger) == set()
        TypeAdapter(DeploymentTriggerTypes).validate_python({"name": "x", **trigger})


@each_deployment
def test_a_concurrency_limit_is_one_that_prefect_takes(deployment):
    if isinstance(limit := deployment.get("concurrency_limit"), dict):
        assert unknown_keys(limit, ConcurrencyLimitSpec) == set()
        assert limit["limit"] > 0
        ConcurrencyOptions.model_validate({key: value for key, value in limit.items() if key != "limit"})


@each_deployment
def test_an_entrypoint_is_a_flow_of_that_name(deployment):
    flow = load_flow(deployment)
    assert isinstance(flow, Flow)
    assert deployment["entrypoint"] == f"flows.{flow.name}.{flow.fn.__name__}"
    assert deployment["description"]


@each_deployment
def test_parameters_are_those_of_the_flow_and_the_recipe_is_the_projects(deployment):
    flow = load_flow(deployment)
    given = [deployment["parameters"]]
    given += [{**given[0], **schedule.get("parameters", {})} for schedule in deployment.get("schedules", ())]
    for parameters in given:
        inspect.signature(flow.fn).bind(**parameters)
        flow.validate_parameters(parameters)
        assert load_recipe(parameters["recipe"]).project == deployment["name"]
    for trigger in deployment.get("triggers", ()):
        # Their values are templates, filled in from the event.
        inspect.signature(flow.fn).bind(**{**given[0], **trigger.get("parameters", {})})


def test_a_misspelt_key_would_be_found():
    assert unknown_keys({"cron": "0 6 * * 1", "timezoone": "UTC"}, RawScheduleConfig) == {"timezoone"}
    trigger = {"type": "event", "expect": ["a"], "for_eech": ["prefect.resource.id"]}
    assert unknown_trigger_keys(trigger) == {"for_eech"}
