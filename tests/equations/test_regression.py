"""Every equation of *Denoising is regression*: both sides as printed, evaluated independently.

The lemma is tested on random finite laws, where every expectation is an exact sum; Gaussian facts against joint
covariances and torch.distributions; densities of one variable by quadrature on a grid.
"""

import cmath
import math

import pytest
import torch
from sides import F64, SEEDS, equal, gen, normals
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from minidiff.sparse import soft_threshold


def scales(seed):
    alpha, sigma = (0.3 + torch.rand(2, generator=gen(seed + 50), dtype=F64)).tolist()
    return alpha, sigma


def spd(n, seed):
    root = normals(seed, n, n)
    return root @ root.mT + 0.3 * torch.eye(n, dtype=F64)


def square(x):
    return x.square().sum(-1)


class Joint:
    """A random law of (x_0, y, x_t): 5 pictures of 3 pixels, 2 labels, 4 things that may be seen; p is (5, 2, 4)."""

    def __init__(self, seed):
        p = torch.rand(5, 2, 4, generator=gen(seed), dtype=F64)
        self.p = p / p.sum()
        self.pictures = normals(seed + 10, 5, 3)
        self.guess = normals(seed + 20, 4, 3)  # f(x_t), an arbitrary table
        # E[x_0 | x_t] and E[x_0 | x_t, y]
        self.D = torch.einsum("iyj,id->jd", self.p, self.pictures) / self.p.sum((0, 1))[:, None]
        self.Dy = torch.einsum("iyj,id->yjd", self.p, self.pictures) / self.p.sum(0)[..., None]
        self.mean = torch.einsum("iyj,id->d", self.p, self.pictures)

    def E(self, values):
        """The mean of values that broadcast to (5, 2, 4)."""
        return (self.p * values).sum()

    @property
    def x0(self):
        return self.pictures[:, None, None]

    def mmse(self):
        return self.E(square(self.x0 - self.D))


# The lemma


@SEEDS
@pytest.mark.equation("eq-regression-pointwise")
def test_pointwise(seed):
    law, a = Joint(seed), normals(seed + 30, 3)
    for j in range(4):
        posterior = law.p[:, :, j].sum(1) / law.p[:, :, j].sum()
        left = posterior @ square(law.pictures - a)
        equal(left, posterior @ square(law.pictures - law.D[j]) + square(law.D[j] - a))


@SEEDS
@pytest.mark.equation("eq-regression-orthogonal")
def test_orthogonal(seed):
    law, h = Joint(seed), normals(seed + 30, 4, 3)
    equal(law.E(((law.x0 - law.D) * h).sum(-1)), 0.0)
    assert abs(law.E(((law.x0 - law.guess) * h).sum(-1))) > 1e-3


@SEEDS
@pytest.mark.equation("eq-regression-pythagoras")
@pytest.mark.equation("eq-regression-mmse")
@pytest.mark.equation("eq-regression-total-variance")
def test_pythagoras(seed):
    law = Joint(seed)
    equal(law.E(square(law.x0 - law.guess)), law.E(square(law.x0 - law.D)) + law.E(square(law.D - law.guess)))
    traces = []
    for j in range(4):
        posterior = law.p[:, :, j].sum(1) / law.p[:, :, j].sum()
        traces.append(torch.cov(law.pictures.mT, aweights=posterior, correction=0).trace())
    equal(law.mmse(), (law.p.sum((0, 1)) * torch.stack(traces)).sum())
    equal(law.E(square(law.x0 - law.mean)), law.mmse() + law.E(square(law.D - law.mean)))


@SEEDS
@pytest.mark.equation("eq-regression-gradient")
def test_gradient(seed):
    law = Joint(seed)
    theta = normals(seed + 30, 2, 3).requires_grad_()
    f = torch.tanh(normals(seed + 40, 4, 2) @ theta)
    left, right = (torch.autograd.grad(law.E(square(z - f)), theta, retain_graph=True)[0] for z in (law.x0, law.D))
    equal(left, right)
    assert left.abs().max() > 1e-3


@SEEDS
@pytest.mark.equation("eq-regression-any-target")
def test_any_target(seed):
    law, z = Joint(seed), normals(seed + 30, 5, 2, 4, 3)  # z depends on everything, and is no picture
    g = (law.p[..., None] * z).sum((0, 1)) / law.p.sum((0, 1))[:, None]
    equal(law.E(square(z - law.guess)), law.E(square(z - g)) + law.E(square(g - law.guess)))


POINTS = torch.tensor([-1.1, 0.2, 0.9], dtype=F64)  # a data set of three numbers
SHARES = torch.tensor([0.3, 0.5, 0.2], dtype=F64)


def seen_density(x, alpha, sigma):
    return (SHARES * Normal(alpha * POINTS, sigma).log_prob(x[:, None]).exp()).sum(1)


@SEEDS
@pytest.mark.equation("eq-regression-score")
@pytest.mark.equation("eq-regression-tweedie")
def test_score_is_a_conditional_mean(seed):
    alpha, sigma = scales(seed)
    x = normals(seed, 9).requires_grad_()
    (score,) = torch.autograd.grad(seen_density(x, alpha, sigma).log().sum(), x)
    x = x.detach()
    posterior = SHARES * Normal(alpha * POINTS, sigma).log_prob(x[:, None]).exp()
    posterior = posterior / seen_density(x, alpha, sigma)[:, None]
    apart = x[:, None].repeat(1, 3).requires_grad_()
    (each,) = torch.autograd.grad(Normal(alpha * POINTS, sigma).log_prob(apart).sum(), apart)
    equal(score, (posterior * each).sum(1))
    equal((posterior * POINTS).sum(1), (x + sigma**2 * score) / alpha)


@SEEDS
@pytest.mark.equation("eq-regression-weighted")
def test_weighted(seed):
    law = Joint(seed)
    w = torch.rand(4, generator=gen(seed), dtype=F64)
    left = law.E(w * square(law.x0 - law.guess))
    equal(left, law.E(w * square(law.x0 - law.D)) + law.E(w * square(law.D - law.guess)))


@SEEDS
@pytest.mark.equation("eq-regression-tilted")
def test_tilted(seed):
    """The minimiser of the weighted loss from its normal equations, one free value for each thing seen."""
    law = Joint(seed)
    w = (0.1 + torch.rand(5, generator=gen(seed), dtype=F64))[:, None, None]
    f = torch.zeros(4, 3, dtype=F64, requires_grad=True)
    loss = law.E(w * square(law.x0 - f))
    (slope,) = torch.autograd.grad(loss, f, create_graph=True)
    curvature = torch.stack([torch.autograd.grad(slope[j, 0], f, retain_graph=True)[0][j, 0] for j in range(4)])
    best = -slope.detach() / curvature[:, None]
    given = law.p.sum(1) / law.p.sum((0, 1))  # p(x_0 | x_t), (5, 4)
    top = torch.einsum("ij,id->jd", given * w[:, :, 0], law.pictures)
    equal(best, top / (given * w[:, :, 0]).sum(0)[:, None])
    assert (best - law.D).abs().max() > 1e-3


@SEEDS
@pytest.mark.equation("eq-regression-labels")
@pytest.mark.equation("eq-regression-knowing")
def test_labels(seed):
    law = Joint(seed)
    label_given_seen = law.p.sum(0) / law.p.sum((0, 1))
    equal(law.D, (label_given_seen[..., None] * law.Dy).sum(0))
    equal(law.mmse(), law.E(square(law.x0 - law.Dy)) + law.E(square(law.Dy - law.D)))


# Gaussians


@SEEDS
@pytest.mark.equation("eq-regression-leftover")
@pytest.mark.equation("eq-regression-product")
def test_product(seed):
    a, b, x = normals(seed, 3), normals(seed + 1, 3), normals(seed + 2, 7, 3)
    A, B = spd(3, seed + 3), spd(3, seed + 4)
    C = torch.linalg.inv(torch.linalg.inv(A) + torch.linalg.inv(B))
    c = C @ (torch.linalg.inv(A) @ a + torch.linalg.inv(B) @ b)
    left = MultivariateNormal(a, A).log_prob(x) + MultivariateNormal(b, B).log_prob(x)
    equal(left.exp(), MultivariateNormal(b, A + B).log_prob(a).exp() * MultivariateNormal(c, C).log_prob(x).exp())
    squares = [v @ torch.linalg.solve(M, v) for v, M in ((a, A), (b, B), (c, C))]
    equal(squares[0] + squares[1] - squares[2], (a - b) @ torch.linalg.solve(A + B, a - b))


@SEEDS
@pytest.mark.equation("eq-regression-map")
def test_map(seed):
    """Moments by nodes ± √5 along each axis of (x, n), exact for quadratics; densities by convolution."""
    m, H, h = normals(seed, 3), normals(seed + 1, 2, 3), normals(seed + 2, 2)
    S, R = spd(3, seed + 3), spd(2, seed + 4)
    nodes = math.sqrt(5) * torch.cat([torch.eye(5), -torch.eye(5)]).double()
    x = m + nodes[:, :3] @ torch.linalg.cholesky(S).mT
    z = x @ H.mT + h + nodes[:, 3:] @ torch.linalg.cholesky(R).mT
    mean = z.mean(0)
    equal(mean, H @ m + h)
    equal((z - mean).mT @ (z - mean) / 10, H @ S @ H.mT + R)
    equal((x - m).mT @ (z - mean) / 10, S @ H.mT)
    # in one variable: the density of z, integrated over x
    (s, r, k), line = (0.5 + torch.rand(3, generator=gen(seed))).tolist(), torch.linspace(-12, 12, 4001).double()
    point = torch.tensor(0.7, dtype=F64)
    joint = Normal(0.3, s).log_prob(line) + Normal(k * line - 0.2, r).log_prob(point)
    equal(torch.trapezoid(joint.exp(), line), Normal(k * 0.3 - 0.2, math.hypot(k * s, r)).log_prob(point).exp(), 1e-6)


@SEEDS
@pytest.mark.equation("eq-regression-conditioning")
def test_conditioning(seed):
    """The conditional density is the joint one over the marginal, at random points."""
    joint, mean = spd(5, seed), normals(seed + 1, 5)
    S, cross, V = joint[:3, :3], joint[:3, 3:], joint[3:, 3:]
    K = cross @ torch.linalg.inv(V)
    for point in normals(seed + 2, 4, 5):
        x, z = point[:3], point[3:]
        given = MultivariateNormal(mean[:3] + K @ (z - mean[3:]), S - K @ V @ K.mT)
        ratio = MultivariateNormal(mean, joint).log_prob(point) - MultivariateNormal(mean[3:], V).log_prob(z)
        equal(given.log_prob(x), ratio, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-regression-gaussian")
@pytest.mark.equation("eq-regression-precision")
def test_gaussian_denoiser(seed):
    """Mean and covariance are those of the density prior × likelihood, read off its gradient and its curvature."""
    alpha, sigma = scales(seed)
    m, S, x = normals(seed, 3), spd(3, seed + 1), normals(seed + 2, 3)
    eye = torch.eye(3, dtype=F64)

    def log_posterior(x0):
        return MultivariateNormal(m, S).log_prob(x0) - (x - alpha * x0).square().sum() / (2 * sigma**2)

    curvature = torch.autograd.functional.hessian(log_posterior, m)
    covariance = torch.linalg.inv(-curvature)
    slope = torch.autograd.functional.jacobian(log_posterior, m)
    mean = m + covariance @ slope
    V = alpha**2 * S + sigma**2 * eye
    equal(alpha * S @ torch.linalg.inv(V) @ (x - alpha * m) + m, mean, rtol=1e-8)
    equal(sigma**2 * S @ torch.linalg.inv(V), covariance, rtol=1e-8)
    snr, inverse = alpha**2 / sigma**2, torch.linalg.inv(S)
    equal(torch.linalg.inv(inverse + snr * eye) @ (inverse @ m + snr * x / alpha), mean, rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-regression-kl")
def test_kl(seed):
    m1, m2, S1, S2 = normals(seed, 3), normals(seed + 1, 3), spd(3, seed + 2), spd(3, seed + 3)
    inverse = torch.linalg.inv(S2)
    printed = (inverse @ S1).trace() - 3 + torch.log(torch.det(S2) / torch.det(S1)) + (m1 - m2) @ inverse @ (m1 - m2)
    equal(printed / 2, kl_divergence(MultivariateNormal(m1, S1), MultivariateNormal(m2, S2)))


@SEEDS
@pytest.mark.equation("eq-regression-moments")
def test_moments(seed):
    line = torch.linspace(-14, 14, 8001, dtype=F64)
    alpha, sigma = scales(seed)
    p = seen_density(line, 2 * alpha, sigma)
    mean = torch.trapezoid(p * line, line)
    variance = torch.trapezoid(p * (line - mean) ** 2, line)
    mu, s = normals(seed, 1), 1.7

    def kl(log_p, log_q):
        return torch.trapezoid(log_p.exp() * (log_p - log_q), line)

    other, fitted = Normal(mu, s).log_prob(line), Normal(mean, variance.sqrt()).log_prob(line)
    equal(kl(p.log(), other), kl(p.log(), fitted) + kl(fitted, other), rtol=1e-7)


# The best linear guess


@SEEDS
@pytest.mark.equation("eq-regression-normal")
@pytest.mark.equation("eq-regression-wiener")
@pytest.mark.equation("eq-regression-shrinkage")
@pytest.mark.equation("eq-regression-wiener-error")
def test_wiener(seed):
    """Where the gradient of the population error in (W, c) vanishes; the error there, with noise as ± √3 σ e_j."""
    alpha, sigma = scales(seed)
    points = normals(seed, 6, 3)
    m = points.mean(0)
    S = (points - m).mT @ (points - m) / 6
    noise = math.sqrt(3) * sigma * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    seen = (alpha * points[:, None] + noise).flatten(0, 1)
    truth = points[:, None].expand(6, 6, 3).flatten(0, 1)
    ones = torch.ones(36, 1, dtype=F64)
    solution = torch.linalg.lstsq(torch.cat([seen, ones], 1), truth).solution  # least squares, knowing nothing of Σ
    W, c = solution[:3].mT, solution[3]
    eye, r2 = torch.eye(3, dtype=F64), sigma**2 / alpha**2
    equal(W @ (alpha**2 * S + sigma**2 * eye), alpha * S)
    equal(c, (eye - alpha * W) @ m)
    equal(W, alpha * S @ torch.linalg.inv(alpha**2 * S + sigma**2 * eye))
    equal(W, S @ torch.linalg.inv(S + r2 * eye) / alpha)
    lam, U = torch.linalg.eigh(S)
    gains = alpha * lam / (alpha**2 * lam + sigma**2)
    x = normals(seed + 1, 5, 3)
    shrunk = m + sum(g * torch.outer((x - alpha * m) @ u, u) for g, u in zip(gains, U.mT, strict=True))
    equal(x @ W.mT + c, shrunk)
    error = square(truth - seen @ W.mT - c).mean()
    equal(error, (sigma**2 * lam / (alpha**2 * lam + sigma**2)).sum())
    equal(error, (r2 * lam / (r2 + lam)).sum())


@SEEDS
@pytest.mark.equation("eq-regression-ridge")
def test_noise_is_a_penalty(seed):
    alpha, sigma = scales(seed)
    x, W = normals(seed, 6, 3), normals(seed + 1, 3, 3)
    x = x - x.mean(0)
    eps = math.sqrt(3) * torch.cat([torch.eye(3), -torch.eye(3)]).double()  # exact for quadratics
    left = square(x[:, None] - (alpha * x[:, None] + sigma * eps) @ W.mT).mean()
    equal(left, square(x - alpha * x @ W.mT).mean() + sigma**2 * torch.linalg.matrix_norm(W, "fro") ** 2)


@SEEDS
@pytest.mark.equation("eq-regression-fitted")
def test_ridge_denoises_its_targets(seed):
    A, b, kappa = normals(seed, 7, 3), normals(seed + 1, 7), 0.8
    # ridge regression as augmented least squares
    rows = torch.cat([A, math.sqrt(kappa) * torch.eye(3, dtype=F64)])
    weights = torch.linalg.lstsq(rows, torch.cat([b, torch.zeros(3).double()])[:, None]).solution[:, 0]
    printed = A @ torch.linalg.inv(A.mT @ A + kappa * torch.eye(3, dtype=F64)) @ A.mT @ b
    equal(A @ weights, printed)
    equal(printed, A @ A.mT @ torch.linalg.inv(A @ A.mT + kappa * torch.eye(7, dtype=F64)) @ b)


@SEEDS
@pytest.mark.equation("eq-regression-truncation")
def test_truncation(seed):
    lam, r2 = normals(seed, 40).exp(), 0.7
    middle = (r2 * lam / (r2 + lam)).sum()
    least = sum(min(value, r2) for value in lam.tolist())
    assert least / 2 <= middle <= least
    equal((r2 * torch.tensor([r2] * 4, dtype=F64) / (2 * r2)).sum(), 4 * r2 / 2)  # the left bound is attained at λ = r²
    tiny = torch.tensor([1e-9, 1e9], dtype=F64)
    equal((r2 * tiny / (r2 + tiny)).sum(), 1e-9 + r2, rtol=1e-8)  # the right one in the limits


# A sparse guess

HALF = torch.linspace(0, 30, 30_001, dtype=F64)
LINE = torch.cat([-HALF[1:].flip(0), HALF])  # 0 is a node


@SEEDS
@pytest.mark.equation("eq-regression-soft")
def test_soft(seed):
    theta = 0.2 + float(torch.rand((), generator=gen(seed)))
    for z in (3 * normals(seed, 12)).tolist():
        best = LINE[((z - LINE) ** 2 / 2 + theta * LINE.abs()).argmin()]
        equal(best, math.copysign(max(abs(z) - theta, 0), z), atol=1e-3)


@SEEDS
@pytest.mark.equation("eq-regression-odds")
@pytest.mark.equation("eq-regression-laplace")
@pytest.mark.equation("eq-regression-slope")
def test_laplace(seed):
    b, r = (0.4 + 1.5 * torch.rand(2, generator=gen(seed))).tolist()
    theta, unit = r**2 / b, Normal(0.0, 1.0)
    for z in (2 * normals(seed, 5)).tolist():
        z = torch.tensor(z, dtype=F64)
        density = (-((z - LINE) ** 2) / (2 * r**2) - LINE.abs() / b).exp()
        right, left = LINE >= 0, LINE <= 0
        masses = [torch.trapezoid(density[side], LINE[side]) for side in (right, left)]
        p = masses[0] / (masses[0] + masses[1])
        ratio = torch.exp(-2 * z / b) * unit.cdf((z - theta) / r) / unit.cdf(-(z + theta) / r)
        equal(p / (1 - p), ratio, rtol=1e-5)
        mean = torch.trapezoid(density * LINE, LINE) / sum(masses)
        equal(mean, p * (z - theta) + (1 - p) * (z + theta), rtol=1e-5, atol=1e-7)
        equal(mean, z - theta * torch.tanh(torch.log(p / (1 - p)) / 2), rtol=1e-5, atol=1e-7)

        def guess(z):
            density = (-((z - LINE) ** 2) / (2 * r**2) - LINE.abs() / b).exp()
            return torch.trapezoid(density * LINE, LINE) / torch.trapezoid(density, LINE)

        h = 1e-4
        slope = (guess(z + h) - guess(z - h)) / (2 * h)
        second = torch.trapezoid(density * LINE**2, LINE) / sum(masses)
        centred = torch.trapezoid(density * (LINE - mean) ** 2, LINE) / sum(masses)
        equal(slope, (second - mean**2) / r**2, rtol=1e-5)
        equal((second - mean**2) / r**2, centred / r**2, rtol=1e-7)


def lasso(seed):
    A, b = normals(seed, 9, 5), 2 * normals(seed + 1, 9)
    return A, b, float(torch.linalg.eigvalsh(A.mT @ A)[-1])


@SEEDS
@pytest.mark.equation("eq-regression-majorise")
@pytest.mark.equation("eq-regression-ista")
def test_majorise(seed):
    A, b, L = lasso(seed)
    kappa, x = 1.3, normals(seed + 2, 5)

    def F(x):
        return square(A @ x - b) / 2

    gradient = torch.autograd.functional.jacobian(F, x)
    equal(gradient, A.mT @ (A @ x - b))

    def bound(y):
        return F(x) + gradient @ (y - x) + L / 2 * square(y - x)

    for y in 2 * normals(seed + 3, 50, 5):
        assert F(y) <= bound(y) + 1e-10
    top = torch.linalg.eigh(A.mT @ A)[1][:, -1]
    equal(F(x + top), bound(x + top))  # no smaller L would do
    # the step minimises bound + κ|·|₁: no point near it, coordinate-wise or random, is lower
    z = x - gradient / L
    stepped = z.sign() * (z.abs() - kappa / L).clamp(min=0)

    def total(y):
        return bound(y) + kappa * y.abs().sum()

    for shift in torch.cat([torch.eye(5).double(), -torch.eye(5).double(), normals(seed + 4, 30, 5)]):
        for length in (1e-4, 1e-2, 1.0):
            assert total(stepped + length * shift) > total(stepped)


@SEEDS
@pytest.mark.equation("eq-regression-kkt")
def test_kkt(seed):
    """The conditions hold at the minimum found by brute force over signs, and fail away from it."""
    A, b, L = lasso(seed)
    kappa = 4.0

    def objective(x):
        return square(A @ x - b) / 2 + kappa * x.abs().sum()

    candidates = []
    for signs in torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0]).double()] * 5):
        own = signs != 0
        x = torch.zeros(5, dtype=F64)
        if own.any():  # the stationary point if the signs were known
            x[own] = torch.linalg.solve(A[:, own].mT @ A[:, own], A[:, own].mT @ b - kappa * signs[own])
        if torch.equal(x.sign(), signs):
            candidates.append(x)
    best = min(candidates, key=objective)

    def satisfied(x):
        pull = A.mT @ (b - A @ x)
        on = torch.where(x != 0, (pull - kappa * x.sign()).abs(), 0.0)
        return bool((on < 1e-9).all() and (pull[x == 0].abs() <= kappa).all())

    assert satisfied(best)
    others = [x for x in candidates if x is not best]
    assert others and not any(satisfied(x) for x in others)
    equal(best, soft_threshold(best - A.mT @ (A @ best - b) / L, kappa / L))  # a fixed point of the iteration


# Neighbours and clusters


@SEEDS
@pytest.mark.equation("eq-regression-weights")
@pytest.mark.equation("eq-regression-kernel")
def test_weights(seed):
    alpha, sigma = scales(seed)
    points, x = normals(seed, 6, 3), normals(seed + 1, 3)
    likelihoods = MultivariateNormal(alpha * points, sigma**2 * torch.eye(3).double()).log_prob(x)
    posterior = likelihoods.exp() / likelihoods.exp().sum()  # Bayes, equal priors
    first = torch.exp(-square(x - alpha * points) / (2 * sigma**2))
    second = torch.exp(-square(x / alpha - points) / (2 * (sigma / alpha) ** 2))
    equal(posterior, first / first.sum())
    equal(posterior, second / second.sum())
    # the sum is the conditional mean: the score of the mixture, by Tweedie, says the same
    place = x.clone().requires_grad_()
    mixture = MultivariateNormal(alpha * points, sigma**2 * torch.eye(3).double()).log_prob(place).logsumexp(0)
    (score,) = torch.autograd.grad(mixture, place)
    equal(posterior @ points, (x + sigma**2 * score) / alpha)


@SEEDS
@pytest.mark.equation("eq-regression-nearest")
def test_nearest(seed):
    points, z = normals(seed, 6, 3), normals(seed + 1, 3)
    distances = (points - z).norm(dim=1)
    order = distances.argsort()
    d1, d2, near = distances[order[0]], distances[order[1]], points[order[0]]
    reach = (points - near).norm(dim=1).max()
    for r in (0.1, 0.3, 1.0, 5.0):
        weights = (-square(points - z) / (2 * r**2)).softmax(0)
        gap = (weights @ points - near).norm()
        assert gap <= 5 * torch.exp(-(d2**2 - d1**2) / (2 * r**2)) * reach + 1e-15
    # two equally far others in the direction of the reach: the bound is attained up to the normalisation
    trio = torch.tensor([[0.0], [2.0], [2.0]], dtype=F64)
    weights = (-square(trio) / 2).softmax(0)
    bound = 2 * math.exp(-2.0) * 2.0
    equal((weights @ trio)[0], bound / (1 + 2 * math.exp(-2.0)))


def energy(points, centres, r):
    gaps = -square(points[:, None] - centres) / (2 * r**2)
    return -(r**2) * (gaps.logsumexp(1) - math.log(len(centres))).sum()


@SEEDS
@pytest.mark.equation("eq-regression-pull")
@pytest.mark.equation("eq-regression-em")
@pytest.mark.equation("eq-regression-em-bound")
@pytest.mark.equation("eq-regression-kmeans")
def test_em(seed):
    points, centres, r = normals(seed, 8, 2), normals(seed + 1, 3, 2).requires_grad_(), 0.8
    (gradient,) = torch.autograd.grad(energy(points, centres, r), centres)
    centres = centres.detach()
    share = (-square(points[:, None] - centres) / (2 * r**2)).softmax(1)
    equal(gradient, (share[..., None] * (centres - points[:, None])).sum(0))

    def bound(moved):
        change = square(points[:, None] - moved) - square(points[:, None] - centres)
        return energy(points, centres, r) + (share * change).sum() / 2

    for moved in centres + normals(seed + 2, 40, 3, 2):
        assert energy(points, moved, r) <= bound(moved) + 1e-12
    equal(energy(points, centres, r), bound(centres))
    updated = (share[..., None] * points[:, None]).sum(0) / share.sum(0)[:, None]
    place = updated.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bound(place), place)  # the update is where the bound is least
    equal(slope, torch.zeros(3, 2), atol=1e-12)
    assert energy(points, updated, r) < energy(points, centres, r)
    for r in (0.05, 0.3, 1.0):
        rest = energy(points, centres, r) - square(points[:, None] - centres).amin(1).sum() / 2
        assert -1e-12 <= rest <= 8 * r**2 * math.log(3) + 1e-12
    together = energy(points, centres[:1].expand(3, 2), 1.0) - square(points - centres[0]).sum() / 2
    equal(together, 0.0, atol=1e-12)  # equal prototypes attain the left bound
    alone = torch.tensor([[0.0, 0.0], [1e3, 0.0], [0.0, 1e3]], dtype=F64)
    equal(energy(torch.zeros(8, 2).double(), alone, 1.0), 8 * math.log(3))  # distant ones the right bound


@SEEDS
@pytest.mark.equation("eq-regression-split")
def test_split(seed):
    points, direction, r = normals(seed, 9, 2), normals(seed + 1, 4, 2), 1.3
    mean = points.mean(0)
    S = (points - mean).mT @ (points - mean) / 9
    direction = direction - direction.mean(0)
    rests = []
    for size in (1e-2, 1e-3):
        delta = size * direction
        share = (-square(points[:, None] - mean - delta) / (2 * r**2)).softmax(1)
        moved = (share[..., None] * points[:, None]).sum(0) / share.sum(0)[:, None] - mean
        rests.append((moved - delta @ S / r**2).norm())
    assert 80 < rests[0] / rests[1] < 125  # the rest is of second order


# A guess is not a sample


@SEEDS
@pytest.mark.equation("eq-regression-twice")
@pytest.mark.equation("eq-regression-tradeoff")
def test_samples(seed):
    law, gamma = Joint(seed), 0.6
    p = law.p.sum(1)  # (5, 4)
    triple = p[:, None] * (p / p.sum(0))[None]  # truth, candidate, seen: independent given what is seen
    truth, candidate = law.pictures[:, None, None], law.pictures[None, :, None]
    equal((triple * square(truth - candidate)).sum(), 2 * law.mmse())
    f = law.D + gamma * (candidate - law.D)
    equal((triple * square(truth - f)).sum(), (1 + gamma**2) * law.mmse())
    variance = law.E(square(law.x0 - law.mean))
    equal((triple * square(f - law.mean)).sum(), variance - (1 - gamma**2) * law.mmse())


# Frequencies


@SEEDS
@pytest.mark.equation("eq-regression-white")
def test_white(seed):
    U = torch.linalg.qr(normals(seed, 4, 4))[0]
    nodes = 2 * torch.cat([torch.eye(4), -torch.eye(4)]).double()  # E εεᵀ = I, exact for quadratics
    turned = nodes @ U.mT
    equal(turned.mT @ turned / 8, U @ U.mT)
    equal(U @ U.mT, torch.eye(4))


@SEEDS
@pytest.mark.equation("eq-regression-fourier")
@pytest.mark.equation("eq-regression-gain")
def test_fourier(seed):
    n = 7
    half = normals(seed, n)
    c = torch.stack([(half * half.roll(a)).sum() for a in range(n)])  # an autocovariance on the ring
    S = torch.stack([torch.stack([c[(a - b) % n] for b in range(n)]) for a in range(n)])
    powers = []
    for k in range(n):
        wave = torch.exp(2j * math.pi * k * torch.arange(n, dtype=F64) / n)
        power = sum(c[a] * cmath.exp(-2j * math.pi * k * a / n) for a in range(n))
        left = S.to(torch.complex128) @ wave
        equal(left.real, (power * wave).real)
        equal(left.imag, (power * wave).imag)
        powers.append(power.real)
    # the gain on each frequency is Wiener's filter on the covariance matrix
    alpha, sigma = scales(seed)
    r2, power = sigma**2 / alpha**2, torch.stack(powers)
    W = alpha * S @ torch.linalg.inv(alpha**2 * S + sigma**2 * torch.eye(n).double())
    z = normals(seed + 1, n)
    ratio = torch.fft.fft(W @ (alpha * z)) / torch.fft.fft(z)
    equal(ratio.real, power / (power + r2))
    equal(ratio.imag, torch.zeros(n), atol=1e-9)
    equal(ratio.real, 1 / (1 + 1 / (power / r2)))
    equal(ratio.real, alpha * (alpha * power / (alpha**2 * power + sigma**2)))  # α g of eq-regression-shrinkage


@SEEDS
@pytest.mark.equation("eq-regression-cutoff")
def test_cutoff(seed):
    """Signal and noise are equal at k_c, by bisection; ten times the noise moves it by 10^(2/p)."""
    A, p, r = (0.5 + 2 * torch.rand(3, generator=gen(seed))).tolist()

    def crossing(r):
        low, high = 1e-6, 1e6
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if A * middle**-p > r**2 else (low, middle)
        return low

    equal(crossing(r), (A / r**2) ** (1 / p), rtol=1e-9)
    equal(crossing(r) / crossing(10 * r), 10 ** (2 / p), rtol=1e-9)


@SEEDS
@pytest.mark.equation("eq-regression-blocks")
def test_blocks(seed):
    n, r = seed + 2, 0.7
    nodes = n * torch.cat([torch.eye(n * n), -torch.eye(n * n)]).double()
    equal((r * nodes).mean(1).square().mean(), r**2 / n**2)


# Classifiers


@SEEDS
@pytest.mark.equation("eq-regression-lda")
@pytest.mark.equation("eq-regression-push")
@pytest.mark.equation("eq-regression-guide")
def test_classifier(seed):
    alpha, sigma = scales(seed)
    means, S = normals(seed, 3, 2), spd(2, seed + 1)
    shares = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
    V = alpha**2 * S + sigma**2 * torch.eye(2).double()
    inverse = torch.linalg.inv(V)
    x = normals(seed + 2, 2)

    def log_p(x):
        joint = shares.log() + MultivariateNormal(alpha * means, V).log_prob(x)
        return joint - joint.logsumexp(0)

    a = alpha * means @ inverse
    b = shares.log() - alpha**2 / 2 * (means @ inverse * means).sum(1)
    scores = (a @ x + b).exp()
    equal(log_p(x).exp(), scores / scores.sum())
    push = torch.autograd.functional.jacobian(log_p, x)  # (3, 2)
    equal(push, a - (log_p(x).exp() @ a))

    # the guesses themselves by Bayes: each class a Gaussian, all data their mixture
    given = means + alpha * (x - alpha * means) @ inverse @ S
    equal(given, log_p(x).exp() @ given + sigma**2 / alpha * push)


@SEEDS
@pytest.mark.equation("eq-regression-guide")
def test_guide_for_any_data(seed):
    """Classes of unlike shape, on a line: quadrature for both guesses, a difference quotient for the push."""
    alpha, sigma = scales(seed)
    densities = [
        (-LINE.abs() / 0.7).exp(),
        (LINE - 1).square().mul(-3).exp() + (LINE + 1.5).square().mul(-8).exp(),
    ]
    densities = [0.4 * densities[0] / torch.trapezoid(densities[0], LINE), 0.6 * densities[1]]
    densities[1] = 0.6 * densities[1] / torch.trapezoid(densities[1], LINE)

    def seen(x):
        kernel = (-((x - alpha * LINE) ** 2) / (2 * sigma**2)).exp()
        masses = torch.stack([torch.trapezoid(kernel * p, LINE) for p in densities])
        firsts = torch.stack([torch.trapezoid(kernel * p * LINE, LINE) for p in densities])
        return masses, firsts

    for x in normals(seed + 3, 4).tolist():
        masses, firsts = seen(x)
        h = 1e-4
        up, down = (torch.log(m / m.sum()) for m in (seen(x + h)[0], seen(x - h)[0]))
        push = (up - down) / (2 * h)
        equal(firsts / masses, firsts.sum() / masses.sum() + sigma**2 / alpha * push, rtol=1e-5, atol=1e-6)
