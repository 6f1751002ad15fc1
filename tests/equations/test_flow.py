"""Every equation of *Flow matching and rectified flow*: both sides as printed, evaluated independently.

The random model is a mixture of joint Gaussians of (x_0, ε) in one dimension, so that dependent pairs are covered.
Expectations over pairs are quadratures; a marginal velocity that owes nothing to conditional means is that of the
distribution function, u = −∂_t F / p.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from odes import even, rk4
from sides import F64, LINE, SEEDS, equal, hermite, integral, normal, rate
from torch.distributions import Normal

from minidiff import bridge
from minidiff.analytic import GaussianMixture
from minidiff.objectives.couplings import optimal_transport, reflow, transport_cost
from minidiff.process import RectifiedFlow
from minidiff.times import uniform

NODES, WEIGHTS = hermite(48)
STRAIGHT = (lambda t: 1 - t, lambda t: t)
CIRCLE = (lambda t: torch.cos(math.pi * t / 2), lambda t: 1.3 * torch.sin(math.pi * t / 2))
POWERS = (lambda t: (1 - t) ** 1.5, lambda t: t * (2 - t))
PATHS = pytest.mark.parametrize("path", [STRAIGHT, CIRCLE, POWERS], ids=["straight", "circle", "powers"])


def number(value):
    return torch.tensor(value, dtype=F64)


@dataclass
class Pairs:
    """(x_0, ε) from a mixture of Gaussians with these means, variances and covariances, all (K,)."""

    share: torch.Tensor
    mean0: torch.Tensor
    mean1: torch.Tensor
    var0: torch.Tensor
    var1: torch.Tensor
    cov: torch.Tensor
    alpha: object
    sigma: object
    gamma: object = staticmethod(lambda t: 0 * t)

    @classmethod
    def draw(cls, seed, path=STRAIGHT, independent=False, **more):
        random = torch.Generator().manual_seed(seed)
        share, mean0, var0, mean1, var1, r = torch.rand(6, 3, generator=random, dtype=F64)
        share, mean0, var0 = (share + 0.3) / (share + 0.3).sum(), 3 * mean0 - 1.5, 0.05 + 0.4 * var0
        mean1, var1 = mean1 - 0.5, 0.5 + var1
        if independent:
            mean1, var1, r = 0 * mean1, 1 + 0 * var1, 0 * r
        else:
            r = 1.6 * r - 0.8
        return cls(share, mean0, mean1, var0, var1, r * (var0 * var1).sqrt(), *path, **more)

    def moments(self, t):
        """Mean and variance of x_t in each component."""
        a, s = self.alpha(t), self.sigma(t)
        variance = a**2 * self.var0 + s**2 * self.var1 + 2 * a * s * self.cov + self.gamma(t) ** 2
        return a * self.mean0 + s * self.mean1, variance

    def density(self, x, t):
        return (self.share * normal(x[..., None], *self.moments(t))).sum(-1)

    def below(self, x, t):
        """The distribution function F_t(x)."""
        mean, variance = self.moments(t)
        return (self.share * torch.special.ndtr((x[..., None] - mean) / variance.sqrt())).sum(-1)

    def velocity(self, x, t):
        """u = −∂_t F / p, which uses no conditional mean."""
        return -rate(lambda t: self.below(x, t), t) / self.density(x, t)

    def weights(self, x, t):
        joint = self.share * normal(x[..., None], *self.moments(t))
        return joint / joint.sum(-1, keepdim=True)

    def conditional(self, x, t):
        """E[x_0 | x], E[ε | x] and E[z | x] by regression in each component."""
        a, s = self.alpha(t), self.sigma(t)
        mean, variance = self.moments(t)
        gap, w = (x[..., None] - mean) / variance, self.weights(x, t)
        x0 = (w * (self.mean0 + (a * self.var0 + s * self.cov) * gap)).sum(-1)
        eps = (w * (self.mean1 + (a * self.cov + s * self.var1) * gap)).sum(-1)
        return x0, eps, (w * self.gamma(t) * gap).sum(-1)

    def score(self, x, t):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(self.density(x, t).log().sum(), x)[0]

    def mean(self, f):
        """E f(x_0, ε) by quadrature; f takes (K, N, N)."""
        n0, n1 = NODES[:, None], NODES[None, :]
        shape = (-1, 1, 1)
        x0 = self.mean0.reshape(shape) + self.var0.sqrt().reshape(shape) * n0
        slope, rest = self.cov / self.var0.sqrt(), (self.var1 - self.cov**2 / self.var0).sqrt()
        eps = self.mean1.reshape(shape) + slope.reshape(shape) * n0 + rest.reshape(shape) * n1
        total = (f(x0, eps) * WEIGHTS[:, None] * WEIGHTS).sum((1, 2))
        return (self.share * total).sum()

    def at(self, t):
        """α, σ, α′, σ′, λ′."""
        a, s, da, ds = self.alpha(t), self.sigma(t), rate(self.alpha, t), rate(self.sigma, t)
        return a, s, da, ds, rate(lambda t: (self.alpha(t) / self.sigma(t)).log(), t)

    def quantiles(self, levels, t):
        """F_t^{-1} by bisection."""
        low, high = torch.full_like(levels, -12.0), torch.full_like(levels, 12.0)
        for _ in range(50):
            middle = (low + high) / 2
            small = self.below(middle, t) < levels
            low, high = torch.where(small, middle, low), torch.where(small, high, middle)
        return (low + high) / 2


TIMES = [number(t) for t in (0.2, 0.5, 0.85)]
X = torch.linspace(-2.5, 2.5, 21, dtype=F64)


def phi(x):
    return torch.tanh(1.3 * x) + 0.2 * x**2


def slope_of_phi(x):
    return 1.3 * (1 - torch.tanh(1.3 * x) ** 2) + 0.4 * x


# A path for every pair


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-conditional-velocity")
def test_conditional_velocity(seed, path):
    random = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 4, generator=random, dtype=F64)
    for t in TIMES:
        x_after, x_before = (path[0](t + h) * x0 + path[1](t + h) * eps for h in (1e-6, -1e-6))
        equal((x_after - x_before) / 2e-6, rate(path[0], t) * x0 + rate(path[1], t) * eps, rtol=1e-7, atol=1e-8)


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-test-function")
@pytest.mark.equation("eq-flow-tower")
@pytest.mark.equation("eq-flow-by-parts")
def test_mean_of_a_test_function(seed, path):
    pairs, h = Pairs.draw(seed, path), 1e-5
    for t in TIMES:
        a, s, da, ds, _ = pairs.at(t)

        def mean_phi(t):
            return pairs.mean(lambda first, second: phi(pairs.alpha(t) * first + pairs.sigma(t) * second))

        over_pairs = pairs.mean(
            lambda x0, eps, a=a, s=s, da=da, ds=ds: slope_of_phi(a * x0 + s * eps) * (da * x0 + ds * eps)
        )
        equal((mean_phi(t + h) - mean_phi(t - h)) / (2 * h), over_pairs, rtol=1e-5, atol=1e-6)
        x0, eps, _ = pairs.conditional(LINE, t)
        p, u = pairs.density(LINE, t), da * x0 + ds * eps
        over_states = integral(slope_of_phi(LINE) * u * p)
        equal(over_pairs, over_states, rtol=5e-4, atol=1e-4)
        equal(integral(phi(LINE) * rate(lambda t: pairs.density(LINE, t), t)), over_states, rtol=1e-6, atol=1e-7)
        outflow = torch.gradient(p * u, spacing=float(LINE[1] - LINE[0]))[0]
        equal(-integral(phi(LINE) * outflow), over_states, rtol=1e-4, atol=1e-5)


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-continuity")
def test_continuity(seed, path):
    pairs = Pairs.draw(seed, path)
    for t in TIMES:
        _, _, da, ds, _ = pairs.at(t)

        def current(x, t=t, da=da, ds=ds):
            x0, eps, _ = pairs.conditional(x, t)
            return pairs.density(x, t) * (da * x0 + ds * eps)

        outflow = torch.func.jvp(current, (X,), (torch.ones_like(X),))[1]
        equal(rate(lambda t: pairs.density(X, t), t) + outflow, torch.zeros_like(X), atol=1e-10)


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-posterior-average")
def test_average_of_conditional_fields(seed, path):
    pairs = Pairs.draw(seed, path, independent=True)
    data = (pairs.share * normal(LINE[:, None], pairs.mean0, pairs.var0)).sum(-1)
    for t in TIMES:
        a, s, da, ds, _ = pairs.at(t)
        field = da * LINE + ds / s * (X[:, None] - a * LINE)  # def-flow-conditional-field
        kernel = normal(X[:, None], a * LINE, s**2)
        average = integral(field * kernel * data) / integral(kernel * data)
        equal(average, pairs.velocity(X, t), rtol=1e-6, atol=1e-7)


# One regression


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-regression")
@pytest.mark.equation("eq-flow-constant")
def test_regression_and_its_constant(seed, path):
    pairs = Pairs.draw(seed, path)
    for t in TIMES:
        a, s, da, ds, lam_rate = pairs.at(t)

        def u(x, t=t, da=da, ds=ds):
            x0, eps, _ = pairs.conditional(x, t)
            return da * x0 + ds * eps

        def guess(x):
            return torch.sin(2 * x) - 0.3 * x

        def over(field, a=a, s=s, da=da, ds=ds):
            return pairs.mean(lambda x0, eps: (da * x0 + ds * eps - field(a * x0 + s * eps)) ** 2)

        p = pairs.density(LINE, t)
        wanted = integral((u(LINE) - guess(LINE)) ** 2 * p)
        equal(over(guess), wanted + over(u), rtol=1e-5)
        assert float(wanted) > 0.05
        x0_hat, _, _ = pairs.conditional(LINE, t)
        squares = pairs.mean(lambda x0, eps: x0**2)
        variance = squares - integral(x0_hat**2 * p)  # E Var[x_0 | x_t]
        equal(over(u), (a * lam_rate) ** 2 * variance, rtol=1e-5)


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-error")
@pytest.mark.equation("eq-flow-denoising")
def test_error_of_the_velocity(seed, path):
    random = torch.Generator().manual_seed(seed)
    x0, eps, x0_hat = torch.randn(3, 5, generator=random, dtype=F64)
    pairs = Pairs.draw(seed, path)
    for t in TIMES:
        a, s, da, ds, lam_rate = pairs.at(t)
        x = a * x0 + s * eps
        u_hat = da * x0_hat + ds * (x - a * x0_hat) / s
        error = da * x0 + ds * eps - u_hat
        equal(error, (da - a * ds / s) * (x0 - x0_hat))
        equal(error, a * lam_rate * (x0 - x0_hat))
        equal(error.square().sum(), (a * lam_rate) ** 2 * (x0 - x0_hat).square().sum())


@pytest.mark.parametrize("s", [0.4, 1.0, 1.6])
@pytest.mark.equation("eq-flow-constant-gaussian")
@pytest.mark.equation("eq-flow-constant-integral")
def test_constant_of_a_gaussian(s):
    d, t = 7, (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    target, state = 1 + s**2, (1 - t) ** 2 * s**2 + t**2
    together = t - (1 - t) * s**2
    left = d * (target - together**2 / state)  # what regression of ε − x_0 on x_t leaves
    equal(left, d / t**2 * s**2 * t**2 / ((1 - t) ** 2 * s**2 + t**2))
    equal(left, d * s**2 / ((1 - t) ** 2 * s**2 + t**2))
    equal(left.mean(), d * s * (math.atan(1 / s) + math.atan(s)), rtol=1e-7)
    equal(left.mean(), math.pi / 2 * d * s, rtol=1e-7)


# The same model in other coordinates


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-velocity-denoiser")
@pytest.mark.equation("eq-flow-velocity-score")
def test_velocity_of_a_diffusion(seed, path):
    pairs = Pairs.draw(seed, path, independent=True)
    for t in TIMES:
        a, s, da, ds, _ = pairs.at(t)
        u = pairs.velocity(X, t)
        x0, _, _ = pairs.conditional(X, t)
        equal(u, ds / s * X + (da - a * ds / s) * x0, rtol=1e-7, atol=1e-8)
        f, g2 = da / a, 2 * s * ds - 2 * da / a * s**2
        equal(u, f * X - g2 / 2 * pairs.score(X, t), rtol=1e-7, atol=1e-8)


@SEEDS
@pytest.mark.equation("eq-flow-rectified-names")
@pytest.mark.equation("eq-flow-euler")
def test_rectified_flow(seed):
    pairs = Pairs.draw(seed, independent=True)
    for s in TIMES:
        u = pairs.velocity(X, s)
        x0, eps, _ = pairs.conditional(X, s)
        equal(x0, X - s * u, rtol=1e-7, atol=1e-8)
        equal(eps, X + (1 - s) * u, rtol=1e-7, atol=1e-8)
        equal(pairs.score(X, s), -(X + (1 - s) * u) / s, rtol=1e-7, atol=1e-8)
        for t in (0.0, 0.3 * s, 0.9 * s):
            equal(X + (t - s) * u, t / s * X + (1 - t / s) * x0, rtol=1e-7, atol=1e-8)


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-rescaled")
@pytest.mark.equation("eq-flow-ddim-any")
@pytest.mark.equation("eq-flow-velocity-transform")
def test_every_process_is_the_straight_line(seed, path):
    random = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 5, generator=random, dtype=F64)
    pairs = Pairs.draw(seed, path, independent=True)

    def clock(t):
        return path[1](t) / (path[0](t) + path[1](t))

    for s, t in itertools.product(TIMES, (number(0.0), number(0.1))):
        (a_s, s_s), (a_t, s_t) = ((path[0](v), path[1](v)) for v in (s, t))
        x = a_s * x0 + s_s * eps
        equal(x / (a_s + s_s), (1 - clock(s)) * x0 + clock(s) * eps)
        denoised, _, _ = pairs.conditional(X, s)
        landed = a_t * denoised + s_t * (X - a_s * denoised) / s_s  # DDIM
        z = X / (a_s + s_s)
        equal(landed / (a_t + s_t), z + (clock(t) - clock(s)) * (z - denoised) / clock(s))
        _, _, da, ds, _ = pairs.at(s)
        moved = (da + ds) * z + (a_s + s_s) * rate(clock, s) * (z - denoised) / clock(s)
        equal(pairs.velocity(X, s), moved, rtol=1e-7, atol=1e-8)


# Where the curvature comes from


def regression_velocity(t, x, s):
    """u of data N(0, s²) and independent noise on the straight line."""
    return (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) * x


@pytest.mark.parametrize("s", [0.5, 1.6])
@pytest.mark.equation("eq-flow-gaussian-path")
def test_path_of_a_gaussian(s):
    for t in (0.75, 0.5, 0.0):
        z = rk4(partial(regression_velocity, s=s), 1.3, even(1.0, t, 400))
        equal(z, 1.3 * math.sqrt((1 - t) ** 2 * s**2 + t**2), rtol=1e-8)
    assert round(1.3 * math.sqrt((1.6**2 + 1) / 4), 3) == 1.226  # the numbers in the text
    assert round(1.3 * (1 + 1.6) / 2, 3) == 1.690


@SEEDS
@pytest.mark.equation("eq-flow-second-moment")
@pytest.mark.equation("eq-flow-straightness")
@pytest.mark.equation("eq-flow-budget")
@pytest.mark.equation("eq-flow-convex")
def test_budget(seed):
    pairs = Pairs.draw(seed)
    levels = (torch.arange(1500, dtype=F64) + 0.5) / 1500
    clock = [(k + 0.5) / 60 for k in range(60)]
    start, end = pairs.quantiles(levels, number(1.0)), pairs.quantiles(levels, number(0.0))
    chord = start - end
    cost = pairs.mean(lambda x0, eps: (eps - x0) ** 2)
    curvature, energy, constant, quartic, cubic = 0.0, 0.0, 0.0, 0.0, 0.0
    for t in map(number, clock):

        def u(x, t=t):
            x0, eps, _ = pairs.conditional(x, t)
            return eps - x0

        unknown = pairs.mean(lambda x0, eps, t=t, u=u: (eps - x0 - u((1 - t) * x0 + t * eps)) ** 2)
        p = pairs.density(LINE, t)
        equal(cost, integral(u(LINE) ** 2 * p) + unknown, rtol=1e-5)
        at = pairs.quantiles(levels, t)  # particles on a line keep their quantile
        curvature += (u(at) - chord).square().mean() / 60
        energy += u(at).square().mean() / 60
        constant += unknown / 60
        quartic += integral(u(LINE) ** 4 * p) / 60
        cubic += integral(u(LINE).abs() ** 3 * p) / 60
    saved = chord.square().mean()
    equal(curvature, energy - saved, rtol=2e-3, atol=2e-3)
    equal(cost, saved + curvature + constant, rtol=5e-3)
    assert float(curvature) > 0.01 and float(constant) > 0.05
    assert float((chord**4).mean()) < float(quartic) < float(pairs.mean(lambda x0, eps: (eps - x0) ** 4))
    assert float((chord.abs() ** 3).mean()) < float(cubic) < float(pairs.mean(lambda x0, eps: (eps - x0).abs() ** 3))


@pytest.mark.parametrize("s", [0.4, 1.0, 1.6])
@pytest.mark.equation("eq-flow-gaussian-budget")
def test_budget_of_a_gaussian(s):
    """The curvature by quadrature of the path's own slope."""
    t = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    slope = regression_velocity(t, ((1 - t) ** 2 * s**2 + t**2).sqrt(), s)
    equal((slope - (1 - s)).square().mean(), (2 - math.pi / 2) * s, rtol=1e-6)
    equal(1 + s**2, (1 - s) ** 2 + (2 - math.pi / 2) * s + math.pi / 2 * s)


# Which noise with which picture?


@SEEDS
@pytest.mark.equation("eq-flow-swap")
def test_uncrossing(seed):
    b, a, d, c = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=F64)
    a, c = a + b + 0.1, c + d + 0.1
    change = ((a - c) ** 2 + (b - d) ** 2) - ((a - d) ** 2 + (b - c) ** 2)
    equal(change, -2 * (a - b) * (c - d))
    assert float(change) < 0


@SEEDS
@pytest.mark.equation("eq-flow-monotone")
def test_flow_on_a_line_is_sorting(seed):
    """The end of the flow in 400 Heun steps with the exact denoiser."""
    pairs = Pairs.draw(seed, independent=True)
    oracle = GaussianMixture(RectifiedFlow(), pairs.share, pairs.mean0[:, None], stds=pairs.var0.sqrt())
    start = torch.linspace(-2, 2, 9, dtype=F64)
    end, _ = reflow(oracle, uniform(400))(start[:, None], start[:, None])
    equal(end[:, 0], pairs.quantiles(torch.special.ndtr(start), number(0.0)), rtol=1e-3, atol=1e-3)


@SEEDS
@pytest.mark.equation("eq-flow-one-step")
def test_one_step(seed):
    pairs = Pairs.draw(seed)
    ends = torch.linspace(-1.5, 1.5, 9, dtype=F64)
    u = pairs.velocity(ends, number(1.0))
    x0 = LINE[:, None]  # the joint density of (x_0, ε), integrated over x_0
    slope, left = pairs.cov / pairs.var0, pairs.var1 - pairs.cov**2 / pairs.var0
    means = pairs.mean1 + slope * (x0 - pairs.mean0)
    first = pairs.share * normal(x0, pairs.mean0, pairs.var0)
    joint = (first * normal(ends[:, None, None], means, left)).sum(-1)
    equal(ends - u, integral(LINE * joint) / integral(joint), rtol=1e-7, atol=1e-8)


@SEEDS
@pytest.mark.equation("eq-flow-two-points")
@pytest.mark.equation("eq-flow-perverse")
def test_two_points(seed):
    random = torch.Generator().manual_seed(seed)
    a = 0.5 + float(torch.rand((), generator=random, dtype=F64))
    unit = Normal(number(0.0), number(1.0))
    for t in TIMES:
        x = torch.cat([X, number([-1.001, -0.999, 0.999, 1.001]) * float((1 - t) * a)])
        from_plus, from_minus = ((x - sign * (1 - t) * a) / t for sign in (1, -1))  # the noise, if x_0 = ±a
        plus, minus = (unit.log_prob(eps).exp() for eps in (from_plus, from_minus))
        mixed = a * torch.tanh((1 - t) * a * x / t**2)
        equal(a * (plus - minus) / (plus + minus), mixed)
        plus, minus = plus * (from_plus < 0), minus * (from_minus > 0)  # +a needs a negative noise
        outside = -a * torch.sign(x)
        printed = torch.where(x.abs() < (1 - t) * a, mixed, outside)
        equal(a * (plus - minus) / (plus + minus), printed)


@pytest.mark.equation("eq-flow-order")
def test_order_of_costs():
    """One dimension by quantiles, sorted batches and moments; the plane by assignment of a flow's own end points."""
    pairs = Pairs.draw(1, independent=True)
    levels = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    ends = pairs.quantiles(levels, number(0.0))
    optimal = float((ends - torch.special.ndtri(levels)).square().mean())
    independent = float(pairs.mean(lambda x0, eps: (x0 - eps) ** 2))
    random = torch.Generator().manual_seed(0)
    picked = ends[torch.randint(len(ends), (40_000,), generator=random)]
    noise = torch.randn(40_000, generator=random, dtype=F64)
    costs = []
    for batch in (64, 4, 1):
        rows, others = (v.reshape(-1, batch).sort(1).values for v in (picked, noise))
        costs.append(float((rows - others).square().mean()))
    assert optimal < costs[0] < costs[1] < costs[2]
    assert abs(costs[2] / independent - 1) < 0.05
    angle = torch.arange(3, dtype=F64) * 2 * math.pi / 3
    plane = GaussianMixture(RectifiedFlow(), torch.ones(3), 1.5 * torch.stack([angle.cos(), angle.sin()], 1), stds=0.3)
    x0, eps = plane.sample(600, random), torch.randn(600, 2, generator=random, dtype=F64)
    flowed, _ = reflow(plane, uniform(40))(x0, eps)
    of_flow = float(transport_cost(flowed, eps).mean())
    assert float(transport_cost(*optimal_transport(flowed, eps)).mean()) <= of_flow
    assert of_flow < float(transport_cost(x0, eps).mean())


@SEEDS
@pytest.mark.equation("eq-flow-bures")
def test_transport_between_gaussians(seed):
    random = torch.Generator().manual_seed(seed)
    d = 4
    factor, m = torch.randn(d, d, generator=random, dtype=F64), torch.randn(d, generator=random, dtype=F64)
    covariance = factor @ factor.T + 0.1 * torch.eye(d, dtype=F64)
    values, axes = torch.linalg.eigh(covariance)
    root = axes @ values.sqrt().diag() @ axes.T

    def cost(cross):
        """E|x_0 − ε|² of jointly Gaussian pairs with this cross-covariance."""
        return m.square().sum() + (covariance + torch.eye(d) - cross - cross.T).trace()

    printed = m.square().sum() + covariance.trace() + d - 2 * root.trace()
    equal(cost(root), printed)  # x_0 = m + Σ^{1/2} ε
    equal(cost(torch.zeros(d, d, dtype=F64)), m.square().sum() + covariance.trace() + d)
    for _ in range(20):  # every joint Gaussian has the cross-covariance Σ^{1/2} W with |W| ≤ 1
        turned, _ = torch.linalg.qr(torch.randn(d, d, generator=random, dtype=F64))
        assert float(cost(root @ turned)) > float(printed)


# The price


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.5, 1.0])
@PATHS
@pytest.mark.equation("eq-flow-no-score")
def test_score_of_a_coupling(rho, path):
    s = 1.6
    one = torch.ones(1, dtype=F64)
    pairs = Pairs(one, 0 * one, 0 * one, s**2 * one, one, rho * s * one, *path)
    for t in TIMES:
        a, b, *_ = pairs.at(t)
        v = a**2 * s**2 + b**2 + 2 * rho * a * b * s
        equal(pairs.score(X, t), -X / v)
        _, eps, _ = pairs.conditional(X, t)
        equal(-eps / b, -(1 + rho * a * s / b) * X / v)
    m = (1 + 1.6) / 2
    assert (round(-1 / m**2, 3), round(-1 / (m * 0.5), 3)) == (-0.592, -1.538)  # the numbers in the text


@SEEDS
@PATHS
@pytest.mark.equation("eq-flow-interpolant-velocity")
@pytest.mark.equation("eq-flow-interpolant-score")
def test_interpolant(seed, path):
    def gamma(t):
        return 0.9 * (t * (1 - t)) ** 0.5

    pairs = Pairs.draw(seed, path, gamma=gamma)
    for t in TIMES:
        _, _, da, ds, _ = pairs.at(t)
        x0, x1, z = pairs.conditional(X, t)
        equal(pairs.velocity(X, t), da * x0 + ds * x1 + rate(gamma, t) * z, rtol=1e-7, atol=1e-8)
        equal(pairs.score(X, t), -z / gamma(t), rtol=1e-7, atol=1e-8)


# Times


def clock_of(lam):
    return 1 / (1 + lam.exp())


@pytest.mark.equation("eq-flow-effective")
@pytest.mark.equation("eq-flow-uniform-times")
def test_density_of_lambda():
    lam = torch.linspace(-20, 20, 40_001, dtype=F64)
    t = clock_of(lam)
    below = {"flat": lambda t: t, "humped": lambda t: t**2 * (3 - 2 * t)}  # distribution functions on [0, 1]
    density = {"flat": lambda t: torch.ones_like(t), "humped": lambda t: 6 * t * (1 - t)}
    speed = torch.func.jvp(lambda t: ((1 - t) / t).log(), (t,), (torch.ones_like(t),))[1].abs()
    middle = torch.linspace(0, 1, 20_001, dtype=F64)[1:-1]
    for name, distribution in below.items():
        by_counting = -rate(lambda v, f=distribution: f(clock_of(v)), lam)  # λ falls as t rises
        equal(by_counting, density[name](t) / speed, atol=1e-9)
        loss = torch.trapezoid(2.0 * torch.sin(3 * middle) * density[name](middle), middle)
        equal(loss, torch.trapezoid(2.0 * torch.sin(3 * t) * by_counting, lam), rtol=1e-4)
    flat = -rate(clock_of, lam)
    equal(flat, t * (1 - t))
    equal(flat, 1 / (4 * torch.cosh(lam / 2) ** 2))


@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (0.7, 0.6)])
@pytest.mark.equation("eq-flow-logit-normal")
def test_logit_normal_is_normal(m, s):
    lam = torch.linspace(-4, 4, 81, dtype=F64)
    density = rate(lambda v: Normal(m, s).cdf((1 - clock_of(v)).log() * 0 + torch.logit(clock_of(v))), lam)
    equal(-density, Normal(-m, s).log_prob(lam).exp(), rtol=1e-7, atol=1e-9)


# The bridge


def random_bridge(seed, n=4, m=5):
    random = torch.Generator().manual_seed(seed)
    p, q, x, y = (torch.rand(k, generator=random, dtype=F64) + 0.1 for k in (n, m, n, m))
    return p / p.sum(), q / q.sum(), 2 * x, 2 * y, random


@SEEDS
@pytest.mark.equation("eq-flow-product-form")
def test_minimiser_has_product_form(seed):
    """Minimise the divergence over 2 × 2 laws with given marginals, which have one free number, by bisection."""
    p, q, x, y, _ = random_bridge(seed, 2, 2)
    kernel = torch.exp(-((x[:, None] - y) ** 2) / (2 * 0.8**2))
    reference = p[:, None] * kernel

    def slope(v):
        plan = torch.stack([torch.stack([v, p[0] - v]), torch.stack([q[0] - v, p[1] - q[0] + v])]).requires_grad_()
        divergence = (plan * (plan / reference).log()).sum()
        (g,) = torch.autograd.grad(divergence, plan)
        return g[0, 0] - g[0, 1] - g[1, 0] + g[1, 1], plan.detach()

    low, high = torch.clamp(q[0] - p[1], min=0.0), torch.minimum(p[0], q[0])
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if float(slope(middle)[0]) < 0 else (low, middle)
    plan = slope(middle)[1]
    a, b = plan[:, 0] / kernel[:, 0], plan[0] / kernel[0] / (plan[0, 0] / kernel[0, 0])
    equal(plan, a[:, None] * kernel * b, rtol=1e-7)
    equal(bridge.couple(p, x, q, y, 0.8, tolerance=1e-13), plan, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-flow-fitting")
def test_fitting(seed):
    """Each update sets its marginal, and the limit is the package's solution on a logarithmic scale."""
    p, q, x, y, _ = random_bridge(seed)
    kernel = torch.exp(-((x[:, None] - y) ** 2) / (2 * 0.8**2))
    best = bridge.couple(p, x, q, y, 0.8, tolerance=1e-13)
    b, gaps = torch.ones_like(q), []
    for _ in range(400):
        a = p / (kernel * b).sum(1)
        plan = a[:, None] * kernel * b
        equal(plan.sum(1), p)
        gaps.append(float((best * (best / plan).log()).sum() + plan.sum() - 1))
        b = q / (a[:, None] * kernel).sum(0)
        plan = a[:, None] * kernel * b
        equal(plan.sum(0), q)
        gaps.append(float((best * (best / plan).log()).sum() + plan.sum() - 1))
    equal(plan, best, rtol=1e-8)
    assert all(later < earlier for earlier, later in itertools.pairwise(gaps[:6]))


@pytest.mark.parametrize("omega", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("s", [0.6, 1.1])
@pytest.mark.equation("eq-flow-bridge-gaussian")
def test_bridge_between_gaussians(s, omega):
    c = math.sqrt(s**2 + omega**4 / 4) - omega**2 / 2
    precision = torch.linalg.inv(number([[s**2, c], [c, 1.0]]))
    equal(-precision[0, 1], 1 / omega**2)  # the mixed term of the logarithm is that of the kernel
    line = torch.linspace(-7, 7, 141, dtype=F64)
    p, q = (torch.exp(-(line**2) / (2 * v)) for v in (s**2, 1.0))
    plan = bridge.couple(p, line, q, line, omega)
    equal((plan * line[:, None] * line).sum(), c, rtol=0, atol=1e-5)


@SEEDS
@pytest.mark.parametrize("t", [0.25, 0.7])
@pytest.mark.equation("eq-flow-bridge-marginal")
def test_bridge_on_the_way(seed, t):
    """Brownian motion through x, tied to its end: the product of two transition densities over a third."""
    p, q, x, y, _ = random_bridge(seed)
    omega = 0.8
    plan = bridge.couple(p, x, q, y, omega)
    x0, x1, at = x[:, None, None], y[None, :, None], X[None, None]
    first, second = normal(at, x0, omega**2 * t), normal(x1, at, omega**2 * (1 - t))
    left = (plan[..., None] * first * second / normal(x1, x0, omega**2)).sum((0, 1))
    right = (plan[..., None] * normal(at, (1 - t) * x0 + t * x1, omega**2 * t * (1 - t))).sum((0, 1))
    equal(left, right)
    equal(bridge.marginal(plan, x, y, omega, t, X), right)
