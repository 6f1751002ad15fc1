"""SA-Solver: what it is at its ends, and its weak order on a Gaussian by exact propagation of the variance."""

import math

import pytest
import torch
from processes import FORMULAS, name
from test_orders import mixture

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.process import CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, ddim, exponential, last, multistep, path, sa_solver

F64 = torch.float64


def gen(seed=5):
    return torch.Generator().manual_seed(seed)


def uniform_grid(process, n, lam=(-2.0, 1.5)):
    return process.time(torch.linspace(*lam, n + 1, dtype=F64))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_without_noise_it_is_the_exponential_integrator(process, order, corrector):
    D, T = mixture(process), uniform_grid(process, 9)
    x = process.prior((5, 2), gen(), dtype=F64)
    other = exponential(D, x, T, order=order, corrector=corrector, collocate=False)
    torch.testing.assert_close(
        path(sa_solver(D, x, T, tau=0.0, order=order, corrector=corrector)), path(other), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_one_value_is_ddim_with_its_own_eta(process, tau):
    """η² = (1 − e^{−2τ²h})/(1 − e^{−2h}), the same in every step of one length h; at τ = 1 it is ancestral."""
    D, T = mixture(process), uniform_grid(process, 9)
    h = 3.5 / 9
    eta = math.sqrt(math.expm1(-2 * tau**2 * h) / math.expm1(-2 * h))
    x = process.prior((5, 2), gen(), dtype=F64)
    ours = path(sa_solver(D, x, T, tau=tau, order=1, corrector=False, generator=gen()))
    torch.testing.assert_close(ours, path(ddim(D, x, T, eta=eta, generator=gen())), rtol=0, atol=1e-11)
    if tau == 1:
        torch.testing.assert_close(ours, path(ancestral(D, x, T, generator=gen())), rtol=0, atol=1e-11)


def end_variance(monkeypatch, tau, order, corrector, n, std=0.6):
    """The exact variance of the sampler's end on N(0, std²), from the exact law at its start.

    Each step is affine in x and z. Row 0 starts at 1 without noise; row i ≥ 1 starts at 0 and has z = 1 in step i only.
    """
    process = LinearVP()
    D, T = Gaussian(process, torch.zeros(1, dtype=F64), std=std), uniform_grid(process, n)
    step = iter(range(1, n + 1))
    monkeypatch.setattr(multistep, "standard_normal", lambda *_: torch.eye(n + 1, dtype=F64)[:, [next(step)]])
    x = torch.eye(n + 1, dtype=F64)[:, [0]]
    gain = last(sa_solver(D, x, T, tau=tau, order=order, corrector=corrector)).flatten()
    spread = (process.alpha(T) * std) ** 2 + process.sigma(T) ** 2
    return float(gain[0] ** 2 * spread[0] + gain[1:].square().sum()), float(spread[-1])


@pytest.mark.parametrize(
    ("order", "corrector", "nominal"), [(1, False, 1), (1, True, 2), (2, False, 2), (2, True, 2), (3, True, 2)]
)
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_weak_order(monkeypatch, tau, order, corrector, nominal):
    """The order of the error of the variance. The values of D were taken on a noisy path, which caps it at 2."""
    errors = []
    for n in (40, 80, 160, 320):
        variance, exact = end_variance(monkeypatch, tau, order, corrector, n)
        errors.append(abs(variance - exact))
    slope = math.log2(errors[0] / errors[-1]) / 3
    assert nominal - 0.15 <= slope


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_from_pure_noise_to_the_data(process, n):
    x = process.prior((4, 2), gen())
    end = last(sa_solver(mixture(process), x, times.uniform(n), order=3, generator=gen()))
    assert end.isfinite().all()
    assert end.dtype == torch.float32


def test_bad_options():
    D, x, T = mixture(LinearVP()), torch.zeros(1, 2), times.uniform(3)
    for options, message in (
        ({"tau": -0.1}, "tau must be"),
        ({"order": 5}, "order must be at most 4, got 5"),
        ({"order": 0}, "order must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            sa_solver(D, x, T, **options)
    D.coupled = True
    with pytest.raises(ValueError, match="sa_solver with tau > 0 adds independent noise"):
        sa_solver(D, x, T)
    assert last(sa_solver(D, x, T, tau=0.0)).isfinite().all()
