"""Speculative sampling: the coupling's law and its acceptance, the chain's law, its cost, and its refusals."""

import math

import pytest
import torch
from torch import nn

from minidiff import times
from minidiff.analytic import GaussianMixture
from minidiff.denoiser import Denoiser
from minidiff.linear import Wiener
from minidiff.process import LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, last, overlap, speculative
from minidiff.samplers.speculative import reflect

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(process, stds=0.3):
    means = torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=F64)
    return GaussianMixture(process, torch.tensor([0.4, 0.6], dtype=F64), means, stds=stds)


@pytest.mark.parametrize("seed", range(3))
def test_the_reflected_draft_has_the_law_of_the_target(seed):
    """Mean, covariance and the share kept, each within 4.5 standard errors of the closed form."""
    n, s = 200_000, 0.7
    mean, draft = torch.randn(2, 3, generator=gen(seed), dtype=F64)
    z = torch.randn(n, 3, generator=gen(seed + 10), dtype=F64)
    log_u = torch.rand(n, generator=gen(seed + 20), dtype=F64).log()
    x, kept = reflect(mean.expand(n, 3), draft.expand(n, 3), torch.full((n,), s, dtype=F64), z, log_u)
    assert float((x.mean(0) - mean).abs().max()) < 4.5 * s / math.sqrt(n)
    assert float((torch.cov(x.T) - s**2 * torch.eye(3)).abs().max()) < 4.5 * s**2 * math.sqrt(2 / n)
    cubes = ((x - mean) / s) ** 3
    assert float(cubes.mean(0).abs().max()) < 4.5 * math.sqrt(15 / n)
    share = float(overlap((mean - draft).norm() / s))
    assert abs(float(kept.double().mean()) - share) < 4.5 * math.sqrt(share * (1 - share) / n)
    torch.testing.assert_close(x[kept], (draft + s * z)[kept])


def test_equal_means_are_always_kept_and_no_noise_gives_the_mean():
    mean, z, log_u = torch.ones(2, 3), torch.randn(2, 3, generator=gen()), torch.tensor([-0.1, -1e-9])
    x, kept = reflect(mean, mean, torch.ones(2), z, log_u)
    assert bool(kept.all())
    torch.testing.assert_close(x, mean + z)
    x, kept = reflect(mean, 0 * mean, torch.zeros(2), z, log_u)
    assert not bool(kept.any())
    assert torch.equal(x, mean)


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()])
@pytest.mark.parametrize("draft", [None, "Wiener"])
def test_the_chain_has_the_law_of_ancestral(process, draft):
    """Moments of 6000 chains of 25 steps beside those of as many ancestral ones, within 4.5 standard errors."""
    D, T, n = mixture(process), times.uniform(25), 6000
    other = None if draft is None else Wiener.of_data(process, D.sample(500, gen(4)))
    x = process.prior((n, 2), gen(1), dtype=F64)
    plain = last(ancestral(D, x, T, generator=gen(2)))
    made = speculative(D, x, T, length=6, draft=other, generator=gen(3))
    for f in (lambda x: x, torch.square, lambda x: x[:, :1] * x[:, 1:], lambda x: (x[:, :1] > 0.2).double()):
        a, b = f(plain), f(made.x)
        error = ((a.var(0) + b.var(0)) / n).sqrt()
        assert bool(((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all())
    assert int(made.rounds.max()) <= 25 + (draft is None)
    assert float(made.rounds.double().mean()) < 15
    assert bool((made.calls >= 25).all())
    assert bool((made.drafted > 0).all()) == (draft is not None)


@pytest.mark.parametrize("seed", range(3))
def test_drafts_of_the_target_itself_are_all_kept(seed):
    D, T = mixture(LinearVP()), times.uniform(12)
    x = torch.randn(20, 2, generator=gen(seed), dtype=F64)
    made = speculative(D, x, T, length=4, draft=D, generator=gen(seed))
    assert torch.equal(made.tested[:-1], made.accepted[:-1])  # the last step has no noise: its draft is not needed
    assert made.rounds.tolist() == [3] * 20
    assert made.calls.tolist() == [12] * 20


def test_length_one_is_sequential():
    D, T = mixture(LinearVP()), times.uniform(9)
    made = speculative(D, torch.randn(5, 2, generator=gen(), dtype=F64), T, length=1, generator=gen(1))
    assert made.rounds.tolist() == made.calls.tolist() == [9] * 5


def test_a_row_is_its_single_run_and_the_same_seed_the_same_sample():
    D, T = mixture(RectifiedFlow()), times.uniform(10)
    x = torch.randn(3, 2, generator=gen(), dtype=F64)
    both = speculative(D, x, T, length=4, generator=[gen(4), gen(5), gen(6)])
    alone = speculative(D, x[1:2], T, length=4, generator=[gen(5)])
    torch.testing.assert_close(both.x[1:2], alone.x)
    assert both.rounds[1] == alone.rounds[0]
    again = speculative(D, x, T, length=4, generator=[gen(4), gen(5), gen(6)])
    assert torch.equal(both.x, again.x)


def test_conditional_networks():
    class Net(nn.Module):
        def forward(self, x, t, y):
            return y[:, None] + 0 * x

    D = Denoiser(Net(), LinearVP(), "x0").given(torch.tensor([1.0, -3.0, 8.0]))
    made = speculative(D, torch.randn(3, 2, generator=gen()), times.uniform(15), length=5, generator=gen(1))
    torch.testing.assert_close(made.x, torch.tensor([[1.0, 1.0], [-3.0, -3.0], [8.0, 8.0]]), rtol=1e-5, atol=1e-5)
    assert made.rounds.tolist() == [4, 4, 4]  # one, then five at a time: a constant denoiser is its own best draft


def test_refusals():
    D, x, T = mixture(LinearVP()), torch.randn(3, 2, generator=gen(), dtype=F64), times.uniform(4)
    coupled = Denoiser(nn.Identity(), RectifiedFlow(), "velocity", coupled=True)
    for call, message in (
        (lambda: speculative(D, x, T, length=0), "length must be at least 1"),
        (lambda: speculative(coupled, x, T), "independent noise"),
        (lambda: speculative(D, x, T, draft=mixture(RectifiedFlow())), "process of D"),
        (lambda: speculative(D, x, T, generator=[gen()]), "one generator a sample"),
        (lambda: speculative(D, x / 0, T), "x must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
