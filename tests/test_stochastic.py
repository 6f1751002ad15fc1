"""Euler–Maruyama on the family of reverse equations: its step, its order, its limits, its refusals."""

import math

import pytest
import torch
from mixtures import two as mixture
from processes import FORMULAS, PROCESSES, name
from torch import nn

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.denoiser import Denoiser
from minidiff.process import CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import euler, euler_maruyama, last, path

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_a_step_is_the_printed_formula(process, tau):
    D = mixture(process)
    s, t = torch.tensor([0.7, 0.68], dtype=F64)
    x = torch.randn(6, 2, generator=gen(), dtype=F64)
    z = torch.randn(6, 2, generator=gen(3), dtype=F64)
    g2, h = process.g2(s), s - t
    drift = process.f(s) * x - (1 + tau**2) / 2 * g2 * D.score(x, s)
    found = last(euler_maruyama(D, x, torch.stack([s, t]), tau=tau, generator=gen(3)))
    torch.testing.assert_close(found, x - h * drift + tau * (g2 * h).sqrt() * z)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_without_noise_it_is_euler(process):
    D, x = mixture(process), torch.randn(4, 2, generator=gen(), dtype=F64)
    T = times.uniform(8)
    torch.testing.assert_close(path(euler_maruyama(D, x, T, tau=0.0)), path(euler(D, x, T)))


def variance_after(process, std, tau, n):
    """The exact variance after n steps on N(0, std²): every step is affine, so two runs a step give its factor."""
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=std)
    T = times.uniform(n, start=0.9, end=0.1)
    variance = float(process.alpha(T[0])) ** 2 * std**2 + float(process.sigma(T[0])) ** 2
    one = torch.ones(1, 1, dtype=F64)
    z = float(torch.randn(1, 1, generator=gen(1), dtype=F64))
    for step in times.pairwise(T):
        at_one, at_zero = (
            float(last(euler_maruyama(D, x, torch.stack(step), tau=tau, generator=gen(1)))) for x in (one, 0 * one)
        )
        variance = (at_one - at_zero) ** 2 * variance + (at_zero / z) ** 2
    return variance, float(process.alpha(T[-1])) ** 2 * std**2 + float(process.sigma(T[-1])) ** 2


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=name)
def test_the_variance_on_a_gaussian_is_right_to_first_order(process, tau):
    """Every τ has the right marginals in the limit, and at finite N none has: the error halves with the step."""
    errors = [
        abs(math.log(found / exact)) for found, exact in (variance_after(process, 0.5, tau, n) for n in (50, 100))
    ]
    assert errors[1] > 1e-5
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("seed", range(2))
def test_many_particles_end_in_the_mixture(seed):
    D = mixture(LinearVP())
    T = D.process.time(torch.linspace(-4.5, 2.5, 121, dtype=F64))
    x = torch.randn(4000, 2, generator=gen(seed), dtype=F64)
    x = last(euler_maruyama(D, x, T, generator=gen(seed + 50)))
    side = (x[:, 0] > 0.2).double()
    near = D.sample(100_000, gen(9))[:, 0] > 0.2
    share = float(near.double().mean())
    assert abs(float(side.mean()) - share) < 4 * math.sqrt(share * (1 - share) / 4000) + 0.01
    assert float((x - D.mean).square().mean()) == pytest.approx(D.sigma_data**2, rel=0.06)


def test_states_and_randomness():
    D, T = mixture(LinearVP()), times.uniform(5)
    x = torch.randn(3, 2, generator=gen(), dtype=F64)
    states = list(euler_maruyama(D, x, T, generator=gen(1)))
    assert [float(s.t) for s in states] == T.tolist()
    assert states[0].x0 is None
    torch.testing.assert_close(states[2].x0, D(states[1].x, T[1]))
    assert torch.equal(states[-1].x, last(euler_maruyama(D, x, T, generator=gen(1))))
    own = last(euler_maruyama(D, x, T, generator=[gen(4), gen(5), gen(6)]))
    torch.testing.assert_close(own[1:2], last(euler_maruyama(D, x[1:2], T, generator=[gen(5)])))


def test_no_noise_in_a_step_to_sigma_zero():
    D, T = mixture(LinearVP()), torch.tensor([0.3, 0.0], dtype=F64)
    x = torch.randn(3, 2, generator=gen(), dtype=F64)
    assert torch.equal(*(last(euler_maruyama(D, x, T, generator=gen(seed))) for seed in (0, 1)))


class Zero(nn.Module):
    def forward(self, x, t, y):
        return torch.zeros_like(x)


def test_refusals():
    D, T = mixture(LinearVP()), times.uniform(4)
    x = torch.randn(3, 2, generator=gen(), dtype=F64)
    coupled = Denoiser(Zero(), RectifiedFlow(), "velocity", coupled=True)
    for call, error, message in (
        (lambda: euler_maruyama(D, x, T, tau=-0.1), ValueError, "tau must be a finite number in"),
        (lambda: euler_maruyama(coupled, x, T), ValueError, "under a coupling of x0 and eps"),
        (lambda: euler_maruyama(mixture(CosineVP()), x, T), ValueError, "infinite where α = 0: start below t = 1.0"),
        (lambda: euler_maruyama(D, x, T.flip(0)), ValueError, "times must be strictly decreasing"),
        (lambda: euler_maruyama(D, x / 0, T), ValueError, "x must be finite"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert torch.isfinite(last(euler_maruyama(coupled, x, T, tau=0.0))).all()
    assert torch.isfinite(last(euler_maruyama(mixture(CosineVP()), x, T, tau=0.0))).all()
