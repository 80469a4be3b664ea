"""One file per deployment. Telemetry off and state under one home, before Prefect reads its environment."""

import os

from configs.settings import load_settings, prepare_environment
from flows import processes

prepare_environment()
if (server := processes.address(load_settings().root, "server")) is not None:
    # One server for one home: a run from the shell is seen where the others are.
    os.environ.setdefault("PREFECT_API_URL", f"{server}/api")
