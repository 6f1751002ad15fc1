"""The benchmark behind the chapter on five names, at a size that takes seconds."""

import json

import pytest
import torch

from minidiff import objectives
from minidiff.bench import five_names
from minidiff.denoiser import Denoiser


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, two dimensions, twelve steps."""
    settings = {"STEPS": 12, "DIMENSIONS": (2, 8), "SEEDS": (0,), "WIDTH": 8, "DRAWN": 40, "POINTS": 300}
    for name, value in settings.items():
        monkeypatch.setattr(five_names, name, value)
    return checkout


@pytest.mark.parametrize("dimension", [2, 7])
def test_the_frame_is_an_isometry(dimension):
    plane = five_names.frame(dimension, seed=3)
    torch.testing.assert_close(plane.mT @ plane, torch.eye(2), rtol=0, atol=1e-6)
    assert not torch.equal(plane, five_names.frame(dimension, seed=4))


def test_batches_lie_in_the_plane_and_repeat_with_the_seed(small):
    plane = five_names.frame(8)
    (first,), (again,) = next(five_names.batches(plane, 0)), next(five_names.batches(plane, 0))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(first @ plane @ plane.mT, first, rtol=0, atol=1e-5)


def test_the_three_networks_differ_in_nothing_but_the_name(small):
    """Before the first step every output is 0, so the losses are those of x̂_0 = 0, v̂ = 0 and ε̂ = 0."""
    plane = five_names.frame(8)
    x0, t, eps = next(five_names.noised(five_names.batches(plane, 0), five_names.times.uniform_density(low=1e-3), 0))
    alpha, sigma = five_names.PROCESS.alpha(t)[:, None], five_names.PROCESS.sigma(t)[:, None]
    size = {"x0": x0 / sigma, "v": alpha * eps - sigma * x0, "eps": eps / alpha}
    for predicts, error in size.items():
        D = Denoiser(five_names.MLP(8, 8), five_names.PROCESS, predicts)
        loss = objectives.denoising_loss(D, x0, t, eps, weight=objectives.v)
        torch.testing.assert_close(loss, error.square().mean(1).float(), rtol=1e-3, atol=1e-4)


def test_an_exact_denoiser_leaves_the_plane_by_nothing(small):
    """x̂_0 = the projection onto the plane: the samples lie in it."""
    plane = five_names.frame(8)

    class Projection(torch.nn.Module):
        def forward(self, x, t, y=None):
            return x @ plane @ plane.mT

    within, outside = five_names.drawn(Denoiser(Projection(), five_names.PROCESS, "x0"), plane, calls=5)
    assert within.shape == (40, 2) and outside < 1e-4


def test_rows_are_stored_and_an_interrupted_run_goes_on(small, monkeypatch, capsys):
    five_names.main(["predictions"])
    stored = json.loads((small / "book" / "results" / "names-predictions.json").read_text())
    table = stored["data"]["table"]
    assert [(row["dimension"], row["predicts"]) for row in table] == [
        (dimension, predicts) for dimension in (2, 8) for predicts in ("x0", "v", "eps")
    ]
    assert all(row["off_plane"] < 1e-4 for row in table[:3])
    kept = small / five_names.FOLDER / "rows.json"
    kept.write_text(json.dumps(table[:5]))
    capsys.readouterr()
    five_names.main(["predictions"])
    assert capsys.readouterr().out.count("dimension") == 1  # only the missing row was made again
    with pytest.raises(ValueError, match=r"stages are .*got 'fast'"):
        five_names.main(["fast"])


class Faded(torch.nn.Module):
    """x̂_0 = (a, b) on every digit's first two pixels, 0 elsewhere: a gradient that can be written down."""

    process = five_names.PROCESS

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, x, t, y=None):
        return torch.nn.functional.pad(self.value.reshape(1, 1, 1, 2), (0, 6, 0, 7)).expand(x.shape)


def test_gradient_moments_by_random_signs():
    """g = −2 SNR/64 (x_0 − x̂_0) on the two pixels: its moments by one backward pass a sample, the same digits."""
    D, low, high = Faded(), torch.tensor(-0.2).double(), torch.tensor(0.3).double()
    single, mean = five_names.gradient_moments(D, low, high, torch.Generator().manual_seed(0), n=200, draws=300)
    generator = torch.Generator().manual_seed(0)
    lam = low + (high - low) * torch.rand(200, generator=generator, dtype=torch.float64)
    row = torch.randint(1437, (200,), generator=generator)
    x0 = five_names.data.digits("train")[0][row, 0, 0, :2].double()
    g = -2 / 64 * torch.exp(2 * lam)[:, None] * (x0 - D.value.detach().double())
    # |Σ s g|² of two coordinates has a relative standard deviation of at most √2, so 300 draws have one of 0.08
    assert single == pytest.approx(float(g.square().sum(1).mean()), rel=0.35)
    assert mean == pytest.approx(float(g.mean(0).square().sum()), rel=1e-4)


def test_gradients_are_stored(small, monkeypatch):
    monkeypatch.setattr(five_names, "SAMPLES", 6)
    monkeypatch.setattr(five_names.zoo, "load", lambda name: Faded())
    five_names.main(["gradients"])
    data = json.loads((small / "book" / "results" / "names-gradients.json").read_text())["data"]
    assert len(data["lam"]) == len(data["second_moment"]) == 12 and min(data["second_moment"]) > 0
