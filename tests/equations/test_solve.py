"""Every equation of *Sampling is solving an ODE*: both sides as printed, evaluated independently.

Densities of one variable are integrated on a grid, α and σ are functions written out here, their derivatives come from
automatic differentiation, and exact solutions from fine quadrature.
"""

import itertools
import math

import pytest
import torch
from odes import rk4
from sides import F64, LINE, SEEDS, equal, integral, normal, numbers, rate
from torch.distributions import Normal, kl_divergence

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.metrics import CountCalls
from minidiff.process import CosineVP, LinearVP, RectifiedFlow, TrigFlow
from minidiff.samplers import ddim, exponential, invert, last, richardson


def alpha(t):
    return torch.exp(-1.3 * t - 0.4 * t**2)


def sigma(t):
    return 0.05 + 0.7 * t + 0.5 * t**2


def lam(t):
    return torch.log(alpha(t) / sigma(t))


def at(*t):
    return tuple(torch.tensor(v, dtype=F64) for v in t)


def step_of(seed):
    """α_s, σ_s, α_t, σ_t of a step with more signal at t, x_0, and a v below the posterior's variance."""
    a_s, s_s, x_0, gain, share = numbers(seed, 5)
    a_t, s_t = a_s * (1 + gain), s_s / (1 + gain)
    return a_s, s_s, a_t, s_t, x_0, share / 1.6 * posterior_variance(a_s, s_s, a_t, s_t)


def posterior_variance(a_s, s_s, a_t, s_t):
    """By completing the square: precisions of q(x_t | x_0) and of q(x_s | x_t) add."""
    ratio = a_s / a_t
    return 1 / (1 / s_t**2 + ratio**2 / (s_s**2 - ratio**2 * s_t**2))


# The family


@SEEDS
@pytest.mark.equation("eq-solve-marginal-variance")
@pytest.mark.equation("eq-solve-marginal")
def test_every_member_keeps_the_marginal(seed):
    a_s, s_s, a_t, s_t, x_0, v = step_of(seed)
    equal(math.sqrt(s_t**2 - v) ** 2 * 1 + v, s_t**2)
    x_t = torch.linspace(-2, 2, 9, dtype=F64)
    mean = a_t * x_0 + math.sqrt(s_t**2 - v) * (LINE - a_s * x_0) / s_s
    left = integral(normal(x_t[:, None], mean, v) * normal(LINE, a_s * x_0, s_s**2))
    equal(left, normal(x_t, a_t * x_0, s_t**2), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-solve-forward")
def test_the_step_turned_around(seed):
    a_s, s_s, a_t, s_t, x_0, v = step_of(seed)
    x_t = a_t * x_0 + 0.7 * s_t
    mean = a_t * x_0 + math.sqrt(s_t**2 - v) * (LINE - a_s * x_0) / s_s
    joint = normal(x_t, mean, v) * normal(LINE, a_s * x_0, s_s**2)
    posterior = joint / integral(joint)
    mu = a_s * x_0 + s_s * math.sqrt(s_t**2 - v) / s_t**2 * (x_t - a_t * x_0)
    equal(posterior, normal(LINE, mu, v * s_s**2 / s_t**2), rtol=1e-6, atol=1e-9)


@SEEDS
@pytest.mark.equation("eq-solve-markov")
@pytest.mark.equation("eq-solve-posterior")
def test_the_markov_member_is_ddpm(seed):
    a_s, s_s, a_t, s_t, _, _ = step_of(seed)
    v = s_t**2 * (1 - a_s**2 * s_t**2 / (a_t**2 * s_s**2))
    snr_s, snr_t = a_s**2 / s_s**2, a_t**2 / s_t**2
    equal(v, s_t**2 * (1 - snr_s / snr_t))
    equal(v, posterior_variance(a_s, s_s, a_t, s_t))
    root = math.sqrt(s_t**2 - v)
    equal(a_s * s_t**2, a_t * s_s * root)  # the picture drops out of the mean
    equal(root / s_s, a_s * s_t**2 / (a_t * s_s**2))
    equal(a_t - a_s * root / s_s, a_t * (1 - snr_s / snr_t))


@SEEDS
@pytest.mark.equation("eq-solve-one-loss")
def test_one_loss(seed):
    a_s, s_s, a_t, s_t, x_0, v = step_of(seed)
    x_s, guess = numbers(seed + 10, 2)

    def law(x):
        return Normal(a_t * x + math.sqrt(s_t**2 - v) * (x_s - a_s * x) / s_s, torch.tensor(v, dtype=F64).sqrt())

    b = a_t - a_s * math.sqrt(s_t**2 - v) / s_s
    equal(kl_divergence(law(x_0), law(guess)), b**2 / (2 * v) * (x_0 - guess) ** 2)


@SEEDS
@pytest.mark.equation("eq-solve-variance-step")
@pytest.mark.equation("eq-solve-missing")
def test_variance_of_a_step_and_what_is_missing(seed):
    a_s, s_s, a_t, s_t, std, v = step_of(seed)
    a = math.sqrt(s_t**2 - v) / s_s
    b = a_t - a * a_s
    v_s, v_t = ((al * std) ** 2 + si**2 for al, si in ((a_s, s_s), (a_t, s_t)))
    k = a_s * std**2 / v_s
    V = 0.8 * v_s
    # the sampler's step as an integral over its start, D by conditioning on a grid
    x_s = 1.1
    joint = normal(x_s, a_s * LINE, s_s**2) * normal(LINE, 0.0, std**2)
    posterior = joint / integral(joint)
    mean = integral(LINE * posterior)
    equal(mean, k * x_s, rtol=1e-6)
    slope = a + b * k
    # the law of x_t, by integrating the sampler's step over its start
    grid = torch.linspace(-25, 25, 2001, dtype=F64)
    law = integral(normal(grid[:, None], slope * grid, v) * normal(grid, 0.0, V), grid)
    equal(integral(grid**2 * law, grid), slope**2 * V + v, rtol=1e-6)
    spread = integral((LINE - mean) ** 2 * posterior)
    equal(spread, std**2 * s_s**2 / v_s, rtol=1e-6)
    equal(v_t, slope**2 * v_s + v + b**2 * spread, rtol=1e-6)


@pytest.mark.equation("eq-solve-variance-step")
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_the_sampler_has_this_variance(eta):
    process, std, T = LinearVP(), 0.5, times.uniform(2, end=0.2)[:2]
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=std)
    (a_s, a_t), (s_s, s_t) = process.alpha(T).tolist(), process.sigma(T).tolist()
    v = eta**2 * posterior_variance(a_s, s_s, a_t, s_t)
    a = math.sqrt(s_t**2 - v) / s_s
    slope = a + (a_t - a * a_s) * a_s * std**2 / ((a_s * std) ** 2 + s_s**2)
    draws = [torch.Generator().manual_seed(1) for _ in range(2)]
    ends = [
        last(ddim(D, torch.full((1, 1), x, dtype=F64), T, eta=eta, generator=g))
        for x, g in zip((0.0, 1.0), draws, strict=True)
    ]
    equal(ends[1] - ends[0], [[slope]])
    noise = torch.randn(1, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    equal((ends[0] / noise) ** 2, [[v]])


# The integral


def guess(t):
    """Some D along a path, as a function of time."""
    return torch.sin(2 * t) + 0.3


def exact_path(x_1, t_end, start):
    """x at t_end with dx/dt = α′ D + σ′ (x − αD)/σ, D = guess(t), from x_1 at start, by RK4."""
    grid = torch.linspace(start, t_end, 61, dtype=F64)
    x = torch.tensor(x_1, dtype=F64)

    def f(t, x):
        return rate(alpha, t) * guess(t) + rate(sigma, t) * (x - alpha(t) * guess(t)) / sigma(t)

    return rk4(f, x, grid)


@SEEDS
@pytest.mark.equation("eq-solve-semilinear")
def test_semilinear(seed):
    t, x, D = at(*numbers(seed, 3, 0.1, 0.9))
    left = rate(alpha, t) * D + rate(sigma, t) * (x - alpha(t) * D) / sigma(t)
    equal(left, rate(sigma, t) / sigma(t) * x + alpha(t) * rate(lam, t) * D)


@SEEDS
@pytest.mark.equation("eq-solve-constants")
def test_the_linear_part_is_gone(seed):
    t, x, D = at(*numbers(seed, 3, 0.1, 0.9))
    slope = rate(alpha, t) * D + rate(sigma, t) * (x - alpha(t) * D) / sigma(t)
    quotient = (slope * sigma(t) - x * rate(sigma, t)) / sigma(t) ** 2
    equal(quotient, alpha(t) / sigma(t) * rate(lam, t) * D)
    equal(quotient, torch.exp(lam(t)) * rate(lam, t) * D)


@pytest.mark.equation("eq-solve-integral")
def test_the_integral_is_the_solution():
    s, t = at(0.8, 0.2)
    grid = torch.linspace(0.8, 0.2, 20_001, dtype=F64)
    kernel = torch.exp(lam(grid) - lam(t)) * guess(grid)
    right = sigma(t) / sigma(s) * 0.7 + alpha(t) * torch.trapezoid(kernel, lam(grid))
    equal(exact_path(0.7, 0.2, 0.8), right, rtol=1e-7)


@pytest.mark.equation("eq-solve-weight")
def test_the_weight_of_a_constant():
    s, t = at(0.8, 0.2)
    grid = torch.linspace(0.8, 0.2, 20_001, dtype=F64)
    left = alpha(t) * torch.trapezoid(torch.exp(lam(grid) - lam(t)), lam(grid))
    equal(left, alpha(t) * (1 - torch.exp(-(lam(t) - lam(s)))), rtol=1e-7)
    equal(left, alpha(t) - sigma(t) / sigma(s) * alpha(s), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-solve-ddim-forms")
@pytest.mark.equation("eq-solve-ray")
def test_ddim_is_euler_in_the_straight_coordinates(seed):
    s, t, x, D = at(0.7, 0.3, *numbers(seed, 2))
    ratio = sigma(t) / sigma(s)
    eps = (x - alpha(s) * D) / sigma(s)
    step = ratio * x + (alpha(t) - ratio * alpha(s)) * D
    equal(step, alpha(t) * D + sigma(t) * eps)
    r_s, r_t, y = sigma(s) / alpha(s), sigma(t) / alpha(t), x / alpha(s)
    equal(eps, (y - D) / r_s)
    equal(step / alpha(t), y + (r_t - r_s) * eps)
    # dy/dr along the equation: (dy/dt)/(dr/dt)
    slope = rate(alpha, s) * D + rate(sigma, s) * eps
    y_rate = (slope * alpha(s) - x * rate(alpha, s)) / alpha(s) ** 2
    equal(y_rate / rate(lambda u: sigma(u) / alpha(u), s), eps)


# One Gaussian


def spread(t, std):
    return (alpha(t) * std) ** 2 + sigma(t) ** 2


def angle(t, std):
    return torch.atan(sigma(t) / alpha(t) / std)


@SEEDS
@pytest.mark.equation("eq-solve-gaussian")
def test_predictions_of_a_gaussian(seed):
    std, x = numbers(seed, 2)
    (t,) = at(0.45)
    joint = normal(x, alpha(t) * LINE, float(sigma(t)) ** 2) * normal(LINE, 0.0, std**2)
    D = integral(LINE * joint) / integral(joint)
    v, theta = spread(t, std), angle(t, std)
    equal(D, alpha(t) * std**2 / v * x, rtol=1e-6)
    equal(D, std * torch.cos(theta) * x / v.sqrt(), rtol=1e-6)
    eps = (x - alpha(t) * D) / sigma(t)
    equal(eps, sigma(t) / v * x, rtol=1e-6)
    equal(eps, torch.sin(theta) * x / v.sqrt(), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-solve-exact")
@pytest.mark.equation("eq-solve-cosine")
def test_the_exact_path_and_the_cosine(seed):
    std, x_s = numbers(seed, 2)
    s, t = at(0.8, 0.35)

    def predictions(u, x):
        D = alpha(u) * std**2 / spread(u, std) * x
        return D, (x - alpha(u) * D) / sigma(u)

    grid = torch.linspace(0.8, 0.35, 41, dtype=F64)
    x = torch.tensor(x_s, dtype=F64)

    def f(u, x):
        D, eps = predictions(u, x)
        return rate(alpha, u) * D + rate(sigma, u) * eps

    for a, b in itertools.pairwise(grid):
        h = b - a
        middle = x + h / 2 * f(a, x)
        x = x + h * f((a + b) / 2, middle)
    equal(x / spread(t, std).sqrt(), x_s / spread(s, std).sqrt(), rtol=1e-3)
    D, eps = predictions(s, torch.tensor(x_s, dtype=F64))
    left = (alpha(t) * D + sigma(t) * eps) / spread(t, std).sqrt()
    one, two = angle(s, std), angle(t, std)
    state = x_s / spread(s, std).sqrt()
    equal(left, (torch.cos(two) * torch.cos(one) + torch.sin(two) * torch.sin(one)) * state)
    equal(left, torch.cos(one - two) * state)


@pytest.mark.equation("eq-solve-product")
def test_the_product_of_cosines():
    std, T = 0.7, times.uniform(9, end=0.05)
    process = CosineVP()
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=std)
    theta = torch.atan((-process.lam(T)).exp() / std)
    start = torch.ones(1, 1, dtype=F64)
    product = math.prod(math.cos(float(a - b)) for a, b in itertools.pairwise(theta))
    equal(last(ddim(D, start, T)) / D.flow(start, T[0], T[-1]), [[product]])
    trig = Gaussian(TrigFlow(std), torch.zeros(1, dtype=F64), std=std)
    for seed, n in ((0, 2), (1, 3), (2, 10)):  # at best: no other way of cutting the right angle gives more
        cuts = torch.tensor(numbers(seed, n), dtype=F64)
        cuts = math.pi / 2 * cuts / cuts.sum()
        best = math.cos(math.pi / 2 / n) ** n
        assert float(cuts.cos().prod()) < best
        nearly = torch.full((n,), math.pi / 2 / n, dtype=F64)
        nearly[0], nearly[1] = nearly[0] + 1e-4, nearly[1] - 1e-4
        assert 0 < 1 - float(nearly.cos().prod()) / best < 1e-6
    for n in (3, 10):
        made = last(ddim(trig, start, times.uniform(n))) / trig.flow(start, *at(1.0, 0.0))
        equal(made, [[math.cos(math.pi / 2 / n) ** n]])
    remainder = [(math.cos(math.pi / 2 / n) ** n - 1 + math.pi**2 / 8 / n) * n**2 for n in (100, 1000, 10_000)]
    assert abs(remainder[2] - remainder[1]) < 0.01  # bounded, and convergent: π⁴/128
    assert remainder[2] == pytest.approx(math.pi**4 / 128, rel=1e-3)


# The toolbox


@SEEDS
@pytest.mark.equation("eq-solve-gronwall")
def test_gronwall(seed):
    C, L, T = numbers(seed, 3)
    for p in (1, 2):
        for N in (3, 20):
            h, e = T / N, 0.0
            for _ in range(N):
                e = (1 + h * L) * e + C * h ** (p + 1)
            equal(e, C * h ** (p + 1) * ((1 + h * L) ** N - 1) / (h * L))
            assert e <= C * h**p * (math.exp(L * T) - 1) / L
        N = 10**6  # the bound is reached as the steps get smaller
        h = T / N
        printed = C * h ** (p + 1) * math.expm1(N * math.log1p(h * L)) / (h * L)
        equal(printed, C * h**p * (math.exp(L * T) - 1) / L, rtol=1e-5)


def divided(f, *nodes):
    if len(nodes) == 1:
        return f(nodes[0])
    return (divided(f, *nodes[1:]) - divided(f, *nodes[:-1])) / (nodes[-1] - nodes[0])


@SEEDS
@pytest.mark.equation("eq-solve-newton-error")
def test_newton(seed):
    a, b, c, u = (v + i for i, v in enumerate(numbers(seed, 4, 0.1, 0.9)))

    def f(x):
        return math.sin(x) + 0.2 * x**4

    def P(x):
        return divided(f, a) + divided(f, a, b) * (x - a) + divided(f, a, b, c) * (x - a) * (x - b)

    for node in (a, b, c):
        equal(P(node), f(node))
    equal(f(u) - P(u), divided(f, a, b, c, u) * (u - a) * (u - b) * (u - c))
    cubic = divided(lambda x: 2 * x**3, a, b, c, u)
    equal(cubic, 12 / 6)  # f'''/6, as said below the equation


@SEEDS
@pytest.mark.equation("eq-solve-adams")
def test_adams(seed):
    y, at_zero, rise, back, h = numbers(seed, 5)
    u_n = 1.0

    def f(u):
        return at_zero + rise * u

    step = y + h * f(u_n) + h**2 / 2 * divided(f, u_n, u_n - back)
    u = torch.linspace(u_n, u_n + h, 10_001, dtype=F64)
    equal(step, y + integral(f(u_n) + divided(f, u_n, u_n - back) * (u - u_n), u))
    equal(step, y + integral(f(u), u))  # and exact where the slope is linear in u


@pytest.mark.equation("eq-solve-start")
def test_the_start_caps_the_order():
    process, std = TrigFlow(), 1.5
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=std)
    start = torch.ones(1, 1, dtype=F64)

    def slope(**options):
        errors = []
        for n in (64, 128):
            T = process.time(torch.linspace(-2.0, 2.5, n + 1, dtype=F64))
            errors.append(abs(float(last(exponential(D, start, T, **options)) / D.flow(start, T[0], T[-1])) - 1))
        return math.log2(errors[0] / errors[1])

    for p in (1, 2, 3):
        assert slope(order=p, collocate=False) == pytest.approx(min(p, 1 + 1), abs=0.15)
    assert slope(order=3) > 2.8


# Extrapolation


@SEEDS
@pytest.mark.equation("eq-solve-richardson")
def test_richardson(seed):
    x, C, C2, C3 = numbers(seed, 4)
    for p in (1, 2, 3):

        def run(h, p=p):
            return x + C * h**p + C2 * h ** (p + 1) + C3 * h ** (p + 2)

        remainders = []
        for h in (1e-2, 5e-3):
            left = (2**p * run(h) - run(2 * h)) / (2**p - 1)
            right = x - 2**p / (2**p - 1) * C2 * h ** (p + 1)
            remainders.append((left - right) / h ** (p + 2))
        equal(remainders[0], remainders[1], rtol=1e-3, atol=1e-3)  # bounded: O(h^{p+2})
        assert abs(remainders[0]) < 10


@pytest.mark.equation("eq-solve-richardson-calls")
@pytest.mark.parametrize("N", [2, 4, 10])
def test_calls_of_two_grids(N):
    D = CountCalls(Gaussian(RectifiedFlow(), torch.zeros(1, dtype=F64), std=1.0))
    last(richardson(ddim, D, torch.ones(1, 1, dtype=F64), times.uniform(N)))
    assert D.calls == N + N // 2 - 1


@SEEDS
@pytest.mark.equation("eq-solve-romberg")
def test_romberg(seed):
    """The scheme multiplied out: run it on unit vectors and read the weights."""
    for p in (1, 2):
        for k in (1, 2, 3):
            T = list(torch.eye(k + 1, dtype=F64))
            for m in range(1, k + 1):
                T = [(2 ** (p + m - 1) * T[j] - T[j + 1]) / (2 ** (p + m - 1) - 1) for j in range(len(T) - 1)]
            (w,) = T
            equal(w.sum(), 1)
            for q in range(p, p + k):
                equal(sum(float(w[j]) * 2 ** (j * q) for j in range(k + 1)), 0)


@SEEDS
@pytest.mark.equation("eq-solve-midpoint")
def test_midpoint(seed):
    y, h = numbers(seed, 2)

    def f(y):
        return math.sin(y) + y**2

    f_0 = f(y)
    f_1 = f(y + h * f_0)
    equal(2 * (y + h * f_0 + h * f_1) - (y + 2 * h * f_0), y + 2 * h * f_1)

    def euler(steps, h):
        end = y
        for _ in range(steps):
            end = end + h * f(end)
        return end

    equal(2 * euler(2, h) - euler(1, 2 * h), y + 2 * h * f_1)  # the brackets are runs of Euler's method


@SEEDS
@pytest.mark.equation("eq-solve-uneven")
def test_uneven_steps(seed):
    x, C, h_1, h_2 = numbers(seed, 4)
    for p in (1, 2, 3):
        two, one = x + C * (h_1 ** (p + 1) + h_2 ** (p + 1)), x + C * (h_1 + h_2) ** (p + 1)
        rho = (h_1 ** (p + 1) + h_2 ** (p + 1)) / (h_1 + h_2) ** (p + 1)
        equal((two - x) / (one - x), rho)
        equal((two - rho * one) / (1 - rho), x)


# The road back


@SEEDS
@pytest.mark.equation("eq-solve-inverse")
def test_the_inverse_of_a_step(seed):
    s, t, x_s, D = at(0.7, 0.3, *numbers(seed, 2))
    x_t = sigma(t) / sigma(s) * x_s + (alpha(t) - sigma(t) / sigma(s) * alpha(s)) * D
    equal(x_s, sigma(s) / sigma(t) * x_t + (alpha(s) - sigma(s) / sigma(t) * alpha(t)) * D)


@SEEDS
@pytest.mark.equation("eq-solve-round-step")
def test_the_round_trip_of_a_step(seed):
    s, t, x = at(0.7, 0.3, numbers(seed, 1)[0])

    def D(x, u):
        return torch.tanh(x + u)

    def step(x, a, b):
        return sigma(b) / sigma(a) * x + (alpha(b) - sigma(b) / sigma(a) * alpha(a)) * D(x, a)

    above = step(x, t, s)
    y_back = step(above, s, t) / alpha(t)
    eps_s, eps_t = ((z - alpha(u) * D(z, u)) / sigma(u) for z, u in ((above, s), (x, t)))
    r_s, r_t = sigma(s) / alpha(s), sigma(t) / alpha(t)
    equal(y_back - x / alpha(t), -(r_s - r_t) * (eps_s - eps_t))


@pytest.mark.equation("eq-solve-round-gaussian")
def test_the_round_trip_on_a_gaussian():
    D = Gaussian(TrigFlow(0.6), torch.zeros(1, dtype=F64), std=0.6)
    start = torch.ones(1, 1, dtype=F64)
    N, low = 8, 1e-6
    up = torch.linspace(low, 1, N + 1, dtype=F64)
    made = last(ddim(D, last(invert(D, start, up)), up.flip(0)))
    equal(made, [[math.cos(math.pi / 2 / N) ** (2 * N)]], rtol=1e-5)
    remainder = [(math.cos(math.pi / 2 / n) ** (2 * n) - 1 + math.pi**2 / 4 / n) * n**2 for n in (1000, 10_000)]
    assert remainder == pytest.approx([math.pi**4 / 32] * 2, rel=1e-2)  # bounded, and convergent


@SEEDS
@pytest.mark.equation("eq-solve-contraction")
def test_the_factor_of_the_fixed_point(seed):
    std = numbers(seed, 1)[0]
    s, t = at(0.7, 0.3)

    def iteration(x):
        D = alpha(s) * std**2 / spread(s, std) * x
        return 0.4 + (alpha(s) - sigma(s) / sigma(t) * alpha(t)) * D

    left = rate(iteration, torch.tensor(0.3, dtype=F64)).abs()
    equal(left, (alpha(s) - sigma(s) / sigma(t) * alpha(t)).abs() * alpha(s) * std**2 / spread(s, std))
    r_s, r_t = sigma(s) / alpha(s), sigma(t) / alpha(t)
    one, two = angle(s, std), angle(t, std)
    equal(left, (r_s / r_t - 1) * torch.cos(one) ** 2)
    equal(left, torch.sin(one - two) * torch.cos(one) / torch.sin(two))


@SEEDS
@pytest.mark.equation("eq-solve-bdia-back")
def test_bdia_solved_for_the_earlier_state(seed):
    gamma, older, newer, D = numbers(seed, 4)
    a, n, b = at(0.8, 0.5, 0.3)

    def phi(x, u):
        return sigma(u) / sigma(n) * x + (alpha(u) - sigma(u) / sigma(n) * alpha(n)) * D

    following = phi(newer, b) + gamma * (older - phi(newer, a))
    equal(older, phi(newer, a) + (following - phi(newer, b)) / gamma)


@pytest.mark.equation("eq-solve-residual")
@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_residual_of_bdia(gamma):
    r, left_over = 0.7, []

    def y(r):
        return math.exp(1.3 * r)

    slope, curvature = 1.3 * y(r), 1.69 * y(r)
    for h in (2e-2, 1e-2):
        left = y(r - h) - (y(r) - h * slope) - gamma * (y(r + h) - (y(r) + h * slope))
        left_over.append((left - (1 - gamma) * h**2 / 2 * curvature) / h**3)
    equal(left_over[0], left_over[1], rtol=0.05)  # bounded: O(h³)


@SEEDS
@pytest.mark.equation("eq-solve-drift")
def test_drift(seed):
    gamma, delta = numbers(seed, 2)
    e = [0.0, delta / (1 + gamma)]
    for n in range(1, 12):
        e.append((1 - gamma) * e[n] + gamma * e[n - 1] + delta)
    equal(e, [n * delta / (1 + gamma) for n in range(13)])


@SEEDS
@pytest.mark.equation("eq-solve-roots")
def test_roots(seed):
    gamma, step = numbers(seed, 2, 0.1, 1.0)
    middle = (1 - gamma) - (1 + gamma) * step
    roots = [(middle + sign * math.sqrt(middle**2 + 4 * gamma)) / 2 for sign in (1, -1)]
    for zeta in roots:
        equal(zeta**2 - middle * zeta - gamma, 0)
        older, newer = 1.0, zeta  # dy/dr = μ y, h μ = step: the rule of BDIA, downwards
        for n in range(2, 6):
            older, newer = newer, (1 - step) * newer + gamma * (older - (1 + step) * newer)
            equal(newer, zeta**n, rtol=1e-6)
    equal(roots[0] * roots[1], -gamma)
