"""The displayed equations of *A diffusion model in five minutes*, both sides evaluated as printed."""

import math

import pytest
import torch
from scipy.linalg import sqrtm
from sides import F64, SEEDS, normals
from torch.testing import assert_close

from minidiff.analytic import Empirical, GaussianMixture
from minidiff.denoiser import Denoiser
from minidiff.metrics import frechet_distance
from minidiff.objectives import denoising_loss, velocity
from minidiff.process import RectifiedFlow
from minidiff.samplers import ddim, last

PROCESS = RectifiedFlow()


def uniform(low, high, *shape, seed):
    unit = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return low + (high - low) * unit


def covariance(d, seed):
    root = normals(seed, d, 2 * d)
    return root @ root.mT / (2 * d)


def root(matrix):
    return torch.from_numpy(sqrtm(matrix.numpy()).real)


@SEEDS
@pytest.mark.equation("eq-five-marginal")
def test_marginal_is_the_image_of_the_noise_density(seed):
    x0, eps, t = normals(seed, 5), normals(seed + 10, 5), uniform(0.05, 0.95, seed=seed)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum()
    jacobian = torch.func.jacrev(lambda eps: (1 - t) * x0 + t * eps)(eps)
    marginal = torch.distributions.MultivariateNormal((1 - t) * x0, t**2 * torch.eye(5).double())
    x = PROCESS.noise(x0[None], t, eps[None])[0]
    assert_close(marginal.log_prob(x), standard - jacobian.det().abs().log())


@SEEDS
@pytest.mark.equation("eq-five-pythagoras")
def test_squared_error_splits_at_the_conditional_mean(seed):
    points, t = normals(seed, 4), uniform(0.2, 0.9, seed=seed + 10)
    weights = uniform(0.1, 1, 4, seed=seed + 20)
    weights = weights / weights.sum()
    x = torch.linspace(-14, 14, 8001, dtype=F64)
    joint = weights[:, None] * torch.distributions.Normal((1 - t) * points[:, None], t).log_prob(x).exp()
    best = (joint * points[:, None]).sum(0) / joint.sum(0).clamp(min=1e-300)
    other = torch.sin(3 * x) + 0.3 * x

    def mean(values):  # over the joint law of x_0 (rows) and x_t (the grid)
        return torch.trapezoid(joint * values, x).sum()

    left = mean((points[:, None] - other) ** 2)
    assert_close(left, mean((points[:, None] - best) ** 2) + mean((best - other) ** 2))
    assert left > mean((points[:, None] - best) ** 2)


@SEEDS
@pytest.mark.equation("eq-five-mean")
def test_the_best_guess_from_pure_noise_is_the_mean(seed):
    x, one = normals(seed, 6, 3), torch.ones((), dtype=F64)
    data = normals(seed + 10, 7, 3)
    assert_close(Empirical(PROCESS, data)(x, one), data.mean(0).expand(6, 3))
    weights = torch.tensor([0.2, 0.8], dtype=F64)
    means = normals(seed + 20, 2, 3)
    mixture = GaussianMixture(PROCESS, weights, means, stds=0.4)
    assert_close(mixture(x, one), (weights @ means).expand(6, 3))


@SEEDS
@pytest.mark.equation("eq-five-velocity")
def test_velocity_is_the_derivative_of_the_path(seed):
    x0, eps, t = normals(seed, 4, 3), normals(seed + 10, 4, 3), uniform(0, 1, seed=seed)
    _, rate = torch.func.jvp(lambda t: PROCESS.noise(x0, t, eps), (t,), (torch.ones_like(t),))
    assert_close(rate, eps - x0)


@SEEDS
@pytest.mark.equation("eq-five-guess")
def test_guess_follows_from_the_velocity(seed):
    x0, eps, t = normals(seed, 4, 3), normals(seed + 10, 4, 3), uniform(0, 1, 4, seed=seed)
    x = (1 - t[:, None]) * x0 + t[:, None] * eps
    assert_close(x - t[:, None] * (eps - x0), x0)
    u = normals(seed + 20, 4, 3)
    D = Denoiser(lambda x, t, y: u, PROCESS, "velocity")
    assert_close(D(x, t), x - t[:, None] * u)


@SEEDS
@pytest.mark.equation("eq-five-loss")
def test_velocity_loss_is_a_weighted_loss_on_the_guess(seed):
    x0, eps, t = normals(seed, 4, 3), normals(seed + 10, 4, 3), uniform(0.01, 1, 4, seed=seed)
    u = normals(seed + 20, 4, 3)
    x = (1 - t[:, None]) * x0 + t[:, None] * eps
    guess = x - t[:, None] * u
    left = (eps - x0 - u).square().sum(1)
    assert_close(left, (x0 - guess).square().sum(1) / t**2)
    D = Denoiser(lambda x, t, y: u, PROCESS, "velocity")
    assert_close(3 * denoising_loss(D, x0, t, eps, weight=velocity), left)


@SEEDS
@pytest.mark.equation("eq-five-step")
def test_step_at_every_sign(seed):
    x = normals(seed, 4, 3)
    t, s = uniform(0.05, 0.9, 2, seed=seed + 10).sort().values
    u = normals(seed + 20, 4, 3)
    guess = x - s * u
    eps = (x - (1 - s) * guess) / s
    along_the_line = (1 - t) * guess + t * eps
    assert_close(along_the_line, x + (t - s) * u)
    D = Denoiser(lambda x, t, y: u, PROCESS, "velocity")
    assert_close(last(ddim(D, x, torch.stack([s, t]))), along_the_line)


@SEEDS
@pytest.mark.equation("eq-five-coupling")
def test_mean_squared_distance_of_coupled_vectors(seed):
    p = uniform(0.1, 1, 9, seed=seed)
    p = p / p.sum()
    a, b = normals(seed + 10, 9, 4), normals(seed + 20, 9, 4) + 1
    mean_a, mean_b = p @ a, p @ b
    left = p @ (a - b).square().sum(1)
    cov_a, cov_b = ((p[:, None] * (z - m)).mT @ (z - m) for z, m in ((a, mean_a), (b, mean_b)))
    cross = (p[:, None] * (a - mean_a)).mT @ (b - mean_b)
    assert_close(left, (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross.trace())


@SEEDS
@pytest.mark.equation("eq-five-frechet")
def test_frechet_distance_at_every_sign(seed):
    mean_a, mean_b = normals(seed, 4), normals(seed + 10, 4)
    cov_a, cov_b = covariance(4, seed + 20), covariance(4, seed + 30)
    root_a, root_b = root(cov_a), root(cov_b)
    fixed = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace()
    left, values, right = torch.linalg.svd(root_b @ root_a)
    best = right.mT @ left.mT

    def cost(w):  # of the coupling with cross-covariance A^½ W B^½
        return fixed - 2 * (root_a @ w @ root_b).trace()

    joint = torch.cat([torch.cat([cov_a, root_a @ best @ root_b], 1), torch.cat([root_b @ best.mT @ root_a, cov_b], 1)])
    assert torch.linalg.eigvalsh(joint).min() > -1e-12
    minimum = fixed - 2 * values.sum()
    assert_close(cost(best), minimum)
    others = normals(seed + 40, 200, 4, 4)
    others = others / torch.linalg.matrix_norm(others, ord=2)[:, None, None]
    assert all(cost(w) > minimum for w in others)
    assert_close(minimum, fixed - 2 * root(root_a @ cov_b @ root_a).trace())
    assert_close(frechet_distance(with_moments(mean_a, root_a), with_moments(mean_b, root_b)), float(minimum))


def with_moments(mean, root):
    """Rows whose sample mean and unbiased covariance are exactly the given ones."""
    d = len(mean)
    corners = torch.cat([torch.eye(d), -torch.eye(d)]).double() * math.sqrt((2 * d - 1) / 2)
    return mean + corners @ root


def expected_on_the_line(n, shift, std_a, std_b):
    """E[(m_a − m_b)² + (s_a − s_b)²] for n draws each of two Gaussians, with E s = c₄(n) σ (Cochran)."""
    c4 = math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
    return shift**2 + (std_a**2 + std_b**2) * (1 + 1 / n) - 2 * c4**2 * std_a * std_b


def remainder_order(remainder):
    return math.log2(remainder(100) / remainder(200))


@pytest.mark.parametrize(("shift", "std_a", "std_b"), [(0.0, 1.0, 1.0), (0.7, 1.3, 0.4), (-2.0, 0.2, 2.5)])
@pytest.mark.equation("eq-five-bias")
def test_bias_falls_as_one_over_n(shift, std_a, std_b):
    limit, c = shift**2 + (std_a - std_b) ** 2, std_a**2 + std_b**2 + std_a * std_b
    order = remainder_order(lambda n: expected_on_the_line(n, shift, std_a, std_b) - limit - c / n)
    assert order == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("n", [200, 400])
@pytest.mark.equation("eq-five-bias")
def test_bias_in_several_dimensions(n):
    """1600 pairs of samples of one law in d = 4, where c = 2 tr C + Σ_ij (1 + δ_ij) λ_i λ_j/(λ_i + λ_j)."""
    spread = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=F64)
    c = 2 * spread.sum() + ((1 + torch.eye(4)) * spread * spread[:, None] / (spread + spread[:, None])).sum()
    a, b = (spread.sqrt() * normals(n + k, 1600, n, 4) for k in range(2))
    values = torch.tensor([frechet_distance(x, y) for x, y in zip(a, b, strict=True)], dtype=F64)
    standard_error = values.std() / 40
    # the O(1/n²) remainder, relative to c/n, is of order d/n
    assert abs(values.mean() - c / n) < 4 * standard_error + 4 / n * (c / n)


@pytest.mark.parametrize("std", [0.3, 1.0, 2.5])
@pytest.mark.equation("eq-five-bias-line")
def test_bias_on_the_line(std):
    order = remainder_order(lambda n: expected_on_the_line(n, 0.0, std, std) - 3 * std**2 / n)
    assert order == pytest.approx(2, abs=0.02)
    n = 50
    a, b = (std * normals(k, 2000, n, 1) for k in range(2))
    values = (a.mean(1) - b.mean(1)).square() + (a.std(1) - b.std(1)).square()
    exact = expected_on_the_line(n, 0.0, std, std)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(2000)
    assert_close(frechet_distance(a[0], b[0]), float(values[0]))


@SEEDS
@pytest.mark.equation("eq-five-empirical")
def test_denoiser_of_a_finite_set_by_tweedie(seed):
    points, t = normals(seed, 6, 3), uniform(0.1, 0.9, seed=seed + 10)
    x = normals(seed + 20, 5, 3)

    def log_p(x):
        return torch.logsumexp(-((x - (1 - t) * points).square().sum(1)) / (2 * t**2), 0)

    score = torch.stack([torch.func.grad(log_p)(row) for row in x])
    tweedie = (x + t**2 * score) / (1 - t)
    scale = torch.exp(-torch.cdist(x, (1 - t) * points).square() / (2 * t**2))
    printed = (scale / scale.sum(1, keepdim=True)) @ points
    assert_close(printed, tweedie)
    assert_close(Empirical(PROCESS, points)(x, t), printed)
