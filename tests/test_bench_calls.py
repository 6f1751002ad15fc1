"""The benchmark behind the chapter on better spent calls, at a size that takes seconds."""

import pytest
import torch
from copies import Copies

from minidiff import data, zoo
from minidiff.bench import calls, results
from minidiff.zoo import recipes


@pytest.fixture
def small(monkeypatch, checkout):
    (images, labels), judge = data.digits("all"), zoo.load("digits-classifier")
    parts = {"all": slice(100), "train": slice(1400), "test": slice(1400, 1600)}
    monkeypatch.setattr(data, "digits", lambda split: (images[parts[split]], labels[parts[split]]))
    monkeypatch.setattr(zoo, "load", lambda name: judge if "classifier" in name else Copies())
    monkeypatch.setattr(recipes, "train_model", lambda name, seed: judge)
    for stage, name, value in (
        (calls.parallel, "BATCH", 4),
        (calls.parallel, "REFERENCE", 12),
        (calls.late, "STARTS", (0.2, 0.0)),
        (calls.late, "VAE_STEPS", 3),
        (calls.selection, "BUDGETS", (1, 20)),
        (calls.selection, "SEARCHED", (1, 2)),
        (calls.selection, "PARTICLES", (2,)),
        (calls.selection, "TARGETS", 2),
        (calls.selection, "CHAIN", 6),
    ):
        monkeypatch.setattr(stage, name, value)


def test_parallel(small, monkeypatch):
    settings = [("default", 4), ("ddim", 9), ("picard", 9, "linear", None, 0.0), ("picard", 9, "identity", 3, 0.01)]
    settings += [("parareal", 9, 3, 0.01), ("speculative", 8, "held"), ("speculative", 8, "Wiener")]
    assert {setting[0] for setting in calls.parallel._settings()} == {setting[0] for setting in settings}
    monkeypatch.setattr(calls.parallel, "_settings", lambda: settings)
    calls.main(["parallel"])
    table = results.load("calls-parallel")["data"]["table"]
    assert [row["depth"] for row in table[:2]] == [4, 9]
    assert table[2]["to sequential"] < 1e-5
    assert table[2]["error"] == pytest.approx(table[1]["error"], abs=1e-4)
    assert all(row["depth"] <= row["calls"] for row in table)
    assert len(table[5]["rejected at"]) == 5


def test_late(small, capsys):
    calls.main(["late"])
    table = results.load("calls-late")["data"]["table"]
    assert [row["calls"] for row in table] == [10, *[2, 0] * 4]
    assert {row["prior"] for row in table} == {"isotropic", "Gaussian", "a Gaussian a class", "VAE"}
    assert all(row["frechet"] > 0 for row in table)
    capsys.readouterr()
    calls.main(["late"])  # nothing is drawn a second time
    assert not capsys.readouterr().out


def test_selection(small):
    calls.main(["selection"])
    found = results.load("calls-selection")["data"]
    rewards = {(row["method"], row["draws"]): row["reward"] for row in found["table"]}
    assert rewards["best of n", 20] > rewards["best of n", 1]
    assert rewards["search", 2] >= rewards["search", 1]
    assert found["correlation"] == pytest.approx(1)
    assert found["real"]["accuracy"] > 0.9
    assert found["table"][-1]["particles"] == 2


def test_log_odds():
    logits = torch.tensor([[1.0, 0.0, -2.0]])
    p = logits.softmax(1)[0, 0]
    torch.testing.assert_close(calls.selection.log_odds(logits, torch.tensor([0])), (p / (1 - p)).log()[None])


def test_unknown_stage():
    with pytest.raises(ValueError, match="stages are"):
        calls.main(["all"])
