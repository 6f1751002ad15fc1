"""A stack of networks: each row goes through its own, and each is trained as if it were alone."""

import pytest
import torch
from torch import nn

from minidiff.nets import MLP
from minidiff.nets.stacked import Stacked
from minidiff.train import seeded


def networks(count=3):
    nets = []
    for k in range(count):
        with seeded(k):
            net = MLP(4, width=8, depth=1)
            nn.init.normal_(net.leave.weight)  # it starts at zero, which would hide everything
        nets.append(net)
    return nets


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shared", [False, True])
def test_rows_go_through_their_own_network(shared):
    nets, x = networks(), draw(6, 4)
    t = torch.tensor(0.3) if shared else torch.linspace(0.1, 0.9, 6)
    alone = [net(x[2 * k : 2 * k + 2], t if shared else t[2 * k : 2 * k + 2]) for k, net in enumerate(nets)]
    torch.testing.assert_close(Stacked(nets)(x, t), torch.cat(alone))


def test_training_is_that_of_each_alone():
    nets = networks()
    stack, x, t = Stacked(nets), draw(6, 4), torch.linspace(0.1, 0.9, 6)

    def train(module, x, t, divisor):
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            (module(x, t).square().sum() / divisor).backward()
            optimizer.step()

    train(stack, x, t, 1)
    for k, net in enumerate(nets):
        rows = slice(2 * k, 2 * k + 2)
        train(net, x[rows], t[rows], 1)
        alone = stack.network(k)
        torch.testing.assert_close(alone(x[rows], t[rows]), net(x[rows], t[rows]), rtol=1e-4, atol=1e-5)


def test_networks_are_copied():
    nets = networks()
    stack = Stacked(nets)
    before = nets[0].leave.weight.clone()
    with torch.no_grad():
        for p in stack.parameters():
            p.zero_()
    assert torch.equal(nets[0].leave.weight, before)
    assert sum(p.numel() for p in stack.parameters()) == 3 * sum(p.numel() for p in nets[0].parameters())


def test_arguments_are_checked():
    stack = Stacked(networks())
    with pytest.raises(ValueError, match="at least one network"):
        Stacked([])
    with pytest.raises(ValueError, match="same number of rows for each of 3 networks, got 7"):
        stack(draw(7, 4), torch.tensor(0.5))
    with pytest.raises(ValueError, match="no condition"):
        stack(draw(6, 4), torch.tensor(0.5), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(IndexError, match=r"k must be 0 … 2, got 3"):
        stack.network(3)
