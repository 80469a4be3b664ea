"""Kill anywhere: the pipeline is killed at moments drawn at random or at a named boundary, and run again.

A trial is a copy of a home in which a run is killed and run again until it ends, and what must hold then.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.torture.small_flights import ROOT

SECONDS = 400  # no run takes longer, however busy the machine
FORKS = "tasks.stores.fork_server"
VICTIMS = ("flow", "machine", "rank")


class Mark(NamedTuple):
    """A step that begins or has ended, and when, on the machine's clock."""

    seconds: float
    step: str


class Point(NamedTuple):
    """A moment of a run: so long after a step began or ended."""

    place: int  # among the marks of the undisturbed run
    seconds: float


class Ended(NamedTuple):
    code: int
    step: str  # the last one that it said it was in
    said: str
    victim: str | None = None  # what was killed, if anything was


class Zygote:
    """See `tests.torture.zygote`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.zygote"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the zygote ended with code {self.process.wait()}")
        return line.strip()

    def _ask(self, **job: Any) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self._answer())

    def start(self, **job: Any) -> psutil.Process:
        return psutil.Process(self._ask(**job))

    def wait(self, process: psutil.Process) -> int:
        """Its exit code; less than zero is a signal."""
        return self._ask(wait=process.pid)

    def end(self) -> None:
        with self.process:  # closes its pipes, which ends it, and waits
            pass


@dataclass
class Scene:
    """A home and what surrounds it. Every trial has it at the same path, since MLflow keeps absolute ones."""

    folder: Path
    zygote: Zygote
    world: Path
    recipe: Path
    asked: int = field(default=0)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def environment(self) -> dict[str, str]:
        names = {
            "PERENNIAL_HOME": self.home,
            "TMPDIR": self.temporary,
            "PERENNIAL_FEATURE_REPO": self.world / "features",
        }
        return {name: str(path) for name, path in names.items()}

    def keep(self, name: str) -> None:
        """Keep the home as it is, to begin from it again."""
        _copy(self.home, self.folder / "bases" / name)

    def reset(self, name: str) -> None:
        """Begin from what was kept; `empty` is an empty home."""
        for old in (self.home, self.temporary, self.folder / "log.txt"):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        self.temporary.mkdir(parents=True)
        if name == "empty":
            self.home.mkdir()
        else:
            _copy(self.folder / "bases" / name, self.home)

    def set_aside(self, name: str) -> None:
        """Keep the home of a trial that failed, for whoever looks why."""
        _copy(self.home, self.folder / "failed" / name)
        shutil.copy(self.folder / "log.txt", self.folder / "failed" / f"{name}.txt")

    def ask(self, question: str, *arguments: str) -> Any:
        """What `tests.torture.invariants` finds in this home."""
        self.asked += 1
        answer = self.folder / f"{question}-{self.asked}.json"
        asked = self.zygote.start(
            does=question, arguments=arguments, answer=str(answer), environment=self.environment, log=self._log
        )
        self.zygote.wait(asked)
        assert answer.exists(), Path(self._log).read_text()[-3000:]
        return json.loads(answer.read_text())

    @property
    def _log(self) -> str:
        return str(self.folder / "log.txt")

    def marks(self) -> list[Mark]:
        path = self.folder / "marks"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Mark(float(at), step) for at, _, step in (line.partition(" ") for line in lines)]

    def start(self, as_of: str, *, flow: str = "pipeline", log: str = "log.txt", **more: Any) -> psutil.Process:
        """Begin a run of a flow; its marks are those that `marks` reads when it is the only one."""
        arguments = ["--recipe", str(self.recipe), "--as-of", as_of]
        told = {"boundary": None, "marks": str(self.folder / "marks"), **more}
        return self.zygote.start(
            does="flow",
            flow=flow,
            arguments=arguments,
            environment=self.environment,
            log=str(self.folder / log),
            **told,
        )

    def run(
        self, as_of: str, *, boundary: str | None = None, point: Point | None = None, victim: str = "flow",
        timeline: Sequence[Mark] = (),
    ) -> Ended:  # fmt: skip
        """Run the pipeline to its end, which may be a kill."""
        (self.folder / "marks").unlink(missing_ok=True)
        before = Path(self._log).stat().st_size if Path(self._log).exists() else 0
        flow = self.start(as_of, boundary=boundary)
        killed = self._kill(flow, point, victim, timeline) if point is not None else None
        code = self.zygote.wait(flow)
        said = Path(self._log).read_bytes()[before:].decode(errors="replace")
        return Ended(code, (self.marks() or [Mark(0, "start")])[-1].step, said, killed)

    def _kill(self, flow: psutil.Process, point: Point, victim: str, timeline: Sequence[Mark]) -> str | None:
        """Kill it once it has come to the point, or to anything later; None when it ended before that."""
        due = None
        deadline = time.monotonic() + SECONDS
        while alive(flow):
            assert time.monotonic() < deadline, "it hangs"
            if due is None and has_come_to(point, self.marks(), timeline):
                due = time.monotonic() + point.seconds
            if due is not None and victim == "rank" and self._is_fitting() and not ranks_of(flow):
                due = time.monotonic() + point.seconds % 1  # on a busy machine it takes its time to begin
            if due is not None and time.monotonic() >= due:
                return strike(flow, victim)
            time.sleep(0.005)
        return None

    def _is_fitting(self) -> bool:
        return any(mark.step.startswith("in ") for mark in [mark for mark in self.marks() if is_fit(mark)][-1:])

    def left_processes(self) -> list[str]:
        """Processes that were started with this home in their environment, zombies too."""
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PERENNIAL_HOME") == str(self.home):
                    left.append(f"{process.pid} {process.status()} {' '.join(process.cmdline())[:200]}")
        return left

    def left_temporary(self) -> list[str]:
        return sorted(path.name for path in self.temporary.iterdir())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-r", "--reflink=auto", source, target], check=True)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def has_come_to(point: Point, marks: Sequence[Mark], timeline: Sequence[Mark]) -> bool:
    """Whether a run that has left these marks is at the point of the undisturbed one, or at anything later."""
    later = {mark.step for mark in timeline[point.place :]} - {mark.step for mark in timeline[: point.place]}
    return point.place < 0 or any(mark.step in later for mark in marks[-1:])


def strike(flow: psutil.Process, victim: str) -> str:
    """SIGKILL the flow's process alone, everything at once as when the power fails, or a training process."""
    chosen = {"flow": [flow], "machine": [flow, *flow.children(recursive=True)], "rank": ranks_of(flow)}[victim]
    if not chosen:
        victim, chosen = "flow", [flow]
    for process in chosen:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return victim


def ranks_of(flow: psutil.Process) -> list[psutil.Process]:
    """What trains or tries a model in it; their parent is the server that forks them."""
    try:
        fits = [process for process in flow.children(recursive=True) if FORKS in command_of(process)]
        return [process for process in fits if process.parent() in fits]
    except psutil.NoSuchProcess:
        return []


def is_fit(mark: Mark) -> bool:
    return mark.step.split()[1] in ("fit", "refit") and "check" not in mark.step


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# --- at random ------------------------------------------------------------------------------------


def draw_kills(
    timeline: Sequence[Mark], number: int, draw: random.Random, victims: Sequence[str] = VICTIMS
) -> list[tuple[Point, str]]:
    """Moments drawn evenly over an undisturbed run, in order, so that each run again comes to the next; and whom.

    A training process is killed while there is one: its moments are drawn from the fit and the refit.
    """
    moments = [mark.seconds for mark in timeline]
    fits = [mark.seconds for mark in timeline if is_fit(mark)]
    drawn = []
    for victim in draw.choices(victims, k=number):
        spans = list(zip(fits[::2], fits[1::2], strict=True)) if victim == "rank" else [(moments[0], moments[-1])]
        drawn.append((draw.uniform(*draw.choice(spans)), victim))
    kills = []
    for moment, victim in sorted(drawn):
        place = bisect_right(moments, moment) - 1
        kills.append((Point(place, moment - moments[place]), victim))
    return kills
