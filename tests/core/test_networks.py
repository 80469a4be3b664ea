"""Networks and heads: shapes, what they depend on, and how a name finds them."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import FitError
from tasks.core.heads import Head, area_under_curve
from tasks.core.network_inputs import Dropout, PiecewiseLinear
from tasks.core.networks import build_network
from tasks.core.preprocessing import Label


@pytest.mark.parametrize("name", ["mlp", "resnet", "tabm"])
@pytest.mark.parametrize("embedding", ["none", "periodic", "piecewise_linear"])
@pytest.mark.parametrize(("num_numeric", "cardinalities"), [(3, [4, 9]), (0, [4]), (3, [])])
def test_every_network_takes_any_inputs_and_uses_each(
    name: str, embedding: str, num_numeric: int, cardinalities: list[int]
) -> None:
    torch.manual_seed(0)
    network = build_network(name, num_numeric, cardinalities, 2, {"numeric_embedding": embedding}).eval()
    numeric = torch.randn(5, num_numeric, requires_grad=True)
    categorical = torch.randint(0, 4, (5, len(cardinalities)))
    logits = network(numeric, categorical)
    assert logits.shape == ((5, 8, 2) if name == "tabm" else (5, 2))
    logits.sum().backward()
    assert numeric.grad is not None
    assert (numeric.grad.abs().sum(0) > 0).all()
    for place in range(len(cardinalities)):
        other = categorical.clone()
        other[:, place] = (other[:, place] + 1) % 4
        assert not torch.allclose(network(numeric, other), logits)


def test_a_row_is_predicted_the_same_whatever_rows_are_beside_it() -> None:
    for name in ("mlp", "resnet", "tabm"):
        network = build_network(name, 3, [4], 1, {})  # in training mode but for dropout: no statistics of the batch
        for module in network.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        numeric, categorical = torch.randn(6, 3), torch.randint(0, 4, (6, 1))
        torch.testing.assert_close(network(numeric[:2], categorical[:2]), network(numeric, categorical)[:2])


def test_members_of_an_ensemble_differ() -> None:
    for name, options in (("tabm", {"members": 3}), ("mlp", {"members": 3}), ("resnet", {"members": 3})):
        logits = build_network(name, 3, [4], 1, options).eval()(torch.randn(6, 3), torch.randint(0, 4, (6, 1)))
        assert logits.shape == (6, 3, 1)
        assert (logits.std(dim=1) > 0).all()


def test_piecewise_linear_bins_are_quantiles_of_what_it_was_shown() -> None:
    embedding = PiecewiseLinear(1, 1, bins=4)
    embedding.prepare(torch.arange(101.0).unsqueeze(1))
    assert embedding.low.tolist() == [[0, 25, 50, 75]]
    embedding.prepare(torch.zeros(10, 1))  # ties leave every bin empty
    assert torch.isfinite(embedding(torch.tensor([[-1.0], [0.0], [1.0]]))).all()


def test_an_unknown_network_lists_those_there_are() -> None:
    with pytest.raises(FitError, match=r"no network 'mpl'[\s\S]*\['mlp', 'resnet', 'tabm'\][\s\S]*model.network"):
        build_network("mpl", 1, [], 1, {})


def test_an_unknown_option_lists_those_there_are() -> None:
    with pytest.raises(FitError, match=r"'depth': 3[\s\S]*'blocks', [\s\S]*'dropout', [\s\S]*'sigma', 'width'"):
        build_network("resnet", 1, [], 1, {"depth": 3})


def test_a_network_of_the_users_own_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "class Sum(nn.Module):\n"
        "    def __init__(self, num_numeric, cardinalities, outputs, *, scale):\n"
        "        super().__init__()\n"
        "        self.scale = scale\n"
        "    def forward(self, numeric, categorical):\n"
        "        return self.scale * numeric.sum(1, keepdim=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = build_network("own_networks:Sum", 2, [], 1, {"scale": 2.0})
    assert network(torch.ones(1, 2), torch.zeros(1, 0)).tolist() == [[4.0]]
    with pytest.raises(FitError, match="own_networks:Product"):
        build_network("own_networks:Product", 2, [], 1, {})
    del sys.modules["own_networks"]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p, is_late in rows if is_late for n, other in rows if not other]
    got = area_under_curve(torch.tensor([float(s) for s, _ in rows]), torch.tensor([float(y) for _, y in rows]))
    assert math.isnan(got) if not pairs else got == pytest.approx(np.mean(pairs))


def test_an_ensemble_learns_by_each_member_and_predicts_their_mean_probability() -> None:
    logits, target = torch.tensor([[[2.0], [-1.0]]]), torch.tensor([1.0])  # (1 row, 2 members, 1 output)
    head = Head(Label("binary", (0, 1)))
    assert head.predict(logits).item() == pytest.approx((torch.sigmoid(torch.tensor([2.0, -1.0]))).mean().item())
    assert head.loss(logits, target).item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2)


def test_a_class_that_fit_rows_lack_weighs_nothing() -> None:
    head = Head(Label("multiclass", ("a", "b")))
    logits = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    loss = head.loss(logits, torch.tensor([1, -1]))
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-2)), 0.0])
    assert head.metrics(head.predict(logits), torch.tensor([1, -1]))["accuracy"] == 1.0


def test_a_regression_answers_in_the_labels_units() -> None:
    head = Head(Label("regression", mean=100.0, scale=50.0))
    assert head.predict(torch.tensor([[0.5]])).item() == 125.0
    metrics = head.metrics(torch.tensor([125.0, 100.0]), torch.tensor([0.0, 0.0]))
    assert metrics == pytest.approx({"loss": 0.125, "mae": 12.5, "rmse": math.sqrt(25**2 / 2)})
    huber = Head(Label("regression"), "huber").loss(torch.tensor([[3.0]]), torch.tensor([0.0]))
    assert huber.item() == 2.5


def test_dropout_zeroes_a_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    values = torch.ones(1000, 333, requires_grad=True)
    for p in (0.1, 0.5, 0.9):
        dropped = Dropout(p)(values)
        kept = dropped != 0
        assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.003)
        assert dropped.mean().item() == pytest.approx(1, abs=0.02)
        (gradient,) = torch.autograd.grad(dropped.sum(), values)
        torch.testing.assert_close(gradient, dropped.detach())
        assert kept.float().mean(dim=0).std() < 0.03, "no column and no row is favoured"
        assert kept.float().mean(dim=1).std() < 0.04
    assert torch.equal(Dropout(0.5).eval()(values), values)
    with pytest.raises(FitError, match="a dropout cannot be"):
        Dropout(1.0)
