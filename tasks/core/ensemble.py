"""Networks side by side: each draws its own dropout, and on a CPU each may learn in a thread of its own."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.network_inputs import drawing_from

MOST_SEED = 2**62


class Ensemble(nn.Module):
    """Networks that share nothing but their batches: (B, K, outputs).

    What a member drops follows from a seed that is drawn for it, so that all learn the same in whatever order they run.
    """

    pool: ThreadPoolExecutor | None = None

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def is_ours(self) -> bool:
        """Somebody's own network may draw from torch's one generator, where threads take turns as they come."""
        return all(type(member).__module__.startswith("tasks.core.") for member in self.members)

    def prepare(self, numeric: Tensor) -> None:
        for member in self.members:
            if callable(prepare := getattr(member, "prepare", None)):
                prepare(numeric)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        if not self.training:
            return torch.stack([member(numeric, categorical) for member in self.members], dim=1)
        seeds = torch.randint(MOST_SEED, (len(self.members),)).tolist()
        work = [
            partial(_learn, member, seed, numeric, categorical)
            for member, seed in zip(self.members, seeds, strict=True)
        ]
        if self.pool is None or torch.is_autocast_enabled("cpu"):  # which another thread does not know of
            return torch.stack([one() for one in work], dim=1)
        return _InThreads.apply(self.pool, work, torch.zeros((), requires_grad=True))  # type: ignore[no-any-return, no-untyped-call]


@contextmanager
def side_by_side(network: nn.Module, threads: int) -> Iterator[None]:
    """Let an ensemble's members learn at once, on so many threads in all; any other network has them for itself.

    Two threads that share each operation of one small network wait for each other after each. `python -m
    tests.benchmarks spins`: a step of two ResNets of width 96 takes 18.7 ms that way, and side by side 14.3; while
    something else keeps one of two cores busy, 46.7 and 27.5.
    """
    if threads < 2 or not isinstance(network, Ensemble) or not network.is_ours:
        yield
        return
    workers = min(threads, len(network.members))
    torch.set_num_threads(threads // workers)  # of each, since it is set before they begin
    try:
        with ThreadPoolExecutor(workers) as network.pool:
            yield
    finally:
        network.pool = None
        torch.set_num_threads(threads)


def _learn(member: nn.Module, seed: int, numeric: Tensor, categorical: Tensor) -> Tensor:
    with drawing_from(seed):
        output: Tensor = member(numeric, categorical)
    return output


class _InThreads(torch.autograd.Function):
    """Graphs that share nothing but their inputs, each forward and back in a thread; the outputs side by side."""

    @staticmethod
    def forward(ctx: Any, pool: ThreadPoolExecutor, work: Sequence[Callable[[], Tensor]], _: Tensor) -> Tensor:
        ctx.pool, ctx.outputs = pool, list(pool.map(_with_gradients, work))
        return torch.stack([output.detach() for output in ctx.outputs], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        list(ctx.pool.map(torch.autograd.backward, ctx.outputs, gradient.unbind(1)))
        return None, None, None


def _with_gradients(one: Callable[[], Tensor]) -> Tensor:
    with torch.enable_grad():
        return one()
