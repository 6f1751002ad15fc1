"""The deterministic samplers as rows of one table, each with its four choices, and the identities between them.

The order tests, the stored table of measured orders and the figure of the identities all read these two lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor

from minidiff.denoiser import DenoiserLike
from minidiff.samplers.exponential import exponential
from minidiff.samplers.posterior import ddim
from minidiff.samplers.published import deis, dpmpp_2m, dpmpp_3m, pndm, unipc
from minidiff.samplers.runge_kutta import euler, heun
from minidiff.samplers.singlestep import dpm_solver
from minidiff.samplers.state import State
from minidiff.samplers.stochastic import sa_solver

Sampler = Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]]


class Method(NamedTuple):
    """A sampler, its four choices in words, and the order that theory gives it on a fixed interval of λ."""

    run: Sampler
    order: int
    quantity: Literal["D", "ε", "D or ε", "dx/dt"]
    variable: str  # in which the quantity is taken as a polynomial
    nodes: str
    weights: str
    grid: Literal["lam", "t"] = "lam"  # where its steps are equal when its order is measured
    of_process: bool = False  # whether x/α at given λ depends on the process


def _choices(
    quantity: str, variable: str, nodes: str, weights: str, grid: str = "lam", of_process: bool = False
) -> Callable[[Sampler, int], Method]:
    """The methods of one family: the order and the function are all that changes."""
    return lambda run, order: Method(run, order, quantity, variable, nodes, weights, grid, of_process)


def _methods() -> dict[str, Method]:
    inside = _choices("ε", "λ", "inside the step", "exact, Taylor")
    inside_x0 = _choices("D", "λ", "inside the step", "exact, Taylor")
    unip = partial(unipc, corrector=False)
    classical = _choices("dx/dt", "t", "both ends", "classical", "t", of_process=True)
    found = {
        "DDIM": Method(ddim, 1, "D or ε", "any", "1 old", "exact"),
        "Euler": classical(euler, 1)._replace(nodes="1 old"),
        "Heun": classical(heun, 2),
        **{f"DPM-Solver-{k}": inside(partial(dpm_solver, order=k), k) for k in (1, 2, 3)},
        **{f"DPM-Solver++({k}S)": inside_x0(partial(dpm_solver, order=k, quantity="x0"), k) for k in (1, 2, 3)},
        "DPM-Solver++(2M)": Method(dpmpp_2m, 2, "D", "λ", "2 old", "truncated"),
        "DPM-Solver++(3M)": Method(dpmpp_3m, 3, "D", "λ", "3 old", "exact"),
        "DPM-Solver++(3M), released": Method(
            partial(dpmpp_3m, second_difference="released", collocate=False), 2, "D", "λ", "3 old", "φ₃ halved"
        ),
    }
    for name, variable in (("t", "t"), ("ρ", "r"), ("λ", "lam")):
        for k in (1, 2, 3, 4):
            run = partial(deis, order=k, variable=variable)
            found[f"DEIS {name}AB-{k}"] = Method(run, k, "ε", name, f"{k} old", "exact", of_process=variable == "t")
    for k in (1, 2, 3, 4):
        found[f"PLMS-{k}"] = Method(partial(pndm, order=k), min(k, 2), "ε", "step number", f"{k} old", "classical")
    found["UniP-1"] = Method(partial(unip, order=1), 1, "D", "λ", "1 old", "exact")
    found["UniP-2, bh2"] = Method(partial(unip, order=2), 2, "D", "λ", "2 old", "truncated")
    found["UniP-2, bh1"] = Method(partial(unip, order=2, variant="bh1"), 2, "D", "λ", "2 old", "truncated")
    for k in (1, 2, 3):
        for B in ("bh1", "bh2"):
            run, weights = partial(unipc, order=k, variant=B), "exact" if k > 1 else "truncated"
            found[f"UniPC-{k}, {B}"] = Method(run, k + 1, "D", "λ", f"{k} old and the new", weights)
    for name, variable in (("λ", "lam"), ("cos θ", "cos")):
        for k in (1, 2, 3, 4):
            old = partial(exponential, order=k, variable=variable)
            found[f"exponential({k}), {name}"] = Method(old, k, "D", name, f"{k} old", "exact")
            both = partial(old, corrector=True)
            found[f"exponential({k}), {name}, corrected"] = Method(
                both, k + 1, "D", name, f"{k} old and the new", "exact"
            )
    return found


METHODS = _methods()


class Identity(NamedTuple):
    """Two samplers whose states agree on every grid of the kind, and why."""

    one: tuple[str, Sampler]
    other: tuple[str, Sampler]
    why: str
    grid: Literal["uneven", "equal in r"] = "uneven"


def _of(name: str) -> tuple[str, Sampler]:
    return name, METHODS[name].run


_PLMS_ADAMS = "the weights of equal steps are exact on equal steps"
IDENTITIES = (
    Identity(_of("DDIM"), _of("DPM-Solver-1"), "ε held"),
    Identity(_of("DDIM"), _of("DPM-Solver++(1S)"), "D held"),
    Identity(_of("DDIM"), _of("DEIS tAB-1"), "ε held"),
    Identity(_of("DDIM"), _of("PLMS-1"), "ε held"),
    Identity(_of("DDIM"), _of("UniP-1"), "D held"),
    Identity(_of("DDIM"), _of("exponential(1), λ"), "D held"),
    Identity(_of("DDIM"), ("exponential(1), ε", partial(exponential, order=1, quantity="eps")), "ε held"),
    Identity(_of("UniP-2, bh2"), _of("DPM-Solver++(2M)"), "B φ-weight ½ (1 − e⁻ʰ)"),
    Identity(_of("DPM-Solver++(3M)"), _of("exponential(3), λ"), "one parabola"),
    *(
        Identity(
            (f"PLMS-{k}", METHODS[f"PLMS-{k}"].run),
            (f"DEIS ρAB-{k}, ramped", partial(deis, order=k, variable="r", collocate=False)),
            _PLMS_ADAMS,
            "equal in r",
        )
        for k in (2, 3, 4)
    ),
    Identity(
        ("SA-Solver(3), τ = 0", partial(sa_solver, tau=0.0, order=3, corrector=True)),
        ("exponential(3), λ, corrected, ramped", partial(exponential, order=3, corrector=True, collocate=False)),
        "no noise",
    ),
)
