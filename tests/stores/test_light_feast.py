"""Feast as imported without rewriting: its constructors refuse what they refused, and name the argument."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
import typeguard
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float64, Int64

SOURCE = {"name": "t", "path": "lake://t", "timestamp_field": "event_timestamp"}


def a_view(**changed: Any) -> FeatureView:
    entity = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
    plain = {"name": "t", "entities": [entity], "ttl": timedelta(hours=1), "source": FileSource(**SOURCE)}
    return FeatureView(**{**plain, "schema": [Field(name="x", dtype=Float64)], **changed})


def test_what_is_right_is_taken():
    view = a_view(tags={"of": "us"}, schema=[Field(name="x", dtype=Array(Int64))])
    assert FeatureService(name="s", features=[view, view[["x"]]]).name == "s"


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("ttl", lambda: a_view(ttl="6h")),
        ("entities", lambda: a_view(entities=["key"])),
        ("schema", lambda: a_view(schema={"x": Float64})),
        ("source", lambda: a_view(source="lake://t")),
        ("name", lambda: a_view(name=3)),
        ("tags", lambda: a_view(tags={"of": 1})),
        ("dtype", lambda: Field(name="x", dtype="float")),
        ("join_keys", lambda: Entity(name="key", join_keys="key", value_type=ValueType.STRING)),
        ("path", lambda: FileSource(**{**SOURCE, "path": 3})),
        ("features", lambda: FeatureService(name="s", features=a_view())),
    ],
)
def test_what_is_of_another_type_is_refused(argument, make):
    with pytest.raises(typeguard.TypeCheckError, match=f"argument '{argument}': "):
        make()


def test_torch_is_imported_by_the_one_conversion_that_gives_tensors():
    code = """
import sys
from tasks.stores.light_feast import feast
assert "torch" not in sys.modules
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
answer = GetOnlineFeaturesResponse()
answer.metadata.feature_names.val.append("x")
answer.results.add().values.append(Value(int64_val=7))
assert OnlineResponse(answer).to_tensor()["x"].tolist() == [7]
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_typeguard_rewrites_for_others_as_ever():
    @typeguard.typechecked
    def half(number: int) -> float:
        return number / 2

    with pytest.raises(typeguard.TypeCheckError):
        half("three")
