"""Prefect's database, migrated once for an environment and copied into each new home: 5 of the 9 seconds in which a
server of an empty home comes up. The installation makes what is copied; without it servers migrate.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tasks.core.templates import template

NAME = "prefect.db"  # of Prefect's own choice, in its home


def make() -> None:
    """Let Prefect migrate an empty database, unless that is done."""
    made = template("prefect")
    if made.exists():
        return
    made.parent.mkdir(parents=True, exist_ok=True)
    # Whatever database somebody's settings name, it is not this one.
    others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with tempfile.TemporaryDirectory(dir=made.parent) as home:
        upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(upgrade, env={**others, "PREFECT_HOME": home}, check=True, stdout=subprocess.DEVNULL)
        Path(home, NAME).replace(made)


def place(home: Path) -> None:
    """Give a home of Prefect's its database, if it has none and there is one to copy."""
    if (home / NAME).exists() or not template("prefect").exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    copied = Path(shutil.copy(template("prefect"), home / f".{NAME}~{os.getpid()}"))
    with suppress(OSError):  # a server was quicker, or the disk knows no links: then it migrates
        os.link(copied, home / NAME)
    copied.unlink()
