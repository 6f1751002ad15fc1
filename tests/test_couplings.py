"""Couplings: marginals are kept, costs are ordered, one dimension is sorted, the brute force agrees."""

import itertools
import math

import pytest
import torch

from minidiff import extras
from minidiff.analytic import Gaussian, GaussianMixture
from minidiff.objectives import couplings
from minidiff.objectives.couplings import (
    independent,
    optimal_transport,
    paired,
    reflow,
    sort_coupling,
    transport_cost,
)
from minidiff.process import VE, LinearVP, RectifiedFlow, TrigFlow
from minidiff.samplers import ddim, euler
from minidiff.times import uniform

PERMUTING = [independent, optimal_transport, sort_coupling]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("coupling", PERMUTING)
def test_both_marginals_are_kept_and_pictures_stay_in_place(coupling):
    x0, eps = normal(40, 1), normal(40, 1, seed=1)
    kept, moved = coupling(x0, eps)
    torch.testing.assert_close(kept, x0, rtol=0, atol=0)
    torch.testing.assert_close(moved.sort(0).values, eps.sort(0).values, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_optimal_transport_is_the_best_permutation(seed):
    x0, eps = normal(6, 3, seed=seed), normal(6, 3, seed=seed + 50)
    best = min(float(transport_cost(x0, eps[list(order)]).mean()) for order in itertools.permutations(range(6)))
    assert float(transport_cost(*optimal_transport(x0, eps)).mean()) == pytest.approx(best, rel=1e-12)


def test_in_one_dimension_optimal_transport_sorts():
    x0, eps = normal(200, 1), normal(200, 1, seed=1)
    torch.testing.assert_close(optimal_transport(x0, eps)[1], sort_coupling(x0, eps)[1])
    assert bool((sort_coupling(x0, eps)[1][x0[:, 0].argsort()].diff(dim=0) > 0).all())


def test_pictures_of_any_shape_and_precision():
    x0, eps = normal(5, 1, 2, 2).float(), normal(5, 1, 2, 2, seed=1).float()
    kept, moved = optimal_transport(x0, eps)
    assert moved.shape == eps.shape and moved.dtype == torch.float32
    assert float(transport_cost(kept, moved).mean()) <= float(transport_cost(x0, eps).mean())


def test_costs_of_gaussians_lie_between_the_exact_ones():
    """Per coordinate (1 − s)² ≤ batch of 256 ≤ batch of 16 ≤ 1 + s² on average; 4 096 pairs in each."""
    s, x0, eps = 0.5, 0.5 * normal(4096, 4), normal(4096, 4, seed=1)

    def cost(batch):
        parts = zip(x0.split(batch), eps.split(batch), strict=True)
        return float(torch.cat([transport_cost(*optimal_transport(*part)) for part in parts]).mean())

    assert cost(1) == pytest.approx(1 + s**2, abs=5 * math.sqrt(2 * (1 + s**2) ** 2 / (4 * 4096)))
    assert (1 - s) ** 2 < cost(256) < cost(16) < cost(1)


@pytest.mark.parametrize(("process", "scale"), [(RectifiedFlow(), 1.0), (TrigFlow(0.5), 0.5)])
def test_reflow_of_a_gaussian_is_its_closed_form(process, scale):
    """The flow of N(0, s²) maps x_1 = σ_1 ε to s ε; Heun's error falls with the square of the step."""
    s, eps = 1.6, normal(50, 2)
    D = Gaussian(process, torch.zeros(2, dtype=torch.float64), std=s)
    errors = []
    for n in (40, 80):
        x0, same = reflow(D, uniform(n))(torch.zeros_like(eps), eps)
        assert same is eps
        errors.append(float((x0 - s * eps).abs().max()))
    assert errors[1] < 2e-3 and errors[0] / errors[1] > 3


def test_reflow_lowers_the_cost_and_takes_any_sampler():
    D = GaussianMixture(RectifiedFlow(), torch.ones(2), torch.tensor([[-1.0, 0.5], [1.0, -0.5]]).double(), stds=0.3)
    x0, eps = D.sample(500, torch.Generator().manual_seed(0)), normal(500, 2, seed=1)
    costs = {}
    for sampler in (euler, ddim):
        costs[sampler] = transport_cost(*reflow(D, uniform(100), sampler)(x0, eps)).mean()
        assert float(costs[sampler]) < float(transport_cost(x0, eps).mean())
    torch.testing.assert_close(costs[euler], costs[ddim])  # the same step on this process


def test_reflow_needs_pure_noise_at_the_start():
    D = Gaussian(RectifiedFlow(), torch.zeros(2), std=1.0)
    with pytest.raises(ValueError, match=r"times must start at 1, got 0\.5"):
        reflow(D, uniform(5, start=0.5))
    for process in (LinearVP(), VE()):
        with pytest.raises(ValueError, match=r"must have alpha\(1\) = 0, got"):
            reflow(Gaussian(process, torch.zeros(2), std=1.0), uniform(5))
    with pytest.raises(TypeError, match="a denoiser is callable"):
        reflow(len, uniform(5))
    with pytest.raises(TypeError, match="float64"):
        reflow(D, uniform(5).float())


def test_reflow_keeps_no_graph():
    mean = torch.zeros(2, dtype=torch.float64)
    x0, _ = reflow(Gaussian(RectifiedFlow(), mean, std=1.0), uniform(3))(normal(4, 2), normal(4, 2).requires_grad_())
    assert not x0.requires_grad


def test_paired_goes_around_a_stream():
    x0, eps, t, y = normal(8, 2), normal(8, 2, seed=1), torch.rand(8), torch.arange(8)
    ((kept, times, moved, labels),) = paired([(x0, t, eps, y)], optimal_transport)
    assert times is t and labels is y and kept is x0
    torch.testing.assert_close(moved, optimal_transport(x0, eps)[1])


@pytest.mark.parametrize("coupling", [*PERMUTING, transport_cost])
def test_bad_pairs_are_named(coupling):
    good = torch.zeros(3, 1)
    with pytest.raises(ValueError, match=r"same shape, got \(3, 1\) and \(2, 1\)"):
        coupling(good, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="eps must be finite"):
        coupling(good, torch.full((3, 1), math.nan))
    with pytest.raises(TypeError, match="x0 must be a floating-point"):
        coupling(good.long(), good)
    with pytest.raises(ValueError, match=r"batch axis, \(B, \*D\), got shape \(3,\)"):
        coupling(torch.zeros(3), torch.zeros(3))


def test_sorting_needs_one_coordinate():
    with pytest.raises(ValueError, match=r"one coordinate, \(B, 1\), got \(3, 2\)"):
        sort_coupling(torch.zeros(3, 2), torch.zeros(3, 2))


def test_without_scipy_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setattr(couplings, "require", lambda module: extras.require("no_such_scipy"))
    with pytest.raises(ImportError, match=r'pip install "minidiff\[book\]"'):
        optimal_transport(torch.zeros(2, 2), torch.zeros(2, 2))
