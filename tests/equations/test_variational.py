"""Every equation of *From the ELBO to variational diffusion*: both sides as printed, evaluated independently.

Densities of one variable are integrated on a grid, expectations over Gaussian noise are Gauss–Hermite quadratures, and
linear-Gaussian chains are multivariate normals.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sides import F64, LINE, SEEDS, equal, gen, hermite, integral, mmse_of_two_points
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from minidiff.continuous_bound import reconstruction_term
from minidiff.families.vae import standard_kl
from minidiff.process import VE, CosineVP, LinearVP, RectifiedFlow

NODES, WEIGHTS = hermite(90)
LEGENDRE = [torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(80)]


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=F64)


def uniform(generator, low, high, *shape):
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=F64)


def log_density(x, mean, variance):
    variance = torch.as_tensor(variance, dtype=F64)
    return -((x - mean) ** 2) / (2 * variance) - torch.log(2 * math.pi * variance) / 2


def expectation(f, mean, variance):
    """E f(x) for x ~ N(mean, variance), both numbers."""
    return (f(mean + torch.as_tensor(variance).sqrt() * NODES) * WEIGHTS).sum(-1)


def between(low, high, panels=40):
    """Gauss–Legendre nodes and weights on [low, high], in equal panels."""
    points, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(10))
    edges = torch.linspace(float(low), float(high), panels + 1, dtype=F64)
    half = edges.diff()[:, None] / 2
    return (edges[:-1, None] + half + half * points).flatten(), (half * weights).flatten()


# One hidden variable: z ~ N(0, 1), x | z ~ N(1.5 tanh z + shift, 0.6²), q = N(m, v)


class Latent:
    def __init__(self, seed):
        g = gen(seed)
        self.shift, self.x, self.m = normal(g, 3) * torch.tensor([0.5, 1.0, 0.3], dtype=F64)
        self.v = uniform(g, 0.5, 0.9)

    def likelihood(self, z):
        return log_density(self.x, 1.5 * torch.tanh(z) + self.shift, 0.36)

    def joint(self, z):
        return self.likelihood(z) + log_density(z, 0.0, 1.0)

    def q(self, z):
        return log_density(z, self.m, self.v)

    def weight(self, z):
        return (self.joint(z) - self.q(z)).exp()

    def log_prob(self):
        return integral(self.joint(LINE).exp()).log()

    def elbo(self):
        return expectation(lambda z: self.joint(z) - self.q(z), self.m, self.v)


@SEEDS
@pytest.mark.equation("eq-variational-importance")
def test_importance(seed):
    model = Latent(seed)
    equal(model.log_prob().exp(), expectation(model.weight, model.m, model.v), rtol=1e-5)


@SEEDS
@pytest.mark.equation("eq-variational-jensen")
@pytest.mark.equation("eq-variational-gap")
@pytest.mark.equation("eq-variational-two-terms")
def test_the_elbo(seed):
    model = Latent(seed)
    elbo, log_p = model.elbo(), model.log_prob()
    assert elbo < log_p - 1e-3
    posterior = model.joint(LINE) - log_p
    equal(integral(posterior.exp()), 1.0)
    q = model.q(LINE)
    equal(log_p, elbo + integral(q.exp() * (q - posterior)), rtol=1e-7)
    divergence = kl_divergence(Normal(model.m, model.v.sqrt()), Normal(torch.zeros(()).double(), 1.0))
    equal(elbo, expectation(model.likelihood, model.m, model.v) - divergence)


@SEEDS
@pytest.mark.equation("eq-variational-many")
def test_many_draws(seed):
    model = Latent(seed)
    w = model.weight(model.m + model.v.sqrt() * NODES)
    two = WEIGHTS @ ((w[:, None] + w) / 2).log() @ WEIGHTS
    three = (w[:, None, None] + w[:, None] + w).div(3).log() @ WEIGHTS @ WEIGHTS @ WEIGHTS
    assert model.elbo() < two < three < model.log_prob()


# The variational autoencoder


@SEEDS
@pytest.mark.equation("eq-variational-reparametrisation")
def test_reparametrisation(seed):
    g = gen(seed)
    mu, s = normal(g), uniform(g, 0.4, 1.2)

    def f(z):
        return torch.sin(2 * z) + 0.2 * z**3

    def mean(mu, s):
        return integral(f(LINE) * log_density(LINE, mu, s**2).exp())

    h = 1e-4
    left = [(mean(mu + h, s) - mean(mu - h, s)) / (2 * h), (mean(mu, s + h) - mean(mu, s - h)) / (2 * h)]
    points = [mu.clone().requires_grad_(), s.clone().requires_grad_()]
    values = f(points[0] + points[1] * NODES)
    slopes = [torch.stack(torch.autograd.grad(v, points, retain_graph=True)) for v in values]
    equal(torch.stack(left), WEIGHTS @ torch.stack(slopes), rtol=1e-6, atol=1e-7)


@SEEDS
@pytest.mark.equation("eq-variational-standard-kl")
def test_divergence_from_the_prior(seed):
    g = gen(seed)
    mu, s = normal(g, 4), uniform(g, 0.3, 2.0, 4)
    left = 0.0
    for m, v in zip(mu, s**2, strict=True):
        q = log_density(LINE, m, v)
        left += integral(q.exp() * (q - log_density(LINE, 0.0, 1.0)))
    right = (mu**2 + s**2 - 1 - torch.log(s**2)).sum() / 2
    equal(left, right, rtol=1e-7)
    equal(standard_kl(mu[None], s[None])[0], right)


def bin_of(k):
    return (-math.inf if k == 0 else -1 + k / 8 - 1 / 16), (math.inf if k == 16 else -1 + k / 8 + 1 / 16)


def phi(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


@SEEDS
@pytest.mark.equation("eq-variational-decoder")
def test_decoder(seed):
    g, left, right = gen(seed), 1.0, 1.0
    for k in (0, 4, 11, 16):
        m, s = -1 + k / 8 + 0.2 * float(normal(g)), float(uniform(g, 0.05, 0.4))
        low, high = bin_of(k)
        u, w = between(max(low, -4), min(high, 4), 60)
        left *= float(w @ log_density(u, m, s**2).exp())
        right *= phi((high - m) / s) - phi((low - m) / s)
    equal(left, right, rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-variational-dequantised")
def test_dequantisation(seed):
    g, width = gen(seed), 1 / 8
    means, stds = normal(g, 2), uniform(g, 0.2, 0.6, 2)

    def density(u):  # of one pixel: two Gaussians; two independent pixels below
        return (log_density(u, means[0], stds[0] ** 2).exp() + log_density(u, means[1], stds[1] ** 2).exp()) / 2

    def mass(a, b):
        return sum(phi((b - m) / s) - phi((a - m) / s) for m, s in zip(means.tolist(), stds.tolist(), strict=True)) / 2

    log_p, middle, right = 0.0, 0.0, 0.0
    for k in (5, 9):
        low, high = bin_of(k)
        u, w = between(low, high, 4)
        log_p += math.log(mass(low, high))
        middle += math.log(float(w @ density(u)))
        right += float(w @ density(u).log()) / width + math.log(width)
    equal(log_p, middle)
    assert middle > right
    assert middle - right < 0.1  # the bins are small


# What a diagonal encoder costs


@SEEDS
@pytest.mark.equation("eq-variational-linear-posterior")
def test_linear_posterior(seed):
    g = gen(seed)
    W, s, x = normal(g, 4, 2), uniform(g, 0.4, 1.5), normal(g, 4)
    evidence = W @ W.T + s**2 * torch.eye(4, dtype=F64)  # cov(z, x) = Wᵀ
    mean = W.T @ torch.linalg.solve(evidence, x)
    covariance = torch.eye(2, dtype=F64) - W.T @ torch.linalg.solve(evidence, W)
    M = torch.eye(2, dtype=F64) + W.T @ W / s**2
    equal(mean, torch.linalg.inv(M) @ (W.T @ x / s**2))
    equal(covariance, torch.linalg.inv(M))


def divergence(q, p):
    """KL between two centred Gaussians of these covariances."""
    zero = torch.zeros(len(q), dtype=F64)
    return kl_divergence(MultivariateNormal(zero, q), MultivariateNormal(zero, p))


@SEEDS
@pytest.mark.equation("eq-variational-diagonal-kl")
@pytest.mark.equation("eq-variational-mean-field")
def test_mean_field(seed):
    g = gen(seed)
    c, rho, v = uniform(g, 0.5, 2.0, 2), uniform(g, -0.9, 0.9), uniform(g, 0.3, 2.0, 2)
    C = torch.outer(c, c) * torch.tensor([[1.0, rho], [rho, 1.0]], dtype=F64)
    bracket = (v / c**2).sum() / (1 - rho**2) - 2 + torch.log(c.prod() ** 2 * (1 - rho**2) / v.prod())
    equal(divergence(torch.diag(v), C), bracket / 2)
    log_v = torch.zeros(2, dtype=F64)
    for _ in range(60):  # Newton steps: the divergence is convex in each log v
        log_v.requires_grad_()
        (slope,) = torch.autograd.grad(divergence(torch.diag(log_v.exp()), C), log_v, create_graph=True)
        curvature = torch.stack([torch.autograd.grad(slope[i], log_v, retain_graph=True)[0][i] for i in range(2)])
        log_v = (log_v - (slope / curvature).clamp(-1, 1)).detach()
    equal(log_v.exp(), (1 - rho**2) * c**2, rtol=1e-5)
    equal(divergence(torch.diag(log_v.exp()), C), -torch.log(1 - rho**2) / 2, rtol=1e-8)


# A chain of hidden variables: x → z_0 → … → z_T, all scalars, all affine-Gaussian


class Hierarchy:
    T = 3

    def __init__(self, seed):
        g = gen(seed)
        n = self.T + 1
        self.x = normal(g)
        self.a, self.c, self.b2 = uniform(g, 0.5, 1.1, n), 0.3 * normal(g, n), uniform(g, 0.2, 0.8, n)
        self.g, self.h, self.r2 = uniform(g, 0.5, 1.1, n), 0.3 * normal(g, n), uniform(g, 0.2, 0.8, n)
        mean, rows = [], torch.zeros(n, n, dtype=F64)
        below, row = self.x, torch.zeros(n, dtype=F64)
        for i in range(n):
            below, row = self.a[i] * below + self.c[i], self.a[i] * row
            row[i] = self.b2[i].sqrt()
            mean.append(below)
            rows[i] = row
        self.mean, self.cov = torch.stack(mean), rows @ rows.T  # of q(z_0, …, z_T | x)

    def q_step(self, n, z, below):
        """log q(z_n | z_{n−1} = below)."""
        return log_density(z, self.a[n] * below + self.c[n], self.b2[n])

    def p_step(self, n, z, above):
        """log p(z_n | z_{n+1} = above), n = −1 for x."""
        return log_density(z, self.g[n + 1] * above + self.h[n + 1], self.r2[n + 1])

    def backward(self, n, above):
        """Mean and variance of q(z_{n−1} | z_n = above, x), by conditioning the joint Gaussian."""
        gain = self.cov[n - 1, n] / self.cov[n, n]
        return self.mean[n - 1] + gain * (above - self.mean[n]), self.cov[n - 1, n - 1] - gain * self.cov[n, n - 1]

    def negative_elbo(self):
        """E_q [log q(z | x) − log p(x, z)] from the joint densities of both, as quadratic forms."""
        k = self.T + 2
        mean, rows = torch.zeros(k, dtype=F64), torch.zeros(k, k, dtype=F64)
        rows[k - 1, k - 1] = 1
        for i in range(k - 2, -1, -1):  # position i is z_{i−1}; position 0 is x
            mean[i] = self.g[i] * mean[i + 1] + self.h[i]
            rows[i] = self.g[i] * rows[i + 1]
            rows[i, i] = self.r2[i].sqrt()
        cov = rows @ rows.T
        offset = torch.cat([self.x.reshape(1), self.mean]) - mean
        spread = torch.zeros_like(cov)
        spread[1:, 1:] = self.cov
        precision = torch.linalg.inv(cov)
        quadratic = (precision @ spread).trace() + offset @ precision @ offset
        cross = (k * math.log(2 * math.pi) + torch.logdet(cov) + quadratic) / 2
        return cross - MultivariateNormal(self.mean, self.cov).entropy()

    def draw(self):
        """Tensor nodes and weights that integrate polynomials under q(z | x) exactly: a sparse cubature is enough."""
        root = torch.linalg.cholesky(self.cov)
        points, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(5))
        grid = torch.cartesian_prod(*[points] * len(self.mean))
        weight = torch.cartesian_prod(*[weights / weights.sum()] * len(self.mean)).prod(1)
        return self.mean + grid @ root.T, weight


@SEEDS
@pytest.mark.equation("eq-variational-consistency")
def test_consistency_terms_and_the_mistake(seed):
    model = Hierarchy(seed)
    z, w = model.draw()  # all terms are quadratic, so five nodes are exact
    T, below = model.T, torch.cat([model.x.expand(len(z), 1), z], 1)
    total = w @ -model.p_step(-1, model.x, z[:, 0])
    q_last = Normal(model.a[T] * z[:, T - 1] + model.c[T], model.b2[T].sqrt())
    last = w @ kl_divergence(q_last, Normal(torch.zeros(()).double(), 1.0))
    total = total + last
    mistaken = total.clone()
    for n in range(T):
        total = total + w @ (model.q_step(n, z[:, n], below[:, n]) - model.p_step(n, z[:, n], z[:, n + 1]))
        q = Normal(model.a[n] * below[:, n] + model.c[n], model.b2[n].sqrt())
        p = Normal(model.g[n + 1] * z[:, n + 1] + model.h[n + 1], model.r2[n + 1].sqrt())
        mistaken = mistaken + w @ kl_divergence(q, p)
    equal(model.negative_elbo(), total)
    assert abs(float(mistaken - total)) > 0.05


@SEEDS
@pytest.mark.equation("eq-variational-turn")
@pytest.mark.equation("eq-variational-reversed")
def test_turned_around(seed):
    model = Hierarchy(seed)
    z = normal(gen(seed + 50), model.T + 1)

    def marginal(n):
        return log_density(z[n], model.mean[n], model.cov[n, n])

    joint = MultivariateNormal(model.mean, model.cov).log_prob(z)
    down = marginal(model.T)
    for n in range(1, model.T + 1):
        back = log_density(z[n - 1], *model.backward(n, z[n]))
        equal(model.q_step(n, z[n], z[n - 1]).exp(), (back + marginal(n) - marginal(n - 1)).exp())
        down = down + back
    equal(joint, down)


@SEEDS
@pytest.mark.equation("eq-variational-denoising")
def test_denoising_terms(seed):
    model = Hierarchy(seed)
    T = model.T

    def under(n, f):
        return expectation(f, model.mean[n], model.cov[n, n])

    first = under(0, lambda z: -model.p_step(-1, model.x, z))
    q_last = Normal(model.mean[T], model.cov[T, T].sqrt())
    total = first + kl_divergence(q_last, Normal(torch.zeros(()).double(), 1.0))

    def step(n, z):
        mean, variance = model.backward(n, z)
        p = Normal(model.g[n] * z + model.h[n], model.r2[n].sqrt())
        return kl_divergence(Normal(mean, variance.sqrt()), p)

    for n in range(1, T + 1):
        total = total + under(n, lambda z, n=n: step(n, z))
    equal(model.negative_elbo(), total)


# Three assumptions: scales of three times t < s < u with a falling ratio, and no other restriction


@dataclass
class Scales:
    alpha: torch.Tensor
    sigma: torch.Tensor
    generator: torch.Generator

    @classmethod
    def draw(cls, seed):
        g = gen(seed)
        alpha = uniform(g, 0.4, 1.4, 3)
        snr = uniform(g, 2.0, 4.0) * torch.cumprod(uniform(g, 0.2, 0.8, 3), 0)
        return cls(alpha, alpha / snr.sqrt(), g)

    @property
    def snr(self):
        return self.alpha**2 / self.sigma**2

    def kernel_variance(self, s, t):
        return self.sigma[s] ** 2 - (self.alpha[s] / self.alpha[t]) ** 2 * self.sigma[t] ** 2


@SEEDS
@pytest.mark.equation("eq-variational-kernel")
@pytest.mark.equation("eq-variational-compose")
def test_kernel(seed):
    c = Scales.draw(seed)
    x0 = normal(c.generator)
    variance = c.kernel_variance(1, 0)
    equal(variance, c.sigma[1] ** 2 * (1 - c.snr[1] / c.snr[0]))
    x = torch.linspace(-9, 9, 31, dtype=F64)
    grid = LINE[::4]
    first = log_density(grid, c.alpha[0] * x0, c.sigma[0] ** 2).exp()
    step = log_density(x[:, None], c.alpha[1] / c.alpha[0] * grid, variance).exp()
    marginal = log_density(x, c.alpha[1] * x0, c.sigma[1] ** 2).exp()
    equal(integral(step * first, grid), marginal, rtol=1e-7, atol=1e-12)
    left = (c.alpha[2] / c.alpha[1]) ** 2 * variance + c.kernel_variance(2, 1)
    equal(left, c.kernel_variance(2, 0))


@SEEDS
@pytest.mark.equation("eq-variational-prior")
def test_prior(seed):
    g = gen(seed)
    x0, alpha, sigma = normal(g, 5), uniform(g, 0.0, 0.5), uniform(g, 0.5, 1.2)
    left = kl_divergence(Normal(alpha * x0, sigma), Normal(torch.zeros(5).double(), 1.0)).sum()
    equal(left, (alpha**2 * x0.square().sum() + 5 * (sigma**2 - 1 - torch.log(sigma**2))) / 2)


def printed_posterior(c, x_s, x_0):
    """Mean and variance of q(x_t | x_s, x_0) as printed; t, s are the first two times."""
    kernel = c.kernel_variance(1, 0)
    variance = 1 / (1 / c.sigma[0] ** 2 + c.alpha[1] ** 2 / (c.alpha[0] ** 2 * kernel))
    mean = variance * (c.alpha[0] / c.sigma[0] ** 2 * x_0 + c.alpha[1] / (c.alpha[0] * kernel) * x_s)
    return mean, variance


@SEEDS
@pytest.mark.equation("eq-variational-posterior-variance")
@pytest.mark.equation("eq-variational-posterior-mean")
def test_posterior(seed):
    c = Scales.draw(seed)
    x0, x_s = normal(c.generator, 2)
    kernel, rho = c.kernel_variance(1, 0), c.snr[1] / c.snr[0]
    log_q = log_density(x_s, c.alpha[1] / c.alpha[0] * LINE, kernel) + log_density(
        LINE, c.alpha[0] * x0, c.sigma[0] ** 2
    )
    q = log_q.exp() / integral(log_q.exp())  # Bayes' rule on a grid
    mean = integral(LINE * q)
    variance = integral((LINE - mean) ** 2 * q)
    precision = 1 / c.sigma[0] ** 2 + c.alpha[1] ** 2 / (c.alpha[0] ** 2 * kernel)
    equal(1 / variance, precision, rtol=1e-7)
    equal(precision, (1 + rho / (1 - rho)) / c.sigma[0] ** 2)
    equal(precision, 1 / (c.sigma[0] ** 2 * (1 - rho)))
    equal(mean, printed_posterior(c, x_s, x0)[0], rtol=1e-7, atol=1e-9)
    slope = printed_posterior(c, x_s, x0 + 1)[0] - printed_posterior(c, x_s, x0)[0]
    equal(slope, c.alpha[0] * (1 - rho))


@SEEDS
@pytest.mark.equation("eq-variational-kl")
@pytest.mark.equation("eq-variational-errors")
@pytest.mark.equation("eq-variational-kl-eps")
def test_one_step_and_three_names_of_its_error(seed):
    c = Scales.draw(seed)
    x0, eps, guess = normal(c.generator, 3, 6)
    x_s = c.alpha[1] * x0 + c.sigma[1] * eps
    (mean, variance), (other, _) = printed_posterior(c, x_s, x0), printed_posterior(c, x_s, guess)
    left = kl_divergence(Normal(mean, variance.sqrt()), Normal(other, variance.sqrt())).sum()
    rho, error = c.snr[1] / c.snr[0], (x0 - guess).square().sum()
    middle = c.alpha[0] ** 2 * (1 - rho) ** 2 / (2 * c.sigma[0] ** 2 * (1 - rho)) * error
    equal(left, middle)
    right = (c.snr[0] - c.snr[1]) / 2 * error
    equal(middle, right)
    eps_hat = (x_s - c.alpha[1] * guess) / c.sigma[1]
    score = torch.autograd.functional.jacobian(
        lambda x: log_density(x, c.alpha[1] * x0, c.sigma[1] ** 2).sum(), x_s.clone()
    )
    noise_error, score_error = (eps - eps_hat).square().sum(), (score + eps_hat / c.sigma[1]).square().sum()
    equal(error, noise_error / c.snr[1])
    equal(noise_error / c.snr[1], c.sigma[1] ** 4 / c.alpha[1] ** 2 * score_error)
    gamma = -c.snr.log()
    equal(right, torch.expm1(gamma[1] - gamma[0]) / 2 * noise_error)
    equal(right, torch.expm1(gamma[1] - gamma[0]) / 2 * c.sigma[1] ** 2 * score_error)


# Infinitely many steps


@SEEDS
@pytest.mark.equation("eq-variational-refine")
def test_refinement(seed):
    high, middle, low = uniform(gen(seed), 0.1, 6.0, 3).sort(descending=True).values
    at = {v: mmse_of_two_points(v) for v in (high, middle, low)}
    left = (high - low) / 2 * at[low] - (high - middle) / 2 * at[middle] - (middle - low) / 2 * at[low]
    right = (high - middle) / 2 * (at[low] - at[middle])
    equal(left, right)
    assert right >= 0


def network(x, log_r):
    """Some wrong denoiser: a function of x/α and of the noise level, as every network for α = 1 is."""
    return 0.7 * torch.tanh(x) + 0.1 * torch.sin(2 * x + log_r)


def guess(process, x, t):
    alpha = process.alpha(t)
    return network(x / alpha, -process.lam(t))


def error_at(process, t, of_noise=False):
    """E|x_0 − x̂_0|² or E|ε − ε̂|² at the times t (n,), for data ±1."""
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    total = 0
    for x0 in (-1.0, 1.0):
        x = alpha * x0 + sigma * NODES
        x0_hat = guess(process, x, t[:, None])
        error = NODES - (x - alpha * x0_hat) / sigma if of_noise else x0 - x0_hat
        total = total + (error**2 * WEIGHTS).sum(1) / 2
    return total


def slope(f, t):
    t = t.clone().requires_grad_()
    return torch.autograd.grad(f(t).sum(), t)[0]


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow(), VE()], ids=lambda p: type(p).__name__)
@pytest.mark.equation("eq-variational-limit")
def test_three_forms_of_the_limit(process):
    first, last = process.time(torch.tensor([1.2, -1.0], dtype=F64))
    t, w = between(first, last)

    def snr(t):
        return (process.alpha(t) / process.sigma(t)) ** 2

    one = -(w @ (slope(snr, t) * error_at(process, t))) / 2
    two = (w @ (slope(lambda t: -snr(t).log(), t) * error_at(process, t, True))) / 2
    lam, w = between(-1.0, 1.2)
    three = w @ error_at(process, process.time(lam), True)
    equal(one, two, rtol=1e-8)
    equal(two, three, rtol=1e-8)
    gaps = []
    for steps in (1000, 2000):  # and it is the limit of the sums
        grid = torch.linspace(float(first), float(last), steps + 1, dtype=F64)
        ratio = snr(grid)
        gaps.append(float(((ratio[:-1] - ratio[1:]) / 2 * error_at(process, grid[1:])).sum() - one))
    assert abs(gaps[1]) < 0.01
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.02)


@SEEDS
@pytest.mark.equation("eq-variational-translate")
def test_translation(seed):
    g = gen(seed)
    A, B = CosineVP(), RectifiedFlow()
    x0, eps = normal(g, 2, 50)
    t = uniform(g, 0.1, 0.9, 50)
    t_A = A.time(B.lam(t))
    equal(A.lam(t_A), B.lam(t))

    def of_A(x, t):
        return torch.tanh(x * (1 + t)) + t * x  # any function of the state and the clock of A

    x_B = B.alpha(t) * x0 + B.sigma(t) * eps
    left = of_A(A.alpha(t_A) / B.alpha(t) * x_B, t_A)
    equal(left, of_A(A.alpha(t_A) * x0 + A.sigma(t_A) * eps, t_A), rtol=1e-8)


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow()], ids=lambda p: type(p).__name__)
@pytest.mark.equation("eq-variational-invariance")
def test_invariance(process):
    first, last = process.time(torch.tensor([1.2, -1.0], dtype=F64))
    t, w = between(first, last)
    left = -(w @ (slope(lambda t: (process.alpha(t) / process.sigma(t)) ** 2, t) * error_at(process, t))) / 2
    v, w = between(math.exp(-2.0), math.exp(2.4))
    r = v.rsqrt()[:, None]  # with α = 1: x = x_0 + r ε
    e = sum(((x0 - network(x0 + r * NODES, r.log())) ** 2 * WEIGHTS).sum(1) / 2 for x0 in (-1.0, 1.0))
    equal(left, (w @ e) / 2, rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-variational-excess")
def test_excess_of_a_finite_chain(seed):
    g = gen(seed)
    start, fall, bend = uniform(g, 1.0, 2.0), uniform(g, 2.0, 4.0), uniform(g, -0.3, 0.3)

    def v(u):
        return torch.exp(start - fall * u + bend * torch.sin(2 * math.pi * u))

    u, w = between(0.0, 1.0)
    limit = (w @ (slope(v, u) * mmse_of_two_points(v(u)))) / -2
    scaled = []
    for steps in (1000, 2000):
        ratio = v(torch.linspace(0, 1, steps + 1, dtype=F64))
        total = ((ratio[:-1] - ratio[1:]) / 2 * mmse_of_two_points(ratio[1:])).sum()
        scaled.append(steps * (total - limit))
    right = -(w @ (slope(v, u) ** 2 * slope(mmse_of_two_points, v(u)))) / 4
    equal(2 * scaled[1] - scaled[0], right, rtol=1e-4)  # extrapolated in 1/T
    assert right > 0


MIXTURE = [(0.35, -1.2, 0.3), (0.65, 0.8, 0.5)]  # weight, mean, standard deviation


def noisy_density(x, snr, alpha=1.0):
    """Density of α x_0 + σ ε at α²/σ² = snr; snr = inf is the data."""
    return sum(w * log_density(x, alpha * m, alpha**2 * (s**2 + 1 / snr)).exp() for w, m, s in MIXTURE)


def entropy(p, x=LINE):
    return -integral(torch.special.xlogy(p, p), x)


def mmse_of_mixture(snr):
    """E Var[x_0 | x_0 + ε/√snr], on a grid."""
    x, first, second = LINE[::8], 0.0, 0.0
    p = noisy_density(x, snr)
    for w, m, s in MIXTURE:
        share = w * log_density(x, m, s**2 + 1 / snr).exp() / p
        gain = s**2 / (s**2 + 1 / snr)
        mean, variance = m + gain * (x - m), gain / snr
        first, second = first + share * mean, second + share * (variance + mean**2)
    return integral(p * (second - first**2), x)


@pytest.mark.equation("eq-variational-immse")
def test_information_and_squared_error():
    high, low = 9.0, 0.5
    information = [entropy(noisy_density(LINE, v)) - math.log(2 * math.pi * math.e / v) / 2 for v in (high, low)]
    v, w = between(math.log(low), math.log(high), 8)
    mmse = torch.stack([mmse_of_mixture(float(u.exp())) for u in v])
    equal(information[0] - information[1], w @ (v.exp() * mmse) / 2, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-variational-gaussian")
def test_gaussian_data(seed):
    g, d = gen(seed), 5
    c2, low, high = uniform(g, 0.2, 3.0), uniform(g, 0.01, 0.2), uniform(g, 2.0, 20.0)
    v, w = between(low, high, 200)
    left = d / 2 * (w @ (c2 / (1 + c2 * v)))
    equal(left, d / 2 * torch.log((1 + c2 * high) / (1 + c2 * low)))
    mmse = c2 * (1 / low) / (c2 + 1 / low)  # the error by the product of the two variances over their sum
    equal(mmse, c2 / (1 + c2 * low))


@pytest.mark.equation("eq-variational-ends")
def test_the_gap_sits_at_the_ends():
    high, low = 9.0, 0.5
    alpha2, sigma2 = low / (1 + low), 1 / (1 + low)  # the process keeps variance at the noisy end
    power = sum(w * (m**2 + s**2) for w, m, s in MIXTURE)
    prior = (alpha2 * power + sigma2 - 1 - math.log(sigma2)) / 2
    v, w = between(math.log(low), math.log(high), 8)
    diffusion = w @ (v.exp() * torch.stack([mmse_of_mixture(float(u.exp())) for u in v])) / 2
    # −log N(x_0; x_t/α, 1/SNR) at x_t/α = x_0 + ε/√SNR does not depend on x_0:
    reconstruction = expectation(lambda e: -log_density(e / math.sqrt(high), 0.0, 1 / high), 0.0, 1.0)
    left = prior + diffusion + reconstruction - entropy(noisy_density(LINE, math.inf))
    q = noisy_density(LINE, low, math.sqrt(alpha2))
    equal(integral(q), 1.0, rtol=1e-8)
    noisy_end = -entropy(q) - integral(q * log_density(LINE, 0.0, 1.0))
    # The data end: the law of (x_0, y = x_t/α) on a grid.
    x = torch.linspace(-4, 4, 1201, dtype=F64)
    joint = noisy_density(x, math.inf) * log_density(x[:, None], x, 1 / high).exp()  # rows y
    y_density = integral(joint, x)
    posterior = joint / y_density[:, None]
    ratio = torch.special.xlogy(posterior, posterior) - posterior * log_density(x, x[:, None], 1 / high)
    data_end = integral(y_density * integral(ratio, x), x)
    equal(left, noisy_end + data_end, rtol=1e-5)


# A schedule is a way of asking


@SEEDS
@pytest.mark.equation("eq-variational-second-moment")
def test_second_moment(seed):
    g = gen(seed)
    level, tilt, bend = uniform(g, 0.5, 1.5), uniform(g, 0.2, 1.0), uniform(g, -0.3, 0.3)
    lam, w = between(-1.0, 2.0)
    size = torch.exp(level - tilt * lam)  # |ε − ε̂|² = size · z²

    def drawn(p):
        """E ℓ² with λ ~ p and ℓ = |ε − ε̂|²/p(λ), averaged over z by quadrature."""
        return w @ (p * (((size / p)[:, None] * NODES**2) ** 2 @ WEIGHTS))

    p = torch.exp(bend * lam)
    p = p / (w @ p)
    m2 = 3 * size**2  # E z⁴ = 3
    equal(drawn(p), w @ (m2 / p))
    least = (w @ m2.sqrt()) ** 2
    assert drawn(p) > least
    best = m2.sqrt() / (w @ m2.sqrt())
    equal(drawn(best), least)


@SEEDS
@pytest.mark.equation("eq-variational-bands")
def test_bands(seed):
    g, K, width = gen(seed), 4, 0.75
    w = uniform(g, 0.1, 1.0, K)
    w, tilt = w / w.sum(), uniform(g, 0.3, 1.0)
    points = [between(-1.0 + width * k, -1.0 + width * (k + 1), 4) for k in range(K)]
    m = torch.stack([weights @ torch.exp(-2 * tilt * lam) / width for lam, weights in points])
    second = sum(
        weights @ (torch.exp(-2 * tilt * lam) / (share / width))
        for (lam, weights), share in zip(points, w, strict=True)
    )
    equal(second, width**2 * (m / w).sum())
    best = m.sqrt() / m.sqrt().sum()
    logits = torch.zeros(K, dtype=F64, requires_grad=True)
    search = torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        search.zero_grad()
        loss = width**2 * (m / logits.softmax(0)).sum()
        loss.backward()
        return loss

    search.step(closure)
    equal(logits.detach().softmax(0), best, rtol=1e-4)


@SEEDS
@pytest.mark.equation("eq-variational-total-variance")
def test_total_variance(seed):
    g = gen(seed)
    values, p_t, p = normal(g, 4, 3), uniform(g, 0.1, 1.0, 4), uniform(g, 0.1, 1.0, 4, 3)
    p_t, p = p_t / p_t.sum(), p / p.sum(1, keepdim=True)
    joint = p_t[:, None] * p
    left = (joint * values**2).sum() - (joint * values).sum() ** 2
    mean = (p * values).sum(1)
    within = (p * (values - mean[:, None]) ** 2).sum(1)
    right = p_t @ within + (p_t @ mean**2 - (p_t @ mean) ** 2)
    equal(left, right)


@SEEDS
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.equation("eq-variational-aliasing")
def test_aliasing(seed, batch):
    g = gen(seed)
    waves = 7
    real, imaginary = normal(g, 2, waves)  # of ĝ_1 … ĝ_7; ĝ_{−k} is the conjugate
    power = real**2 + imaginary**2

    def f(u):
        angle = 2 * math.pi * torch.arange(1, waves + 1, dtype=F64) * u[..., None]
        return 0.4 + 2 * (real * angle.cos() - imaginary * angle.sin()).sum(-1)

    def variance(values):
        return values.square().mean() - values.mean() ** 2

    u = torch.arange(24, dtype=F64) / 24  # exact for trigonometric polynomials of degree below 24
    shifted = sum(f((u + i / batch) % 1) for i in range(batch)) / batch
    multiples = [k for k in range(1, waves + 1) if k % batch == 0]
    equal(variance(shifted), 2 * sum(power[k - 1] for k in multiples), atol=1e-10)
    values = [f(u)] * batch
    mean = sum(v.reshape([-1 if j == i else 1 for j in range(batch)]) for i, v in enumerate(values)) / batch
    equal(variance(mean), 2 * power.sum() / batch, atol=1e-10)


@SEEDS
@pytest.mark.equation("eq-variational-softmax")
def test_softmax_over_levels(seed):
    g = gen(seed)
    process, t = LinearVP(), uniform(g, 0.02, 0.4)
    alpha, sigma = process.alpha(t), process.sigma(t)
    levels = torch.linspace(-1, 1, 17, dtype=F64)
    true, eps = int(torch.randint(17, (), generator=g)), normal(g)
    x = alpha * levels[true] + sigma * eps
    bayes = log_density(x, alpha * levels, sigma**2).exp() / 17
    bayes = bayes / bayes.sum()
    top = torch.exp(-((x - alpha * levels) ** 2) / (2 * sigma**2))
    equal(bayes, top / top.sum())
    package = reconstruction_term(process, levels[true].reshape(1, 1), t, eps.reshape(1, 1), 17)[0]
    equal((-package).exp(), bayes[true])
