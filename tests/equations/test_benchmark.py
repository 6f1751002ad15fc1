"""Every equation of *The benchmark*: both sides as printed, evaluated independently."""

import math

import numpy as np
import pytest
import torch
from odes import even, rk4
from sides import F64, SEEDS, equal, normals

from minidiff import samplers, times
from minidiff.analytic import GaussianMixture
from minidiff.metrics import frechet_distance
from minidiff.process import LinearVP, RectifiedFlow


def path_error(a, b, sigma_data):
    """E of def-bench-rms: samples are rows."""
    d = a.shape[1]
    each = [float((x - y).norm()) / (sigma_data * math.sqrt(d)) for x, y in zip(a, b, strict=True)]
    return math.sqrt(sum(e**2 for e in each) / len(each))


def covariance(x):
    """The covariance of the rows themselves, with n."""
    centred = x - x.mean(0)
    return centred.mT @ centred / len(x)


def fitted(a, b):
    """FD of the Gaussians with the moments of two finite sets."""
    root_a = square_root(covariance(a))
    overlap = square_root(root_a @ covariance(b) @ root_a).trace()
    return float((a.mean(0) - b.mean(0)).square().sum() + covariance(a).trace() + covariance(b).trace() - 2 * overlap)


def square_root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT


def transport(a, b):
    """W_2² of two finite sets of equal size, by the best assignment."""
    from scipy.optimize import linear_sum_assignment

    cost = (a[:, None] - b[None]).square().sum(-1).numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


@SEEDS
@pytest.mark.equation("eq-bench-triangle")
def test_error_of_the_reference(seed):
    s, phi, psi = normals(seed, 9, 4), normals(seed + 10, 9, 4), None
    psi = phi + 0.1 * normals(seed + 20, 9, 4)
    assert abs(path_error(s, psi, 0.7) - path_error(s, phi, 0.7)) <= path_error(psi, phi, 0.7)
    far = phi + 3 * (psi - phi)  # a sampler on the line through both: then it is an equality
    equal(path_error(far, phi, 0.7) - path_error(far, psi, 0.7), path_error(psi, phi, 0.7))


@SEEDS
@pytest.mark.equation("eq-bench-transport")
@pytest.mark.equation("eq-bench-gelbrich")
def test_one_start_is_a_coupling(seed):
    x = normals(seed, 40, 3)
    phi, s = x @ normals(seed + 1, 3, 3), None
    s = phi + 0.3 * normals(seed + 2, 40, 3)
    mean_square = (s - phi).square().sum(1).mean()
    assert transport(s, phi) <= mean_square
    shuffled = s[torch.randperm(40, generator=torch.Generator().manual_seed(seed))]
    equal(transport(shuffled, phi), transport(s, phi))  # which rows belong together is not asked
    equal(mean_square, 3 * 0.7**2 * path_error(s, phi, 0.7) ** 2)
    assert fitted(s, phi) <= transport(s, phi)
    for side in (fitted(phi + 2, phi), transport(phi + 2, phi), 3 * 0.7**2 * path_error(phi + 2, phi, 0.7) ** 2):
        equal(side, 3 * 2**2, rtol=1e-6)  # a shift: all three are its square


@SEEDS
@pytest.mark.equation("eq-bench-saturation")
def test_the_distance_to_the_data_saturates(seed):
    data, phi = normals(seed, 50, 4), 0.8 * normals(seed + 1, 50, 4) + 0.2
    feature = normals(seed + 2, 4, 3)
    lipschitz = float(torch.linalg.matrix_norm(feature, 2))
    for size in (1.0, 0.1, 0.001):
        s = phi + size * normals(seed + 3, 50, 4)
        left = abs(fitted(s @ feature, data @ feature) ** 0.5 - fitted(phi @ feature, data @ feature) ** 0.5)
        middle = fitted(s @ feature, phi @ feature) ** 0.5
        assert left <= middle + 1e-7
        assert middle <= lipschitz * math.sqrt(4) * 0.6 * path_error(s, phi, 0.6) + 1e-7
    # Shifts along the direction that the feature stretches most: then both are equalities.
    along = lipschitz * torch.linalg.svd(feature)[0][:, 0]
    phi, s = data + along, data + 3 * along
    left = abs(fitted(s @ feature, data @ feature) ** 0.5 - fitted(phi @ feature, data @ feature) ** 0.5)
    equal(left, fitted(s @ feature, phi @ feature) ** 0.5, rtol=1e-6)
    equal(left, lipschitz * math.sqrt(4) * 0.6 * path_error(s, phi, 0.6), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.equation("eq-bench-cosines")
@pytest.mark.equation("eq-bench-quadratic")
@pytest.mark.equation("eq-bench-cancel")
def test_ddim_on_a_gaussian(n):
    s, d = 0.6, 2
    process = RectifiedFlow()
    cov = s**2 * torch.eye(d, dtype=F64)[None]
    D = GaussianMixture(process, torch.ones(1).double(), torch.zeros(1, d).double(), cov)
    grid = times.cosine_angle(process, n, sigma_data=s, r_max=math.inf, r_min=0.0)
    eps = normals(0, 6, d)
    made, exact = samplers.last(samplers.ddim(D, eps, grid)), s * eps  # the flow of N(0, s²) keeps quantiles
    angle = torch.atan(torch.exp(-process.lam(grid)) / s)
    product = torch.cos(angle[:-1] - angle[1:]).prod()
    equal(made, product * exact, rtol=1e-7)
    data = s * whitened(1, 200, d)  # has the moments of N(0, s² I), and Φ's ends of starts with those of N(0, I)
    made = product * data
    for fd in (fitted(made, data), frechet_distance(made, data) * 199 / 200):  # ours divides by n − 1
        equal(fd, d * s**2 * (1 - product) ** 2, rtol=1e-5)
        equal(fd, d * s**2 * path_error(made, data, s) ** 2, rtol=1e-5)
    for b in (0.05, -0.1):
        solved = (1 + b) * data  # the ends of the network's own flow
        made = product * solved
        equal(fitted(made, data), d * s**2 * (b - path_error(made, solved, s)) ** 2, rtol=1e-5)


def whitened(seed, n, d):
    """Rows with mean 0 and covariance I, both exactly."""
    x = normals(seed, n, d)
    x = x - x.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance(x)), x.mT, upper=False).mT


def c4(n):
    """E of the sample standard deviation over σ."""
    return math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))


@pytest.mark.parametrize(("n", "m"), [(400, 400), (300, 1200), (5000, 700), (40_000, 90_000)])
@pytest.mark.equation("eq-bench-sizes")
@pytest.mark.equation("eq-bench-floor")
def test_bias_on_a_line(n, m):
    sigma = 1.7

    def exact(n, m):
        """E (mean difference)² + E (difference of standard deviations)², in closed form."""
        return sigma**2 * (1 / n + 1 / m) + 2 * sigma**2 * (1 - c4(n) * c4(m))

    leading = 3 * sigma**2 / 2 * (1 / n + 1 / m)
    assert exact(n, m) == pytest.approx(leading, rel=5 / min(n, m))
    other = exact(900, 2000)
    assert exact(n, m) == pytest.approx(other * (1 / n + 1 / m) / (1 / 900 + 1 / 2000), rel=8 / min(n, m, 900))


@SEEDS
@pytest.mark.equation("eq-bench-paired")
@pytest.mark.equation("eq-bench-seeds")
def test_pairing(seed):
    mixing = normals(seed, 2, 3)
    mixing = mixing / mixing.norm(dim=1, keepdim=True) * 1.3  # A and B with equal variances v
    law = mixing @ mixing.mT
    v, cov = float(law[0, 0]), float(law[0, 1])
    difference = float(torch.tensor([1.0, -1.0]).double() @ law @ torch.tensor([1.0, -1.0]).double())
    rho = cov / v
    equal(difference, law[0, 0] + law[1, 1] - 2 * cov)
    equal(difference, 2 * v * (1 - rho))
    error = 0.1  # of the mean difference that is wanted
    seeds_apart, seeds_paired = (v + v) / error**2, difference / error**2
    equal(seeds_apart / seeds_paired, 1 / (1 - rho))


@pytest.mark.equation("eq-bench-t")
def test_three_seeds():
    from scipy.stats import t

    for p in (0.6, 0.9, 0.975, 0.999):
        equal((2 * p - 1) / math.sqrt(2 * p * (1 - p)), t.ppf(p, 2), rtol=1e-7)
    assert f"{t.ppf(0.975, 2):.2f}" == "4.30"


@pytest.mark.equation("eq-bench-best")
def test_least_of_several_scores():
    z = np.linspace(-12, 12, 40001)
    phi = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    cdf = torch.special.ndtr(torch.from_numpy(z)).numpy()
    mu, s = 2.0, 0.3
    for k in (1, 2, 5, 12):
        printed = mu - s * np.trapezoid(k * z * phi * cdf ** (k - 1), z)
        survival = (1 - cdf) ** k  # of the least, at μ + s z
        exact = mu + s * np.trapezoid(np.where(z > 0, survival, survival - 1), z)
        assert printed == pytest.approx(exact, abs=2e-4)  # the step of the grid at z = 0
    draws = np.random.default_rng(0).normal(mu, s, (200_000, 5)).min(1)
    five = mu - s * np.trapezoid(5 * z * phi * cdf**4, z)
    assert abs(draws.mean() - five) < 4 * draws.std() / math.sqrt(len(draws))


@pytest.mark.equation("eq-bench-outliers")
def test_lost_paths():
    share, apart, small = 0.02, 1.5, 0.03
    errors = torch.full((1000,), small, dtype=F64)
    errors[:20] = apart
    equal(errors.square().mean(), (1 - share) * small**2 + share * apart**2)
    assert float(errors.median()) == small


@pytest.mark.equation("eq-bench-per-step")
@pytest.mark.equation("eq-bench-slope")
def test_order_and_calls():
    c, p = 0.7, 2.5
    for k in (1, 2, 3):
        by_calls = {}
        for n in (10, 40):
            calls = k * n
            by_calls[calls] = c * n**-p
            equal(by_calls[calls], c * k**p * calls**-p)
        (n1, e1), (n2, e2) = by_calls.items()
        equal(math.log(e1 / e2) / math.log(n2 / n1), p)


@pytest.mark.equation("eq-bench-slope")
def test_measured_order_of_ddim():
    process = LinearVP()
    cov = 0.5 * torch.eye(1, dtype=F64)[None]
    D = GaussianMixture(process, torch.ones(1).double(), torch.zeros(1, 1).double(), cov)
    x = normals(0, 5, 1)
    ends = []
    for n in (200, 400, 4000):
        ends.append(samplers.last(samplers.ddim(D, x, times.log_snr(process, n, r_max=80, r_min=0.01))))
    e1, e2 = (float((end - ends[2]).norm()) for end in ends[:2])
    assert math.log(e1 / e2) / math.log(400 / 200) == pytest.approx(1, abs=0.2)


@SEEDS
@pytest.mark.equation("eq-bench-seconds")
@pytest.mark.equation("eq-bench-crossover")
def test_crossover(seed):
    generator = np.random.default_rng(seed)
    calls_a, calls_b, o_b = 6, 15, generator.uniform(0.1, 1)
    o_a = o_b * generator.uniform(4, 9)

    def seconds(calls, c, o):
        """The loop itself: a call, then the sampler's own work."""
        total = 0.0
        for _ in range(calls):
            total += c
            total += o
        return total

    for c in (0.01, 1.0, 30.0):
        equal(seconds(calls_a, c, o_a), calls_a * (c + o_a))
    border = (calls_a * o_a - calls_b * o_b) / (calls_b - calls_a)
    assert border > 0
    equal(seconds(calls_a, border, o_a), seconds(calls_b, border, o_b))
    assert seconds(calls_a, 1.01 * border, o_a) < seconds(calls_b, 1.01 * border, o_b)
    assert seconds(calls_a, 0.99 * border, o_a) > seconds(calls_b, 0.99 * border, o_b)


@SEEDS
@pytest.mark.equation("eq-bench-spearman")
def test_rank_correlation(seed):
    m = 11
    a, b = (torch.randperm(m, generator=torch.Generator().manual_seed(seed + i)).double() + 1 for i in (0, 50))
    printed = 1 - 6 * (a - b).square().sum() / (m * (m**2 - 1))
    pearson = ((a - a.mean()) * (b - b.mean())).sum() / math.sqrt(
        float((a - a.mean()).square().sum() * (b - b.mean()).square().sum())
    )
    equal(printed, pearson)


def flow_of_gaussian(mu, s, y, r_from, r_to):
    """dy/dr = (y − D)/r with D the mean of x_0 given y, by Runge–Kutta in log r."""

    def slope(log_r, y):
        r2 = math.exp(2 * log_r)
        D = (r2 * mu + s**2 * y) / (r2 + s**2)
        return y - D

    return rk4(slope, y, even(math.log(r_from), math.log(r_to), 4000))


@pytest.mark.equation("eq-bench-start")
@pytest.mark.equation("eq-bench-end")
def test_cut_ends():
    mu, s = -0.8, 0.5
    eps = torch.linspace(-2, 2, 5, dtype=F64)
    exact = mu + s * eps
    for r in (200.0, 2000.0):
        late = flow_of_gaussian(mu, s, r * eps, r, 1e-5)
        error = float(((late - exact) / s).square().mean().sqrt())
        assert r * error == pytest.approx(abs(mu), rel=20 / r)
    for r in (0.02, 0.005):
        early = flow_of_gaussian(mu, s, exact, 1e-6, r)  # the same path, followed back up from its end to r
        error = (early - mu) / (exact - mu) - 1
        left = math.sqrt(s**2 + r**2) / s - 1
        equal(error[[0, 1, 3, 4]], [left] * 4, rtol=1e-5)  # the middle one lies on the mean
        assert (left - r**2 / (2 * s**2)) / r**4 == pytest.approx(-1 / (8 * s**4), rel=1e-2)  # O(r⁴)
