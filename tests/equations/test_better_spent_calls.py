"""Every equation of *Start late, run in parallel, choose*: both sides as printed, evaluated independently.

Densities are one-dimensional mixtures written out here and integrated on a fine grid; discrete laws are enumerated.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from odes import even, rk4
from sides import F64, LINE, SEEDS, equal, gen, integral, normal, normals
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from minidiff import samplers, times
from minidiff.analytic import GaussianMixture
from minidiff.process import LinearVP, RectifiedFlow

NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(80))


def uniforms(seed, *shape, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=gen(seed), dtype=F64)


def kl(p, q, x=LINE):
    tiny = 1e-300
    return integral(p * ((p + tiny) / (q + tiny)).log(), x)


class Cloud:
    """A mixture of two Gaussians, noised by the rectified flow; densities and denoisers by Bayes' rule."""

    def __init__(self, seed, shares=None, means=None, stds=None):
        a, b, c, d, e = uniforms(seed, 5).tolist()
        self.shares = torch.tensor(shares or [0.3 + 0.4 * a, 0.7 - 0.4 * a], dtype=F64)
        self.means = torch.tensor(means or [-1.5 + b, 0.5 + c], dtype=F64)
        self.stds = torch.tensor(stds or [0.4 + 0.4 * d, 0.5 + 0.5 * e], dtype=F64)

    def parts(self, x, t):
        variance = ((1 - t) * self.stds) ** 2 + t**2
        return self.shares * normal(x[..., None], (1 - t) * self.means, variance), variance

    def density(self, x, t):
        return self.parts(x, t)[0].sum(-1)

    def denoise(self, x, t):
        parts, variance = self.parts(x, t)
        inside = self.means + (1 - t) * self.stds**2 / variance * (x[..., None] - (1 - t) * self.means)
        return (parts * inside).sum(-1) / parts.sum(-1)


def snr_rate(t):
    """−dSNR/dt of the rectified flow, by automatic differentiation."""
    t = torch.tensor(t, dtype=F64, requires_grad=True)
    (rate,) = torch.autograd.grad((1 - t) ** 2 / t**2, t)
    return -float(rate)


def prior_of(seed):
    """A single Gaussian, as a cloud."""
    m, s = uniforms(seed + 40, 2).tolist()
    return Cloud(0, shares=[0.5, 0.5], means=[m, m], stds=[0.5 + s, 0.5 + s])


def wrong(cloud):
    """A network's answer: the denoiser and an error that depends on the place and the time."""
    return lambda x, t: cloud.denoise(x, t) + 0.1 * torch.sin(3 * x) * (1 + t)


def squared(cloud, estimate, t):
    """E‖x_0 − d(x_t)‖² by integrating over the components' joint law of x_0 and x_t."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    total = 0.0
    for share, mean, std in zip(cloud.shares, cloud.means, cloud.stds, strict=True):
        x0 = mean + std * nodes[:, None]
        x = (1 - t) * x0 + t * nodes[None]
        total = total + share * ((x0 - estimate(x, t)) ** 2 * weights[:, None] * weights).sum()
    return total


# Start late


@SEEDS
@pytest.mark.equation("eq-calls-processing")
def test_processing(seed):
    kernel = uniforms(seed, 6, 6)  # K(x_0 | x_T), a column for each x_T
    kernel = kernel / kernel.sum(0)
    p, pi = (uniforms(seed + s, 6) for s in (1, 2))
    p, pi = p / p.sum(), pi / pi.sum()

    def divergence(p, q):
        return float((p * (p / q).log()).sum())

    assert divergence(kernel @ p, kernel @ pi) <= divergence(p, pi)
    joint = divergence((kernel * p).flatten(), (kernel * pi).flatten())
    equal(joint, divergence(p, pi))  # the argument: the kernel itself costs nothing
    marked = torch.eye(6, dtype=F64)[torch.randperm(6, generator=gen(seed))]
    equal(divergence(marked @ p, marked @ pi), divergence(p, pi))


@SEEDS
@pytest.mark.equation("eq-calls-budget")
def test_budget(seed):
    """One Gaussian, VP in the time B, a score −k x/v: the reverse SDE's variance solves a linear equation."""
    c, factor = uniforms(seed, 2, low=0.5, high=1.6).tolist()
    c = 0.6 + c
    for length in (0.5, 1.5, 4.0):
        steps = 4000
        grid = torch.linspace(length, 0, steps + 1, dtype=F64)
        v = 1 + (c**2 - 1) * torch.exp(-grid)
        spreads = v.tolist()
        made, h = 1.0, length / steps
        for i in range(steps):  # dx = (x/2 + s) h + noise h backwards, with s = −k x/v: midpoint rule in the variance
            half = made + h / 2 * ((1 - 2 * factor / spreads[i]) * made + 1)
            middle = (spreads[i] + spreads[i + 1]) / 2
            made = made + h * ((1 - 2 * factor / middle) * half + 1)
        left = float(kl_divergence(Normal(0.0, c), Normal(0.0, math.sqrt(made))))
        gap = float(kl_divergence(Normal(0.0, v[0].sqrt()), Normal(torch.tensor(0.0, dtype=F64), 1.0)))
        # In denoisers: D − x̂_0 = (σ²/α)(s − ŝ), −dSNR/dB = e^{−B}/(1 − e^{−B})², E x² = v
        signal, noise = torch.exp(-grid[:-1]), 1 - torch.exp(-grid[:-1])
        off = noise**2 / signal * (1 - factor) ** 2 / v[:-1]
        error = float(torch.trapezoid((signal / noise**2 * off).flip(0), grid[:-1].flip(0))) / 2
        assert left <= gap + error + 1e-4
        assert gap + error > 0


@SEEDS
@pytest.mark.equation("eq-calls-budget")
def test_the_budget_is_spent_to_the_last(seed):
    """Equality where x̂_0 is the exact denoiser of other data and π_T their law at T: then the paths differ no more."""
    c, other = uniforms(seed, 2, low=0.4, high=2).tolist()
    for length in (0.5, 4.0):
        B = length / 2 * (NODES + 1)
        signal, noise = torch.exp(-B), 1 - torch.exp(-B)
        v, v_other = (signal * s**2 + noise for s in (c, other))
        slopes = signal.sqrt() * c**2 / v, signal.sqrt() * other**2 / v_other  # D and x̂_0 are these times x
        off = (slopes[0] - slopes[1]) ** 2 * v
        area = (length / 2 * WEIGHTS * signal / noise**2 * off).sum()  # −dSNR/dB = e^{−B}/(1 − e^{−B})²
        ends = (1 + (s**2 - 1) * math.exp(-length) for s in (c, other))
        gap = kl_divergence(*(Normal(0.0, math.sqrt(s)) for s in ends))
        equal(kl_divergence(Normal(0.0, c), Normal(0.0, other)), gap + area / 2, rtol=1e-5, atol=1e-6)


@SEEDS
@pytest.mark.equation("eq-calls-gap-rate")
def test_gap_rate(seed):
    data, prior = Cloud(seed), prior_of(seed)
    for t in (0.3, 0.6, 0.8):
        h = 1e-4
        left = (
            kl(data.density(LINE, t + h), prior.density(LINE, t + h))
            - kl(data.density(LINE, t - h), prior.density(LINE, t - h))
        ) / (2 * h)
        gap = (data.denoise(LINE, t) - prior.denoise(LINE, t)) ** 2
        equal(left, -snr_rate(t) / 2 * integral(data.density(LINE, t) * gap), rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-calls-cost-rate")
def test_cost_rate(seed):
    data, prior, t = Cloud(seed), prior_of(seed), 0.55
    network = wrong(data)

    def score_error(t):
        return integral(data.density(LINE, t) * (data.denoise(LINE, t) - network(LINE, t)) ** 2)

    def budget(end, start=0.4):  # the part of the integral below `start` does not depend on T
        nodes = (start + end) / 2 + (end - start) / 2 * NODES
        rate = torch.stack([snr_rate(float(s)) * score_error(float(s)) for s in nodes])
        area = (end - start) / 2 * (WEIGHTS * rate).sum()
        return kl(data.density(LINE, end), prior.density(LINE, end)) + area / 2

    h = 1e-4
    left = (budget(t + h) - budget(t - h)) / (2 * h)
    prior_error = integral(data.density(LINE, t) * (data.denoise(LINE, t) - prior.denoise(LINE, t)) ** 2)
    equal(left, snr_rate(t) / 2 * (score_error(t) - prior_error), rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-calls-excess")
def test_excess(seed):
    data, prior = Cloud(seed), prior_of(seed)
    network = wrong(data)
    for t in (0.4, 0.7):
        p, D = data.density(LINE, t), data.denoise(LINE, t)
        left = integral(p * ((D - network(LINE, t)) ** 2 - (D - prior.denoise(LINE, t)) ** 2))
        equal(left, squared(data, network, t) - squared(data, prior.denoise, t), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-calls-gauss-gap")
@pytest.mark.equation("eq-calls-fisher")
def test_gap_of_a_gaussian(seed):
    c, B = uniforms(seed, 2, low=0.3, high=2.5).tolist()
    v = 1 + (c**2 - 1) * math.exp(-B)
    equal(v, c**2 * math.exp(-B) + 1 - math.exp(-B))
    p, pi = normal(LINE, 0, v), normal(LINE, 0, 1.0)
    equal(kl(p, pi), (v - 1 - math.log(v)) / 2)
    x = LINE.clone().requires_grad_(True)
    slopes = [torch.autograd.grad(Normal(0, s).log_prob(x).sum(), x)[0] for s in (math.sqrt(v), 1.0)]
    equal(integral(p * (slopes[0] - slopes[1]) ** 2), (v - 1) ** 2 / v, rtol=1e-6)
    equal(integral(p * (LINE - LINE / v) ** 2), (v - 1) ** 2 / v)


@SEEDS
@pytest.mark.equation("eq-calls-best-v")
@pytest.mark.equation("eq-calls-best-time")
def test_best_length(seed):
    eps = float(uniforms(seed, 1, low=0.02, high=0.5))
    for c, sign in ((2.0 + seed, 1), (0.4 - 0.1 * seed, -1)):
        v = 1 + eps**2 / 2 + sign * eps * math.sqrt(1 + eps**2 / 4)
        equal((v - 1) ** 2, eps**2 * v)
        assert (v - 1) * (c**2 - 1) > 0
        best = math.log((c**2 - 1) / (v - 1))
        equal(1 + (c**2 - 1) * math.exp(-best), v)
        B = torch.linspace(max(best - 2, 1e-6), best + 2, 400_001, dtype=F64)
        spread = 1 + (c**2 - 1) * torch.exp(-B)
        budget = (spread - 1 - spread.log()) / 2 + eps**2 * B / 2
        equal(B[budget.argmin()], best, rtol=0, atol=1e-4)
        for small in (1e-2, 1e-3):
            v = 1 + small**2 / 2 + sign * small * math.sqrt(1 + small**2 / 4)
            exact, short = math.log((c**2 - 1) / (v - 1)), math.log(abs(c**2 - 1) / small)
            assert abs(exact - short) < small


@SEEDS
@pytest.mark.equation("eq-calls-moments")
def test_moments(seed):
    cloud = Cloud(seed)
    p = cloud.density(LINE, 0.0)
    m = integral(LINE * p)
    C = integral((LINE - m) ** 2 * p)
    mu, Sigma = uniforms(seed + 3, 2, low=0.4, high=2).tolist()
    gaussians = Normal(m, C.sqrt()), Normal(torch.tensor(mu, dtype=F64), math.sqrt(Sigma))
    right = kl(p, normal(LINE, m, C)) + kl_divergence(*gaussians)
    equal(kl(p, normal(LINE, mu, Sigma)), right, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-calls-contraction-flow")
@pytest.mark.equation("eq-calls-contraction-chain")
def test_contraction(seed):
    c, alpha, sigma, e = uniforms(seed, 4, low=0.2, high=1.5).tolist()
    theta = math.atan(sigma / (alpha * c))

    def flow(x, steps=2000):
        """dy/dr = (y − D)/r from y = x/α down to r = 0 (nearly), by Runge–Kutta in log r."""

        def slope(log_r, y):
            return y * (1 - c**2 / (c**2 + math.exp(2 * log_r)))

        return rk4(slope, x / alpha, even(math.log(sigma / alpha), -12, steps))

    noise = 0.7
    x_true, x_guess = alpha * 0.4 + sigma * noise, alpha * (0.4 + e) + sigma * noise
    printed = c / math.sqrt(alpha**2 * c**2 + sigma**2) * alpha * e
    equal(flow(x_guess) - flow(x_true), printed)
    equal(printed, math.cos(theta) * e)
    x0 = LINE[None]

    def posterior_mean(x):
        weight = normal(x, alpha * x0, sigma**2) * normal(x0, 0, c**2)
        return integral(weight * x0) / integral(weight)

    left = posterior_mean(torch.tensor(x_guess)) - posterior_mean(torch.tensor(x_true))
    equal(left[0], alpha**2 * c**2 / (alpha**2 * c**2 + sigma**2) * e, rtol=1e-5)
    equal(left[0], math.cos(theta) ** 2 * e, rtol=1e-5)


def test_the_flow_of_a_gaussian_is_a_ratio_of_spreads():
    """What the last test takes for granted, against a fine run of DDIM."""
    D = GaussianMixture(RectifiedFlow(), torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), stds=0.6)
    x = torch.tensor([[1.0]], dtype=F64)
    end = samplers.last(samplers.ddim(D, x, times.uniform(4000, start=0.7)))
    equal(end, x * 0.6 / math.hypot(0.3 * 0.6, 0.7), rtol=1e-3)


# Run in parallel


def steps_of(seed, count=7):
    slopes, turns = uniforms(seed, count, low=0.2, high=0.9), normals(seed + 1, count)
    return [lambda x, a=a, b=b: a * x + 0.4 * torch.cos(2 * x + b) for a, b in zip(slopes, turns, strict=True)]


def swept(F, G, path):
    """One sweep, as def-calls-sweep prints it."""
    new = [path[0]]
    for n, (f, g) in enumerate(zip(F, G, strict=True)):
        new.append(f(path[n]) + g(new[n]) - g(path[n]))
    return new


@SEEDS
@pytest.mark.equation("eq-calls-exact")
def test_exact(seed):
    F, start = steps_of(seed), normals(seed + 2, 3)
    exact = [start]
    for f in F:
        exact.append(f(exact[-1]))
    for G in ([lambda x: x] * 7, [lambda x: 0.5 * x] * 7, steps_of(seed + 30), [torch.sin] * 7):
        path = [start, *normals(seed + 5, 7, 3)]
        for k in range(1, 8):
            path = swept(F, G, path)
            for n in range(k + 1):
                equal(path[n], exact[n])
        assert k == 7


@SEEDS
@pytest.mark.equation("eq-calls-picard")
@pytest.mark.equation("eq-calls-linear")
def test_sums(seed):
    start, guess = normals(seed, 3), list(normals(seed + 1, 7, 3))
    a, b = uniforms(seed + 2, 2, 7, low=0.2, high=1.1)
    predictions = [lambda x, c=c: torch.tanh(c * x) for c in normals(seed + 3, 7)]
    F = [lambda x, i=i: a[i] * x + b[i] * predictions[i](x) for i in range(7)]
    path = [start, *guess]
    identity = swept(F, [lambda x: x] * 7, path)
    linear = swept(F, [lambda x, i=i: a[i] * x for i in range(7)], path)
    for n in range(8):
        equal(identity[n], start + sum(F[j](path[j]) - path[j] for j in range(n)))
        right = a[:n].prod() * start
        for j in range(n):
            right = right + a[j + 1 : n].prod() * b[j] * predictions[j](path[j])
        equal(linear[n], right)


@SEEDS
@pytest.mark.equation("eq-calls-binomial")
@pytest.mark.equation("eq-calls-pascal")
def test_binomial(seed):
    f, g, start = uniforms(seed, 3, low=-0.9, high=1.1).tolist()
    path = [g**n * start for n in range(10)]
    for k in range(9):
        for n in range(10):
            equal(path[n], start * sum(math.comb(n, j) * (f - g) ** j * g ** (n - j) for j in range(k + 1)))
        path = swept([lambda x: f * x] * 9, [lambda x: g * x] * 9, path)
    for n, j in itertools.product(range(12), range(1, 12)):
        assert math.comb(n, j - 1) + math.comb(n, j) == math.comb(n + 1, j)


@pytest.mark.parametrize("L", [0.5, 2.0, 4.0])
@pytest.mark.equation("eq-calls-factorial")
def test_factorial(L):
    for N in (8, 40, 200):
        path, f = [1.3] * (N + 1), 1 - L / N
        for k in range(1, 8):
            path = swept([lambda x, f=f: f * x] * N, [lambda x: x] * N, path)
            left = abs(1.3 * f**N - path[N])
            middle = 1.3 * sum(math.comb(N, j) * (L / N) ** j for j in range(k + 1, N + 1))
            right = 1.3 * (math.exp(L) - sum(L**j / math.factorial(j) for j in range(k + 1)))
            assert left <= middle + 1e-12
            assert middle <= right + 1e-12
    # Both are reached: the first where F adds L/N instead of taking it away, the second by many steps.
    N = 40
    path, f = [1.3] * (N + 1), 1 + L / N
    for k in range(1, 8):
        path = swept([lambda x: f * x] * N, [lambda x: x] * N, path)
        middle = 1.3 * sum(math.comb(N, j) * (L / N) ** j for j in range(k + 1, N + 1))
        equal(abs(1.3 * f**N - path[N]), middle)
        many = sum(math.comb(10**7, j) * (L / 10**7) ** j for j in range(k + 1, 40))
        equal(many, math.exp(L) - sum(L**j / math.factorial(j) for j in range(k + 1)), rtol=1e-4)


@pytest.mark.equation("eq-calls-parareal-depth")
@pytest.mark.parametrize(("N", "K"), [(12, 4), (20, 5), (16, 8)])
def test_parareal_depth(N, K):
    D = GaussianMixture(LinearVP(), torch.ones(2, dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64), stds=0.3)
    x = normals(0, 2, 1)
    sweeps = list(samplers.parareal(D, x, times.uniform(N), blocks=K, tolerance=0.0))
    for k, sweep in enumerate(sweeps):
        if sweep.settled == k:
            equal(sweep.depth, K + sum(N / K + K - 1 - j for j in range(k)))
    assert sum(sweep.settled == k for k, sweep in enumerate(sweeps)) >= 3


@pytest.mark.equation("eq-calls-parareal-best")
def test_parareal_best():
    for N in (7.0, 64.0, 1000.0):
        K = torch.linspace(1, N, 20_001, dtype=F64)
        total = N / K + K
        assert bool((total >= 2 * math.sqrt(N) - 1e-12).all())
        equal(N / math.sqrt(N) + math.sqrt(N), 2 * math.sqrt(N))
        equal(K[total.argmin()], math.sqrt(N), rtol=1e-2)


@SEEDS
@pytest.mark.equation("eq-calls-log-ratio")
def test_log_ratio(seed):
    m, m_hat, z = normals(seed, 3, 4)
    s = float(uniforms(seed, 1, low=0.3, high=2))
    y, delta = m_hat + s * z, (m_hat - m) / s
    target, draft = (MultivariateNormal(mean, s**2 * torch.eye(4, dtype=F64)) for mean in (m, m_hat))
    left = target.log_prob(y) - draft.log_prob(y)
    middle = -(z + delta).square().sum() / 2 + z.square().sum() / 2
    equal(left, middle)
    equal(middle, -delta @ z - delta.square().sum() / 2)


@SEEDS
@pytest.mark.equation("eq-calls-mirror")
def test_mirror(seed):
    m, m_hat = normals(seed, 2, 3)
    s = float(uniforms(seed, 1, low=0.3, high=2))
    delta = (m_hat - m) / s
    e = delta / delta.norm()
    p, p_hat = (MultivariateNormal(mean, s**2 * torch.eye(3, dtype=F64)) for mean in (m, m_hat))

    def mirrored(y):
        z = (y - m_hat) / s
        return m + s * (torch.eye(3, dtype=F64) - 2 * torch.outer(e, e)) @ z

    middle = (m + m_hat) / 2
    for y in normals(seed + 9, 20, 3):
        # it is the reflection in the plane half-way between the means
        equal(mirrored(y), y - 2 * e * (e @ (y - middle)))
        here, there = (law.log_prob(y).exp() for law in (p, p_hat))
        at_mirror = [law.log_prob(mirrored(y)).exp() for law in (p, p_hat)]
        equal((at_mirror[1] - at_mirror[0]).clamp(min=0), (here - there).clamp(min=0))


@SEEDS
@pytest.mark.equation("eq-calls-law")
@pytest.mark.equation("eq-calls-overlap")
def test_law_and_overlap(seed):
    m, m_hat = normals(seed, 2).tolist()
    s = float(uniforms(seed, 1, low=0.3, high=1.5))
    p, p_hat = normal(LINE, m, s**2), normal(LINE, m_hat, s**2)
    equal(torch.minimum(p_hat, p) + (p - p_hat).clamp(min=0), p)
    common, delta = integral(torch.minimum(p, p_hat)), abs(m_hat - m) / s
    kept = integral(p_hat * torch.minimum(torch.ones_like(p), p / (p_hat + 1e-300)))
    equal(kept, common, rtol=1e-6)
    equal(common, 1 - integral((p - p_hat).abs()) / 2, rtol=1e-6)
    equal(common, 2 * Normal(torch.tensor(0.0, dtype=F64), 1.0).cdf(torch.tensor(-delta / 2, dtype=F64)), rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-calls-advance")
def test_advance(seed):
    a, L = float(uniforms(seed, 1, low=0.2, high=0.95)), 4 + seed
    expected = 0.0
    for outcome in itertools.product((True, False), repeat=L):
        kept = next((i for i, o in enumerate(outcome) if not o), L)
        probability = a ** sum(outcome) * (1 - a) ** (L - sum(outcome))
        expected += probability * min(L, kept + 1)  # the drafts kept, and the one that was corrected
    equal(expected, sum(a**j for j in range(L)))
    equal(expected, (1 - a**L) / (1 - a))


@SEEDS
@pytest.mark.equation("eq-calls-delta")
def test_delta(seed):
    D = GaussianMixture(LinearVP(), torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), stds=0.5)
    s_time, t_time = sorted(uniforms(seed, 2, low=0.1, high=0.9).tolist(), reverse=True)
    grid = torch.tensor([s_time, t_time], dtype=F64)
    alpha, sigma, lam = D.process.alpha(grid), D.process.sigma(grid), D.process.lam(grid)
    h = lam[1] - lam[0]
    change = normals(seed + 2, 2)
    x = normals(seed, 1, 2)

    def mean(shift):  # of one ancestral step when the prediction is shifted
        def shifted(x, t):
            return D(x, t) + shift

        shifted.process, shifted.sigma_data, shifted.coupled = D.process, 1.0, False
        ends = [samplers.last(samplers.ancestral(shifted, x, grid, generator=gen(s))) for s in range(2)]
        noise = [torch.randn(1, 2, generator=gen(s), dtype=F64) for s in range(2)]
        s = ((ends[0] - ends[1]) / (noise[0] - noise[1]))[0, 0]
        return ends[0] - s * noise[0], s

    (with_change, s), (without, _) = mean(change), mean(0 * change)
    b = alpha[1] * (1 - torch.exp(-2 * h))
    equal(s, sigma[1] * (1 - torch.exp(-2 * h)).sqrt())
    left = (with_change - without).norm() / s
    equal(left, b / s * change.norm())
    equal(left, alpha[1] / sigma[1] * (1 - torch.exp(-2 * h)).sqrt() * change.norm())


@pytest.mark.equation("eq-calls-small")
def test_small():
    for delta in (0.3, 0.1, 0.03, 0.01):
        left = 1 - math.erfc(delta / 2 / math.sqrt(2))
        rest = abs(left - delta / math.sqrt(2 * math.pi))
        assert rest < 0.02 * delta**3
        assert rest > 0.01 * delta**3


@pytest.mark.equation("eq-calls-run")
def test_run():
    ratios = []
    for K in (10, 100, 1000, 10_000):
        left = sum(1.7 * 0.01 * math.sqrt(k) for k in range(1, K + 1))
        ratios.append(left / (2 / 3 * 1.7 * 0.01 * K**1.5))
    assert all(abs(ratio - 1) < 1 / K for ratio, K in zip(ratios, (10, 100, 1000, 10_000), strict=True))


# Choose


@SEEDS
@pytest.mark.equation("eq-calls-best-law")
@pytest.mark.equation("eq-calls-best-kl")
def test_best_of_n(seed):
    cloud, n = Cloud(seed), 3 + 2 * seed
    p = cloud.density(LINE, 0.0)
    reward = torch.tanh(LINE) + 0.1 * LINE  # increasing, so that U is the distribution function of x
    below = torch.cat([torch.zeros(1, dtype=F64), torch.cumulative_trapezoid(p, LINE)])
    assert bool((reward.diff() > 0).all())
    # P(all n below) = U^n; its derivative is the density of the best
    density = torch.gradient(below**n, spacing=(LINE,))[0]
    printed = n * below ** (n - 1) * p
    equal(density, printed, rtol=1e-2, atol=2e-4)
    draws = cloud.means[torch.multinomial(cloud.shares, 60_000 * n, replacement=True, generator=gen(seed))]
    part = (draws[:, None] == cloud.means).double().argmax(1)
    draws = (draws + cloud.stds[part] * normals(seed + 1, 60_000 * n)).reshape(n, -1)
    best = draws.gather(0, draws.argmax(0, keepdim=True))[0]
    assert abs(float(best.mean()) - float(integral(LINE * printed))) < 5 * float(best.std()) / math.sqrt(60_000)
    u = (NODES + 1) / 2
    rank = uniforms(seed + 2, 200_000, n).amax(1)
    equal((u**n * n * WEIGHTS / 2).sum(), n / (n + 1))
    assert abs(float(rank.mean()) - n / (n + 1)) < 5 * float(rank.std()) / math.sqrt(200_000)
    left = kl(printed, p)
    grid = torch.linspace(0, 1, 2_000_001, dtype=F64)
    integrand = torch.special.xlogy(n * grid ** (n - 1), grid)
    middle = math.log(n) + (n - 1) * torch.trapezoid(integrand, grid)
    equal(left, middle, rtol=1e-3)
    equal(middle, math.log(n) - (n - 1) / n)


@SEEDS
@pytest.mark.equation("eq-calls-pool")
def test_pool(seed):
    """On a discrete reward: the mean of the estimate over all pools is the mean of the best of n."""
    values, p = torch.tensor([0.3, 1.1, 2.5], dtype=F64), uniforms(seed, 3, low=0.1)
    p, M = p / p.sum(), 5
    for n in (1, 2, 4):
        left = 0.0
        for pool in itertools.product(range(3), repeat=M):
            ordered = values[sorted(pool)]
            estimate = sum(math.comb(i - 1, n - 1) / math.comb(M, n) * float(ordered[i - 1]) for i in range(n, M + 1))
            left += float(p[list(pool)].prod()) * estimate
        right = sum(float(p[list(d)].prod()) * float(values[max(d)]) for d in itertools.product(range(3), repeat=n))
        equal(left, right)


@SEEDS
@pytest.mark.equation("eq-calls-tilt")
def test_tilt(seed):
    p, q, r = uniforms(seed, 3, 6, low=0.05)
    p, q, beta = p / p.sum(), q / q.sum(), 0.5 + seed
    Z = (p * (beta * r).exp()).sum()
    tilted = p * (beta * r).exp() / Z

    def divergence(q, p):
        return (q * (q / p).log()).sum()

    left = (q * r).sum() - divergence(q, p) / beta
    equal(left, Z.log() / beta - divergence(q, tilted) / beta)


@SEEDS
@pytest.mark.equation("eq-calls-frontier")
def test_frontier(seed):
    mean, std, beta = uniforms(seed, 3, low=0.3, high=1.5).tolist()
    p = normal(LINE, mean, std**2)
    tilted = p * (beta * LINE).exp()
    tilted = tilted / integral(tilted)
    kappa = kl(tilted, p)
    equal(kappa, beta**2 * std**2 / 2, rtol=1e-6)
    equal(integral(LINE * tilted), mean + beta * std**2, rtol=1e-7)
    equal(integral(LINE * tilted), mean + std * math.sqrt(2 * float(kappa)), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-calls-goodhart")
def test_goodhart(seed):
    rho, n, count = float(uniforms(seed, 1, low=0.2, high=0.9)), 8, 100_000
    r, other = normals(seed, 2, n, count)
    w = rho * r + math.sqrt(1 - rho**2) * other
    best = r.argmax(0, keepdim=True)
    left, right = w.gather(0, best)[0], rho * r.gather(0, best)[0]
    assert abs(float((left - right).mean())) < 4.5 * float((left - right).std()) / math.sqrt(count)
    equal(torch.corrcoef(torch.stack([r.flatten(), w.flatten()]))[0, 1], rho, rtol=0, atol=0.01)


@SEEDS
@pytest.mark.equation("eq-calls-telescope")
def test_telescope(seed):
    beta, r = 0.7 + seed, normals(seed, 9)
    weights = [(beta * r[0]).exp(), *((beta * (r[i] - r[i - 1])).exp() for i in range(1, 9))]
    equal(math.prod(map(float, weights)), (beta * r[-1]).exp())


@SEEDS
@pytest.mark.equation("eq-calls-ess")
def test_ess(seed):
    w = uniforms(seed, 7)
    W = w / w.sum()
    equal(1 / (W**2).sum(), w.sum() ** 2 / (w**2).sum())
    cv = w.std(correction=0) / w.mean()
    equal(1 / (W**2).sum(), 7 / (1 + cv**2))
    equal(samplers.effective_sample_size(w.log()), 1 / (W**2).sum())


@pytest.mark.equation("eq-calls-unbiased")
def test_unbiased():
    """Two particles, two steps on three states, multinomial resampling between: every outcome enumerated."""
    start, kernel, r = uniforms(1, 3, low=0.1), uniforms(2, 3, 3, low=0.1), uniforms(3, 2, 3)
    start, kernel = start / start.sum(), kernel / kernel.sum(1, keepdim=True)
    first, final = (1.3 * r).exp()  # weights after the start, and of the end over that of its parent
    exact = sum(float(start[i] * kernel[i, j] * first[i] * (final[j] / first[i])) for i in range(3) for j in range(3))
    mean = 0.0
    for a, b in itertools.product(range(3), repeat=2):
        w = torch.stack([first[a], first[b]])
        chosen = w / w.sum()
        for u, v in itertools.product(range(2), repeat=2):  # the parents after resampling
            parents = ((a, b)[u], (a, b)[v])
            for c, d in itertools.product(range(3), repeat=2):
                probability = (
                    start[a] * start[b] * chosen[u] * chosen[v] * kernel[parents[0], c] * kernel[parents[1], d]
                )
                last = (final[c] / first[parents[0]] + final[d] / first[parents[1]]) / 2
                mean += float(probability * w.mean() * last)
    equal(mean, exact)
    equal(exact, sum(float(start[i] * kernel[i, j] * final[j]) for i in range(3) for j in range(3)))


@SEEDS
@pytest.mark.equation("eq-calls-neighbour")
def test_neighbour(seed):
    rho, n = float(uniforms(seed, 1, low=0.1)), 400_000
    z, xi = normals(seed, 2, n, 2)
    new = math.sqrt(1 - rho**2) * z + rho * xi
    assert float(new.mean(0).abs().max()) < 5 / math.sqrt(n)
    assert float((torch.cov(new.T) - torch.eye(2)).abs().max()) < 6 * math.sqrt(2 / n)
    eye = torch.eye(3, dtype=F64)
    mixing = torch.cat([math.sqrt(1 - rho**2) * eye, rho * eye], 1)  # (z, ξ) ↦ z′, whose covariance is M Mᵀ
    equal(mixing @ mixing.T, (1 - rho**2) * eye + rho**2 * eye)
    equal(mixing @ mixing.T, eye)
