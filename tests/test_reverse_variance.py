"""Reverse steps with any variance: identities with ancestral and DDIM, exactness on Gaussians, ends, bad input."""

import math
from itertools import pairwise

import pytest
import torch
from processes import FORMULAS, name
from test_orders import mixture

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.metrics import CountCalls
from minidiff.process import CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, ddim, last, path, reverse_gaussian, reverse_steps

F64 = torch.float64


def gen(seed=5):
    return torch.Generator().manual_seed(seed)


def grid(process, n=8):
    return process.time(torch.linspace(-2.0, 1.5, n + 1, dtype=F64))


@pytest.mark.parametrize("process", FORMULAS, ids=name)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_known_picture_gives_the_right_marginal(process, eta):
    T = grid(process)
    steps, alpha, sigma = reverse_steps(process, T, eta=eta), process.alpha(T), process.sigma(T)
    torch.testing.assert_close(steps.carry * alpha[:-1] + steps.reveal, alpha[1:])
    torch.testing.assert_close(steps.carry**2 * sigma[:-1] ** 2 + steps.least, sigma[1:] ** 2)
    ratio = alpha[:-1] / alpha[1:]
    torch.testing.assert_close(steps.forward, sigma[:-1] ** 2 - (ratio * sigma[1:]) ** 2)
    if eta == 1:
        torch.testing.assert_close(steps.most, steps.forward / ratio**2)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_it_is_ancestral_and_ddim(process):
    D, T = mixture(process), grid(process)
    x = process.prior((5, 2), gen(), dtype=F64)
    steps = reverse_steps(process, T)
    for variance, kind in ((steps.least, "posterior"), (steps.forward, "forward")):
        ours = path(reverse_gaussian(D, x, T, variance=variance, generator=gen()))
        torch.testing.assert_close(ours, path(ancestral(D, x, T, variance=kind, generator=gen())), rtol=0, atol=1e-11)
    for eta in (0.0, 0.6):
        variance = reverse_steps(process, T, eta=eta).least
        ours = path(reverse_gaussian(D, x, T, variance=variance, eta=eta, generator=gen()))
        torch.testing.assert_close(ours, path(ddim(D, x, T, eta=eta, generator=gen())), rtol=0, atol=1e-11)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_optimal_variance_is_exact_on_gaussians(process, eta, n, monkeypatch):
    """The sampler's own law: row 0 carries x, row i the noise of step i; its variance is that of the marginal."""
    std, T = 0.6, grid(process, n)
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=std)
    spread = (process.alpha(T) * std) ** 2 + process.sigma(T) ** 2
    steps = reverse_steps(process, T, eta=eta)
    optimal = steps.optimal((std * process.sigma(T[:-1])) ** 2 / spread[:-1])
    rows = torch.eye(n + 1, dtype=F64)
    number = iter(range(1, n + 1))
    monkeypatch.setattr("minidiff.samplers.reverse_variance.standard_normal", lambda *_: rows[:, [next(number)]])
    gain = last(reverse_gaussian(D, rows[:, [0]], T, variance=optimal, eta=eta)).flatten()
    variance = gain[0] ** 2 * spread[0] + gain[1:].square().sum()
    torch.testing.assert_close(variance, spread[-1], rtol=1e-9, atol=0)


def test_a_function_of_the_state():
    """A function that returns the numbers is the numbers; it is told the step, the state and the prediction."""
    D, T = mixture(LinearVP()), grid(LinearVP())
    x, steps, told = torch.randn(4, 2, generator=gen(), dtype=F64), reverse_steps(LinearVP(), T), []

    def variance(i, x_s, x0):
        told.append((i, x_s, x0))
        return steps.forward[i].expand(4, 1)

    ours = list(reverse_gaussian(D, x, T, variance=variance, generator=gen()))
    other = path(reverse_gaussian(D, x, T, variance=steps.forward, generator=gen()))
    assert torch.equal(torch.stack([state.x for state in ours]), other)
    assert [i for i, *_ in told] == list(range(8))
    assert all(torch.equal(x_s, state.x) for (_, x_s, _), state in zip(told, ours, strict=False))
    assert all(torch.equal(x0, state.x0) for (*_, x0), state in zip(told, ours[1:], strict=True))


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_from_pure_noise_to_the_data(process, n, eta):
    T = times.uniform(n)
    steps = reverse_steps(process, T, eta=eta)
    assert all(bool(torch.isfinite(v).all()) for v in (steps.carry, steps.reveal, steps.least, steps.forward))
    variance = steps.optimal(torch.full((n,), 0.2, dtype=F64))
    D = CountCalls(mixture(process))
    end = last(reverse_gaussian(D, process.prior((4, 2), gen()), T, variance=variance, eta=eta, generator=gen()))
    assert end.isfinite().all()
    assert end.dtype == torch.float32
    assert D.calls == n


def test_the_last_step_that_adds_noise_is_capped():
    process, T = LinearVP(), times.uniform(3)
    D, x = mixture(process), torch.zeros(2000, 2, dtype=F64)
    wide = torch.full((3,), 4.0, dtype=F64)
    states = list(reverse_gaussian(D, x, T, variance=wide, last_std=0.05, generator=gen()))
    steps = reverse_steps(process, T)
    for i, (before, after) in enumerate(pairwise(states)):
        noise = after.x - steps.carry[i] * before.x - steps.reveal[i] * after.x0
        std = (2.0, 0.05, 0.0)[i]
        assert abs(float(noise.std()) - std) <= 5 * std / math.sqrt(8000)


def test_a_row_of_a_batch_is_its_single_run():
    D, T = mixture(LinearVP()), grid(LinearVP())
    x, variance = torch.randn(3, 2, generator=gen(), dtype=F64), reverse_steps(LinearVP(), T).forward
    whole = last(reverse_gaussian(D, x, T, variance=variance, generator=[gen(i) for i in range(3)]))
    for i in range(3):
        single = last(reverse_gaussian(D, x[[i]], T, variance=variance, generator=[gen(i)]))
        torch.testing.assert_close(whole[[i]], single)


def test_interpolation():
    T = times.uniform(4)
    steps = reverse_steps(LinearVP(), T)
    torch.testing.assert_close(steps.interpolated(0.0), steps.least)
    torch.testing.assert_close(steps.interpolated(1.0)[:-1], steps.forward[:-1])
    nu = torch.tensor([0.2, 0.5, 0.9, 0.5], dtype=F64)
    logs = nu * steps.forward.log() + (1 - nu) * steps.least.log()
    torch.testing.assert_close(steps.interpolated(nu)[:-1], logs.exp()[:-1])
    assert float(steps.interpolated(nu)[-1]) == 0


def test_bad_input():
    process = LinearVP()
    D, x, T = mixture(process), torch.zeros(2, 2), times.uniform(3)
    steps = reverse_steps(process, T)
    for variance, error, message in (
        (steps.least[:2], ValueError, "variance must be 3 numbers"),
        (-steps.forward, ValueError, "variance must be 3 numbers"),
        (steps.least * math.nan, ValueError, "variance must be finite"),
        ("posterior", TypeError, "variance must be a tensor or a function"),
    ):
        with pytest.raises(error, match=message):
            reverse_gaussian(D, x, T, variance=variance)
    for value, message in (
        (torch.ones(3, 1), "variance must broadcast to x"),
        (torch.ones(1, 2, 2), "variance must broadcast to x"),
        (-torch.ones(2, 2), "variance must be finite and at least 0"),
        (torch.full((2, 2), math.nan), "variance must be finite and at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            last(reverse_gaussian(D, x, T, variance=lambda i, x, x0, v=value: v))
    with pytest.raises(ValueError, match="last_std must be at least 0"):
        reverse_gaussian(D, x, T, variance=steps.least, last_std=-1.0)
    with pytest.raises(ValueError, match="eta must be"):
        reverse_steps(process, T, eta=1.5)
    with pytest.raises(ValueError, match="error must be 3 numbers"):
        steps.optimal(torch.tensor([0.1, -0.1, 0.1]))
    with pytest.raises(ValueError, match="error must be 3 numbers"):
        steps.optimal(torch.ones(2))
    with pytest.raises(ValueError, match="nu must be a number or have shape"):
        steps.interpolated(torch.ones(2))
    with pytest.raises(ValueError, match="strictly decreasing"):
        reverse_steps(process, T.flip(0))
    D.coupled = True
    with pytest.raises(ValueError, match="adds independent noise"):
        reverse_gaussian(D, x, T, variance=steps.least)
