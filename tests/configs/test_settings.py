"""Settings are the environment's at this moment, and are not read anew for every question."""

from pathlib import Path

import pytest

from configs.settings import load_settings


def test_they_are_read_once_for_one_environment_and_anew_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERENNIAL_HOME", "/one")
    one = load_settings()
    assert (one.home, load_settings() is one) == (Path("/one"), True)
    monkeypatch.setenv("PERENNIAL_HOME", "/other")
    assert load_settings().home == Path("/other")
    monkeypatch.delenv("PERENNIAL_HOME")
    monkeypatch.setenv("perennial_threads", "3")  # their names are read in any case
    assert (load_settings().home, load_settings().threads) == (Path(".perennial"), 3)
