"""The functions φ_k, in which every exact weight for a polynomial in λ is written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from minidiff import arguments
from minidiff.samplers.multistep import Quantity

SMALL = 2.0  # up to this |z| the series; beyond it the recursion, which divides k errors by |z|


def phi(k: int, z: float) -> float:
    """φ_k(z) = ∫_0^1 e^{(1−u)z} u^{k−1}/(k−1)! du for k ≥ 1, φ_0(z) = e^z (Hochbruck & Ostermann 2010).

    φ_k(0) = 1/k!, and φ_{k+1}(z) = (φ_k(z) − 1/k!)/z. The recursion loses digits where z is small, so there the series
    φ_k(z) = Σ_j z^j/(j + k)! is summed. Raises TypeError or ValueError unless k ≥ 0 is an integer and z is finite.
    """
    arguments.real("z", z)
    if k != 0:
        arguments.positive_integer("k", k)
    if k > 0 and abs(z) <= SMALL:
        return math.fsum(z**j / math.factorial(j + k) for j in range(30))
    value = math.exp(z)
    for n in range(k):
        value = (value - 1 / math.factorial(n)) / z
    return value


def phi_weights(h: float, places: Sequence[float], quantity: Quantity = "x0") -> tuple[float, ...]:
    """The exact weights of values at λ_s + c h, c in places, for a step of length h in λ; one weight a value.

    Exact for q = 1, c, c², …: Σ_j w_j c_j^k = k! h φ_{k+1}(−h) for q = D, in units of α_t, and −k! h φ_{k+1}(h) for
    q = ε̂, in units of σ_t. They are `integral_weights` in λ, by solving equations instead of by quadrature. Raises
    ValueError unless h > 0 and the places are one or more different numbers.
    """
    arguments.real("h", h, 1e-300)
    if not places or len(set(places)) < len(places):
        raise ValueError(f"places must be one or more different numbers, got {list(places)}")
    sign = -1 if quantity == "x0" else 1
    moments = [-sign * math.factorial(k) * h * phi(k + 1, sign * h) for k in range(len(places))]
    powers = torch.tensor([[c**k for c in places] for k in range(len(places))], dtype=torch.float64)
    return tuple(torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist())
