"""The benchmark behind the score-matching chapter, at a size that takes seconds."""

import json

import pytest
import torch
from copies import Copies

from minidiff import data, zoo
from minidiff.bench import score
from minidiff.metrics import CountCalls
from minidiff.process import VE, RectifiedFlow


@pytest.mark.parametrize("process", [VE(0.01, 50.0), RectifiedFlow()], ids=["VE", "RF"])
def test_annealing_the_exact_denoiser_of_few_digits_copies_them(process):
    D = CountCalls(Copies(process))
    made = score.annealed(D, (8, 1, 8, 8), 12, 5, 0.5)
    assert D.calls == 61
    distance = torch.cdist(made.flatten(1), data.digits("train")[0][:40].flatten(1)).amin(1)
    assert float(distance.max()) < 0.05


def test_the_benchmark_is_stored_and_resumes(monkeypatch, checkout, capsys):
    images, labels = data.digits("all")
    judge = zoo.load("digits-classifier")
    monkeypatch.setattr(data, "digits", lambda split: (images[:60], labels[:60]))
    monkeypatch.setattr(zoo, "load", lambda name: judge if "classifier" in name else Copies())
    monkeypatch.setattr(score, "LADDERS", ((3, 2, 0.5),))
    monkeypatch.setattr(score, "DEFAULT", (2,))
    score.main([])
    path = checkout / "book" / "results" / "score-samples.json"
    stored = json.loads(path.read_text())["data"]
    assert [row["calls"] for row in stored["table"]] == [2, 7]
    assert stored["n"] == 60
    assert stored["floor"] > 0
    capsys.readouterr()
    score.main([])
    assert capsys.readouterr().out == ""
    assert json.loads(path.read_text())["data"] == stored


def test_the_benchmark_takes_no_arguments():
    with pytest.raises(ValueError, match=r"takes no arguments, got \['samples'\]"):
        score.main(["samples"])
