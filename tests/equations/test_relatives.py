"""Every equation of *Five relatives*: both sides as printed, evaluated independently.

Distributions are tables wherever a sum can stand for an integral; densities of one variable live on a grid.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from odes import rk4
from sides import F64, LINE, SEEDS, equal, gen, integral, normal, normals, numbers
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.func import hessian, jacrev, vmap

from minidiff.analytic import GaussianMixture
from minidiff.families.autoregressive import Autoregressive
from minidiff.process import LinearVP


def table(seed, *shape, over=None):
    """Random probabilities that sum to one over all axes, or over the last `over`."""
    logits = normals(seed, *shape)
    if over is None:
        return logits.flatten().softmax(0).reshape(shape)
    return logits.flatten(-over).softmax(-1).reshape(shape)


def kl(p, q):
    return (p * (p / q).log()).sum()


def jensen_shannon(p, q):
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def softplus(x):
    return torch.log1p(torch.exp(x))


@SEEDS
@pytest.mark.equation("eq-relatives-mle")
def test_likelihood_is_a_divergence(seed):
    p, model = table(seed, 12), table(seed + 10, 12)
    equal(-(p * model.log()).sum(), -(p * p.log()).sum() + kl(p, model))


# The variational autoencoder


class Linear:
    """x = W z + s n."""

    def __init__(self, seed, d=5, k=3):
        self.W, self.x, self.m = normals(seed, d, k), normals(seed + 1, d), normals(seed + 2, k)
        (self.s,), self.v = numbers(seed, 1, 0.4, 1.2), torch.tensor(numbers(seed + 3, k), dtype=F64)
        self.M = torch.eye(k, dtype=F64) + self.W.T @ self.W / self.s**2

    def log_prob(self, x):
        """From the covariance of x, no latent variable."""
        covariance = self.W @ self.W.T + self.s**2 * torch.eye(len(x), dtype=F64)
        return MultivariateNormal(torch.zeros(len(x), dtype=F64), covariance).log_prob(x)

    def elbo(self, m, v):
        """E_q log p(x | z) − KL(q ‖ N(0, I)) for q = N(m, diag v), term by term."""
        error = (self.x - self.W @ m).square().sum() + (self.W.square().sum(0) * v).sum()
        d = len(self.x)
        reconstruction = -error / (2 * self.s**2) - d / 2 * math.log(2 * math.pi * self.s**2)
        return reconstruction - kl_divergence(Normal(m, v.sqrt()), Normal(torch.zeros_like(m), 1.0)).sum()

    def gap(self, W):
        M = torch.eye(W.shape[1], dtype=F64) + W.T @ W / self.s**2
        return (M.diagonal().log().sum() - torch.logdet(M)) / 2


@SEEDS
@pytest.mark.equation("eq-relatives-linear-likelihood")
def test_likelihood_of_the_linear_model(seed):
    model = Linear(seed)
    x, W, M, s, d = model.x, model.W, model.M, model.s, len(model.x)
    constant = d * math.log(2 * math.pi * s**2) + torch.logdet(M)
    quadratic = x @ x / s**2 - x @ W @ torch.linalg.solve(M, W.T @ x) / s**4
    equal(model.log_prob(x), -(constant + quadratic) / 2)


@SEEDS
@pytest.mark.equation("eq-relatives-linear-elbo")
def test_elbo_of_the_linear_model(seed):
    model = Linear(seed)
    mu = torch.linalg.solve(model.M, model.W.T @ model.x) / model.s**2
    off, v, M = model.m - mu, model.v, model.M
    right = (M.diagonal() * v).sum() - len(v) - torch.logdet(M) - v.log().sum() + off @ M @ off
    equal(model.log_prob(model.x) - model.elbo(model.m, v), right / 2)


@SEEDS
@pytest.mark.equation("eq-relatives-gap")
def test_gap_of_the_best_diagonal_encoder(seed):
    model = Linear(seed)
    mu, best = torch.linalg.solve(model.M, model.W.T @ model.x) / model.s**2, 1 / model.M.diagonal()
    left = model.log_prob(model.x) - model.elbo(mu, best)
    equal(left, (model.M.diagonal().log().sum() - torch.logdet(model.M)) / 2)
    for k in range(10):  # and it is the least
        m, v = mu + 0.1 * normals(k, 3), best * (0.2 * normals(k + 50, 3)).exp()
        assert model.log_prob(model.x) - model.elbo(m, v) > left > 0


@SEEDS
@pytest.mark.equation("eq-relatives-rotation")
def test_a_rotation_is_free(seed):
    model = Linear(seed)
    values, R = torch.linalg.eigh(model.W.T @ model.W)
    turned = model.W @ R
    equal(turned @ turned.T, model.W @ model.W.T)
    equal(turned.T @ turned, torch.diag(values))
    equal(model.gap(turned), 0.0)
    assert model.gap(model.W) > 1e-3


@SEEDS
@pytest.mark.equation("eq-relatives-joint")
def test_where_a_chain_pays(seed):
    """Tables of three states: q(x_0) and three forward kernels; a model with its own prior and reverse kernels."""
    start, forward = table(seed, 3), table(seed + 1, 3, 3, 3, over=1)
    prior, reverse = table(seed + 2, 3), table(seed + 3, 3, 3, 3, over=1)  # reverse[n][x_n, x_{n−1}]
    q = torch.einsum("a,ab,bc,cd->abcd", start, *forward)
    p = torch.einsum("d,dc,cb,ba->abcd", prior, reverse[2], reverse[1], reverse[0])
    q0, p0 = q.sum((1, 2, 3)), p.sum((1, 2, 3))
    given_q, given_p = q / q0[:, None, None, None], p / p0[:, None, None, None]
    left = kl(q0, p0) + sum(q0[i] * kl(given_q[i], given_p[i]) for i in range(3))
    marginals = [q.sum([k for k in range(4) if k != n]) for n in range(4)]
    right = kl(marginals[3], prior)
    for n in (1, 2, 3):
        pair = q.sum([k for k in range(4) if k not in (n - 1, n)])  # (x_{n−1}, x_n)
        back = (pair / marginals[n]).T
        right = right + sum(marginals[n][i] * kl(back[i], reverse[n - 1][i]) for i in range(3))
    equal(left, right)


# The adversarial network


def value(D, p, q):
    return (p * D.log()).sum() + (q * (1 - D).log()).sum()


@SEEDS
@pytest.mark.equation("eq-relatives-discriminator")
def test_best_discriminator(seed):
    p, q = table(seed, 9), table(seed + 5, 9)
    D = p / (p + q)
    equal(torch.logit(D), p.log() - q.log())
    free = D.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(free, p, q), free)
    equal(slope, torch.zeros(9))
    for k in range(10):
        assert value(torch.sigmoid(torch.logit(D) + 0.1 * normals(k, 9)), p, q) < value(D, p, q)


@SEEDS
@pytest.mark.equation("eq-relatives-js")
def test_value_of_the_game(seed):
    p, q = table(seed, 9), table(seed + 5, 9)
    equal(value(p / (p + q), p, q), 2 * jensen_shannon(p, q) - math.log(4))


@SEEDS
@pytest.mark.equation("eq-relatives-slopes")
def test_slopes_of_two_losses(seed):
    L = (3 * normals(seed, 7)).requires_grad_()
    sigma = 1 / (1 + torch.exp(-L.detach()))
    (left,) = torch.autograd.grad((1 - 1 / (1 + torch.exp(-L))).log().sum(), L)
    equal(left, -sigma)
    (left,) = torch.autograd.grad(-(1 / (1 + torch.exp(-L))).log().sum(), L)
    equal(left, -(1 - sigma))


@SEEDS
@pytest.mark.equation("eq-relatives-nonsaturating")
def test_what_the_generator_descends(seed):
    """q_θ = softmax θ; the discriminator is the best one, but does not move."""
    p, theta = table(seed, 9), normals(seed + 5, 9).requires_grad_()
    q = theta.softmax(0)
    D = (p / (p + q)).detach()

    def slope(scalar):
        return torch.autograd.grad(scalar, theta, retain_graph=True)[0]

    equal(slope((q * (1 - D).log()).sum()), slope(2 * jensen_shannon(p, q)))
    equal(slope(-(q * D.log()).sum()), slope(kl(q, p) - 2 * jensen_shannon(p, q)))


def mixture(seed, components=3, dim=2):
    weights, means = table(seed, components), 1.5 * normals(seed + 1, components, dim)
    stds = torch.tensor(numbers(seed + 2, components, 0.4, 0.9), dtype=F64)
    return GaussianMixture(LinearVP(), weights, means, stds=stds)


ZERO = torch.zeros((), dtype=F64)


@SEEDS
@pytest.mark.equation("eq-relatives-logit-slope")
def test_slope_of_the_best_logit(seed):
    p, q, x = mixture(seed), mixture(seed + 20), normals(seed + 40, 6, 2).requires_grad_()
    ratio = p.log_prob(x, ZERO).exp() / (p.log_prob(x, ZERO).exp() + q.log_prob(x, ZERO).exp())
    (left,) = torch.autograd.grad(torch.logit(ratio).sum(), x)
    equal(left, p.score(x.detach(), ZERO) - q.score(x.detach(), ZERO), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-relatives-disjoint")
def test_two_points(seed):
    m, sigma = numbers(seed, 2, 0.5, 2.0)
    for place in (1, 3, 7):  # a point mass against another, wherever it is
        p, q = torch.eye(8, dtype=F64)[0], torch.eye(8, dtype=F64)[place]
        middle = (p + q) / 2
        js = (torch.special.xlogy(p, p / middle).nansum() + torch.special.xlogy(q, q / middle).nansum()) / 2
        equal(js, math.log(2))
    p, q = normal(LINE, 0.0, sigma**2), normal(LINE, m, sigma**2)
    log_ratio = ((LINE - m) ** 2 - LINE**2) / (2 * sigma**2)
    equal(integral(p * log_ratio), m**2 / (2 * sigma**2))
    inside = (p > 1e-200) & (q > 1e-200)  # the same from the densities themselves
    equal(integral(torch.where(inside, p * (p / q).log(), torch.zeros_like(p))), m**2 / (2 * sigma**2), rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-relatives-ddgan")
def test_a_discriminator_of_steps(seed):
    """Tables over (x_t, x_s): data pairs from q; model pairs from p(x_t | x_s) q(x_s)."""
    q, kernel = table(seed, 4, 5), table(seed + 1, 5, 4, over=1).T
    real, fake = q, kernel * q.sum(0)
    equal(torch.logit(real / (real + fake)), (q / q.sum(0)).log() - kernel.log())


# The flow


def wave(x):
    """A coupling's s and m of the kept coordinate."""
    return 0.6 * torch.tanh(1.3 * x), torch.sin(0.8 * x) + 0.3 * x


def coupled(x):
    s, m = wave(x[..., 0])
    return torch.stack([x[..., 0], x[..., 1] * s.exp() + m], -1)


@pytest.mark.equation("eq-relatives-change")
def test_change_of_variables():
    """E h(x) once as ∫ h p dx with the density as printed, once as E h(f⁻¹(z)), for three cosines h."""
    first, second = torch.linspace(-8, 8, 161, dtype=F64), torch.linspace(-22, 22, 441, dtype=F64)
    x = torch.cartesian_prod(first, second)
    log_det = torch.linalg.slogdet(vmap(jacrev(coupled))(x)).logabsdet
    log_p = -coupled(x).square().sum(1) / 2 - math.log(2 * math.pi) + log_det
    z1, z2 = first[:, None], first[None]
    s, m = wave(z1)
    back, law = z1 + (z2 - m) * torch.exp(-s), normal(first, 0.0, 1.0)
    for frequency in (0.3, 0.7, 1.1):
        values = (torch.cos(frequency * x.sum(1)) * log_p.exp()).reshape(161, 441)
        right = integral(law[:, None] * law * torch.cos(frequency * back), first)
        equal(integral(integral(values, second), first), integral(right, first))


class Couplings:
    """Two affine couplings in five dimensions, with the halves exchanged between them."""

    def __init__(self, seed):
        self.nets = [[0.5 * normals(seed + k, 3, 2), 0.5 * normals(seed + k + 9, 3, 2)] for k in (0, 1)]

    def scale(self, k, kept):
        return torch.tanh(self.nets[k][0] @ kept)

    def layer(self, k, x):
        a, b = ((0, 1), (2, 3, 4)) if k == 0 else ((3, 4), (0, 1, 2))
        kept, moved = x[list(a)], x[list(b)]
        y = moved * self.scale(k, kept).exp() + torch.sin(self.nets[k][1] @ kept)
        return torch.cat([kept, y]) if k == 0 else torch.cat([y, kept])


def log_det(f, x):
    return torch.linalg.slogdet(jacrev(f)(x)).logabsdet


@SEEDS
@pytest.mark.equation("eq-relatives-coupling")
def test_determinant_of_a_coupling(seed):
    flow, x = Couplings(seed), normals(seed + 30, 5)
    equal(log_det(lambda x: flow.layer(0, x), x), flow.scale(0, x[:2]).sum())
    equal(log_det(lambda x: flow.layer(1, x), x), flow.scale(1, x[3:]).sum())


@SEEDS
@pytest.mark.equation("eq-relatives-layers")
def test_determinant_of_layers(seed):
    flow, x = Couplings(seed), normals(seed + 30, 5)
    middle = flow.layer(0, x)
    right = log_det(lambda x: flow.layer(0, x), x) + log_det(lambda x: flow.layer(1, x), middle)
    equal(log_det(lambda x: flow.layer(1, flow.layer(0, x)), x), right)


@SEEDS
@pytest.mark.equation("eq-relatives-residual")
def test_determinant_of_a_small_step(seed):
    J = normals(seed, 5, 5)

    def rest(h):
        return torch.logdet(torch.eye(5, dtype=F64) + h * J) - h * J.trace() + h**2 / 2 * (J @ J).trace()

    for h in (1e-3, 5e-4):
        assert abs(rest(h) / h**3) < 1 + abs((J @ J @ J).trace())
    equal(rest(1e-3) / 1e-9, (J @ J @ J).trace() / 3, rtol=0.1, atol=0.05)


def field(x, t):
    return torch.stack([torch.sin(x[1]) + t * x[0], 0.7 * x[0] * x[1] - torch.cos(t)])


@SEEDS
@pytest.mark.equation("eq-relatives-continuous")
def test_infinitely_many_layers(seed):
    start = 0.5 * normals(seed, 2)

    def layers(N):
        x, total = start, 0.0
        for n in range(N):
            t = torch.tensor(n / N, dtype=F64)
            total = total + torch.linalg.slogdet(torch.eye(2, dtype=F64) + jacrev(field)(x, t) / N).logabsdet
            x = x + field(x, t) / N
        return total

    def slope(t, state):
        x = state[:2]
        trace = t + 0.7 * x[0]  # ∇·u by hand
        return torch.cat([field(x, t), trace.reshape(1)])

    state = rk4(slope, torch.cat([start, torch.zeros(1, dtype=F64)]), torch.linspace(0, 1, 21, dtype=F64))
    coarse, fine = layers(40), layers(80)
    equal(2 * fine - coarse, state[2], rtol=5e-3, atol=5e-3)
    assert abs(fine - state[2]) < abs(coarse - state[2])


# The autoregressive model


@SEEDS
@pytest.mark.equation("eq-relatives-chain-rule")
def test_chain_rule(seed):
    p = table(seed, 3, 4, 2, 3)
    for x in itertools.islice(itertools.product(*map(range, p.shape)), 0, None, 7):
        right = 1.0
        for i in range(4):
            known = p[x[:i]].reshape(p.shape[i], -1).sum(1)  # over all that comes later
            right = right * known[x[i]] / known.sum()
        equal(p[x], right)


@SEEDS
@pytest.mark.equation("eq-relatives-masks")
def test_masks_leave_no_path(seed):
    d, width, random = 7, 40, gen(seed)
    degrees = [torch.arange(1, d + 1)] + [torch.randint(1, d, (width,), generator=random) for _ in range(2)]
    masks = [(degrees[k + 1][:, None] >= degrees[k]).double() for k in (0, 1)]
    masks.append((degrees[0][:, None] > degrees[2]).double())
    paths = masks[2] @ masks[1] @ masks[0]
    equal(paths.triu(), torch.zeros(d, d))
    assert bool((paths.tril(-1) > 0).sum() > d)
    model = Autoregressive((d,), 3, width=width)  # and those of the package
    masks = [layer.mask for layer in model.net if hasattr(layer, "mask")]
    paths = (masks[2] @ masks[1] @ masks[0]).reshape(d, 3, d, 3).sum((1, 3))
    equal(paths.triu(), torch.zeros(d, d))
    assert bool((paths[torch.tril_indices(d, d, -1).unbind()] > 0).all())


class Conditionals:
    """ℓ_i(m) = −log p(x_i | x outside m) for one x of d values: an arbitrary number for each i in each set m."""

    def __init__(self, seed, d=5):
        self.d, self.numbers, k = d, {}, 0
        draws = (normals(seed, d * 2**d) * 0.8).exp().tolist()
        for m in self.sets():
            for i in m:
                self.numbers[i, m] = draws[k]
                k += 1

    def sets(self, size=None):
        sizes = range(1, self.d + 1) if size is None else (size,)
        return [frozenset(m) for k in sizes for m in itertools.combinations(range(self.d), k)]

    def total(self, m):
        return sum(self.numbers[i, m] for i in m)

    def order(self, order):
        return sum(self.numbers[i, frozenset(order[k:])] for k, i in enumerate(order))

    def orders(self):
        return torch.tensor([self.order(order) for order in itertools.permutations(range(self.d))], dtype=F64)


@SEEDS
@pytest.mark.equation("eq-relatives-orders")
def test_a_mixture_over_orders(seed):
    costs = Conditionals(seed).orders()
    left = -(torch.exp(-costs)).mean().log()
    assert left < costs.mean()
    equal(-(torch.exp(-costs[:1])).mean().log(), costs[:1].mean())  # equal for a single order


@SEEDS
@pytest.mark.equation("eq-relatives-counts")
@pytest.mark.equation("eq-relatives-absorbing")
def test_orders_counts_and_masks(seed):
    c = Conditionals(seed)
    d = c.d
    middle = sum(np.mean([c.total(m) for m in c.sets(k)]) / k for k in range(1, d + 1))
    equal(c.orders().mean(), middle)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    t, weights = (nodes + 1) / 2, weights / 2
    mean = sum(t ** len(m) * (1 - t) ** (d - len(m)) * c.total(m) for m in c.sets())
    equal(middle, (weights * mean / t).sum())


# The energy


class Bumps:
    """E_θ on LINE and its slope in θ: θ_1 x² + θ_2 cos x + θ_3 x, far from normalised."""

    def __init__(self, seed):
        low = torch.tensor([0.3, -1.0, -0.5], dtype=F64)
        self.theta = (low + torch.tensor(numbers(seed, 3, 0.0, 1.0), dtype=F64)).requires_grad_()
        self.basis = torch.stack([LINE**2, LINE.cos(), LINE])
        mean = 0.4 * float(normals(seed + 7, 1))
        self.p = 0.4 * normal(LINE, mean - 0.8, 0.3) + 0.6 * normal(LINE, mean + 0.7, 0.5)
        self.q = normal(LINE, 0.3, 2.0)

    def energy(self):
        return self.theta @ self.basis

    def model(self):
        e = torch.exp(-self.energy())
        return e / integral(e)


@SEEDS
@pytest.mark.equation("eq-relatives-energy-score")
@pytest.mark.equation("eq-relatives-denoiser")
def test_score_and_denoiser_of_an_energy(seed):
    """E = −log p_t of a mixture + 3: the score of the *normalised* density by differences, E[x_0 | x_t] by Bayes."""
    weights, means, std = table(seed, 3), normals(seed + 1, 3), 0.4
    process, t = LinearVP(), torch.tensor(0.3, dtype=F64)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    variance = (alpha * std) ** 2 + sigma**2

    def energy(x):
        return 3 - (weights * normal(x[..., None], alpha * means, variance)).sum(-1).log()

    x = (2 * normals(seed + 2, 5)).requires_grad_()
    (slope,) = torch.autograd.grad(energy(x).sum(), x)
    x, h = x.detach(), 1e-5
    e = torch.exp(-energy(LINE))
    log_p = [(torch.exp(-energy(x + step)) / integral(e)).log() for step in (-h, h)]
    equal((log_p[1] - log_p[0]) / (2 * h), -slope, rtol=1e-6, atol=1e-6)
    prior = (weights * normal(LINE[:, None], means, std**2)).sum(-1)
    joint = prior * normal(x[:, None], alpha * LINE, sigma**2)
    equal(integral(LINE * joint) / integral(joint), (x - sigma**2 * slope) / alpha, rtol=1e-7)


@SEEDS
@pytest.mark.equation("eq-relatives-energy-gradient")
def test_gradient_of_the_likelihood(seed):
    b = Bumps(seed)
    (left,) = torch.autograd.grad(-integral(b.p * b.model().log()), b.theta)
    equal(left, integral(b.p * b.basis) - integral(b.model().detach() * b.basis))


@SEEDS
@pytest.mark.equation("eq-relatives-nce-optimum")
def test_optimum_of_nce(seed):
    p, q, nu = table(seed, 9), table(seed + 5, 9), 3

    def J(G):
        return (p * softplus(math.log(nu) - G)).sum() + nu * (q * softplus(G - math.log(nu))).sum()

    best = (p.log() - q.log()).requires_grad_()
    (slope,) = torch.autograd.grad(J(best), best)
    equal(slope, torch.zeros(9))
    for k in range(10):
        assert J(best + 0.1 * normals(k, 9)) > J(best)


@SEEDS
@pytest.mark.equation("eq-relatives-nce-gan")
def test_nce_is_a_discriminator(seed):
    p, q, G = table(seed, 9), table(seed + 5, 9), normals(seed + 9, 9)
    J = (p * softplus(-G)).sum() + (q * softplus(G)).sum()
    equal(J, -value(1 / (1 + torch.exp(-G)), p, q))


@SEEDS
@pytest.mark.equation("eq-relatives-nce-gradient")
def test_gradient_of_nce(seed):
    """The energy is not normalised: p_θ = e^{−E} has any mass."""
    b = Bumps(seed)
    (nu,) = numbers(seed, 1, 0.5, 5.0)
    inside = LINE.abs() < 8  # where q is not 0 in double precision
    line, p, q = LINE[inside], b.p[inside], b.q[inside]
    log_model = -b.energy()[inside]
    G = log_model - q.log()
    J = integral(p * softplus(math.log(nu) - G), line) + nu * integral(q * softplus(G - math.log(nu)), line)
    (left,) = torch.autograd.grad(J, b.theta)
    model = log_model.exp().detach()
    weight = nu * q / (model + nu * q)
    equal(left, integral(weight * (model - p) * -b.basis[:, inside], line))


class Noisy:
    """Two times of one path in one dimension: p_t a mixture, x_s | x_t ~ N(a x_t, v)."""

    def __init__(self, seed):
        self.a, self.v = numbers(seed, 2, 0.3, 0.9)
        self.weights, self.means = table(seed, 2), normals(seed + 1, 2)
        self.x_s = normals(seed + 2)

    def p_t(self, x):
        return (self.weights * normal(x[..., None], self.means, 0.2)).sum(-1)

    def energy(self, x):
        return 1.7 - self.p_t(x).log()

    def log_conditional(self, x):
        """As printed, normalised on LINE."""

        def exponent(y):
            return -self.energy(y) - (self.x_s - self.a * y) ** 2 / (2 * self.v)

        return exponent(x) - integral(exponent(LINE).exp()).log()


@SEEDS
@pytest.mark.equation("eq-relatives-recovery")
def test_recovery_is_the_reverse_kernel(seed):
    n, x = Noisy(seed), torch.linspace(-2, 2, 9, dtype=F64)
    p_s = (n.weights * normal(n.x_s, n.a * n.means, n.a**2 * 0.2 + n.v)).sum()
    bayes = n.p_t(x) * normal(n.x_s, n.a * x, n.v) / p_s
    equal(n.log_conditional(x).exp(), bayes)


@SEEDS
@pytest.mark.equation("eq-relatives-recovery-score")
@pytest.mark.equation("eq-relatives-recovery-curvature")
def test_slope_and_curvature_of_recovery(seed):
    n = Noisy(seed)
    for x in normals(seed + 5, 4):
        slope = jacrev(n.log_conditional)(x)
        equal(slope, -jacrev(n.energy)(x) + n.a * (n.x_s - n.a * x) / n.v)
        equal(-hessian(n.log_conditional)(x), hessian(n.energy)(x) + n.a**2 / n.v)


@SEEDS
@pytest.mark.equation("eq-relatives-recovery-gradient")
def test_gradient_of_the_recovery_likelihood(seed):
    """For one x_s: the data's conditional is Bayes' rule with p, the model's with e^{−E_θ}."""
    b = Bumps(seed)
    a, v = numbers(seed + 3, 2, 0.3, 0.9)
    kernel = normal(float(normals(seed + 4, 1)), a * LINE, v)
    truth = b.p * kernel / integral(b.p * kernel)
    model = torch.exp(-b.energy()) * kernel
    model = model / integral(model)
    inside = truth > 0
    (left,) = torch.autograd.grad(
        -integral(torch.where(inside, truth * model.clamp(min=1e-300).log(), torch.zeros_like(truth))), b.theta
    )
    equal(left, integral(truth * b.basis) - integral(model.detach() * b.basis))


@SEEDS
@pytest.mark.equation("eq-relatives-recovery-small")
def test_a_small_step_is_gaussian(seed):
    """Mean and variance with a = 1: what is left falls as v²."""
    n = Noisy(seed)
    n.a = 1.0
    slope = jacrev(n.energy)(n.x_s)
    left = []
    for v in (4e-3, 2e-3):
        y = n.x_s + math.sqrt(v) * torch.linspace(-10, 10, 4001, dtype=F64)
        density = torch.exp(-n.energy(y) - (n.x_s - y) ** 2 / (2 * v))
        density = density / integral(density, y)
        mean = integral(y * density, y)
        left.append((mean - (n.x_s - v * slope), integral((y - mean) ** 2 * density, y) - v))
    for coarse, fine in zip(*left, strict=True):
        assert abs(coarse) < 4e-3 * 0.2
        equal(coarse / fine, 4.0, rtol=0.1)
