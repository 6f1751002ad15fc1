"""Every equation of *Memorise or generalise*: both sides as printed, evaluated independently.

Averages over noise and over training sets drawn from Gaussians are Gauss–Hermite quadratures, entropies are integrals
on a line.
"""

import itertools
import math

import pytest
import torch
from sides import F64, LINE, SEEDS, equal, gen, hermite, integral, normal, normals, numbers

NODES, WEIGHTS = hermite(60)
PLANE = torch.cartesian_prod(*[hermite(40)[0]] * 2)  # (ε_1, ε_2)
PLANE_WEIGHTS = torch.cartesian_prod(*[hermite(40)[1]] * 2).prod(1)


def weights(y, points, r):
    """p_i(y) of y (..., d), points (n, d), from densities."""
    squares = (y[..., None, :] - points).square().sum(-1)
    density = torch.exp(-squares / (2 * r**2))
    return density / density.sum(-1, keepdim=True)


def copier(y, points, r):
    return weights(y, points, r) @ points


def noisy(points, r):
    """y for each point and each node of the plane, (n, nodes, 2)."""
    return points[:, None] + r * PLANE


def mean(values):
    """The mean over points (equal weights) and the nodes of the plane of values (n, nodes)."""
    return (values @ PLANE_WEIGHTS).mean()


def loss(f, points, r):
    """L(f) in the plane, by quadrature."""
    return mean((points[:, None] - f(noisy(points, r))).square().sum(-1))


def some_denoiser(seed):
    a, b = normals(seed + 50, 2, 2), normals(seed + 60, 2)
    return lambda y: torch.tanh(y @ a + b)


# The minimiser copies


@SEEDS
@pytest.mark.equation("eq-memory-copier")
def test_copier_is_least_squares(seed):
    """At each y the best constant answer is a weighted least-squares fit to the points, weighted by their densities."""
    points, r = normals(seed, 4, 2), numbers(seed, 1)[0]
    for y in normals(seed + 1, 3, 2):
        root = normal(y, points, r**2).prod(1).sqrt()[:, None]
        fitted = torch.linalg.lstsq(root, root * points).solution[0]
        p = torch.stack([torch.exp(-(y - x).square().sum() / (2 * r**2)) for x in points])
        equal(fitted, sum(p[i] / p.sum() * points[i] for i in range(4)))


@SEEDS
@pytest.mark.equation("eq-memory-excess")
@pytest.mark.equation("eq-memory-floor")
def test_excess_and_floor(seed):
    points, r, f = normals(seed, 3, 2), numbers(seed, 1, 0.8, 1.5)[0], some_denoiser(seed)
    y = noisy(points, r)
    least = loss(lambda y: copier(y, points, r), points, r)
    away = mean((copier(y, points, r) - f(y)).square().sum(-1))
    equal(loss(f, points, r), least + away, rtol=1e-4)
    p, gaps = weights(y, points, r), torch.cdist(points, points).square()
    equal(least, mean(torch.einsum("nki,nkj,ij->nk", p, p, gaps) / 2), rtol=1e-4)


@SEEDS
@pytest.mark.equation("eq-memory-flow")
def test_flow_carries_the_noisy_density(seed):
    """∂q/∂r + ∂(q dy/dr)/∂y = 0 for the density of y = x_i + r ε."""
    points, r = normals(seed, 3), torch.tensor(numbers(seed, 1)[0], dtype=F64)
    y = torch.linspace(-2, 2, 9, dtype=F64)

    def density(y, r):
        return torch.stack([torch.exp(-((y - x) ** 2) / (2 * r**2)) / r for x in points]).mean(0)

    def current(y):
        velocity = (y - copier(y[:, None], points[:, None], r)[:, 0]) / r
        return density(y, r) * velocity

    growth = torch.func.jvp(lambda r: density(y, r), (r,), (torch.ones_like(r),))[1]
    equal(growth, -torch.func.jvp(current, (y,), (torch.ones_like(y),))[1])


@SEEDS
@pytest.mark.equation("eq-memory-trapped")
def test_trapped(seed):
    points, r = normals(seed, 5, 3), numbers(seed, 1, 0.2, 0.8)[0]
    y = points[0] + 0.6 * normals(seed + 1, 200, 3)
    left = (copier(y, points, r) - points[0]).norm(dim=1)
    right = (1 - weights(y, points, r)[:, 0]) * (points - points[0]).norm(dim=1).max()
    assert bool((left <= right + 1e-12).all())
    pair = points[:2]  # with two points it is an equality
    left = (copier(y, pair, r) - pair[0]).norm(dim=1)
    equal(left, (1 - weights(y, pair, r)[:, 0]) * (pair[1] - pair[0]).norm())


@SEEDS
@pytest.mark.equation("eq-memory-line")
def test_line(seed):
    x, start = normals(seed, 2, 3)
    first, r = (torch.tensor(v, dtype=F64) for v in numbers(seed, 2))

    def path(r):
        return x + r / first * (start - x)

    equal(path(first), start)
    velocity = torch.func.jvp(path, (r,), (torch.ones_like(r),))[1]
    equal(velocity, (path(r) - x) / r)  # eq-memory-flow with D = x


# Two moments of a sample's life


def clusters(seed):
    """m (3,), s, r and V."""
    s, r = numbers(seed, 2)
    return 0.7 * normals(seed, 3), s, r, s**2 + r**2


def log_density(y, m, variance):
    """log q_r(y) of the two clusters, up to a constant; y (..., 3)."""
    both = torch.stack([-(y - m).square().sum(-1), -(y + m).square().sum(-1)]) / (2 * variance)
    return both.logsumexp(0)


@SEEDS
@pytest.mark.equation("eq-memory-class")
def test_class(seed):
    m, _, _, v = clusters(seed)
    y = normals(seed + 1, 5, 3)
    plus, minus = (normal(y, sign * m, v).prod(1) for sign in (1, -1))
    equal(plus / (plus + minus), 1 / (1 + torch.exp(-2 * y @ m / v)))


@SEEDS
@pytest.mark.equation("eq-memory-logit")
def test_logit(seed):
    """The characteristic function of 2 m·y/V at a few frequencies is that of N(2κ, 4κ)."""
    m, s, r, v = clusters(seed)
    kappa = m.square().sum() / v
    nodes = torch.cartesian_prod(*[hermite(40)[0]] * 3)
    w = torch.cartesian_prod(*[hermite(40)[1]] * 3).prod(1)
    logit = 2 * (m + math.sqrt(s**2 + r**2) * nodes) @ m / v
    equal((w * logit).sum(), 2 * kappa)
    for u in (0.3, 0.7):
        real = (w * torch.cos(u * logit)).sum()
        equal(real, torch.cos(2 * kappa * u) * torch.exp(-4 * kappa * u**2 / 2), rtol=1e-8)


@SEEDS
@pytest.mark.equation("eq-memory-curvature")
@pytest.mark.equation("eq-memory-speciation")
def test_curvature_and_speciation(seed):
    m, s, _, v = clusters(seed)

    def curvature(variance):
        hessian = torch.func.hessian(lambda y: log_density(y, m, variance))(torch.zeros(3, dtype=F64))
        return m @ hessian @ m / m.square().sum()

    equal(curvature(v), (m.square().sum() / v - 1) / v)
    s = 0.5 * m.norm()
    critical = m.square().sum() - s**2  # r_S²
    assert curvature(s**2 + 0.99 * critical) > 0 > curvature(s**2 + 1.01 * critical)
    equal(curvature(s**2 + critical), 0.0, atol=1e-12)


def entropy(density):
    return -integral(torch.xlogy(density, density))


@SEEDS
@pytest.mark.equation("eq-memory-index")
def test_information_about_the_index(seed):
    points, r = normals(seed, 4), numbers(seed, 1)[0]
    mixture = torch.stack([normal(LINE, x, r**2) for x in points]).mean(0)
    y = points[:, None] + r * NODES
    own = torch.stack([normal(y, x, r**2) for x in points])
    own = (own / own.sum(0))[range(4), range(4)]
    left = entropy(mixture) - entropy(normal(LINE, 0.0, r**2))
    equal(left, math.log(4) + (own.log() @ WEIGHTS).mean(), rtol=2e-4)


def three_draws(s, r, count=24):
    """Training sets of three draws from N(0, s²) and noise on the first: x (m, 3), y (m,), weights (m,)."""
    nodes, w = hermite(count)
    grid, mass = torch.cartesian_prod(*[nodes] * 4), torch.cartesian_prod(*[w] * 4).prod(1)
    x = s * grid[:, :3]
    return x, x[:, 0] + r * grid[:, 3], grid[:, 3], mass


def own_log_weight(x, y, r):
    return (-((y[:, None] - x) ** 2) / (2 * r**2)).log_softmax(1)[:, 0]


@SEEDS
@pytest.mark.equation("eq-memory-processing")
@pytest.mark.equation("eq-memory-no-collapse")
def test_no_collapse_before_the_information_suffices(seed):
    """For training sets of three from N(0, s²) and from two points: in closed form, by quadrature, by enumeration."""
    s, r = numbers(seed, 2, 0.3, 2.0)
    x, y, _, mass = three_draws(s, r)
    information = math.log(1 + s**2 / r**2) / 2
    surprise = -(mass * own_log_weight(x, y, r)).sum()
    assert math.log(3) - surprise <= information
    assert surprise >= math.log(3) - information
    values = (-1.0, 1.3)  # a law without a density
    law = (normal(LINE, values[0], r**2) + normal(LINE, values[1], r**2)) / 2
    information = float(entropy(law) - entropy(normal(LINE, 0.0, r**2)))
    surprises, informations = [], []
    for chosen in itertools.product(values, repeat=3):
        points = torch.tensor(chosen, dtype=F64)
        y = points[:, None] + r * NODES
        p = weights(y[..., None], points[:, None], r)[range(3), :, range(3)]
        surprises.append(-(p.log() @ WEIGHTS).mean())
        empirical = torch.stack([normal(LINE, v, r**2) for v in chosen]).mean(0)
        informations.append(entropy(empirical) - entropy(normal(LINE, 0.0, r**2)))
    assert sum(informations) / 8 <= information + 1e-9
    assert sum(surprises) / 8 >= math.log(3) - information - 1e-9


@SEEDS
@pytest.mark.equation("eq-memory-processing")
@pytest.mark.equation("eq-memory-no-collapse")
def test_no_collapse_is_tight_for_many_pictures(seed):
    """A law of two values: what is lost between the two sides falls like 1/n, so that no other factor of I would do."""
    a, b, r = -1.0, 1.3, numbers(seed, 1, 0.8, 2.0)[0]
    law = (normal(LINE, a, r**2) + normal(LINE, b, r**2)) / 2
    information = float(entropy(law) - entropy(normal(LINE, 0.0, r**2)))
    gaps = []
    for n in (50, 100, 200):
        surprise = 0.0
        for k in range(1, n + 1):  # so many of the n are a; by symmetry the other half of the terms counts the b
            for own, other in ((a, b), (b, a)):
                y = own + r * NODES
                share = normal(y, own, r**2) / (k * normal(y, own, r**2) + (n - k) * normal(y, other, r**2))
                surprise -= math.comb(n, k) / 2**n * k / n * float(share.log() @ WEIGHTS)
        gaps.append(surprise - math.log(n) + information)
    assert all(gap > 0 for gap in gaps)
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.03)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.03)


def test_no_collapse_is_tight_for_many_dimensions_and_few_pictures():
    """Under strong noise the own weight is 1/n and the information 0: both sides become log n."""
    x, y, _, mass = three_draws(1.0, 40.0, 16)
    equal(-(mass * own_log_weight(x, y, 40.0)).sum(), math.log(3), rtol=1e-3)


@SEEDS
@pytest.mark.equation("eq-memory-stranger")
def test_mean_weight_of_a_stranger(seed):
    s, r = numbers(seed, 2, 0.5, 1.5)
    v = s**2 + r**2
    for y in normals(seed, 3, 2):
        left = (PLANE_WEIGHTS * torch.exp(-(y - s * PLANE).square().sum(1) / (2 * r**2))).sum()
        equal(left, (r**2 / v) ** (2 / 2) * torch.exp(-y.square().sum() / (2 * v)), rtol=1e-4)


@SEEDS
@pytest.mark.equation("eq-memory-collapsed")
def test_collapse_once_the_information_suffices(seed):
    """n = 3 and d = 1: the mean over the two strangers by quadrature, for given x_1 and ε."""
    s, r = numbers(seed, 2, 0.3, 1.5)
    v = s**2 + r**2
    information = math.log(v / r**2) / 2
    nodes, w = hermite(60)
    strangers, mass = s * torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(w, w).prod(1)
    for x1, eps in normals(seed, 6, 2).tolist():
        y = x1 + r * eps
        x = torch.cat([torch.full((len(mass), 1), x1, dtype=F64), strangers], 1)
        left = -(mass * own_log_weight(x, torch.full((len(mass),), y, dtype=F64), r)).sum()
        rest = eps**2 / 2 - y**2 / (2 * v)
        right = math.log(1 + 2 * math.exp(-information) * math.exp(rest))
        assert left <= right + 1e-9
        # In the bound only Jensen's inequality was used: with the mean inside the logarithm it is an equality.
        others = torch.exp(-((y - strangers) ** 2) / (2 * r**2)).sum(1) / math.exp(-(eps**2) / 2)
        equal(math.log(1 + float((mass * others).sum())), right, rtol=1e-4)


@SEEDS
@pytest.mark.equation("eq-memory-rest")
def test_the_rest_is_small(seed):
    """d = 2: mean and variance of the rest by quadrature over x and ε."""
    s, r = numbers(seed, 2)
    v = s**2 + r**2
    nodes, w = hermite(8)
    grid, mass = torch.cartesian_prod(*[nodes] * 4), torch.cartesian_prod(*[w] * 4).prod(1)
    y = s * grid[:, :2] + r * grid[:, 2:]
    rest = grid[:, 2:].square().sum(1) / 2 - y.square().sum(1) / (2 * v)
    equal((mass * rest).sum(), 0.0, atol=1e-10)
    equal((mass * rest.square()).sum(), 2 * s**2 / v)


@SEEDS
@pytest.mark.equation("eq-memory-collapse")
def test_collapse_ratio(seed):
    """At r_C the mutual information of jointly Gaussian x and y, by determinants, is log n."""
    s = numbers(seed, 1)[0]
    d, n = 3 + seed, 5 + 7 * seed
    r2 = s**2 / (n ** (2 / d) - 1)
    eye = torch.eye(d, dtype=F64)
    joint = torch.cat([torch.cat([s**2 * eye, s**2 * eye], 1), torch.cat([s**2 * eye, (s**2 + r2) * eye], 1)])
    information = (d * math.log(s**2) + d * math.log(s**2 + r2) - torch.logdet(joint)) / 2
    equal(information, math.log(n))


@SEEDS
@pytest.mark.equation("eq-memory-at-most")
def test_gaussians_know_most(seed):
    """Independent coordinates: a mixture of two Gaussians in each; equality where the mixture is one Gaussian."""
    r = numbers(seed, 1)[0]
    total, bound = 0.0, 0.0
    for j, spread in enumerate(numbers(seed + 9, 3)):
        shift = (0.0, 0.8, 1.5)[j]
        variance = spread**2 + shift**2
        law = (normal(LINE, shift, spread**2 + r**2) + normal(LINE, -shift, spread**2 + r**2)) / 2
        known = entropy(law) - entropy(normal(LINE, 0.0, r**2))
        most = math.log(1 + variance / r**2) / 2
        assert known <= most + 1e-6
        if shift == 0:
            equal(known, most, rtol=1e-5)
        total, bound = total + known, bound + most
    assert total < bound


# What a loss can tell


def best_of_gaussian(s, r):
    return s**2 / (s**2 + r**2)


@SEEDS
@pytest.mark.equation("eq-memory-risk")
def test_risk(seed):
    s, r = numbers(seed, 2)
    x, y = s * PLANE[:, 0], s * PLANE[:, 0] + r * PLANE[:, 1]
    f, best = torch.tanh(y - 0.3), best_of_gaussian(s, r) * y
    fresh = math.sqrt(s**2 + r**2) * NODES  # y ~ q_r
    away = (WEIGHTS * (best_of_gaussian(s, r) * fresh - torch.tanh(fresh - 0.3)) ** 2).sum()
    equal((PLANE_WEIGHTS * (x - f) ** 2).sum(), (PLANE_WEIGHTS * (x - best) ** 2).sum() + away, rtol=1e-4)


@SEEDS
@pytest.mark.equation("eq-memory-honest")
@pytest.mark.equation("eq-memory-order")
def test_order_of_the_losses(seed):
    """Training sets of three draws from N(0, s²), by quadrature over the set and the noise."""
    s, r = numbers(seed, 2, 0.4, 1.5)
    x, y, _, mass = three_draws(s, r)
    truth = s**2 * r**2 / (s**2 + r**2)  # R(D), the variance of x_0 given y
    equal((mass * (x[:, 0] - best_of_gaussian(s, r) * y) ** 2).sum(), truth)  # L(D): all rows of a set are alike
    p = (-((y[:, None] - x) ** 2) / (2 * r**2)).softmax(1)
    training = (mass * (x[:, 0] - (p * x).sum(1)) ** 2).sum()
    known, p = x[:, 1:], (-((y[:, None] - x[:, 1:]) ** 2) / (2 * r**2)).softmax(1)  # y is fresh to the other two
    fresh = (mass * (x[:, 0] - (p * known).sum(1)) ** 2).sum()
    assert training < truth < fresh


# Two time scales


def linear_case(seed):
    """Four centred points, their covariance, r and a matrix W."""
    points = normals(seed, 4, 2)
    points = points - points.mean(0)
    return points, points.T @ points / 4, numbers(seed, 1)[0], normals(seed + 5, 2, 2)


@SEEDS
@pytest.mark.equation("eq-memory-linear-loss")
@pytest.mark.equation("eq-memory-linear-flow")
def test_linear_loss_and_flow(seed):
    points, covariance, r, w = linear_case(seed)
    eye = torch.eye(2, dtype=F64)

    def average(w):
        return loss(lambda y: y @ w.T, points, r)

    equal(average(w), torch.trace((eye - w) @ covariance @ (eye - w).T) + r**2 * w.square().sum())
    equal(-torch.func.grad(average)(w) / 2, covariance - w @ (covariance + r**2 * eye))


@SEEDS
@pytest.mark.equation("eq-memory-linear-solution")
def test_linear_solution(seed):
    """The flow from W = 0 as an affine equation, solved by a matrix exponential, in the eigenvectors."""
    _, covariance, r, _ = linear_case(seed)
    eye, tau = torch.eye(2, dtype=F64), 0.8
    # d/dτ [W, I] = [W, I] [[−(Ĉ + r²), 0], [Ĉ, 0]]
    zero = torch.zeros(2, 2, dtype=F64)
    generator = torch.cat([torch.cat([-(covariance + r**2 * eye), zero], 1), torch.cat([covariance, zero], 1)])
    w = (torch.cat([zero, eye], 1) @ torch.linalg.matrix_exp(tau * generator))[:, :2]
    variances, axes = torch.linalg.eigh(covariance)
    printed = variances / (variances + r**2) * (1 - torch.exp(-(variances + r**2) * tau))
    equal(axes.T @ w @ axes, torch.diag(printed))


@SEEDS
@pytest.mark.equation("eq-memory-linear-risk")
def test_linear_risk(seed):
    """The loss on fresh data N(0, C) of W = Σ w_j u_j u_jᵀ, by quadrature over x_0 and ε."""
    _, covariance, r, _ = linear_case(seed)
    _, axes = torch.linalg.eigh(covariance)
    root = normals(seed + 8, 2, 2)
    true, w = root @ root.T, torch.tensor(numbers(seed + 2, 2), dtype=F64)
    nodes, mass = hermite(6)
    grid, mass = torch.cartesian_prod(*[nodes] * 4), torch.cartesian_prod(*[mass] * 4).prod(1)
    x = grid[:, :2] @ root.T
    made = (x + r * grid[:, 2:]) @ (axes @ torch.diag(w) @ axes.T).T
    along = torch.stack([u @ true @ u for u in axes.T])
    equal((mass * (x - made).square().sum(1)).sum(), ((1 - w) ** 2 * along + r**2 * w**2).sum())


def feature_case(seed):
    """Five pairs with three-dimensional targets, features (5, 7), parameters (7, 3)."""
    return normals(seed, 5, 7), normals(seed + 1, 5, 3), normals(seed + 2, 7, 3)


@SEEDS
@pytest.mark.equation("eq-memory-residuals")
def test_residuals(seed):
    features, targets, theta = feature_case(seed)

    def average(theta):
        return (targets - features @ theta).square().sum() / (2 * 5)

    velocity = -torch.func.grad(average)(theta)  # dθ/dτ
    left = torch.func.jvp(lambda theta: targets - features @ theta, (theta,), (velocity,))[1]
    kernel = torch.stack([torch.stack([a @ b for b in features]) for a in features])
    equal(left, -kernel @ (targets - features @ theta) / 5)


@SEEDS
@pytest.mark.equation("eq-memory-modes")
def test_modes(seed):
    """Many small steps of gradient descent on the parameters, against the sum over modes."""
    features, targets, theta = feature_case(seed)
    kernel, start = features @ features.T, targets - features @ theta
    tau, count = 0.5, 2**14
    shrink = torch.eye(7, dtype=F64) - tau / count * features.T @ features / 5
    push = tau / count * features.T @ targets / 5
    for _ in range(count):
        theta = shrink @ theta + push
    values, vectors = torch.linalg.eigh(kernel)
    printed = sum(
        torch.exp(-value * tau / 5) * torch.outer(v, v) @ start for value, v in zip(values, vectors.T, strict=True)
    )
    equal(targets - features @ theta, printed, rtol=1e-3, atol=1e-3)


@SEEDS
@pytest.mark.equation("eq-memory-shift")
def test_private_features_shift_the_spectrum(seed):
    shared, gamma, n = normals(seed, 6, 3), numbers(seed, 1)[0], 6
    features = torch.cat([shared, math.sqrt(gamma) * torch.eye(n, dtype=F64)], 1)
    left = torch.linalg.svdvals(features).square().flip(0) / n
    equal(left, torch.linalg.eigvalsh(shared @ shared.T) / n + gamma / n)


def rectified(a, b, count=200_001):
    """E_w max(w·a, 0) max(w·b, 0) for a, b in the plane: E|w|² = 2 times the mean over directions."""
    phi = torch.linspace(0, 2 * math.pi, count, dtype=F64)[:-1]
    w = torch.stack([phi.cos(), phi.sin()], 1)
    return 2 * ((w @ a).clamp(min=0) * (w @ b).clamp(min=0)).mean()


@SEEDS
@pytest.mark.equation("eq-memory-rectified")
def test_rectified_kernel(seed):
    a, b = normals(seed, 2, 2)
    theta = torch.arccos(a @ b / (a.norm() * b.norm()))
    printed = a.norm() * b.norm() / (2 * math.pi) * (theta.sin() + (math.pi - theta) * theta.cos())
    equal(rectified(a, b), printed, rtol=1e-7, atol=1e-8)


@pytest.mark.equation("eq-memory-linearised")
def test_linearised_kernel():
    """Values at nearly orthogonal and at equal unit vectors, from the directions of w."""

    def h(u):
        theta = math.acos(u)
        return float(
            rectified(torch.tensor([1.0, 0.0]).double(), torch.tensor([math.cos(theta), math.sin(theta)]).double())
        )

    equal(h(0.0), 1 / (2 * math.pi), rtol=1e-6)
    equal(h(1.0), 1 / 2, rtol=1e-6)
    gaps = [abs(h(u) - 1 / (2 * math.pi) - u / 4) for u in (0.2, 0.1, 0.05)]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.05)  # what is left is of second order
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.05)


# What keeps a network from copying


@SEEDS
@pytest.mark.equation("eq-memory-local")
def test_local(seed):
    """Three pixels of which the window of the middle one holds two: average the copier over the pixel not seen."""
    points, r = normals(seed, 4, 3), numbers(seed, 1, 0.5, 1.2)[0]
    for seen in normals(seed + 1, 3, 2):
        y = torch.cat([seen.expand(len(LINE), 2), LINE[:, None]], 1)
        density = torch.stack([normal(y, x, r**2).prod(1) for x in points]).mean(0)
        left = integral(density * copier(y, points, r)[:, 1]) / integral(density)
        w = torch.stack([torch.exp(-(seen - x[:2]).square().sum() / (2 * r**2)) for x in points])
        equal(left, (w / w.sum() * points[:, 1]).sum())


def ring_windows(signals):
    """(…, d, 3): each sample with its two neighbours on a ring."""
    return torch.stack([signals.roll(1, -1), signals, signals.roll(-1, -1)], -1)


@SEEDS
@pytest.mark.equation("eq-memory-anywhere")
def test_anywhere(seed):
    """One rule for all places of a ring is a regression on all windows: least squares at a given window."""
    points, r = normals(seed, 3, 5), numbers(seed, 1)[0]
    known = ring_windows(points)
    for window in normals(seed + 1, 3, 3):
        likelihood = normal(window, known, r**2).prod(-1)  # of each picture and place, all equally likely before
        root = likelihood.flatten().sqrt()[:, None]
        left = torch.linalg.lstsq(root, root * points.flatten()[:, None]).solution[0, 0]
        w = {(i, q): torch.exp(-(window - known[i, q]).square().sum() / (2 * r**2)) for i in range(3) for q in range(5)}
        equal(left, sum(w[i, q] * points[i, q] for i, q in w) / sum(w.values()))


@SEEDS
@pytest.mark.equation("eq-memory-nested")
def test_nested(seed):
    """A ring of two pixels, windows of one: the three losses by quadrature."""
    points, r = normals(seed, 3, 2), numbers(seed, 1)[0]

    def local(y):
        return torch.stack([(weights(y[..., p, None], points[:, p, None], r) @ points[:, p]) for p in (0, 1)], -1)

    def anywhere(y):
        pooled = points.flatten()[:, None]
        return torch.stack([(weights(y[..., p, None], pooled, r) @ pooled)[..., 0] for p in (0, 1)], -1)

    least, middle, most = (loss(f, points, r) for f in (lambda y: copier(y, points, r), local, anywhere))
    assert least < middle < most


# Twins


@SEEDS
@pytest.mark.equation("eq-memory-twins")
@pytest.mark.equation("eq-memory-parts")
@pytest.mark.equation("eq-memory-bias")
def test_twins(seed):
    """Trainings with four possible outcomes, enumerated in pairs."""
    outcomes, truth = normals(seed, 4, 3), normals(seed + 1, 3)
    chance = torch.rand(4, generator=gen(seed), dtype=F64)
    chance = chance / chance.sum()
    average = chance @ outcomes

    def expected(value):
        pairs = itertools.product(range(4), repeat=2)
        return sum(chance[i] * chance[j] * value(outcomes[i], outcomes[j]) for i, j in pairs)

    apart = expected(lambda a, b: (a - b).square().sum())
    bias = (average - truth).square().sum()
    equal(apart, 2 * expected(lambda a, b: (a - average).square().sum()))
    equal(expected(lambda a, b: (a - truth).square().sum()), apart / 2 + bias)
    equal(expected(lambda a, b: (a - truth) @ (b - truth)), bias)
