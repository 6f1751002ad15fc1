"""The benchmark behind the chapter on CausalVAE, at a size that takes seconds."""

import json

import pytest
import torch

from minidiff.bench import causal
from minidiff.data.vessel import NOISE, VESSEL, vessel
from minidiff.families.causal_graph import fit_graph, intervene, linear_scm


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, two hundred scenes, four steps."""
    for name, value in {"STEPS": 4, "SCENES": 200, "JUDGED": 12, "SEEDS": (0,), "WIDTH": 8}.items():
        monkeypatch.setattr(causal, name, value)
    return checkout


def test_where_a_starts_and_whether_it_stays(small):
    labels = fit_graph(causal.scenes(200, 100)[1])
    held = causal.train("graph held", 0, 4)
    assert torch.equal(held.A, labels) and not held.training and held.encodes == "concepts"
    moved = causal.train("labels first", 0, 4)
    assert 0 < float((moved.A - labels).abs().max()) < 0.05
    assert float(causal.train("all at once", 0, 4).A.abs().max()) < 0.05


class Perfect:
    """A model that knows the graph, and whose pictures carry their concepts in four pixels."""

    def __init__(self, u, A):
        self.u, self.A, self.vae = u, A, self

    def counterfactual(self, x, do, threshold):
        return intervene(self.A, self.u, do)

    def decode(self, z):
        return vessel(z), None


def test_a_perfect_model_has_no_error_but_that_of_grey_levels(small):
    u = causal.scenes(12, 1000)[1]
    found = causal.judge(Perfect(u, VESSEL), 0)
    assert found["error"] == 0 and found["factual"] < 1 / 16  # half a bin
    assert found["jet_per_ball"] == pytest.approx(0.72)
    assert found["untouched"] > found["alone"] > 0.05
    without = causal.judge(Perfect(u, 0 * VESSEL), 0)
    assert without["error"] == without["alone"] and without["jet_per_ball"] == 0


def test_a_cycle_has_no_counterfactual(small):
    model = causal.train("labels first", 0, 1)
    with torch.no_grad():
        model.weights.fill_(0.5)
    assert set(causal.judge(model, 0).values()) == {None}


def test_sharpness_undoes_the_best_widths(small):
    """s_i² = 2/Σ_j C_ji² J_j for a J of our own gives that J back."""
    model = causal.train("labels first", 0, 1)
    J = torch.tensor([3.0, 5.0, 2.0, 7.0], dtype=torch.float64)
    C = linear_scm(model.A.detach(), torch.eye(4)).mT.double()
    model.vae.encode = lambda x: (None, (2 / (C.square().mT @ J)).sqrt().float()[None])
    torch.testing.assert_close(causal.sharpness(model, torch.zeros(1)), J, rtol=1e-4, atol=0)


def test_balance():
    """No price: the truth. A price: smaller arrows of the same sign, nearer to the truth for heavier labels."""
    C = linear_scm(VESSEL.double(), torch.eye(4, dtype=torch.float64)).mT
    covariance, J, there = NOISE**2 * C @ C.mT, torch.ones(4, dtype=torch.float64), VESSEL != 0
    torch.testing.assert_close(causal.balance(covariance, J, 1.0, entropies=0.0), VESSEL.double(), atol=1e-6, rtol=0)
    light, heavy = (causal.balance(covariance, J, labels) / VESSEL for labels in (1.0, 16.0))
    assert bool((light[there] > 0).all() and (light[there] < heavy[there]).all() and (heavy[there] < 1).all())


def test_everything_is_stored(small, capsys):
    causal.main([])
    ways = json.loads((small / "book/results/causal-ways.json").read_text())["data"]
    assert [row["way"] for row in ways["table"]] == list(causal.WAYS) and ways["steps"] == 4
    weights = json.loads((small / "book/results/causal-weights.json").read_text())["data"]["table"]
    assert [row["way"] for row in weights] == ["labels first", "labels first, weight 16"]
    with pytest.raises(ValueError, match="stages are"):
        causal.main(["dance"])
