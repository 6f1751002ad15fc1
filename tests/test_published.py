"""The samplers of the literature: measured orders, the graph of identities between them, parity with diffusers."""

import math
from functools import partial

import pytest
import torch
from processes import LINEAR_BETAS
from test_orders import has_order, mixture, slope

from minidiff import times
from minidiff.metrics import CountCalls
from minidiff.process import CosineVP, LinearVP, RectifiedFlow, Tabulated
from minidiff.samplers import (
    ddim,
    deis,
    dpm_solver,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    exponential,
    last,
    path,
    pndm,
    unipc,
)

F64 = torch.float64
unip = partial(unipc, corrector=False)
ORDERS = [
    *((f"dpm_solver-{k}", partial(dpm_solver, order=k), k) for k in (1, 2, 3)),
    *((f"dpmpp_{k}s", partial(dpm_solver, order=k, quantity="x0"), k) for k in (1, 2, 3)),
    ("dpmpp_2m", dpmpp_2m, 2),
    ("dpmpp_3m", dpmpp_3m, 3),
    ("dpmpp_3m, released", partial(dpmpp_3m, second_difference="released"), 2),
    ("dpmpp_3m, released, ramped", partial(dpmpp_3m, second_difference="released", collocate=False), 2),
    *((f"deis-{v}-{k}", partial(deis, order=k, variable=v), k) for v in ("t", "r", "lam") for k in (1, 2, 3, 4)),
    *((f"pndm-{k}", partial(pndm, order=k), min(k, 2)) for k in (1, 2, 3, 4)),
    *((f"unip-{k}", partial(unip, order=k), k) for k in (1, 2)),
    *((f"unipc-{k}-{v}", partial(unipc, order=k, variant=v), k + 1) for k in (1, 2, 3) for v in ("bh1", "bh2")),
]  # fmt: skip


@pytest.mark.parametrize(("method", "order"), [row[1:] for row in ORDERS], ids=[row[0] for row in ORDERS])
def test_order(method, order):
    assert has_order(slope(method, LinearVP()), order)


# ---- identities --------------------------------------------------------------------------------------------------

IDENTITIES = {
    "DPM-Solver-1 is DDIM": (partial(dpm_solver, order=1), ddim),
    "DPM-Solver++(1S) is DDIM": (partial(dpm_solver, order=1, quantity="x0"), ddim),
    "DEIS of one value is DDIM": (partial(deis, order=1), ddim),
    "PNDM of one value is DDIM": (partial(pndm, order=1), ddim),
    "UniP-1 is DDIM": (partial(unip, order=1), ddim),
    "exponential of one value is DDIM, in D": (partial(exponential, order=1), ddim),
    "exponential of one value is DDIM, in ε": (partial(exponential, order=1, quantity="eps"), ddim),
    "UniP-2 is DPM-Solver++(2M)": (partial(unip, order=2), dpmpp_2m),
    "the corrected 3M is the exact quadratic": (dpmpp_3m, partial(exponential, order=3)),
    "the twin of dpmpp_2s": (dpmpp_2s, partial(dpm_solver, order=2, quantity="x0")),
}


def grid(process, n=9, lam=(-2.0, 1.5), seed=0):
    """n uneven steps in λ."""
    u = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=F64).add(0.3).cumsum(0)
    u = torch.cat([torch.zeros(1), u / u[-1]])
    return process.time(lam[0] + (lam[1] - lam[0]) * u)


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=str)
def test_identity(identity, process):
    one, other = IDENTITIES[identity]
    D, T = mixture(process), grid(process)
    x = process.prior((5, 2), torch.Generator().manual_seed(1), dtype=F64)
    torch.testing.assert_close(path(one(D, x, T)), path(other(D, x, T)), rtol=0, atol=1e-11)


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


@pytest.mark.parametrize("method", [row[1] for row in ORDERS], ids=[row[0] for row in ORDERS])
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
        (unipc, {"variant": "bh3"}, "variant must be 'bh1' or 'bh2', got 'bh3'"),
        (deis, {"variable": "sigma"}, "variable must be among"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        method(mixture(LinearVP()), torch.zeros(1, 2), times.uniform(3), **options)


# ---- parity with diffusers ---------------------------------------------------------------------------------------

TRAILING = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"}
PARITY = {
    "2M": ("DPMSolverMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "zero"}, dpmpp_2m),
    "3M": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, "final_sigmas_type": "zero", "lower_order_final": False, "euler_at_final": True},
        partial(dpmpp_3m, second_difference="released", collocate=False),
    ),
    "UniPC-2, bh2": ("UniPCMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "zero"}, unipc),
    "UniPC-2, bh1": (
        "UniPCMultistepScheduler",
        {"solver_order": 2, "solver_type": "bh1", "final_sigmas_type": "sigma_min", "lower_order_final": False},
        partial(unipc, variant="bh1"),
    ),
    "DEIS-2": (
        "DEISMultistepScheduler",
        {"solver_order": 2, "lower_order_final": False},
        partial(deis, variable="lam", collocate=False),
    ),
}


@pytest.mark.parametrize("name", PARITY)
@pytest.mark.parametrize("steps", [10, 20])
def test_parity_with_diffusers(name, steps):
    """Trailing spacing with N dividing T, where every σ is an entry of its table; its tables are float32.

    DEIS there ends at the first entry of the table, and bh1 gives 0 · ∞ at σ = 0: these two are compared at that entry.
    """
    diffusers = pytest.importorskip("diffusers")
    scheduler, options, ours = PARITY[name]
    process = Tabulated(LINEAR_BETAS)
    D = mixture(process)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    theirs = getattr(diffusers, scheduler)(1000, **TRAILING, **options)
    theirs.set_timesteps(steps)
    y = x
    for k in theirs.timesteps:
        t = (k.double() + 1) / 1000
        eps = (y - process.alpha(t) * D(y, t)) / process.sigma(t)
        y = theirs.step(eps, k, y).prev_sample
    T = times.trailing(steps)
    if options.get("final_sigmas_type") != "zero":
        T[-1] = 1 / 1000
    torch.testing.assert_close(last(ours(D, x, T)), y, rtol=1e-4, atol=1e-5)
