"""Every equation of *The covariance of a step*: both sides as printed, evaluated independently.

Laws of one variable are mixtures on a grid; expectations over Gaussian noise are sums on a grid; matrices of
the damped process are compared with matrix exponentials, derivatives with differences or autograd.
"""

import itertools
import math

import pytest
import torch
from odes import even, rk4
from sides import F64, LINE, SEEDS, equal, gen, integral, normal
from torch.func import jacrev

from minidiff.analytic import GaussianMixture
from minidiff.cld import CriticallyDamped, PhaseSpace, gddim
from minidiff.process import VE, LinearVP
from minidiff.samplers import last

ETAS = pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
NODES = torch.linspace(-9, 9, 1801, dtype=F64)  # of N(0, 1); the trapezoidal rule is exact to rounding
WEIGHTS = torch.softmax(-(NODES**2) / 2, 0)


class Step:
    """A random step s → t of a random process, and data of three points with mean 0."""

    def __init__(self, seed, preserving=False):
        u = torch.rand(8, generator=gen(seed), dtype=F64).tolist()
        self.alpha_s, self.sigma_s = 0.3 + u[0], 0.4 + u[1]
        if preserving:
            self.sigma_s = math.sqrt(1 - (self.alpha_s * 0.6) ** 2)
            self.alpha_s *= 0.6
        self.snr_s = (self.alpha_s / self.sigma_s) ** 2
        self.snr_t = self.snr_s * (1.5 + 4 * u[2])
        self.sigma_t = 1 / math.sqrt(1 + self.snr_t) if preserving else 0.2 + u[3]
        self.alpha_t = self.sigma_t * math.sqrt(self.snr_t)
        self.rho = self.snr_s / self.snr_t
        self.beta = self.sigma_s**2 * (1 - self.rho)  # def-variance-ends
        self.least = self.sigma_t**2 * (1 - self.rho)
        self.shares = torch.tensor([0.2 + u[4], 0.2 + u[5], 0.3], dtype=F64)
        self.shares = self.shares / self.shares.sum()
        self.points = torch.tensor([-1.0 - u[6], 0.1, 1.0 + u[7]], dtype=F64)
        self.points = self.points - (self.shares * self.points).sum()
        self.x_s = 0.6 * (u[7] - 0.5)

    def ab(self, eta):
        """def-variance-step."""
        a = math.sqrt(self.sigma_t**2 - eta**2 * self.least) / self.sigma_s
        return a, self.alpha_t - a * self.alpha_s

    def posterior(self, x_s):
        """The weights of the points given x_s (…,); (…, 3)."""
        x_s = torch.as_tensor(x_s, dtype=F64)
        logs = self.shares.log() - (x_s[..., None] - self.alpha_s * self.points) ** 2 / (2 * self.sigma_s**2)
        return logs.softmax(-1)

    def D(self, x_s):
        return (self.posterior(x_s) * self.points).sum(-1)

    def uncertainty(self, x_s):
        return (self.posterior(x_s) * self.points**2).sum(-1) - self.D(x_s) ** 2

    def mean_over(self, f):
        """E f(x_0, ε) over the points and the noise; f takes (3, 1) and (nodes,)."""
        return ((f(self.points[:, None], NODES) * WEIGHTS).sum(-1) * self.shares).sum()

    def seen(self, x_0, eps):
        return self.alpha_s * x_0 + self.sigma_s * eps

    def error(self):
        """E (x_0 − D)²."""
        return self.mean_over(lambda x_0, eps: (x_0 - self.D(self.seen(x_0, eps))) ** 2)

    def reverse(self, eta, x_s):
        """q_η(x_t | x_s) on LINE for η > 0, each point's Gaussian with its posterior weight by Bayes."""
        a, b = self.ab(eta)
        joint = self.shares * normal(x_s, self.alpha_s * self.points, self.sigma_s**2)
        parts = normal(LINE[:, None], a * x_s + b * self.points, eta**2 * self.least)
        return (parts * joint).sum(-1) / joint.sum()


def kl(q, mean, v):
    logs = -((LINE - mean) ** 2) / (2 * v) - math.log(2 * math.pi * v) / 2
    return integral(torch.xlogy(q, q) - q * logs)


def moments(q):
    mean = integral(LINE * q)
    return mean, integral((LINE - mean) ** 2 * q)


# One step


@SEEDS
@ETAS
@pytest.mark.equation("eq-variance-marginal")
def test_marginal(seed, eta):
    k = Step(seed)
    a, b = k.ab(eta)
    equal(a * k.alpha_s + b, k.alpha_t)
    equal(a**2 * k.sigma_s**2 + eta**2 * k.least, k.sigma_t**2)


@SEEDS
@pytest.mark.equation("eq-variance-posterior")
def test_posterior_factors(seed):
    k = Step(seed)
    a, b = k.ab(1.0)
    equal(a, k.alpha_s * k.sigma_t**2 / (k.alpha_t * k.sigma_s**2))
    equal(b, k.alpha_t * (1 - k.rho))


@SEEDS
@pytest.mark.equation("eq-variance-mixture")
def test_mixture(seed):
    """At η = 1 the left side is Bayes' rule with the forward step, which knows nothing of the formula."""
    k = Step(seed)
    prior = (k.shares * normal(LINE[:, None], k.alpha_t * k.points, k.sigma_t**2)).sum(-1)
    joint = prior * normal(k.x_s, k.alpha_s / k.alpha_t * LINE, k.beta)
    a, b = k.ab(1.0)
    parts = normal(LINE[:, None], a * k.x_s + b * k.points, k.least)
    equal(joint / integral(joint), (parts * k.posterior(k.x_s)).sum(-1))


# The best Gaussian


@SEEDS
@pytest.mark.equation("eq-variance-cross-entropy")
@pytest.mark.equation("eq-variance-bias")
@pytest.mark.equation("eq-variance-derivative")
def test_divergence_from_a_gaussian(seed):
    q, (mu, v) = Step(seed).reverse(0.8, 0.2), (0.3, 0.7)
    mean, variance = moments(q)
    square = integral(q * (LINE - mu) ** 2)
    entropy = -integral(torch.xlogy(q, q))
    equal(kl(q, mu, v), -entropy + math.log(2 * math.pi * v) / 2 + square / (2 * v))
    equal(square, variance + (mean - mu) ** 2)
    h = 1e-4
    equal((kl(q, mu, v + h) - kl(q, mu, v - h)) / (2 * h), (v - square) / (2 * v**2), rtol=1e-5)


@pytest.mark.equation("eq-variance-cross-entropy")
@pytest.mark.equation("eq-variance-bias")
@pytest.mark.equation("eq-variance-derivative")
def test_divergence_from_a_gaussian_in_three_dimensions():
    """For a Gaussian q with any covariance, the left side from torch.distributions."""
    root = torch.randn(3, 3, generator=gen(0), dtype=F64)
    C, m, mu = (
        root @ root.mT + torch.eye(3, dtype=F64),
        torch.randn(3, generator=gen(1), dtype=F64),
        torch.randn(3, generator=gen(3), dtype=F64),
    )
    q = torch.distributions.MultivariateNormal(m, C)
    v = torch.tensor(1.3, dtype=F64, requires_grad=True)
    left = torch.distributions.kl_divergence(q, torch.distributions.MultivariateNormal(mu, v * torch.eye(3, dtype=F64)))
    square = C.trace() + (m - mu).square().sum()
    equal(left.detach(), (-q.entropy() + 1.5 * torch.log(2 * math.pi * v) + square / (2 * v)).detach())
    x = m + torch.randn(400_000, 3, generator=gen(2), dtype=F64) @ torch.linalg.cholesky(C).mT
    sampled = (x - mu).square().sum(1)
    assert abs(float(sampled.mean() - square)) < 4 * float(sampled.std()) / len(x) ** 0.5
    (slope,) = torch.autograd.grad(left, v)
    equal(slope, (3 / (2 * v**2) * (v - square / 3)).detach())


@SEEDS
@pytest.mark.parametrize("eta", [0.4, 1.0])
@pytest.mark.equation("eq-variance-mean")
@pytest.mark.equation("eq-variance-total")
def test_moments_of_the_reverse_step(seed, eta):
    k = Step(seed)
    a, b = k.ab(eta)
    mean, variance = moments(k.reverse(eta, k.x_s))
    equal(mean, a * k.x_s + b * k.D(k.x_s))
    equal(variance, eta**2 * k.least + b**2 * k.uncertainty(k.x_s))


def best_of(k, eta, estimate, v):
    """E over x_s of the v-dependent part of the divergence, for the mean a x_s + b x̂_0; v is a number."""
    _, b = k.ab(eta)

    def square(x_0, eps):
        x_s = k.seen(x_0, eps)
        return eta**2 * k.least + (b * (x_0 - estimate(x_s))) ** 2  # E (x_t − μ)² given x_0 and x_s

    return (math.log(v) + k.mean_over(square) / v) / 2


@SEEDS
@ETAS
@pytest.mark.equation("eq-variance-average")
@pytest.mark.equation("eq-variance-network")
def test_best_constant(seed, eta):
    """The derivative of the mean divergence vanishes there, and the divergence is larger on both sides."""
    k = Step(seed)
    _, b = k.ab(eta)
    for estimate in (k.D, lambda x_s: 0.7 * torch.tanh(x_s) + 0.1):
        error = k.mean_over(lambda x_0, eps, f=estimate: (x_0 - f(k.seen(x_0, eps))) ** 2)
        v = float(eta**2 * k.least + b**2 * error)
        h = 1e-4 * v
        low, here, high = (best_of(k, eta, estimate, value) for value in (v - h, v, v + h))
        assert low > here < high
        equal((high - low) / (2 * h), 0.0, atol=1e-6)


@SEEDS
@pytest.mark.equation("eq-variance-excess")
def test_price(seed):
    q = Step(seed).reverse(1.0, 0.1)
    mean, best = moments(q)
    for v in (0.3, 0.8, 2.0):
        equal(kl(q, mean, v) - kl(q, mean, float(best)), (best / v - 1 - torch.log(best / v)) / 2)
    d, best, v = 4, 0.6, torch.tensor(1.7, dtype=F64)
    unit = torch.eye(d, dtype=F64)
    far, near = (torch.distributions.MultivariateNormal(torch.zeros(d, dtype=F64), c * unit) for c in (v, best))
    root = torch.diag(torch.tensor([0.1, 0.4, 0.7, 1.2], dtype=F64))  # trace 4 · 0.6
    q = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=F64), root)
    gap = torch.distributions.kl_divergence(q, far) - torch.distributions.kl_divergence(q, near)
    equal(gap, d / 2 * (best / v - 1 - torch.log(best / v)))


# Between β̃ and β


def joint_variance(k, std):
    """Var(x_t | x_s) of N(0, std²) data, from the joint covariance of x_t and x_s under the forward step."""
    ratio = k.alpha_s / k.alpha_t
    V_t = (k.alpha_t * std) ** 2 + k.sigma_t**2
    C = torch.tensor([[V_t, ratio * V_t], [ratio * V_t, ratio**2 * V_t + k.beta]], dtype=F64)
    return float(1 / torch.linalg.inv(C)[0, 0])


@SEEDS
@pytest.mark.equation("eq-variance-forward")
@pytest.mark.equation("eq-variance-gaussian")
@pytest.mark.equation("eq-variance-ladder")
def test_gaussian_data(seed):
    k, std = Step(seed), 0.8
    V_t, V_s = (k.alpha_t * std) ** 2 + k.sigma_t**2, (k.alpha_s * std) ** 2 + k.sigma_s**2
    equal(V_s, (k.alpha_s / k.alpha_t) ** 2 * V_t + k.beta)
    middle = V_t - (k.alpha_s / k.alpha_t) ** 2 * V_t**2 / V_s
    equal(joint_variance(k, std), middle)
    equal(middle, k.beta * V_t / V_s)
    equal(k.beta * k.sigma_t**2 / k.sigma_s**2, k.least)
    wide = 1e5
    equal(
        k.beta * ((k.alpha_t * wide) ** 2 + k.sigma_t**2) / ((k.alpha_s * wide) ** 2 + k.sigma_s**2),
        (k.alpha_t / k.alpha_s) ** 2 * k.beta,
        rtol=1e-8,
    )
    vp = Step(seed, preserving=True)
    equal(vp.alpha_s**2 + vp.sigma_s**2, 1)
    equal(vp.beta * (vp.alpha_t**2 + vp.sigma_t**2) / (vp.alpha_s**2 + vp.sigma_s**2), vp.beta)
    equal(joint_variance(vp, 1.0), vp.beta)


@SEEDS
@pytest.mark.equation("eq-variance-linear")
@pytest.mark.equation("eq-variance-bounds")
def test_bounds(seed):
    k = Step(seed)
    power = float((k.shares * k.points**2).sum())
    slopes = torch.linspace(-3, 3, 60_001, dtype=F64)
    linear = power * (1 - slopes * k.alpha_s) ** 2 + (slopes * k.sigma_s) ** 2  # E (x_0 − slope x_s)², moment by moment
    right = power * k.sigma_s**2 / (k.alpha_s**2 * power + k.sigma_s**2)
    equal(linear.min(), right, rtol=1e-6)
    assert float(k.error()) < right
    # Gaussian data reach both: their error is the posterior's variance, by adding precisions
    b, gaussian = k.ab(1.0)[1], 1 / (1 / power + k.alpha_s**2 / k.sigma_s**2)
    equal(gaussian, right)

    def bounds(power):
        V_t, V_s = k.alpha_t**2 * power + k.sigma_t**2, k.alpha_s**2 * power + k.sigma_s**2
        return k.least, k.beta * V_t / V_s, (k.alpha_t / k.alpha_s) ** 2 * k.beta

    low, middle, high = bounds(power)
    assert low < float(k.least + b**2 * k.error()) < middle < high
    equal(k.least + b**2 * gaussian, middle)
    equal(bounds(1e12)[1], high)
    k.points = 1e-6 * k.points  # data of no spread reach the lower one
    equal(k.least + b**2 * k.error(), low)


@SEEDS
@ETAS
@pytest.mark.equation("eq-variance-conserved")
def test_total_variance_is_conserved(seed, eta):
    k = Step(seed)
    k.points = k.points + 0.4  # the data's mean is not 0
    a, b = k.ab(eta)

    def mean(x_0, eps):
        x_s = k.seen(x_0, eps)
        return a * x_s + b * k.D(x_s)

    spread = k.mean_over(lambda x_0, eps: mean(x_0, eps) ** 2) - k.mean_over(mean) ** 2
    v = eta**2 * k.least + b**2 * k.error()
    data = (k.shares * k.points**2).sum() - (k.shares * k.points).sum() ** 2
    equal(spread + v, k.alpha_t**2 * data + k.sigma_t**2, rtol=1e-8)


@SEEDS
@ETAS
@pytest.mark.equation("eq-variance-exact")
def test_exact_on_gaussians(seed, eta):
    k, power = Step(seed), 0.6
    a, b = k.ab(eta)
    V_t, V_s = k.alpha_t**2 * power + k.sigma_t**2, k.alpha_s**2 * power + k.sigma_s**2
    left = (a + b * k.alpha_s * power / V_s) ** 2 * V_s + eta**2 * k.least + b**2 * power * k.sigma_s**2 / V_s
    equal(left, V_t)


# Three ways to know the error


@SEEDS
@pytest.mark.equation("eq-variance-energy")
@pytest.mark.equation("eq-variance-eps-energy")
@pytest.mark.equation("eq-variance-score")
@pytest.mark.equation("eq-variance-analytic")
@pytest.mark.equation("eq-variance-range")
def test_energies(seed):
    k = Step(seed)
    error = k.error()
    answers = k.mean_over(lambda x_0, eps: k.D(k.seen(x_0, eps)) ** 2)
    equal((k.shares * k.points**2).sum(), answers + error)
    noise = k.mean_over(lambda x_0, eps: ((x := k.seen(x_0, eps)) - k.alpha_s * k.D(x)) ** 2 / k.sigma_s**2)
    equal(1.0, noise + k.alpha_s**2 / k.sigma_s**2 * error, rtol=1e-8)

    def score(x):
        """∇ log q_s by autograd of the density of the mixture."""
        x = x.detach().requires_grad_()
        logs = torch.logsumexp(k.shares.log() - (x[..., None] - k.alpha_s * k.points) ** 2 / (2 * k.sigma_s**2), -1)
        return torch.autograd.grad(logs.sum(), x)[0]

    energy = k.mean_over(lambda x_0, eps: score(k.seen(x_0, eps)) ** 2)
    share = 1 - k.sigma_s**2 * energy
    equal(error, k.sigma_s**2 / k.alpha_s**2 * share, rtol=1e-7)
    for eta in (0.0, 0.5, 1.0):
        root = math.sqrt(k.sigma_t**2 - eta**2 * k.least)
        right = eta**2 * k.least + (k.alpha_t / k.alpha_s * k.sigma_s - root) ** 2 * share
        equal(eta**2 * k.least + k.ab(eta)[1] ** 2 * error, right, rtol=1e-7)
    width = float(k.points.max() - k.points.min())
    assert 0 <= float(error) <= min(k.sigma_s**2 / k.alpha_s**2, width**2 / 4)


@SEEDS
@pytest.mark.equation("eq-variance-range")
def test_the_range_is_reached(seed):
    """0 by data of no spread, w²/4 by two equal points where no signal is left, σ²/α² by data spread evenly."""
    k = Step(seed)
    k.points = 1e-6 * k.points
    equal(k.error(), 0.0)
    k = Step(seed)
    k.alpha_s, k.shares, k.points = 1e-7, torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.3, 1.7], dtype=F64)
    equal(k.error(), (1.7 - 0.3) ** 2 / 4)
    k = Step(seed)
    k.points = torch.linspace(-60, 60, 2401, dtype=F64)
    k.shares = torch.ones(2401, dtype=F64) / 2401
    equal(k.uncertainty(0.3), k.sigma_s**2 / k.alpha_s**2)


# It depends on where you stand


def clusters_of_the_plane(seed):
    """The means and covariances of three clusters of equal shares."""
    g = gen(seed)
    root = 0.5 * torch.randn(3, 2, 2, generator=g, dtype=F64)
    return torch.randn(3, 2, generator=g, dtype=F64), root @ root.mT + 0.05 * torch.eye(2)


def plane(process, seed=0):
    return GaussianMixture(process, torch.ones(3), *clusters_of_the_plane(seed))


@SEEDS
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.equation("eq-variance-matrix")
def test_matrix(seed, eta):
    """The left side in closed form, a mixture over the clusters; at η = 1 also by Bayes' rule with the forward step."""
    D = plane(LinearVP(), seed)
    s, t = torch.tensor([0.4, 0.2], dtype=F64)
    k = Step(seed)
    k.alpha_s, k.sigma_s, k.alpha_t, k.sigma_t = (
        float(f(u)) for u in (s, t) for f in (D.process.alpha, D.process.sigma)
    )
    k.rho = (k.alpha_s * k.sigma_t / k.sigma_s / k.alpha_t) ** 2
    k.beta, k.least = k.sigma_s**2 * (1 - k.rho), k.sigma_t**2 * (1 - k.rho)
    a, b = k.ab(eta)
    means, covariances = clusters_of_the_plane(seed)
    unit = torch.eye(2, dtype=F64)
    x = torch.randn(2, generator=gen(seed + 9), dtype=F64)
    C_s = k.alpha_s**2 * covariances + k.sigma_s**2 * unit
    shares = torch.distributions.MultivariateNormal(k.alpha_s * means, C_s).log_prob(x).softmax(0)
    jacobian = jacrev(lambda y: D(y[None], s)[0])(x)
    right = eta**2 * k.least * unit + b**2 * k.sigma_s**2 / k.alpha_s * jacobian

    def whole(parts, spreads):
        centred = parts - shares @ parts
        return (shares[:, None, None] * (spreads + centred[:, :, None] * centred[:, None, :])).sum(0)

    gain = k.alpha_s * covariances @ torch.linalg.inv(C_s)  # of x_0 given x_s and the cluster
    places = means + ((x - k.alpha_s * means)[:, None] @ gain.mT)[:, 0]
    inside = covariances - k.alpha_s * gain @ covariances
    equal(whole(a * x + b * places, b**2 * inside + eta**2 * k.least * unit), right, rtol=1e-7)
    if eta == 1:
        C_t = k.alpha_t**2 * covariances + k.sigma_t**2 * unit
        ratio = k.alpha_s / k.alpha_t
        gain = ratio * C_t @ torch.linalg.inv(ratio**2 * C_t + k.beta * unit)
        places = k.alpha_t * means + ((x - k.alpha_s * means)[:, None] @ gain.mT)[:, 0]
        equal(whole(places, C_t - ratio * gain @ C_t), right, rtol=1e-7)


def positive(seed, d=4):
    root = torch.randn(d, d, generator=gen(seed), dtype=F64)
    return root @ root.mT / d + 0.1 * torch.eye(d, dtype=F64)


@SEEDS
@pytest.mark.equation("eq-variance-scalar-price")
@pytest.mark.equation("eq-variance-hadamard")
def test_price_of_a_scalar(seed):
    C, d = positive(seed), 4
    zero = torch.zeros(d, dtype=F64)
    q = torch.distributions.MultivariateNormal(zero, C)

    def least(make, size):
        """The smallest divergence from q over Gaussians of a kind, by Newton steps on the log variances."""
        u = torch.zeros(size, dtype=F64)

        def divergence(u):
            return torch.distributions.kl_divergence(q, torch.distributions.MultivariateNormal(zero, make(u)))

        for _ in range(25):
            slope, curve = (f(divergence)(u) for f in (torch.func.grad, torch.func.hessian))
            u = u - torch.linalg.solve(curve, slope).clamp(-1, 1)
        return divergence(u)

    scalar = least(lambda u: u.exp() * torch.eye(d, dtype=F64), 1)
    diagonal = least(lambda u: torch.diag(u.exp()), d)
    top, middle, bottom = d * torch.log(C.trace() / d), C.diagonal().log().sum(), torch.logdet(C)
    equal(scalar, (top - bottom) / 2, atol=1e-8)
    equal(diagonal, (middle - bottom) / 2, atol=1e-8)
    assert top >= middle >= bottom


@SEEDS
@pytest.mark.equation("eq-variance-jensen")
def test_price_of_a_constant(seed):
    """The mean divergence of the best constant from the best variance of each place."""
    v, d = torch.randn(50, generator=gen(seed), dtype=F64).exp(), 3
    constant = v.mean()
    price = (d / 2 * (v / constant - 1 - torch.log(v / constant))).mean()
    right = d / 2 * (v.mean().log() - v.log().mean())
    equal(price, right)
    assert right >= 0


@SEEDS
@pytest.mark.equation("eq-variance-probe")
@pytest.mark.equation("eq-variance-probe-scatter")
def test_probes(seed):
    J = torch.randn(4, 4, generator=gen(seed), dtype=F64)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=F64)  # all of them: the exact mean
    values = signs * (signs @ J)  # z ⊙ Jᵀz in each row
    equal(values.mean(0), J.diagonal())
    off = J.square().sum(0) - J.diagonal().square()
    equal(values.var(0, correction=0), off)


# Learning


@SEEDS
@pytest.mark.equation("eq-variance-term")
@pytest.mark.equation("eq-variance-log-gradient")
def test_term_and_its_gradient(seed):
    k = Step(seed)
    a, b = k.ab(1.0)
    x_0, guess = 0.8, 0.3
    log_v = torch.tensor(-0.4, dtype=F64, requires_grad=True)
    v = log_v.exp()
    truth = torch.distributions.Normal(torch.tensor(a * k.x_s + b * x_0, dtype=F64), math.sqrt(k.least))
    model = torch.distributions.Normal(torch.tensor(a * k.x_s + b * guess, dtype=F64), v.sqrt())
    left = torch.distributions.kl_divergence(truth, model)
    r = k.least / v
    equal(left, (r - 1 - r.log()) / 2 + b**2 * (x_0 - guess) ** 2 / (2 * v))
    (slope,) = torch.autograd.grad(left, log_v)
    equal(slope, (1 - (k.least + b**2 * (x_0 - guess) ** 2) / v) / 2)


@SEEDS
@pytest.mark.equation("eq-variance-regress")
def test_regression_of_the_square(seed):
    e2 = torch.randn(40, generator=gen(seed), dtype=F64).square()
    trial = torch.linspace(0.2, 3, 28_001, dtype=F64) * e2.mean()
    losses = ((trial[:, None].log() + e2 / trial[:, None]) / 2).mean(1)
    equal(trial[losses.argmin()], e2.mean(), rtol=1e-3)


# Noise in a velocity

A = torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=F64)
GG = torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=F64)
UNIT = torch.eye(2, dtype=F64)
PHASES = (0.05, 0.4, 1.3, 5.0)


def spring_covariance(omega, gamma):
    """Σ from the matrix exponential of torch."""
    E = torch.matrix_exp(A * omega)
    return UNIT - E @ torch.diag(torch.tensor([1.0, 1 - gamma], dtype=F64)) @ E.mT


def mean_factor(omega):
    return torch.matrix_exp(A * omega)[:, 0]


@pytest.mark.equation("eq-variance-exponential")
def test_exponential():
    equal((A + UNIT) @ (A + UNIT), torch.zeros(2, 2))
    for omega in PHASES:
        middle = math.exp(-omega) * (UNIT + omega * (A + UNIT))
        equal(torch.matrix_exp(A * omega), middle)
        right = math.exp(-omega) * torch.tensor([[1 + omega, omega], [-omega, 1 - omega]], dtype=F64)
        equal(middle, right)


@pytest.mark.equation("eq-variance-lyapunov")
@pytest.mark.equation("eq-variance-cld-covariance")
@pytest.mark.equation("eq-variance-cld-entries")
def test_covariance_of_the_spring():
    equal(A + A.mT + GG, torch.zeros(2, 2))
    gamma = 0.3
    start = torch.diag(torch.tensor([0.0, gamma], dtype=F64))
    # The equation of moments itself: one short step of the SDE, x + A x dω + G dW, has this covariance.
    S = positive(1, 2)
    h = 1e-5
    moved = (UNIT + h * A) @ S @ (UNIT + h * A).mT + h * GG
    equal((moved - S) / h, A @ S + S @ A.mT + GG, rtol=0, atol=1e-3)
    for omega in PHASES:
        solved = rk4(lambda _, S: A @ S + S @ A.mT + GG, start, even(0.0, omega, 250))
        equal(solved, spring_covariance(omega, gamma), rtol=1e-8, atol=1e-10)
        decay = math.exp(-2 * omega)
        xx = 1 - decay * ((1 + omega) ** 2 + (1 - gamma) * omega**2)
        xv = decay * (omega * (1 + omega) - (1 - gamma) * omega * (1 - omega))
        vv = 1 - decay * (omega**2 + (1 - gamma) * (1 - omega) ** 2)
        equal(solved, torch.tensor([[xx, xv], [xv, vv]], dtype=F64), rtol=1e-8, atol=1e-10)
        process = CriticallyDamped(8.0, gamma)
        equal(process.covariance(torch.tensor(omega / 8, dtype=F64)), solved, rtol=1e-8, atol=1e-10)


@SEEDS
@pytest.mark.equation("eq-variance-square")
@pytest.mark.equation("eq-variance-sufficient")
def test_summary(seed):
    omega, gamma = 0.7 + 0.4 * seed, 0.2
    S, m = spring_covariance(omega, gamma), mean_factor(omega)
    P = torch.linalg.inv(S)
    snr = m @ P @ m
    k = P @ m / snr
    z, x_0 = torch.randn(2, generator=gen(seed), dtype=F64), 0.4
    left = (z - m * x_0) @ P @ (z - m * x_0)
    equal(left, snr * (x_0 - k @ z) ** 2 + z @ P @ z - snr * (k @ z) ** 2)
    # E[x_0 | z] of three points by their Gaussian densities of the pair, against an ordinary denoiser.
    points, shares = torch.tensor([-1.0, 0.2, 1.5], dtype=F64), torch.tensor([0.3, 0.3, 0.4], dtype=F64)
    pair = torch.distributions.MultivariateNormal(points[:, None] * m, S)
    weights = (pair.log_prob(z) + shares.log()).softmax(0)
    for process in (VE(0.001, 100.0), LinearVP()):
        D = GaussianMixture(process, shares, points[:, None], stds=1e-7)
        u = process.time(snr.log() / 2)
        equal((weights * points).sum(), D((process.alpha(u) * (k @ z))[None, None], u)[0, 0], rtol=1e-6)


@pytest.mark.equation("eq-variance-cubic")
def test_signal_near_the_data():
    gamma, values = 0.5, []
    process = CriticallyDamped(1.0, gamma)
    for omega in (4e-3, 2e-3, 1e-3):
        lam = float(process.lam(torch.tensor(omega, dtype=F64)))
        S, m = spring_covariance(omega, gamma), mean_factor(omega)
        assert math.exp(-2 * lam) == pytest.approx(float(1 / (m @ torch.linalg.solve(S, m))), rel=1e-4)
        values.append(math.exp(-2 * lam) / omega**3)
    ahead = [2 * fine - coarse for coarse, fine in itertools.pairwise(values)]  # the error is linear in ω
    assert ahead[-1] == pytest.approx(4 / 3, rel=1e-4)
    assert abs(ahead[-1] - 4 / 3) < abs(values[-1] - 4 / 3) / 10


def test_rates_near_the_data_that_the_text_names():
    """Σ_xx ≈ γω² + 4/3 ω³; dφ/dω ≈ −√(4/(3γω)), and −√3/(2ω) without a first velocity."""
    omega = 1e-4
    for gamma in (0.3, 1e-12):
        process = CriticallyDamped(1.0, max(gamma, 1e-9))
        gamma = process.gamma
        t = torch.tensor(omega, dtype=F64)
        first = float(process.covariance(t)[0, 0])
        assert first == pytest.approx(gamma * omega**2 + 4 / 3 * omega**3, rel=1e-3)
        L = process.cholesky(t)
        rate = math.sqrt(4 / (3 * gamma * omega)) if gamma > omega else math.sqrt(3) / (2 * omega)
        assert float(L[1, 1] / L[0, 0]) == pytest.approx(rate, rel=2e-3)


def three_clusters(omega, gamma, x_0):
    """∇ log q(z) of Gaussian clusters at x_0 from the densities of the pair, and x̂_0; both functions of z (2,)."""
    S, m = spring_covariance(omega, gamma), mean_factor(omega)
    pair = torch.distributions.MultivariateNormal(x_0[:, None] * m, S + 0.04 * torch.outer(m, m))

    def log_q(z):
        return torch.logsumexp(pair.log_prob(z), 0)

    def x0_hat(z):
        weights = pair.log_prob(z).softmax(0)
        gain = torch.linalg.solve(S + 0.04 * torch.outer(m, m), 0.04 * m)
        return (weights * (x_0 + (z - x_0[:, None] * m) @ gain)).sum()

    return torch.func.grad(log_q), x0_hat, S, m


CLUSTERS = torch.tensor([-1.0, 0.3, 1.1], dtype=F64)


@pytest.mark.equation("eq-variance-flow")
def test_flow():
    """The score from x̂_0, and that this drift carries the density: the covariance of a Gaussian moves rightly."""
    gamma, omega = 0.3, 0.9
    score, x0_hat, S, m = three_clusters(omega, gamma, CLUSTERS)
    z = torch.randn(2, generator=gen(0), dtype=F64)
    equal(score(z), torch.linalg.solve(S, m * x0_hat(z) - z))
    # For data N(0, c²) the flow is linear, z′ = F z with F = A + ½ GGᵀ C⁻¹; it must obey C′ = F C + C Fᵀ.
    C, h = spring_covariance(omega, gamma) + 0.25 * torch.outer(m, m), 1e-5

    def whole(u):
        return spring_covariance(u, gamma) + 0.25 * torch.outer(mean_factor(u), mean_factor(u))

    F = A + GG @ torch.linalg.inv(C) / 2
    equal((whole(omega + h) - whole(omega - h)) / (2 * h), F @ C + C @ F.mT, rtol=1e-6)


def flow_slope(gamma):
    return lambda u, R: (A + GG @ torch.linalg.inv(spring_covariance(u, gamma)) / 2) @ R


@pytest.mark.equation("eq-variance-constants")
def test_variation_of_constants():
    """For any root K: the path of the flow through clusters obeys it with the ε̂ met along the path."""
    gamma, start, stop, count = 0.3, 1.5, 0.9, 60
    h = (stop - start) / count

    def slope(u, z):
        score, *_ = three_clusters(u, gamma, CLUSTERS)
        return A @ z - GG @ score(z) / 2

    z, path = torch.tensor([0.4, -0.3], dtype=F64), []
    for i in range(count):
        path.append(z)
        u = start + i * h
        z = rk4(slope, z, (u, u + h))
    path.append(z)
    angle = 0.8  # K is Cholesky's factor turned by a fixed angle: a root, but not the flow's
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=F64)
    integrand = []
    for i, place in enumerate(path):
        u = start + i * h
        _, x0_hat, S, m = three_clusters(u, gamma, CLUSTERS)
        K = torch.linalg.cholesky(S) @ turn
        eps = torch.linalg.solve(K, place - m * x0_hat(place))
        integrand.append(torch.matrix_exp(A * (stop - u)) @ (GG / 2) @ torch.linalg.inv(K).mT @ eps)
    values = torch.stack(integrand)
    simpson = h / 3 * (values[0] + 4 * values[1::2].sum(0) + 2 * values[2:-1:2].sum(0) + values[-1])
    equal(z, torch.matrix_exp(A * (stop - start)) @ path[0] + simpson, rtol=1e-7)


@pytest.mark.equation("eq-variance-root")
def test_root_stays_a_root():
    gamma, omega, h = 0.3, 1.1, 1e-4
    R = torch.linalg.cholesky(spring_covariance(omega, gamma))
    step = flow_slope(gamma)
    after, before = (rk4(step, R, even(omega, omega + d, 4)) for d in (h, -h))
    left = (after @ after.mT - before @ before.mT) / (2 * h)
    S = R @ R.mT
    equal(left, A @ S + S @ A.mT + GG, rtol=1e-6)
    far = rk4(step, R, even(omega, 3.0, 250))
    equal(far @ far.mT, spring_covariance(3.0, gamma), rtol=1e-8)


@pytest.mark.equation("eq-variance-gddim")
def test_gddim_is_exact_for_a_point():
    """Against Runge–Kutta on the flow of a point; with Cholesky's root it is not."""
    gamma, start, stop, x_0 = 0.3, 2.0, 0.5, 0.7

    def slope(u, z):
        S, m = spring_covariance(u, gamma), mean_factor(u)
        return A @ z - GG @ torch.linalg.solve(S, m * x_0 - z) / 2

    z = torch.tensor([0.9, -0.6], dtype=F64)
    carried = rk4(flow_slope(gamma), UNIT, even(start, stop, 250))  # R_t R_s⁻¹ by the equation of the root
    right = mean_factor(stop) * x_0 + carried @ (z - mean_factor(start) * x_0)
    exact = rk4(slope, z, even(start, stop, 250))
    equal(exact, right, rtol=1e-8)
    first, final = (torch.linalg.cholesky(spring_covariance(u, gamma)) for u in (start, stop))
    wrong = mean_factor(stop) * x_0 + final @ torch.linalg.solve(first, z - mean_factor(start) * x_0)
    assert float((wrong - exact).abs().max()) > 0.1
    D = GaussianMixture(VE(0.001, 100.0), torch.ones(1), torch.tensor([[x_0]], dtype=F64), stds=1e-7)
    grid = torch.tensor([start, stop], dtype=F64) / 8
    equal(last(gddim(PhaseSpace(D, CriticallyDamped(8.0, gamma)), z[None, :, None], grid))[0, :, 0], right, rtol=1e-6)


@pytest.mark.equation("eq-variance-one-dimension")
def test_one_dimension():
    for process in (LinearVP(), VE(0.1, 10.0)):
        t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
        h = 1e-5
        left = (process.sigma(t + h) - process.sigma(t - h)) / (2 * h)
        f = (process.alpha(t + h).log() - process.alpha(t - h).log()) / (2 * h)
        lam_rate = (process.lam(t + h) - process.lam(t - h)) / (2 * h)
        g2 = -2 * process.sigma(t) ** 2 * lam_rate  # eq-sde-g-lambda
        equal(left, (f + g2 / (2 * process.sigma(t) ** 2)) * process.sigma(t), rtol=1e-7)


@pytest.mark.equation("eq-variance-rotation")
def test_rotation():
    """R = L O(φ) with R from Runge–Kutta: the rotation is read off, and its rate compared."""
    gamma, start = 0.3, 0.6
    R0 = torch.linalg.cholesky(spring_covariance(start, gamma))
    h = 1e-3

    def angle(u):
        R = rk4(flow_slope(gamma), R0, even(start, u, 250))
        turn = torch.linalg.solve(torch.linalg.cholesky(spring_covariance(u, gamma)), R)
        equal(turn @ turn.mT, UNIT, atol=1e-8)
        equal(turn[0, 0], turn[1, 1], atol=1e-8)
        equal(turn[0, 1], -turn[1, 0], atol=1e-8)
        return math.atan2(float(turn[1, 0]), float(turn[0, 0]))

    for omega in (0.9, 1.6, 2.4):
        L = torch.linalg.cholesky(spring_covariance(omega, gamma))
        assert (angle(omega + h) - angle(omega - h)) / (2 * h) == pytest.approx(float(-L[1, 1] / L[0, 0]), rel=1e-5)
    process = CriticallyDamped(8.0, gamma)
    ends = torch.tensor([0.6, 2.4], dtype=F64) / 8
    assert float(process.angle(ends[1]) - process.angle(ends[0])) == pytest.approx(angle(2.4), rel=1e-6)
