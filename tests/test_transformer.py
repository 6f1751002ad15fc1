"""The token transformer against its formula, its attention masks and errors; the set transformer's equivariance."""

import math

import pytest
import torch
from torch import nn

from minidiff.nets import SetTransformer, TokenTransformer
from minidiff.nets.transformer import Block


def awake(net, seed=0):
    """Every parameter random, so that nothing is zero by its start; in float64."""
    random = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3, generator=random)
    return net.double().requires_grad_(False)


def norm(h, layer):
    centred = h - h.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def test_block_is_its_formula():
    block, h = awake(Block(8, 2)), torch.randn(2, 5, 8, dtype=torch.float64)
    allowed = torch.rand(2, 5, 5) < 0.5
    allowed |= torch.eye(5, dtype=torch.bool)
    q, k, v = (norm(h, block.norm1) @ block.qkv.weight.T + block.qkv.bias).split(8, -1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = q[..., part] @ k[..., part].mT / math.sqrt(4)
        heads.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v[..., part])
    mixed = h + torch.cat(heads, -1) @ block.out.weight.T + block.out.bias
    torch.testing.assert_close(block(h, allowed), mixed + block.mlp(norm(mixed, block.norm2)))


def test_a_new_network_returns_zero():
    assert not TokenTransformer(4, 6)(torch.tensor([[0, 3, 1]])).any()
    assert not SetTransformer(2)(torch.randn(2, 3, 2), torch.tensor(0.5)).any()


def test_hidden_tokens_do_not_matter_and_seen_ones_do():
    net, x = awake(TokenTransformer(5, 4, outputs=3)), torch.tensor([[0, 1, 2, 3]])
    allowed = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    before, after = net(x, None, None, allowed), net(torch.tensor([[0, 1, 4, 3]]), None, None, allowed)
    assert before.shape == (1, 4, 3)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert float((before[:, 2:] - after[:, 2:]).abs().min()) > 1e-6


def test_places_are_all_that_orders_the_tokens():
    net, x, order = awake(TokenTransformer(5, 4)), torch.tensor([[0, 1, 2, 4]]), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(x[:, order], None, order), net(x)[:, order])
    assert float((net(x[:, order]) - net(x)[:, order]).abs().max()) > 1e-3


def test_time_is_used_if_and_only_if_timed():
    x, t = torch.tensor([[0, 1], [2, 0]]), torch.tensor([0.2, 0.9], dtype=torch.float64)
    timed, plain = awake(TokenTransformer(3, 2, timed=True)), awake(TokenTransformer(3, 2))
    assert float((timed(x, t) - timed(x, t.flip(0))).abs().min()) > 1e-6
    assert torch.equal(plain(x, t), plain(x))
    torch.testing.assert_close(timed(x, t[:1].squeeze())[0], timed(x, t)[0])
    with pytest.raises(ValueError, match="this network is timed: it needs t"):
        timed(x)


@pytest.mark.parametrize("net", [TokenTransformer(4, 5, 8, timed=True), SetTransformer(2, 8)])
def test_every_parameter_is_used(net):
    net = awake(net).requires_grad_(True)
    x = torch.tensor([[0, 1, 2, 3, 1]]) if isinstance(net, TokenTransformer) else torch.randn(1, 5, 2).double()
    net(x, torch.tensor([0.3])).square().sum().backward()
    assert [name for name, p in net.named_parameters() if float(p.grad.abs().max()) == 0] == []


@pytest.mark.parametrize("seed", range(3))
def test_sets_move_with_their_points(seed):
    random = torch.Generator().manual_seed(seed)
    net, x, t = awake(SetTransformer(3, 16)), torch.randn(2, 6, 3, generator=random).double(), torch.tensor([0.2, 0.7])
    order = torch.randperm(6, generator=random)
    torch.testing.assert_close(net(x[:, order], t), net(x, t)[:, order], rtol=1e-10, atol=1e-10)
    assert net(x[:, :4], t).shape == (2, 4, 3)
    changed = x.clone()
    changed[:, 0] += 1
    assert float((net(changed, t)[:, 1:] - net(x, t)[:, 1:]).abs().min()) > 1e-6


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n, x: n(x + 3), ValueError, r"x must be int64 tokens \(B, N\) below 4"),
        (lambda n, x: n(x - 1), ValueError, r"x must be int64 tokens \(B, N\) below 4"),
        (lambda n, x: n(x.float()), ValueError, r"below 4, got torch.float32 of shape \(1, 2\)"),
        (lambda n, x: n(x[0]), ValueError, "x must be int64 tokens"),
        (
            lambda n, x: n(x, None, torch.tensor([0, 5])),
            ValueError,
            r"places must be \(2,\) or \(1, 2\), below 5, got \(2,\) up to 5",
        ),
        (lambda n, x: n(x, None, torch.tensor([0])), ValueError, "places must be"),
        (
            lambda n, x: n(x, None, None, torch.ones(3, 3, dtype=torch.bool)),
            ValueError,
            r"allowed must be bool of shape \(2, 2\)",
        ),
        (lambda n, x: n(x, None, None, torch.ones(2, 2)), ValueError, "allowed must be bool .* got torch.float32"),
        (lambda n, x: n(x, None, None, torch.eye(2).bool() & False), ValueError, "every token must be allowed to see"),
        (lambda n, x: TokenTransformer(4, 5, width=6), ValueError, "width must be a multiple of heads, got 6 and 4"),
        (lambda n, x: TokenTransformer(0, 5), ValueError, "vocabulary must be at least 1, got 0"),
        (
            lambda n, x: SetTransformer(2)(torch.randn(2, 3), torch.tensor(0.5)),
            ValueError,
            r"x must have shape \(B, n, 2\)",
        ),
        (lambda n, x: SetTransformer(2)(torch.ones(2, 3, 2).long(), torch.tensor(0.5)), TypeError, "floating-point"),
        (lambda n, x: SetTransformer(2)(torch.ones(2, 3, 2), torch.tensor(0.5), x[0]), ValueError, "unconditional"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(TokenTransformer(4, 5), torch.tensor([[0, 1]]))
