"""Baselines: mixtures of neighbours lie between them; the mixture along principal axes is what EM promises."""

import itertools

import pytest
import torch

from minidiff.analytic import GaussianMixture
from minidiff.families.baselines import neighbour_interpolation, pca_mixture
from minidiff.process import VE

F64 = torch.float64
START = torch.zeros((), dtype=F64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n, seed=0):
    """Two blobs far apart in five dimensions, of which two vary much."""
    z = torch.randn(n, 5, generator=gen(seed), dtype=F64) * torch.tensor([1.0, 0.6, 0.05, 0.05, 0.05], dtype=F64)
    z[: n // 3, 0] += 8
    return z


class Free(VE):
    """No noise at t = 0."""

    def sigma(self, t):
        return super().sigma(t) * (t > 0)


def test_mixtures_lie_between_neighbours():
    """On a line at 0, 1, 2, 10: with one neighbour every sample is in [0, 2] or, from the far point, [2, 10]."""
    data = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    made = neighbour_interpolation(data, 4000, 1, gen())[:, 0]
    assert float(made.min()) >= 0 and float(made.max()) <= 10
    assert 0.2 < float((made > 2).double().mean()) < 0.3
    assert len(made.unique()) > 3900  # mixed, not copied
    below = made[made <= 2]
    assert float(below.std()) > 0.4


@pytest.mark.parametrize("k", [1, 3])
def test_each_sample_is_a_convex_combination_of_a_row_and_a_near_one(k):
    data = torch.randn(30, 1, 2, 2, generator=gen())
    made = neighbour_interpolation(data, 50, k, gen(1))
    assert made.shape == (50, 1, 2, 2)
    rows = data.flatten(1)
    near = torch.cdist(rows, rows).fill_diagonal_(torch.inf).topk(k, largest=False).indices
    for x in made.flatten(1):
        gaps = []
        for i in range(30):
            for j in near[i]:
                line = rows[j] - rows[i]
                w = ((x - rows[i]) @ line / (line @ line)).clamp(0, 1)
                gaps.append(float((x - rows[i] - w * line).norm()))
        assert min(gaps) < 1e-5
    assert torch.equal(made, neighbour_interpolation(data, 50, k, gen(1)))


def test_one_component_with_all_axes_is_the_gaussian_of_the_data():
    x = blobs(400)
    law = pca_mixture(VE(), x, components=1, axes=5, steps=2, ridge=1e-9)
    torch.testing.assert_close(law.means[0], x.mean(0))
    truth = GaussianMixture(
        VE(), torch.ones(1, dtype=F64), x.mean(0)[None], torch.cov(x.mT, correction=0)[None] + 1e-9 * torch.eye(5)
    )
    torch.testing.assert_close(law.log_prob(x, START + 0.1), truth.log_prob(x, START + 0.1), rtol=1e-5, atol=1e-5)


def test_it_finds_the_blobs():
    x = blobs(900)
    law = pca_mixture(VE(), x, components=2, axes=2, generator=gen(3))
    centres = law.means[law.means[:, 0].argsort()]
    torch.testing.assert_close(centres[:, 0], torch.tensor([0.0, 8.0], dtype=F64), atol=0.2, rtol=0)
    assert float(law.weights.min()) == pytest.approx(1 / 3, abs=0.02)
    # The other three axes have the variance 0.05², and the density is close to that of the truth on fresh data.
    fresh = blobs(900, 1)
    one = pca_mixture(VE(), x, components=1, axes=2)
    assert float((law.log_prob(fresh, START) - one.log_prob(fresh, START)).mean()) > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_more_steps_do_not_lower_the_likelihood(seed):
    x = blobs(300, seed)
    values = [
        float(pca_mixture(Free(), x, 3, 2, steps=n, ridge=1e-6, generator=gen(seed)).log_prob(x, START).mean())
        for n in (1, 2, 4, 8, 30)
    ]
    assert all(after >= before - 1e-6 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: neighbour_interpolation(torch.zeros(3, 2), 0), ValueError, "n must be at least 1"),
        (lambda: neighbour_interpolation(torch.zeros(3, 2), 2, 0), ValueError, "k must be at least 1"),
        (lambda: neighbour_interpolation(torch.zeros(3, 2), 2, 3), ValueError, "k must be below the number of rows 3"),
        (lambda: neighbour_interpolation(torch.full((3, 2), torch.nan), 2, 1), ValueError, "data must be finite"),
        (lambda: pca_mixture(VE(), torch.zeros(3, 2), 5, 1), ValueError, r"N ≥ 5 and D ≥ 1, got \(3, 2\)"),
        (lambda: pca_mixture(VE(), torch.zeros(30, 2), 5, 3), ValueError, "D ≥ 3"),
        (lambda: pca_mixture(VE(), blobs(30), 0), ValueError, "components must be at least 1"),
        (lambda: pca_mixture(VE(), blobs(30), 2, 2, ridge=0.0), ValueError, "ridge must be"),
        (lambda: pca_mixture(VE(), blobs(30), 2, 2, steps=0), ValueError, "steps must be at least 1"),
        (lambda: pca_mixture(VE(), torch.full((30, 2), torch.nan), 2, 2), ValueError, "data must be finite"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
