"""Every equation of *Where to put the steps*: both sides as printed, evaluated independently."""

import itertools
import math

import numpy as np
import pytest
import torch
from sides import F64, SEEDS, equal, hermite

from minidiff import times
from minidiff.analytic import Gaussian
from minidiff.denoiser import predict
from minidiff.ode import probability_flow
from minidiff.process import CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import ddim, last, path

NODES, WEIGHTS = hermite(40)


def random(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def integral(f, low, high, n=4000):
    """Gauss–Legendre on panels."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(8))
    edges = torch.linspace(low, high, n // 8 + 1, dtype=F64)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    return (f(edges[:-1, None] + half * (1 + x)) * half * w).sum()


class Step:
    """A random step s → t of a random process on N(0, scale²)."""

    def __init__(self, seed):
        a, b, c, d, e, f = (0.3 + random(seed, 6)).tolist()
        self.scale = 0.5 * a + b
        self.alpha_s, self.sigma_s = c, 0.4 + d
        self.alpha_t, self.sigma_t = c + e, (0.4 + d) * (0.2 + 0.6 * min(f, 1))
        self.m_s = math.hypot(self.alpha_s * self.scale, self.sigma_s)
        self.m_t = math.hypot(self.alpha_t * self.scale, self.sigma_t)
        self.theta_s = math.atan(self.sigma_s / self.alpha_s / self.scale)
        self.theta_t = math.atan(self.sigma_t / self.alpha_t / self.scale)
        self.lam_s, self.lam_t = math.log(self.alpha_s / self.sigma_s), math.log(self.alpha_t / self.sigma_t)


# A product of cosines


@SEEDS
@pytest.mark.equation("eq-steps-wiener")
def test_best_guess(seed):
    """Bayes' rule on a grid."""
    s = Step(seed)
    x, x0 = 0.7, torch.linspace(-20, 20, 8001, dtype=F64) * s.scale
    weight = (-(x0**2) / (2 * s.scale**2) - (x - s.alpha_s * x0) ** 2 / (2 * s.sigma_s**2)).exp()
    equal((x0 * weight).sum() / weight.sum(), s.alpha_s * s.scale**2 / s.m_s**2 * x)


@SEEDS
@pytest.mark.equation("eq-steps-angle")
def test_angle(seed):
    s = Step(seed)
    equal(math.cos(s.theta_s), s.alpha_s * s.scale / s.m_s)
    equal(math.sin(s.theta_s), s.sigma_s / s.m_s)


@SEEDS
@pytest.mark.equation("eq-steps-exact")
def test_exact_path(seed):
    process, scale = (LinearVP(), RectifiedFlow(), CosineVP())[seed], 0.4 + seed / 2
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=scale)
    ends = torch.tensor([0.9, 0.1], dtype=F64)
    x = torch.tensor([[1.3], [-0.2]], dtype=F64)
    moved = last(probability_flow(D, x, torch.linspace(0.9, 0.1, 401, dtype=F64)))
    m = (process.alpha(ends) ** 2 * scale**2 + process.sigma(ends) ** 2).sqrt()
    equal(moved / m[1], x / m[0], rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-steps-ddim")
def test_ddim_step(seed):
    process = (LinearVP(), RectifiedFlow(), CosineVP())[seed]
    D = Gaussian(process, torch.full((1,), 0.3, dtype=F64), std=0.6)
    grid = torch.tensor([0.8, 0.35], dtype=F64)
    x = torch.tensor([[1.3], [-0.2]], dtype=F64)
    (a_s, a_t), (s_s, s_t) = process.alpha(grid), process.sigma(grid)
    x0 = D(x, grid[0])
    eps = (x - a_s * x0) / s_s
    equal(a_t * x0 + s_t * eps, s_t / s_s * x + (a_t - a_s * s_t / s_s) * x0)  # its published form
    equal(last(ddim(D, x, grid)), s_t / s_s * x + (a_t - a_s * s_t / s_s) * x0)


@SEEDS
@pytest.mark.equation("eq-steps-cosine-factor")
def test_cosine_factor(seed):
    s = Step(seed)
    x = 1.7
    d = s.alpha_s * s.scale**2 / s.m_s**2 * x
    stepped = s.sigma_t / s.sigma_s * x + (s.alpha_t - s.alpha_s * s.sigma_t / s.sigma_s) * d
    sin_s, cos_s, sin_t, cos_t = (f(a) for a in (s.theta_s, s.theta_t) for f in (math.sin, math.cos))
    equal(stepped / s.m_t, x / s.m_s * (sin_t / sin_s + (cos_t - cos_s * sin_t / sin_s) * cos_s))
    equal(stepped / s.m_t, x / s.m_s * (sin_t * sin_s + cos_t * cos_s))
    equal(stepped / s.m_t, x / s.m_s * math.cos(s.theta_s - s.theta_t))


@SEEDS
@pytest.mark.equation("eq-steps-contraction")
def test_contraction(seed):
    process, scale = (LinearVP(), RectifiedFlow(), CosineVP())[seed], 0.4 + seed / 2
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=scale)
    grid = torch.cat([torch.tensor([0.95]).double(), 0.05 + 0.85 * random(seed, 5)]).sort(descending=True).values
    m = (process.alpha(grid) ** 2 * scale**2 + process.sigma(grid) ** 2).sqrt()
    x = m[:1, None] * torch.tensor([[1.0], [-2.0]], dtype=F64)
    theta = torch.atan(process.sigma(grid) / process.alpha(grid) / scale)
    ratio = last(ddim(D, x, grid)) / (m[-1] * x / m[0])
    equal(ratio, (theta[:-1] - theta[1:]).cos().prod().expand(2, 1))


@SEEDS
@pytest.mark.equation("eq-steps-concave")
def test_concave(seed):
    h = (2.4 * random(seed, 5) - 1.2).requires_grad_(True)
    (slope,) = torch.autograd.grad(h.cos().log().sum(), h, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), h)
    equal(curvature, -1 / h.detach().cos() ** 2)
    assert bool((curvature < 0).all())


@SEEDS
@pytest.mark.equation("eq-steps-jensen")
def test_jensen(seed):
    shares = random(seed, 20, 6) + 1e-3
    whole = 1.5
    h = whole * shares / shares.sum(1, keepdim=True)
    assert bool((h.cos().log().sum(1) <= 6 * math.log(math.cos(whole / 6))).all())
    equal(torch.full((6,), whole / 6).cos().log().double().sum(), 6 * math.log(math.cos(whole / 6)), rtol=1e-6)


@pytest.mark.equation("eq-steps-expansion")
def test_expansion():
    """The rest divided by N⁻⁵ tends to −Θ⁶/45."""
    whole = 1.5
    for n in (16, 32):
        rest = n * math.log(math.cos(whole / n)) + whole**2 / (2 * n) + whole**4 / (12 * n**3)
        equal(rest * n**5, -(whole**6) / 45, rtol=0.02)


@SEEDS
@pytest.mark.equation("eq-steps-two-scale")
def test_two_scales(seed):
    """From DDIM itself on independent directions."""
    scales, process = torch.tensor([2.0, 0.3, 0.7], dtype=F64), RectifiedFlow()
    D = Gaussian(process, torch.zeros(3, dtype=F64), covariance=torch.diag(scales**2))
    grid = (0.05 + 0.9 * random(seed, 5)).sort(descending=True).values
    alpha, sigma = process.alpha(grid), process.sigma(grid)
    m = (alpha[:, None] ** 2 * scales**2 + sigma[:, None] ** 2).sqrt()
    factors = last(ddim(D, m[:1], grid))[0] / m[-1]
    cosines = torch.atan((sigma / alpha)[:, None] / scales).diff(dim=0).cos()
    loss = -factors.prod().log()
    equal(loss, -cosines.prod().log())
    equal(loss, -cosines.log().sum())


@SEEDS
@pytest.mark.equation("eq-steps-stationary")
def test_stationary(seed):
    """The derivative by automatic differentiation, and zero at the minimum of a search."""
    scales = torch.tensor([2.0, 0.3], dtype=F64)
    r = (0.02 + 5 * random(seed, 6)).sort(descending=True).values.requires_grad_(True)
    theta = torch.atan(r / scales[:, None])
    (slope,) = torch.autograd.grad(-theta.diff(dim=1).cos().log().sum(), r)
    theta, r = theta.detach(), r.detach()
    rate = 1 / scales[:, None] / (1 + (r / scales[:, None]) ** 2)
    jumps = (theta[:, :-1] - theta[:, 1:]).tan()
    equal(slope[1:-1], (rate[:, 1:-1] * (jumps[:, 1:] - jumps[:, :-1])).sum(0))
    line = torch.linspace(float(r[2]), float(r[0]), 200001, dtype=F64)[1:-1]
    ends = torch.atan(r[[0, 2]] / scales[:, None])
    own = torch.atan(line / scales[:, None])
    loss = -((ends[:, :1] - own).cos() * (own - ends[:, 1:]).cos()).log().sum(0)
    best = own[:, int(loss.argmin())]
    rate = 1 / scales / (1 + (line[int(loss.argmin())] / scales) ** 2)
    equal((rate * ((best - ends[:, 1]).tan() - (ends[:, 0] - best).tan())).sum(), 0.0, atol=1e-4)


@SEEDS
@pytest.mark.equation("eq-steps-small-step")
def test_small_step(seed):
    scales, r = torch.tensor([2.0, 0.3], dtype=F64), 0.1 + float(random(seed))
    speed = (1 / scales / (1 + (r / scales) ** 2)).square().sum()
    rest = []
    for dr in (1e-2, 5e-3):
        jump = torch.atan(r / scales) - torch.atan((r + dr) / scales)
        rest.append(float(-jump.cos().log().sum() - speed * dr**2 / 2))
    assert rest[0] / rest[1] == pytest.approx(8, rel=0.1)  # O(dr³)


# Equal shares


def density(seed):
    a, b, c = (0.5 + random(seed, 3)).tolist()
    return (
        lambda u: (a * torch.sin(3 * b * u) + c * u).exp(),
        lambda u: 1 + 0.8 * torch.cos(2 * math.pi * u) * min(1.0, a),
    )


@pytest.mark.parametrize("p", [1, 2, 3])
@SEEDS
@pytest.mark.equation("eq-steps-total-error")
def test_total_error(seed, p):
    """Nodes at equal shares of ρ; the gap closes like 1/N or faster."""
    m, rho = density(seed)
    u = torch.linspace(0, 1, 200001, dtype=F64)
    share = torch.cat([u.new_zeros(1), torch.cumulative_trapezoid(rho(u), u)])
    equal(share[-1], 1.0, rtol=1e-6)
    limit, gaps = integral(lambda u: m(u) * rho(u) ** -p, 0, 1), []
    for n in (50, 100, 800):
        at = torch.searchsorted(share, torch.linspace(0, 1, n + 1, dtype=F64) * share[-1]).clamp(max=len(u) - 1)
        nodes = u[at]
        gaps.append(abs(float(n**p * (m(nodes[:-1]) * nodes.diff() ** (p + 1)).sum() / limit) - 1))
    assert gaps[2] < 0.01 and gaps[2] < gaps[0]


@pytest.mark.parametrize("p", [1, 2, 3])
@SEEDS
@pytest.mark.equation("eq-steps-hoelder")
@pytest.mark.equation("eq-steps-monitor")
@pytest.mark.equation("eq-steps-equal-shares")
def test_optimal_density(seed, p):
    m, rho = density(seed)
    root = integral(lambda u: m(u) ** (1 / (p + 1)), 0, 1)
    least = root ** (p + 1)
    assert float(least) <= float(integral(lambda u: m(u) * rho(u) ** -p, 0, 1) * integral(rho, 0, 1) ** p)

    def best(u):
        return m(u) ** (1 / (p + 1)) / root

    equal(integral(best, 0, 1), 1.0)
    equal(integral(lambda u: m(u) * best(u) ** -p, 0, 1), least)
    u, n = random(seed, 5), 7
    h = 1 / (n * best(u))
    equal(m(u) * h ** (p + 1), (n ** (-p - 1) * least).expand(5))


@pytest.mark.parametrize("p", [1, 2])
@SEEDS
@pytest.mark.equation("eq-steps-change")
def test_change_of_coordinate(seed, p):
    """v = u + u²: an error M_u h_u^{p+1} is the same number whoever measures the step."""
    m, _ = density(seed)

    def m_v(v):
        u = (torch.sqrt(1 + 4 * v) - 1) / 2
        return m(u) * (1 / (1 + 2 * u)) ** (p + 1)

    u, h = random(seed, 4), 1e-6
    v, h_v = u + u**2, (u + h) + (u + h) ** 2 - (u + u**2)
    equal(m_v(v) * h_v ** (p + 1), m(u) * h ** (p + 1), rtol=1e-5, atol=0)
    equal(
        integral(lambda v: m_v(v) ** (1 / (p + 1)), 0, 2),
        integral(lambda u: m(u) ** (1 / (p + 1)), 0, 1),
        rtol=1e-7,
    )


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.equation("eq-steps-beliefs")
def test_beliefs(p):
    """With that M, the local errors M h^{p+1} of many steps of the grid are equal."""
    scale, rho, n = 0.5, 7.0, 20000
    grids = {
        "log": (torch.log, torch.exp, lambda r: r ** -(p + 1)),
        "karras": (lambda r: r ** (1 / rho), lambda w: w**rho, lambda r: r ** (-(p + 1) * (1 - 1 / rho))),
        "angle": (
            lambda r: torch.atan(r / scale),
            lambda w: scale * w.tan(),
            lambda r: (scale / (scale**2 + r**2)) ** (p + 1),
        ),
    }
    for of_r, to_r, m in grids.values():
        ends = of_r(torch.tensor([0.01, 5.0], dtype=F64))
        r = to_r(torch.linspace(*ends.tolist(), n + 1, dtype=F64))
        errors = m((r[1:] + r[:-1]) / 2) * r.diff() ** (p + 1)
        assert float(errors.max() / errors.min()) == pytest.approx(1, abs=1e-3)


# With noise


def mse(snr, s):
    """E|x_0 − D|² for N(0, s²) by quadrature over x_0 and ε, at α² = SNR, σ = 1."""
    x0, eps = s * NODES[:, None], NODES
    x = math.sqrt(snr) * x0 + eps
    guess = math.sqrt(snr) * s**2 / (snr * s**2 + 1) * x
    return float((WEIGHTS[:, None] * WEIGHTS * (x0 - guess) ** 2).sum())


@SEEDS
@pytest.mark.equation("eq-steps-bound-cost")
def test_bound_cost(seed):
    s, snr_s, gain = (0.2 + random(seed, 3)).tolist()
    snr_t = snr_s + gain
    middle = 0.5 * (snr_t - snr_s) * s**2 / (1 + s**2 * snr_s)
    equal(0.5 * (snr_t - snr_s) * mse(snr_s, s), middle)
    equal(middle, 0.5 * ((1 + s**2 * snr_t) / (1 + s**2 * snr_s) - 1))


@SEEDS
@pytest.mark.equation("eq-steps-am-gm")
def test_am_gm(seed):
    for draw in range(20):
        nu = 1 + 5 * random(100 * seed + draw, 6).cumsum(0)
        n = len(nu) - 1
        total = float((nu[1:] / nu[:-1] - 1).sum() / 2)
        best = n / 2 * ((float(nu[-1]) / float(nu[0])) ** (1 / n) - 1)
        assert total >= best >= math.log(float(nu[-1]) / float(nu[0])) / 2
    even = torch.logspace(0, 1, 6, dtype=F64)
    equal((even[1:] / even[:-1] - 1).sum() / 2, 5 / 2 * (10 ** (1 / 5) - 1))
    equal(1e6 / 2 * (10**1e-6 - 1), math.log(10) / 2, rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-steps-geometric")
def test_geometric_nodes(seed):
    s, low, high = 0.3 + float(random(seed)), 0.01, 50.0
    nu0, nun, n = 1 + s**2 * low, 1 + s**2 * high, 5
    nodes = torch.tensor([(nu0 ** (1 - i / n) * nun ** (i / n) - 1) / s**2 for i in range(n + 1)], dtype=F64)
    equal(nodes[[0, -1]], [low, high])

    def cost(snr):
        return float(sum((b - a) / 2 * mse(a, s) for a, b in itertools.pairwise(snr.tolist())))

    least = cost(nodes)
    equal(least, n / 2 * ((nun / nu0) ** (1 / n) - 1))
    for draw in range(8):
        moved = nodes.clone()
        moved[1:-1] *= (0.1 * (random(50 * seed + draw, n - 1) - 0.5)).exp()
        assert cost(moved) >= least


@SEEDS
@pytest.mark.equation("eq-steps-sine")
def test_sine(seed):
    s = Step(seed)
    nu = 1 + s.scale**2 * (s.alpha_s / s.sigma_s) ** 2
    equal(nu, 1 + 1 / math.tan(s.theta_s) ** 2)
    equal(nu, 1 / math.sin(s.theta_s) ** 2)


POINTS, SHARES = torch.tensor([-1.0, 0.3, 1.4], dtype=F64), torch.tensor([0.3, 0.5, 0.2], dtype=F64)


def guess(x, snr):
    """D for the three numbers, x = x_0 + noise of variance 1/SNR."""
    return ((-((x[..., None] - POINTS) ** 2) * snr / 2 + SHARES.log()).softmax(-1) * POINTS).sum(-1)


def three_numbers(snr_s, snr_t):
    """(mse_s, mse_t, E|D_t − D_s|²) over the joint law: x_t = x_0 + noise, x_s = x_t + more noise."""
    x_t = POINTS[:, None, None] + NODES[:, None] / math.sqrt(snr_t)
    x_s = x_t + NODES * math.sqrt(1 / snr_s - 1 / snr_t)
    weight = SHARES[:, None, None] * WEIGHTS[:, None] * WEIGHTS
    d_t, d_s = guess(x_t, snr_t), guess(x_s, snr_s)
    x0 = POINTS[:, None, None]
    return tuple(float((weight * v).sum()) for v in ((x0 - d_s) ** 2, (x0 - d_t) ** 2, (d_t - d_s) ** 2))


@pytest.mark.parametrize(("snr_s", "snr_t"), [(0.2, 0.5), (0.5, 1.5), (0.1, 2.0)])
@pytest.mark.equation("eq-steps-martingale")
def test_martingale(snr_s, snr_t):
    before, after, moved = three_numbers(snr_s, snr_t)
    equal(moved, before - after, rtol=1e-6)


@pytest.mark.equation("eq-steps-klub")
def test_frozen_denoiser():
    """The left side from the martingale increments themselves, on the three numbers."""
    low, high = 0.3, 1.2
    x, w = np.polynomial.legendre.leggauss(12)
    snr = low + (high - low) * (x + 1) / 2
    values = [three_numbers(low, float(v)) for v in snr]
    weights = (high - low) / 2 * w
    left = sum(weight * (v[0] - v[1]) for weight, v in zip(weights, values, strict=True)) / 2
    frozen = sum(weight * v[2] for weight, v in zip(weights, values, strict=True)) / 2
    equal(left, frozen, rtol=1e-6)
    first = (high - low) / 2 * three_numbers(low, high)[0]
    equal(left, first - sum(weight * v[1] for weight, v in zip(weights, values, strict=True)) / 2, rtol=1e-9)


# Shortest path


@pytest.mark.equation("eq-steps-subsets")
def test_number_of_subsets():
    for last_node in (1, 4, 7):
        counted = sum(1 for n in range(1, last_node + 1) for _ in itertools.combinations(range(1, last_node), n - 1))
        assert counted == sum(math.comb(last_node - 1, n - 1) for n in range(1, last_node + 1)) == 2 ** (last_node - 1)


@SEEDS
@pytest.mark.equation("eq-steps-bellman")
def test_bellman(seed):
    """Both sides by enumeration of all paths."""
    c = random(seed, 7, 7)

    def least(k, j):
        paths = ([0, *inner, j] for inner in itertools.combinations(range(1, j), k - 1))
        return min((float(sum(c[a, b] for a, b in itertools.pairwise(p))) for p in paths), default=math.inf)

    for j in range(1, 7):
        equal(least(1, j), c[0, j])
        for k in range(2, j + 1):
            equal(least(k, j), min(least(k - 1, i) + float(c[i, j]) for i in range(1, j)))


# A solver of two values


@SEEDS
@pytest.mark.equation("eq-steps-mean-cosine")
def test_mean_cosine(seed):
    s = Step(seed)

    def weighted(f):
        return integral(lambda lam: lam.exp() * f(torch.atan((-lam).exp() / s.scale)), s.lam_s, s.lam_t)

    mean = weighted(torch.cos) / weighted(torch.ones_like)
    sin_s, sin_t = math.sin(s.theta_s), math.sin(s.theta_t)
    equal(mean, (1 / sin_t - 1 / sin_s) / (1 / math.tan(s.theta_t) - 1 / math.tan(s.theta_s)))
    equal(mean, math.cos((s.theta_s + s.theta_t) / 2) / math.cos((s.theta_s - s.theta_t) / 2))


@SEEDS
@pytest.mark.equation("eq-steps-two-value")
def test_two_values(seed):
    """The exact solution with D linear in cos θ through two values."""
    s = Step(seed)
    d_s, d_before = random(seed + 10, 2).tolist()
    c_s, c_before = math.cos(s.theta_s), 0.5 * math.cos(s.theta_s)
    x = 0.8

    def line(theta):
        return d_s + (theta.cos() - c_s) / (c_s - c_before) * (d_s - d_before)

    drive = integral(lambda lam: (lam - s.lam_t).exp() * line(torch.atan((-lam).exp() / s.scale)), s.lam_s, s.lam_t)
    exact = s.sigma_t / s.sigma_s * x + s.alpha_t * drive
    mean = math.cos((s.theta_s + s.theta_t) / 2) / math.cos((s.theta_s - s.theta_t) / 2)
    kappa = (mean - c_s) / (c_s - c_before)
    held = (1 + kappa) * d_s - kappa * d_before
    equal(exact, s.sigma_t / s.sigma_s * x + (s.alpha_t - s.alpha_s * s.sigma_t / s.sigma_s) * held)


# Taylor


class Bent:
    """Data N(mean, std²) in one dimension on the rectified flow, with its exact path."""

    def __init__(self, seed):
        self.mean, self.std = (0.3 + random(seed, 2)).tolist()
        self.process = RectifiedFlow()
        self.D = Gaussian(self.process, torch.full((1,), self.mean, dtype=F64), std=self.std)
        self.z = float(random(seed + 7)) * 2 - 1

    def x(self, t):
        return (1 - t) * self.mean + math.hypot((1 - t) * self.std, t) * self.z

    def at(self, t):
        """x, D and ε̂ at t."""
        x, time = torch.tensor([[self.x(t)]], dtype=F64), torch.tensor(t, dtype=F64)
        return float(x), float(self.D(x, time)), float(predict(self.D, x, time, "eps"))

    def of_r(self, r):
        return self.at(r / (1 + r))


def difference(f, x, h=1e-4):
    return (f(x + h) - f(x - h)) / (2 * h)


@SEEDS
@pytest.mark.equation("eq-steps-ode-r")
def test_flow_in_r(seed):
    bent, r = Bent(seed), 0.7
    x, x0, eps = bent.of_r(r)
    equal(difference(lambda r: bent.of_r(r)[0] * (1 + r), r), eps, rtol=1e-6)
    equal(x * (1 + r), x0 + r * eps)


@SEEDS
@pytest.mark.equation("eq-steps-taylor")
def test_taylor(seed):
    bent, r = Bent(seed), 0.7
    slope = difference(lambda r: bent.of_r(r)[2], r)
    rest = []
    for h in (-0.04, -0.02):
        y_t, y_s = ((1 + v) * bent.of_r(v)[0] for v in (r + h, r))
        rest.append(y_t - (y_s + h * bent.of_r(r)[2] + h**2 / 2 * slope))
    assert rest[0] / rest[1] == pytest.approx(8, rel=0.15)


@SEEDS
@pytest.mark.equation("eq-steps-eps-rate")
def test_eps_rate(seed):
    bent, r = Bent(seed), 0.7
    equal(difference(lambda r: bent.of_r(r)[2], r), -difference(lambda r: bent.of_r(r)[1], r) / r, rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-steps-jvp")
def test_chain_rule(seed):
    bent, t = Bent(seed), 0.4
    x, time = torch.tensor([[bent.x(t)]], dtype=F64), torch.tensor(t, dtype=F64)

    def at(x, t):
        return float(bent.D(torch.tensor([[x]], dtype=F64), torch.tensor(t, dtype=F64)))

    by_x = difference(lambda v: at(v, t), float(x))
    by_t = difference(lambda v: at(float(x), v), t)
    velocity = float(predict(bent.D, x, time, "velocity"))
    equal(difference(lambda v: bent.at(v)[1], t), by_x * velocity + by_t, rtol=1e-6)


# Adaptive steps


@SEEDS
@pytest.mark.equation("eq-steps-estimate")
def test_estimate(seed):
    """x′ and x″ from the integrals with D constant and linear in cos θ."""
    s = Step(seed)
    d_s, d_t = random(seed + 20, 2).tolist()
    c_s, c_t = math.cos(s.theta_s), math.cos(s.theta_t)

    def solution(of_theta):
        kernel = integral(
            lambda lam: (lam - s.lam_t).exp() * of_theta(torch.atan((-lam).exp() / s.scale)), s.lam_s, s.lam_t
        )
        return s.sigma_t / s.sigma_s * 0.8 + s.alpha_t * kernel

    low = solution(lambda theta: torch.full_like(theta, d_s))
    high = solution(lambda theta: d_s + (theta.cos() - c_s) / (c_t - c_s) * (d_t - d_s))
    b = s.alpha_t - s.alpha_s * s.sigma_t / s.sigma_s
    mean = math.cos((s.theta_s + s.theta_t) / 2) / math.cos((s.theta_s - s.theta_t) / 2)
    equal(high - low, b * (mean - c_s) / (c_t - c_s) * (d_t - d_s))


@SEEDS
@pytest.mark.equation("eq-steps-controller")
def test_controller(seed):
    c, h, q = 3 * float(random(seed)) + 0.1, 0.2, 2 + seed
    best = h * (c * h**q) ** (-1 / q)
    equal(c * best**q, 1.0)


@SEEDS
@pytest.mark.equation("eq-steps-worst")
def test_worst(seed):
    p = random(seed, 4)
    p = p / p.sum()
    for batch in (1, 2, 3):
        for n in range(4):
            chance = sum(
                math.prod(float(p[k]) for k in draw)
                for draw in itertools.product(range(4), repeat=batch)
                if max(draw) <= n
            )
            equal(chance, float(p[: n + 1].sum()) ** batch)


@SEEDS
@pytest.mark.equation("eq-steps-bridge")
def test_bridge(seed):
    """w_{h′} + the rest = w_h, conditioned by Bayes' rule on a grid."""
    part, rest, w = (0.3 + random(seed, 3)).tolist()
    h = part + rest
    x = torch.linspace(-12, 12, 24001, dtype=F64)
    weight = (-(x**2) / (2 * part) - (w - x) ** 2 / (2 * rest)).exp()
    weight = weight / weight.sum()
    mean = (x * weight).sum()
    equal(mean, part / h * w)
    equal(((x - mean) ** 2 * weight).sum(), part * (h - part) / h)


# Geometry


@SEEDS
@pytest.mark.equation("eq-steps-plane")
def test_path_in_a_plane(seed):
    process, scale = (LinearVP(), CosineVP(s=0.1), LinearVP(0.5, 8))[seed], 0.6
    mu = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=F64)
    D = Gaussian(process, mu, std=scale)
    grid = times.uniform(400, start=0.98, end=0.05)
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed + 1), dtype=F64)
    moved = path(probability_flow(D, x, grid))[::50]
    alpha, sigma = process.alpha(grid)[::50, None, None], process.sigma(grid)[::50, None, None]
    m = (alpha**2 * scale**2 + sigma**2).sqrt()
    equal(moved, alpha * mu + m / m[0] * (x - alpha[0] * mu), rtol=1e-5, atol=1e-6)
