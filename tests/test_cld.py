"""Critically damped Langevin diffusion: closed forms against matrix exponentials, simulation and integration."""

import math

import pytest
import torch
from odes import even, rk4
from test_orders import mixture

from minidiff.analytic import GaussianMixture
from minidiff.cld import CriticallyDamped, PhaseSpace, apply, gddim
from minidiff.metrics import CountCalls
from minidiff.process import EDM, VE, LinearVP, RectifiedFlow
from minidiff.samplers import last

F64 = torch.float64
A = torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=F64)
GG = torch.diag(torch.tensor([0.0, 4.0], dtype=F64))
CLD = CriticallyDamped()
SETTINGS = pytest.mark.parametrize("process", [CLD, CriticallyDamped(3.0, 0.7)], ids=str)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def time(t):
    return torch.tensor(t, dtype=F64)


@SETTINGS
def test_closed_forms_are_matrix_exponentials(process):
    start = torch.diag(time([1.0, 1 - process.gamma]))
    T = time([0.0, 1e-4, 0.03, 0.4, 1.0])
    for i, t in enumerate(T):
        E = torch.matrix_exp(A * process.rate * t)
        torch.testing.assert_close(process.transition(T)[i], E)
        torch.testing.assert_close(process.transition(t, time(0.7)), torch.matrix_exp(A * process.rate * (t - 0.7)))
        torch.testing.assert_close(process.mean(T)[i], E[:, 0])
        torch.testing.assert_close(process.covariance(T)[i], torch.eye(2, dtype=F64) - E @ start @ E.mT)
        L = process.cholesky(T)[i]
        torch.testing.assert_close(L @ L.mT, process.covariance(t))
        assert float(L[0, 1]) == 0


def test_small_times_keep_their_digits():
    """Σ_xx = γω² + (4/3 − 2γ)ω³ + O(ω⁴), a number of 1e-15 next to a one."""
    for gamma in (0.04, 1e-6):
        process = CriticallyDamped(1.0, gamma)
        first = float(process.covariance(time(1e-5))[0, 0])
        assert first == pytest.approx(gamma * 1e-10 + (4 / 3 - 2 * gamma) * 1e-15, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_simulation_of_the_forward_equation(seed):
    """Mean and covariance of 20 000 paths, Euler–Maruyama with 800 steps, within 5 standard errors and the bias.

    The standard error of a covariance is at most √(2/n) times the product of the spreads; the bias is of order 1/800.
    """
    n, steps, end, x0 = 20_000, 800, 0.3, 1.3
    generator = gen(seed)
    x, v = torch.full((n,), x0, dtype=F64), math.sqrt(CLD.gamma) * torch.randn(n, generator=generator, dtype=F64)
    h = CLD.rate * end / steps
    for _ in range(steps):
        kick = 2 * math.sqrt(h) * torch.randn(n, generator=generator, dtype=F64)
        x, v = x + h * v, v - h * (x + 2 * v) + kick
    z = torch.stack([x, v])
    exact = CLD.covariance(time(end))
    tolerance = 5 * math.sqrt(2 / n) + 4 / steps
    torch.testing.assert_close(z.mean(1), CLD.mean(time(end)) * x0, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.cov(z), exact, rtol=0, atol=tolerance)


@SETTINGS
def test_flow_against_its_equation(process):
    def slope(t, R):
        return process.rate * (A + GG @ torch.linalg.inv(process.covariance(time(t))) / 2) @ R

    for s, t in ((1.0, 0.3), (0.3, 0.1), (0.2, 0.7)):
        solved = rk4(slope, torch.eye(2, dtype=F64), even(s, t, 400))
        torch.testing.assert_close(process.flow(time(t), time(s)), solved, rtol=1e-5, atol=1e-6)
    whole = process.flow(time(0.0), time(0.5))
    torch.testing.assert_close(process.flow(time(0.0), time(0.2)) @ process.flow(time(0.2), time(0.5)), whole)
    carried = whole @ process.covariance(time(0.5)) @ whole.mT
    torch.testing.assert_close(carried, torch.diag(time([0.0, process.gamma])), rtol=1e-9, atol=1e-12)


@SETTINGS
def test_lam_falls_and_time_inverts_it(process):
    T = torch.linspace(0, 1, 200, dtype=F64)
    lam = process.lam(T)
    assert float(lam[0]) == math.inf
    assert bool((lam.diff() < 0).all())
    torch.testing.assert_close(process.time(lam), T, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="λ must be at least"):
        process.time(lam[-1] - 1)


def pair_density(t):
    """Points of 2-D data, and the law of (x, v) given each, for one coordinate after the other."""
    points = torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.3, -1.2]], dtype=F64)
    m, S = CLD.mean(t), CLD.covariance(t)
    spread = S + 0.3**2 * torch.outer(m, m)

    def log_q(z):  # z (2, 2): x and v of two coordinates
        law = [torch.distributions.MultivariateNormal(m * p, spread) for p in points.flatten()]
        logs = torch.stack([law[2 * k].log_prob(z[:, 0]) + law[2 * k + 1].log_prob(z[:, 1]) for k in range(3)])
        return torch.logsumexp(logs - math.log(3), 0)

    return points, log_q


@pytest.mark.parametrize("ordinary", [LinearVP(), VE(0.001, 100.0), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("t", [0.02, 0.2, 0.8])
def test_an_ordinary_denoiser_gives_the_score_of_the_pair(ordinary, t):
    points, log_q = pair_density(time(t))
    D = PhaseSpace(GaussianMixture(ordinary, torch.ones(3), points, stds=0.3), CLD)
    z = torch.randn(4, 2, 2, generator=gen(), dtype=F64)
    exact = torch.stack([torch.func.grad(log_q)(row) for row in z])
    torch.testing.assert_close(D.score(z, time(t)), exact, rtol=1e-7, atol=1e-7)
    slope = apply(A, z) - apply(GG, exact) / 2
    torch.testing.assert_close(D.velocity(z, time(t)), CLD.rate * slope, rtol=1e-7, atol=1e-6)
    assert torch.equal(D(z, time(0.0)), z[:, 0])


def test_noise_has_its_moments():
    x0, eps = torch.full((1, 1), 0.8, dtype=F64), torch.eye(2, dtype=F64)[..., None]
    t = time(0.3)
    z = CLD.noise(x0.expand(2, 1), t, eps)[..., 0] - CLD.mean(t) * 0.8
    torch.testing.assert_close(z.mT @ z, CLD.covariance(t))
    assert CLD.prior((3, 1, 8, 8), gen()).shape == (3, 2, 1, 8, 8)


def point(x0=0.7):
    return PhaseSpace(GaussianMixture(EDM(), torch.ones(1), torch.tensor([[x0]], dtype=F64), stds=1e-6), CLD)


@pytest.mark.parametrize("order", [1, 2])
def test_one_step_is_exact_for_a_point(order):
    D, z = point(), CLD.prior((6, 1), gen(), F64)
    stop = time(0.1)
    exact = rk4(lambda t, z: D.velocity(z, time(t)), z, even(1.0, 0.1, 300))
    for grid in (time([1.0, 0.1]), torch.linspace(1, 0.1, 4, dtype=F64)):
        torch.testing.assert_close(last(gddim(D, z, grid, order=order)), exact, rtol=1e-6, atol=1e-6)
    by_hand = CLD.mean(stop)[:, None] * 0.7 + apply(CLD.flow(stop, time(1.0)), z - CLD.mean(time(1.0))[:, None] * 0.7)
    torch.testing.assert_close(last(gddim(D, z, time([1.0, 0.1]))), by_hand, rtol=1e-5, atol=1e-5)
    wrong = last(gddim(D, z, torch.linspace(1, 0.1, 6, dtype=F64), gauge="cholesky"))
    assert float((wrong - exact).abs().max()) > 1


@pytest.mark.parametrize(("order", "gauge"), [(1, "flow"), (2, "flow"), (1, "cholesky"), (2, "cholesky")])
def test_order(order, gauge):
    """Slopes on a mixture from t = 0.6 to 0.1, where the flow is smooth, against Runge–Kutta."""
    D = PhaseSpace(mixture(VE(0.001, 100.0)), CLD)
    z = torch.randn(5, 2, 2, generator=gen(), dtype=F64)
    exact = rk4(lambda t, z: D.velocity(z, time(t)), z, even(0.6, 0.1, 150))
    errors = []
    for n in (40, 160):
        end = last(gddim(D, z, torch.linspace(0.6, 0.1, n + 1, dtype=F64), order=order, gauge=gauge))
        errors.append(float((end - exact).square().mean().sqrt()))
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_to_the_data_in_single_precision(n):
    D = CountCalls(mixture(RectifiedFlow()))
    states = list(gddim(PhaseSpace(D, CLD), CLD.prior((4, 2), gen()), torch.linspace(1, 0, n + 1, dtype=F64), order=2))
    assert D.calls == n
    assert states[-1].x.dtype == torch.float32
    assert states[-1].x.isfinite().all()
    if n == 1:
        torch.testing.assert_close(states[-1].x[:, 0], states[-1].x0)


def test_bad_input():
    D, z, T = PhaseSpace(mixture(LinearVP()), CLD), torch.zeros(3, 2, 2), time([1.0, 0.5])
    for options, message in (({"order": 3}, "order must be 1 or 2"), ({"gauge": "other"}, "gauge must be")):
        with pytest.raises(ValueError, match=message):
            gddim(D, z, T, **options)
    for wrong in (torch.zeros(3, 3, 2), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match=r"z must have shape \(B, 2, \*D\)"):
            gddim(D, wrong, T)
    with pytest.raises(ValueError, match=r"z must have shape \(B, 2, \*D\)"):
        D(torch.zeros(3, 3), time(0.5))
    with pytest.raises(TypeError, match="D must be a PhaseSpace denoiser"):
        gddim(mixture(LinearVP()), z, T)
    with pytest.raises(ValueError, match="strictly decreasing"):
        gddim(D, z, T.flip(0))
    with pytest.raises(ValueError, match="eps must hold an x and a v"):
        CLD.noise(torch.zeros(3, 2), time(0.5), torch.zeros(3, 2))
    for options in ({"rate": 0.0}, {"gamma": 0.0}):
        with pytest.raises(ValueError, match="must be a finite number"):
            CriticallyDamped(**options)
    coupled = mixture(LinearVP())
    coupled.coupled = True
    with pytest.raises(ValueError, match="trained under a coupling"):
        PhaseSpace(coupled, CLD)
