"""The benchmark behind the chapter on grids, at a size that takes seconds."""

import pytest
import torch
from torch import nn

from minidiff import data, grids, zoo
from minidiff.bench import results, steps
from minidiff.denoiser import Denoiser
from minidiff.process import RectifiedFlow


class Line(nn.Module):
    """û = g x + t with one parameter: a network that costs nothing."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, y=None):
        return self.gain * x + t.reshape(-1, 1, 1, 1)


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, a few digits and a trivial network."""
    settings = {
        "LEARNING": 4,
        "HELD_OUT": 6,
        "FINE": 12,
        "CALLS": (3, 4),
        "REFERENCE": 10,
        "PRIOR_DRAWS": 5,
        "LEARNED_CALLS": 3,
        "PAIRS": 8,
        "BATCH": 4,
        "ITERATIONS": 10,
        "SEEDS": (0,),
    }
    for name, value in settings.items():
        monkeypatch.setattr(steps, name, value)
    steps.held_out.cache_clear()
    images, labels = data.digits("all")
    monkeypatch.setattr(data, "digits", lambda split: (images[:140], labels[:140]))
    monkeypatch.setattr(zoo, "load", lambda name: Denoiser(Line(), RectifiedFlow(), "velocity", 0.5))
    yield checkout
    steps.held_out.cache_clear()


def test_grids_are_stored_and_resumed(small, monkeypatch):
    steps.main(["grids"])
    rows = results.load("steps-grids")["data"]["rows"]
    names = [row["grid"] for row in rows if row["calls"] == 3]
    assert len(names) == len(set(names)) == 9 and names[-1] == "default"
    for row in rows:
        if row["grid"] != "default":
            assert len(row["times"]) == row["calls"] + 1
            assert row["times"][-1] == 0 and all(row[solver] >= 0 for solver in steps.SOLVERS)
    monkeypatch.setattr(steps, "grid_rows", lambda: pytest.fail("made again"))
    steps.main(["grids"])


def test_the_bound_is_a_path_through_every_fine_node_but_the_last(small):
    D, _ = steps.problem(4, 0)
    fine = steps.fine_grid(D)
    path = grids.least_cost_path(steps.bound_matrix(D, fine), 4)
    assert path[-2:] == [11, 12]


def test_taylor_and_learned_are_stored(small):
    steps.main(["taylor", "learned"])
    assert [row["steps"] for row in results.load("steps-taylor")["data"]["rows"]] == [4, 6, 8, 12]
    learned = results.load("steps-learned")["data"]
    assert [(row["learn"], row["order"]) for row in learned["rows"]] == [("times", 1), ("both", 2)]
    for row in learned["rows"]:
        assert row["times"][0] == 1 and row["times"][-1] == 0 and len(row["times"]) == 4
        assert (row["deltas"] == [0, 0]) is (row["learn"] == "times")


def test_an_unknown_stage():
    with pytest.raises(ValueError, match="stages are"):
        steps.main(["all"])
