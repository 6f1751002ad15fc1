"""Every equation of *Score matching*: both sides as printed, evaluated independently.

Expectations in one dimension are integrals on a grid, over Gaussian noise Gauss–Hermite sums, and over data sets of a
few points exact sums, so that nothing here is random but the inputs.
"""

import itertools
import math

import pytest
import torch
from sides import F64, LINE, SEEDS, equal, hermite, integral, normal, normals

from minidiff.analytic import GaussianMixture
from minidiff.objectives import dsm, esm, ism, ssm
from minidiff.process import LinearVP

NODES, WEIGHTS = hermite(80)


def number(seed, low, high):
    return float(low + (high - low) * torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=F64))


def gradient(f, x):
    """f'(x) for a function of single numbers, by automatic differentiation."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def hills(seed):
    """A density on the line with two humps, by itself: weights, means and variances are drawn."""
    u = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=F64)

    def p(x):
        return (0.3 + 0.4 * u[0]) * normal(x, -1 - u[1], 0.3 + u[2]) + (0.7 - 0.4 * u[0]) * normal(
            x, 1 + u[3], 0.2 + u[4]
        )

    return p


def log_slope(p, x):
    return gradient(lambda x: p(x).log(), x)


def field(seed):
    """A smooth s(x) that is nobody's score."""
    a, b, c = normals(seed + 50, 3)
    return lambda x: a * torch.sin(x + b) - 0.4 * x + c


INSIDE = LINE[(LINE.abs() < 7)]  # where the densities are not yet rounded to zero


# The score


@SEEDS
@pytest.mark.equation("eq-score-normaliser")
def test_the_normaliser_drops_out(seed):
    a = normals(seed, 3)

    def energy(x):
        return x**4 / 10 + a[0] * x**2 + a[1] * x + a[2]

    density = torch.exp(-energy(LINE))
    log_z = integral(density).log()
    left = (density / integral(density)).log()  # the normalised density, differentiated numerically
    left = ((left[2:] - left[:-2]) / (2 * (LINE[1] - LINE[0])))[2000:-2000]
    x = LINE[1:-1][2000:-2000]
    middle = -gradient(energy, x) - gradient(lambda x: log_z + 0 * x, x)
    equal(left, middle, rtol=1e-3, atol=1e-4)
    equal(middle, -gradient(energy, x))


@SEEDS
@pytest.mark.equation("eq-score-recover")
def test_the_score_recovers_log_ratios(seed):
    p, (a, b) = hills(seed), normals(seed + 9, 2)
    path = torch.linspace(float(a), float(b), 20_001, dtype=F64)
    equal(p(b).log() - p(a).log(), integral(log_slope(p, path), path), rtol=1e-6)


# Explicit and implicit


def mean(p, values):
    """E_p of values on LINE; 0 · ∞ far out, where p is rounded to zero, counts as zero."""
    return integral((p(LINE) * values).nan_to_num(0, 0, 0))


def target(p):
    return log_slope(p, LINE).nan_to_num(0, 0, 0)


@SEEDS
@pytest.mark.equation("eq-score-expand")
@pytest.mark.equation("eq-score-ism")
@pytest.mark.equation("eq-score-trace")
def test_explicit_and_implicit_losses(seed):
    p, s = hills(seed), field(seed)
    values, slopes, score = s(LINE), gradient(s, LINE), target(p)
    explicit = mean(p, (values - score) ** 2) / 2
    equal(explicit, mean(p, values**2 / 2) - mean(p, values * score) + mean(p, score**2) / 2)
    implicit = mean(p, slopes + values**2 / 2)
    equal(explicit, implicit + mean(p, score**2) / 2, rtol=1e-6)
    equal(mean(p, values * score), -mean(p, slopes), rtol=1e-6)


@SEEDS
def test_implicit_losses_in_the_plane(seed):
    """eq-score-ism and eq-score-trace again where the trace has two terms and the field is not a gradient."""
    means, A = normals(seed, 2, 2), normals(seed + 1, 2, 2)
    D = GaussianMixture(LinearVP(), torch.tensor([0.4, 0.6], dtype=F64), means, stds=torch.tensor([0.6, 0.9]))
    axis, t = torch.linspace(-7, 7, 141, dtype=F64), torch.zeros((), dtype=F64)
    x = torch.cartesian_prod(axis, axis)
    p = D.log_prob(x, t).exp() * (axis[1] - axis[0]) ** 2

    def s(x):
        return torch.sin(x @ A.T) - 0.3 * x

    left, right = (p * esm(s, x, D.score(x, t))).sum(), (p * ism(s, x)).sum()
    equal(left - right, (p * D.score(x, t).square().sum(1)).sum() / 2, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-score-product")
def test_p_times_its_score_is_its_gradient(seed):
    p, s = hills(seed), field(seed)
    score, values = target(p), s(LINE)
    left = mean(p, values * score)
    middle = integral(p(LINE) * values * score)
    equal(left, middle)
    slope = (p(LINE[2:]) - p(LINE[:-2])) / (LINE[2:] - LINE[:-2])  # ∇p without its logarithm
    equal(middle, integral(values[1:-1] * slope, LINE[1:-1]), rtol=1e-3, atol=1e-5)


@SEEDS
@pytest.mark.equation("eq-score-parts")
def test_integration_by_parts_keeps_its_boundary(seed):
    p, s, R = hills(seed), field(seed), 1.0 + seed / 2
    x = torch.linspace(-R, R, 20_001, dtype=F64)
    left = integral(s(x) * gradient(p, x), x)
    boundary = s(x[-1]) * p(x[-1]) - s(x[0]) * p(x[0])
    assert boundary.abs() > 1e-3  # it is not zero here
    equal(left, boundary - integral(gradient(s, x) * p(x), x), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-score-ism-gaussian")
def test_implicit_matching_of_a_gaussian(seed):
    v = number(seed, 0.3, 2.0)
    x, k = math.sqrt(v) * NODES[:, None], torch.linspace(0.05, 6, 120, dtype=F64)

    def loss(k):
        return WEIGHTS @ ism(lambda x: -k * x, x)

    left = torch.stack([loss(value) for value in k])
    equal(left, -k + k**2 * v / 2)
    best = k[left.argmin()]
    assert abs(float(best) - 1 / v) < float(k[1] - k[0])


# Slices


@SEEDS
@pytest.mark.equation("eq-score-vjp")
def test_one_product_is_one_backward_pass(seed):
    A, x, v = normals(seed, 3, 3), normals(seed + 1, 3), normals(seed + 2, 3)

    def s(x):
        return torch.tanh(A @ x) * x

    rows = [(s(x + h) - s(x - h)) / 2e-6 for h in 1e-6 * torch.eye(3, dtype=F64)]  # ∂s/∂x_j
    left = torch.stack(rows, 1)
    equal(v @ left, gradient(lambda x: v @ s(x), x), rtol=1e-6, atol=1e-8)


@SEEDS
@pytest.mark.equation("eq-score-hutchinson")
def test_hutchinson(seed):
    """White v that are neither signs nor Gaussian: √3 times the six unit vectors ±e_i, turned."""
    A = normals(seed, 3, 3)
    Q = torch.linalg.qr(normals(seed + 1, 3, 3))[0]
    v = math.sqrt(3) * torch.cat([Q, -Q])
    left = torch.einsum("ni,ij,nj->n", v, A, v).mean()
    white = torch.einsum("ni,nj->nij", v, v).mean(0)
    equal(left, (A @ white).trace())
    equal(white, torch.eye(3))
    equal((A @ white).trace(), A.trace())


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.equation("eq-score-all-signs")
def test_all_signs(d):
    A = normals(d, d, d)
    total = sum(
        torch.tensor(v, dtype=F64) @ A @ torch.tensor(v, dtype=F64) for v in itertools.product([-1, 1], repeat=d)
    )
    equal(2.0**-d * total, A.trace())


@SEEDS
@pytest.mark.equation("eq-score-ssm")
def test_slices_average_to_the_implicit_loss(seed):
    A, x = normals(seed, 3, 3), normals(seed + 1, 4, 3)

    def s(x):
        return torch.tanh(x @ A.T) * x

    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=F64)[:, None].expand(-1, 4, -1)
    J = torch.stack([torch.autograd.functional.jacobian(s, row) for row in x])
    right = J.diagonal(dim1=1, dim2=2).sum(1) + s(x).square().sum(1) / 2
    equal(ssm(s, x, signs), right)
    by_hand = torch.einsum("vbi,bij,vbj->vb", signs, J, signs) + torch.einsum("vbi,bi->vb", signs, s(x)) ** 2 / 2
    equal(by_hand.mean(0), right)


@SEEDS
@pytest.mark.equation("eq-score-norm-variance")
def test_variance_of_the_projected_norm(seed):
    s = normals(seed, 2)
    v, w = torch.cartesian_prod(NODES, NODES), torch.outer(WEIGHTS, WEIGHTS).flatten()
    values = (v @ s) ** 2 / 2
    equal(w @ values**2 - (w @ values) ** 2, s.square().sum() ** 2 / 2)


# Denoising: three numbers as data, so that every conditional mean is a sum

POINTS = torch.tensor([-1.1, 0.2, 0.9], dtype=F64)
SHARES = torch.tensor([0.3, 0.5, 0.2], dtype=F64)


class Noisy:
    """x = α x_0 + σ ε for x_0 among POINTS, at a random level."""

    def __init__(self, seed):
        self.alpha, self.sigma = number(seed, 0.5, 1.2), number(seed + 7, 0.4, 0.9)

    def kernel(self, x, x0):
        return normal(x, self.alpha * x0, self.sigma**2)

    def q(self, x):
        return (SHARES * self.kernel(x[..., None], POINTS)).sum(-1)

    def bayes(self, x):
        joint = SHARES * self.kernel(x[..., None], POINTS)
        return joint / joint.sum(-1, keepdim=True)

    def score(self, x):
        return log_slope(self.q, x)

    def given(self, x, values):
        """E[values(x_0) | x]."""
        return (self.bayes(x) * values).sum(-1)

    def eps(self, x):
        return (x[..., None] - self.alpha * POINTS) / self.sigma

    def D(self, x):
        return self.given(x, POINTS)

    def pairs(self):
        """x_0, ε and their weights: every point with every node."""
        x0, eps = (a.reshape(-1, 1) for a in torch.broadcast_tensors(POINTS[:, None], NODES))
        return x0, eps, torch.outer(SHARES, WEIGHTS).flatten()


PROBE = torch.linspace(-2.5, 2.5, 41, dtype=F64)


@SEEDS
@pytest.mark.equation("eq-score-kernel")
def test_score_of_the_kernel(seed):
    n, x0, eps = Noisy(seed), float(normals(seed, 1)), normals(seed + 1, 20)
    x = n.alpha * x0 + n.sigma * eps
    left = gradient(lambda x: n.kernel(x, x0).log(), x)
    equal(left, -(x - n.alpha * x0) / n.sigma**2)
    equal(-(x - n.alpha * x0) / n.sigma**2, -eps / n.sigma)


@SEEDS
@pytest.mark.equation("eq-score-mean")
def test_the_score_is_a_conditional_mean(seed):
    n = Noisy(seed)
    fraction = SHARES * n.kernel(PROBE[:, None], POINTS) / n.q(PROBE)[:, None]
    kernels = torch.stack([gradient(lambda x, x0=x0: n.kernel(x, x0).log(), PROBE) for x0 in POINTS], 1)
    middle = (fraction * kernels).sum(1)
    equal(n.score(PROBE), middle)
    equal(middle, n.given(PROBE, -n.eps(PROBE) / n.sigma))


@SEEDS
@pytest.mark.equation("eq-score-dsm")
@pytest.mark.equation("eq-score-constant")
def test_denoising_is_explicit_matching_of_the_noisy_density(seed):
    n, s = Noisy(seed), field(seed)
    x0, eps, w = n.pairs()
    x = (n.alpha * x0 + n.sigma * eps)[:, 0]
    left = w @ dsm(s, x0, eps, n.sigma, alpha=n.alpha)
    equal(left, w @ (s(x) + eps[:, 0] / n.sigma) ** 2 / 2)
    score = n.score(x)
    constant = w @ (score + eps[:, 0] / n.sigma) ** 2 / 2
    equal(left, w @ (s(x) - score) ** 2 / 2 + constant, rtol=1e-6)
    on_grid = integral((n.q(LINE) * n.score(LINE) ** 2).nan_to_num(0, 0, 0))
    equal(constant, (1 / n.sigma**2 - on_grid) / 2, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-score-excess")
def test_an_error_raises_all_four_losses_alike(seed):
    n, h, delta = Noisy(seed), field(seed + 3), number(seed, 0.3, 1.5)
    x0, eps, w = n.pairs()
    line = INSIDE[:, None]
    q = n.q(INSIDE)

    def score(delta):
        return lambda x: n.score(x) + delta * h(x)

    losses = {
        "explicit": lambda s: integral(q * esm(s, line, n.score(line)), INSIDE),
        "implicit": lambda s: integral(q * ism_by_hand(s, INSIDE), INSIDE),
        "sliced": lambda s: integral(q * sliced_by_hand(s, INSIDE, v=-1), INSIDE),
        "denoising": lambda s: w @ dsm(s, x0, eps, n.sigma, alpha=n.alpha),
    }
    right = delta**2 * integral(q * h(INSIDE) ** 2, INSIDE) / 2
    for loss in losses.values():
        equal(loss(score(delta)) - loss(score(0.0)), right, rtol=1e-5)


def ism_by_hand(s, x):
    """s' + ½ s² with s' by a central difference: the score here is itself a derivative."""
    step = 1e-4
    return (s(x + step) - s(x - step)) / (2 * step) + s(x) ** 2 / 2


def sliced_by_hand(s, x, v):
    """v s' v + ½ (v s)², with the derivative of v s along v."""
    step = 1e-4
    return v * (s(x + v * step) - s(x - v * step)) / (2 * step) + (v * s(x)) ** 2 / 2


@SEEDS
@pytest.mark.equation("eq-score-linear")
@pytest.mark.equation("eq-score-slope")
def test_the_best_slope_for_gaussian_data(seed):
    alpha, sigma, c = number(seed, 0.3, 1.2), number(seed + 1, 0.3, 1.5), number(seed + 2, 0.3, 2.0)
    x0, eps = (a.reshape(-1, 1) for a in torch.broadcast_tensors(c * NODES[:, None], NODES))
    w, d = torch.outer(WEIGHTS, WEIGHTS).flatten(), 1

    def loss(k):
        return w @ dsm(lambda x: -k * x, x0, eps, sigma, alpha=alpha)

    k = torch.tensor(number(seed + 3, 0.1, 2.0), dtype=F64, requires_grad=True)
    equal(loss(k).detach(), d / 2 * (k.detach() ** 2 * (alpha**2 * c**2 + sigma**2) - 2 * k.detach() + 1 / sigma**2))
    slope = torch.autograd.grad(loss(k), k)[0]
    curvature = float(loss(1.0) - 2 * loss(0.0) + loss(-1.0))  # a parabola: its minimum by one Newton step
    equal(k.detach() - slope / curvature, 1 / (alpha**2 * c**2 + sigma**2))


@SEEDS
@pytest.mark.equation("eq-score-simple")
def test_the_weighted_loss_is_the_simple_one(seed):
    n, (x0, eps, hat) = Noisy(seed), normals(seed, 3, 5)
    x = n.alpha * x0 + n.sigma * eps
    eps_hat = (x - n.alpha * hat) / n.sigma
    left = n.sigma**2 * (-eps_hat / n.sigma + eps / n.sigma).square().sum()
    middle = (eps - eps_hat).square().sum()
    equal(left, middle)
    equal(middle, n.alpha**2 / n.sigma**2 * (x0 - hat).square().sum())


# Tweedie


@SEEDS
@pytest.mark.equation("eq-score-tweedie")
def test_tweedie(seed):
    n = Noisy(seed)
    equal(n.D(PROBE), (PROBE + n.sigma**2 * n.score(PROBE)) / n.alpha)


def second(f, x):
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return torch.autograd.grad(slope.sum(), x)[0]


@SEEDS
@pytest.mark.equation("eq-score-hessian")
@pytest.mark.equation("eq-score-tweedie-covariance")
@pytest.mark.equation("eq-score-target-covariance")
def test_second_order_tweedie(seed):
    n = Noisy(seed)
    hessian = second(lambda x: n.q(x).log(), PROBE)
    kernels = -n.eps(PROBE) / n.sigma
    bent = torch.stack([second(lambda x, x0=x0: n.kernel(x, x0).log(), PROBE) for x0 in POINTS], 1)
    spread = n.given(PROBE, kernels**2) - n.given(PROBE, kernels) ** 2
    equal(hessian, n.given(PROBE, bent) + spread)
    covariance = n.given(PROBE, POINTS**2) - n.given(PROBE, POINTS) ** 2
    equal(hessian, -1 / n.sigma**2 + n.alpha**2 / n.sigma**4 * covariance)
    middle = n.sigma**2 / n.alpha**2 * (1 + n.sigma**2 * hessian)
    equal(covariance, middle)
    equal(middle, n.sigma**2 / n.alpha * gradient(n.D, PROBE))
    equal(spread, n.alpha**2 / n.sigma**4 * covariance)
    equal(n.alpha**2 / n.sigma**4 * covariance, (1 + n.sigma**2 * hessian) / n.sigma**2)


@SEEDS
def test_second_order_tweedie_in_the_plane(seed):
    """The same with matrices, on a mixture whose posterior covariance is in closed form."""
    D = GaussianMixture(LinearVP(), torch.tensor([0.4, 0.6], dtype=F64), normals(seed, 2, 2), stds=0.5)
    x, t = normals(seed + 1, 2), torch.tensor(0.3, dtype=F64)
    alpha, sigma = D.process.alpha(t), D.process.sigma(t)
    hessian = torch.autograd.functional.hessian(lambda x: D.log_prob(x[None], t)[0], x)
    left, eye = D.covariance(x[None], t)[0], torch.eye(2, dtype=F64)
    equal(left, sigma**2 / alpha**2 * (eye + sigma**2 * hessian))
    equal(left, sigma**2 / alpha * torch.autograd.functional.jacobian(lambda x: D(x[None], t)[0], x))


@SEEDS
@pytest.mark.equation("eq-score-error")
def test_the_error_is_the_mean_trace(seed):
    n = Noisy(seed)
    x0, eps, w = n.pairs()
    x = n.alpha * x0 + n.sigma * eps
    left = w @ (x0 - n.D(x))[:, 0] ** 2
    right = n.sigma**2 / n.alpha * integral(n.q(LINE) * gradient(n.D, LINE).nan_to_num(0, 0, 0))
    equal(left, right, rtol=1e-6)


# The target


@SEEDS
@pytest.mark.equation("eq-score-total")
@pytest.mark.equation("eq-score-weight")
def test_the_target_taken_apart(seed):
    n, d = Noisy(seed), 1
    _, eps, w = n.pairs()
    middle = w @ (eps[:, 0] / n.sigma) ** 2
    equal(d / n.sigma**2, middle)
    target = n.eps(LINE) / n.sigma
    bayes = n.bayes(LINE).nan_to_num(0)
    v = (bayes * target**2).sum(1) - (bayes * target).sum(1) ** 2
    explained = integral((n.q(LINE) * n.score(LINE) ** 2).nan_to_num(0, 0, 0))
    equal(middle, explained + integral(n.q(LINE) * v), rtol=1e-6)
    equal(n.sigma**2 * middle, d)


@SEEDS
@pytest.mark.equation("eq-score-expansion")
@pytest.mark.equation("eq-score-control-limit")
def test_the_expansion_for_small_noise(seed):
    A, x0, eps, alpha = normals(seed, 3, 3), normals(seed + 1, 3), normals(seed + 2, 3), 0.8

    def s(x):
        return torch.tanh(A @ x) * x - x

    J = torch.autograd.functional.jacobian(s, alpha * x0)
    finite = s(alpha * x0).square().sum() / 2 + eps @ J @ eps
    rests, limits = [], []
    for sigma in (1e-2, 5e-3, 2.5e-3, 1e-4):
        left = (s(alpha * x0 + sigma * eps) + eps / sigma).square().sum() / 2
        exploding = eps.square().sum() / (2 * sigma**2) + eps @ s(alpha * x0) / sigma
        rests.append(float(left - exploding - finite))
        limits.append(float(left - eps.square().sum() / (2 * sigma**2) - eps @ s(alpha * x0) / sigma))
    for coarse, fine in itertools.pairwise(rests[:3]):
        assert 1.8 < coarse / fine < 2.2  # O(σ)
    equal(limits[3], eps @ J @ eps + s(alpha * x0).square().sum() / 2, rtol=0, atol=0.02)


def batches(n):
    """Every way to draw n reference points, with its probability."""
    for index in itertools.product(range(len(POINTS)), repeat=n):
        rows = list(index)
        yield rows, SHARES[rows].prod()


@SEEDS
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.equation("eq-score-stf-mean")
@pytest.mark.equation("eq-score-stf-variance")
def test_the_stable_target_is_unbiased(seed, size):
    n, x = Noisy(seed), normals(seed + 4, 1)
    kernels = -(x - n.alpha * POINTS) / n.sigma**2
    total, square, within = 0.0, 0.0, 0.0
    for rows, _ in batches(size):
        # the first reference made x: it has the posterior given x, the others are fresh
        probability = n.bayes(x)[0, rows[0]] * SHARES[rows[1:]].prod()
        likelihood = n.kernel(x, POINTS[rows])
        w = likelihood / likelihood.sum()
        stable = (w * kernels[rows]).sum()
        total = total + probability * stable
        square = square + probability * stable**2
        within = within + probability * ((w * kernels[rows] ** 2).sum() - stable**2)
    equal(total, n.score(x)[0])
    v = n.given(x, kernels**2)[0] - n.given(x, kernels)[0] ** 2
    equal(v, square - total**2 + within)
    assert square - total**2 < v


# Langevin


@SEEDS
@pytest.mark.equation("eq-score-test-function")
def test_the_mean_of_a_test_function_after_one_step(seed):
    p, f, start = hills(seed), field(seed), hills(seed + 20)
    rests = []
    for step in (0.02, 0.01, 0.005):
        x = INSIDE[::8]
        after = x[:, None] + step / 2 * log_slope(p, x)[:, None] + math.sqrt(step) * NODES
        left = integral(start(x) * (f(after) @ WEIGHTS), x) - integral(start(x) * f(x), x)
        bracket = gradient(f, x) * log_slope(p, x) + second(f, x)
        rests.append(float(left - step / 2 * integral(start(x) * bracket, x)))
    for coarse, fine in itertools.pairwise(rests):
        assert 3.5 < coarse / fine < 4.5  # O(ε²)


@SEEDS
@pytest.mark.equation("eq-score-stein")
def test_stein(seed):
    p, f = hills(seed), field(seed)
    left = mean(p, gradient(f, LINE) * target(p) + second(f, LINE))
    flux = p(LINE) * gradient(f, LINE)
    middle = integral((flux[2:] - flux[:-2]) / (LINE[2:] - LINE[:-2]), LINE[1:-1])
    equal(left, middle, rtol=0, atol=1e-8)
    equal(middle, 0.0, rtol=0, atol=1e-8)
    assert mean(p, second(f, LINE)).abs() > 1e-3  # each half is not zero


@SEEDS
@pytest.mark.equation("eq-score-ula-recursion")
@pytest.mark.equation("eq-score-ula-variance")
@pytest.mark.equation("eq-score-ula-other")
def test_the_bias_of_a_finite_step(seed):
    step, v = number(seed, 0.1, 3.0), number(seed + 1, 0.1, 3.0)
    x = math.sqrt(v) * NODES[:, None]
    after = x + step / 2 * (-x) + math.sqrt(step) * NODES  # the score of N(0, 1) is −x
    equal(WEIGHTS @ after**2 @ WEIGHTS, (1 - step / 2) ** 2 * v + step)
    for _ in range(3000):
        v = (1 - step / 2) ** 2 * v + step
    middle = step / (1 - (1 - step / 2) ** 2)
    equal(v, middle)
    equal(middle, 1 / (1 - step / 4))
    other, step = 1.0, step / 2  # x + ε ∇log p + √(2ε) z
    for _ in range(3000):
        other = (1 - step) ** 2 * other + 2 * step
    equal(other, 1 / (1 - step / 2))


# Weights


@SEEDS
@pytest.mark.equation("eq-score-two-modes")
@pytest.mark.equation("eq-score-blind")
def test_the_score_of_two_modes(seed):
    a, tau, pi, other = number(seed, 0.5, 2), number(seed + 1, 0.4, 1), number(seed + 2, 0.1, 0.9), 0.35

    def p(x, pi=pi):
        return pi * normal(x, a, tau**2) + (1 - pi) * normal(x, -a, tau**2)

    b, b_other = (math.log(w / (1 - w)) / 2 for w in (pi, other))
    right = (a * torch.tanh(a * PROBE / tau**2 + b) - PROBE) / tau**2
    equal(log_slope(p, PROBE), right)
    u = a * PROBE / tau**2
    left = torch.tanh(u + b) - torch.tanh(u + b_other)
    equal(left, math.sinh(b - b_other) / (torch.cosh(u + b) * torch.cosh(u + b_other)))


# The ladder


@SEEDS
@pytest.mark.equation("eq-score-step-ratio")
def test_drift_and_noise_keep_their_ratio(seed):
    sigma, gamma = number(seed, 0.1, 9), number(seed + 1, 0.1, 2)
    step = gamma * sigma**2
    x = sigma * NODES
    drift = WEIGHTS @ (step / 2 * (-x / sigma**2)) ** 2
    noise = WEIGHTS @ (math.sqrt(step) * NODES) ** 2
    equal(drift / noise, gamma / 4)


@SEEDS
@pytest.mark.equation("eq-score-denoiser-step")
def test_the_step_written_with_the_denoiser(seed):
    n, x, z, gamma = Noisy(seed), normals(seed, 30), normals(seed + 1, 30), number(seed, 0.1, 2)
    step = gamma * n.sigma**2
    left = x + step / 2 * n.score(x) + math.sqrt(step) * z
    equal(left, (1 - gamma / 2) * x + gamma / 2 * n.alpha * n.D(x) + n.sigma * math.sqrt(gamma) * z)


@SEEDS
@pytest.mark.equation("eq-score-annealed-variance")
@pytest.mark.equation("eq-score-point")
def test_variances_on_the_ladder(seed):
    sigma, gamma, v, c = number(seed, 0.1, 5), number(seed + 1, 0.1, 3), number(seed + 2, 0.1, 4), 0.7
    step = gamma * sigma**2
    x = math.sqrt(v) * NODES[:, None]
    after = x - step / 2 * x / (c**2 + sigma**2) + math.sqrt(step) * NODES
    equal(
        WEIGHTS @ after**2 @ WEIGHTS,
        (1 - gamma * sigma**2 / (2 * (c**2 + sigma**2))) ** 2 * v + gamma * sigma**2,
    )
    for _ in range(2000):  # c = 0
        v = (1 - step / (2 * sigma**2)) ** 2 * v + step
    equal(v, sigma**2 / (1 - gamma / 4))


@pytest.mark.equation("eq-score-shell")
def test_the_shell_of_noise():
    sigma, ratios = 1.3, []
    for d in (2, 16, 400):
        r = torch.linspace(1e-9, 45, 400_001, dtype=F64)
        density = torch.exp((d - 1) * r.log() - r**2 / 2 - (d / 2 - 1) * math.log(2) - math.lgamma(d / 2))
        radius = integral(density * sigma * r, r)
        variance = integral(density * (sigma * r - radius) ** 2, r)
        bracket = d - 2 * math.exp(2 * (math.lgamma((d + 1) / 2) - math.lgamma(d / 2)))
        equal(variance, sigma**2 * bracket, rtol=1e-5)
        ratios.append(float(variance / (sigma**2 / 2)))
    assert ratios[0] < ratios[1] < ratios[2] < 1
    assert ratios[2] > 0.999
