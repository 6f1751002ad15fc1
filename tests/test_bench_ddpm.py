"""The benchmark behind the DDPM chapter, at a size that takes seconds."""

import pytest
import torch
from torch import nn

from minidiff import bound, data, times
from minidiff.bench import ddpm, results
from minidiff.denoiser import Denoiser
from minidiff.process import Tabulated

STEPS = 12


class Shrink(nn.Module):
    """ε̂ = g x with one parameter: a network that costs nothing."""

    def __init__(self, classes=None):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, y=None):
        return self.gain * x


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, twenty digits, twelve steps and a trivial network."""
    settings = {"T": STEPS, "TRAINING_STEPS": 8, "SCHEDULE_STEPS": 4, "RESPACED": (3, STEPS), "SAMPLED": (3,)}
    for name, value in settings.items():
        monkeypatch.setattr(ddpm, name, value)
    images, labels = data.digits("all")
    monkeypatch.setattr(data, "digits", lambda split: (images[:140], labels[:140]))
    monkeypatch.setattr(ddpm, "UNet", Shrink)
    betas = tuple(torch.linspace(0.1, 0.3, STEPS, dtype=torch.float64).tolist())
    monkeypatch.setattr(ddpm, "SCHEDULES", {"linear": lambda steps: betas})
    return checkout


@pytest.fixture
def denoiser(small):
    return Denoiser(Shrink(), Tabulated(ddpm.SCHEDULES["linear"](STEPS)), "eps")


@pytest.mark.parametrize("steps", [4, STEPS])
def test_terms_for_another_variance_are_those_of_the_bound(denoiser, steps):
    grid = times.trailing(steps, STEPS)
    v = torch.rand(steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = ddpm.with_variance(denoiser, grid, ddpm.terms(denoiser, "test", grid), v)
    images, labels = data.digits("test")
    same_noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        nats = bound.vlb(denoiser, images, grid, levels=17, variance=v, y=labels, generator=same_noise)
    torch.testing.assert_close(got, bound.bits_per_dim(nats, 64), rtol=1e-9, atol=1e-12)


def test_best_interpolation_has_the_least_bound(denoiser):
    grid = times.trailing(STEPS, STEPS)
    bits = ddpm.terms(denoiser, "test", grid)
    best = ddpm.best_interpolation(denoiser.process, grid, bits.mean(0)).double()
    least = ddpm.with_variance(denoiser, grid, bits, best).mean(0)
    for step in (-0.05, 0.05):
        other = ddpm.with_variance(denoiser, grid, bits, best + step).mean(0)
        assert bool((other[1:-1] > least[1:-1]).all())


def test_schedules_are_those_of_the_papers():
    linear, scaled, cosine = (torch.tensor(make(1000), dtype=torch.float64) for make in ddpm.SCHEDULES.values())
    assert torch.log1p(-linear).sum().exp() == pytest.approx(4.036e-5, rel=1e-3)  # Ho et al. 2020
    terminal = torch.log1p(-scaled).sum().exp()
    assert terminal / (1 - terminal) == pytest.approx(0.0047, abs=5e-5)  # Lin et al. 2024, table 1
    assert cosine.max() == 0.999
    n = 700
    angle = torch.tensor([(n / 1000 + 0.008) / 1.008, 0.008 / 1.008], dtype=torch.float64) * torch.pi / 2
    expected = (torch.cos(angle[0]) / torch.cos(angle[1])) ** 2
    assert torch.log1p(-cosine[:n]).sum().exp() == pytest.approx(float(expected), rel=1e-9)


def test_bound_and_schedules_are_stored(small):
    ddpm.main(["bound", "schedules"])
    result = results.load("ddpm-bound")["data"]
    assert len(result["terms"]) == STEPS + 1
    whole = next(row for row in result["table"] if row["steps"] == STEPS and row["variance"] == "posterior")
    assert sum(result["terms"]) == pytest.approx(whole["bits"])
    assert whole["prior"] + whole["transitions"] + whole["decoder"] == pytest.approx(whole["bits"])
    assert {row["variance"] for row in result["table"]} == {"posterior", "forward", "best"}
    assert [row["schedule"] for row in results.load("ddpm-schedules")["data"]["table"]] == ["linear"]


def test_samples_are_stored(small, monkeypatch):
    from minidiff import zoo

    class Judge(nn.Module):
        def features(self, x):
            return x.flatten(1)[:, 20:30]

        def forward(self, x):
            return x.flatten(1)[:, 20:30]

    monkeypatch.setattr(zoo, "load", lambda name: Judge())
    ddpm.main(["samples"])
    result = results.load("ddpm-samples")["data"]
    assert result["n"] == 140 and result["floor"] > 0
    assert [(row["steps"], row["variance"]) for row in result["table"]] == [(3, "posterior"), (3, "forward")]
    monkeypatch.setattr(ddpm, "SAMPLED", (3, 4))
    ddpm.main(["samples"])  # goes on: what is finished is not drawn again, to the second of its CPU time
    longer = results.load("ddpm-samples")["data"]["table"]
    assert longer[:2] == result["table"]
    assert [row["steps"] for row in longer[2:]] == [4, 4]


def test_unknown_stage():
    with pytest.raises(ValueError, match=r"stages are .*'bound'.*, got 'boundary'"):
        ddpm.main(["boundary"])
