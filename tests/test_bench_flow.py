"""The benchmark behind the flow-matching chapter, at a size that takes seconds."""

import pytest
import torch
from torch import nn

from minidiff import data, zoo
from minidiff.bench import flow, results
from minidiff.denoiser import Denoiser
from minidiff.process import RectifiedFlow


class Line(nn.Module):
    """û = g x with one parameter: a network that costs nothing."""

    def __init__(self, classes=None):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, y=None):
        return self.gain * x


class Judge(nn.Module):
    """Features and logits that are the first ten pixels."""

    def features(self, x):
        return x.flatten(1)[:, 20:30]

    forward = features


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, seventy digits and a trivial network."""
    settings = {"PAIRS": 60, "REFLOW_STEPS": 4, "STEPS": (1, 3), "FINE": 8}
    for name, value in settings.items():
        monkeypatch.setattr(flow, name, value)
    images, labels = data.digits("all")
    monkeypatch.setattr(data, "digits", lambda split: (images[:140], labels[:140]))
    models = {"digits-unet": lambda: Denoiser(Line(), RectifiedFlow(), "velocity", 0.5), "digits-classifier": Judge}
    monkeypatch.setattr(zoo, "load", lambda name: models[name]())
    return checkout


def test_reflow_is_stored_and_resumed(small, monkeypatch):
    flow.main(["reflow"])
    kept = results.load("flow-reflow")["data"]
    for who in ("teacher", "student"):
        assert [row["steps"] for row in kept[who]["steps"]] == [1, 3]
        assert kept[who]["straightness"] >= 0 and kept[who]["cost"] > 0
    assert kept["independent_cost"] > 0
    monkeypatch.setattr(flow, "student", None)  # nothing is trained again
    flow.main(["reflow"])
    assert results.load("flow-reflow")["data"] == kept


def test_pairs_are_the_teachers_flow(small):
    """û = g x has the flow x_0 = e^{−g} ε."""
    teacher = Denoiser(Line(), RectifiedFlow(), "velocity", 0.5)
    x0, eps, y = flow.pairs(teacher)
    assert len(x0) == len(eps) == len(y) == 60
    torch.testing.assert_close(x0, eps * torch.tensor(-0.5).exp(), rtol=0.02, atol=0.02)


def test_student_starts_from_the_teacher_and_is_coupled(small):
    teacher = Denoiser(Line(), RectifiedFlow(), "velocity", 0.5)
    D = flow.student(teacher, *flow.pairs(teacher))
    assert D.coupled and D.process == teacher.process


def test_training_times_are_stored_and_resumed(small, monkeypatch):
    def small_net(channels, classes):
        assert (channels, classes) == (24, 10)
        return Line()

    monkeypatch.setattr(flow, "UNet", small_net)
    monkeypatch.setattr(flow, "TIMES_STEPS", 4)
    monkeypatch.setattr(flow, "SEEDS", (0, 1))
    monkeypatch.setattr(flow, "CALLS", 2)
    flow.main(["times"])
    kept = results.load("flow-times")["data"]
    assert [(row["density"], row["seed"]) for row in kept["rows"]] == [(d, s) for d in flow.DENSITIES for s in (0, 1)]
    assert all(row["frechet"] >= 0 for row in kept["rows"]) and kept["training_steps"] == 4
    monkeypatch.setattr(flow, "trained", None)  # nothing is trained again
    flow.main(["times"])
    assert results.load("flow-times")["data"] == kept


def test_trainings_differ_by_density_and_by_seed(small, monkeypatch):
    monkeypatch.setattr(flow, "UNet", lambda channels, classes: Line())
    monkeypatch.setattr(flow, "TIMES_STEPS", 4)
    uniform, middle = (flow.DENSITIES[name] for name in ("uniform", "logit-normal, m = 0"))
    gains = [float(flow.trained(density, seed).net.gain) for density, seed in ((uniform, 0), (middle, 0), (uniform, 1))]
    assert len(set(gains)) == 3
    assert float(flow.trained(uniform, 0).net.gain) == gains[0]


def test_stages_have_names(small):
    with pytest.raises(ValueError, match=r"stages are \['reflow', 'times'\], got 'flows'"):
        flow.main(["flows"])
