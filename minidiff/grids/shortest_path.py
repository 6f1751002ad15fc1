"""The cheapest grid with exactly N steps out of the nodes of a fine one, when the cost is a sum over the steps."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from minidiff import arguments


def least_cost_path(cost: Tensor, steps: int) -> list[int]:
    """The path 0 = i_0 < i_1 < … < i_N = T with N = steps that minimises Σ cost[i_{k−1}, i_k] (Watson et al. 2021).

    Bellman's recursion C_k(j) = min_{i<j} C_{k−1}(i) + cost[i, j] with the minimisers kept: O(N T²) instead of the
    binomial (T−1 over N−1) subsets. cost: (T + 1, T + 1); only entries above the diagonal are read, infinity forbids a
    step. Raises ValueError for another shape, NaN, steps outside 1…T, or if every path is forbidden.
    """
    cost = _checked(cost, steps)
    total = torch.full_like(cost[0], torch.inf)
    total[0] = 0.0
    came_from = []
    for _ in range(steps):
        total, best = (total[:, None] + cost).min(0)
        came_from.append(best)
    if not bool(total[-1] < torch.inf):
        raise ValueError(f"no path of {steps} steps is allowed: every one holds a step of infinite cost")
    path = [len(cost) - 1]
    for best in reversed(came_from):
        path.append(int(best[path[-1]]))
    return path[::-1]


def path_cost(cost: Tensor, path: list[int]) -> float:
    """Σ_k cost[i_{k−1}, i_k] of a path."""
    return float(sum(cost[i, j] for i, j in itertools.pairwise(path)))


def align(cost: Tensor, steps: int, rounds: int = 10) -> list[int]:
    """A path of N = steps steps found coarse to fine: split the dearest step, then improve each node in turn.

    The search of Align Your Steps (Sabour et al. 2024) on a cost that is a sum over the steps: one node moves while its
    neighbours stay, at most `rounds` sweeps after each new node, stopped as soon as nothing moves. It needs only the
    costs that it asks for, where `least_cost_path` needs all of them, and may end in a local minimum, never below
    `least_cost_path`. Arguments and errors as there; ValueError for rounds < 0.
    """
    cost = _checked(cost, steps)
    arguments.positive_integer("rounds", rounds, at_least=0)
    path = [0, len(cost) - 1]
    while len(path) <= steps:
        splittable = [(float(cost[i, j]), k) for k, (i, j) in enumerate(itertools.pairwise(path)) if j - i > 1]
        _, k = max(splittable)
        path.insert(k + 1, _best_between(cost, path[k], path[k + 1]))
        for _ in range(rounds):
            before = list(path)
            for k in range(1, len(path) - 1):
                path[k] = _best_between(cost, path[k - 1], path[k + 1])
            if path == before:
                break
    return path


def _best_between(cost: Tensor, left: int, right: int) -> int:
    inside = slice(left + 1, right)
    return left + 1 + int((cost[left, inside] + cost[inside, right]).argmin())


def _checked(cost: Tensor, steps: int) -> Tensor:
    arguments.floating("cost", cost)
    arguments.positive_integer("steps", steps)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) < 2:
        raise ValueError(f"cost must be (T + 1, T + 1) with T ≥ 1, got {tuple(cost.shape)}")
    if steps >= len(cost):
        raise ValueError(f"steps must be at most T = {len(cost) - 1}, got {steps}")
    above = torch.ones_like(cost, dtype=torch.bool).triu(1)
    if bool(cost[above].isnan().any()):
        raise ValueError("cost must not hold NaN above the diagonal")
    return torch.where(above, cost.double(), torch.inf)
