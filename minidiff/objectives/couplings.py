"""Couplings: which noise is drawn with which picture. Each maps a batch (x_0, ε) to a batch of pairs (x_0, ε).

The flow-matching loss holds for every joint law of x_0 and ε with the right marginals. All but `independent` take
the score away: a `Denoiser` trained on such pairs needs coupled=True. Permuting couplings move ε and leave x_0 where it
is, so that labels stay with their pictures; under a label-dependent choice of ε a *conditional* model then no longer
starts from N(0, I) given the label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike, check_denoiser
from minidiff.extras import require
from minidiff.samplers import State, heun, last
from minidiff.times import check_times

Coupling = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Sampler = Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]]


def transport_cost(x0: Tensor, eps: Tensor) -> Tensor:
    """|x_0 − ε|² of each pair, the mean over coordinates; x0 and eps (B, *D) → (B,). Raises for unequal shapes."""
    _check(x0, eps)
    return (x0 - eps).square().flatten(1).mean(1)


def independent(x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs as they were drawn."""
    _check(x0, eps)
    return x0, eps


def optimal_transport(x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """ε in the order that makes Σ_i |x_0,i − ε_π(i)|² least: exact optimal transport between two sets of B points.

    x0 and eps (B, *D), finite. The assignment is solved on the CPU in float64 (Crouse's shortest augmenting paths in
    SciPy), O(B³). The least cost over a batch is on average above that between the two laws and falls with B.
    Raises ImportError, naming what to install, without SciPy.
    Source: Pooladian et al. 2023; Tong et al. 2024 (minibatch couplings).
    """
    _check(x0, eps)
    solver = require("scipy.optimize").linear_sum_assignment
    rows, columns = (v.detach().cpu().double().flatten(1) for v in (x0, eps))
    # |x|² and |ε|² add the same to every assignment: only −x·ε is left of the cost
    _, order = solver(-(rows @ columns.mT).numpy())
    return x0, eps[torch.from_numpy(order).to(eps.device)]


def sort_coupling(x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """In one dimension: the k-th smallest ε for the k-th smallest x_0, which is optimal for every convex cost.

    x0 and eps (B, 1); x0 keeps its order. Raises ValueError for more than one coordinate.
    """
    _check(x0, eps)
    if x0.ndim != 2 or x0.shape[1] != 1:
        raise ValueError(f"sorting pairs points of one coordinate, (B, 1), got {tuple(x0.shape)}")
    paired = torch.empty_like(eps)
    paired[x0[:, 0].argsort()] = eps[eps[:, 0].argsort()]
    return x0, paired


def reflow(D: DenoiserLike, times: Tensor, sampler: Sampler = heun) -> Coupling:
    """The coupling that D's own flow makes: (x_0, ε) → (the end of the flow from ε, ε). The x_0 handed in is not used.

    times: a grid from 1 to 0 for `sampler`, any deterministic sampler(D, x, times). Transport cost does not rise, for
    any convex cost (Liu et al. 2023, theorem 3.5), and the x_0 are samples of the model, errors included.
    Raises ValueError unless the grid starts at 1 and the process has α_1 = 0, so that x_1 = σ_1 ε.
    """
    check_denoiser(D)
    check_times(times)
    one = torch.ones((), dtype=torch.float64)
    if float(times[0]) != 1 or float(D.process.alpha(one)) != 0:
        raise ValueError(
            f"reflow pairs an ε with the end of its flow: times must start at 1, got {float(times[0])}, and the "
            f"process must have alpha(1) = 0, got {float(D.process.alpha(one)):g} for {D.process}"
        )
    scale = float(D.process.sigma(one))

    @torch.no_grad()
    def pair(x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        _check(x0, eps)
        return last(sampler(D, scale * eps, times)), eps

    return pair


def paired(batches: Iterable[tuple[Tensor, ...]], coupling: Coupling) -> Iterator[tuple[Tensor, ...]]:
    """(x_0, t, ε, *rest) → the same with (x_0, ε) coupled: goes around `train.noised`."""
    for x0, t, eps, *rest in batches:
        x0, eps = coupling(x0, eps)
        yield x0, t, eps, *rest


def _check(x0: Tensor, eps: Tensor) -> None:
    arguments.finite("x0", x0)
    arguments.finite("eps", eps)
    arguments.same_shape("x0", x0, "eps", eps)
    if x0.ndim < 2:
        raise ValueError(f"x0 and eps must have a batch axis, (B, *D), got shape {tuple(x0.shape)}")
