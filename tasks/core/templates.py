"""Databases that are migrated once for an environment and copied into each new home; the installation makes them."""

import sys
from importlib import metadata
from pathlib import Path


def template(package: str) -> Path:
    """Where that of a package lies: of this version of it, whose migrations are no other's."""
    return Path(sys.prefix) / "share" / "perennial" / f"{package}-{metadata.version(package)}.db"
