"""Checks of the exercises in *From particles to densities: SDEs and the probability flow*."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from minidiff import samplers, times
from minidiff.analytic import Gaussian
from minidiff.checks import Answer, checker, close, expect, increasing, number, pair, uniform
from minidiff.process import CosineVP, LinearVP, Process

SEEDS = range(3)
F64 = torch.float64


def _rate(function: object, t: Tensor) -> Tensor:
    """The derivative of an elementwise function, by automatic differentiation."""
    t = t.detach().requires_grad_()
    (slope,) = torch.autograd.grad(function(t).sum(), t)
    return slope


@checker("sde-01")
def new_schedule(answer: Answer) -> None:
    """forward_sde(t, a): f and g² of α = exp(−a t²), σ = t."""
    what = "f and g²"
    t = torch.linspace(0.05, 0.95, 19, dtype=F64)
    for a in (-0.4, 0.0, 0.7, 3.0):
        f, g2 = pair(answer(t, a), what)
        f, g2 = f.expand_as(t), g2.expand_as(t)

        def mean(t: Tensor, a: float = a) -> Tensor:
            return (-a * t**2).exp()

        close(f * mean(t), _rate(mean, t), "the mean m′ = f m of the SDE follows α")
        close(2 * f * t**2 + g2, _rate(lambda t: t**2, t), "the variance v′ = 2 f v + g² of the SDE follows σ²")
        expect((g2 > 0).all(), "g² is positive for a > −½")
    expect((pair(answer(t, -2.0), what)[1] < 0).any(), "for a far below −½ the noise would have to be negative")


@checker("sde-02")
def no_flux(answer: Answer) -> None:
    """stationary(x, U, g): the log density without flux for the drift −U′, up to a constant."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        a, b, c, g = (uniform(generator, 0.3, 2) for _ in range(4))

        def potential(x: Tensor, a: float = a, b: float = b, c: float = c) -> Tensor:
            return a * x**4 / 4 - b * x**2 / 2 + c * torch.sin(x)

        x = torch.linspace(-2.5, 2.5, 401, dtype=F64, requires_grad=True)
        found = answer(x, potential, g)
        expect(isinstance(found, Tensor) and found.shape == x.shape, "there is one value for each point")
        expect(found.requires_grad, "the answer is a differentiable function of x")
        (slope,) = torch.autograd.grad(found.sum(), x)
        drift = -_rate(potential, x)
        level = number(found.detach(), "the log density")
        close(drift - g**2 / 2 * slope, torch.zeros_like(x), "the flux b p − ½ g² p′ is zero everywhere", atol=1e-8)
        lowest = int(potential(x).argmin())
        expect(int(level.argmax()) == lowest, "the density is greatest where the potential is least")


def _variance_of_sampler(process: Process, c: float, grid: Tensor, tau: float) -> tuple[float, float]:
    """The variance after the package's own sampler, from two runs of each affine step, and the exact variance."""
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=c)
    alpha, sigma = process.alpha(grid), process.sigma(grid)
    exact = (alpha * c) ** 2 + sigma**2
    one = torch.ones(1, 1, dtype=F64)
    variance = float(exact[0])
    z = float(torch.randn(1, 1, generator=torch.Generator().manual_seed(1), dtype=F64))
    for s, t in times.pairwise(grid):
        ends = []
        for x in (one, 0 * one):
            generator = torch.Generator().manual_seed(1)
            step = samplers.euler_maruyama(D, x, torch.stack([s, t]), tau=tau, generator=generator)
            ends.append(float(samplers.last(step)))
        variance = (ends[0] - ends[1]) ** 2 * variance + (ends[1] / z) ** 2
    return variance, float(exact[-1])


@checker("sde-03")
def euler_maruyama_on_a_gaussian(answer: Answer) -> None:
    """final_variance(process, c, times, tau): the variance after Euler–Maruyama steps."""
    for process, c, tau in ((LinearVP(), 0.5, 1.0), (CosineVP(), 1.7, 0.0), (LinearVP(), 0.8, 0.6)):
        grid = times.uniform(12, start=0.9, end=0.1)
        found, _ = _variance_of_sampler(process, c, grid, tau)
        close(answer(process, c, grid, tau), found, "it is the variance that the package's sampler has, at any τ")
        grid = times.uniform(1, start=0.5, end=0.499999)
        _, exact = _variance_of_sampler(process, c, grid, tau)
        close(answer(process, c, grid, tau), exact, "one tiny step keeps the exact variance", rtol=1e-8)
    errors = []
    for n in (400, 800):
        grid = times.uniform(n, start=0.9, end=0.1)
        exact = (LinearVP().alpha(grid[-1]) * 0.5) ** 2 + LinearVP().sigma(grid[-1]) ** 2
        errors.append(float(number(answer(LinearVP(), 0.5, grid, 1.0), "the variance") - exact))
    expect(1.9 < errors[0] / errors[1] < 2.1, "halving every step halves the error")


@checker("sde-04")
def hidden_trace(answer: Answer) -> None:
    """trace(product, d, probes, generator): Hutchinson's estimate with signs, and its standard error."""
    what, d, probes = "the estimate and its standard error", 6, 8000
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        J = torch.randn(d, d, generator=generator, dtype=F64)

        def product(z: Tensor, J: Tensor = J) -> Tensor:
            return z.double() @ J.mT

        value, error = pair(answer(product, d, probes, generator), what)
        S = (J + J.mT) / 2
        least = float(2 * (S.square().sum() - S.diagonal().square().sum()) / probes) ** 0.5
        expect(abs(value - J.trace()) < 6 * least * 1.5, "the estimate is unbiased")
        expect(error / least > 0.85, "the standard error is not smaller than the scatter of the estimate")
        expect(error / least < 1.15, "the distribution of z has the least variance, and the error is that of the mean")
        diagonal = torch.randn(d, generator=generator, dtype=F64)
        value, error = pair(answer(lambda z, v=diagonal: z.double() * v, d, 10, generator), what)
        close(value, diagonal.sum(), "a diagonal J leaves no error")
        twice = [pair(answer(product, d, 5, torch.Generator().manual_seed(seed)), what)[0] for _ in range(2)]
        expect(twice[0] == twice[1], "the same generator gives the same estimate")


@checker("sde-05")
def linear_flow(answer: Answer) -> None:
    """log_density(A, T, x): the density of N(0, I) carried by dx/dt = A x for the time T."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        A = torch.randn(3, 3, generator=generator, dtype=F64)
        x, T = torch.randn(3, generator=generator, dtype=F64), uniform(generator, 0.2, 1)
        rest = MultivariateNormal(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
        close(answer(A, 0.0, x), rest.log_prob(x), "at T = 0 it is the density of the start")
        turn = A - A.mT
        close(answer(turn, T, x), rest.log_prob(x), "a rotation leaves N(0, I) as it is")
        grow = torch.eye(3, dtype=F64)
        wide = MultivariateNormal(torch.zeros(3, dtype=F64), math.exp(2 * T) * grow)
        close(answer(grow, T, x), wide.log_prob(x), "a flow that only expands makes a wider Gaussian")
        M = torch.linalg.matrix_exp(T * A)
        exact = MultivariateNormal(torch.zeros(3, dtype=F64), M @ M.mT).log_prob(x)
        close(answer(A, T, x), exact, "it is the Gaussian that the flow carries there", rtol=1e-7)


@checker("sde-06")
def reversed_ornstein_uhlenbeck(answer: Answer) -> None:
    """reverse_drift(x, t, m, c): the drift of Anderson's SDE for dx = −x dt + √2 dW."""
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        m, x = (float(v) for v in torch.randn(2, generator=generator, dtype=F64))
        t, c = uniform(generator, 0.2, 2), uniform(generator, 0.3, 2)

        def step_back(h: float, t: float = t, m: float = m, c: float = c, x: float = x) -> float:
            """(x − E[x_{t−h} | x_t = x])/h from the joint Gaussian."""
            before, after = (c**2 * math.exp(-2 * u) - math.expm1(-2 * u) for u in (t - h, t))
            gain = math.exp(-h) * before / after
            return (x - (m * math.exp(h - t) + gain * (x - m * math.exp(-t)))) / h

        limit = 2 * step_back(5e-5) - step_back(1e-4)
        found = number(answer(x, t, m, c), "the drift")
        close(found, limit, "a short step back has the mean that Bayes' rule asks for", rtol=1e-5, atol=1e-5)
        close(answer(x, t, 0.0, 1.0), x, "in the stationary case the film runs backwards like forwards")


def _moment_variance(k: float, B: float, tau: float, steps: int = 2000) -> float:
    """V_0 of dV/db = ((1 + τ²) k − 1) V − τ², V = 1 at b = B, by the classical Runge–Kutta method down to b = 0."""
    h, V = -B / steps, 1.0

    def slope(V: float) -> float:
        return ((1 + tau**2) * k - 1) * V - tau**2

    for _ in range(steps):
        k1 = slope(V)
        k2 = slope(V + h / 2 * k1)
        k3 = slope(V + h / 2 * k2)
        V += h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(V + h * k3))
    return V


def _code_length(V: float) -> float:
    return math.log(2 * math.pi * V) / 2 + 1 / (2 * V)


@checker("sde-07")
def bound_that_does_not_bound(answer: Answer) -> None:
    """likelihoods(k, B): NLL of the ODE, NLL of the SDE, and the bound, for the score −k x."""
    what = "three numbers"

    def three(k: float, B: float) -> Tensor:
        found = answer(k, B)
        expect(isinstance(found, tuple | list | Tensor) and len(found) == 3, "the answer returns three numbers")
        return torch.stack([number(value, what) for value in found])

    entropy = math.log(2 * math.pi * math.e) / 2
    for B in (1.5, 4.0, 10.0):
        close(three(1.0, B), torch.full((3,), entropy, dtype=F64), "with the right score all three are the entropy")
        for k in (0.6, 0.9, 1.1, 1.3):
            ode, sde, bound = three(k, B)
            expect(min(ode, sde, bound) >= entropy - 1e-9, "nothing is below the entropy of the data")
            expect(sde <= bound + 1e-9, "the bound holds for the reverse SDE")
            exact = _code_length(_moment_variance(k, B, 0.0))
            close(ode, exact, "the ODE's number agrees with the moment equation", rtol=1e-6)
            exact = _code_length(_moment_variance(k, B, 1.0))
            close(sde, exact, "the SDE's number agrees with the moment equation", rtol=1e-6)
            budget = torch.trapezoid(torch.full((101,), (1 - k) ** 2, dtype=F64), torch.linspace(0, B, 101).double())
            close(bound - entropy, budget / 2, "the bound is the entropy and half of the score error", rtol=1e-6)


@checker("sde-08")
def how_wrong(answer: Answer) -> None:
    """first_violation(B): the k below 1 from which on the bound lies below the ODE's NLL."""
    roots = []
    for B in (3.0, 6.0, 10.05, 20.0):
        k = float(number(answer(B), "the k"))
        expect(0 < k < 1, "k* lies between 0 and 1")

        def excess(k: float, B: float = B) -> float:
            bound = math.log(2 * math.pi * math.e) / 2 + B * (1 - k) ** 2 / 2
            return _code_length(_moment_variance(k, B, 0.0, 4000)) - bound

        expect(excess(k + 2e-5) > 0, "just above k* the ODE's NLL lies above the bound")
        expect(excess(k - 2e-5) < 0, "just below k* the bound holds for the ODE too")
        roots.append(k)
    increasing([-k for k in roots], "k* falls with B")
