"""The probability-flow ODE in both directions: the closed flow of a Gaussian, orders, and refusals."""

import math

import pytest
import torch
from processes import FORMULAS, name

from minidiff import ode, times
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.process import CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import heun, last, path

F64 = torch.float64
MEAN = torch.tensor([0.3, -1.0], dtype=F64)
COVARIANCE = torch.tensor([[1.2, 0.5], [0.5, 0.7]], dtype=F64)


def noisy(n=5, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def grid(process, n, first=0.01, final=1.0):
    """Equal steps in the angle arctan(σ/α), from small noise to much: the flow is smooth in it."""
    ends = -process.lam(torch.tensor([first, final], dtype=F64))
    angle = torch.linspace(*torch.atan(ends.exp()).tolist(), n + 1, dtype=F64)
    T = process.time(-torch.tan(angle).log())
    T[0], T[-1] = first, final
    return T


@pytest.mark.parametrize(
    "process", [p for p in FORMULAS if p.lam_range[0] > -6 or p.lam_range[0] == -math.inf], ids=name
)
def test_rk4_is_the_closed_flow_of_a_gaussian_in_both_directions(process):
    D, T = Gaussian(process, MEAN, COVARIANCE), grid(process, 100)
    x = float(process.alpha(T[0])) * noisy()
    there = last(ode.probability_flow(D, x, T))
    scale = float(there.abs().max())
    torch.testing.assert_close(there, D.flow(x, T[0], T[-1]), rtol=5e-3, atol=5e-3 * scale)
    back = last(ode.probability_flow(D, there, T.flip(0)))
    torch.testing.assert_close(back, x, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("rk4", 4)])
@pytest.mark.parametrize("rising", [True, False])
def test_orders(method, order, rising):
    D = Gaussian(CosineVP(), MEAN, COVARIANCE)
    errors = []
    for n in (15, 30, 60):
        T = grid(D.process, n, 0.1)
        T = T if rising else T.flip(0)
        x = noisy()
        errors.append(float((last(ode.probability_flow(D, x, T, method=method)) - D.flow(x, T[0], T[-1])).abs().max()))
    slope = math.log2(errors[0] / errors[2]) / 2
    assert abs(slope - order) < 0.25, errors


@pytest.mark.parametrize("method", ["heun", "rk4"])
def test_a_quadrature_of_its_degree_is_exact(method):
    """dy/dt = 3 t² − 2 t for rk4 (Simpson's rule), 1 − 2 t for heun (the trapezoid), beside dz/dt = 1."""
    T = torch.tensor([0.1, 0.2, 0.55, 1.0], dtype=F64)
    y0 = torch.zeros(1, dtype=F64)

    def slope(t, y):
        return ((3 * t**2 - 2 * t if method == "rk4" else 1 - 2 * t)[None], torch.ones(1, dtype=F64))

    *_, (y, z) = ode.runge_kutta(slope, (y0, y0), T, method)
    exact = (1 - 1) - (0.1**3 - 0.1**2) if method == "rk4" else (1 - 1) - (0.1 - 0.1**2)
    assert float(y) == pytest.approx(exact, abs=1e-14)
    assert float(z) == pytest.approx(0.9, abs=1e-14)


def test_heun_is_the_sampler_of_that_name():
    D = GaussianMixture(
        RectifiedFlow(), torch.ones(2, dtype=F64), torch.tensor([[1.0, 0.0], [-1, 1]], dtype=F64), stds=0.3
    )
    T = times.uniform(7, end=0.1)
    torch.testing.assert_close(path(ode.probability_flow(D, noisy(), T, method="heun")), path(heun(D, noisy(), T)))


def test_every_node_is_inside_the_grid_and_ends_on_its_times():
    seen = []

    def slope(t, y):
        seen.append(float(t))
        return (torch.zeros_like(y[0]),)

    T = torch.tensor([0.1 + 0.2, 0.7, 1.0], dtype=F64)
    assert len(list(ode.runge_kutta(slope, (noisy(),), T))) == 3
    assert seen == [0.1 + 0.2, seen[1], seen[1], 0.7, 0.7, seen[5], seen[5], 1.0]
    assert all(0.3 <= t <= 1 for t in seen)


def test_states_and_calls():
    process = LinearVP()
    D, x, T = Gaussian(process, MEAN, COVARIANCE), noisy(), grid(process, 6)
    states = list(ode.probability_flow(D, x, T))
    assert [float(state.t) for state in states] == T.tolist()
    assert states[0].x is x
    assert all(state.x0 is None for state in states)


def test_refusals():
    D, x, T = Gaussian(RectifiedFlow(), MEAN, COVARIANCE), noisy(), torch.tensor([0.1, 0.5, 1.0], dtype=F64)
    for call, error, message in (
        (lambda: ode.probability_flow(D, x, torch.tensor([0.0, 1.0], dtype=F64)), ValueError, "needs σ > 0"),
        (lambda: ode.probability_flow(D, x, T[[0, 2, 1]]), ValueError, "must strictly increase or strictly decrease"),
        (lambda: ode.probability_flow(D, x, T.float()), TypeError, "times must be a float64 tensor"),
        (lambda: ode.probability_flow(D, x, T[:1]), ValueError, r"times must have shape \(n \+ 1,\)"),
        (lambda: ode.probability_flow(D, x, T + 0.5), ValueError, r"must lie in \[0, 1\]"),
        (lambda: ode.probability_flow(D, x, T / 0), ValueError, "times must be finite"),
        (lambda: ode.probability_flow(D, x, T.flip(0) / 0), ValueError, "times must be finite"),
        (lambda: ode.probability_flow(D, x[0], T), ValueError, "must have a batch axis"),
        (lambda: ode.probability_flow(D, x / 0, T), ValueError, "x must be finite"),
        (lambda: ode.probability_flow(lambda x, t: x, x, T), TypeError, "lacks process"),
        (lambda: ode.probability_flow(D, x, T, method="euler"), ValueError, "method must be among .*got 'euler'"),
        (lambda: ode.runge_kutta(lambda t, y: y, (x,), [0.1, 1.0]), TypeError, "float64 tensor, got list"),
    ):
        with pytest.raises(error, match=message):
            call()
