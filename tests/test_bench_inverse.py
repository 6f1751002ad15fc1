"""The benchmark behind the chapter on inverse problems, at a size that takes seconds."""

import pytest
import torch
from copies import Copies

from minidiff import data, zoo
from minidiff.analytic import Empirical
from minidiff.bench import inverse, results
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
    truth = torch.tensor([list(bytes.fromhex(shades)) for shades in network[0]["first"]]) / 127.5 - 1
    images, _, _ = inverse.tasks.measurements(*inverse.tasks.operators()["inpainting"], 8)
    torch.testing.assert_close(truth, images.flatten(1), rtol=0, atol=0.5 / 127.5 + 1e-6)
    assert [row["t"] for row in results.load("inverse-edit")["data"]["table"]] == [0.2, 0.8]
    with pytest.raises(ValueError, match="stages are"):
        inverse.main(["nothing"])
