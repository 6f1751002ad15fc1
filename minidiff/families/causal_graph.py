"""Linear structural causal models: the graph that is acyclic, its solution, interventions, and how to find it.

The variables z_1 … z_n obey z = Aᵀ z + ε with independent exogenous ε; a weight A_ij ≠ 0 says that i causes j. So
z = (I − Aᵀ)⁻¹ ε, and det(I − Aᵀ) = 1 on every acyclic graph. do(z_i = v) cuts the arrows into i and changes its
descendants alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import torch
from torch import Tensor

from minidiff import arguments


def acyclicity(A: Tensor, c: float = 1.0) -> Tensor:
    """h(A) = tr[(I + (c/n) A∘A)ⁿ] − n ≥ 0, zero exactly on acyclic graphs; A (n, n) → ().

    tr (A∘A)ᵏ adds up the squared weights of all closed walks of k steps (Yu et al. 2019; NOTEARS has tr exp(A∘A) − n,
    Zheng et al. 2018). Raises ValueError for an A that is not square or c ≤ 0.
    """
    n = square_size(A)
    arguments.real("c", c, 1e-12)
    return torch.linalg.matrix_power(torch.eye(n).to(A) + c / n * A.square(), n).trace() - n


def linear_scm(A: Tensor, eps: Tensor) -> Tensor:
    """z = (I − Aᵀ)⁻¹ ε, the solution of z = Aᵀ z + ε; eps (B, n) → (B, n)."""
    n = square_size(A)
    check_rows("eps", eps, n)
    return torch.linalg.solve(torch.eye(n).to(A) - A, eps, left=False)


def intervene(A: Tensor, z: Tensor, do: Mapping[int, float]) -> Tensor:
    """z (B, n) of a linear model after do(z_i = v) for each i: v of `do`, with the same ε; (B, n).

    Descendants are computed anew from their changed causes in causal order, z_j + Σ_k A_kj (z_k′ − z_k); all others
    keep every bit. Raises ValueError for a graph with a cycle, which has no causal order, or an i outside 0…n − 1.
    """
    n = square_size(A)
    check_rows("z", z, n)
    if stray := [i for i in do if i not in range(n)]:
        raise ValueError(f"interventions must be on variables 0…{n - 1}, got {stray}")
    parents = {j: [k for k in range(n) if float(A[k, j]) != 0] for j in range(n)}
    try:
        order = list(TopologicalSorter(parents).static_order())
    except CycleError as circle:
        raise ValueError(f"an intervention needs an acyclic graph, got the cycle {circle.args[1]}") from circle
    new, changed = list(z.unbind(1)), set()
    for j in order:
        if j in do:
            new[j] = torch.full_like(new[j], do[j])
            changed.add(j)
        elif moved := changed.intersection(parents[j]):
            new[j] = new[j] + sum(A[k, j] * (new[k] - z[:, k]) for k in sorted(moved))
            changed.add(j)
    return torch.stack(new, 1)


def fit_graph(u: Tensor, sparsity: float = 0.02, threshold: float = 0.2, rounds: int = 12) -> Tensor:
    """The weights A (n, n) of a linear model of u (N, n) by NOTEARS: least ½ E|u − Aᵀu|² + sparsity |A|₁ with h(A) = 0.

    The constraint is met by an augmented Lagrangian, then weights below `threshold` in size are dropped. With equal
    noise in all variables the true graph is the minimiser; unequal noise can turn arrows round. No randomness, float64.
    Raises ValueError for fewer than two rows, a negative sparsity or threshold. Source: Zheng et al. 2018, algorithm 1.
    """
    arguments.finite("u", u)
    arguments.real("sparsity", sparsity, 0.0)
    arguments.real("threshold", threshold, 0.0)
    arguments.positive_integer("rounds", rounds)
    if u.ndim != 2 or len(u) < 2:
        raise ValueError(f"u must be (N, n) with N ≥ 2, got {tuple(u.shape)}")
    covariance, n = torch.cov(u.mT.double()).reshape(u.shape[1], u.shape[1]), u.shape[1]
    off = 1 - torch.eye(n, dtype=torch.float64)
    weights = torch.zeros(n, n, dtype=torch.float64, requires_grad=True)
    multiplier, penalty, before = 0.0, 1.0, math.inf

    def lagrangian() -> Tensor:
        optimiser.zero_grad()
        A = weights * off
        residual = torch.eye(n, dtype=torch.float64) - A
        h = acyclicity(A)
        value = (residual.mT @ covariance @ residual).trace() / 2 + multiplier * h + penalty / 2 * h.square()
        value = value + sparsity * (A.square() + 1e-8).sqrt().sum()  # |A|, smooth at zero
        value.backward()
        return value

    for _ in range(rounds):
        optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")
        optimiser.step(lagrangian)
        h = float(acyclicity((weights * off).detach()))
        multiplier += penalty * h
        penalty *= 10 if h > before / 4 and penalty < 1e10 else 1
        before = h
    A = (weights * off).detach()
    return A.where(A.abs() >= threshold, 0.0).to(u.dtype)


def square_size(A: Tensor) -> int:
    """The n of a finite matrix A (n, n). Raises ValueError for another shape."""
    arguments.finite("A", A)
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be a square matrix (n, n), got {tuple(A.shape)}")
    return len(A)


def check_rows(name: str, x: Tensor, n: int) -> None:
    """Raise unless x is a floating-point tensor (B, n)."""
    arguments.floating(name, x)
    if x.ndim != 2 or x.shape[1] != n:
        raise ValueError(f"{name} must have shape (B, {n}), got {tuple(x.shape)}")
