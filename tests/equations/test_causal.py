"""Every equation of *CausalVAE*: both sides as printed, evaluated independently.

Graphs are random and their variables shuffled; paths and closed walks are enumerated, densities of one variable are
integrated on a grid, and laws of several Gaussian variables come from conditioning or from torch's distributions.
"""

import itertools
import math

import pytest
import torch
from sides import F64, LINE, SEEDS, equal, gen, hermite, integral, normal, normals, numbers
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from minidiff.families import causal_graph
from minidiff.families.causal_vae import CausalVAE

EYE = torch.eye(5, dtype=F64)


def graph(seed, n=5, order=None):
    """Random weights on a random acyclic graph whose variables are shuffled."""
    draw = gen(seed)
    A = torch.triu(torch.randn(n, n, generator=draw, dtype=F64), 1)
    A = A * (torch.rand(n, n, generator=draw) < 0.7)
    order = torch.randperm(n, generator=draw) if order is None else order
    return A[order][:, order]


def by_assignment(A, eps, do=()):
    """z from its assignments: repeated until nothing changes, as information flows down the arrows. eps (B, n)."""
    do, z = dict(do), torch.zeros_like(eps)
    for _ in range(len(A)):
        new = eps.clone()
        for j in range(len(A)):
            for i in range(len(A)):
                new[:, j] += A[i, j] * z[:, i]
        for i, v in do.items():
            new[:, i] = v
        z = new
    return z


def effects(A):
    """C, column by column: the assignments with one noise 1 and all others 0."""
    return by_assignment(A, torch.eye(len(A), dtype=F64)).mT


def paths(A, i, j):
    """Σ over all simple paths from i to j of the product of the weights, by enumeration."""
    n, total = len(A), 1.0 if i == j else 0.0
    between = [v for v in range(n) if v not in (i, j)]
    if i != j:
        for length in range(n - 1):
            for inner in itertools.permutations(between, length):
                walk = (i, *inner, j)
                total += math.prod(float(A[s, t]) for s, t in itertools.pairwise(walk))
    return total


def conditioned(covariance, on, value, of):
    """Mean and covariance of the variables `of` given that those of `on` have the value, for a centred Gaussian."""
    gain = covariance[of][:, on] @ torch.linalg.inv(covariance[on][:, on])
    return gain @ value, covariance[of][:, of] - gain @ covariance[on][:, of]


# Structural causal models


@SEEDS
@pytest.mark.equation("eq-causal-solution")
def test_solution(seed):
    A, eps = graph(seed), normals(seed, 7, 5)
    z = by_assignment(A, eps)
    equal(z, z @ A + eps)  # rows are samples: (Aᵀ z)ᵀ = zᵀ A
    equal(z.mT, torch.linalg.inv(EYE - A.mT) @ eps.mT)
    equal(z.mT, effects(A) @ eps.mT)


@SEEDS
@pytest.mark.equation("eq-causal-walks")
def test_walks(seed):
    A, n = normals(seed, 4, 4), 4
    for k in (1, 2, 3, 4):
        power = torch.linalg.matrix_power(A, k)
        for i, j in itertools.product(range(n), repeat=2):
            walks = ((i, *inner, j) for inner in itertools.product(range(n), repeat=k - 1))
            equal(power[i, j], sum(math.prod(float(A[s, t]) for s, t in itertools.pairwise(w)) for w in walks))


@SEEDS
@pytest.mark.equation("eq-causal-neumann")
def test_the_series_ends(seed):
    A = graph(seed)
    series = sum(torch.linalg.matrix_power(A.mT, k) for k in range(5))
    equal(effects(A), torch.linalg.inv(EYE - A.mT))
    equal(torch.linalg.inv(EYE - A.mT), series)
    for i, j in itertools.product(range(5), repeat=2):
        equal(series[j, i], paths(A, i, j))  # the rule of paths, in the text below


@SEEDS
@pytest.mark.equation("eq-causal-det")
def test_determinants(seed):
    A = graph(seed)
    equal(torch.linalg.det(EYE - A.mT), 1.0)
    equal(torch.linalg.det(effects(A)), 1.0)


@SEEDS
@pytest.mark.equation("eq-causal-covariance")
def test_covariance(seed):
    A, omega = graph(seed), torch.tensor(numbers(seed, 5), dtype=F64)
    draws = by_assignment(A, torch.diag(omega.sqrt()))  # rows: one noise at a time, at its standard deviation
    covariance = draws.mT @ draws
    equal(covariance, effects(A) @ torch.diag(omega) @ effects(A).mT)
    equal(torch.linalg.inv(covariance), (EYE - A) @ torch.diag(1 / omega) @ (EYE - A.mT))


# The penalty of cycles


def closed_walks(A, k):
    n, total = len(A), 0.0
    for walk in itertools.product(range(n), repeat=k):
        total += math.prod(float(A[s, t]) ** 2 for s, t in itertools.pairwise((*walk, walk[0])))
    return total


@SEEDS
@pytest.mark.equation("eq-causal-closed")
def test_closed_walks(seed):
    A = normals(seed, 4, 4)
    for k in (1, 2, 3, 4):
        trace = torch.linalg.matrix_power(A * A, k).trace()
        equal(trace, closed_walks(A, k))
        assert trace >= 0


@SEEDS
@pytest.mark.equation("eq-causal-exponential")
def test_exponential(seed):
    A = normals(seed, 4, 4) / 2
    series = sum(torch.linalg.matrix_power(A * A, k).trace() / float(math.factorial(k)) for k in range(1, 40))
    equal(torch.linalg.matrix_exp(A * A).trace() - 4, series)


@SEEDS
@pytest.mark.equation("eq-causal-acyclicity")
def test_polynomial(seed):
    A, (c,) = normals(seed, 4, 4), numbers(seed, 1)
    closed = torch.linalg.matrix_power(torch.eye(4, dtype=F64) + c / 4 * A * A, 4).trace() - 4
    equal(causal_graph.acyclicity(A, c), closed)
    equal(closed, sum(math.comb(4, k) * (c / 4) ** k * closed_walks(A, k) for k in range(1, 5)))


@pytest.mark.equation("eq-causal-dag")
def test_zero_on_acyclic_graphs_only():
    """All 64 graphs of three variables, and random ones of five: a graph is acyclic iff it can be sorted."""
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    for present in itertools.product((0.0, 0.4), repeat=6):
        A = torch.zeros(3, 3, dtype=F64)
        for (i, j), weight in zip(pairs, present, strict=True):
            A[i, j] = weight
        orders = itertools.permutations(range(3))
        sortable = any(bool((torch.tril(A[list(o)][:, list(o)]) == 0).all()) for o in orders)
        assert (float(causal_graph.acyclicity(A)) == 0) == sortable
        assert (abs(float(torch.linalg.matrix_exp(A * A).trace()) - 3) < 1e-12) == sortable
    for seed in range(10):
        A = graph(seed)
        equal(causal_graph.acyclicity(A), 0.0)
        i, j = (A != 0).nonzero()[0].tolist()
        A[j, i] = 0.1
        assert causal_graph.acyclicity(A) > 1e-6


@SEEDS
@pytest.mark.equation("eq-causal-slope")
def test_slope_of_the_penalty(seed):
    A, (c,) = normals(seed, 4, 4).requires_grad_(), numbers(seed, 1)
    h = torch.linalg.matrix_power(torch.eye(4, dtype=F64) + c / 4 * A * A, 4).trace() - 4
    (slope,) = torch.autograd.grad(h, A)
    bracket = torch.linalg.matrix_power(torch.eye(4, dtype=F64) + c / 4 * A * A, 3)
    equal(slope, (2 * c * bracket.mT * A).detach())
    tree = graph(seed).requires_grad_()
    (flat,) = torch.autograd.grad(causal_graph.acyclicity(tree), tree)
    equal(flat, torch.zeros(5, 5))  # on a DAG nothing pulls


# Which graphs can be found


@SEEDS
@pytest.mark.equation("eq-causal-reverse")
def test_the_arrow_turned_round(seed):
    a, w1, w2 = numbers(seed, 3)
    variance = a**2 * w1 + w2
    covariance = torch.tensor([[w1, a * w1], [a * w1, variance]], dtype=F64)
    mean, rest = conditioned(covariance, [1], torch.ones(1, dtype=F64), [0])
    equal(a * w1 / variance, mean[0])
    equal(w1 * w2 / variance, rest[0, 0])


@SEEDS
@pytest.mark.equation("eq-causal-residual")
def test_residual(seed):
    A, A0, omega = normals(seed, 5, 5), graph(seed), torch.tensor(numbers(seed, 5), dtype=F64)
    draws = by_assignment(A0, torch.diag(omega.sqrt()))
    covariance = draws.mT @ draws
    left = sum((z - A.mT @ z).square().sum() for z in draws)
    equal(left, ((EYE - A.mT) @ covariance @ (EYE - A)).trace())


@SEEDS
@pytest.mark.equation("eq-causal-frobenius")
@pytest.mark.equation("eq-causal-amgm")
def test_no_graph_beats_the_truth(seed):
    A, A0, (omega,) = graph(seed + 20), graph(seed), numbers(seed, 1)
    C0 = effects(A0)
    covariance = omega * C0 @ C0.mT
    M = (EYE - A.mT) @ C0
    equal(((EYE - A.mT) @ covariance @ (EYE - A)).trace(), omega * M.square().sum())
    equal(torch.linalg.det(M), 1.0)
    values = torch.linalg.svdvals(M)
    middle = 5 * values.square().prod() ** (1 / 5)
    equal(M.square().sum(), values.square().sum())
    assert values.square().sum() >= middle - 1e-9
    equal(middle, 5 * torch.linalg.det(M).abs() ** (2 / 5))
    equal(middle, 5.0)
    equal(((EYE - A0.mT) @ covariance @ (EYE - A0)).trace(), 5 * omega)  # the truth attains it


@SEEDS
@pytest.mark.equation("eq-causal-variance")
def test_variance(seed):
    A, (omega,) = graph(seed), numbers(seed, 1)
    C, draws = effects(A), by_assignment(A, math.sqrt(omega) * EYE)
    for j in range(5):
        inherited = sum(float(C[j, i]) ** 2 for i in range(5) if i != j)
        equal(draws[:, j].square().sum(), omega * (1 + inherited))


@SEEDS
@pytest.mark.equation("eq-causal-remaining")
def test_variance_that_remains(seed):
    """Causal order 0…4: every beginning of it contains the causes of its members."""
    A, (omega,) = graph(seed, order=torch.arange(5)), numbers(seed, 1)
    C = effects(A)
    covariance = omega * torch.linalg.inv((EYE - A) @ (EYE - A.mT))
    for size in (1, 2, 3, 4):
        S = list(range(size))
        for j in range(size, 5):
            _, rest = conditioned(covariance, S, torch.zeros(size, dtype=F64), [j])
            equal(rest[0, 0], omega * (1 + sum(float(C[j, i]) ** 2 for i in range(size, 5) if i != j)))


@SEEDS
@pytest.mark.equation("eq-causal-direction")
def test_which_direction_fits_better(seed):
    a, w1, w2 = numbers(seed, 3)
    covariance = torch.tensor([[w1, a * w1], [a * w1, a**2 * w1 + w2]], dtype=F64)
    eye, variance = torch.eye(2, dtype=F64), float(covariance[1, 1])

    def residual(arrow):
        b = float(covariance[0, 1] / covariance[arrow[0], arrow[0]])  # the regression, fitted anew
        A = torch.zeros(2, 2, dtype=F64)
        A[arrow] = b
        return float(((eye - A.mT) @ covariance @ (eye - A)).trace())

    difference = residual((1, 0)) - residual((0, 1))
    middle = variance + w1 * w2 / variance - w1 - w2
    equal(difference, middle)
    equal(middle, (variance - w1) * (variance - w2) / variance)


# Seeing and doing


def triangle(seed):
    a, b, c, w1, w2, w3 = (x * s for x, s in zip(numbers(seed, 6), (1, -1, 1, 1, 1, 1), strict=True))
    A = torch.tensor([[0, a, b], [0, 0, c], [0, 0, 0]], dtype=F64)
    C = effects(A)
    return (a, b, c, w1, w2, w3), A, C @ torch.diag(torch.tensor([w1, w2, w3], dtype=F64)) @ C.mT


@SEEDS
@pytest.mark.equation("eq-causal-seeing")
def test_seeing(seed):
    (a, b, c, w1, w2, _), _, covariance = triangle(seed)
    v = normals(seed, 1)
    mean, _ = conditioned(covariance, [1], v, [2])
    equal(mean, (c + a * b * w1 / (a**2 * w1 + w2)) * v)


@SEEDS
@pytest.mark.equation("eq-causal-doing")
def test_doing(seed):
    """The replaced factorisation p(z_1) p(z_3 | z_1, v), integrated over z_1 by quadrature."""
    (_, b, c, w1, _, w3), _, _ = triangle(seed)
    v, (nodes, weights) = float(normals(seed, 1)), hermite(20)
    means = b * math.sqrt(w1) * nodes + c * v  # of z_3 given z_1 and v
    mean = (weights * means).sum()
    equal(mean, c * v)
    equal((weights * (w3 + means**2)).sum() - mean**2, b**2 * w1 + w3)


@SEEDS
@pytest.mark.equation("eq-causal-adjust")
def test_adjustment(seed):
    """Left: the law of z_3 in the cut model. Right: seeing, given z_1 and z_2, averaged over z_1."""
    (_, _, _, w1, _, w3), A, covariance = triangle(seed)
    v, cut = float(normals(seed, 1)), A.clone()
    cut[:, 1] = 0
    C = effects(cut)
    variance = C[2, 0] ** 2 * w1 + w3
    z3, z1 = torch.linspace(-3, 3, 7, dtype=F64), LINE[::10]
    gain = covariance[2, :2] @ torch.linalg.inv(covariance[:2, :2])
    rest = covariance[2, 2] - gain @ covariance[:2, 2]
    given = normal(z3[:, None], gain[0] * z1 + gain[1] * v, rest)
    right = integral(given * normal(z1, 0.0, covariance[0, 0]), z1)
    equal(normal(z3, C[2, 1] * v, variance), right)


@SEEDS
@pytest.mark.equation("eq-causal-counterfactual")
def test_counterfactual(seed):
    A, eps, v = graph(seed), normals(seed, 6, 5), 1.7
    z, C = by_assignment(A, eps), effects(A)
    for i in range(5):
        world = by_assignment(A, (EYE - A.mT).matmul(z.mT).mT, {i: v}.items())  # abduction, action, prediction
        cut = A.clone()
        cut[:, i] = 0
        e = EYE[i]
        middle = torch.linalg.inv(EYE - cut.mT) @ (eps + (v - eps[:, i, None]) * e).mT
        equal(world.mT, middle)
        equal(middle, z.mT + C[:, i, None] * (v - z[:, i]))
        equal(causal_graph.intervene(A, z, {i: v}), world)


@SEEDS
@pytest.mark.equation("eq-causal-population")
def test_population(seed):
    A, omega, v = graph(seed), torch.tensor(numbers(seed, 5), dtype=F64), 0.8
    C = effects(A)
    covariance = C @ torch.diag(omega) @ C.mT
    for i in range(5):
        linear = EYE - torch.outer(C[:, i], EYE[i])  # z′ = linear z + v C_·i, the counterfactual of each
        cut, left = A.clone(), omega.clone()
        cut[:, i], left[i] = 0, 0
        Ci = effects(cut)
        equal(by_assignment(cut, torch.zeros(1, 5, dtype=F64), {i: v}.items())[0], v * C[:, i])
        equal(linear @ covariance @ linear.mT, Ci @ torch.diag(left) @ Ci.mT)


# Labels and the bound


@SEEDS
@pytest.mark.equation("eq-causal-rotation")
def test_rotation(seed):
    W, x, (s,) = normals(seed, 4, 3), normals(seed + 9, 4), numbers(seed, 1)
    Q = torch.linalg.qr(normals(seed + 5, 3, 3)).Q
    eye = torch.eye(4, dtype=F64)
    # p(x) from the joint law of (z, x): condition and multiply, log p(x|z) + log p(z) − log p(z|x) at any z
    z = normals(seed + 3, 3)
    posterior = torch.linalg.inv(torch.eye(3, dtype=F64) + W.mT @ W / s**2)
    joint = MultivariateNormal(W @ z, s**2 * eye).log_prob(x) + Normal(0.0, 1.0).log_prob(z).sum()
    left = joint - MultivariateNormal(posterior @ W.mT @ x / s**2, posterior).log_prob(z)
    zero = torch.zeros(4, dtype=F64)
    equal(left, MultivariateNormal(zero, W @ W.mT + s**2 * eye).log_prob(x))
    equal(left, MultivariateNormal(zero, (W @ Q) @ (W @ Q).mT + s**2 * eye).log_prob(x))
    assert not torch.allclose(W, W @ Q)


@SEEDS
@pytest.mark.equation("eq-causal-labelled")
def test_labels_fix_the_decoder(seed):
    W, u, x = normals(seed, 4, 3), normals(seed + 1, 3), normals(seed + 2, 4)
    kappa, s = numbers(seed, 2)
    eye, z = torch.eye(4, dtype=F64), normals(seed + 3, 3)
    posterior = torch.linalg.inv(torch.eye(3, dtype=F64) / kappa**2 + W.mT @ W / s**2)
    mean = posterior @ (u / kappa**2 + W.mT @ x / s**2)
    joint = MultivariateNormal(W @ z, s**2 * eye).log_prob(x) + Normal(u, kappa).log_prob(z).sum()
    left = joint - MultivariateNormal(mean, posterior).log_prob(z)
    equal(left, MultivariateNormal(W @ u, kappa**2 * W @ W.mT + s**2 * eye).log_prob(x))
    half = normals(seed + 4, 40, 3)
    labels = half + 0.3  # a population of labels; z and x have mean u and W u given each
    moment = (labels @ W.mT).mT @ labels
    equal(moment @ torch.linalg.inv(labels.mT @ labels), W)


class LinearModel:
    """x = W m + s ξ with m = z = C ε, and a Gaussian encoder: everything about it is a Gaussian."""

    def __init__(self, seed):
        self.A, self.W = graph(seed, 3), normals(seed, 4, 3)
        self.C, eye = effects(self.A), torch.eye(3, dtype=F64)
        self.kappa, self.s = numbers(seed, 2)
        self.mean, self.u, self.x = normals(seed + 1, 3), normals(seed + 2, 3), normals(seed + 3, 4)
        self.std = torch.tensor(numbers(seed + 4, 3), dtype=F64)
        self.q_eps = MultivariateNormal(self.mean, torch.diag(self.std**2))
        self.q_z = MultivariateNormal(self.C @ self.mean, self.C @ torch.diag(self.std**2) @ self.C.mT)
        self.p_eps = MultivariateNormal(torch.zeros(3, dtype=F64), eye)
        self.p_z = MultivariateNormal(self.u, self.kappa**2 * eye)
        precision = eye / self.kappa**2 + self.W.mT @ self.W / self.s**2
        centre = torch.linalg.solve(precision, self.u / self.kappa**2 + self.W.mT @ self.x / self.s**2)
        self.posterior = MultivariateNormal(centre, torch.linalg.inv(precision))
        cloud = self.kappa**2 * self.W @ self.W.mT + self.s**2 * torch.eye(4, dtype=F64)
        self.evidence = MultivariateNormal(self.W @ self.u, cloud).log_prob(self.x)
        spread = (self.W @ self.q_z.covariance_matrix @ self.W.mT).trace()
        error = (self.x - self.W @ self.q_z.mean).square().sum() + spread  # E_q|x − W z|²
        self.expected = -error / (2 * self.s**2) - 2 * math.log(2 * math.pi * self.s**2)


@SEEDS
@pytest.mark.equation("eq-causal-gap")
@pytest.mark.equation("eq-causal-bound")
def test_bound_and_its_gap(seed):
    m = LinearModel(seed)
    right = m.expected - kl_divergence(m.q_z, m.p_z) + kl_divergence(m.q_z, m.posterior)
    equal(m.evidence, right)
    bound = m.expected - kl_divergence(m.q_eps, m.p_eps) - kl_divergence(m.q_z, m.p_z)
    assert bound <= m.evidence
    cloud = m.W @ m.C @ m.C.mT @ m.W.mT + m.s**2 * torch.eye(4, dtype=F64)
    assert bound <= MultivariateNormal(torch.zeros(4, dtype=F64), cloud).log_prob(m.x)  # the other model, in the text


@SEEDS
@pytest.mark.equation("eq-causal-kl")
def test_divergence_of_the_concepts(seed):
    m = LinearModel(seed)
    total = 0.0
    for j in range(3):
        total += sum(float(m.C[j, i]) ** 2 * float(m.std[i]) ** 2 for i in range(3))
        total += float(m.C[j] @ m.mean - m.u[j]) ** 2
    right = total / (2 * m.kappa**2) - 3 / 2 - float(m.std.log().sum()) + 3 * math.log(m.kappa)
    equal(kl_divergence(m.q_z, m.p_z), right)


@SEEDS
@pytest.mark.equation("eq-causal-twice")
def test_the_entropy_is_counted_twice(seed):
    m = LinearModel(seed)
    equal(m.q_eps.entropy(), m.q_z.entropy())
    H = float((m.std.log() + math.log(2 * math.pi * math.e) / 2).sum())
    of_noise = -(m.mean.square() + m.std.square()).sum() / 2 - 3 / 2 * math.log(2 * math.pi)  # E_q log p(ε)
    squares = (m.q_z.mean - m.u).square().sum() + m.q_z.covariance_matrix.trace()
    of_concepts = -squares / (2 * m.kappa**2) - 3 / 2 * math.log(2 * math.pi * m.kappa**2)
    equal(kl_divergence(m.q_eps, m.p_eps) + kl_divergence(m.q_z, m.p_z), -2 * H - of_noise - of_concepts)


@SEEDS
@pytest.mark.equation("eq-causal-temperature")
def test_temperature(seed):
    low, high, (k,) = numbers(seed, 1), numbers(seed + 1, 2, 0.8, 2.0), numbers(seed + 2, 1, 0.5, 2.5)
    # Flat enough not to underflow at the ends of the line, and no Gaussian.
    f = torch.exp(-high[0] * LINE**2 / 4 + low[0] * torch.cos(LINE) + 0.3 * LINE)
    q = normal(LINE, 0.4, high[1])
    left = -integral(q * f.log()) + k * integral(q * q.log())
    Z = integral(f ** (1 / k))
    divergence = integral(q * (q.log() - (f ** (1 / k) / Z).log()))
    assert left.isfinite() and divergence > 0
    equal(left, k * divergence - k * Z.log(), rtol=1e-8)
    # A Gaussian f, as in the text: the best q has k times its variance.
    f = normal(LINE, 0.2, high[1])
    equal(f ** (1 / k) / integral(f ** (1 / k)), normal(LINE, 0.2, k * high[1]))


@SEEDS
@pytest.mark.equation("eq-causal-mask")
def test_mask(seed):
    """The package's mask layer, called on the solution of the model."""
    A, eps = graph(seed, 4), normals(seed, 6, 4)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CausalVAE(4, shape=(1, 2, 2), width=8).double()
    z = by_assignment(A, eps)
    left = z - model.masked(z, eps, A)
    for j in range(4):
        own = model.mechanisms[j](A[:, j] * z)[:, 0]
        equal(left[:, j].detach(), ((A.mT @ z.mT)[j] - own).detach())


# Why the arrows come out too weak


def width_cost(C, J, s, k):
    noise = sum(float(J[j]) * float(C[j, i]) ** 2 * s[i] ** 2 for i in range(len(J)) for j in range(len(J)))
    return noise / 2 - k * s.log().sum()


@SEEDS
@pytest.mark.equation("eq-causal-price")
@pytest.mark.equation("eq-causal-hadamard")
def test_price_of_the_widths(seed):
    C, J, (k,) = effects(graph(seed)), torch.tensor(numbers(seed, 5, 1, 30), dtype=F64), numbers(seed, 1)
    diagonal = (C.mT @ torch.diag(J) @ C).diagonal()
    best = (k / diagonal).sqrt().log().requires_grad_()  # K is convex in log s, so a zero slope is the minimum
    cost = width_cost(C, J, best.exp(), k)
    (slope,) = torch.autograd.grad(cost, best)
    equal(slope, torch.zeros(5))
    equal(cost.detach(), k / 2 * diagonal.log().sum() + k * 5 / 2 * (1 - math.log(k)))
    for shift in 0.3 * normals(seed + 1, 10, 5):
        assert width_cost(C, J, (best.detach() + shift).exp(), k) > cost
    determinant = torch.linalg.slogdet(C.mT @ torch.diag(J) @ C).logabsdet
    assert diagonal.log().sum() > determinant + 1e-6
    equal(determinant, J.log().sum())


@SEEDS
@pytest.mark.equation("eq-causal-balance")
def test_balance(seed):
    """The slope of the loss in one arrow, by automatic differentiation, is the difference of the two sides."""
    beta, variance, a0, J1, J2, k = numbers(seed, 6)
    a = torch.tensor(0.6 * a0, dtype=F64, requires_grad=True)
    u2 = a0**2 * variance + 0.5
    squares = u2 - 2 * a * a0 * variance + a**2 * variance  # E(u_2 − a u_1)²
    C = torch.stack([torch.tensor([1.0, 0.0], dtype=F64), torch.stack([a, torch.ones((), dtype=F64)])])
    J = torch.diag(torch.tensor([J1, J2], dtype=F64))
    price = k / 2 * (C.mT @ J @ C).diagonal().log().sum()
    (slope,) = torch.autograd.grad(beta * squares + squares / 2 + price, a)
    with torch.no_grad():
        equal(-slope, (2 * beta + 1) * variance * (a0 - a) - k * a * J2 / (J1 + a**2 * J2))
