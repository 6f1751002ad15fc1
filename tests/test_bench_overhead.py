"""The overhead benchmark measures what it says: every contender runs its own number of calls."""

import pytest
import torch

from minidiff.bench import overhead
from minidiff.samplers import ddim, heun


@pytest.mark.parametrize(("method", "calls"), [(ddim, 50), (heun, 100)])
def test_the_calls_that_are_divided_by_are_the_calls_made(method, calls, monkeypatch):
    made = []
    monkeypatch.setattr(overhead.Trivial, "__call__", lambda self, x, t: made.append(t) or self.answer)
    states, promised = overhead.ours(method, calls, torch.zeros(1, 2))
    assert len(list(states)) == 50  # the first state was taken before
    assert len(made) == promised == calls


def test_every_contender_runs_and_the_table_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(overhead, "SHAPES", ((1, 2), (2, 1, 4, 4)))
    overhead.main(["--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("  ")[0] for line in lines} >= {"minidiff heun", "torch.randn", "Denoiser.forward, edm"}
    assert all(float(line.split()[-1]) > -1e6 for line in lines[1:])
