"""The samplers of the literature: the graph of identities between them, and their contracts."""

import math
from functools import partial

import pytest
import torch

from minidiff import times
from minidiff.bench.orders import mixture
from minidiff.metrics import CountCalls
from minidiff.process import CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import (
    ddim,
    deis,
    dpm_solver,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    last,
    path,
    pndm,
    unipc,
)
from minidiff.samplers.catalogue import IDENTITIES, METHODS

F64 = torch.float64
unip = partial(unipc, corrector=False)

# ---- identities --------------------------------------------------------------------------------------------------


def grid(process, n=9, lam=(-2.0, 1.5), seed=0):
    """n uneven steps in λ."""
    u = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=F64).add(0.3).cumsum(0)
    u = torch.cat([torch.zeros(1), u / u[-1]])
    return process.time(lam[0] + (lam[1] - lam[0]) * u)


def equal_in_r(process, n=9, lam=(-2.0, 1.5)):
    r = torch.linspace(math.exp(-lam[0]), math.exp(-lam[1]), n + 1, dtype=F64)
    return process.time(-r.log())


@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda identity: f"{identity.one[0]} = {identity.other[0]}")
@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=str)
def test_identity(identity, process):
    """Every edge of the chapter's figure."""
    D = mixture(process)
    T = grid(process) if identity.grid == "uneven" else equal_in_r(process)
    x = process.prior((5, 2), torch.Generator().manual_seed(1), dtype=F64)
    one, other = (path(method(D, x, T)) for _, method in (identity.one, identity.other))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("identity", [i for i in IDENTITIES if i.grid == "equal in r"])
def test_an_identity_on_equal_steps_needs_them(identity):
    D, T = mixture(LinearVP()), grid(LinearVP())
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    one, other = (last(method(D, x, T)) for _, method in (identity.one, identity.other))
    assert float((one - other).abs().max()) > 1e-4


def test_the_twin_of_dpmpp_2s():
    D, T = mixture(LinearVP()), grid(LinearVP())
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    two = [path(method(D, x, T)) for method in (dpmpp_2s, partial(dpm_solver, order=2, quantity="x0"))]
    torch.testing.assert_close(*two, rtol=0, atol=0)


def test_different_methods_differ():
    """So that the identities above can fail."""
    D, T = mixture(LinearVP()), grid(LinearVP())
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    methods = [ddim, dpmpp_2m, dpmpp_3m, partial(dpmpp_3m, second_difference="released"), partial(unip, order=3)]
    methods += [partial(deis, variable=v) for v in ("t", "r", "lam")] + [pndm, unipc, partial(dpm_solver, order=3)]
    methods += [partial(unipc, variant="bh1"), dpmpp_2s, dpm_solver]
    ends = torch.stack([last(method(D, x, T)) for method in methods])
    apart = (ends[:, None] - ends[None]).abs().amax((2, 3)) + torch.eye(len(ends))
    assert apart.min() > 1e-6


# ---- contracts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        (dpmpp_2m, 8),
        (dpmpp_3m, 10),
        (partial(dpmpp_3m, collocate=False), 8),
        (deis, 8),
        (pndm, 8),
        (unipc, 8),
        (dpm_solver, 15),  # the last step, to σ = 0, is DDIM's
        (partial(dpm_solver, order=3), 22),
        (dpmpp_2s, 15),
    ],
)
def test_calls_and_states(method, calls):
    process = LinearVP()
    D = CountCalls(mixture(process))
    T = times.log_snr(process, 8, zero=True)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    states = list(method(D, x, T))
    assert [float(state.t) for state in states] == T.tolist()
    assert D.calls == calls
    assert all(state.x.isfinite().all() for state in states)


@pytest.mark.parametrize("method", [row.run for row in METHODS.values()], ids=METHODS)
@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow()], ids=str)
def test_any_number_of_steps_is_finite_or_refused(method, n, process):
    """From t = 1, where α may be 0, to σ = 0."""
    D = mixture(process)
    x = process.prior((4, 2), torch.Generator().manual_seed(0), dtype=torch.float32)
    T = times.uniform(n)
    try:
        states = method(D, x, T)
    except ValueError as error:
        assert "cannot start where α = 0" in str(error)
        assert process.lam_range[0] == -math.inf
        return
    x = last(states)
    assert x.isfinite().all()
    assert x.dtype == torch.float32


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (dpm_solver, {"order": 4}, "order must be at most 3, got 4"),
        (dpm_solver, {"quantity": "v"}, "quantity must be 'x0' or 'eps', got 'v'"),
        (dpmpp_3m, {"second_difference": "halved"}, "second_difference must be 'corrected' or 'released'"),
        (pndm, {"order": 5}, "order must be at most 4, got 5"),
        (unipc, {"order": 0}, "order must be"),
        (unipc, {"order": 5}, "order must be at most 4, got 5"),
        (unipc, {"variant": "bh3"}, "variant must be 'bh1' or 'bh2', got 'bh3'"),
        (deis, {"variable": "sigma"}, "variable must be among"),
        (deis, {"order": 5}, "order must be at most 4, got 5"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        method(mixture(LinearVP()), torch.zeros(1, 2), times.uniform(3), **options)
