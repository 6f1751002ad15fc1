"""What a denoiser leaves open: estimates against exact posterior covariances, and the loss of a learned variance."""

import math

import pytest
import torch
from test_orders import mixture

from minidiff import times
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.denoiser import Denoiser
from minidiff.metrics import CountCalls
from minidiff.nets.mlp import MLP
from minidiff.noise import probes
from minidiff.objectives import hybrid_loss, simple, step_kl
from minidiff.process import VE, LinearVP, RectifiedFlow
from minidiff.samplers import reverse_steps
from minidiff.uncertainty import posterior_errors, tweedie_diagonal

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def leaning(process):
    """A mixture with full covariances."""
    root = torch.randn(3, 3, 3, generator=gen(4), dtype=F64)
    means = torch.randn(3, 3, generator=gen(5), dtype=F64)
    return GaussianMixture(process, torch.tensor([1.0, 2.0, 1.5]), means, 0.2 * root @ root.mT + 0.05 * torch.eye(3))


@pytest.mark.parametrize("process", [LinearVP(), VE(0.05, 20.0), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_three_estimates_of_one_error(process, seed):
    """Each is unbiased for E tr Cov/d, within five of its own standard errors (sd/√n with n = 4000)."""
    D = leaning(process)
    T = torch.tensor([0.9, 0.5, 0.2], dtype=F64)
    x0 = D.sample(4000, gen(seed))
    found = posterior_errors(D, x0, T, gen(seed + 10))
    other = D.sample(20_000, gen(seed + 20))
    for i, t in enumerate(T):
        x = process.noise(other, t, torch.randn(other.shape, generator=gen(seed + 30), dtype=F64))
        exact = D.covariance(x, t).diagonal(dim1=1, dim2=2).mean(1)
        for estimate in found:
            error = math.hypot(float(estimate[i].std()) / 4000**0.5, float(exact.std()) / 20_000**0.5)
            assert abs(float(estimate[i].mean() - exact.mean())) < 5 * error


def test_the_residual_is_the_error_of_a_wrong_denoiser():
    D = Gaussian(LinearVP(), torch.zeros(2, dtype=F64), std=1.0)
    wrong = CountCalls(D)
    wrong.D = lambda x, t: 0 * x
    x0 = D.sample(500, gen())
    T = torch.tensor([0.7, 0.3], dtype=F64)
    found = posterior_errors(wrong, x0, T, gen())
    torch.testing.assert_close(found.residual, x0.square().mean(1).expand(2, -1))
    assert wrong.calls == 2


def test_without_signal_the_score_holds_the_energy():
    process = RectifiedFlow()
    D = Gaussian(process, torch.zeros(2, dtype=F64), std=0.5)
    found = posterior_errors(D, D.sample(5000, gen()), torch.ones(1, dtype=F64), gen())
    assert torch.equal(found.score, found.energy)
    assert float(found.residual.mean()) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=str)
def test_tweedie_is_the_posterior_variance(process):
    D, t = leaning(process), torch.tensor(0.4, dtype=F64)
    x = torch.randn(6, 3, generator=gen(1), dtype=F64)
    exact = D.covariance(x, t).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(tweedie_diagonal(D, x, t), exact)
    signs = torch.tensor([[a, b, c] for a in (-1.0, 1) for b in (-1.0, 1) for c in (-1.0, 1)], dtype=F64)
    every = tweedie_diagonal(D, x, t, signs[:, None].expand(8, 6, 3))  # all signs: the exact mean
    torch.testing.assert_close(every, exact)
    some = tweedie_diagonal(D, x, t, probes(x, 5000, generator=gen()))
    # The scatter of coordinate j is at most σ²/α times the length of its column of the Jacobian.
    torch.testing.assert_close(some, exact, rtol=0, atol=5 * 2 * float(exact.max()) / 5000**0.5)


def test_bad_input():
    D, x = mixture(RectifiedFlow()), torch.zeros(2, 2, dtype=F64)
    half = torch.tensor(0.5, dtype=F64)
    for T in (torch.tensor([0.5]), half, torch.zeros(1, dtype=F64), torch.tensor([1.5], dtype=F64)):
        with pytest.raises(ValueError, match=r"times must be float64 \(n,\) in"):
            posterior_errors(D, x, T)
    with pytest.raises(ValueError, match="0/0 where α = 0"):
        tweedie_diagonal(D, x, torch.ones((), dtype=F64))
    with pytest.raises(ValueError, match=r"probes must have shape \(P, 2, 2\)"):
        tweedie_diagonal(D, x, half, torch.ones(2, 2))
    D.coupled = True
    for call in (lambda: posterior_errors(D, x, half[None]), lambda: tweedie_diagonal(D, x, half)):
        with pytest.raises(ValueError, match="trained under a coupling"):
            call()


# The hybrid loss

GRID = times.log_snr(LinearVP(), 6, r_max=10.0, r_min=0.1)


def test_step_kl_is_the_divergence_of_two_gaussians():
    steps = reverse_steps(LinearVP(), GRID)
    i = torch.tensor([0, 3, 5])
    error, v = torch.rand(3, 2, generator=gen(), dtype=F64), 0.1 + torch.rand(3, 2, generator=gen(1), dtype=F64)
    normal = torch.distributions.Normal
    truth = normal(torch.zeros(3, 2, dtype=F64), steps.least[i, None].sqrt())
    model = normal(steps.reveal[i, None] * error.sqrt(), v.sqrt())
    torch.testing.assert_close(step_kl(steps, i, error, v), torch.distributions.kl_divergence(truth, model))


def networks():
    torch.manual_seed(0)
    net, head = MLP(2, 16, 1), MLP(2, 16, 1)
    for parameter in (*net.parameters(), *head.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return Denoiser(net, LinearVP(), "v"), head


def test_the_bound_teaches_the_variance_alone():
    """The gradient of the denoiser is that of the simple loss, that of the head is the bound's."""
    D, head = networks()
    x0, eps = torch.randn(2, 8, 2, generator=gen())
    i = torch.arange(8) % 6

    def gradients(bound_weight):
        for network in (D, head):
            network.zero_grad()
        hybrid_loss(D, head, x0, i, eps, GRID, bound_weight=bound_weight).sum().backward()
        return [[p.grad.clone() for p in network.parameters() if p.grad is not None] for network in (D, head)]

    (net_a, head_a), (net_b, head_b), (_, head_0) = gradients(1e-3), gradients(10.0), gradients(0.0)
    for a, b in zip(net_a, net_b, strict=True):
        torch.testing.assert_close(a, b)
    for a, b, zero in zip(head_a, head_b, head_0, strict=True):
        torch.testing.assert_close(1e4 * a, b, rtol=1e-3, atol=1e-4)
        assert not zero.any()


def test_hybrid_loss_by_hand():
    D, head = networks()
    x0, eps, i = torch.randn(4, 2, generator=gen()), torch.randn(4, 2, generator=gen(1)), torch.tensor([0, 2, 4, 5])
    steps, s = reverse_steps(LinearVP(), GRID), GRID[i]
    x = LinearVP().noise(x0, s, eps)
    with torch.no_grad():
        error, nu = (x0 - D(x, s)).square(), head(x, s)
        loss = hybrid_loss(D, head, x0, i, eps, GRID, bound_weight=0.1)
    v = steps.least[i, None] ** (1 - nu.double()) * steps.forward[i, None] ** nu.double()
    plain = simple(LinearVP(), s) * error.mean(1)
    torch.testing.assert_close(
        loss.double(), plain + 0.1 * step_kl(steps, i, error.double(), v).mean(1), rtol=1e-4, atol=1e-5
    )


def test_hybrid_loss_refuses():
    D, head = networks()
    x0 = torch.zeros(3, 2)
    for i, message in (
        (torch.zeros(2, dtype=torch.int64), "i must be int64 of shape"),
        (torch.zeros(3), "i must be int64 of shape"),
        (torch.tensor([0, 1, 6]), "i must lie in 0…5"),
    ):
        with pytest.raises(ValueError, match=message):
            hybrid_loss(D, head, x0, i, x0, GRID)
    with pytest.raises(ValueError, match="leave out steps that end at σ_t = 0"):
        hybrid_loss(D, head, x0, torch.tensor([0, 1, 2]), x0, times.uniform(3))
