"""The Fokker–Planck equation in one dimension on a grid of boxes: what a histogram of very many particles would do.

∂p/∂t = −∂/∂x (u p) + ½ g² ∂²p/∂x² = −∂F/∂x with the flux F = u p − ½ g² ∂p/∂x. A finite-volume method stores the
mean of p in each box and moves probability through the faces, so that what leaves one box enters its neighbour, and the
total stays what it was to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments

Drift = Callable[[Tensor, float], Tensor]


def centres(edges: Tensor) -> Tensor:
    """The middles of the boxes between the n + 1 edges; (n,)."""
    return (edges[1:] + edges[:-1]) / 2


def rates(edges: Tensor, drift: Tensor, g2: float) -> Tensor:
    """The matrix A with dp/dt = A p for the box means p; (n, n), columns sum to zero: probability is conserved.

    Central differences at the n − 1 inner faces, F = u (p_i + p_{i+1})/2 − ½ g² (p_{i+1} − p_i)/h; no flux through
    the two walls. edges (n + 1,) equally spaced, drift (n − 1,) at the inner faces. Second order in h; the solution
    stays free of wiggles where |u| h < g².
    """
    h = float(edges[1] - edges[0])
    right = drift / 2 + g2 / (2 * h)  # what box i sends through its right face, per unit of p_i
    left = drift / 2 - g2 / (2 * h)  # and what the neighbour contributes to that flux
    n = len(edges) - 1
    flux = edges.new_zeros(n + 1, n)  # flux[k] is that through edge k
    face = torch.arange(n - 1)
    flux[face + 1, face] = right
    flux[face + 1, face + 1] = left
    return -(flux[1:] - flux[:-1]) / h


def solve(density: Tensor, edges: Tensor, times: Tensor, drift: Drift, g2: Callable[[float], float]) -> Tensor:
    """Box means at every one of the times, by the Crank–Nicolson method with coefficients at mid-step; (m, n) float64.

    p_{j+1} − p_j = ½ Δt A (p_j + p_{j+1}): second order in Δt, stable for every Δt. density (n,): the box means at
    times[0]; edges (n + 1,): equally spaced walls of the boxes; times (m,): increasing; drift(x, t): u at the points x;
    g2(t): the squared diffusion, ≥ 0.
    Raises ValueError for shapes that do not fit, edges that are not equally spaced, times that do not increase, and a
    negative g2.
    """
    for name, values in (("density", density), ("edges", edges), ("times", times)):
        arguments.finite(name, values)
        if values.ndim != 1:
            raise ValueError(f"{name} must have one axis, got shape {tuple(values.shape)}")
    edges, p = edges.double(), density.double()
    widths = edges.diff()
    if len(edges) < 3 or not bool((widths > 0).all()) or float(widths.max() - widths.min()) > 1e-6 * float(widths[0]):
        raise ValueError(f"edges must be at least 3, increasing and equally spaced, got {len(edges)} of them")
    if len(p) != len(edges) - 1:
        raise ValueError(f"density must hold one mean for each of the {len(edges) - 1} boxes, got {len(p)}")
    if not bool((times.diff() > 0).all()):
        raise ValueError("times must increase strictly")
    identity = torch.eye(len(p), dtype=torch.float64)
    states = [p]
    for s, t in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        middle = (s + t) / 2
        noise = float(g2(middle))
        if noise < 0:
            raise ValueError(f"g2 must not be negative, got {noise} at t = {middle}")
        half = (t - s) / 2 * rates(edges, drift(edges[1:-1], middle).double(), noise)
        p = torch.linalg.solve(identity - half, p + half @ p)
        states.append(p)
    return torch.stack(states)
