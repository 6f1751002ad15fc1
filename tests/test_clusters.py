"""Soft and hard k-means against the mixture's likelihood, a loop over points, and scikit-learn."""

import itertools

import pytest
import torch

from minidiff.analytic import Empirical, GaussianMixture
from minidiff.clusters import em_step, free_energy, shares
from minidiff.process import RectifiedFlow


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def three_groups(seed=0):
    return (3 * normal(3, 1, 2, seed=seed) + 0.5 * normal(3, 40, 2, seed=seed + 1)).flatten(0, 1)


@pytest.mark.parametrize("r", [0.1, 1.0, 5.0])
def test_shares_are_the_weights_of_the_empirical_denoiser(r):
    """The centres are the data, the points are noisy: y = x/α at the time with σ/α = r."""
    points, centres = three_groups(), normal(4, 2, seed=7)
    t = torch.tensor(r / (1 + r), dtype=torch.float64)
    process = RectifiedFlow()
    expected = Empirical(process, centres).weights(process.alpha(t) * points, t)
    torch.testing.assert_close(shares(points, centres, r), expected)


def test_free_energy_is_the_likelihood():
    points, centres, r = three_groups(), normal(4, 2, seed=7), 0.8
    t = torch.tensor(0.0, dtype=torch.float64)
    mixture = GaussianMixture(RectifiedFlow(), torch.ones(4), centres, stds=r)
    nats = mixture.log_prob(points, t) + torch.log(2 * torch.pi * torch.tensor(r**2).double())
    torch.testing.assert_close(free_energy(points, centres, r), -(r**2) * nats.sum())


@pytest.mark.parametrize("r", [0.0, 0.3, 1.0, 3.0])
def test_a_step_never_raises_the_free_energy(r):
    points, centres = three_groups(), normal(3, 2, seed=9)
    values = []
    for _ in range(20):
        values.append(float(free_energy(points, centres, r)))
        centres = em_step(points, centres, r)
    assert all(after <= before + 1e-10 * abs(before) for before, after in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_hard_step_by_a_loop():
    points, centres = three_groups(), normal(3, 2, seed=9)
    moved = em_step(points, centres, 0.0)
    nearest = [min(range(3), key=lambda k, x=x: float((x - centres[k]).norm())) for x in points]
    for k in range(3):
        own = [x for x, j in zip(points, nearest, strict=True) if j == k]
        torch.testing.assert_close(moved[k], torch.stack(own).mean(0) if own else centres[k])


def test_limits():
    points = three_groups()
    centres = torch.cat([points[:2], torch.full((1, 2), 100.0, dtype=torch.float64)])
    torch.testing.assert_close(em_step(points, centres, 1e-8), em_step(points, centres, 0.0))
    torch.testing.assert_close(em_step(points, centres, 0.0)[2], centres[2])  # nobody's nearest
    torch.testing.assert_close(em_step(points, points[:3], 1e5), points.mean(0).expand(3, 2), rtol=1e-6, atol=1e-6)
    tie = shares(torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), 0.0)
    torch.testing.assert_close(tie, torch.tensor([[0.5, 0.5, 0.0]]))
    assert em_step(points.float(), points[:3].float(), 0.0).dtype == torch.float32


def test_k_means_of_scikit_learn():
    kmeans = pytest.importorskip("sklearn.cluster").KMeans
    points = three_groups()
    start = points[[0, 50, 100]]
    centres = start
    for _ in range(50):
        centres = em_step(points, centres, 0.0)
    model = kmeans(3, init=start.numpy(), n_init=1, tol=0, algorithm="lloyd").fit(points.numpy())
    torch.testing.assert_close(centres, torch.from_numpy(model.cluster_centers_))
    assert float(free_energy(points, centres, 0.0)) == pytest.approx(model.inertia_ / 2)


def test_wrong_arguments():
    for function in (shares, em_step, free_energy):
        with pytest.raises(ValueError, match="r must be"):
            function(normal(3, 2), normal(2, 2), -1.0)
        with pytest.raises(
            ValueError, match=r"points must be \(N, D\) and centres \(K, D\), got \(3, 2\) and \(2, 3\)"
        ):
            function(normal(3, 2), normal(2, 3), 1.0)
        with pytest.raises(ValueError, match="finite"):
            function(normal(3, 2), normal(2, 2) * torch.nan, 1.0)
