"""The benchmark behind the flow-matching chapter, at a size that takes seconds."""

import json

import pytest
import torch
from torch import nn

from minidiff import data, zoo
from minidiff.bench import flow
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
def small(monkeypatch, tmp_path):
    """A checkout with an empty book/results, seventy digits and a trivial network."""
    (tmp_path / "book" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    settings = {"PAIRS": 60, "REFLOW_STEPS": 4, "STEPS": (1, 3), "FINE": 8}
    for name, value in settings.items():
        monkeypatch.setattr(flow, name, value)
    images, labels = data.digits("all")
    monkeypatch.setattr(data, "digits", lambda split: (images[:140], labels[:140]))
    models = {"digits-unet": lambda: Denoiser(Line(), RectifiedFlow(), "velocity", 0.5), "digits-classifier": Judge}
    monkeypatch.setattr(zoo, "load", lambda name: models[name]())
    return tmp_path


def stored(folder, name):
    return json.loads((folder / "book" / "results" / f"{name}.json").read_text())["data"]


def test_reflow_is_stored_and_resumed(small, monkeypatch):
    flow.main([])
    kept = stored(small, "flow-reflow")
    for who in ("teacher", "student"):
        assert [row["steps"] for row in kept[who]["steps"]] == [1, 3]
        assert kept[who]["straightness"] >= 0 and kept[who]["cost"] > 0
    assert kept["independent_cost"] > 0
    monkeypatch.setattr(flow, "student", None)  # nothing is trained again
    flow.main([])
    assert stored(small, "flow-reflow") == kept


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


def test_there_are_no_arguments(small):
    with pytest.raises(ValueError, match="takes no arguments, got"):
        flow.main(["flows"])
