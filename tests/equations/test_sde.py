"""Every equation of *From particles to densities*: both sides as printed, evaluated independently.

Densities are mixtures of Gaussians written out here; their derivatives in time and space come from automatic
differentiation, integrals from fine grids, Gaussian expectations from Gauss–Hermite quadrature.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from sides import F64, LINE, SEEDS, equal, gen, hermite, integral, numbers, rate
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.func import grad, hessian, jacfwd, jvp

from minidiff import fokker_planck, ode, samplers
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.process import EDM, VE, CosineVP, LinearVP, SubVP, TrigFlow

NODES, WEIGHTS = hermite(40)
TIME = torch.tensor(0.4, dtype=F64)


def divergence(vector_field, x):
    return torch.trace(jacfwd(vector_field)(x))


def laplacian(function, x):
    return torch.trace(hessian(function)(x))


class Cloud:
    """A mixture of three Gaussians of one width, noised by α = e^{−at}, σ = b + ct; all of it differentiable."""

    def __init__(self, seed, d=2):
        self.a, self.b, self.c, self.width = numbers(seed, 4)
        self.d = d
        self.means = torch.randn(3, d, generator=gen(seed + 10), dtype=F64)
        self.shares = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
        self.x = torch.randn(d, generator=gen(seed + 20), dtype=F64)  # a place to look at

    def alpha(self, t):
        return torch.exp(-self.a * t)

    def sigma(self, t):
        return self.b + self.c * t

    def lam(self, t):
        return torch.log(self.alpha(t) / self.sigma(t))

    def f(self, t):
        return rate(self.alpha, t) / self.alpha(t)

    def g2(self, t):
        """From the variances of small pushes: what σ² gains beyond the shrinking of what is there."""
        return rate(lambda h: self.sigma(h) ** 2, t) - 2 * self.f(t) * self.sigma(t) ** 2

    def variance(self, t):
        return (self.alpha(t) * self.width) ** 2 + self.sigma(t) ** 2

    def joint(self, x, t):
        """π_k N(x; α m_k, v), (3,)."""
        v = self.variance(t)
        squares = (x - self.alpha(t) * self.means).square().sum(-1)
        return self.shares * torch.exp(-squares / (2 * v)) / (2 * math.pi * v) ** (self.d / 2)

    def p(self, x, t):
        return self.joint(x, t).sum()

    def score(self, x, t):
        return grad(lambda x: torch.log(self.p(x, t)))(x)

    def velocity(self, x, t):
        """The mean over components of the velocity with which each Gaussian moves and widens."""
        weights = self.joint(x, t) / self.p(x, t)
        grow = rate(self.variance, t) / (2 * self.variance(t))
        moving = rate(self.alpha, t) * self.means + grow * (x - self.alpha(t) * self.means)
        return weights @ moving

    def x0(self, x, t):
        """E[x_0 | x_t = x] by Bayes' rule."""
        weights = self.joint(x, t) / self.p(x, t)
        gain = self.alpha(t) * self.width**2 / self.variance(t)
        return weights @ (self.means + gain * (x - self.alpha(t) * self.means))

    def in_time(self, x, t):
        """∂p/∂t."""
        return rate(lambda t: self.p(x, t), t)

    def density(self, t):
        """p_t on LINE, for d = 1."""
        v = self.variance(t)
        z = LINE[:, None] - self.alpha(t) * self.means[:, 0]
        return (self.shares * torch.exp(-(z**2) / (2 * v)) / torch.sqrt(2 * math.pi * v)).sum(-1)

    def on_line(self, function, t):
        return torch.func.vmap(lambda x: function(x[None], t)[0])(LINE)


# Particles in a velocity field


@SEEDS
@pytest.mark.equation("eq-sde-box")
def test_box(seed):
    cloud = Cloud(seed, 1)
    first, last = 2100, 2600
    inside = slice(first, last + 1)
    left = rate(lambda t: integral(cloud.density(t)[inside], LINE[inside]), TIME)
    flux = cloud.density(TIME) * cloud.on_line(cloud.velocity, TIME)
    equal(left, flux[first] - flux[last], 1e-5, 1e-6)


@SEEDS
@pytest.mark.equation("eq-sde-continuity")
def test_continuity(seed):
    cloud = Cloud(seed)
    right = -divergence(lambda x: cloud.p(x, TIME) * cloud.velocity(x, TIME), cloud.x)
    equal(cloud.in_time(cloud.x, TIME), right)


def bump(x):
    return torch.exp(-((x - 0.3) ** 2)) * torch.sin(2 * x)


def bump_rate(x):
    return torch.func.vmap(grad(bump))(x)


@SEEDS
@pytest.mark.equation("eq-sde-weak")
@pytest.mark.equation("eq-sde-parts")
def test_weak_form(seed):
    cloud = Cloud(seed, 1)
    p, u = cloud.density(TIME), cloud.on_line(cloud.velocity, TIME)
    moved = integral(bump_rate(LINE) * u * p)
    equal(rate(lambda t: integral(bump(LINE) * cloud.density(t)), TIME), moved)

    def flux(x):
        return cloud.p(x, TIME) * cloud.velocity(x, TIME)

    spread = torch.func.vmap(lambda x: divergence(flux, x[None]))(LINE)
    equal(moved, -integral(bump(LINE) * spread), atol=1e-9)


# Noise


@SEEDS
@pytest.mark.equation("eq-sde-ito-sum")
def test_square_of_a_brownian_path(seed):
    steps = torch.randn(50, generator=gen(seed), dtype=F64) * 0.1
    W = torch.cat([torch.zeros(1, dtype=F64), steps.cumsum(0)])
    equal(W[-1] ** 2, 2 * (W[:-1] * steps).sum() + (steps**2).sum())


@pytest.mark.equation("eq-sde-quadratic")
@pytest.mark.parametrize("N", [1, 2, 3])
def test_quadratic_variation(N):
    T = 0.7
    weight = torch.ones((), dtype=F64)
    for axis in range(N):
        weight = weight * WEIGHTS.reshape([-1 if i == axis else 1 for i in range(N)])
    total = sum((T / N) * NODES.reshape([-1 if i == axis else 1 for i in range(N)]).square() for axis in range(N))
    mean = (weight * total).sum()
    equal(mean, T)
    equal((weight * (total - mean) ** 2).sum(), 2 * T**2 / N)


@SEEDS
@pytest.mark.equation("eq-sde-taylor")
def test_one_step_of_an_average(seed):
    """The error of the printed expansion falls like h²."""
    b, g, x = numbers(seed, 3)

    def phi(x):
        return torch.sin(x) + x**3 / 5

    place = torch.tensor(x, dtype=F64)
    slope, curvature = grad(phi)(place), grad(grad(phi))(place)
    errors = []
    for h in (0.02, 0.01):
        left = (WEIGHTS * phi(x + h * b + g * math.sqrt(h) * NODES)).sum()
        errors.append(abs(float(left - (phi(place) + h * (b * slope + g**2 / 2 * curvature)))))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


@pytest.mark.equation("eq-sde-ito")
def test_ito_on_paths():
    """What is left of φ(x_T) − φ(x_0) minus the sum of the right side is of the size √h."""

    def left_over(n, g=0.8):
        random, h = gen(0), 1 / n
        x, rest = torch.zeros(2000, dtype=F64), torch.zeros(2000, dtype=F64)
        for _ in range(n):
            dW = math.sqrt(h) * torch.randn(2000, generator=random, dtype=F64)
            b = 1 - x
            step = x + h * b + g * dW
            printed = (b * torch.cos(x) - g**2 / 2 * torch.sin(x)) * h + g * torch.cos(x) * dW  # φ = sin
            rest += torch.sin(step) - torch.sin(x) - printed
            x = step
        return float(rest.square().mean().sqrt())

    coarse, fine = left_over(50), left_over(800)
    assert coarse / fine == pytest.approx(4, rel=0.2)
    assert fine < 0.02


@SEEDS
@pytest.mark.equation("eq-sde-generator")
def test_generator(seed):
    cloud = Cloud(seed, 1)
    p = cloud.density(TIME)
    curvature = torch.func.vmap(grad(grad(bump)))(LINE)
    right = integral((cloud.f(TIME) * LINE * bump_rate(LINE) + cloud.g2(TIME) / 2 * curvature) * p)
    equal(rate(lambda t: integral(bump(LINE) * cloud.density(t)), TIME), right)


@SEEDS
@pytest.mark.equation("eq-sde-fokker-planck")
def test_fokker_planck(seed):
    """For the linear drift of the forward process, and for a nonlinear one that has the same densities."""
    cloud = Cloud(seed)
    x, (noise,) = cloud.x, numbers(seed, 1)
    drifts = [
        (lambda x: cloud.f(TIME) * x, cloud.g2(TIME)),
        (lambda x: cloud.velocity(x, TIME) + noise / 2 * cloud.score(x, TIME), noise),
    ]
    for b, g2 in drifts:
        carried = -divergence(lambda x, b=b: cloud.p(x, TIME) * b(x), x)
        spread = g2 / 2 * laplacian(lambda x: cloud.p(x, TIME), x)
        equal(cloud.in_time(x, TIME), carried + spread)


@SEEDS
@pytest.mark.equation("eq-sde-laplacian")
@pytest.mark.equation("eq-sde-langevin")
def test_noise_is_a_velocity(seed):
    cloud = Cloud(seed)
    g2, tau = numbers(seed, 2)
    heat = laplacian(lambda x: cloud.p(x, TIME), cloud.x)
    equal(g2 / 2 * heat, divergence(lambda x: cloud.p(x, TIME) * g2 / 2 * cloud.score(x, TIME), cloud.x))
    pull = -divergence(lambda x: cloud.p(x, TIME) * cloud.score(x, TIME), cloud.x)
    equal(tau**2 * g2 / 2 * (pull + heat), 0.0)


@SEEDS
@pytest.mark.equation("eq-sde-current")
def test_current_velocity(seed):
    cloud = Cloud(seed)

    def flux(x):
        u = cloud.f(TIME) * x - cloud.g2(TIME) / 2 * cloud.score(x, TIME)
        return cloud.p(x, TIME) * u

    equal(cloud.in_time(cloud.x, TIME), -divergence(flux, cloud.x))


@SEEDS
@pytest.mark.equation("eq-sde-boxes")
def test_boxes(seed):
    edges, p = torch.linspace(-1, 1, 9, dtype=F64), torch.rand(8, generator=gen(seed), dtype=F64)
    u, g2 = torch.randn(7, generator=gen(seed + 1), dtype=F64), 0.6
    width, F = 0.25, [0.0]
    for i in range(7):
        F.append(float(u[i] * (p[i] + p[i + 1]) / 2 - g2 / 2 * (p[i + 1] - p[i]) / width))
    F.append(0.0)
    printed = [-(F[i + 1] - F[i]) / width for i in range(8)]
    equal(fokker_planck.rates(edges, u, g2) @ p, torch.tensor(printed, dtype=F64))


# The forward process


@SEEDS
@pytest.mark.equation("eq-sde-moments")
def test_moments(seed):
    """The derivative in h of the exact mean and variance after one step of length h."""
    m, v, g2, f = numbers(seed, 4)
    zero = torch.zeros((), dtype=F64)
    equal(rate(lambda h: m + h * (-f) * m, zero), -f * m)
    equal(rate(lambda h: (1 - f * h) ** 2 * v + g2 * h, zero), 2 * (-f) * v + g2)


@pytest.mark.equation("eq-sde-f-g")
@pytest.mark.equation("eq-sde-g-lambda")
@pytest.mark.parametrize("process", [LinearVP(), SubVP(), CosineVP(), VE(), EDM(), TrigFlow(0.5)], ids=str)
def test_f_and_g(process):
    """From the kernel of a very short piece, from the printed formulas, and from the package."""
    t = torch.tensor(0.37, dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    alpha_rate, sigma_rate = rate(process.alpha, t), rate(process.sigma, t)
    f = rate(lambda u: process.alpha(u) / alpha, t)
    g2 = rate(lambda u: process.sigma(u) ** 2 - (process.alpha(u) / alpha) ** 2 * sigma**2, t)
    equal(f, alpha_rate / alpha)
    equal(g2, 2 * sigma * sigma_rate - 2 * alpha_rate / alpha * sigma**2)
    equal(g2, -2 * sigma**2 * rate(lambda u: torch.log(process.alpha(u)) - torch.log(process.sigma(u)), t))
    equal(process.f(t), f)
    equal(process.g2(t), g2)


def moments_by_runge_kutta(f, g2, m, v, start, end, steps=400):
    def slope(t, y):
        return f(t) * y[0], 2 * f(t) * y[1] + g2(t)

    first = (torch.tensor(m, dtype=F64), torch.as_tensor(v, dtype=F64))
    *_, found = ode.runge_kutta(slope, first, torch.linspace(start, end, steps + 1, dtype=F64))
    return found


@pytest.mark.equation("eq-sde-kernel")
@pytest.mark.parametrize("process", [LinearVP(), VE(), SubVP()], ids=str)
def test_kernel(process):
    s, t = torch.tensor([0.3, 0.8], dtype=F64)
    ratio = process.alpha(t) / process.alpha(s)
    m, v = moments_by_runge_kutta(process.f, process.g2, 1.7, 0.0, 0.3, 0.8)
    equal(m, ratio * 1.7, 1e-7)
    equal(v, process.sigma(t) ** 2 - ratio**2 * process.sigma(s) ** 2, 1e-7)


@SEEDS
@pytest.mark.equation("eq-sde-vp")
@pytest.mark.equation("eq-sde-ve")
@pytest.mark.equation("eq-sde-subvp")
def test_three_processes(seed):
    a, b, first = numbers(seed, 3)

    def beta(t):
        return a + b * t**2

    t = torch.tensor(0.9, dtype=F64)
    total = a * t + b * t**3 / 3  # its integral
    alpha = torch.exp(-total / 2)
    m, v = moments_by_runge_kutta(lambda t: -beta(t) / 2, beta, 1.0, 0.0, 0.0, 0.9)
    equal(m, alpha, 1e-7)
    equal(v, 1 - alpha**2, 1e-7)
    m, v = moments_by_runge_kutta(lambda t: 0 * t, beta, 1.0, first**2, 0.0, 0.9)
    equal(m, 1.0)
    equal(v, first**2 + total, 1e-7)

    def small_sigma(t):
        return 1 - torch.exp(-(a * t + b * t**3 / 3))

    f = -beta(t) / 2
    g2 = 2 * small_sigma(t) * rate(small_sigma, t) - 2 * f * small_sigma(t) ** 2
    equal(g2, 2 * (1 - alpha**2) * beta(t) * alpha**2 + beta(t) * (1 - alpha**2) ** 2)
    equal(g2, beta(t) * (1 - alpha**4))


# The way back


@SEEDS
@pytest.mark.equation("eq-sde-backward")
@pytest.mark.equation("eq-sde-trade")
@pytest.mark.equation("eq-sde-family-density")
def test_backwards(seed):
    cloud = Cloud(seed)
    (tau,) = numbers(seed + 5, 1)
    theta = 1 - TIME
    x, f, g2 = cloud.x, cloud.f(TIME), cloud.g2(TIME)
    left = rate(lambda theta: cloud.p(x, 1 - theta), theta)
    heat = laplacian(lambda x: cloud.p(x, TIME), x)
    equal(left, divergence(lambda x: f * x * cloud.p(x, TIME), x) - g2 / 2 * heat)

    share = (1 + tau**2) / 2
    pulled = -divergence(lambda x: share * g2 * cloud.p(x, TIME) * cloud.score(x, TIME), x)
    equal(-g2 / 2 * heat, pulled + tau**2 * g2 / 2 * heat)

    def flux(x):
        return (-f * x + share * g2 * cloud.score(x, TIME)) * cloud.p(x, TIME)

    equal(left, -divergence(flux, x) + tau**2 * g2 / 2 * heat)


@SEEDS
@pytest.mark.equation("eq-sde-velocity")
@pytest.mark.equation("eq-sde-drift-x0")
def test_drift_in_terms_of_the_denoiser(seed):
    cloud = Cloud(seed)
    (tau,) = numbers(seed + 5, 1)
    x, alpha, sigma = cloud.x, cloud.alpha(TIME), cloud.sigma(TIME)
    alpha_rate, sigma_rate, lam_rate = (rate(c, TIME) for c in (cloud.alpha, cloud.sigma, cloud.lam))
    x0 = cloud.x0(x, TIME)
    eps = (x - alpha * x0) / sigma
    f, g2, score = cloud.f(TIME), cloud.g2(TIME), cloud.score(x, TIME)
    equal(f * x - g2 / 2 * score, alpha_rate * x0 + sigma_rate * eps)
    equal(
        f * x - (1 + tau**2) / 2 * g2 * score,
        (sigma_rate / sigma - tau**2 * lam_rate) * x + (1 + tau**2) * alpha * lam_rate * x0,
    )


@SEEDS
@pytest.mark.equation("eq-sde-euler-variance")
@pytest.mark.equation("eq-sde-family-variance")
def test_variance_of_a_step(seed):
    c, tau = numbers(seed, 2)
    process = LinearVP()
    s, t = torch.tensor([0.6, 0.57], dtype=F64)
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=c)

    def v(t):
        return (process.alpha(t) * c) ** 2 + process.sigma(t) ** 2

    f, g2, h = process.f(s), process.g2(s), s - t
    k = f + (1 + tau**2) * g2 / (2 * v(s))
    z = torch.randn(1, 1, generator=gen(2), dtype=F64)
    ends = [
        float(samplers.last(samplers.euler_maruyama(D, x, torch.stack([s, t]), tau=tau, generator=gen(2))))
        for x in (torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64))
    ]
    V = 0.83  # any variance will do
    equal((ends[0] - ends[1]) ** 2 * V + (ends[1] / float(z)) ** 2, (1 - h * k) ** 2 * V + h * tau**2 * g2)
    equal(2 * k * v(s) - tau**2 * g2, 2 * f * v(s) + g2)
    equal(2 * f * v(s) + g2, rate(v, s))


# The error budget, on two Gaussians


def gaussian(x, m, v):
    return torch.exp(-((x - m) ** 2) / (2 * v)) / torch.sqrt(2 * math.pi * torch.as_tensor(v, dtype=F64))


def kl(m, v, m_hat, v_hat):
    return (v / v_hat - 1 - torch.log(v / v_hat) + (m - m_hat) ** 2 / v_hat) / 2


class TwoGaussians:
    """p = N(m, v) of a forward process at t, and p̂ = N(m̂, v̂) on its way back with a linear score ŝ = −k (x − c)."""

    def __init__(self, seed):
        values = numbers(seed, 8)
        self.tau, self.f, self.g2, self.m, self.v, self.m_hat, self.v_hat, self.k = (
            torch.tensor(value, dtype=F64) for value in values
        )
        self.f, self.centre = -self.f, torch.tensor(0.2, dtype=F64)
        self.share = (1 + self.tau**2) / 2
        self.rates_p = (-self.f * self.m, -(2 * self.f * self.v + self.g2))  # the forward moments, run backwards
        slope = -self.f - self.share * self.g2 * self.k
        self.rates_hat = (
            slope * self.m_hat + self.share * self.g2 * self.k * self.centre,
            2 * slope * self.v_hat + self.tau**2 * self.g2,
        )

    def score(self, x):
        return -(x - self.m) / self.v

    def score_hat(self, x):
        return -self.k * (x - self.centre)

    def rho(self, x):
        """∇ log(p/p̂)."""
        return self.score(x) + (x - self.m_hat) / self.v_hat

    def drift_error(self, x):
        b = -self.f * x + self.share * self.g2 * self.score(x)
        return b - (-self.f * x + self.share * self.g2 * self.score_hat(x))

    def kl_rate(self):
        return jvp(kl, (self.m, self.v, self.m_hat, self.v_hat), (*self.rates_p, *self.rates_hat))[1]


@SEEDS
@pytest.mark.equation("eq-sde-drift-error")
@pytest.mark.equation("eq-sde-kl-rate")
@pytest.mark.equation("eq-sde-kl-balance")
def test_how_the_divergence_changes(seed):
    two = TwoGaussians(seed)
    x = LINE
    error = (1 + two.tau**2) / 2 * two.g2 * (two.score(x) - two.score_hat(x))
    equal(two.drift_error(x), error)

    p, p_rate = jvp(lambda m, v: gaussian(x, m, v), (two.m, two.v), two.rates_p)
    p_hat, p_hat_rate = jvp(lambda m, v: gaussian(x, m, v), (two.m_hat, two.v_hat), two.rates_hat)
    inside = (x - two.m).abs() < 8 * torch.maximum(two.v, two.v_hat).sqrt()  # beyond it p/p̂ is 0/0
    log_ratio = Normal(two.m, two.v.sqrt()).log_prob(x) - Normal(two.m_hat, two.v_hat.sqrt()).log_prob(x)
    inside = inside & (p > 1e-300) & (p_hat > 1e-300)
    terms = torch.where(inside, p_rate * log_ratio - log_ratio.exp() * p_hat_rate, 0.0)
    if two.v < 1.8 * two.v_hat:  # else the second integral does not exist
        equal(two.kl_rate(), integral(terms), 1e-6, 1e-7)
    y = two.m + two.v.sqrt() * NODES
    balance = (WEIGHTS * two.drift_error(y) * two.rho(y)).sum()
    balance = balance - two.tau**2 * two.g2 / 2 * (WEIGHTS * two.rho(y) ** 2).sum()
    equal(two.kl_rate(), balance)


@SEEDS
@pytest.mark.equation("eq-sde-square")
def test_completed_square(seed):
    a, rho = torch.randn(2, 5, generator=gen(seed), dtype=F64)
    tau, g = numbers(seed, 2)
    square = (a / (tau * g) - tau * g * rho).square().sum() / 2
    right = a.square().sum() / (2 * tau**2 * g**2) + tau**2 * g**2 / 2 * rho.square().sum() - square
    equal(a @ rho, right)


@SEEDS
@pytest.mark.equation("eq-sde-kl-step")
def test_worst_rate(seed):
    """The inequality; and equality for the score that is wrong in the worst way, b − b̂ = τ² g² ∇log(p/p̂)."""
    two = TwoGaussians(seed)
    y = two.m + two.v.sqrt() * NODES

    def sides():
        middle = (WEIGHTS * two.drift_error(y) ** 2).sum() / (2 * two.tau**2 * two.g2)
        error = (WEIGHTS * (two.score(y) - two.score_hat(y)) ** 2).sum()
        return middle, (1 + two.tau**2) ** 2 / (8 * two.tau**2) * two.g2 * error

    middle, right = sides()
    equal(middle, right)
    assert two.kl_rate() <= middle + 1e-12
    factor = 2 * two.tau**2 / (1 + two.tau**2)
    worst = TwoGaussians(seed)
    # ŝ = s − factor ρ is linear: its slope is −k and its zero is the centre
    slope = -1 / two.v - factor * (1 / two.v_hat - 1 / two.v)
    offset = two.m / two.v - factor * (two.m / two.v - two.m_hat / two.v_hat)
    worst.k, worst.centre = -slope, offset / -slope
    drift = -worst.f - worst.share * worst.g2 * worst.k
    worst.rates_hat = (
        drift * worst.m_hat + worst.share * worst.g2 * worst.k * worst.centre,
        2 * drift * worst.v_hat + worst.tau**2 * worst.g2,
    )
    two = worst
    equal(two.kl_rate(), sides()[1])


def run_back(process, c, tau, prior, wrong, steps=1500, end=0.05):
    """Variances of the model, and E|s − ŝ|² g², along the way back; `wrong(v, v̂)` is ŝ's slope."""
    times = torch.linspace(1, end, steps + 1, dtype=F64)

    def v(t):
        return (process.alpha(t) * c) ** 2 + process.sigma(t) ** 2

    def slope(t, y):
        g2 = process.g2(t)
        error = g2 * (-1 / v(t) - wrong(v(t), y[0])) ** 2 * v(t)
        drift = process.f(t) - (1 + tau**2) / 2 * g2 * wrong(v(t), y[0])
        return 2 * drift * y[0] - tau**2 * g2, -error

    start = (torch.tensor(prior, dtype=F64), torch.zeros((), dtype=F64))
    *_, (v_hat, total) = ode.runge_kutta(slope, start, times)
    zero = torch.zeros((), dtype=F64)
    return kl(zero, v(times[0]), zero, start[0]), total, kl(zero, v(times[-1]), zero, v_hat)


@pytest.mark.equation("eq-sde-budget-tau")
@pytest.mark.equation("eq-sde-budget-continuous")
@pytest.mark.parametrize("tau", [0.6, 1.0, 1.4])
def test_budget(tau):
    """An inequality for a score that is wrong by a tenth; an equality for one that is wrong in the worst way."""
    factor = (1 + tau**2) ** 2 / (8 * tau**2)
    process = LinearVP(0.1, 3.0)
    gap, total, end = run_back(process, 0.5, tau, 1.0, lambda v, v_hat: -0.9 / v, 120)
    assert end <= gap + factor * total
    ratio = 2 * tau**2 / (1 + tau**2)
    gap, total, end = run_back(process, 0.5, tau, 0.9, lambda v, v_hat: -1 / v - ratio * (1 / v_hat - 1 / v), 120)
    assert total > 1e-3
    equal(end, gap + factor * total, 1e-6)
    if tau == 1.0:
        equal(end, gap + total / 2, 1e-6)


@SEEDS
@pytest.mark.equation("eq-sde-score-snr")
def test_score_error_in_signal_to_noise_ratios(seed):
    """One Gaussian: s and D of the truth, and of a model whose data are wider."""
    c, c_hat = numbers(seed, 2)
    process = CosineVP()
    t = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    alpha, sigma2 = process.alpha(t), process.sigma(t) ** 2
    v, v_hat = (alpha * c) ** 2 + sigma2, (alpha * c_hat) ** 2 + sigma2
    of_score = (1 / v_hat - 1 / v) ** 2 * v
    of_denoiser = (alpha * c**2 / v - alpha * c_hat**2 / v_hat) ** 2 * v
    snr_rate = rate(lambda t: process.alpha(t) ** 2 / process.sigma(t) ** 2, t)
    equal((process.g2(t) * of_score).mean() / 2, (-snr_rate * of_denoiser).mean() / 2)


def gaussian_chain(n, delta=-0.1, c=0.5, end=1e-3):
    """For steps on data N(0, c²): times, exact variances, factors m and variances w of the true and of Euler's step."""
    process = LinearVP(0.1, 3.0)
    t = torch.linspace(1, end, n + 1, dtype=F64)
    alpha, sigma2 = process.alpha(t), process.sigma(t) ** 2
    v = (alpha * c) ** 2 + sigma2
    forward = alpha[:-1] / alpha[1:]
    joint = forward * v[1:]  # Cov(x_s, x_t), with s the noisier
    m = joint / v[:-1]
    w = v[1:] - joint**2 / v[:-1]
    h, g2 = -t.diff(), process.g2(t)[:-1]
    m_hat = 1 - h * (process.f(t)[:-1] + (1 + delta) * g2 / v[:-1])
    return process, t, v, m, w, m_hat, h * g2


def expected_step_kl(v, m, w, m_hat, w_hat):
    """E KL of two Gaussian steps, by quadrature over x_s ~ N(0, v)."""
    x = v.sqrt() * NODES
    divergences = kl_divergence(Normal(m * x, w.sqrt()), Normal(m_hat * x, w_hat.sqrt()))
    return (WEIGHTS * divergences).sum()


@pytest.mark.equation("eq-sde-step-kl")
def test_divergence_of_a_step():
    _, _, v, m, w, m_hat, w_hat = gaussian_chain(9)
    for i in range(9):
        printed = (w[i] / w_hat[i] - 1 - (w[i] / w_hat[i]).log()) / 2
        printed = printed + (m[i] - m_hat[i]) ** 2 * v[i] / (2 * w_hat[i])
        equal(expected_step_kl(v[i], m[i], w[i], m_hat[i], w_hat[i]), printed)
        equal(w[i], v[i + 1] - m[i] ** 2 * v[i])  # as the text has it


def path_covariance(first, m, w):
    """Covariance of (x at t_N, …, x at t_0) of a chain x_t = m x_s + √w z."""
    n = len(m) + 1
    L = torch.zeros(n, n, dtype=F64)
    L[0, 0] = first**0.5
    for i in range(1, n):
        L[i] = m[i - 1] * L[i - 1]
        L[i, i] = w[i - 1] ** 0.5
    return L @ L.mT


@pytest.mark.equation("eq-sde-budget-steps")
def test_budget_of_steps():
    """The sum is the divergence of the laws of whole paths, and that is at least the divergence of their ends."""
    _, _, v, m, w, m_hat, w_hat = gaussian_chain(7)
    zero, one = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
    total = kl(zero, v[0], zero, one)
    total = total + sum(expected_step_kl(v[i], m[i], w[i], m_hat[i], w_hat[i]) for i in range(7))
    true, model = path_covariance(v[0], m, w), path_covariance(one, m_hat, w_hat)
    mean = torch.zeros(8, dtype=F64)
    equal(total, kl_divergence(MultivariateNormal(mean, true), MultivariateNormal(mean, model)), 1e-7)
    equal(true[-1, -1], v[-1])
    assert kl(zero, true[-1, -1], zero, model[-1, -1]) < total


@pytest.mark.equation("eq-sde-budget")
def test_the_three_terms():
    """They add up to a bound, and the third vanishes like 1/N."""
    zero, one = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
    excess = []
    for n in (200, 400):
        process, t, v, m, w, m_hat, w_hat = gaussian_chain(n)
        steps = sum(expected_step_kl(v[i], m[i], w[i], m_hat[i], w_hat[i]) for i in range(n))
        fine = torch.linspace(float(t[-1]), 1, 20_001, dtype=F64)
        v_fine = (process.alpha(fine) * 0.5) ** 2 + process.sigma(fine) ** 2
        score_error = integral(process.g2(fine) * 0.1**2 / v_fine, fine) / 2
        discretisation = steps - score_error
        gap = kl(zero, v[0], zero, one)
        v_hat = path_covariance(one, m_hat, w_hat)[-1, -1]
        assert kl(zero, v[-1], zero, v_hat) <= gap + score_error + discretisation
        excess.append(float(discretisation))
    assert excess[0] / excess[1] == pytest.approx(2, rel=0.1)


# Likelihood


@SEEDS
@pytest.mark.equation("eq-sde-change")
def test_change_of_variables(seed):
    cloud = Cloud(seed)
    x, u = cloud.x, cloud.velocity(cloud.x, TIME)
    p, score = cloud.p(x, TIME), cloud.score(x, TIME)
    along = jvp(lambda x, t: torch.log(cloud.p(x, t)), (x, TIME), (u, torch.ones_like(TIME)))[1]
    equal(along, cloud.in_time(x, TIME) / p + u @ score)
    carried = divergence(lambda x: cloud.p(x, TIME) * cloud.velocity(x, TIME), x)
    equal(along, -carried / p + u @ score)
    equal(along, -divergence(lambda x: cloud.velocity(x, TIME), x))


@pytest.mark.equation("eq-sde-likelihood")
def test_likelihood():
    cloud = Cloud(1)

    def slope(t, y):
        return cloud.velocity(y[0], t), divergence(lambda x: cloud.velocity(x, t), y[0])

    start = torch.tensor(0.1, dtype=F64)
    grid = torch.linspace(0.1, 1, 21, dtype=F64)
    *_, (x_1, total) = ode.runge_kutta(slope, (cloud.x, torch.zeros((), dtype=F64)), grid)
    equal(torch.log(cloud.p(cloud.x, start)), torch.log(cloud.p(x_1, grid[-1])) + total, 1e-5, 1e-6)


@SEEDS
@pytest.mark.equation("eq-sde-divergence")
def test_divergence_of_the_velocity(seed):
    cloud = Cloud(seed, 3)
    alpha, sigma = cloud.alpha(TIME), cloud.sigma(TIME)
    right = 3 * rate(cloud.sigma, TIME) / sigma
    right = right + alpha * rate(cloud.lam, TIME) * divergence(lambda x: cloud.x0(x, TIME), cloud.x)
    equal(divergence(lambda x: cloud.velocity(x, TIME), cloud.x), right)


def signs(d):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=F64)


def gaussian_nodes(d):
    """Nodes (n, d) and weights of a product rule that is exact for the fourth moments."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(4))
    points = torch.cartesian_prod(*[nodes] * d)
    return points, torch.cartesian_prod(*[weights / weights.sum()] * d).prod(1)


@SEEDS
@pytest.mark.equation("eq-sde-hutchinson")
@pytest.mark.equation("eq-sde-hutchinson-variance")
def test_hutchinson(seed):
    d = 3
    J = torch.randn(d, d, generator=gen(seed), dtype=F64)
    S = (J + J.mT) / 2
    off = S - torch.diag(S.diagonal())
    z = signs(d)
    for points, weights, variance in (
        (z, torch.full((len(z),), 1 / len(z), dtype=F64), 2 * off.square().sum()),
        (*gaussian_nodes(d), 2 * S.square().sum()),
    ):
        values = torch.einsum("ni,ij,nj->n", points, J, points)
        mean = (weights * values).sum()
        second = torch.einsum("n,ni,nj->ij", weights, points, points)
        equal(mean, (J * second).sum())
        equal(mean, torch.trace(J))
        equal((weights * (values - mean) ** 2).sum(), variance)


@SEEDS
@pytest.mark.equation("eq-sde-dequantise")
def test_dequantisation(seed):
    """A product of two Gaussians on a box: an inequality; for a density that is flat on the box, an equality."""
    m, s = numbers(seed, 2, 0.5, 1.0)
    w, d = 0.25, 2
    u = torch.linspace(-w / 2, w / 2, 2001, dtype=F64)
    normal = Normal(torch.tensor(m, dtype=F64), s)
    x = torch.tensor([0.25, 0.5], dtype=F64)
    log_mass = torch.log(normal.cdf(x + w / 2) - normal.cdf(x - w / 2)).sum()
    equal(log_mass, torch.stack([integral(normal.log_prob(xi + u).exp(), u).log() for xi in x]).sum(), 1e-6)
    right = sum(integral(normal.log_prob(xi + u), u) / w for xi in x) + d * math.log(w)
    assert right < log_mass < right + 0.1
    height = 1.7  # a flat density: log P = log(height w^d)
    equal(math.log(height * w**d), math.log(height) + d * math.log(w))


@SEEDS
@pytest.mark.equation("eq-sde-k-variance")
@pytest.mark.equation("eq-sde-k-nll")
@pytest.mark.equation("eq-sde-k-bound")
def test_the_wrong_slope(seed):
    beta, k, tau, V = numbers(seed, 4)

    def after(h):
        """The variance after one step back of length h: dx = [f x − (1 + τ²)/2 g² ŝ] dt + τ g dW̄."""
        drift = -beta / 2 + (1 + tau**2) / 2 * beta * k
        return (1 - h * drift) ** 2 * V + tau**2 * beta * h

    equal(-rate(after, torch.zeros((), dtype=F64)), beta * (((1 + tau**2) * k - 1) * V - tau**2))
    nll = -(WEIGHTS * Normal(0.0, torch.tensor(V, dtype=F64).sqrt()).log_prob(NODES)).sum()
    equal(nll, math.log(2 * math.pi * V) / 2 + 1 / (2 * V))

    # The bound, with the SDE solved by Runge–Kutta; its last term by quadrature over x ~ N(0, 1).
    zero, one = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
    entropy = -(WEIGHTS * Normal(0.0, one).log_prob(NODES)).sum()
    grid = torch.linspace(1, 0, 401, dtype=F64)
    *_, (V_0,) = ode.runge_kutta(lambda t, y: (beta * ((2 * k - 1) * y[0] - 1),), (one,), grid)
    left = -(WEIGHTS * Normal(0.0, V_0.sqrt()).log_prob(NODES)).sum()
    equal(left, entropy + kl(zero, one, zero, V_0))
    error = (WEIGHTS * (-NODES + k * NODES) ** 2).sum()
    equal(beta * error / 2, beta * (1 - k) ** 2 / 2)
    assert left <= entropy + beta * (1 - k) ** 2 / 2 + 1e-12


# Encoding, and what is decided when


@SEEDS
@pytest.mark.equation("eq-sde-lerp")
def test_straight_line(seed):
    (w,) = numbers(seed, 1, 0.0, 1.0)
    points, weights = gaussian_nodes(2)
    variance = (weights * ((1 - w) * points[:, 0] + w * points[:, 1]) ** 2).sum()
    equal(variance, (1 - w) ** 2 + w**2)
    assert 0.5 <= variance <= 1


@SEEDS
@pytest.mark.equation("eq-sde-slerp")
def test_arc(seed):
    a, b = torch.randn(2, 6, generator=gen(seed), dtype=F64)
    b = b * a.norm() / b.norm()
    (w,) = numbers(seed, 1, 0.0, 1.0)
    phi = torch.arccos((a @ b) / (a.norm() * b.norm()))
    z = torch.sin((1 - w) * phi) / torch.sin(phi) * a + torch.sin(w * phi) / torch.sin(phi) * b
    equal(z.norm(), a.norm())


@SEEDS
@pytest.mark.equation("eq-sde-log-odds")
@pytest.mark.equation("eq-sde-kappa")
def test_two_classes(seed):
    alpha, sigma, s = numbers(seed, 3)
    mu, x = torch.randn(2, 3, generator=gen(seed), dtype=F64)
    v = alpha**2 * s**2 + sigma**2
    cov = v * torch.eye(3, dtype=F64)
    plus, minus = (MultivariateNormal(sign * alpha * mu, cov) for sign in (1, -1))
    equal(plus.log_prob(x) - minus.log_prob(x), 2 * alpha * mu @ x / v)
    slope = grad(lambda x: plus.log_prob(x) - minus.log_prob(x))(x)  # the log-odds are linear, so Gaussian
    mean = plus.log_prob(plus.mean) - minus.log_prob(plus.mean)
    kappa = alpha**2 * mu.square().sum() / v
    equal(mean, 2 * kappa)
    equal(slope @ cov @ slope, 4 * kappa)


@SEEDS
@pytest.mark.equation("eq-sde-information")
def test_information(seed):
    alpha, sigma = numbers(seed, 2)
    A = torch.randn(4, 4, generator=gen(seed), dtype=F64)
    data = A @ A.mT / 4
    noise = sigma**2 * torch.eye(4, dtype=F64)
    zero = torch.zeros(4, dtype=F64)
    information = (
        MultivariateNormal(zero, alpha**2 * data + noise).entropy() - MultivariateNormal(zero, noise).entropy()
    )
    c2 = torch.linalg.eigvalsh(data)
    equal(information, torch.log(1 + c2 * alpha**2 / sigma**2).sum() / 2)


@SEEDS
def test_the_cloud_is_the_oracle_of_the_package(seed):
    """The mixture that is written out above, against `GaussianMixture` on a process of the package."""
    cloud, process = Cloud(seed), LinearVP()
    cloud.alpha, cloud.sigma = process.alpha, process.sigma
    D = GaussianMixture(process, cloud.shares, cloud.means, stds=cloud.width)
    equal(cloud.x0(cloud.x, TIME), D(cloud.x[None], TIME)[0])
    equal(torch.log(cloud.p(cloud.x, TIME)), D.log_prob(cloud.x[None], TIME)[0])
