"""Every equation of *One integral, all fast solvers*: both sides as printed, evaluated independently.

Paths are those of a Gaussian's exact flow, integrals Gauss–Legendre quadratures, and a statement up to O(h^p) is tested
by the rate at which its two sides approach each other.
"""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from sides import F64, SEEDS, equal

from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.process import EDM, CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import ddim, deis, dpm_solver, dpmpp_2m, dpmpp_3m, path, pndm, unipc
from minidiff.samplers.exponential import integral_weights
from minidiff.samplers.phi import phi

NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(40))


def integral(f, low, high):
    """∫ f over [low, high]; f maps float64 (n,) to (n,)."""
    middle, half = (low + high) / 2, (high - low) / 2
    return half * (WEIGHTS * f(middle + half * NODES)).sum()


def approach(left, right, order, h=0.08):
    """left(h) − right(h) = O(h^order), from two halvings of h."""
    gaps = [abs(float(left(step) - right(step))) for step in (h, h / 2, h / 4)]
    assert math.log2(gaps[1] / gaps[2]) > order - 0.3, gaps


class Path:
    """A path of the flow of one Gaussian, and everything on it as a function of λ."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.process = (LinearVP(), RectifiedFlow(), EDM())[seed % 3]
        mean, std, start = torch.rand(3, generator=generator, dtype=F64).tolist()
        self.D = Gaussian(self.process, torch.tensor([mean - 0.5], dtype=F64), std=0.4 + 0.4 * std)
        self.lam_s, self.lam_t = -0.6 + 0.4 * start, 0.4 + 0.3 * mean
        self.first = self.process.time(torch.tensor(-2.0, dtype=F64))
        self.begin = torch.tensor([[1.0 + start]], dtype=F64)

    def time(self, lam):
        return self.process.time(torch.as_tensor(lam, dtype=F64))

    def alpha(self, lam):
        return self.process.alpha(self.time(lam))

    def sigma(self, lam):
        return self.process.sigma(self.time(lam))

    def x(self, lam):
        """x at λ () or (n,)."""
        lam = torch.as_tensor(lam, dtype=F64)
        values = [self.D.flow(self.begin, self.first, self.time(each)).squeeze() for each in lam.reshape(-1)]
        return torch.stack(values).reshape(lam.shape)

    def x0(self, lam):
        lam = torch.as_tensor(lam, dtype=F64)
        x = self.x(lam).reshape(-1)
        values = [
            self.D(v.reshape(1, 1), self.time(each)).squeeze() for v, each in zip(x, lam.reshape(-1), strict=True)
        ]
        return torch.stack(values).reshape(lam.shape)

    def eps(self, lam):
        return (self.x(lam) - self.alpha(lam) * self.x0(lam)) / self.sigma(lam)

    def y(self, lam):
        return self.x(lam) / self.alpha(lam)


def rate(f, at, step=1e-4):
    """f′ by a difference of the fourth order."""
    return (8 * (f(at + step) - f(at - step)) - (f(at + 2 * step) - f(at - 2 * step))) / (12 * step)


# The integral


@SEEDS
@pytest.mark.equation("eq-integral-coordinates")
def test_coordinates(seed):
    p = Path(seed)
    lam = p.lam_s
    r = p.sigma(lam) / p.alpha(lam)
    equal(rate(lambda r: p.y(-torch.log(r)), r), p.eps(lam), rtol=1e-6, atol=1e-8)
    equal(rate(p.y, lam), p.x0(lam) - p.y(lam), rtol=1e-6, atol=1e-8)
    equal(r, math.exp(-lam))


@SEEDS
@pytest.mark.equation("eq-integral-factor")
def test_integrating_factor(seed):
    p = Path(seed)
    left = rate(lambda lam: math.exp(lam) * p.y(lam), p.lam_s)
    equal(left, math.exp(p.lam_s) * p.x0(p.lam_s), rtol=1e-6, atol=1e-8)


@SEEDS
@pytest.mark.equation("eq-integral-transfer")
def test_transfer(seed):
    p = Path(seed)
    h = p.lam_t - p.lam_s
    equal(p.alpha(p.lam_t) / p.alpha(p.lam_s) * math.exp(-h), p.sigma(p.lam_t) / p.sigma(p.lam_s))


@SEEDS
@pytest.mark.equation("eq-integral-data")
def test_the_solution_in_x0(seed):
    p = Path(seed)
    s, t = p.lam_s, p.lam_t
    mean = integral(lambda lam: (lam - t).exp() * p.x0(lam), s, t)
    equal(p.x(t), p.sigma(t) / p.sigma(s) * p.x(s) + p.alpha(t) * mean)


@SEEDS
@pytest.mark.equation("eq-integral-noise")
def test_the_solution_in_eps(seed):
    p = Path(seed)
    s, t = p.lam_s, p.lam_t
    left = p.alpha(t) / p.alpha(s) * p.x(s)
    middle = p.alpha(t) * integral(lambda r: p.eps(-r.log()), math.exp(-s), math.exp(-t))
    right = -p.sigma(t) * integral(lambda lam: (t - lam).exp() * p.eps(lam), s, t)
    equal(p.x(t), left + middle)
    equal(left + middle, left + right)


@SEEDS
@pytest.mark.equation("eq-integral-mass")
def test_mass(seed):
    p = Path(seed)
    s, t = p.lam_s, p.lam_t
    equal(integral(lambda lam: (lam - t).exp(), s, t), 1 - math.exp(s - t))
    equal(integral(lambda lam: (t - lam).exp(), s, t), math.exp(t - s) - 1)


@SEEDS
@pytest.mark.equation("eq-integral-ddim")
def test_ddim(seed):
    p = Path(seed)
    s, t = p.lam_s, p.lam_t
    left = p.sigma(t) / p.sigma(s) * p.x(s) + p.alpha(t) * (1 - math.exp(s - t)) * p.x0(s)
    equal(left, p.alpha(t) * p.x0(s) + p.sigma(t) * p.eps(s))
    T = torch.stack([p.time(s), p.time(t)])
    equal(left, path(ddim(p.D, p.x(s).reshape(1, 1), T))[-1].squeeze())


# Four choices

VARIABLES = [lambda lam: lam, lambda lam: (-lam).exp(), lambda lam: torch.atan(lam.exp())]


@SEEDS
@pytest.mark.parametrize("of_lam", VARIABLES)
@pytest.mark.equation("eq-integral-sum")
def test_weights_sum_to_the_mass(seed, of_lam):
    p = Path(seed)
    s, t = p.lam_s, p.lam_t
    for nodes in ([s, s - 0.3], [s, s - 0.2, s - 0.7], [t, s, s - 0.5, s - 0.8]):
        equal(sum(integral_weights(s, t, nodes, of_lam)), 1 - math.exp(s - t))


def divided_difference(f, nodes):
    if len(nodes) == 1:
        return f(nodes[0])
    return (divided_difference(f, nodes[1:]) - divided_difference(f, nodes[:-1])) / (nodes[-1] - nodes[0])


def interpolated(f, nodes, at):
    total = 0.0
    for j, a in enumerate(nodes):
        total += f(a) * math.prod((at - b) / (a - b) for m, b in enumerate(nodes) if m != j)
    return total


@SEEDS
@pytest.mark.equation("eq-integral-remainder")
def test_remainder(seed):
    p = Path(seed)
    at = p.lam_s + 0.37
    for k in (1, 2, 3):
        nodes = [p.lam_s - 0.4 * j for j in range(k)]
        left = p.x0(at) - interpolated(p.x0, nodes, at)
        right = divided_difference(p.x0, [*nodes, at]) * math.prod(at - node for node in nodes)
        equal(left, right, rtol=1e-8)


def rising(u, k):
    return math.prod((u + j for j in range(k)), start=torch.ones_like(u))


GAMMA = (Fraction(1, 2), Fraction(5, 12), Fraction(3, 8), Fraction(251, 720))
GAMMA_NEW = (Fraction(-1, 12), Fraction(-1, 24), Fraction(-19, 720), Fraction(-3, 160))


@pytest.mark.equation("eq-integral-constants")
@pytest.mark.equation("eq-integral-constants-new")
def test_constants():
    for k, (old, new) in enumerate(zip(GAMMA, GAMMA_NEW, strict=True), start=1):
        equal(integral(lambda u, k=k: rising(u, k) / math.factorial(k), 0, 1), float(old))
        equal(integral(lambda u, k=k: (u - 1) * rising(u, k) / math.factorial(k + 1), 0, 1), float(new))


def derivative(f, at, k):
    """f^{(k)} of a smooth function of a tensor, by automatic differentiation."""
    x = torch.tensor(float(at), dtype=F64, requires_grad=True)
    value = f(x)
    for _ in range(k):
        (value,) = torch.autograd.grad(value, x, create_graph=True)
    return value.detach()


def curve(lam):
    """A stand-in for D or ε̂ along a path."""
    return torch.sin(1.3 * lam + 0.4) + 0.3 * torch.exp(0.5 * lam)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.equation("eq-integral-local")
def test_local_error(k):
    s, alpha = -0.2, 0.8

    def left(h):
        def gap(lam):
            nodes = [torch.tensor(s - h * j, dtype=F64) for j in range(k)]
            return torch.stack([curve(v) - interpolated(curve, nodes, v) for v in lam])

        return alpha * integral(lambda lam: (lam - s - h).exp() * gap(lam), s, s + h)

    approach(left, lambda h: float(GAMMA[k - 1]) * alpha * h ** (k + 1) * derivative(curve, s, k), k + 2, 0.32)


# The functions φ


def phi_by_definition(k, z):
    if k == 0:
        return torch.tensor(math.exp(z), dtype=F64)
    return integral(lambda u: ((1 - u) * z).exp() * u ** (k - 1) / math.factorial(k - 1), 0, 1)


@pytest.mark.parametrize("z", [-2.3, -0.4, 0.9, 3.0])
@pytest.mark.equation("eq-integral-phi-recursion")
@pytest.mark.equation("eq-integral-phi-first")
@pytest.mark.equation("eq-integral-phi-series")
def test_phi(z):
    for k in range(5):
        equal(phi_by_definition(k + 1, z), (phi_by_definition(k, z) - 1 / math.factorial(k)) / z)
        equal(phi_by_definition(k, z), sum(z**j / math.factorial(j + k) for j in range(40)))
        equal(phi_by_definition(k, 0.0), 1 / math.factorial(k))
    equal(phi_by_definition(1, z), (math.exp(z) - 1) / z)
    equal(phi_by_definition(2, z), (math.exp(z) - 1 - z) / z**2)


def cubic(generator):
    c = torch.randn(4, generator=generator, dtype=F64).tolist()
    f = lambda lam: c[0] + c[1] * lam + c[2] * lam**2 + c[3] * lam**3  # noqa: E731
    return f, lambda at: [f(at), c[1] + 2 * c[2] * at + 3 * c[3] * at**2, 2 * c[2] + 6 * c[3] * at, 6 * c[3]]


@SEEDS
@pytest.mark.equation("eq-integral-taylor")
@pytest.mark.equation("eq-integral-taylor-noise")
def test_taylor(seed):
    """For a cubic the sums end; the left-hand sides are the solutions in which it is the curve."""
    p = Path(seed)
    s, t = p.lam_s, p.lam_t
    h, x = t - s, 0.7
    f, derivatives = cubic(torch.Generator().manual_seed(seed))
    values = derivatives(s)
    transfer = p.sigma(t) / p.sigma(s) * x
    left = transfer + p.alpha(t) * integral(lambda lam: (lam - t).exp() * f(lam), s, t)
    series = sum(h ** (k + 1) * phi_by_definition(k + 1, -h) * v for k, v in enumerate(values))
    equal(left, transfer + p.alpha(t) * series)
    transfer = p.alpha(t) / p.alpha(s) * x
    left = transfer - p.sigma(t) * integral(lambda lam: (t - lam).exp() * f(lam), s, t)
    series = sum(h ** (k + 1) * phi_by_definition(k + 1, h) * v for k, v in enumerate(values))
    equal(left, transfer - p.sigma(t) * series)


@SEEDS
@pytest.mark.equation("eq-integral-moments")
@pytest.mark.equation("eq-integral-two-weights")
def test_weights_from_moments(seed):
    p = Path(seed)
    s, t = p.lam_s, p.lam_t
    h, kappa = t - s, 0.6 + 0.3 * seed
    for places in ([0.0, -kappa], [0.0, -kappa, -2.2], [1.0, 0.0, -kappa, -2.0]):
        weights = integral_weights(s, t, [s + c * h for c in places])
        for k in range(len(places)):
            left = sum(w * c**k for w, c in zip(weights, places, strict=True))
            equal(left, math.factorial(k) * h * phi_by_definition(k + 1, -h))
    w_0, w_1 = integral_weights(s, t, [s, s - kappa * h])
    equal(w_0, h * (phi_by_definition(1, -h) + phi_by_definition(2, -h) / kappa))
    equal(w_1, -h * phi_by_definition(2, -h) / kappa)


# Values inside the step


@pytest.mark.parametrize("z", [-2.0, 0.5, 1.7])
@pytest.mark.equation("eq-integral-half")
def test_half(z):
    equal(phi_by_definition(2, z) / phi_by_definition(1, z), 1 / z - 1 / (math.exp(z) - 1))
    for sign in (-1, 1):
        approach(lambda h, s=sign: 1 / (s * h) - 1 / math.expm1(s * h), lambda h, s=sign: 1 / 2 - s * h / 12, 3, 0.8)


def mixture(process):
    means = torch.tensor([[1.0, 0.2], [-0.7, 0.5], [0.1, -1.0]], dtype=F64)
    return GaussianMixture(process, torch.tensor([0.3, 0.5, 0.2], dtype=F64), means, stds=0.4)


class Steps:
    """Uneven steps of a sampler on a mixture; everything is indexed by the step."""

    def __init__(self, seed, n=5):
        generator = torch.Generator().manual_seed(seed)
        self.process = (LinearVP(), RectifiedFlow(), CosineVP())[seed % 3]
        self.D = mixture(self.process)
        self.lam = torch.cat([torch.zeros(1), 0.2 + 0.3 * torch.rand(n, generator=generator)]).double().cumsum(0) - 1
        self.times = self.process.time(self.lam)
        self.alpha, self.sigma = self.process.alpha(self.times), self.process.sigma(self.times)
        self.r = self.sigma / self.alpha
        self.start = self.process.prior((3, 2), generator, dtype=F64)

    def run(self, method):
        """x at every time, and D and ε̂ at each of them."""
        x = path(method(self.D, self.start, self.times))
        x0 = torch.stack([self.D(v, t) for v, t in zip(x, self.times, strict=True)])
        eps = (x - self.alpha[:, None, None] * x0) / self.sigma[:, None, None]
        return x, x0, eps

    def eps(self, x, lam):
        t = self.process.time(lam)
        return (x - self.process.alpha(t) * self.D(x, t)) / self.process.sigma(t)


@SEEDS
@pytest.mark.equation("eq-integral-dpm2")
def test_dpm_solver_2(seed):
    g = Steps(seed)
    x, _, eps = g.run(partial(dpm_solver, order=2))
    for i in range(5):
        h = g.lam[i + 1] - g.lam[i]
        m = g.lam[i] + h / 2
        alpha_m, sigma_m = g.process.alpha(g.process.time(m)), g.process.sigma(g.process.time(m))
        u = alpha_m / g.alpha[i] * x[i] - sigma_m * ((h / 2).exp() - 1) * eps[i]
        equal(x[i + 1], g.alpha[i + 1] / g.alpha[i] * x[i] - g.sigma[i + 1] * (h.exp() - 1) * g.eps(u, m))


@SEEDS
@pytest.mark.equation("eq-integral-dpm3")
def test_dpm_solver_3(seed):
    g = Steps(seed)
    x, _, eps = g.run(partial(dpm_solver, order=3))
    for i in range(5):
        h = float(g.lam[i + 1] - g.lam[i])
        e = {c: c * h * phi_by_definition(1, c * h) for c in (1 / 3, 2 / 3, 1)}
        s = {c: c * h * phi_by_definition(2, c * h) for c in (2 / 3, 1)}
        one, two = g.process.time(g.lam[i] + h / 3), g.process.time(g.lam[i] + 2 * h / 3)
        u = g.process.alpha(one) / g.alpha[i] * x[i] - g.process.sigma(one) * e[1 / 3] * eps[i]
        eps_1 = g.eps(u, g.lam[i] + h / 3)
        inner = e[2 / 3] * eps[i] + 2 * s[2 / 3] * (eps_1 - eps[i])
        u = g.process.alpha(two) / g.alpha[i] * x[i] - g.process.sigma(two) * inner
        eps_2 = g.eps(u, g.lam[i] + 2 * h / 3)
        inner = e[1] * eps[i] + 3 / 2 * s[1] * (eps_2 - eps[i])
        equal(x[i + 1], g.alpha[i + 1] / g.alpha[i] * x[i] - g.sigma[i + 1] * inner)


# Old values


@SEEDS
@pytest.mark.equation("eq-integral-2m")
def test_2m(seed):
    g = Steps(seed)
    x, x0, _ = g.run(dpmpp_2m)
    for i in range(1, 5):
        h = g.lam[i + 1] - g.lam[i]
        kappa = (g.lam[i] - g.lam[i - 1]) / h
        mean = (1 + 1 / (2 * kappa)) * x0[i] - 1 / (2 * kappa) * x0[i - 1]
        equal(x[i + 1], g.sigma[i + 1] / g.sigma[i] * x[i] + g.alpha[i + 1] * (1 - (-h).exp()) * mean)


@pytest.mark.equation("eq-integral-2m-defect")
@pytest.mark.equation("eq-integral-bh")
def test_what_one_half_misses():
    def exact(h):
        return h * phi_by_definition(2, -h)

    approach(lambda h: h / 2 * phi_by_definition(1, -h) - exact(h), lambda h: -(h**2) / 12, 3)
    approach(lambda h: h / 2 - exact(h), lambda h: h**2 / 6, 3)
    approach(lambda h: (1 - math.exp(-h)) / 2 - exact(h), lambda h: -(h**2) / 12, 3)


@SEEDS
@pytest.mark.equation("eq-integral-slopes")
@pytest.mark.equation("eq-integral-first-difference")
@pytest.mark.equation("eq-integral-second-difference")
def test_differences_of_a_parabola(seed):
    a, b, c, lam_s = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=F64).tolist()
    h, k_0, k_1 = 0.4, 0.7 + 0.2 * seed, 1.3

    def m(lam):
        return a + b * lam + c * lam**2

    slope, bend = b + 2 * c * lam_s, 2 * c
    d_0 = (m(lam_s) - m(lam_s - k_0 * h)) / k_0
    d_1 = (m(lam_s - k_0 * h) - m(lam_s - (k_0 + k_1) * h)) / k_1
    equal(d_0, h * slope - k_0 * h**2 * bend / 2)
    equal(d_1, h * slope - (k_0 + k_1 / 2) * h**2 * bend)
    equal(h * slope, d_0 + k_0 / (k_0 + k_1) * (d_0 - d_1))
    equal((d_0 - d_1) / (k_0 + k_1), h**2 * bend / 2)


def by_hand_3m(g, x0, i, factor):
    """The bracket of eq-integral-3m from def-integral-slopes, with `factor` times the second difference."""
    h = float(g.lam[i + 1] - g.lam[i])
    k_0, k_1 = (float(g.lam[i - j] - g.lam[i - j - 1]) / h for j in (0, 1))
    d_0, d_1 = (x0[i] - x0[i - 1]) / k_0, (x0[i - 1] - x0[i - 2]) / k_1
    slope = d_0 + k_0 / (k_0 + k_1) * (d_0 - d_1)
    bend = factor * (d_0 - d_1) / (k_0 + k_1)
    return h, [phi_by_definition(k, -h) for k in (1, 2, 3)], (x0[i], slope, bend)


@SEEDS
@pytest.mark.equation("eq-integral-3m")
@pytest.mark.equation("eq-integral-missing")
def test_3m(seed):
    g = Steps(seed)
    runs = {
        name: g.run(partial(dpmpp_3m, second_difference=name, collocate=False)) for name in ("corrected", "released")
    }
    for i in (2, 3, 4):
        x, x0, _ = runs["corrected"]
        h, phis, values = by_hand_3m(g, x0, i, 2)
        total = h * sum(a * b for a, b in zip(phis, values, strict=True))
        equal(x[i + 1], g.sigma[i + 1] / g.sigma[i] * x[i] + g.alpha[i + 1] * total)
        x, x0, _ = runs["released"]
        h, phis, values = by_hand_3m(g, x0, i, 2)
        full = g.sigma[i + 1] / g.sigma[i] * x[i] + g.alpha[i + 1] * h * sum(
            a * b for a, b in zip(phis, values, strict=True)
        )
        equal(full - x[i + 1], g.alpha[i + 1] * h * phis[2] * values[2] / 2)  # values[2] is h² m″
    approach(lambda h: h * phi_by_definition(3, -h) * h**2 / 2, lambda h: h**3 / 12, 4)


# The noise


@SEEDS
@pytest.mark.parametrize("variable", ["t", "r", "lam"])
@pytest.mark.equation("eq-integral-deis")
def test_deis(seed, variable):
    g = Steps(seed)
    x, _, eps = g.run(partial(deis, order=3, variable=variable, collocate=False))
    of_r = {"t": lambda r: g.process.time(-r.log()), "r": lambda r: r, "lam": lambda r: -r.log()}[variable]
    for i in (2, 3, 4):
        nodes = [of_r(g.r[i - j]) for j in range(3)]
        total = 0.0
        for j in range(3):

            def basis(r, j=j, nodes=nodes):
                others = [(of_r(r) - b) / (nodes[j] - b) for m, b in enumerate(nodes) if m != j]
                return math.prod(others, start=torch.ones_like(r))

            total = total + eps[i - j] * integral(basis, g.r[i], g.r[i + 1])
        equal(x[i + 1], g.alpha[i + 1] / g.alpha[i] * x[i] + g.alpha[i + 1] * total, rtol=1e-7, atol=1e-9)


@SEEDS
@pytest.mark.equation("eq-integral-rho-ab")
def test_rho_ab_2(seed):
    g = Steps(seed)
    x, _, eps = g.run(partial(deis, order=2, variable="r", collocate=False))
    for i in range(1, 5):
        omega = (g.r[i + 1] - g.r[i]) / (g.r[i] - g.r[i - 1])
        mean = (1 + omega / 2) * eps[i] - omega / 2 * eps[i - 1]
        equal(x[i + 1], g.alpha[i + 1] / g.alpha[i] * x[i] + g.alpha[i + 1] * (g.r[i + 1] - g.r[i]) * mean)


B = {
    2: (Fraction(3, 2), Fraction(-1, 2)),
    3: tuple(Fraction(n, 12) for n in (23, -16, 5)),
    4: tuple(Fraction(n, 24) for n in (55, -59, 37, -9)),
}


@SEEDS
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.equation("eq-integral-plms")
def test_plms(seed, k):
    g = Steps(seed)
    x, _, eps = g.run(partial(pndm, order=k))
    for i in range(k - 1, 5):
        a = g.alpha[i + 1] / g.alpha[i]
        mean = sum(float(b) * eps[i - j] for j, b in enumerate(B[k]))
        equal(x[i + 1], a * x[i] + (g.sigma[i + 1] - a * g.sigma[i]) * mean)


S = 0.3


def classical(k, h):
    return sum(float(b) * curve(torch.tensor(S - j * h, dtype=F64)) for j, b in enumerate(B[k]))


def weighted_mean(h):
    """def-integral-weighted-mean."""
    return integral(lambda u: ((1 - u) * h).exp() * curve(S + u * h), 0, 1) / phi_by_definition(1, h)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.equation("eq-integral-plain-mean")
def test_the_classical_weights_give_the_plain_mean(k):
    approach(lambda h: classical(k, h), lambda h: integral(lambda u: curve(S + u * h), 0, 1), k, 0.32)


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.equation("eq-integral-plms-defect")
def test_defect_of_plms(k):
    def left(h):
        return classical(k, h) - weighted_mean(h)

    def middle(h):
        return h * (1 / 2 - phi_by_definition(2, h) / phi_by_definition(1, h)) * derivative(curve, S, 1)

    approach(left, middle, 3, 0.16)
    approach(middle, lambda h: h**2 / 12 * derivative(curve, S, 1), 3)


@pytest.mark.parametrize("k", [3, 4])
@pytest.mark.equation("eq-integral-plms-local")
def test_local_error_of_plms(k):
    """A step from the exact state of a Gaussian's path, with the exact old values."""
    p = Path(0)

    def left(h):
        a = p.alpha(S + h) / p.alpha(S)
        mean = sum(float(b) * p.eps(S - j * h) for j, b in enumerate(B[k]))
        return a * p.x(S) + (p.sigma(S + h) - a * p.sigma(S)) * mean - p.x(S + h)

    slope = rate(p.eps, S, 1e-3)
    approach(left, lambda h: -p.sigma(S + h) * h**3 / 12 * slope, 4, 0.32)


@pytest.mark.equation("eq-integral-plms-general")
def test_defect_on_any_smooth_grid():
    """r(n) = ρ(n h): the two sides, both of size h², approach each other relatively."""

    def place(n):
        return torch.exp(-n) + 0.2 * n**2

    def eps(r):
        return torch.sin(1.7 * r)

    def ratio(h):
        n = torch.tensor(0.4, dtype=F64)
        step = place(n + h) - place(n)
        mean = integral(eps, float(place(n)), float(place(n + h))) / step
        left = sum(float(b) * eps(place(n - j * h)) for j, b in enumerate(B[4])) - mean
        r_second = h**2 * derivative(place, n, 2)
        return left / (-r_second / 12 * derivative(eps, place(n), 1))

    approach(ratio, lambda h: 1.0, 1, 0.04)


# The new value


@SEEDS
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.equation("eq-integral-unipc-moments")
def test_unipc(seed, variant):
    """The a that solve the equations, put into def-integral-unipc, are the sampler's step, and B cancels."""
    g = Steps(seed)
    x, x0, _ = g.run(partial(unipc, order=3, variant=variant, corrector=False))
    for i in (2, 3, 4):
        h = float(g.lam[i + 1] - g.lam[i])
        c = [float(g.lam[i - j] - g.lam[i]) / h for j in (1, 2)]
        size = h if variant == "bh1" else 1 - math.exp(-h)
        right = [math.factorial(k) * h * phi_by_definition(k + 1, -h) / size for k in (1, 2)]
        (p, q), (u, v) = right, c  # a + b = p, u a + v b = q
        b = (q - u * p) / (v - u)
        total = (p - b) * (x0[i - 1] - x0[i]) / u + b * (x0[i - 2] - x0[i]) / v
        bracket = (1 - math.exp(-h)) * x0[i] + size * total
        equal(x[i + 1], g.sigma[i + 1] / g.sigma[i] * x[i] + g.alpha[i + 1] * bracket)


# Both ends


@pytest.mark.equation("eq-integral-first-step")
def test_error_of_the_first_step():
    p = Path(1)
    slope = rate(p.x0, S, 1e-3)

    def left(h):
        held = p.sigma(S + h) / p.sigma(S) * p.x(S) + p.alpha(S + h) * (1 - math.exp(-h)) * p.x0(S)
        return p.x(S + h) - held

    approach(left, lambda h: p.alpha(S + h) * h**2 * phi_by_definition(2, -h) * slope, 3)
    approach(lambda h: p.alpha(S + h) * h**2 * phi_by_definition(2, -h), lambda h: p.alpha(S + h) * h**2 / 2, 3)


@pytest.mark.parametrize("h", [0.3, 2.0, 9.0])
@pytest.mark.equation("eq-integral-diverge")
def test_the_older_weight_grows_with_the_step(h):
    before = 0.4
    _, w_1 = integral_weights(-0.2, -0.2 + h, [-0.2, -0.2 - before])
    equal(w_1, -(h - 1 + math.exp(-h)) / before)


def test_the_package_has_the_phi_of_the_definition():
    for z in (-3.0, -0.1, 1.0):
        for k in range(5):
            equal(phi(k, z), phi_by_definition(k, z))
