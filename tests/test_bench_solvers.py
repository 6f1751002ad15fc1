"""The benchmark of the solver chapter, on an exact denoiser and with few calls."""

import pytest
import torch
from test_orders import mixture

from minidiff.bench import solvers
from minidiff.metrics import CountCalls
from minidiff.process import RectifiedFlow


def test_rows(monkeypatch):
    monkeypatch.setattr(solvers, "CALLS", (5, 6, 20))
    D = mixture(RectifiedFlow())
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = {(row["solver"], row["calls"]): row["path_error"] for row in solvers.measured(D, x)}
    assert ("DPM-Solver-2", 5) not in rows
    for name in solvers.SOLVERS:
        assert rows[name, 20] < rows[name, 6]


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_calls_a_step(name):
    from minidiff import times
    from minidiff.samplers import last

    method, a_step = solvers.SOLVERS[name]
    D = CountCalls(mixture(RectifiedFlow()))
    last(method(D, torch.zeros(1, 2, dtype=torch.float64), times.karras(D.process, 5, **solvers.RANGE)))
    assert D.calls == 5 * a_step


def test_no_arguments():
    with pytest.raises(ValueError, match="no arguments are known"):
        solvers.main(["fast"])
