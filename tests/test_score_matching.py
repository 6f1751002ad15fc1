"""Score matching: the four losses against closed forms, naive twins, and each other."""

import itertools
import math

import numpy as np
import pytest
import torch
from mixtures import three as mixture
from torch import nn

from minidiff.analytic import GaussianMixture
from minidiff.denoiser import predict
from minidiff.objectives import denoising_loss, dsm, esm, ism, probes, simple, ssm
from minidiff.process import VE, LinearVP

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def network(d, seed=0):
    """A smooth function of rows, for which nothing has a closed form."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(d, 7), nn.Tanh(), nn.Linear(7, d)).double()


def jacobians(net, x):
    return torch.stack([torch.autograd.functional.jacobian(net, row) for row in x])


# ---- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (4, 1, 2, 2)])
def test_losses_are_their_formulas_row_by_row(shape):
    d = math.prod(shape[1:])
    net, x, v, target = network(d), normal(*shape), normal(2, *shape, seed=1), normal(*shape, seed=2)

    def score(x):
        return net(x.flatten(1)).reshape(x.shape)

    flat, directions = x.flatten(1), v.flatten(2)
    s, J = net(flat), jacobians(net, flat)
    square = s.square().sum(1) / 2
    torch.testing.assert_close(esm(score, x, target), (s - target.flatten(1)).square().sum(1) / 2)
    torch.testing.assert_close(ism(score, x), J.diagonal(dim1=1, dim2=2).sum(1) + square)
    bent = torch.einsum("mbi,bij,mbj->mb", directions, J, directions)
    across = torch.einsum("mbi,bi->mb", directions, s).square() / 2
    torch.testing.assert_close(ssm(score, x, v), (bent + across).mean(0))
    torch.testing.assert_close(ssm(score, x, v, exact_norm=True), bent.mean(0) + square)
    torch.testing.assert_close(ssm(score, x, v[0]), ssm(score, x, v[:1]))
    noisy = net(0.8 * flat + 0.3 * directions[0])
    expected = (noisy + directions[0] / 0.3).square().sum(1) / 2
    torch.testing.assert_close(dsm(score, x, v[0], 0.3, alpha=0.8), expected)


def test_rademacher_directions_average_to_the_exact_trace():
    x, net = normal(6, 4), network(4)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=F64)
    v = signs[:, None].expand(-1, 6, -1)
    for exact_norm in (False, True):
        torch.testing.assert_close(ssm(net, x, v, exact_norm=exact_norm), ism(net, x))


def test_each_level_of_a_batch_has_its_own_coefficients():
    x, eps, net = normal(3, 2), normal(3, 2, seed=1), network(2)
    sigma, alpha = torch.tensor([0.1, 0.5, 2.0], dtype=F64), torch.tensor([1.0, 0.5, 0.0], dtype=F64)
    for control in (False, True):
        together = dsm(net, x, eps, sigma, alpha=alpha, control_variate=control)
        rows = [
            dsm(net, x[i : i + 1], eps[i : i + 1], float(sigma[i]), alpha=float(alpha[i]), control_variate=control)
            for i in range(3)
        ]
        torch.testing.assert_close(together, torch.cat(rows))


@pytest.mark.parametrize("process", [VE(), LinearVP()], ids=["VE", "VP"])
def test_sigma_squared_times_dsm_is_the_simple_loss(process):
    D, x0, eps, t = mixture(process, 0.4), normal(5, 2), normal(5, 2, seed=1), torch.tensor(0.6, dtype=F64)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    loss = dsm(lambda x: predict(D, x, t, "score"), x0, eps, sigma, alpha=alpha)
    torch.testing.assert_close(sigma**2 * loss, denoising_loss(D, x0, t, eps, weight=simple) * x0.shape[1] / 2)


# ---- the common minimiser: expectations by quadrature in one dimension ------------------------------------------

LINE = torch.linspace(-12, 12, 4001, dtype=F64)[:, None]


def bumps():
    weights, means = torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[-1.0], [1.5]], dtype=F64)
    return GaussianMixture(VE(), weights, means, stds=torch.tensor([0.5, 0.8], dtype=F64))


def mean_over(D, t, values):
    return torch.trapezoid(D.log_prob(LINE, t).exp() * values, LINE[:, 0])


def tilted(D, t, delta):
    """The exact score plus δ sin, an error whose square has a mean that is computed on the grid."""
    return lambda x: D.score(x, t) + delta * x.sin()


def loss_on_grid(name, D, t, score):
    if name == "esm":
        return mean_over(D, t, esm(score, LINE, D.score(LINE, t)))
    if name == "ism":
        return mean_over(D, t, ism(score, LINE))
    one = torch.ones_like(LINE)  # in one dimension ±1 are all Rademacher directions
    return mean_over(D, t, ssm(score, LINE, one, exact_norm=name == "ssm-exact"))


@pytest.mark.parametrize("name", ["esm", "ism", "ssm", "ssm-exact"])
def test_an_error_of_the_score_costs_half_its_square(name):
    D, t = bumps(), torch.tensor(0.5, dtype=F64)
    cost = mean_over(D, t, LINE[:, 0].sin() ** 2) / 2
    least = loss_on_grid(name, D, t, tilted(D, t, 0.0))
    for delta in (-0.7, 0.2, 1.0):
        raised = loss_on_grid(name, D, t, tilted(D, t, delta)) - least
        torch.testing.assert_close(raised, delta**2 * cost, rtol=1e-6, atol=1e-9)


def test_explicit_and_implicit_differ_by_half_the_squared_score():
    D, t = bumps(), torch.tensor(0.5, dtype=F64)
    constant = mean_over(D, t, D.score(LINE, t)[:, 0] ** 2) / 2
    for delta in (0.0, 0.5):
        explicit, implicit = (loss_on_grid(name, D, t, tilted(D, t, delta)) for name in ("esm", "ism"))
        torch.testing.assert_close(explicit - implicit, constant, rtol=1e-6, atol=1e-9)


def test_dsm_is_esm_at_the_noisy_marginal_plus_a_constant():
    D, t = bumps(), torch.tensor(0.5, dtype=F64)
    sigma = float(D.process.sigma(t))
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(80))
    grid = LINE[1000:3001:4]
    zero = torch.zeros((), dtype=F64)
    prior = D.log_prob(grid, zero).exp()
    x0, eps = (a.reshape(-1, 1) for a in torch.broadcast_tensors(grid, nodes))
    constant = (1 / sigma**2 - mean_over(D, t, D.score(LINE, t)[:, 0] ** 2)) / 2
    for delta in (0.0, 0.5):
        values = dsm(tilted(D, t, delta), x0, eps, sigma).reshape(len(grid), -1) @ (weights / weights.sum())
        left = torch.trapezoid(prior * values, grid[:, 0])
        right = loss_on_grid("esm", D, t, tilted(D, t, delta)) + constant
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-6)  # the marginal at t = 0 has σ_min = 0.01


def test_the_control_variate_leaves_the_mean_and_tames_the_variance():
    x0, net = normal(3, 2), network(2)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(30))
    weights = (weights[:, None] * weights).flatten() / weights.sum() ** 2
    eps = torch.cartesian_prod(nodes, nodes)

    def moments(sigma, control):
        losses = torch.stack(
            [dsm(net, row.expand(900, 2), eps, sigma, alpha=0.9, control_variate=control) for row in x0]
        )
        mean = losses @ weights
        return mean, (losses - mean[:, None]).square() @ weights

    for sigma in (0.03, 0.3):
        torch.testing.assert_close(moments(sigma, True)[0], moments(sigma, False)[0], rtol=1e-8, atol=1e-8)
    rough, fine = (moments(sigma, True)[1] for sigma in (2e-3, 1e-3))
    torch.testing.assert_close(rough, fine, rtol=0.02, atol=1e-4)  # it has a limit
    assert (moments(1e-3, False)[1] > 1e5 * fine).all()


def test_the_limit_of_the_controlled_loss_is_sliced_score_matching():
    x0, v, net = normal(4, 3), normal(4, 3, seed=1), network(3)
    gaps = [
        dsm(net, x0, v, sigma, control_variate=True) - 3 / (2 * sigma**2) - ssm(net, x0, v, exact_norm=True)
        for sigma in (1e-2, 1e-3)
    ]
    torch.testing.assert_close(gaps[1], gaps[0] / 10, rtol=0.1, atol=1e-4)  # first order in σ


# ---- training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["esm", "ism", "ssm", "dsm"])
def test_the_gradient_reaches_the_parameters(loss):
    net, x = network(2), normal(6, 2)
    run = {
        "esm": lambda: esm(net, x, -x),
        "ism": lambda: ism(net, x),
        "ssm": lambda: ssm(net, x, probes(x, 2, generator=torch.Generator().manual_seed(0))),
        "dsm": lambda: dsm(net, x, normal(6, 2, seed=1), 0.5, control_variate=True),
    }[loss]
    run().mean().backward()
    weight = net[0].weight
    bump, slope = 1e-5 * torch.ones_like(weight), weight.grad.sum()
    with torch.no_grad():
        weight.add_(bump)
        up = run().mean()
        weight.sub_(2 * bump)
        down = run().mean()
    torch.testing.assert_close((up - down) / 2e-5, slope, rtol=1e-6, atol=1e-8)


def test_traces_need_no_gradient_mode():
    net, x = network(2), normal(6, 2)
    with torch.no_grad():
        value = ism(net, x)
    assert not value.requires_grad
    torch.testing.assert_close(value, ism(net, x).detach())


# ---- probes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_are_white(kind):
    x = torch.zeros(2000, 3)
    v = probes(x, 20, kind, torch.Generator().manual_seed(0)).double().flatten(0, 1)
    assert v.shape == (40_000, 3)
    error = (v.T @ v / len(v) - torch.eye(3)).abs().max()
    assert error < 5 * math.sqrt(2 / len(v))
    assert (v.abs() == 1).all() == (kind == "rademacher")


def test_probes_repeat_and_follow_the_dtype():
    x = torch.zeros(3, 2, dtype=F64)
    a, b = (probes(x, 2, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.dtype == F64


# ---- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, x: esm(s, x, x[:2]), ValueError, "x and target must have the same shape"),
        (lambda s, x: esm(s, x, x * math.nan), ValueError, "target must be finite"),
        (lambda s, x: esm(lambda x: s(x)[:, :1], x, x), ValueError, r"x and score\(x\) must have the same shape"),
        (lambda s, x: ism(lambda x: s(x)[:, :1], x), ValueError, r"x and score\(x\) must have the same shape"),
        (lambda s, x: ism(s, x[0]), ValueError, "must have a batch axis"),
        (lambda s, x: ism(s, x.long()), TypeError, "x must be a floating-point tensor"),
        (lambda s, x: ssm(s, x, x[:2]), ValueError, r"v must have shape \(B, \*D\) or \(M, B, \*D\)"),
        (lambda s, x: ssm(s, x, x[None][:0]), ValueError, "v must have shape"),
        (lambda s, x: dsm(s, x, x[:2], 1.0), ValueError, "x0 and eps must have the same shape"),
        (lambda s, x: dsm(s, x, x, 0.0), ValueError, "sigma must be > 0 and alpha ≥ 0, got at least 0.0"),
        (lambda s, x: dsm(s, x, x, 1.0, alpha=-1.0), ValueError, "alpha ≥ 0"),
        (lambda s, x: dsm(s, x, x, math.inf), ValueError, "sigma must be finite"),
        (lambda s, x: dsm(s, x, x, torch.ones(2)), ValueError, r"sigma must be a number or have shape \(3,\)"),
        (lambda s, x: probes(x, 0), ValueError, "count must be at least 1"),
        (lambda s, x: probes(x, distribution="uniform"), ValueError, "distribution must be 'rademacher' or 'gaussian'"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(network(2), normal(3, 2))
