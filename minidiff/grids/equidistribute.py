"""Equal shares: the grid whose steps all make the same local error."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments


def equidistribute(u: Tensor, errors: Tensor, n: int, order: int = 0) -> Tensor:
    """n steps on which a method of order p makes equal local errors, from the errors of m fine steps; (n + 1,).

    A local error e = M h^{p+1} makes M^{1/(p+1)} the optimal density of nodes, and M^{1/(p+1)} h = e^{1/(p+1)} is the
    part of it that one fine step holds. So: the sums of e^{1/(p+1)}, cut into n equal parts, linearly inside a step.
    order=0 takes `errors` as those parts themselves.

    u: (m + 1,), any strictly monotone coordinate of the fine nodes; errors: (m,) ≥ 0, not all zero. Raises ValueError
    otherwise.
    """
    arguments.finite("u", u)
    arguments.finite("errors", errors)
    arguments.positive_integer("n", n)
    arguments.positive_integer("order", order, at_least=0)
    if u.ndim != 1 or len(u) < 2 or errors.shape != (len(u) - 1,):
        raise ValueError(f"u must be (m + 1,) and errors (m,), got {tuple(u.shape)} and {tuple(errors.shape)}")
    steps = u.double().diff()
    if not bool((steps > 0).all() or (steps < 0).all()):
        raise ValueError("u must be strictly monotone")
    if not bool((errors >= 0).all()) or not bool((errors > 0).any()):
        raise ValueError("errors must be ≥ 0, and not all zero")
    parts = errors.double() ** (1 / (order + 1))
    total = torch.cat([parts.new_zeros(1), parts.cumsum(0)])
    shares = torch.linspace(0, 1, n + 1, dtype=torch.float64)[1:-1] * total[-1]
    cell = torch.searchsorted(total, shares).clamp(1, len(parts)) - 1
    inner = u.double()[cell] + (shares - total[cell]) / parts[cell] * steps[cell]
    return torch.cat([u[:1].double(), inner, u[-1:].double()])
