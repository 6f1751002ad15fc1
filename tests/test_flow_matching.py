"""Flow matching: the loss on the velocity is the denoising loss with another weight, and its least value is known."""

import math

import pytest
import torch
from processes import PROCESSES, name

from minidiff import objectives
from minidiff.analytic import Gaussian
from minidiff.denoiser import Denoiser
from minidiff.nets.mlp import MLP
from minidiff.objectives import conditional_velocity, denoising_loss, flow_matching
from minidiff.process import LinearVP, RectifiedFlow, TrigFlow


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TIMES = torch.tensor([0.1, 0.35, 0.6, 0.95], dtype=torch.float64)


class Fixed:
    """A denoiser that is wrong in a fixed way."""

    coupled, sigma_data = False, 1.0

    def __init__(self, process):
        self.process = process

    def __call__(self, x, t, y=None):
        return torch.tanh(x) + (0.0 if y is None else y[:, None].to(x))


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_conditional_velocity_is_the_slope_of_the_path(process):
    x0, eps = normal(4, 3), normal(4, 3, seed=1)
    h = 1e-6
    slope = (process.noise(x0, TIMES + h, eps) - process.noise(x0, TIMES - h, eps)) / (2 * h)
    got = conditional_velocity(process, x0, TIMES, eps)
    torch.testing.assert_close(got, slope, rtol=1e-5, atol=1e-6)
    one = conditional_velocity(process, x0, TIMES[1], eps)
    torch.testing.assert_close(one[1], got[1])


def test_conditional_velocity_of_rectified_flow_is_the_difference():
    x0, eps = normal(4, 1, 2, 2).float(), normal(4, 1, 2, 2, seed=1).float()
    got = conditional_velocity(RectifiedFlow(), x0, TIMES, eps)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, eps - x0)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_it_is_the_denoising_loss_with_the_weight_of_the_velocity(process):
    D, x0, eps = Fixed(process), normal(4, 3), normal(4, 3, seed=1)
    expected = denoising_loss(D, x0, TIMES, eps, weight=objectives.velocity)
    torch.testing.assert_close(flow_matching(D, x0, TIMES, eps), expected, rtol=1e-7, atol=1e-10)
    y = torch.arange(4)
    expected = denoising_loss(D, x0, TIMES, eps, y, weight=objectives.velocity)
    torch.testing.assert_close(flow_matching(D, x0, TIMES, eps, y), expected, rtol=1e-7, atol=1e-10)


def test_a_network_on_the_velocity_is_trained_on_its_own_error():
    """The conversions to x̂_0 and back cancel: the loss is |ε − x_0 − net|², and gradients reach the network."""
    net = MLP(2, width=8, depth=1).double()
    torch.nn.init.normal_(net.leave.weight, generator=torch.Generator().manual_seed(0))
    D = Denoiser(net, RectifiedFlow(), "velocity", coupled=True)
    x0, eps = normal(4, 2), normal(4, 2, seed=1)
    x = (1 - TIMES[:, None]) * x0 + TIMES[:, None] * eps
    loss = flow_matching(D, x0, TIMES, eps)
    torch.testing.assert_close(loss, (eps - x0 - net(x, TIMES)).square().mean(1))
    loss.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("process", "least"),
    [
        (RectifiedFlow(), lambda s, t: s**2 / ((1 - t) ** 2 * s**2 + t**2)),
        (TrigFlow(), lambda s, t: math.pi**2 / 4 * s**2 / (math.cos(math.pi * t / 2) ** 2 * (s**2 - 1) + 1)),
    ],
    ids=["rectified", "trig"],
)
def test_the_exact_denoiser_of_a_gaussian_reaches_the_least_value(process, least):
    """20 000 × 4 squares of Gaussians: relative standard error √(2/80 000); five of them."""
    s, n = 0.7, 20_000
    D = Gaussian(process, torch.zeros(4, dtype=torch.float64), std=s)
    for seed, t in enumerate(TIMES):
        loss = flow_matching(D, s * normal(n, 4, seed=seed), t, normal(n, 4, seed=100 + seed))
        assert abs(float(loss.mean()) / least(s, float(t)) - 1) < 5 * math.sqrt(2 / (4 * n))


def test_bad_arguments_are_named():
    x0 = torch.zeros(2, 3)
    D, half = Fixed(RectifiedFlow()), torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3\) and \(2, 4\)"):
        flow_matching(D, x0, half, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        flow_matching(D, x0, torch.tensor(1.5), x0)
    with pytest.raises(TypeError, match="x0 must be a floating-point"):
        conditional_velocity(RectifiedFlow(), x0.long(), half, x0.long())
    with pytest.raises(ValueError, match=r"t must have shape \(\) or \(B,\)"):
        conditional_velocity(RectifiedFlow(), x0, torch.zeros(3), x0)
    with pytest.raises(ValueError, match="σ′ must be finite, got an infinite one at t = "):
        conditional_velocity(LinearVP(), x0, torch.tensor(0.0), x0)
    with pytest.raises(ValueError, match="x0 does not determine velocity where σ = 0"):
        flow_matching(D, x0, torch.tensor(0.0), x0)
    wrong = Fixed(RectifiedFlow())
    wrong.__class__ = type("Wrong", (Fixed,), {"__call__": lambda self, x, t: x[:, :1]})
    with pytest.raises(ValueError, match=r"D\(x, t\) must have the same shape"):
        flow_matching(wrong, x0, half, x0)
