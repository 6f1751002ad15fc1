"""The equations of *Inverse problems*, both sides evaluated as printed."""

import math

import pytest
import torch
from odes import even, rk4
from sides import F64, LINE, SEEDS, equal, gen, hermite, integral, normal, normals, numbers

from minidiff.analytic import Empirical, Gaussian, GaussianMixture
from minidiff.inverse import (
    DDNM,
    DPS,
    TMPD,
    EmpiricalPosterior,
    Mask,
    Matrix,
    PiGDM,
    dps_gaussian,
    isotropic_variance,
    linear_gaussian,
    paper_factors,
    released_factors,
    structured_noise,
    surviving_kl,
)
from minidiff.metrics import total_variation, total_variation_floor
from minidiff.process import LinearVP
from minidiff.samplers.posterior import ancestral_steps
from minidiff.samplers.state import begin

VP = LinearVP()


def scales(seed):
    t = torch.tensor(numbers(seed + 50, 1, 0.15, 0.7)[0], dtype=F64)
    return t, float(VP.alpha(t)), float(VP.sigma(t))


def spd(seed, d):
    root = normals(seed + 70, d, d)
    return root @ root.T + 0.3 * torch.eye(d, dtype=F64)


def mixture(seed):
    """A one-dimensional mixture of three, its weights, means, stds, and a measurement (a, y, s)."""
    w, m, c = (
        torch.tensor(numbers(seed, 3), dtype=F64),
        normals(seed + 9, 3),
        torch.tensor(numbers(seed + 1, 3), dtype=F64),
    )
    a, y, s = numbers(seed + 2, 3)
    return GaussianMixture(VP, w, m[:, None], stds=c), w / w.sum(), m, c, a, y, s


def prior_density(w, m, c):
    return (w * normal(LINE[:, None], m, c**2)).sum(1)


def log_likelihood(x, seed):
    """log p(y | x_t = x) of the mixture, component by component."""
    _, w, m, c, a, y, s = mixture(seed)
    _, alpha, sigma = scales(seed)
    v = alpha**2 * c**2 + sigma**2
    share = w * normal(x, alpha * m, v)
    mean, spread = m + alpha * c**2 / v * (x - alpha * m), c**2 * sigma**2 / v
    return ((share / share.sum()) * normal(torch.tensor(y, dtype=F64), a * mean, a**2 * spread + s**2)).sum().log()


@SEEDS
@pytest.mark.equation("eq-inverse-bayes")
def test_bayes(seed):
    _, w, m, c, a, y, s = mixture(seed)
    prior = prior_density(w, m, c)
    joint = prior * normal(torch.tensor(y, dtype=F64), a * LINE, s**2)
    left = joint / integral(joint)
    weight = torch.exp(-((y - a * LINE) ** 2) / (2 * s**2))
    equal(left, prior * weight / integral(prior * weight))
    posterior = linear_gaussian(mixture(seed)[0], Matrix(torch.tensor([[a]])), torch.tensor([y], dtype=F64), s)
    exact = (posterior.weights * normal(LINE[:, None], posterior.means[:, 0], posterior.variances[:, 0])).sum(1)
    equal(left, exact, rtol=1e-6, atol=1e-9)


@SEEDS
@pytest.mark.equation("eq-inverse-score")
@pytest.mark.equation("eq-inverse-denoiser")
def test_conditional_score_and_denoiser(seed):
    law, _, _, _, a, y, s = mixture(seed)
    t, alpha, sigma = scales(seed)
    x = normals(seed + 3, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(log_likelihood(x, seed), x)
    x = x.detach()[:, None]
    posterior = linear_gaussian(law, Matrix(torch.tensor([[a]])), torch.tensor([y], dtype=F64), s)
    equal(posterior.score(x, t), law.score(x, t) + gradient, rtol=1e-6)
    equal(posterior(x, t), law(x, t) + sigma**2 / alpha * gradient, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-inverse-likelihood")
def test_likelihood_is_a_mean(seed):
    _, w, m, c, a, y, s = mixture(seed)
    _, alpha, sigma = scales(seed)
    x = normals(seed + 3, 1)
    posterior = prior_density(w, m, c) * normal(x, alpha * LINE, sigma**2)
    right = integral(posterior / integral(posterior) * normal(torch.tensor(y, dtype=F64), a * LINE, s**2))
    equal(log_likelihood(x, seed).exp(), right, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-tweedie")
def test_second_tweedie(seed):
    t, alpha, sigma = scales(seed)
    law = GaussianMixture(
        VP, torch.ones(2, dtype=F64), normals(seed, 2, 3), torch.stack([spd(seed, 3), spd(seed + 1, 3)])
    )
    x = normals(seed + 4, 1, 3)
    jacobian = torch.autograd.functional.jacobian(lambda z: law(z[None], t)[0], x[0])
    equal(law.covariance(x, t)[0], sigma**2 / alpha * jacobian, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-inverse-form")
def test_one_form_for_all_guesses(seed):
    t, alpha, sigma = scales(seed)
    law = GaussianMixture(
        VP, torch.ones(2, dtype=F64), normals(seed, 2, 3), torch.stack([spd(seed, 3), spd(seed + 1, 3)])
    )
    x, target = normals(seed + 4, 1, 3), normals(seed + 5, 3)

    def guess(x0):
        return -(x0.sin() - target).pow(4).sum()

    z = x.clone().requires_grad_()
    (through,) = torch.autograd.grad(guess(law(z, t)), z)
    x0 = law(x, t).requires_grad_()
    (gradient,) = torch.autograd.grad(guess(x0), x0)
    equal(sigma**2 / alpha * through[0], law.covariance(x, t)[0] @ gradient[0], rtol=1e-6)


def linear_case(seed, d=3, rows=2):
    t, alpha, sigma = scales(seed)
    C, m, A = spd(seed, d), normals(seed + 6, d), normals(seed + 7, rows, d)
    y, s = normals(seed + 8, rows), numbers(seed + 9, 1)[0]
    C_t = torch.linalg.inv(torch.linalg.inv(C) + alpha**2 / sigma**2 * torch.eye(d, dtype=F64))
    x = normals(seed + 10, 1, d)
    return t, alpha, sigma, Gaussian(VP, m, C), m, C, C_t, A, y, s, x


@SEEDS
@pytest.mark.equation("eq-inverse-linear")
def test_linear_gaussian_posterior(seed):
    _, _, _, law, m, C, _, A, y, s, _ = linear_case(seed)
    K = C @ A.T @ torch.linalg.inv(A @ C @ A.T + s**2 * torch.eye(2, dtype=F64))
    precision = torch.linalg.inv(C) + A.T @ A / s**2
    mean = torch.linalg.solve(precision, torch.linalg.solve(C, m) + A.T @ y / s**2)
    equal(mean, m + K @ (y - A @ m), rtol=1e-7)
    equal(torch.linalg.inv(precision), C - K @ A @ C, rtol=1e-7)
    posterior = linear_gaussian(law, Matrix(A), y, s)
    equal(posterior.mean, mean, rtol=1e-7)
    equal((posterior.axes * posterior.variances[:, None] @ posterior.axes.mT)[0], C - K @ A @ C, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-given-both")
def test_linear_gaussian_denoiser(seed):
    t, _, _, law, _, _, C_t, A, y, s, x = linear_case(seed)
    x0 = law(x, t)[0]
    right = x0 + C_t @ A.T @ torch.linalg.inv(A @ C_t @ A.T + s**2 * torch.eye(2, dtype=F64)) @ (y - A @ x0)
    equal(linear_gaussian(law, Matrix(A), y, s)(x, t)[0], right, rtol=1e-7)


def points(seed):
    """Five points of the plane, and a measurement that is not linear."""
    return normals(seed + 20, 5, 2), (lambda x: (x[:, :1] * x[:, 1:]).sin() + x[:, :1] ** 2)


@SEEDS
@pytest.mark.equation("eq-inverse-empirical")
def test_empirical_posterior(seed):
    data, A = points(seed)
    y, s = normals(seed + 21, 1, 1), numbers(seed, 1)[0]
    likelihood = normal(y[0], A(data)[:, 0], s**2)
    right = likelihood / 5 / (likelihood / 5).sum()
    square = (y[0] - A(data)[:, 0]) ** 2
    equal(torch.exp(-square / (2 * s**2)) / torch.exp(-square / (2 * s**2)).sum(), right)
    equal(EmpiricalPosterior(Empirical(VP, data), A, y, s).log_weights[0].exp(), right)


@SEEDS
@pytest.mark.equation("eq-inverse-empirical-denoiser")
def test_empirical_denoiser(seed):
    """The left side is Bayes for a denoiser, by autograd; the right side the reweighted mean."""
    data, A = points(seed)
    t, alpha, sigma = scales(seed)
    y, s, x = normals(seed + 21, 1), numbers(seed, 1)[0], normals(seed + 22, 2).requires_grad_()
    log_x = -((x - alpha * data) ** 2).sum(1) / (2 * sigma**2)
    log_y = -((y - A(data)[:, 0]) ** 2) / (2 * s**2)
    (gradient,) = torch.autograd.grad(((log_x + log_y).logsumexp(0) - log_x.logsumexp(0)), x)
    left = log_x.softmax(0) @ data + sigma**2 / alpha * gradient
    right = (log_x + log_y).exp() @ data / (log_x + log_y).exp().sum()
    equal(left.detach(), right.detach(), rtol=1e-7)
    equal(EmpiricalPosterior(Empirical(VP, data), A, y[None], s)(x.detach()[None], t)[0], right.detach(), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-tower")
def test_the_mean_over_measurements_is_the_prior_denoiser(seed):
    """The law of y given x_t is the mixture Σ_i p(x_i | x_t) N(A(x_i), s²), and D(x, t | y) is not linear in y."""
    data, A = points(seed)
    t, alpha, sigma = scales(seed)
    s, x, y = numbers(seed, 1)[0], normals(seed + 22, 1, 2), 2 * LINE[::4]
    prior = Empirical(VP, data)
    share = (-((x - alpha * data) ** 2).sum(1) / (2 * sigma**2)).softmax(0)
    law = (share * normal(y[:, None], A(data)[:, 0], s**2)).sum(1)
    posterior = EmpiricalPosterior(prior, A, y[:, None], s)(x.expand(len(y), 2), t)
    equal(integral(law[:, None].mT * posterior.mT, y), prior(x, t)[0], rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-dps")
def test_dps(seed):
    data, A = points(seed)
    t, alpha, sigma = scales(seed)
    y, s, x = normals(seed + 21, 1, 1), numbers(seed, 1)[0], normals(seed + 22, 1, 2)
    law = GaussianMixture(VP, torch.ones(5, dtype=F64), data, stds=0.3)
    x0 = law(x, t)
    jacobian = torch.autograd.functional.jacobian(lambda z: A(z[None])[0], x0[0])
    z = x.clone().requires_grad_()
    log_density = torch.distributions.Normal(A(law(z, t)), s).log_prob(y).sum()
    first = x0[0] + sigma**2 / alpha * torch.autograd.grad(log_density, z)[0][0]
    second = x0[0] + law.covariance(x, t)[0] @ jacobian.T @ (y - A(x0))[0] / s**2
    equal(first, second, rtol=1e-6)
    equal(DPS(law, A, y, s)(x, t)[0], first, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-inverse-jensen")
def test_jensen(seed):
    """On the mixture; the gap is the divergence from p(x_0 | x_t) to p(x_0 | x_t, y), which is never negative."""
    _, w, m, c, a, y, s = mixture(seed)
    _, alpha, sigma = scales(seed)
    x = normals(seed + 3, 1)
    before = prior_density(w, m, c) * normal(x, alpha * LINE, sigma**2)
    before = before / integral(before)
    log_y = torch.distributions.Normal(a * LINE, s).log_prob(torch.tensor(y, dtype=F64))
    after = before * log_y.exp()
    after = after / integral(after)
    left, right = log_likelihood(x, seed), integral(before * log_y)
    assert float(left) >= float(right)
    equal(left - right, integral(torch.where(after > 0, before * (before / after).log(), 0.0)), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-inverse-spread")
def test_what_dps_leaves_out(seed):
    t, _, _, law, _, _, C_t, A, y, s, x = linear_case(seed)
    x0, (nodes, weights) = law(x, t)[0], hermite(8)
    cube = torch.cartesian_prod(nodes, nodes, nodes)
    share = torch.cartesian_prod(weights, weights, weights).prod(1)
    draws = x0 + cube @ torch.linalg.cholesky(C_t).T
    left = (share * torch.distributions.Normal(draws @ A.T, s).log_prob(y).sum(1)).sum()
    at_mean = normal(y, A @ x0, s**2).log().sum()
    equal(left, at_mean - torch.trace(A @ C_t @ A.T) / (2 * s**2), rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-inverse-dps-ratio")
def test_ratio_of_dps(seed):
    t, _, _, law, _, _, C_t, A, y, s, x = linear_case(seed, rows=1)
    x0 = law(x, t)
    dps = DPS(law, Matrix(A), y[None], s)(x, t) - x0
    exact = linear_gaussian(law, Matrix(A), y, s)(x, t) - x0
    equal(dps, (1 + float(A @ C_t @ A.T) / s**2) * exact, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-dps-flow")
def test_flow_of_dps(seed):
    """Left: (x − D)/2u with the package's DPS, in units of α. Right: as printed."""
    t, alpha, sigma = scales(seed)
    v, a, s = numbers(seed + 1, 3)
    y, x, u, R = normals(seed, 1), normals(seed + 1, 1), sigma**2 / alpha**2, a**2 / s**2
    D = DPS(Gaussian(VP, torch.zeros(1, dtype=F64), std=v**0.5), Matrix(torch.tensor([[a]])), y[None], s)
    left = (x - D((alpha * x)[None], t)[0]) / (2 * u)
    right = (x / (v + u) + R * v**2 * x / (v + u) ** 2 - R * v / (v + u) * y / a) / 2
    equal(left, right, rtol=1e-6)


def solved(v, R, start, target, n=4000, top=12.0):
    """The equation of `eq-inverse-dps-flow` from u = e^top to 0 by RK4 in log(1 + u/v), for start and y/a = target."""

    def slope(q, x):
        u = v * math.expm1(q)
        return (v + u) * (x / (v + u) + R * v**2 * x / (v + u) ** 2 - R * v / (v + u) * target) / 2

    return rk4(slope, start, even(top, 0, n)), v * math.expm1(top)


@SEEDS
@pytest.mark.equation("eq-inverse-dps-factor")
def test_homogeneous_solution(seed):
    v, R = numbers(seed, 2)
    end, u = solved(v, R, 1.0, 0.0)
    equal(1.0 / end, math.sqrt((v + u) / v) * math.exp(R * v**2 / 2 * (1 / v - 1 / (v + u))), rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-inverse-dps-law")
def test_law_of_dps(seed):
    """Start at N(0, u): the variance of the end by the squared factor, its mean by the start at 0."""
    v, R = numbers(seed, 2)
    rho = R * v
    end, u = solved(v, R, 1.0, 0.0)
    equal(end**2 * (u + v), v * math.exp(-rho), rtol=1e-4)
    z = math.sqrt(rho / 2)
    q = torch.linspace(0, z, 20001, dtype=F64)
    dawson = math.exp(-(z**2)) * float(torch.trapezoid(torch.exp(q**2), q))
    mean, _ = solved(v, R, 0.0, 1.0, n=8000, top=30.0)
    equal(mean, 2 * z * dawson, rtol=1e-5)
    equal(dps_gaussian(rho), (2 * z * dawson, math.exp(-rho)), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-pigdm")
def test_pigdm(seed):
    t, _, _, law, _, _, C_t, A, y, s, x = linear_case(seed)
    spread = numbers(seed + 30, 1)[0]
    x0 = law(x, t)[0]
    r = y - A @ x0
    right = x0 + C_t @ A.T @ torch.linalg.solve(spread * A @ A.T + s**2 * torch.eye(2, dtype=F64), r)
    made = PiGDM(law, Matrix(A), y[None], s, variance=lambda t: torch.full_like(t, spread))
    equal(made(x, t)[0], right, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-pigdm-variance")
def test_isotropic_variance(seed):
    t, alpha, sigma = scales(seed)
    s_d = numbers(seed, 1)[0]
    law = Gaussian(VP, torch.zeros(2, dtype=F64), std=s_d)
    right = s_d**2 * sigma**2 / (alpha**2 * s_d**2 + sigma**2) * torch.eye(2, dtype=F64)
    equal(law.covariance(normals(seed, 1, 2), t)[0], right)
    equal(isotropic_variance(law)(t) * torch.eye(2, dtype=F64), right)


@SEEDS
@pytest.mark.equation("eq-inverse-pigdm-ratio")
def test_ratio_of_pigdm(seed):
    t, _, _, law, _, _, C_t, A, y, s, x = linear_case(seed, rows=1)
    spread, x0 = numbers(seed + 30, 1)[0], law(x, t)
    made = PiGDM(law, Matrix(A), y[None], s, variance=lambda t: torch.full_like(t, spread))(x, t) - x0
    exact = linear_gaussian(law, Matrix(A), y, s)(x, t) - x0
    factor = (s**2 + float(A @ C_t @ A.T)) / (s**2 + float(A @ A.T) * spread)
    equal(made, factor * exact, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-tmpd")
def test_tmpd(seed):
    t, _, _ = scales(seed)
    law = GaussianMixture(
        VP, torch.ones(2, dtype=F64), normals(seed, 2, 3), torch.stack([spd(seed, 3), spd(seed + 1, 3)])
    )
    A, y, s, x = normals(seed + 7, 2, 3), normals(seed + 8, 2), numbers(seed, 1)[0], normals(seed + 4, 1, 3)
    x0, C_t = law(x, t)[0], law.covariance(x, t)[0]
    right = x0 + C_t @ A.T @ torch.linalg.solve(A @ C_t @ A.T + s**2 * torch.eye(2, dtype=F64), y - A @ x0)
    equal(TMPD(law, Matrix(A), y[None], s)(x, t)[0], right, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-inverse-two-points")
@pytest.mark.equation("eq-inverse-two-points-tmpd")
def test_two_points(seed):
    t, alpha, sigma = scales(seed)
    y, x, s = normals(seed, 1), normals(seed + 1, 1), numbers(seed, 1)[0]
    prior, A = Empirical(VP, torch.tensor([[-1.0], [1.0]], dtype=F64)), Matrix(torch.ones(1, 1))
    x0 = torch.tanh(alpha * x / sigma**2)
    equal(prior(x[None], t)[0], x0, rtol=1e-7)
    exact = EmpiricalPosterior(prior, A, y[None], s)(x[None], t)[0]
    equal(exact, torch.tanh(alpha * x / sigma**2 + y / s**2), rtol=1e-7)
    made = TMPD(prior, A, y[None], s)(x[None], t)[0]
    equal(made, x0 + (1 - x0**2) / (1 - x0**2 + s**2) * (y - x0), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-inverse-ddnm")
@pytest.mark.equation("eq-inverse-ddnm-fits")
def test_ddnm(seed):
    t, _, _, law, _, _, _, A, y, _, x = linear_case(seed)
    plus, x0 = torch.linalg.pinv(A), law(x, t)[0]
    made = DDNM(law, Matrix(A), y[None])(x, t)[0]
    equal(made, plus @ y + (torch.eye(3, dtype=F64) - plus @ A) @ x0, rtol=1e-7)
    equal(A @ made, y, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-ddnm-slope")
@pytest.mark.equation("eq-inverse-exact-slope")
def test_what_a_projection_leaves_out(seed):
    """The hidden one of two correlated coordinates: what pulls its prediction."""
    t, alpha, sigma = scales(seed)
    c, u = 0.2 + 0.5 * numbers(seed, 1)[0], sigma**2 / alpha**2
    law = Gaussian(VP, torch.zeros(2, dtype=F64), torch.tensor([[1, c], [c, 1]], dtype=F64))
    y, x = normals(seed, 1), normals(seed + 1, 2)
    made = DDNM(law, Mask(torch.tensor([True, False])), y[None])((alpha * x)[None], t)[0, 1]
    equal(made, (u * c * x[0] + (1 + u - c**2) * x[1]) / ((1 + u) ** 2 - c**2), rtol=1e-7)
    exact = linear_gaussian(law, Mask(torch.tensor([True, False])), y, 1e-6)((alpha * x)[None], t)[0, 1]
    equal(exact, (u * c * y[0] + (1 - c**2) * x[1]) / (1 - c**2 + u), rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-inverse-up")
def test_going_back_up(seed):
    low, high = (torch.tensor(t, dtype=F64) for t in (0.2 + 0.1 * seed, 0.6 + 0.1 * seed))
    a_t, a_s, s_t, s_s = (float(f(t)) for f in (VP.alpha, VP.sigma) for t in (low, high))
    x0 = float(normals(seed, 1))
    eps, z = (v.flatten() for v in torch.meshgrid(hermite(6)[0], hermite(6)[0], indexing="ij"))
    share = (hermite(6)[1][:, None] * hermite(6)[1]).flatten()
    up = a_s / a_t * (a_t * x0 + s_t * eps) + math.sqrt(s_s**2 - (a_s / a_t) ** 2 * s_t**2) * z
    equal((share * up).sum(), a_s * x0)
    equal((share * (up - a_s * x0) ** 2).sum(), s_s**2)


@SEEDS
@pytest.mark.equation("eq-inverse-repaint")
def test_many_sweeps(seed):
    """The package's steps down and the way up, without their noise, until the hidden mean moves no more."""
    c, (y,) = 0.2 + 0.5 * numbers(seed, 1)[0], normals(seed, 1)
    law = Gaussian(VP, torch.zeros(2, dtype=F64), torch.tensor([[1, c], [c, 1]], dtype=F64))
    grid = begin(law, normals(seed, 1, 2), torch.tensor([0.7, 0.3 + 0.1 * seed], dtype=F64))
    (a, b, _), x = ancestral_steps(grid)[0], normals(seed + 1, 1, 2)
    for _ in range(2000):
        x[0, 0] = grid.alpha[1] * y
        up = grid.alpha[0] / grid.alpha[1] * x
        x = a * up + b * law(up, grid.times[0])
    equal(x[0, 1] / grid.alpha[1], c * y / (1 + (grid.sigma[0] / grid.alpha[0]) ** 2), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-inverse-telescope")
@pytest.mark.equation("eq-inverse-unbiased")
def test_particles(seed):
    """A chain of two steps moved by twists that are wrong: the product of weights, its mean by quadrature."""
    a1, c1, a2, c2, y, s = numbers(seed, 6, 0.4, 0.9)
    move1, move2 = numbers(seed + 4, 2, 0.1, 0.4)
    grid = torch.linspace(-7, 7, 71, dtype=F64)
    x2, x1, x0 = grid[:, None, None], grid[:, None], grid

    def log_normal(x, mean, scale):
        return -(((x - mean) / scale) ** 2) / 2 - math.log(scale * math.sqrt(2 * math.pi))

    prior, p1, p0 = log_normal(x2, 0.0, 1.0), log_normal(x1, a1 * x2, c1), log_normal(x0, a2 * x1, c2)
    q1, q0 = log_normal(x1, a1 * x2 + move1, c1), log_normal(x0, a2 * x1 - move2, c2)
    twist2, twist1, like = -((y - x2) ** 2) / 3, -((y - x1) ** 2) / 2, log_normal(x0, y, s)
    first, second = p1 + twist1 - twist2 - q1, p0 + like - twist1 - q0
    product = (twist2 + first + second).exp()
    equal(product, (prior + p1 + p0 + like - prior - q1 - q0).exp(), rtol=1e-7)
    density = (prior + q1 + q0).exp() * product
    mean = integral(integral(integral(density, grid), grid), grid)
    evidence = normal(torch.tensor(y, dtype=F64), 0.0, s**2 + c2**2 + a2**2 * (c1**2 + a1**2))
    equal(mean, evidence, rtol=1e-6)


@SEEDS
@pytest.mark.equation("eq-inverse-floor")
def test_floor_of_total_variation(seed):
    p, n = normals(seed, 6).softmax(0), 7 + seed
    k = torch.arange(n + 1, dtype=F64)
    log_choose = torch.lgamma(torch.tensor(n + 1.0, dtype=F64)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    binomial = torch.exp(log_choose + k * p[:, None].log() + (n - k) * torch.log1p(-p[:, None]))
    left = (binomial * (k / n - p[:, None]).abs()).sum() / 2
    m = (n * p).floor().long() + 1
    right = sum(int(j) * math.comb(n, int(j)) * q**j * (1 - q) ** (n - j + 1) for j, q in zip(m, p, strict=True)) / n
    equal(left, right)
    equal(total_variation_floor(p, n), right, rtol=1e-7)
    equal(total_variation(p, p.flip(0)), (p - p.flip(0)).clamp(min=0).sum())


@SEEDS
@pytest.mark.equation("eq-inverse-sdedit")
def test_sdedit_law(seed):
    t, alpha, sigma = scales(seed)
    v, g = numbers(seed, 2)
    kept = alpha**2 * v / (alpha**2 * v + sigma**2)
    law, (nodes, weights) = Gaussian(VP, torch.zeros(1, dtype=F64), std=v**0.5), hermite(8)
    x = (alpha * g + sigma * nodes)[:, None]
    means, inside = law(x, t)[:, 0], law.covariance(x, t)[:, 0, 0]
    equal((weights * means).sum(), kept * g)
    equal((weights * (inside + (means - kept * g) ** 2)).sum(), v * (1 - kept**2))


@SEEDS
@pytest.mark.equation("eq-inverse-survives")
def test_what_survives(seed):
    t, alpha, sigma = scales(seed)
    x0, delta = normals(seed, 3), normals(seed + 1, 3)
    one, other = (torch.distributions.Normal(alpha * v, sigma) for v in (x0 + delta, x0))
    left = torch.distributions.kl_divergence(one, other).sum()
    right = alpha**2 / sigma**2 * (delta**2).sum() / 2
    equal(left, right)
    equal(surviving_kl(VP, delta[None], t)[0], right)


def chain(seed, T=9):
    betas = torch.tensor(numbers(seed, T, 0.02, 0.3), dtype=F64)
    return betas, (1 - betas).cumprod(0), normals(seed, T), normals(seed + 1, 1), normals(seed + 2, 1)


@SEEDS
@pytest.mark.equation("eq-inverse-sam-closed")
@pytest.mark.equation("eq-inverse-sam-factor")
@pytest.mark.equation("eq-inverse-sam-recursion")
def test_structured_chain(seed):
    """The chain's mean is followed step by step, with the noises at 0; its variance with the noises alone."""
    betas, bar, _, x0, E = chain(seed)
    x, variance, phi = x0, 0.0, 0.0
    for k, beta in enumerate(betas):
        x = (1 - beta).sqrt() * x + beta.sqrt() * E
        variance = (1 - beta) * variance + beta
        phi = (1 - beta).sqrt() * phi + beta.sqrt()
        total = (bar[k] * betas[: k + 1] / bar[: k + 1]).sqrt().sum()
        equal(total, phi)
        equal(total, paper_factors(betas)[k])
        equal(x, bar[k].sqrt() * x0 + total * E)
        equal(variance, 1 - bar[k])


@SEEDS
@pytest.mark.equation("eq-inverse-sam-released")
@pytest.mark.equation("eq-inverse-sam-target")
def test_structured_target(seed):
    betas, bar, eps, x0, E = chain(seed)
    k = 1 + torch.randint(9, (1,), generator=gen(seed))
    i = int(k) - 1
    for phi in (paper_factors(betas), released_factors(betas)):
        made, target = structured_noise(x0, k, eps[:1], E, betas, phi)
        expected = eps[:1] + phi[i] / (1 - bar[i]).sqrt() * E
        equal(target, expected)
        equal(made, bar[i].sqrt() * x0 + (1 - bar[i]).sqrt() * expected)
        equal(made, bar[i].sqrt() * x0 + (1 - bar[i]).sqrt() * eps[:1] + phi[i] * E)
    moved = (1 - bar[i]).sqrt() * ((1 - bar[i]).sqrt() * betas[i])
    equal(moved, released_factors(betas)[i])
    equal((1 - bar[i]) * betas[i], moved)


@SEEDS
@pytest.mark.equation("eq-inverse-sam-start")
def test_structured_start(seed):
    E, phi = normals(seed, 4), numbers(seed, 1)[0]
    one, other = torch.distributions.Normal(phi * E, 1.0), torch.distributions.Normal(0 * E, 1.0)
    equal(torch.distributions.kl_divergence(one, other).sum(), phi**2 * (E**2).sum() / 2)


@SEEDS
@pytest.mark.equation("eq-inverse-sam-forgotten")
def test_structured_start_is_forgotten(seed):
    T, k = 9, 4
    kept = torch.cat([torch.ones(1, dtype=F64), (1 - 0.5 * torch.rand(T, dtype=F64, generator=gen(seed))).cumprod(0)])
    left = math.prod(
        (float(kept[i]) / float(kept[i - 1])) ** 0.5 * (1 - float(kept[i - 1])) / (1 - float(kept[i]))
        for i in range(k + 1, T + 1)
    )
    right = (float(kept[T]) / float(kept[k])) ** 0.5 * (1 - float(kept[k])) / (1 - float(kept[T]))
    equal(torch.tensor(left, dtype=F64), torch.tensor(right, dtype=F64))
