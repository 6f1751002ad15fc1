"""Steering: its weights, its unbiased normaliser, the tilted Gaussian, resampling, and its refusals."""

import math

import pytest
import torch
from torch import nn

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.denoiser import Denoiser
from minidiff.process import LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, effective_sample_size, last, steered
from minidiff.samplers.steering import systematic

F64 = torch.float64
STD = 0.6


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(process, n=30):
    """A Gaussian, and the exact variance of the chain's end, which is affine in its noises."""
    D, T = Gaussian(process, torch.tensor([0.5], dtype=F64), std=STD), times.uniform(n)
    x = process.prior((40_000, 1), gen(9), dtype=F64)
    ends = last(ancestral(D, x, T, generator=gen(10)))
    return D, T, float(ends.mean()), float(ends.var())


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_linear_reward_shifts_the_gaussian(threshold, seed):
    """N(m, v) times e^{βx} is N(m + βv, v), and E e^{βx} = e^{βm + β²v/2}; 60 systems of 400, 5 standard errors."""
    D, T, mean, variance = problem(LinearVP())
    beta = 1.5
    x = D.process.prior((60, 400, 1), gen(seed), dtype=F64)
    made = steered(D, x, T, lambda x: x[:, 0], strength=beta, threshold=threshold, generator=gen(seed + 50))
    means = (made.log_weights.softmax(1)[..., None] * made.x).sum(1)[:, 0]
    assert abs(float(means.mean()) - (mean + beta * variance)) < 5 * float(means.std()) / math.sqrt(60) + 0.02
    z = made.log_normaliser.exp()
    exact = math.exp(beta * mean + beta**2 * variance / 2)
    assert abs(float(z.mean()) - exact) < 5 * float(z.std()) / math.sqrt(60) + 0.03
    assert (float(made.resampled.double().mean()) > 0) == (threshold > 0)
    if threshold == 1.0:
        assert int(made.resampled.min()) >= 25


def test_few_particles_are_still_unbiased_in_the_normaliser():
    D, T, mean, variance = problem(LinearVP(), 20)
    x = D.process.prior((20_000, 3, 1), gen(1), dtype=F64)
    z = steered(D, x, T, lambda x: x[:, 0], strength=1.0, threshold=0.9, generator=gen(2)).log_normaliser.exp()
    exact = math.exp(mean + variance / 2)
    assert abs(float(z.mean()) - exact) < 5 * float(z.std()) / math.sqrt(len(z)) + 0.02


def test_without_a_reward_it_is_ancestral():
    D, T = Gaussian(LinearVP(), torch.zeros(2, dtype=F64), std=STD), times.uniform(8)
    x = torch.randn(2, 3, 2, generator=gen(), dtype=F64)
    made = steered(D, x, T, lambda x: x.new_ones(len(x)), strength=0.0, generator=[gen(1), gen(2)])
    assert made.log_weights.abs().max() == 0
    assert made.log_normaliser.abs().max() == 0
    one = steered(D, x[1:], T, lambda x: x.new_ones(len(x)), strength=0.0, generator=[gen(2)])
    torch.testing.assert_close(made.x[1:], one.x)


def test_systematic_resampling_keeps_each_particle_in_proportion():
    w = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=F64).log().expand(2000, 4)
    u = torch.rand(2000, generator=gen(), dtype=F64)
    counts = torch.stack([(systematic(w, u) == k).sum(1) for k in range(4)], 1).double()
    torch.testing.assert_close(counts.mean(0), torch.tensor([2.0, 1.2, 0.8, 0.0], dtype=F64), rtol=0, atol=0.05)
    expected = torch.tensor([2.0, 1.2, 0.8, 0.0], dtype=F64)
    assert float((counts - expected).abs().max()) < 1


def test_effective_sample_size():
    w = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [2.0, 1.0, 1.0]], dtype=F64)
    torch.testing.assert_close(effective_sample_size(w.log()), torch.tensor([3.0, 1.0, 16 / 6], dtype=F64))


def test_refusals():
    D, T = Gaussian(LinearVP(), torch.zeros(2, dtype=F64), std=STD), times.uniform(3)
    x = torch.randn(2, 3, 2, generator=gen(), dtype=F64)
    coupled = Denoiser(nn.Identity(), RectifiedFlow(), "velocity", coupled=True)
    for call, error, message in (
        (lambda: steered(D, x[0], T, lambda x: x[:, 0]), ValueError, r"x must be \(S, K, \*D\)"),
        (lambda: steered(coupled, x, T, lambda x: x[:, 0]), ValueError, "independent noise"),
        (lambda: steered(D, x, T, lambda x: x[:, 0], threshold=1.5), ValueError, "threshold must be"),
        (lambda: steered(D, x, T, lambda x: x), ValueError, "one value a row"),
        (lambda: steered(D, x, T, lambda x: x[:, 0] / 0), ValueError, "the reward must be finite"),
    ):
        with pytest.raises(error, match=message):
            call()
