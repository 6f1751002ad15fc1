"""The drawn vessel: each concept moves its own part of the picture, by as much as its formula says."""

import math

import pytest
import torch

from minidiff.data.vessel import CONCEPTS, NOISE, VESSEL, vessel
from minidiff.families.causal_graph import acyclicity, linear_scm


def one(**changed):
    u = torch.zeros(1, 4)
    for name, value in changed.items():
        u[0, CONCEPTS.index(name)] = value
    return vessel(u)[0, 0]


def columns_that_differ(a, b):
    return (a != b).any(0).nonzero().flatten().tolist()


def test_pictures():
    u = linear_scm(VESSEL, NOISE * torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    x = vessel(u)
    assert x.shape == (64, 1, 16, 16) and x.dtype == torch.float32
    assert float(x.min()) >= -1 and float(x.max()) <= 1
    assert torch.equal(vessel(u[3:5]), x[3:5])
    assert len(x.flatten(1).unique(dim=0)) == 64
    assert float(acyclicity(VESSEL)) == 0


def test_the_ball_covers_its_area():
    """Inside the water at grey 0.45: what is brighter is the ball, a disc of radius 2.3 + 0.6 u."""
    for u in (-1.0, 0.0, 1.0):
        grey = (one(ball=u)[5:, :8] + 1) / 2
        covered = ((grey - 0.45) / 0.55).sum()
        assert float(covered) == pytest.approx(math.pi * (2.3 + 0.6 * u) ** 2, rel=0.06)


def test_the_water_stands_at_its_level():
    """In the first column there is nothing but water: its grey sums to the level, 11 + 1.3 u."""
    for u in (-2.0, 0.0, 0.7, 2.0):
        column = (one(water=u)[:, 0] + 1) / 2 / 0.45
        assert float(column.sum()) == pytest.approx(11 + 1.3 * u, abs=1e-3)


def test_concepts_move_their_own_parts():
    before = one()
    assert max(columns_that_differ(before, one(ball=1.0))) < 8
    assert max(columns_that_differ(before, one(water=1.0))) < 8
    assert min(columns_that_differ(before, one(hole=1.0))) == 8  # the wall, and the jet that leaves it
    assert min(columns_that_differ(before, one(jet=1.0))) == 9


def test_the_jet_reaches_as_far_as_it_says():
    """In the lowest row the jet ends at the wall, 9, plus 4 + 1.1 u."""
    for u in (-1.5, 0.0, 1.5):
        row = (one(jet=u)[-1, 9:] + 1) / 2
        place = (row * (torch.arange(7) + 9.5)).sum() / row.sum()
        assert float(place) == pytest.approx(9 + 4 + 1.1 * u, abs=0.6)


def test_far_concepts_stay_in_the_picture():
    assert torch.isfinite(vessel(torch.full((1, 4), 50.0))).all()
    assert torch.isfinite(vessel(torch.full((1, 4), -50.0))).all()


@pytest.mark.parametrize(
    ("u", "error", "message"),
    [
        (torch.zeros(2, 3), ValueError, r"u must have shape \(B, 4\), got \(2, 3\)"),
        (torch.full((2, 4), math.nan), ValueError, "u must be finite"),
        (torch.zeros(2, 4).long(), TypeError, "floating-point"),
    ],
)
def test_bad_arguments_are_named(u, error, message):
    with pytest.raises(error, match=message):
        vessel(u)
