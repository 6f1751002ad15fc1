"""The benchmark behind the chapter on inverse problems, at a size that takes seconds."""

import pytest
import torch
from copies import Copies

from minidiff import data, zoo
from minidiff.analytic import Empirical
from minidiff.bench import inverse, pictures, results
from minidiff.process import RectifiedFlow


class Judge(torch.nn.Module):
    """Ten fixed linear scores of an image."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight)

    def forward(self, x):
        return x.flatten(1) @ self.weight.mT


@pytest.fixture
def small(monkeypatch, checkout):
    """Forty training digits, few calls and samples, an exact denoiser in place of the network."""
    for stage, name, value in (
        (inverse.methods, "CALLS", 8),
        (inverse.posterior, "SAMPLES", 40),
        (inverse.posterior, "MEASURED", 1),
        (inverse.network, "RESTORED", 8),
        (inverse.edit, "EDITED", 6),
        (inverse.edit, "TIMES", (0.2, 0.8)),
    ):
        monkeypatch.setattr(stage, name, value)
    images, labels = data.digits("all")
    monkeypatch.setattr(data, "digits", lambda split: (images[:40], labels[:40]))
    denoiser = Copies()
    denoiser.requires_grad_ = lambda flag: denoiser
    monkeypatch.setattr(zoo, "load", lambda name: denoiser if name == "digits-unet" else Judge())
    return checkout


def test_measurements_are_noisy_images_of_the_operator(small):
    for A, s in inverse.tasks.operators().values():
        images, y, labels = inverse.tasks.measurements(A, s, 40)
        assert len(images) == len(labels) == 40
        noise = (y - A(images)) / s
        assert abs(float(noise.square().mean()) - 1) < 5 * (2 / noise.numel()) ** 0.5


def test_the_exact_posterior_beats_the_prior(small, monkeypatch):
    monkeypatch.setattr(inverse.methods, "CALLS", 30)
    monkeypatch.setattr(inverse.posterior, "SAMPLES", 200)
    prior = Empirical(RectifiedFlow(), data.digits("train")[0])
    measured = inverse.posterior.compared
    for task in inverse.tasks.operators():
        exact, blind = (measured(task, name, prior) for name in ("exact posterior", "prior, y ignored"))
        assert exact["total_variation"] < exact["floor"] + 4 * 0.5 / 200**0.5
        assert blind["total_variation"] > exact["total_variation"] + 0.3


def test_attacks_stay_small_and_raise_the_loss():
    images, labels = data.digits("test")
    images, labels, judge = images[:20], labels[:20], Judge()
    hurt = inverse.edit.attacked(judge, images, labels, 0.2)
    assert float((hurt - images).abs().max()) <= 0.2 + 1e-6
    assert float(hurt.abs().max()) <= 1
    loss = torch.nn.functional.cross_entropy
    assert float(loss(judge(hurt), labels)) > float(loss(judge(images), labels))


def test_everything_is_stored(small):
    inverse.main(["posterior", "network", "edit"])
    table = results.load("inverse-posterior")["data"]["table"]
    assert {row["method"] for row in table} == set(inverse.methods.METHODS)
    assert all(0 <= row["total_variation"] <= 1 for row in table)
    network = results.load("inverse-network")["data"]["table"]
    assert all(row["fit"] >= 0 for row in network)
    truth = pictures.unpacked(network[0]["first"], (8, 1, 8, 8))
    images, _, _ = inverse.tasks.measurements(*inverse.tasks.operators()["inpainting"], 8)
    torch.testing.assert_close(truth, images, rtol=0, atol=0.5 / 127.5 + 1e-6)
    assert [row["t"] for row in results.load("inverse-edit")["data"]["table"]] == [0.2, 0.8]
    with pytest.raises(ValueError, match="stages are"):
        inverse.main(["nothing"])


@pytest.fixture
def few(small, monkeypatch):
    """Three steps of training on forty digits, five calls, one seed; the judge has features."""
    for name, value in (("STEPS", 3), ("BATCH", 16), ("WIDTH", 16), ("CALLS", 5), ("SEEDS", (0,))):
        monkeypatch.setattr(inverse.structured, name, value)
    monkeypatch.setattr(Judge, "features", lambda judge, x: judge(x)[:, :3], raising=False)
    return small


def test_regions_are_connected_and_of_one_shade():
    image = -torch.ones(1, 1, 8, 8)
    image[0, 0, 1:4, 1:4] = 1
    image[0, 0, 2, 2] = -1
    image[0, 0, 6, 5:7] = 0.8
    regions = inverse.structured.segmented(image)[0]
    shade = {(int(m), bool(ink)) for m, ink in zip(regions.flatten(), (image > 0).flatten(), strict=True)}
    assert len({m for m, _ in shade}) == len(shade) == 4  # paper, ring, its hole, dash
    assert {m for m, _ in shade} == {0, 1, 2, 3}


def test_the_error_of_a_region_is_its_mean(few):
    test = inverse.structured.pictures("test")
    error = torch.randn(test.regions.shape, generator=torch.Generator().manual_seed(0))
    mean, ink = inverse.structured.per_region(error, test)
    expected = [
        (float(e[labels == m].mean()), float(x[0][labels == m].mean() - x.mean()) > 0)
        for e, labels, x in zip(error, test.regions, test.x, strict=True)
        for m in labels.unique()
    ]
    torch.testing.assert_close(mean, torch.tensor([v for v, _ in expected], dtype=torch.float64), rtol=0, atol=1e-6)
    assert ink.tolist() == [v for _, v in expected]


@pytest.mark.parametrize("schedule", ["cosine, T = 100", "linear, T = 1000"])
def test_a_perfect_network_restores_every_digit(few, monkeypatch, schedule):
    test = inverse.structured.pictures("test")
    betas, scale = inverse.structured.schedules()[schedule], 0.5
    truth = ((test.x - test.u) / scale).repeat(inverse.structured.DRAWS, 1, 1, 1)
    process = inverse.structured.Restorer(torch.nn.Identity(), betas, test.u, scale).process

    def perfect(net, x, u, t):
        return (x - float(process.alpha(t)) * truth) / float(process.sigma(t))

    monkeypatch.setattr(inverse.structured, "answer", perfect)
    made = inverse.structured.draws(torch.nn.Identity(), "paper", betas, test, test, scale)
    assert set(made) == {(sampler, start) for sampler in ("ancestral", "ddim") for start in ("none", "mean", "true")}
    for draws in made.values():
        torch.testing.assert_close(draws, test.x.expand_as(draws), rtol=0, atol=1e-3)


def test_structured_noise_is_trained_and_stored(few):
    inverse.main(["structured"])
    stored = results.load("inverse-structured")["data"]
    assert len(stored["table"]) == 6
    for row in stored["table"]:
        assert len(row["runs"]) == (2 if row["form"] == "none" else 6)
        assert all(run["bias"] >= 0 and 0 <= run["same_class"] <= 1 for run in row["runs"])
    assert stored["enlarged"]["psnr"] > 8
