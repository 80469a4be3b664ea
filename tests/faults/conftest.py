"""The plant that every fault is injected into: built once, copied for each test."""

import os
from pathlib import Path

import pytest

from tests.faults.plant import MADE, Plant


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """With a champion, made by the real stages."""
    plant = Plant(tmp_path_factory.mktemp("faults") / "healthy")
    plant.write_files()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PERENNIAL_") or name == "PREFECT_API_URL"]:
            patch.delenv(name)
        for name, value in plant.environment().items():
            patch.setenv(name, value)
        _, refused = plant.ingest(MADE)
        assert refused == []
        entry = plant.train(MADE)
        assert (entry.kind, entry.champion) == ("promoted", 1)
    return plant


@pytest.fixture
def plant(healthy: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """A copy to break."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    made = healthy.copy(tmp_path / "plant")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made
