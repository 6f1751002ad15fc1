"""Every equation of *Denoising diffusion probabilistic models*: both sides as printed, evaluated independently.

Densities of one variable are integrated on a grid, paths of a linear-Gaussian model are multivariate normals, and
expectations over Gaussian noise are Gauss–Hermite quadratures.
"""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from sides import F64, LINE, SEEDS, equal, hermite, integral, mmse_of_two_points, normal
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from minidiff import bound

NODES, WEIGHTS = hermite(60)


def expectation(f, mean, variance):
    """E f(x) for x ~ N(mean, variance), both numbers."""
    return (f(mean + math.sqrt(variance) * NODES) * WEIGHTS).sum(-1)


@dataclass
class Chain:
    """A random chain of six steps; beta[n], alpha[n], sigma2[n], snr[n], rho[n] are indexed as printed."""

    beta: torch.Tensor
    random: torch.Generator

    @classmethod
    def draw(cls, seed, steps=6):
        random = torch.Generator().manual_seed(seed)
        beta = 0.05 + 0.4 * torch.rand(steps, generator=random, dtype=F64)
        return cls(torch.cat([torch.zeros(1), beta]), random)

    def __post_init__(self):
        self.T = len(self.beta) - 1
        alpha = [1.0]
        for beta in self.beta[1:]:
            alpha.append(alpha[-1] * math.sqrt(1 - beta))  # def-ddpm-scales, one factor at a time
        self.alpha = torch.tensor(alpha, dtype=F64)
        self.sigma2 = 1 - self.alpha**2
        self.snr = self.alpha**2 / self.sigma2
        self.rho = torch.cat([torch.tensor([math.nan, 0.0]), self.snr[2:] / self.snr[1:-1]])

    def normal(self, *shape):
        return torch.randn(shape, generator=self.random, dtype=F64)

    def forward(self, n, x):
        """Mean and variance of q(x_n | x_{n−1} = x)."""
        return (1 - self.beta[n]).sqrt() * x, self.beta[n]

    def collected(self, n, x_n, x_0):
        """A and b of def-ddpm-collect."""
        beta, before = self.beta[n], self.sigma2[n - 1]
        a = (1 - beta) / beta + 1 / before
        return a, (1 - beta).sqrt() / beta * x_n + self.alpha[n - 1] / before * x_0

    def posterior(self, n, x_n, x_0):
        """Mean and variance of q(x_{n−1} | x_n, x_0), by completing the square."""
        a, b = self.collected(n, x_n, x_0)
        return b / a, 1 / a


POINTS = torch.tensor([-0.9, 0.4, 1.2], dtype=F64)  # a data set of three numbers
SHARES = torch.tensor([0.3, 0.5, 0.2], dtype=F64)


def noisy_density(chain, n, x):
    """q(x_n) of the three numbers."""
    return (SHARES * normal(x[..., None], chain.alpha[n] * POINTS, chain.sigma2[n])).sum(-1)


def reverse_on_grid(chain, n, x_n):
    """q(x_{n−1} | x_n) on LINE: the joint density divided by its integral."""
    joint = normal(x_n, *chain.forward(n, LINE)) * noisy_density(chain, n - 1, LINE)
    return joint / integral(joint)


def weights_of_points(chain, n, x_n):
    joint = SHARES * normal(x_n[..., None], chain.alpha[n] * POINTS, chain.sigma2[n])
    return joint / joint.sum(-1, keepdim=True)


# The forward chain


@SEEDS
@pytest.mark.equation("eq-ddpm-variance-step")
@pytest.mark.equation("eq-ddpm-variance-relax")
def test_variance_of_one_step(seed):
    beta = float(Chain.draw(seed).beta[1])

    def variance(x, p):
        return (p * x**2).sum() - (p * x).sum() ** 2

    after = math.sqrt(1 - beta) * POINTS[:, None] + math.sqrt(beta) * NODES
    left, before = variance(after, SHARES[:, None] * WEIGHTS), variance(POINTS, SHARES)
    equal(left, (1 - beta) * before + beta)
    equal(1 - left, (1 - beta) * (1 - before))


@SEEDS
@pytest.mark.equation("eq-ddpm-two-steps")
def test_two_steps(seed):
    c = Chain.draw(seed)
    x, first, second = c.normal(5), c.normal(5), c.normal(5)
    (b1, b2), root = c.beta[3:5], torch.sqrt
    middle = root(1 - b1) * x + root(b1) * first
    equal(
        root(1 - b2) * middle + root(b2) * second,
        root((1 - b2) * (1 - b1)) * x + root((1 - b2) * b1) * first + root(b2) * second,
    )


@SEEDS
@pytest.mark.equation("eq-ddpm-two-variances")
def test_two_variances(seed):
    b1, b2 = Chain.draw(seed).beta[3:5]
    equal((1 - b2) * b1 + b2, 1 - (1 - b2) * (1 - b1))


COARSE = LINE[::20]  # the trapezoidal rule is exact to rounding for Gaussians that are wider than two of its steps


def propagated(chain, m, n, x_m):
    """q(x_n | x_m) on COARSE: one closed-form step, then n − m − 1 numerical convolutions."""
    density = normal(COARSE, *chain.forward(m + 1, x_m))
    for step in range(m + 2, n + 1):
        mean, variance = chain.forward(step, COARSE)
        density = integral(normal(COARSE[:, None], mean, variance) * density, COARSE)
    return density


@SEEDS
@pytest.mark.equation("eq-ddpm-marginal")
def test_marginal(seed):
    c = Chain.draw(seed)
    x_0 = c.normal()
    equal(propagated(c, 0, 5, x_0), normal(COARSE, c.alpha[5] * x_0, c.sigma2[5]))


@SEEDS
@pytest.mark.equation("eq-ddpm-skip")
def test_skip(seed):
    c, m, n = Chain.draw(seed), 2, 6
    x_m = c.normal()
    variance = c.sigma2[n] * (1 - c.snr[n] / c.snr[m])
    equal(propagated(c, m, n, x_m), normal(COARSE, c.alpha[n] / c.alpha[m] * x_m, variance))


@SEEDS
@pytest.mark.equation("eq-ddpm-variance-recursion")
def test_variance_recursion(seed):
    c = Chain.draw(seed)
    for n in range(1, c.T + 1):
        middle = 1 - (1 - c.beta[n]) * c.alpha[n - 1] ** 2
        equal((1 - c.beta[n]) * c.sigma2[n - 1] + c.beta[n], middle)
        equal(middle, c.sigma2[n])


@SEEDS
@pytest.mark.equation("eq-ddpm-beta-snr")
def test_beta_from_snr(seed):
    c = Chain.draw(seed)
    middle = 1 - c.alpha[1:] ** 2 / c.alpha[:-1] ** 2
    equal(c.beta[1:], middle)
    equal(middle, c.sigma2[1:] * (1 - c.rho[1:]))


# The way back


@SEEDS
@pytest.mark.equation("eq-ddpm-bayes")
def test_bayes(seed):
    c, n = Chain.draw(seed), 4
    x_n = c.normal()
    likelihood = normal(x_n, *c.forward(n, LINE))
    right = likelihood * noisy_density(c, n - 1, LINE) / noisy_density(c, n, x_n)
    equal(reverse_on_grid(c, n, x_n), right)


@SEEDS
@pytest.mark.equation("eq-ddpm-bayes-given")
@pytest.mark.equation("eq-ddpm-posterior")
def test_posterior_is_bayes_rule(seed):
    c, n = Chain.draw(seed), 4
    x_0, x_n = c.normal(2)
    numerator = normal(x_n, *c.forward(n, LINE)) * normal(LINE, c.alpha[n - 1] * x_0, c.sigma2[n - 1])
    left = numerator / integral(numerator)  # the conditional density is the joint over its integral
    equal(left, numerator / normal(x_n, c.alpha[n] * x_0, c.sigma2[n]))
    beta, root = c.beta[n], math.sqrt
    mean = root(1 - beta) * c.sigma2[n - 1] / c.sigma2[n] * x_n + c.alpha[n - 1] * beta / c.sigma2[n] * x_0
    equal(left, normal(LINE, mean, c.sigma2[n - 1] / c.sigma2[n] * beta))


@SEEDS
@pytest.mark.equation("eq-ddpm-square")
def test_square(seed):
    c, n = Chain.draw(seed), 3
    x_n, x_0, x = c.normal(4), c.normal(4), c.normal(20, 4)
    q = (x_n - (1 - c.beta[n]).sqrt() * x).square().sum(1) / c.beta[n]
    q = q + (x - c.alpha[n - 1] * x_0).square().sum(1) / c.sigma2[n - 1]
    a, b = c.collected(n, x_n, x_0)
    constant = q - (a * x.square().sum(1) - 2 * x @ b)
    equal(constant, constant[:1].expand(20))
    constant = q - a * (x - b / a).square().sum(1)
    equal(constant, constant[:1].expand(20))


@SEEDS
@pytest.mark.equation("eq-ddpm-posterior-variance")
def test_posterior_variance(seed):
    c = Chain.draw(seed)
    for n in range(2, c.T + 1):
        a, _ = c.collected(n, 0, 0)
        beta, before = c.beta[n], c.sigma2[n - 1]
        middle = beta * before / ((1 - beta) * before + beta)
        equal(1 / a, middle)
        equal(middle, before / c.sigma2[n] * beta)


@SEEDS
@pytest.mark.equation("eq-ddpm-posterior-mean")
@pytest.mark.equation("eq-ddpm-posterior-snr")
def test_posterior_mean(seed):
    c = Chain.draw(seed)
    x_n, x_0 = c.normal(2, 4)
    for n in range(2, c.T + 1):
        mean, variance = c.posterior(n, x_n, x_0)
        alpha, before, now = c.alpha, c.sigma2[n - 1], c.sigma2[n]
        equal(mean, (1 - c.beta[n]).sqrt() * before / now * x_n + alpha[n - 1] * c.beta[n] / now * x_0)
        rest = 1 - c.rho[n]
        equal(mean, alpha[n] * before / (alpha[n - 1] * now) * x_n + alpha[n - 1] * rest * x_0)
        equal(variance, before * rest)


@SEEDS
@pytest.mark.equation("eq-ddpm-posterior-eps")
def test_posterior_mean_from_noise(seed):
    c, n = Chain.draw(seed), 5
    x_0, eps = c.normal(2, 4)
    x_n = c.alpha[n] * x_0 + c.sigma2[n].sqrt() * eps
    right = (x_n - c.beta[n] / c.sigma2[n].sqrt() * eps) / (1 - c.beta[n]).sqrt()
    equal(c.posterior(n, x_n, x_0)[0], right)


# What a reverse step has to look like


@SEEDS
@pytest.mark.equation("eq-ddpm-mixture")
def test_reverse_step_is_a_mixture(seed):
    c, n = Chain.draw(seed), 4
    x_n = c.normal()
    mean, variance = c.posterior(n, x_n, POINTS)
    right = (normal(LINE[:, None], mean, variance) * weights_of_points(c, n, x_n)).sum(1)
    equal(reverse_on_grid(c, n, x_n), right)


@SEEDS
@pytest.mark.equation("eq-ddpm-reverse-mean")
def test_reverse_mean(seed):
    c, n = Chain.draw(seed), 4
    x_n = c.normal()
    denoised = (weights_of_points(c, n, x_n) * POINTS).sum()
    equal(integral(LINE * reverse_on_grid(c, n, x_n)), c.posterior(n, x_n, denoised)[0])


def random_covariance(chain, d):
    root = chain.normal(d, d)
    return root @ root.T + 0.1 * torch.eye(d, dtype=F64)


@SEEDS
@pytest.mark.equation("eq-ddpm-reverse-covariance")
def test_reverse_covariance(seed):
    c, n, eye = Chain.draw(seed), 4, torch.eye(3, dtype=F64)
    data = random_covariance(c, 3)
    before, now = (c.alpha[k] ** 2 * data + c.sigma2[k] * eye for k in (n - 1, n))  # Gaussian data: exact
    cross = (1 - c.beta[n]).sqrt() * before
    left = before - cross @ torch.linalg.solve(now, cross.T)
    picture = data - (c.alpha[n] * data) @ torch.linalg.solve(now, c.alpha[n] * data)
    variance = c.posterior(n, 0, 0)[1]
    equal(left, variance * eye + c.alpha[n - 1] ** 2 * (1 - c.rho[n]) ** 2 * picture)
    x_n = c.normal()  # and three numbers: on a grid
    q, weights = reverse_on_grid(c, n, x_n), weights_of_points(c, n, x_n)
    spread = (weights * POINTS**2).sum() - (weights * POINTS).sum() ** 2
    left = integral(LINE**2 * q) - integral(LINE * q) ** 2
    equal(left, variance + c.alpha[n - 1] ** 2 * (1 - c.rho[n]) ** 2 * spread)


# The bound: a one-dimensional model with x̂_0 = gain_n x_n + shift_n, whose paths are jointly Gaussian


class LinearModel:
    def __init__(self, seed, steps):
        self.chain = c = Chain.draw(seed, steps)
        self.gain, self.shift = 0.3 + 0.3 * c.normal(steps + 1), 0.3 * c.normal(steps + 1)
        self.s2 = c.beta * (0.7 + 0.6 * torch.rand(steps + 1, generator=c.random, dtype=F64))
        self.x_0 = c.normal()

    def x0_hat(self, n, x):
        return self.gain[n] * x + self.shift[n]

    def step(self, n, x):
        """Mean and variance of p(x_{n−1} | x_n = x)."""
        c = self.chain
        weight = c.alpha[n] * c.sigma2[n - 1] / (c.alpha[n - 1] * c.sigma2[n])
        return weight * x + c.alpha[n - 1] * (1 - c.rho[n]) * self.x0_hat(n, x), self.s2[n]

    def joint(self):
        """p(x_{0:T}) as a multivariate normal: propagate mean and covariance down from x_T."""
        t = self.chain.T
        mean, rows = torch.zeros(t + 1).double(), torch.zeros(t + 1, t + 1).double()
        rows[t, t] = 1  # x_n = mean_n + rows_n · (independent standard normals)
        for n in range(t, 0, -1):
            offset, variance = self.step(n, torch.zeros(()).double())
            slope = self.step(n, torch.ones(()).double())[0] - offset
            mean[n - 1] = slope * mean[n] + offset
            rows[n - 1] = slope * rows[n]
            rows[n - 1, n - 1] = variance.sqrt()
        return MultivariateNormal(mean, rows @ rows.T)

    def forward(self):
        """q(x_{1:T} | x_0) as a multivariate normal: Cov(x_m, x_n) = (α_n/α_m) σ_m² for m ≤ n."""
        c = self.chain
        alpha, sigma2 = c.alpha[1:], c.sigma2[1:]
        upper = torch.triu(alpha[None] / alpha[:, None] * sigma2[:, None])
        return MultivariateNormal(alpha * self.x_0, upper + torch.triu(upper, 1).T)

    def log_ratio(self, path):
        """log q(x_{1:T} | x_0) / p(x_{0:T}) from the two joint densities; path (…, T) is x_1 … x_T."""
        whole = torch.cat([self.x_0.expand(*path.shape[:-1], 1), path], -1)
        return self.forward().log_prob(path) - self.joint().log_prob(whole)

    def mean_log_ratio(self):
        """Its expectation under q: minus the entropy of q plus the cross entropy with p."""
        q, p, x = self.forward(), self.joint(), self.x_0
        offset = torch.cat([x.reshape(1), q.mean]) - p.mean
        spread = torch.zeros_like(p.covariance_matrix)
        spread[1:, 1:] = q.covariance_matrix
        precision = torch.linalg.inv(p.covariance_matrix)
        quadratic = (precision @ spread).trace() + offset @ precision @ offset
        cross = (len(offset) * math.log(2 * math.pi) + torch.logdet(p.covariance_matrix) + quadratic) / 2
        return cross - q.entropy()

    def log_prob(self):
        """log p(x_0) from the marginal of the joint."""
        p = self.joint()
        return Normal(p.mean[0], p.covariance_matrix[0, 0].sqrt()).log_prob(self.x_0)


def log_normal(x, mean, variance):
    return -((x - mean) ** 2) / (2 * variance) - torch.log(2 * math.pi * torch.as_tensor(variance, dtype=F64)) / 2


@SEEDS
@pytest.mark.equation("eq-ddpm-importance")
def test_importance(seed):
    model = LinearModel(seed, steps=2)
    c, line = model.chain, LINE[::10]
    path = torch.cartesian_prod(line, line)
    x_0 = model.x_0.expand(len(path), 1)
    p = model.joint().log_prob(torch.cat([x_0, path], 1)).exp().reshape(len(line), len(line))
    integrated = integral(integral(p, line), line)
    equal(model.log_prob().exp(), integrated)
    x_1 = c.alpha[1] * model.x_0 + c.sigma2[1].sqrt() * NODES
    mean, variance = c.forward(2, x_1)
    x_2 = mean[:, None] + variance.sqrt() * NODES  # Gauss–Hermite nodes under q(x_1, x_2 | x_0)
    ratio = (-model.log_ratio(torch.stack([x_1[:, None].expand_as(x_2), x_2], -1))).exp()
    equal(WEIGHTS @ ratio @ WEIGHTS, integrated, rtol=1e-4)


@SEEDS
@pytest.mark.equation("eq-ddpm-jensen")
@pytest.mark.equation("eq-ddpm-gap")
def test_jensen_and_its_gap(seed):
    model = LinearModel(seed, steps=4)
    gap = model.mean_log_ratio() + model.log_prob()
    assert gap > 0
    p = model.joint()
    gain = p.covariance_matrix[1:, 0] / p.covariance_matrix[0, 0]
    conditional = MultivariateNormal(
        p.mean[1:] + gain * (model.x_0 - p.mean[0]),
        p.covariance_matrix[1:, 1:] - torch.outer(gain, p.covariance_matrix[0, 1:]),
    )
    equal(gap, kl_divergence(model.forward(), conditional))


@SEEDS
@pytest.mark.equation("eq-ddpm-log-ratio")
@pytest.mark.equation("eq-ddpm-rearranged")
def test_log_ratio_and_its_rearrangement(seed):
    model = LinearModel(seed, steps=5)
    c, path = model.chain, model.chain.normal(5)
    x = torch.cat([model.x_0.reshape(1), path])
    left = model.log_ratio(path)
    back = [None] + [log_normal(x[n - 1], *model.step(n, x[n])) for n in range(1, 6)]
    forth = [log_normal(x[n], *c.forward(n, x[n - 1])) - back[n] for n in range(1, 6)]
    equal(left, -log_normal(x[5], 0, 1) + sum(forth))
    first = log_normal(x[5], c.alpha[5] * x[0], c.sigma2[5]) - log_normal(x[5], 0, 1) - back[1]
    equal(left, first + sum(log_normal(x[n - 1], *c.posterior(n, x[n], x[0])) - back[n] for n in range(2, 6)))


@SEEDS
@pytest.mark.equation("eq-ddpm-turn")
def test_turned_around(seed):
    c = Chain.draw(seed)
    x_0, before, now = c.normal(3)
    for n in range(2, c.T + 1):
        ratio = normal(now, c.alpha[n] * x_0, c.sigma2[n]) / normal(before, c.alpha[n - 1] * x_0, c.sigma2[n - 1])
        equal(normal(now, *c.forward(n, before)), normal(before, *c.posterior(n, now, x_0)) * ratio)


@SEEDS
@pytest.mark.equation("eq-ddpm-telescope")
def test_telescope(seed):
    c = Chain.draw(seed)
    x_0, x = c.normal(), c.normal(c.T + 1)
    log_q = [None] + [log_normal(x[n], c.alpha[n] * x_0, c.sigma2[n]) for n in range(1, c.T + 1)]
    equal(sum(log_q[n] - log_q[n - 1] for n in range(2, c.T + 1)), log_q[c.T] - log_q[1])


@SEEDS
@pytest.mark.equation("eq-ddpm-bound")
def test_bound_is_a_sum_of_divergences(seed):
    model = LinearModel(seed, steps=5)
    c, x_0 = model.chain, model.x_0

    def divergence(n, x_n):
        mean, variance = c.posterior(n, x_n, x_0)
        other, s2 = model.step(n, x_n)
        return kl_divergence(Normal(mean, variance.sqrt()), Normal(other, s2.sqrt()))

    def at(n, f):
        return expectation(f, c.alpha[n] * x_0, c.sigma2[n])

    last = kl_divergence(Normal(c.alpha[5] * x_0, c.sigma2[5].sqrt()), Normal(torch.zeros(()).double(), 1.0))
    first = at(1, lambda x: -log_normal(x_0, *model.step(1, x)))
    middle = sum(at(n, lambda x, n=n: divergence(n, x)) for n in range(2, 6))
    equal(model.mean_log_ratio(), last + first + middle)


@SEEDS
@pytest.mark.equation("eq-ddpm-second-moment")
@pytest.mark.equation("eq-ddpm-kl")
@pytest.mark.equation("eq-ddpm-prior-term")
def test_divergence_of_two_gaussians(seed):
    c, d = Chain.draw(seed), 3
    m1, m2 = c.normal(2, d)
    v1, v2 = c.normal(2).exp()
    moment = sum(expectation(lambda x, i=i: (x - m2[i]) ** 2, m1[i], v1) for i in range(d))
    equal(moment, d * v1 + (m1 - m2).square().sum())

    def isotropic(mean, variance):
        return Independent(Normal(mean, torch.as_tensor(variance).sqrt().expand(d)), 1)

    right = d / 2 * (v1 / v2 - 1 - torch.log(v1 / v2)) + (m1 - m2).square().sum() / (2 * v2)
    equal(kl_divergence(isotropic(m1, v1), isotropic(m2, v2)), right)
    alpha, sigma2 = c.alpha[c.T], c.sigma2[c.T]
    left = kl_divergence(isotropic(alpha * m1, sigma2), isotropic(torch.zeros(d).double(), torch.ones(()).double()))
    equal(left, (alpha**2 * m1.square().sum() - d * alpha**2 - d * sigma2.log()) / 2)


def middle_term(chain, n, x_n, x_0, x0_hat, s2):
    """The mean over a batch (B, d) of KL(q(x_{n−1} | x_n, x_0) ‖ N(μ̃(x_n, x̂_0), s2 I)), by torch.distributions."""
    mean, variance = chain.posterior(n, x_n, x_0)
    other = chain.posterior(n, x_n, x0_hat)[0]
    q, p = Normal(mean, variance.sqrt()), Normal(other, s2.sqrt())
    return kl_divergence(q, p).sum(1).mean()


@SEEDS
@pytest.mark.equation("eq-ddpm-mean-difference")
@pytest.mark.equation("eq-ddpm-term")
@pytest.mark.equation("eq-ddpm-term-variance")
@pytest.mark.equation("eq-ddpm-eps-error")
@pytest.mark.equation("eq-ddpm-term-eps")
def test_middle_terms(seed):
    c, d = Chain.draw(seed), 3
    x_0, eps, eps_hat = c.normal(3, 7, d)
    for n in range(2, c.T + 1):
        sigma = c.sigma2[n].sqrt()
        x_n = c.alpha[n] * x_0 + sigma * eps
        x0_hat = (x_n - sigma * eps_hat) / c.alpha[n]
        weight = c.alpha[n - 1] * (1 - c.rho[n])
        equal(c.posterior(n, x_n, x_0)[0] - c.posterior(n, x_n, x0_hat)[0], weight * (x_0 - x0_hat))
        equal(x_0 - x0_hat, -sigma / c.alpha[n] * (eps - eps_hat))
        error, noise_error = (x_0 - x0_hat).square().sum(1).mean(), (eps - eps_hat).square().sum(1).mean()
        variance = c.posterior(n, 0, 0)[1]
        term = middle_term(c, n, x_n, x_0, x0_hat, variance)
        first = c.alpha[n - 1] ** 2 * (1 - c.rho[n]) ** 2 / (2 * c.sigma2[n - 1] * (1 - c.rho[n])) * error
        equal(term, first)
        equal(first, (c.snr[n - 1] - c.snr[n]) / 2 * error)
        by_noise = (1 / c.rho[n] - 1) / 2 * noise_error
        equal(term, by_noise)
        equal(by_noise, c.beta[n] / (2 * (1 - c.beta[n]) * c.sigma2[n - 1]) * noise_error)
        s2 = variance * c.normal().exp()
        right = d / 2 * (variance / s2 - 1 - torch.log(variance / s2)) + weight**2 / (2 * s2) * error
        equal(middle_term(c, n, x_n, x_0, x0_hat, s2), right)


@SEEDS
@pytest.mark.equation("eq-ddpm-first-step")
def test_first_step(seed):
    c = Chain.draw(seed)
    x_1, x_0 = c.normal(2)
    # Bayes' rule with little noise before the first step, by the covariance of both states: the posterior contracts to
    # the picture in proportion to that noise.
    root = (1 - c.beta[1]).sqrt()
    for variance in (0.3, 1e-12):
        a = (1 - c.beta[1]) / c.beta[1] + 1 / variance
        mean = (root / c.beta[1] * x_1 + x_0 / variance) / a
        gain = root * variance / (root**2 * variance + c.beta[1])
        equal(mean, x_0 + gain * (x_1 - root * x_0), rtol=1e-8)
        equal(1 / a, (1 - gain * root) * variance, rtol=1e-8, atol=0)
    equal(mean, x_0, rtol=1e-8, atol=1e-9)
    equal(1 / a, 0.0, atol=1e-11)
    printed = (1 - c.beta[1]).sqrt() * c.sigma2[0] / c.sigma2[1] * x_1 + c.alpha[0] * c.beta[1] / c.sigma2[1] * x_0
    equal(printed, x_0)


def bin_of(k, levels):
    """The ends of the bin of level k."""
    centre, half = -1 + 2 * k / (levels - 1), 1 / (levels - 1)
    return (-math.inf if k == 0 else centre - half), (math.inf if k == levels - 1 else centre + half)


def distribution(z):
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


@SEEDS
@pytest.mark.equation("eq-ddpm-decoder")
@pytest.mark.equation("eq-ddpm-mass")
def test_decoder(seed):
    c, levels, s = Chain.draw(seed), 17, 0.11
    ks = [0, 5, 9, 16]  # two of them open bins
    x0_hat = [-1 + 2 * k / 16 + 0.07 * float(c.normal()) for k in ks]
    left = right = 1.0
    for k, mean in zip(ks, x0_hat, strict=True):
        low, high = bin_of(k, levels)
        u = torch.linspace(max(low, -3), min(high, 3), 4001, dtype=F64)
        left *= float(integral(normal(u, mean, s**2), u))
        right *= distribution((high - mean) / s) - distribution((low - mean) / s)
        masses = [
            distribution((b - mean) / s) - distribution((a - mean) / s) for a, b in (bin_of(j, 17) for j in range(17))
        ]
        equal(sum(masses), 1.0)
    equal(left, right, rtol=1e-6)
    pixels = torch.tensor([-1 + 2 * k / 16 for k in ks], dtype=F64)
    package = bound.discretised_log_prob(pixels, torch.tensor(x0_hat, dtype=F64), s, levels).sum().exp()
    equal(package, right)


# The simple loss


@SEEDS
@pytest.mark.equation("eq-ddpm-simple-x0")
@pytest.mark.equation("eq-ddpm-dropped-weight")
def test_simple_loss(seed):
    c = Chain.draw(seed)
    n = torch.randint(1, c.T + 1, (50,), generator=c.random)
    x_0, eps, eps_hat = c.normal(3, 50, 4)
    alpha, sigma = c.alpha[n][:, None], c.sigma2[n].sqrt()[:, None]
    x0_hat = (alpha * x_0 + sigma * eps - sigma * eps_hat) / alpha
    left = (eps - eps_hat).square().sum(1).mean()
    equal(left, (c.snr[n] * (x_0 - x0_hat).square().sum(1)).mean())
    n = torch.arange(2, c.T + 1)
    left = c.beta[n] / (2 * (1 - c.beta[n]) * c.sigma2[n - 1])
    equal(left, (c.snr[n - 1] - c.snr[n]) / (2 * c.snr[n]))


@SEEDS
@pytest.mark.equation("eq-ddpm-regression")
def test_regression(seed):
    c, n = Chain.draw(seed), 3
    x_n = c.alpha[n] * POINTS[:, None] + c.sigma2[n].sqrt() * NODES  # (points, nodes)
    weight = SHARES[:, None] * WEIGHTS
    denoised = (weights_of_points(c, n, x_n) * POINTS).sum(-1)
    f = torch.sin(2 * x_n) + 0.3
    picture = POINTS[:, None].expand_as(x_n)

    def mean(values):
        return (weight * values).sum()

    right = mean((picture - denoised) ** 2) + mean((denoised - f) ** 2)
    equal(mean((picture - f) ** 2), right, rtol=1e-5)


# Variances


@SEEDS
@pytest.mark.equation("eq-ddpm-unit-gaussian")
@pytest.mark.equation("eq-ddpm-upper-variance")
@pytest.mark.equation("eq-ddpm-variance-ratio")
def test_the_two_extreme_variances(seed):
    c = Chain.draw(seed)
    for n in range(2, c.T + 1):
        joint = torch.tensor([[1.0, c.alpha[n]], [c.alpha[n], c.alpha[n] ** 2 + c.sigma2[n]]], dtype=F64)
        conditional = 1 / torch.linalg.inv(joint)[0, 0]  # of x_0 given x_n
        middle = 1 - c.alpha[n] ** 2 / (c.alpha[n] ** 2 + c.sigma2[n])
        equal(conditional, middle)
        equal(middle, c.sigma2[n])
        alpha2, sigma2 = c.normal(2).exp()  # the first equality does not need α² + σ² = 1
        joint = torch.tensor([[1.0, alpha2.sqrt()], [alpha2.sqrt(), alpha2 + sigma2]], dtype=F64)
        equal(1 / torch.linalg.inv(joint)[0, 0], 1 - alpha2 / (alpha2 + sigma2))
        small, rest = c.posterior(n, 0, 0)[1], 1 - c.rho[n]
        left = small + c.alpha[n - 1] ** 2 * rest**2 * c.sigma2[n]
        before, now, alpha2 = c.sigma2[n - 1], c.sigma2[n], c.alpha**2
        middle = rest * (before + alpha2[n - 1] * now - alpha2[n] * before)
        equal(left, middle)
        equal(middle, rest * now)
        equal(rest * now, c.beta[n])
        equal(small / c.beta[n], before / now)


@SEEDS
@pytest.mark.equation("eq-ddpm-variance-derivative")
@pytest.mark.equation("eq-ddpm-best-variance")
def test_best_variance(seed):
    c, n, d = Chain.draw(seed), 4, 3
    x_0, x_n, x0_hat = c.normal(3, 9, d)
    spread = c.alpha[n - 1] ** 2 * (1 - c.rho[n]) ** 2 * (x_0 - x0_hat).square().sum(1).mean()
    small = c.posterior(n, 0, 0)[1]

    def slope(s2):
        s2 = s2.clone().requires_grad_()
        return torch.autograd.grad(middle_term(c, n, x_n, x_0, x0_hat, s2), s2)[0]

    s2 = c.normal().exp()
    equal(slope(s2), (d * s2 - d * small - spread) / (2 * s2**2))
    low, high = torch.tensor([1e-4, 100.0], dtype=F64)  # the root of the slope, by bisection
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    equal((low + high) / 2, small + spread / d)


# Small steps


def two_points(seed):
    """a, the two SNRs, scales of both steps, ρ, and log q(x_m | x_n = 0) by Bayes' rule up to a constant."""
    random = torch.Generator().manual_seed(seed)
    u = torch.rand(3, generator=random, dtype=F64)
    a, snr_n = 0.5 + u[0], 0.1 + u[1]
    return a, snr_n, snr_n + 4 * u[2] / a**2


def bayes(x, a, snr_m, snr_n):
    alpha_m, alpha_n = (torch.sqrt(snr / (1 + snr)) for snr in (snr_m, snr_n))
    beta = 1 / (1 + snr_n) - (alpha_n / alpha_m) ** 2 / (1 + snr_m)  # what is missing to σ_n²
    before = normal(x, alpha_m * a, 1 / (1 + snr_m)) / 2 + normal(x, -alpha_m * a, 1 / (1 + snr_m)) / 2
    return before * normal(torch.zeros_like(x), alpha_n / alpha_m * x, beta)


def kernel(a, snr_m, snr_n):
    """μ and v as printed."""
    rest = 1 - snr_n / snr_m
    return torch.sqrt(snr_m / (1 + snr_m)) * rest * a, rest / (1 + snr_m)


@SEEDS
@pytest.mark.equation("eq-ddpm-two-point")
@pytest.mark.equation("eq-ddpm-log-cosh")
@pytest.mark.equation("eq-ddpm-curvature")
@pytest.mark.equation("eq-ddpm-separation")
def test_two_points(seed):
    a, snr_n, snr_m = two_points(seed)
    mu, v = kernel(a, snr_m, snr_n)
    q = bayes(LINE, a, snr_m, snr_n)
    q = q / integral(q)
    equal(q, normal(LINE, mu, v) / 2 + normal(LINE, -mu, v) / 2)
    near = LINE[LINE.abs() < 1.5]
    constant = bayes(near, a, snr_m, snr_n).log() - (-(near**2) / (2 * v) + torch.log(torch.cosh(mu * near / v)))
    equal(constant, constant[:1].expand_as(constant))
    x = torch.zeros((), dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(bayes(x, a, snr_m, snr_n).log(), x, create_graph=True)
    equal(torch.autograd.grad(slope, x)[0], (mu**2 / v - 1) / v)
    alpha2_m, sigma2_m, rest = snr_m / (1 + snr_m), 1 / (1 + snr_m), 1 - snr_n / snr_m
    middle = a**2 * alpha2_m * rest**2 / (sigma2_m * rest)
    equal(mu**2 / v, middle)
    equal(middle, a**2 * (snr_m - snr_n))


@SEEDS
@pytest.mark.equation("eq-ddpm-bimodal")
@pytest.mark.parametrize("gain", [0.2, 0.8, 0.98, 1.02, 1.3, 3.0])
def test_number_of_humps(seed, gain):
    a, snr_n, _ = two_points(seed)
    snr_m = snr_n + gain / a**2
    x = torch.linspace(-4, 4, 40_001, dtype=F64)
    rises = bayes(x, a, snr_m, snr_n).diff() > 0
    humps = int((rises[:-1] & ~rises[1:]).sum())
    assert (humps == 2) == bool(a**2 * (snr_m - snr_n) > 1)


@SEEDS
@pytest.mark.equation("eq-ddpm-price")
def test_price_of_a_gaussian(seed):
    a, snr_n, snr_m = two_points(seed)
    mu, v = kernel(a, snr_m, snr_n)
    q = 0.3 * normal(LINE, mu, v) + 0.7 * normal(LINE, -mu, v)
    mean = integral(LINE * q)
    variance = integral((LINE - mean) ** 2 * q)
    left = integral(q * (q.log() - log_normal(LINE, mean, variance)).nan_to_num(0, 0, 0))
    equal(left, torch.log(2 * math.pi * math.e * variance) / 2 + integral(torch.special.xlogy(q, q)))


# Schedules


@SEEDS
@pytest.mark.equation("eq-ddpm-log-alpha")
def test_log_alpha(seed):
    c = Chain.draw(seed)
    equal(torch.log(c.alpha[c.T] ** 2), torch.log(1 - c.beta[1:]).sum())
    assert torch.log(1 - c.beta[1:]).sum() <= -c.beta[1:].sum()


@SEEDS
@pytest.mark.equation("eq-ddpm-brightness")
def test_brightness(seed):
    c, n, d = Chain.draw(seed), 4, 9
    x_0, eps = c.normal(2, d)
    x_n = c.alpha[n] * x_0 + c.sigma2[n].sqrt() * eps
    equal(x_n.mean(), c.alpha[n] * x_0.mean() + c.sigma2[n].sqrt() * eps.mean())
    average = torch.ones(d, dtype=F64) / d
    variance = average @ torch.eye(d, dtype=F64) @ average
    equal(variance, 1 / d)
    equal(c.alpha[n] ** 2 / (c.sigma2[n] * variance), d * c.snr[n])


@SEEDS
@pytest.mark.equation("eq-ddpm-riemann")
def test_riemann_sum(seed):
    snr = Chain.draw(seed).snr[1:]
    left = ((snr[:-1] - snr[1:]) * mmse_of_two_points(snr[1:])).sum() / 2
    u = torch.linspace(float(snr[-1]), float(snr[0]), 20_001, dtype=F64)
    right = integral(mmse_of_two_points(u), u) / 2
    assert left > right
    above = 0.0  # the area between the steps and the curve, one interval at a time
    for near, far in itertools.pairwise(snr):
        u = torch.linspace(float(far), float(near), 2001, dtype=F64)
        above += float(integral(mmse_of_two_points(far) - mmse_of_two_points(u), u)) / 2
    equal(left, right + above, rtol=1e-5)
    fine = torch.linspace(float(snr[-1]), float(snr[0]), 401, dtype=F64)
    excess = (fine.diff() * mmse_of_two_points(fine[:-1])).sum() / 2 - right
    assert 0 < excess < 0.05 * (left - right)  # and it closes as the steps get smaller


@SEEDS
@pytest.mark.equation("eq-ddpm-gaussian-integral")
def test_gaussian_integral(seed):
    c, d = Chain.draw(seed), 5
    c2, low, high = c.normal().exp(), c.snr[c.T], c.snr[1]
    u = torch.linspace(float(low), float(high), 40_001, dtype=F64)
    left = integral(d * c2 / (1 + c2 * u), u) / 2
    equal(left, d / 2 * torch.log((1 + c2 * high) / (1 + c2 * low)), rtol=1e-6)
