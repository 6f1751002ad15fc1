"""Linear structural causal models: the graph that is acyclic, its solution, interventions, and how to find it.

The variables z_1 … z_n obey z = Aᵀ z + ε with independent exogenous ε; a weight A_ij ≠ 0 says that i causes j. So
z = (I − Aᵀ)⁻¹ ε, and det(I − Aᵀ) = 1 on every acyclic graph. do(z_i = v) cuts the arrows into i and changes its
descendants alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """z = (I − Aᵀ)⁻¹ ε, the solution of z = Aᵀ z + ε; eps (B, n) → (B, n).

    Every acyclic graph has one. With cycles I − Aᵀ may be singular, which torch reports as a LinAlgError.
    """
    n = square_size(A)
    check_rows("eps", eps, n)
    return torch.linalg.solve(torch.eye(n).to(A) - A, eps, left=False)


def intervene(A: Tensor, z: Tensor, do: Mapping[int, float]) -> Tensor:
    """z (B, n) of a linear model after do(z_i = v) for each i: v of `do`, with the same ε; (B, n).

    Descendants are computed anew from their changed causes in causal order, z_j + Σ_k A_kj (z_k′ − z_k); all others
    keep every bit. Raises TypeError unless `do` maps integers to numbers, and ValueError for a graph with a cycle,
    which has no causal order, an i outside 0…n − 1, or a v that is not finite.
    """
    n = square_size(A)
    check_rows("z", z, n)
    _check_interventions(do, n)
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


def _check_interventions(do: Mapping[int, float], n: int) -> None:
    if not isinstance(do, Mapping):
        raise TypeError(f"do must map variables to values, got {type(do).__name__}")
    for i, value in do.items():
        if isinstance(i, bool) or not isinstance(i, int):
            raise TypeError(f"interventions must be on variables 0…{n - 1}, got {i!r}")
        arguments.real(f"the value of do(z_{i})", float(value) if isinstance(value, Tensor) else value)
    if stray := [i for i in do if not 0 <= i < n]:
        raise ValueError(f"interventions must be on variables 0…{n - 1}, got {stray}")


def fit_graph(u: Tensor, threshold: float = 0.2) -> Tensor:
    """The weights A (n, n) of a linear model of u (N, n) whose noises have one variance; no randomness.

    Given all that came before it in causal order, a source has the least variance left, that of the noise, and every
    other variable more: so the order is found one by one, and the weights are regressions on it. Those below
    `threshold` in size are dropped, the others fitted anew. Noises of different variances can turn arrows round.
    Raises ValueError unless N > n and no variable is constant or a linear function of the others. Source: Chen, Drton &
    Wang 2019, algorithm 1 (top-down).
    """
    arguments.real("threshold", threshold, 0.0)
    covariance = _covariance(u)
    n = len(covariance)
    A, order = torch.zeros(n, n, dtype=torch.float64), []
    while len(order) < n:
        fits = {j: _regression(covariance, order, j) for j in range(n) if j not in order}
        left = {j: float(covariance[j, j] - covariance[order, j] @ weights) for j, weights in fits.items()}
        j = min(left, key=left.__getitem__)
        causes = [i for i, w in zip(order, fits[j].tolist(), strict=True) if abs(w) >= threshold]
        A[causes, j] = _regression(covariance, causes, j)
        order.append(j)
    return A.to(u.dtype)


def descend_graph(
    u: Tensor, penalties: Sequence[float] = (1.0, 10.0, 100.0, 1e3, 1e4), threshold: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Minimise mean |u − Aᵀu|² + ρ h(A) from A = 0, with each ρ of `penalties` from where the last one ended.

    The gradient's way to the graph that `fit_graph` finds by sorting: h is `acyclicity`, and as ρ grows the arrows that
    close cycles vanish. Returns A (n, n) without the weights below `threshold`, and the path of all weights
    (len(penalties), n, n). The loss has many minima, so that a wrong arrow can survive. u (N, n) is centred first.
    Raises ValueError as `fit_graph` does, and unless there are penalties and they are positive. Source: Zheng et al.
    2018, with a penalty in the place of their multiplier.
    """
    arguments.real("threshold", threshold, 0.0)
    if not len(penalties):
        raise ValueError("there must be at least one penalty")
    for rho in penalties:
        arguments.real("a penalty", rho, 1e-12)
    covariance = _covariance(u)
    n = len(covariance)
    eye = torch.eye(n, dtype=torch.float64)
    W = torch.zeros(n, n, dtype=torch.float64, requires_grad=True)
    path = []
    for rho in penalties:
        descent = torch.optim.LBFGS([W], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def loss(descent: torch.optim.LBFGS = descent, rho: float = rho) -> Tensor:
            descent.zero_grad()
            A = W * (1 - eye)
            value = ((eye - A).mT @ covariance @ (eye - A)).trace() + rho * acyclicity(A)
            value.backward()
            return value

        descent.step(loss)
        path.append((W * (1 - eye)).detach())
    found = path[-1].where(path[-1].abs() >= threshold, 0.0)
    return found.to(u.dtype), torch.stack(path).to(u.dtype)


def _covariance(u: Tensor) -> Tensor:
    """The covariance (n, n) in float64 of u (N, n). Raises unless u is finite, N > n, and its rank is full."""
    arguments.finite("u", u)
    if u.ndim != 2 or len(u) <= u.shape[1]:
        raise ValueError(f"u must be (N, n) with N > n, got {tuple(u.shape)}")
    covariance = torch.cov(u.mT.double()).reshape(u.shape[1], u.shape[1])
    scale = covariance.diagonal().sqrt()
    if bool((scale <= 1e-12 * u.double().square().mean(0).sqrt()).any()):
        raise ValueError(f"every variable of u must vary, got standard deviations {scale.tolist()}")
    if float(torch.linalg.eigvalsh(covariance / torch.outer(scale, scale))[0]) < 1e-12:
        raise ValueError("no variable of u may be a linear function of the others")
    return covariance


def _regression(covariance: Tensor, on: list[int], j: int) -> Tensor:
    """The weights of variable j on the variables `on`, by least squares."""
    return torch.linalg.solve(covariance[on][:, on], covariance[on, j])


def square_size(A: Tensor) -> int:
    """The n ≥ 1 of a finite matrix A (n, n). Raises ValueError for another shape."""
    arguments.finite("A", A)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or not len(A):
        raise ValueError(f"A must be a square matrix (n, n), got {tuple(A.shape)}")
    return len(A)


def check_rows(name: str, x: Tensor, n: int) -> None:
    """Raise unless x is a floating-point tensor (B, n)."""
    arguments.floating(name, x)
    if x.ndim != 2 or x.shape[1] != n:
        raise ValueError(f"{name} must have shape (B, {n}), got {tuple(x.shape)}")
