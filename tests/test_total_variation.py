"""Total variation: hand-made laws, nearest points, and the floor against simulation."""

import pytest
import torch

from minidiff.metrics import frequencies, nearest_index, total_variation, total_variation_floor

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_by_hand():
    p, q = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), torch.tensor([[0.0, 0.5, 0.5], [0.2, 0.3, 0.5]])
    torch.testing.assert_close(total_variation(p, q), torch.tensor([0.5, 0.0], dtype=F64))
    assert float(total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))) == 1


def test_the_nearest_point():
    points = torch.randn(5000, 2, 3, generator=gen(), dtype=F64)  # more than a block
    chosen = torch.randint(5000, (40,), generator=gen(1))
    samples = points[chosen] + 1e-4 * torch.randn(40, 2, 3, generator=gen(2), dtype=F64)
    assert torch.equal(nearest_index(samples, points), chosen)
    counts = frequencies(points[[0, 0, 3, 1]], points[:5])
    assert counts.tolist() == [0.5, 0.25, 0.0, 0.25, 0.0]


@pytest.mark.parametrize("n", [1, 7, 400])
@pytest.mark.parametrize("seed", range(2))
def test_the_floor_is_the_mean_of_exact_draws(n, seed):
    """4000 repetitions; five standard errors."""
    p = torch.rand(12, generator=gen(seed), dtype=F64) ** 4
    p[0] = 0.0
    p = p / p.sum()
    draws = torch.multinomial(p.expand(4000, -1), n, replacement=True, generator=gen(seed + 1))
    found = torch.nn.functional.one_hot(draws, 12).double().mean(1)
    scores = total_variation(found, p.expand(4000, -1))
    assert abs(float(scores.mean()) - total_variation_floor(p, n)) < 5 * float(scores.std()) / 4000**0.5 + 1e-12
    assert float(scores.std()) <= 0.5 / n**0.5


def test_a_certain_outcome_has_no_floor():
    assert total_variation_floor(torch.tensor([0.0, 1.0]), 10) == 0


def test_refusals():
    half = torch.tensor([0.5, 0.5])
    for call, message in (
        (lambda: total_variation(half, torch.ones(3) / 3), "p and q must have the same shape"),
        (lambda: total_variation(half, torch.tensor([0.5, 0.6])), "q must be probabilities"),
        (lambda: total_variation(torch.tensor([1.5, -0.5]), half), "p must be probabilities"),
        (lambda: nearest_index(torch.zeros(1, 2), torch.zeros(3, 3)), "samples and points must fit"),
        (lambda: total_variation_floor(half, 0), "n must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
