"""Servers of the online stores, one of each for a test process."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.stores.light_feast import feast  # noqa: F401  before the tests import it themselves
from tests.stores import online_servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, Any]]:
    with online_servers.postgres() as settings:
        yield settings


@pytest.fixture(scope="session")
def redis() -> Iterator[dict[str, Any]]:
    with online_servers.redis() as settings:
        yield settings


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def online_store(request: pytest.FixtureRequest) -> str | None:
    """As settings give it, and empty."""
    if request.param == "sqlite":
        return None  # the default, a file in the home
    settings: dict[str, Any] = request.getfixturevalue(request.param)
    online_servers.clear(settings)
    return json.dumps(settings)
