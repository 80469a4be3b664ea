"""Members side by side learn what they learn one after the other, and the same each time."""

import threading

import pytest
import torch
from torch import Tensor, nn

from tasks.core.ensemble import Ensemble, side_by_side
from tasks.core.networks import build_network

OPTIONS = {"members": 3, "width": 16, "blocks": 1, "dropout": 0.5, "input_dropout": 0.2}


def make_rows() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(200, 4), torch.randint(0, 5, (200, 2))


def learn(threads: int) -> tuple[Tensor, list[Tensor]]:
    """Outputs and gradients of one step."""
    torch.manual_seed(0)
    network = build_network("resnet", 4, [5, 5], 1, OPTIONS)
    rows = make_rows()
    torch.manual_seed(2)
    with side_by_side(network, threads):
        outputs = network(*rows)
        outputs.square().mean().backward()
    return outputs.detach(), [parameter.grad for parameter in network.parameters()]


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "as it was found"
    torch.set_num_threads(before)


def test_members_side_by_side_learn_the_same():
    outputs, gradients = learn(threads=1)
    beside, gradients_beside = learn(threads=2)
    assert outputs.shape == (200, 3, 1)
    torch.testing.assert_close(beside, outputs)
    for one, other in zip(gradients, gradients_beside, strict=True):
        torch.testing.assert_close(one, other)


def test_members_side_by_side_learn_the_same_to_the_bit_each_time():
    first, gradients = learn(threads=2)
    for _ in range(5):
        again, gradients_again = learn(threads=2)
        assert torch.equal(first, again)
        assert all(map(torch.equal, gradients, gradients_again))


def test_members_drop_different_values():
    network = Ensemble([build_network("resnet", 4, [5, 5], 1, {**OPTIONS, "members": 1})] * 2).train()
    one, other = network(*make_rows()).unbind(1)
    assert not torch.allclose(one, other), "one network twice, each time with other dropout"
    one, other = network.eval()(*make_rows()).unbind(1)
    assert torch.equal(one, other)


class Own(nn.Module):
    """Somebody's network, which says in which thread it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.ran_in = nn.Linear(4, 1), None

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        self.ran_in = threading.current_thread()
        return self.linear(numeric)


def test_only_networks_of_ours_are_given_threads():
    network = Ensemble([Own(), Own()])
    with side_by_side(network, 2):
        network(*make_rows())
    assert {member.ran_in for member in network.members} == {threading.main_thread()}


def test_an_error_in_a_member_is_the_steps_own():
    network = build_network("resnet", 4, [5, 5], 1, OPTIONS)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), side_by_side(network, 2):
        network(torch.randn(10, 3), torch.zeros(10, 2, dtype=torch.int64))
