"""On the path of what a worker starts: a run says in a file where it is, as the runs that are forked for a trial do."""

import os
from pathlib import Path

from tests.torture import dying

dying.mark_steps(Path(os.environ["TORTURE_MARKS"]))
