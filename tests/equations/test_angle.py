"""Every equation of *A better variable*: both sides as printed, evaluated independently.

Paths are solved by SciPy's DOP853 and integrals by its quadrature; denoisers of mixtures are written out here.
"""

import cmath
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from sides import F64, SEEDS, equal

from minidiff.analytic import Gaussian
from minidiff.linear import Wiener
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow, TrigFlow
from minidiff.samplers import sample

PROCESSES = (LinearVP(), CosineVP(), EDM(), VE(), RectifiedFlow(), TrigFlow())


def draw(seed, *ranges):
    random = np.random.default_rng(seed)
    return [float(random.uniform(*r)) for r in ranges]


class Mixture:
    """A mixture in the plane: its score at variance s² + r², its density of y, and E[x_0 | y] by Bayes' rule."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.weights = random.dirichlet(np.ones(3))
        self.means = random.normal(size=(3, 2))
        self.std = 0.4

    def posterior(self, y, variance):
        energy = np.log(self.weights) - ((y - self.means) ** 2).sum(1) / (2 * variance)
        p = np.exp(energy - energy.max())
        return p / p.sum()

    def score(self, y, r):
        variance = self.std**2 + r**2
        return self.posterior(y, variance) @ (self.means - y) / variance

    def D(self, y, r):
        """Σ_k ρ_k (s² y + r² m_k)/(s² + r²)."""
        variance = self.std**2 + r**2
        return self.posterior(y, variance) @ (self.std**2 * y + r**2 * self.means) / variance

    def mean(self):
        return self.weights @ self.means

    def covariance(self):
        centred = self.means - self.mean()
        return self.std**2 * np.eye(2) + (self.weights[:, None] * centred).T @ centred

    def path(self, y, r_s, r_t, dense=False):
        """The solution of dy/dr = −r ∇log p_r(y)."""
        return solve_ivp(
            lambda r, y: -r * self.score(y, r), (r_s, r_t), y, "DOP853", rtol=1e-12, atol=1e-13, dense_output=dense
        )


def flow(process, x, s, t, score):
    """x_t by dx/dt = f x − ½ g² score(x, t), the probability-flow equation of the earlier chapters."""

    def rate(t, x):
        time = torch.tensor(t, dtype=F64)
        return float(process.f(time)) * x - float(process.g2(time)) / 2 * score(x, t)

    return solve_ivp(rate, (s, t), x, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1]


def scales(process, t):
    time = torch.tensor(t, dtype=F64)
    return float(process.alpha(time)), float(process.sigma(time))


# The known path


@SEEDS
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.equation("eq-angle-ode")
@pytest.mark.equation("eq-angle-integral")
def test_ode_in_r_and_its_integral(process, seed):
    """Both against the probability-flow equation of the process, which knows f, g² and the score."""
    mixture, (s, t) = Mixture(seed), (0.62, 0.55)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = scales(process, s), scales(process, t)

    def score(x, time):
        alpha, sigma = scales(process, time)
        return mixture.score(x / alpha, sigma / alpha) / alpha

    y = mixture.means[0] + 0.3
    x_t = flow(process, alpha_s * y, s, t, score)
    r_s, r_t = sigma_s / alpha_s, sigma_t / alpha_t
    by_r = solve_ivp(lambda r, y: (y - mixture.D(y, r)) / r, (r_s, r_t), y, "DOP853", rtol=1e-12, atol=1e-13)
    equal(x_t / alpha_t, by_r.y[:, -1], rtol=1e-7, atol=1e-8)
    known = mixture.path(y, r_s, r_t, dense=True).sol
    lam_s, lam_t = -math.log(r_s), -math.log(r_t)
    for i in (0, 1):
        integral = quad(
            lambda lam, i=i: math.exp(lam - lam_t) * mixture.D(known(math.exp(-lam)), math.exp(-lam))[i], lam_s, lam_t
        )[0]
        equal(x_t[i], sigma_t / sigma_s * alpha_s * y[i] + alpha_t * integral, rtol=1e-7, atol=1e-8)


@SEEDS
@pytest.mark.equation("eq-angle-wiener")
def test_wiener_filter(seed):
    """E[x_0 | x] by integrating over x_0."""
    alpha, sigma, std, x = draw(seed, (0.2, 2), (0.2, 2), (0.3, 2), (-3, 3))
    x0 = torch.linspace(-12 * std, 12 * std, 20001, dtype=F64)
    joint = (-(x0**2) / (2 * std**2) - (x - alpha * x0) ** 2 / (2 * sigma**2)).exp()
    mean = torch.trapezoid(x0 * joint, x0) / torch.trapezoid(joint, x0)
    equal(mean, alpha * std**2 / (alpha**2 * std**2 + sigma**2) * x)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.equation("eq-angle-path")
@pytest.mark.equation("eq-angle-line")
def test_the_known_path(process):
    """The solver's x_t is proportional to the root, and the filter on it to cos θ, with one ω."""
    std, x = 0.7, np.array([0.9, -2.0])
    alpha, sigma = scales(process, 0.8)
    omega = x / math.sqrt(alpha**2 * std**2 + sigma**2)

    def score(x, t):
        alpha, sigma = scales(process, t)
        return -x / (alpha**2 * std**2 + sigma**2)

    for t in (0.6, 0.3, 0.15):
        alpha, sigma = scales(process, t)
        x_t = flow(process, x, 0.8, t, score)
        equal(x_t, math.sqrt(alpha**2 * std**2 + sigma**2) * omega, rtol=1e-7)
        D = alpha * std**2 / (alpha**2 * std**2 + sigma**2) * x_t
        equal(D, std * omega * math.cos(math.atan(sigma / alpha / std)), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-angle-legs")
def test_cosine_and_sine(seed):
    alpha, sigma, std = draw(seed, (0.01, 2), (0.01, 2), (0.1, 3))
    theta, root = math.atan(sigma / alpha / std), math.sqrt(alpha**2 * std**2 + sigma**2)
    equal(math.cos(theta), alpha * std / root)
    equal(math.sin(theta), sigma / root)


# λ


@SEEDS
@pytest.mark.equation("eq-angle-in-lambda")
@pytest.mark.equation("eq-angle-poles")
@pytest.mark.equation("eq-angle-radius")
def test_cosine_in_lambda_and_its_poles(seed):
    lam, std = draw(seed, (-4, 4), (0.2, 3))
    equal(math.cos(math.atan(math.exp(-lam) / std)), 1 / math.sqrt(1 + math.exp(-2 * (lam + math.log(std)))))
    distances = []
    for k in range(-5, 6):
        pole = complex(-math.log(std), math.pi * (k + 0.5))
        assert abs(1 + cmath.exp(-2 * (pole + math.log(std)))) < 1e-12
        # Of the order −1/2: at a quarter of the distance the absolute value doubles.
        near = [abs(1 + cmath.exp(-2 * (pole + d + math.log(std)))) ** -0.5 for d in (4e-6j, 1e-6j)]
        equal(near[1] / near[0], 2.0, rtol=1e-5)
        distances.append(abs(lam - pole))
    # No others: the argument principle counts the zeros of the bracket around the axis.
    box = [complex(-9 - math.log(std), -6), complex(9 - math.log(std), -6)]
    box += [z.conjugate() for z in box[::-1]]
    corners = [*box, box[0]]
    turn = 0.0
    for a, b in itertools.pairwise(corners):
        z = a + (b - a) * torch.linspace(0, 1, 4001, dtype=F64).numpy()
        values = 1 + np.exp(-2 * (z + math.log(std)))
        turn += np.angle(values[1:] / values[:-1]).sum()
    inside = sum(abs(math.pi * (k + 0.5)) < 6 for k in range(-9, 9))
    equal(turn / (2 * math.pi), inside)
    equal(min(distances), math.sqrt((lam + math.log(std)) ** 2 + math.pi**2 / 4))
    assert min(distances) >= math.pi / 2


@SEEDS
@pytest.mark.equation("eq-angle-remainder")
def test_remainder(seed):
    random = np.random.default_rng(seed)
    nodes, a, lam = random.normal(size=4), complex(random.normal(), 1.3), random.normal()
    p = np.polynomial.polynomial.polyval(lam, np.linalg.solve(np.vander(nodes, increasing=True), 1 / (a - nodes)))
    product = np.prod((lam - nodes) / (a - nodes))
    left, right = 1 / (a - lam) - p, product / (a - lam)
    equal([left.real, left.imag], [right.real, right.imag])


@SEEDS
@pytest.mark.equation("eq-angle-factor")
def test_factor(seed):
    h, lam = draw(seed, (0.1, 3), (-4, 4))
    a = complex(lam, math.pi / 2)
    for k in (1, 2, 3, 4):
        nodes = np.array([lam - j * h for j in range(1, k + 1)])
        left = abs(np.prod((lam - nodes) / (a - nodes)))
        equal(left, math.prod(j * h / math.sqrt(j**2 * h**2 + math.pi**2 / 4) for j in range(1, k + 1)))


# The ends


def falls(errors, steps, power, tolerance=0.15):
    slopes = [math.log(a / b) / math.log(u / v) for (a, b), (u, v) in zip(pairs(errors), pairs(steps), strict=True)]
    assert all(slope > power - tolerance for slope in slopes), slopes


def pairs(values):
    return list(itertools.pairwise(values))


@SEEDS
@pytest.mark.equation("eq-angle-data-end")
def test_data_end(seed):
    mixture = Mixture(seed)
    x0 = mixture.means[1] + np.array([0.2, -0.3])
    errors, ratios = [], (0.2, 0.1, 0.05)
    for r in ratios:
        y = mixture.path(x0, 0.0, r).y[:, -1]
        errors.append(np.abs(mixture.D(y, r) - (x0 + r**2 / 2 * mixture.score(x0, 0.0))).max())
    falls(errors, ratios, 4, tolerance=0.4)


@SEEDS
@pytest.mark.equation("eq-angle-c-data")
@pytest.mark.equation("eq-angle-c-noise")
def test_cosine_at_both_ends(seed):
    (std,) = draw(seed, (0.3, 2))
    small, large = (0.04, 0.02, 0.01), (0.05, 0.025, 0.0125)
    falls([abs(math.cos(math.atan(r / std)) - (1 - r**2 / (2 * std**2))) for r in small], small, 4)
    falls([abs(math.cos(math.atan(1 / q / std)) - std * q) for q in large], large, 3)


@SEEDS
@pytest.mark.equation("eq-angle-noise-end")
def test_noise_end(seed):
    mixture, z = Mixture(seed), np.array([0.8, -1.1])
    inverse = (1e-2, 5e-3, 2.5e-3)
    errors = [np.abs(mixture.D(z / q, 1 / q) - (mixture.mean() + q * mixture.covariance() @ z)).max() for q in inverse]
    falls(errors, inverse, 2)


@SEEDS
@pytest.mark.equation("eq-angle-sine")
def test_slope_in_sine_squared(seed):
    C, theta = draw(seed, (-2, 2), (0.2, 1.4))
    u = torch.tensor(math.sin(theta) ** 2, dtype=F64, requires_grad=True)
    D = C * torch.cos(torch.asin(u.sqrt()))  # the straight line C cos θ, as a function of u
    D.backward()
    equal(u.grad, -C / (2 * math.sqrt(1 - u.item())))


# Singularities in c


@SEEDS
@pytest.mark.equation("eq-angle-wrong-scale")
@pytest.mark.equation("eq-angle-singularity")
def test_wrong_scale_and_its_singularity(seed):
    std, s, sample, theta = draw(seed, (0.3, 2), (0.3, 2), (-2, 2), (0.1, 1.4))
    r, c = std * math.tan(theta), math.cos(theta)
    y = sample * math.sqrt(s**2 + r**2) / s  # the path that ends at the sample
    equal(s**2 / (s**2 + r**2) * y, sample * c / math.sqrt(c**2 + (1 - c**2) * std**2 / s**2))
    c2 = std**2 / (std**2 - s**2)
    equal(c2 + (1 - c2) * std**2 / s**2, 0.0, atol=1e-9)


@SEEDS
@pytest.mark.equation("eq-angle-fine")
def test_fine_structure(seed):
    (std,) = draw(seed, (0.5, 2))
    sizes = (0.08, 0.04, 0.02)
    falls([abs(std / math.sqrt(std**2 - s**2) - 1 - s**2 / (2 * std**2)) for s in sizes], sizes, 4)


# Weights


def random_step(seed):
    theta_t, width, std = draw(seed, (0.1, 0.6), (0.2, 0.7), (0.3, 2))
    theta_s = theta_t + width
    lam = [-math.log(std * math.tan(theta)) for theta in (theta_s, theta_t)]

    def cosine(lam):
        return 1 / math.sqrt(1 + (math.exp(-lam) / std) ** 2)

    return theta_s, theta_t, *lam, cosine


@SEEDS
@pytest.mark.equation("eq-angle-sum")
@pytest.mark.equation("eq-angle-last")
def test_sum_of_weights_and_the_last_step(seed):
    theta_s, _, lam_s, lam_t, cosine = random_step(seed)
    nodes = [math.cos(theta_s + 0.2 * j) for j in range(3)]

    def basis(j, c):
        return math.prod((c - m) / (nodes[j] - m) for i, m in enumerate(nodes) if i != j)

    def weight(j, end):
        return quad(lambda lam: math.exp(lam - end) * basis(j, cosine(lam)), max(lam_s, end - 45), end, limit=200)[0]

    equal(sum(weight(j, lam_t) for j in range(3)), 1 - math.exp(-(lam_t - lam_s)), rtol=1e-8)
    values = np.random.default_rng(seed).normal(size=3)
    at_the_end = sum(weight(j, 20.0) * v for j, v in enumerate(values))  # σ_t is below 1e-8: as good as 0
    equal(at_the_end, sum(basis(j, 1.0) * v for j, v in enumerate(values)), rtol=1e-6, atol=1e-6)


@SEEDS
@pytest.mark.equation("eq-angle-moments")
@pytest.mark.equation("eq-angle-first-moments")
@pytest.mark.equation("eq-angle-recurrence")
def test_moments(seed):
    theta_s, theta_t, lam_s, lam_t, cosine = random_step(seed)
    tan = math.tan(theta_t)
    in_lam = [quad(lambda v, m=m: math.exp(v - lam_t) * cosine(v) ** m, lam_s, lam_t)[0] for m in range(6)]
    in_theta = [tan * quad(lambda v, m=m: math.cos(v) ** m / math.sin(v) ** 2, theta_t, theta_s)[0] for m in range(6)]
    equal(in_lam, in_theta)
    equal(in_lam[0], 1 - tan / math.tan(theta_s))
    equal(in_lam[1], 1 / math.cos(theta_t) - tan / math.sin(theta_s))
    for m in range(2, 6):
        rest = quad(lambda v, m=m: math.cos(v) ** (m - 2), theta_t, theta_s)[0]
        equal(in_lam[m], in_lam[m - 2] - tan * rest)


@SEEDS
@pytest.mark.equation("eq-angle-z-step")
def test_step_in_the_length_of_the_path(seed):
    """Any weights: the step of def-angle-weights in x, then in z."""
    random = np.random.default_rng(seed)
    alpha_s, alpha_t, sigma_s, sigma_t, std = random.uniform(0.2, 2, size=5)
    x, w, D = random.normal(), random.normal(size=3), random.normal(size=3)
    x_t = sigma_t / sigma_s * x + alpha_t * (w @ D)
    a, b = math.atan(sigma_s / alpha_s / std), math.atan(sigma_t / alpha_t / std)
    z_s, z_t = x / math.hypot(alpha_s * std, sigma_s), x_t / math.hypot(alpha_t * std, sigma_t)
    equal(z_t, math.sin(b) / math.sin(a) * z_s + math.cos(b) / std * (w @ D))


# The grid


@SEEDS
@pytest.mark.equation("eq-angle-ddim")
def test_ddim_step(seed):
    """The step as DDIM takes it, in x with any α and σ; then the bracket; then the cosine."""
    std, alpha_s, alpha_t, sigma_s, x = draw(seed, (0.3, 2), (0.1, 0.5), (0.6, 1), (0.6, 2), (-2, 2))
    sigma_t = 0.4 * sigma_s
    D = alpha_s * std**2 / (alpha_s**2 * std**2 + sigma_s**2) * x
    x_t = sigma_t / sigma_s * x + (alpha_t - alpha_s * sigma_t / sigma_s) * D
    z_s, z_t = x / math.hypot(alpha_s * std, sigma_s), x_t / math.hypot(alpha_t * std, sigma_t)
    a, b = math.atan(sigma_s / alpha_s / std), math.atan(sigma_t / alpha_t / std)
    bracket = math.sin(b) / math.sin(a) + math.cos(b) * (1 - math.tan(b) / math.tan(a)) * math.cos(a)
    equal(z_t, bracket * z_s)
    equal(z_t, math.cos(a - b) * z_s)


@SEEDS
@pytest.mark.equation("eq-angle-product")
def test_equal_steps_are_best(seed):
    random = np.random.default_rng(seed)
    for n in (2, 5, 20):
        steps = random.dirichlet(np.ones(n)) * random.uniform(0.3, math.pi / 2)
        total = steps.sum()
        assert np.cos(steps).prod() <= math.cos(total / n) ** n
        equal(np.cos(np.full(n, total / n)).prod(), math.cos(total / n) ** n)


@pytest.mark.equation("eq-angle-best")
def test_best_product():
    counts = (10, 20, 40)
    errors = [abs(math.log(math.cos(math.pi / (2 * n)) ** n) + math.pi**2 / (8 * n)) for n in counts]
    falls(errors, [1 / n for n in counts], 3)


@SEEDS
@pytest.mark.equation("eq-angle-density")
def test_density_of_steps(seed):
    lam, std, p = draw(seed, (-3, 3), (0.3, 2), (0.4, 1))
    variable = torch.tensor(lam, dtype=F64, requires_grad=True)
    u = torch.atan(((-variable).exp() / std) ** p)
    u.backward()
    rho = math.exp(-lam) / std
    equal(abs(variable.grad.item()), p * rho**p / (1 + rho ** (2 * p)))
    equal(abs(variable.grad.item()), p / (2 * math.cosh(p * math.log(rho))))


# The free node and the scale


@SEEDS
@pytest.mark.equation("eq-angle-amplified")
def test_amplification(seed):
    """The change at c = 1 of the line through (0, m) and (c_1, D_1) when D_1 changes by e."""
    r, std, m, D, e = draw(seed, (1, 90), (0.2, 2), (-1, 1), (-1, 1), (0.1, 1))
    c = math.cos(math.atan(r / std))
    lines = [np.polynomial.polynomial.polyval(1.0, np.linalg.solve([[1, 0], [1, c]], [m, v])) for v in (D, D + e)]
    equal((lines[1] - lines[0]) / e, 1 / c, rtol=1e-7)
    equal(1 / c, math.sqrt(1 + r**2 / std**2))


@SEEDS
@pytest.mark.equation("eq-angle-estimate")
def test_estimate(seed):
    """Denoised draws of a Gaussian along their exact paths."""
    s, r_1, r_2 = draw(seed, (0.3, 2), (1, 3), (0.2, 0.9))
    samples = s * np.random.default_rng(seed).normal(size=1000)
    a_1, a_2 = (np.mean((s**2 / (s**2 + r**2) * samples * math.sqrt(s**2 + r**2) / s) ** 2) for r in (r_1, r_2))
    equal(s**2, (a_2 * r_2**2 - a_1 * r_1**2) / (a_1 - a_2), rtol=1e-8)


@pytest.mark.equation("eq-angle-spectrum")
@pytest.mark.parametrize("nfe", [3, 6])
def test_spectrum(nfe):
    """Left: the mean over ε of the error of the sampler on correlated data, from its matrix; right: axis by axis."""
    stds = torch.tensor([0.1, 0.5, 0.8, 2.5], dtype=F64)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(nfe), dtype=F64))[0]
    data = Wiener(RectifiedFlow(), torch.zeros(4, dtype=F64), turn @ torch.diag(stds**2) @ turn.T)
    made = sample(data, torch.eye(4, dtype=F64), nfe).T  # x̂ = made ε, and the exact flow is x = exact ε
    exact = turn @ torch.diag(stds) @ turn.T
    sigma_d = math.sqrt(float((stds**2).sum()) / 4)
    equal(data.sigma_data, sigma_d)
    left = math.sqrt(float(((made - exact) ** 2).sum()) / (4 * sigma_d**2))  # E‖A ε‖² = Σ A_ij²
    ends = []
    for s in stds.tolist():
        axis = Gaussian(RectifiedFlow(), torch.zeros(1, dtype=F64), std=s)
        axis.sigma_data = sigma_d
        ends.append(float(sample(axis, torch.ones(1, 1, dtype=F64), nfe)))
    right = math.sqrt(sum((end - s) ** 2 for end, s in zip(ends, stds.tolist(), strict=True)) / float((stds**2).sum()))
    equal(left, right)
