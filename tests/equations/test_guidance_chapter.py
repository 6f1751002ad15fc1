"""Every equation of *Guidance*: both sides as printed, evaluated independently.

Densities are sums of Gaussians written out here, their derivatives automatic differentiation, integrals are sums over a
grid, and paths are integrated by Runge and Kutta's rule.
"""

import itertools
import math

import pytest
import torch
from odes import rk4
from sides import F64, LINE, SEEDS, equal, hermite, integral, normal, normals, numbers

from minidiff.analytic import Gaussian
from minidiff.bench.guidance import TaggedUNet, condition, halves
from minidiff.conditional import LabelledMixture
from minidiff.denoiser import predict
from minidiff.guidance import PromptEmbedding, RegionLink, autoguidance, cfg, corrected, projected, regional, rescaled
from minidiff.nets import DualEncoder, UNet
from minidiff.process import VE, LinearVP, RectifiedFlow
from minidiff.samplers.posterior import ancestral_steps
from minidiff.samplers.state import begin
from minidiff.times import uniform

SCALES = [-0.5, 0.0, 0.4, 1.0, 2.0, 3.5]
POINTS = torch.linspace(-1.5, 1.5, 7, dtype=F64)
guides = pytest.mark.parametrize("w", SCALES)


def normal_log(mean, std, x=LINE):
    return -((x - mean) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))


class World:
    """Two classes of two components each on a line: weights (2, 2), means and variances, α and σ."""

    def __init__(self, seed):
        self.share = torch.tensor(numbers(seed, 4), dtype=F64).reshape(2, 2)
        self.share = self.share / self.share.sum()
        self.mean = normals(seed + 50, 2, 2)
        self.variance = torch.tensor(numbers(seed + 100, 4, 0.1, 0.6), dtype=F64).reshape(2, 2)
        self.alpha, self.sigma = numbers(seed + 150, 2, 0.3, 0.9)

    def joint(self, x, alpha=None, sigma=None):
        """p_t(x, y = 0) and p_t(x, y = 1), with a last axis for y."""
        alpha, sigma = self.alpha if alpha is None else alpha, self.sigma if sigma is None else sigma
        variance = alpha**2 * self.variance + sigma**2
        return (self.share * normal(x[..., None, None], alpha * self.mean, variance)).sum(-1)

    def denoisers(self, x):
        """D(x, t, 0) and D(x, t), each an integral over x_0 by Bayes's rule."""
        clean = self.joint(LINE, 1.0, 0.0) * normal(x[:, None, None], self.alpha * LINE[:, None], self.sigma**2)
        of_class = [clean[..., 0], clean.sum(-1)]
        return [integral(p * LINE) / integral(p) for p in of_class]


def slope(f, x):
    """f′(x) of a function that acts on each number."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def log_laws(world):
    """log p_t(x | y = 0) and log p_t(x)."""
    return (
        lambda x: (world.joint(x)[..., 0] / world.share[0].sum()).log(),
        lambda x: world.joint(x).sum(-1).log(),
    )


def log_class(world):
    """log p_t(y = 0 | x)."""
    return lambda x: (world.joint(x)[..., 0] / world.joint(x).sum(-1)).log()


# The classifier


@SEEDS
@pytest.mark.equation("eq-guide-bayes")
def test_bayes(seed):
    world = World(seed)
    one, zero = log_laws(world)
    equal(slope(one, POINTS), slope(zero, POINTS) + slope(log_class(world), POINTS))


@SEEDS
@guides
@pytest.mark.equation("eq-guide-tilt")
def test_the_score_of_the_tilted_density(seed, w):
    world = World(seed)
    zero, of_class = log_laws(world)[1], log_class(world)
    D = world.denoisers(POINTS)[1] + w * world.sigma**2 / world.alpha * slope(of_class, POINTS)
    left = (world.alpha * D - POINTS) / world.sigma**2
    equal(left, slope(lambda x: (zero(x).exp() * of_class(x).exp() ** w).log(), POINTS), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-guide-noisy-classifier")
def test_the_classifier_of_noisy_data_is_a_mean(seed):
    world = World(seed)
    clean = world.joint(LINE, 1.0, 0.0)
    posterior = clean.sum(-1) * normal(POINTS[:, None], world.alpha * LINE, world.sigma**2)
    right = integral(posterior * clean[:, 0] / clean.sum(-1).clamp(min=1e-300)) / integral(posterior)
    equal(log_class(world)(POINTS).exp(), right, rtol=1e-7)


# Classifier-free


@SEEDS
@pytest.mark.equation("eq-guide-dropout")
def test_the_loss_with_dropped_labels(seed):
    """Three pictures, two labels, one x_t: all outcomes of the coin are enumerated."""
    p = torch.tensor(numbers(seed, 6), dtype=F64).reshape(3, 2)
    p = p / p.sum()
    pictures, guesses, none = normals(seed, 3), normals(seed + 9, 2), float(normals(seed + 20, 1))
    q = numbers(seed + 30, 1, 0.1, 0.5)[0]
    left = 0.0
    for i, y, dropped in itertools.product(range(3), range(2), (True, False)):
        told = none if dropped else guesses[y]
        left = left + p[i, y] * (q if dropped else 1 - q) * (pictures[i] - told) ** 2
    right = (1 - q) * (p * (pictures[:, None] - guesses) ** 2).sum() + q * (p.sum(1) * (pictures - none) ** 2).sum()
    equal(left, right)


@SEEDS
@pytest.mark.equation("eq-guide-implicit")
def test_the_classifier_inside(seed):
    world = World(seed)
    one, zero = world.denoisers(POINTS)
    equal(slope(log_class(world), POINTS), world.alpha / world.sigma**2 * (one - zero), rtol=1e-7)


@SEEDS
@guides
@pytest.mark.equation("eq-guide-lines")
def test_the_line_in_other_predictions(seed, w):
    """Left: what the package makes of the guided x̂_0. Right: lines through ε̂ and û of the two, written out for
    α = 1 − t and σ = t."""
    process, t = RectifiedFlow(), torch.tensor(numbers(seed, 1, 0.2, 0.9)[0], dtype=F64)
    x, m1, m0 = normals(seed, 3, 5)
    parts = [Gaussian(process, m, std=s) for m, s in ((m1, 0.4), (m0, 1.1))]
    guided = autoguidance(*parts, w)
    one, zero = (D(x[None], t) for D in parts)
    eps1, eps0 = ((x - (1 - t) * d) / t for d in (one, zero))
    equal(predict(guided, x[None], t, "eps"), eps0 + w * (eps1 - eps0))
    u1, u0 = eps1 - one, eps0 - zero
    equal(predict(guided, x[None], t, "velocity"), u0 + w * (u1 - u0))


@SEEDS
@guides
@pytest.mark.equation("eq-guide-product-score")
def test_the_guided_score(seed, w):
    world = World(seed)
    one, zero = log_laws(world)
    d1, d0 = world.denoisers(POINTS)
    left = (world.alpha * (d0 + w * (d1 - d0)) - POINTS) / world.sigma**2
    equal(left, slope(lambda x: (one(x).exp() ** w * zero(x).exp() ** (1 - w)).log(), POINTS), rtol=1e-7)


# Two Gaussians


def product_moments(means, stds, w):
    """Mean and variance of N(m_1, s_1²)^w N(m_0, s_0²)^{1−w}, by sums over a grid."""
    log_p = w * normal_log(means[0], stds[0]) + (1 - w) * normal_log(means[1], stds[1])
    p = (log_p - log_p.max()).exp()
    p = p / integral(p)
    mean = integral(p * LINE)
    return mean, integral(p * (LINE - mean) ** 2)


@SEEDS
@pytest.mark.parametrize("w", [0.0, 0.4, 1.0, 2.5])
@pytest.mark.equation("eq-guide-product")
def test_the_product_of_gaussians(seed, w):
    s1, extra = numbers(seed, 2, 0.3, 0.7)
    s0 = s1 + extra
    m1, m0 = numbers(seed + 7, 2, -1.0, 1.0)
    variance = 1 / (w / s1**2 + (1 - w) / s0**2)
    mean = variance * (w * m1 / s1**2 + (1 - w) * m0 / s0**2)
    found = product_moments((m1, m0), (s1, s0), w)
    equal(found[0], mean, rtol=1e-7)
    equal(found[1], variance, rtol=1e-7)


@SEEDS
@guides
@pytest.mark.equation("eq-guide-equal")
def test_equal_variances_move(seed, w):
    """Left: the guided denoisers of the package. Right: Bayes's rule by integration for the moved Gaussian."""
    s, at = numbers(seed, 2, 0.3, 0.9)
    process, t = LinearVP(), torch.tensor(at, dtype=F64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    m1, m0 = numbers(seed + 7, 2, -1.0, 1.0)
    D1, D0 = (Gaussian(process, torch.tensor([m], dtype=F64), std=s) for m in (m1, m0))
    p = normal(LINE, m0 + w * (m1 - m0), s**2) * normal(POINTS[:, None], alpha * LINE, sigma**2)
    equal(autoguidance(D1, D0, w)(POINTS[:, None], t)[:, 0], integral(p * LINE) / integral(p), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-guide-wider")
def test_the_whole_is_wider(seed):
    s, tau = numbers(seed, 2)
    nodes, weights = hermite(20)
    x = tau * nodes[:, None] + s * nodes
    share = weights[:, None] * weights
    equal((share * x).sum(), 0.0)
    equal(s**2 + tau**2, (share * x**2).sum())


@SEEDS
@pytest.mark.equation("eq-guide-clock")
def test_the_flow_in_scaled_coordinates(seed):
    """Along dx/dt = α′ x̂_0 + σ′ ε̂ with random α, σ and rates: the chain rule for ξ = x/α against r = σ/α."""
    alpha, sigma, falls, rises = numbers(seed, 4)
    alpha1, sigma1 = -falls, rises
    x, x0 = normals(seed, 2, 5)
    u = alpha1 * x0 + sigma1 * (x - alpha * x0) / sigma
    left = (u / alpha - alpha1 * x / alpha**2) / (sigma1 / alpha - alpha1 * sigma / alpha**2)
    equal(left, (x / alpha - x0) / (sigma / alpha))


def case(seed):
    """s, S, τ and c."""
    s, tau, c = numbers(seed, 3, 0.3, 1.2)
    return s, math.sqrt(s**2 + tau**2), tau, c


@SEEDS
@pytest.mark.equation("eq-guide-two")
def test_the_two_denoisers(seed):
    s, S, _, c = case(seed)
    r = numbers(seed + 5, 1)[0]
    for mean, std, printed in (
        (c, s, c + s**2 / (s**2 + r**2) * (POINTS - c)),
        (0.0, S, S**2 / (S**2 + r**2) * POINTS),
    ):
        p = normal(LINE, mean, std**2) * normal(POINTS[:, None], LINE, r**2)
        equal(printed, integral(p * LINE) / integral(p), rtol=1e-6)


def k(rho, s, S, w):
    return w / (s**2 + rho) + (1 - w) / (S**2 + rho)


@SEEDS
@guides
@pytest.mark.equation("eq-guide-rate")
def test_the_rate(seed, w):
    s, S, _, c = case(seed)
    r = numbers(seed + 5, 1)[0]
    one = c + s**2 / (s**2 + r**2) * (POINTS - c)
    zero = S**2 / (S**2 + r**2) * POINTS
    left = (POINTS - (zero + w * (one - zero))) / r
    equal(left, r * (k(r**2, s, S, w) * POINTS - w * c / (s**2 + r**2)))


@SEEDS
@guides
@pytest.mark.equation("eq-guide-integral")
def test_the_integral(seed, w):
    s, S, *_ = case(seed)
    R = 3.0
    r = torch.linspace(0, R, 20001, dtype=F64)
    right = (w * math.log((s**2 + R**2) / s**2) + (1 - w) * math.log((S**2 + R**2) / S**2)) / 2
    equal(torch.trapezoid(r * k(r**2, s, S, w), r), right, rtol=1e-6, atol=1e-7)


def logarithmic(a, b, n=4000):
    """a … b in steps that are equal in the logarithm, as floats."""
    return torch.logspace(math.log10(a), math.log10(b), n + 1, dtype=F64).tolist()


@SEEDS
@guides
@pytest.mark.equation("eq-guide-path")
def test_the_path(seed, w):
    s, S, *_ = case(seed)
    R = 5.0
    end = rk4(lambda r, y: r * k(r**2, s, S, w) * y, 1.0, logarithmic(R, 1e-6))
    equal(end, (s**2 / (s**2 + R**2)) ** (w / 2) * (S**2 / (S**2 + R**2)) ** ((1 - w) / 2), rtol=1e-7)


@SEEDS
@guides
@pytest.mark.equation("eq-guide-end")
def test_the_std_at_the_end(seed, w):
    """From std R at a large R; both printed forms."""
    s, S, *_ = case(seed)
    R = 3e3
    end = R * rk4(lambda r, y: r * k(r**2, s, S, w) * y, 1.0, logarithmic(R, 1e-6))
    equal(end, s**w * S ** (1 - w), rtol=1e-5)
    equal(s**w * S ** (1 - w), s * (s / S) ** (w - 1))


@SEEDS
@pytest.mark.parametrize("w", [0.0, 0.4, 1.0, 2.5])
@pytest.mark.equation("eq-guide-sharp")
def test_the_sharpened_variance(seed, w):
    s, S, *_ = case(seed)
    found = product_moments((0.0, 0.0), (s, S), w)[1]
    equal(found, 1 / (w / s**2 - (w - 1) / S**2), rtol=1e-7)


@SEEDS
@pytest.mark.parametrize("w", [1.0, 1.3, 2.0, 4.0, 9.0])
@pytest.mark.equation("eq-guide-narrow")
def test_the_ratio_of_variances(seed, w):
    s, S, *_ = case(seed)
    q = s**2 / S**2
    ratio = (s * (s / S) ** (w - 1)) ** 2 * (w / s**2 - (w - 1) / S**2)
    equal(ratio, q ** (w - 1) * (1 + (w - 1) * (1 - q)))
    bound = math.exp((w - 1) * (math.log(q) + 1 - q))
    assert ratio <= bound * (1 + 1e-12)
    assert bound <= 1 + 1e-12
    if w > 1:
        assert ratio < bound < 1


@SEEDS
@pytest.mark.parametrize("w", [0.0, 0.4, 1.0, 2.0, 3.0])
@pytest.mark.equation("eq-guide-mean")
def test_the_mean_at_the_end(seed, w):
    s, S, tau, c = case(seed)
    end = rk4(lambda r, y: r * (k(r**2, s, S, w) * y - w * c / (s**2 + r**2)), 0.0, logarithmic(1e4, 1e-6, 6000))
    q = torch.linspace(0, tau / s, 20001, dtype=F64)
    value = torch.trapezoid((1 + q**2) ** ((w - 1) / 2), q)
    equal(end, w * c / tau * s**w * S ** (1 - w) * value, rtol=1e-3)


@SEEDS
@pytest.mark.equation("eq-guide-mean-three")
def test_the_mean_at_three(seed):
    s, S, tau, c = case(seed)
    q = torch.linspace(0, tau / s, 20001, dtype=F64)
    equal(3 * c / tau * s**3 / S**2 * torch.trapezoid(1 + q**2, q), c * (3 * s**2 + tau**2) / S**2, rtol=1e-7)
    found = product_moments((c, 0.0), (s, S), 3.0)[0]
    equal(found, 3 * c * S**2 / (S**2 + 2 * tau**2), rtol=1e-7)


@SEEDS
@guides
@pytest.mark.equation("eq-guide-sde-rate")
def test_the_variance_of_the_reverse_sde(seed, w):
    """One small step of ξ + (score) dρ + √dρ z, score −k ξ: its variance in both orders of small."""
    s, S, *_ = case(seed)
    rho, v, h = *numbers(seed + 5, 2), 1e-6
    nodes, weights = hermite(8)
    xi = math.sqrt(v) * nodes[:, None]
    stepped = xi - k(rho, s, S, w) * xi * h + math.sqrt(h) * nodes
    after = (weights[:, None] * weights * stepped**2).sum()
    equal((after - v) / h, 1 - 2 * k(rho, s, S, w) * v, rtol=1e-4, atol=1e-5)


@SEEDS
@pytest.mark.parametrize("w", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.equation("eq-guide-sde-end")
def test_the_variance_of_the_reverse_sde_at_the_end(seed, w):
    s, S, tau, _ = case(seed)
    v = rk4(lambda rho, v: 2 * k(rho, s, S, w) * v - 1, 1e6, logarithmic(1e6, 1e-9, 8000))
    right = s ** (4 * w) * S ** (4 - 4 * w) / tau**2 * ((S / s) ** (4 * w - 2) - 1) / (2 * w - 1)
    equal(v, right, rtol=1e-3)


@SEEDS
@guides
@pytest.mark.equation("eq-guide-slope-gap")
def test_the_gap_of_the_slopes(seed, w):
    s, S, tau, _ = case(seed)
    rho = torch.tensor(numbers(seed + 5, 4), dtype=F64)
    A = w * S**2 + (1 - w) * s**2
    noised = 1 / (w / s**2 + (1 - w) / S**2)
    left = k(rho, s, S, w) - 1 / (noised + rho)
    right = w * (w - 1) * tau**4 * rho / ((s**2 + rho) * (S**2 + rho) * (s**2 * S**2 + A * rho))
    equal(left, right)


def test_the_numbers_of_the_counterexample():
    assert k(0.64, 0.5, 1.0, 3.0) == pytest.approx(2.151, abs=5e-4)
    assert math.isclose(1 / (0.1 + 0.64), 1.351, abs_tol=5e-4)
    guided = autoguidance(*(Gaussian(VE(), torch.zeros(1, dtype=F64), std=s) for s in (0.5, 1.0)), 3.0)
    t = VE().time(torch.tensor(-math.log(0.8), dtype=F64))
    assert -float(predict(guided, torch.ones(1, 1, dtype=F64), t, "score")) == pytest.approx(2.151, abs=5e-4)


# Why, and the repair


def heat(world, x, rho):
    """p(ξ, ρ) of each class alone and of all, at α = 1."""
    variance = world.variance + rho[..., None, None]
    parts = (world.share * normal(x[..., None, None], world.mean, variance)).sum(-1)
    return parts[..., 0] / world.share[0].sum(), parts.sum(-1)


def derivatives(f, x, rho):
    """∂f/∂ρ, f′ and f″ of a function of two numbers."""
    x, rho = x.detach().requires_grad_(), rho.detach().requires_grad_()
    first, clock = torch.autograd.grad(f(x, rho).sum(), (x, rho), create_graph=True)
    second = torch.autograd.grad(first.sum(), x)[0]
    return clock.detach(), first.detach(), second


RHO = torch.linspace(0.2, 1.4, 7, dtype=F64)


@SEEDS
@pytest.mark.equation("eq-guide-heat")
def test_the_heat_equation(seed):
    world = World(seed)
    for j in (0, 1):
        clock, _, second = derivatives(lambda x, rho, j=j: heat(world, x, rho)[j], POINTS, RHO)
        equal(clock, second / 2)


@SEEDS
@pytest.mark.equation("eq-guide-log-heat")
def test_the_heat_equation_of_the_logarithm(seed):
    world = World(seed)
    for j in (0, 1):
        clock, first, second = derivatives(lambda x, rho, j=j: heat(world, x, rho)[j].log(), POINTS, RHO)
        equal(clock, (second + first**2) / 2)


@SEEDS
@guides
@pytest.mark.equation("eq-guide-squares")
def test_the_squares(seed, w):
    a, b = normals(seed, 2, 5)
    left = w * a.square().sum() + (1 - w) * b.square().sum() - (w * a + (1 - w) * b).square().sum()
    equal(left, w * (1 - w) * (a - b).square().sum())


@SEEDS
@guides
@pytest.mark.equation("eq-guide-residual")
def test_what_the_product_of_noised_densities_violates(seed, w):
    world = World(seed)

    def product(x, rho):
        one, zero = heat(world, x, rho)
        return w * one.log() + (1 - w) * zero.log()

    clock, first, second = derivatives(product, POINTS, RHO)
    s1, s0 = (derivatives(lambda x, rho, j=j: heat(world, x, rho)[j].log(), POINTS, RHO)[1] for j in (0, 1))
    equal(clock - (second + first**2) / 2, w * (1 - w) / 2 * (s1 - s0) ** 2)


def kernels(seed):
    """a x + b D for both denoisers, c and δ = (b/c)(D_1 − D_0), in one dimension."""
    a, b, c = numbers(seed, 3)
    x, one, zero = normals(seed, 3).tolist()
    return a * x, b, c, one, zero, b / c * (one - zero)


@SEEDS
@guides
@pytest.mark.equation("eq-guide-kernel-mass")
def test_the_mass_of_the_product_of_kernels(seed, w):
    shift, b, c, _, zero, delta = kernels(seed)
    c, delta = 0.3 * c, delta / 3  # so that the products stay on the line
    zero_mean, one_mean = shift + b * zero, shift + b * zero + c * delta
    log_p = w * normal_log(one_mean, c) + (1 - w) * normal_log(zero_mean, c)
    equal(integral(log_p.exp()), math.exp(w * (w - 1) / 2 * delta**2), rtol=1e-7)


@SEEDS
@guides
@pytest.mark.parametrize("m", [0.0, 1.0, 2.2])
@pytest.mark.equation("eq-guide-weight")
def test_the_weight_of_a_step(seed, w, m):
    shift, b, c, one, zero, delta = kernels(seed)
    z = normals(seed + 60, 5)
    moved = zero + m * (one - zero)
    x = shift + b * moved + c * z
    left = w * normal_log(shift + b * one, c, x) + (1 - w) * normal_log(shift + b * zero, c, x)
    left = left - normal_log(shift + b * moved, c, x)
    equal(left, (w - m) * z * delta + (w * (w - 1) - (w - m) ** 2) / 2 * delta**2)


@SEEDS
@pytest.mark.parametrize("w", [0.0, 0.4, 1.0, 2.0])
@pytest.mark.equation("eq-guide-paths")
def test_paths_that_share_the_forward_chain(seed, w):
    """Finite chains of three states: the reversals of one forward chain from two laws of the data."""
    p1, p0 = (torch.tensor(numbers(seed + i, 3), dtype=F64) for i in (0, 40))
    p1, p0 = p1 / p1.sum(), p0 / p0.sum()
    steps = [torch.tensor(numbers(seed + i, 9), dtype=F64).reshape(3, 3) for i in (80, 120)]
    steps = [q / q.sum(1, keepdim=True) for q in steps]

    def reversed_paths(p):
        """The chain that starts at the law of the last state and goes back by Bayes's rule; axes x_0, x_1, x_2."""
        middle = p @ steps[0]
        last = middle @ steps[1]
        back = middle[:, None] * steps[1] / last, p[:, None] * steps[0] / middle
        return torch.einsum("k,jk,ij->ijk", last, *back)

    one, zero = reversed_paths(p1), reversed_paths(p0)
    for chain, p in ((one, p1), (zero, p0)):
        equal(chain, p[:, None, None] * steps[0][:, :, None] * steps[1])
    product = one**w * zero ** (1 - w)
    equal(product, (p1**w * p0 ** (1 - w))[:, None, None] * torch.einsum("ij,jk->ijk", *steps))
    equal(product.sum((1, 2)), p1**w * p0 ** (1 - w))


@SEEDS
@pytest.mark.parametrize("process", [LinearVP(), VE(0.05, 20.0)], ids=str)
@pytest.mark.equation("eq-guide-step")
def test_the_coefficients_of_an_ancestral_step(seed, process):
    """b²/c² of the package's steps against the signal-to-noise ratios."""
    D = Gaussian(process, torch.zeros(1, dtype=F64), std=1.0)
    times = uniform(6 + seed, end=0.05)
    grid = begin(D, process.prior((1, 1), dtype=F64), times)
    snr = (process.alpha(times) / process.sigma(times)) ** 2
    for i, (_, b, c) in enumerate(ancestral_steps(grid)):
        equal(b**2 / c**2, snr[i + 1] - snr[i], rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-guide-small")
def test_a_step_in_scores(seed):
    low, extra, w = numbers(seed, 3)
    high = low + extra
    xi, one, zero = normals(seed, 3, 4)
    s1, s0 = (one - xi) / high, (zero - xi) / high
    delta2 = (1 / low - 1 / high) * (one - zero).square().sum()
    left = w * (w - 1) / 2 * delta2
    equal(left, w * (w - 1) / 2 * (s1 - s0).square().sum() * high / low * (high - low))


@SEEDS
@pytest.mark.parametrize("w", [0.0, 0.4, 1.0, 2.5])
@pytest.mark.equation("eq-guide-mass")
def test_the_mass_of_the_sharpened_density(seed, w):
    s, S, *_ = case(seed)
    log_p = w * normal_log(0.0, s) + (1 - w) * normal_log(0.0, S)
    equal(integral(log_p.exp()), S ** (w - 1) / s**w * (w / s**2 - (w - 1) / S**2) ** -0.5, rtol=1e-6)


# Cheaper repairs


def guided_pair(seed, w=4.0, d=6):
    process = LinearVP()
    one, zero = (Gaussian(process, normals(seed + i, d), std=s) for i, s in ((0, 0.4), (9, 1.0)))
    return autoguidance(one, zero, w), normals(seed + 20, 5, d), torch.tensor(0.5, dtype=F64)


@SEEDS
@pytest.mark.equation("eq-guide-rescaled")
def test_the_rescaled_contrast(seed):
    guided, x, t = guided_pair(seed)
    phi = numbers(seed, 1, 0.1, 0.9)[0]
    left = rescaled(guided, phi)(x, t).std(1)
    equal(left, (1 - phi) * guided(x, t).std(1) + phi * guided.positive(x, t).std(1))


@SEEDS
@pytest.mark.equation("eq-guide-pythagoras")
def test_the_length_of_the_projected(seed):
    w = numbers(seed, 1, 1.5, 5.0)[0]
    guided, x, t = guided_pair(seed, w)
    one, zero = guided.positive(x, t), guided.negative(x, t)
    across = torch.stack([d - (d @ v) / (v @ v) * v for d, v in zip(one - zero, one, strict=True)])
    made = projected(guided)(x, t)
    equal(made.square().sum(1), one.square().sum(1) + (w - 1) ** 2 * across.square().sum(1))
    equal(made, one + (w - 1) * across)


@SEEDS
@pytest.mark.equation("eq-guide-auto")
def test_the_lead(seed):
    one, zero = normals(seed, 2, 5)
    w = numbers(seed, 1, 1.0, 4.0)[0]
    equal(zero + w * (one - zero), one + (w - 1) * (one - zero))


@SEEDS
@pytest.mark.equation("eq-guide-auto-error")
def test_the_error_that_is_taken_away(seed):
    exact, error = normals(seed, 2, 5)
    w, kappa = numbers(seed, 2, 1.0, 4.0)
    one, weak = exact + error, exact + kappa * error
    equal(weak + w * (one - weak) - exact, (1 - (w - 1) * (kappa - 1)) * error)


@SEEDS
@pytest.mark.equation("eq-guide-auto-regression")
def test_the_scale_with_the_least_loss(seed):
    """Nine pictures and five observations, all sums: the vertex of the parabola through three losses."""
    p = torch.tensor(numbers(seed, 45), dtype=F64).reshape(9, 5)
    p = p / p.sum()
    pictures, (one, weak) = normals(seed, 9, 3), normals(seed + 30, 10, 3).chunk(2)
    best = torch.einsum("ij,id->jd", p, pictures) / p.sum(0)[:, None]
    push = one - weak

    def mean(a, b):
        return (p * (a * b).sum(-1)).sum()

    def least(one, weak):
        low, middle, high = (
            mean(left, left) for left in (pictures[:, None] - weak - w * (one - weak) for w in (0, 1, 2))
        )
        return 1 + (low - high) / (2 * (low - 2 * middle + high))

    equal(least(one, weak), 1 + mean(pictures[:, None] - one, push) / mean(push, push))
    equal(least(one, weak), 1 + mean((best - one).expand(9, 5, 3), push) / mean(push, push))
    equal(least(best, weak), 1.0)  # an exact model: no push helps
    kappa = numbers(seed, 1, 1.5, 4.0)[0]
    equal(least(one, best + kappa * (one - best)), kappa / (kappa - 1))


# Learned and local conditions


@SEEDS
@pytest.mark.equation("eq-guide-prompt-gap")
def test_the_price_of_a_prompt(seed):
    """Nine pictures and five observations, all sums: the risk of any prediction, and that of the mean."""
    p = torch.tensor(numbers(seed, 45), dtype=F64).reshape(9, 5)
    p = p / p.sum()
    pictures, prompted = normals(seed, 9, 3), normals(seed + 30, 5, 3)
    best = torch.einsum("ij,id->jd", p, pictures) / p.sum(0)[:, None]

    def risk(f):
        return (p * (pictures[:, None] - f).square().sum(-1)).sum()

    gap = (p.sum(0) * (prompted - best).square().sum(-1)).sum()
    equal(risk(prompted), risk(best) + gap)


@SEEDS
@pytest.mark.equation("eq-guide-prompt-shift")
def test_the_shifted_prompt(seed):
    torch.manual_seed(seed)
    prompt = PromptEmbedding(torch.randn(2, 6), features=32)
    torch.nn.init.normal_(prompt.leave.weight)
    f = torch.randn(4, 32)
    made = prompt(f)
    for row in range(4):
        hidden = (prompt.enter.weight @ f[row] + prompt.enter.bias).clamp(min=0)
        shift = prompt.leave.weight @ hidden + prompt.leave.bias
        torch.testing.assert_close(made[row], prompt.vectors + shift)


@SEEDS
@pytest.mark.equation("eq-guide-prompt-classes")
def test_a_class_by_its_name(seed):
    torch.manual_seed(seed)
    E = DualEncoder(torch.nn.Linear(5, 8), words=6, width=8, length=4).double()
    E.log_scale.data += normals(seed + 7, 1)[0]
    x, names, v = normals(seed, 3, 5), torch.tensor([[0, 1], [2, 1], [3, 4]]), normals(seed + 1, 2, 8)
    made = E(x, names, v[None]).softmax(1)
    tau = 1 / math.exp(E.log_scale)

    def g(name):
        h = E.leave(E.layer((torch.cat([v, E.words(name)]) + E.place)[None])[0].mean(0))
        return h / h.square().sum().sqrt()

    for row in range(3):
        f = E.image(x[row])
        f = f / f.square().sum().sqrt()
        share = torch.stack([((f * g(name)).sum() / tau).exp() for name in names])
        equal(made[row], share / share.sum())


@SEEDS
@pytest.mark.equation("eq-guide-regions")
def test_independent_regions(seed):
    """The posterior mean of (x_A, x_B) by integration over the plane, against one integral for each."""
    a, b = World(seed), World(seed + 3)
    coarse = torch.linspace(-6, 6, 401, dtype=F64)
    alpha, sigma = numbers(seed, 2, 0.3, 0.9)
    points = normals(seed, 2)
    laws = [w.joint(coarse, 1.0, 0.0)[:, 0] * normal(points[i], alpha * coarse, sigma**2) for i, w in enumerate((a, b))]
    joint = laws[0][:, None] * laws[1]
    joint = joint / joint.sum()
    whole = torch.stack([(joint.sum(1) * coarse).sum(), (joint.sum(0) * coarse).sum()])
    alone = torch.stack([(p * coarse).sum() / p.sum() for p in laws])
    masks = torch.eye(2, dtype=F64)
    equal(whole, masks[0] * alone[0] + masks[1] * alone[1])


@SEEDS
@pytest.mark.equation("eq-guide-seam")
def test_the_seam(seed):
    """Unit variances and correlation κ: the linear posterior mean of both coordinates, and what a region alone says."""
    kappa = numbers(seed, 1, 0.1, 0.8)[0]
    alpha, sigma = numbers(seed + 5, 2, 0.3, 0.9)
    C = torch.tensor([[1.0, kappa], [kappa, 1.0]], dtype=F64)
    x = normals(seed, 2)
    both = alpha * C @ torch.linalg.solve(alpha**2 * C + sigma**2 * torch.eye(2, dtype=F64), x)
    q = alpha**2 + sigma**2
    alone = alpha * x / q
    right = alpha * sigma**2 * kappa * (x[1] - alpha**2 * kappa * x[0] / q) / (q**2 - alpha**4 * kappa**2)
    equal(both[0] - alone[0], right)


@SEEDS
@pytest.mark.equation("eq-guide-link")
def test_a_linked_tag(seed):
    torch.manual_seed(seed)
    link = RegionLink(3, 4)
    torch.nn.init.normal_(link.link.weight)
    tags, features, masks = torch.randn(2, 2, 4), torch.randn(2, 3, 4, 6), (torch.rand(2, 4, 6) > 0.5).float()
    made = link(tags, features, masks)
    for b, i in itertools.product(range(2), range(2)):
        total, area = torch.zeros(3), 0.0
        for row, column in itertools.product(range(4), range(6)):
            total = total + masks[i, row, column] * features[b, :, row, column]
            area = area + masks[i, row, column]
        torch.testing.assert_close(made[b, i], tags[b, i] + link.link.weight @ (total / area))


@SEEDS
@pytest.mark.parametrize(("link", "masked"), list(itertools.product((False, True), repeat=2)))
@pytest.mark.equation("eq-guide-hears")
def test_what_a_place_hears(seed, link, masked):
    """Left: the network's map. Right: sums over the tags that may be heard, one place after the other."""
    torch.manual_seed(seed)
    net = TaggedUNet(UNet(1, 8, channels=8, classes=10), link, masked).double()
    x, y = normals(seed, 2, 1, 8, 16), torch.tensor([[3, 7], [6, 1]])
    masks = halves()[[0, 1]].double()
    features = torch.nn.functional.silu(net.enter(torch.cat([x, net.place.double().expand(2, -1, -1, -1)], 1)))
    tags = net.label.weight[y]
    if link:
        torch.nn.init.normal_(net.link.link.weight)
        tags = net.link(tags, features, masks)
    made = net.said(x, condition(y[:, 0], y[:, 1], torch.tensor([0, 1])))
    for b, row, column in itertools.product(range(2), (0, 5), (0, 7, 8, 15)):
        q = net.query.weight @ features[b, :, row, column] + net.query.bias
        heard = [k for k in (0, 1) if masks[b, k, row, column] == 1 or not masked]
        grown = [torch.exp(q @ (net.key.weight @ tags[b, k] + net.key.bias)) for k in heard]
        equal(made[b, :, row, column], sum(g * tags[b, k] for g, k in zip(grown, heard, strict=True)) / sum(grown))


def test_definitions_are_what_the_package_computes():
    """cfg, regional and corrected on the mixture, as the definitions say."""
    process, half = LinearVP(), torch.tensor(0.5, dtype=F64)
    D = LabelledMixture(process, torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), stds=0.4)
    x, y = normals(0, 4, 1), torch.zeros(4, dtype=torch.int64)
    one, zero = D(x, half, y), D(x, half)
    equal(cfg(D, y, 2.5)(x, half), zero + 2.5 * (one - zero))
    masks = torch.tensor([[1.0], [3.0]])
    equal(regional([D.given(y), D], masks)(x, half), (one + 3 * zero) / 4)
    made = corrected(cfg(D, y, 2.0), x[None], uniform(5), generator=torch.Generator().manual_seed(0))
    assert made.x.shape == (1, 4, 1)
