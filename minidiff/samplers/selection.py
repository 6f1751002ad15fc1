"""Calls spent on choosing: the best of several draws, and a search among the noises that they start from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.noise import Generators, standard_normal


def best_of(x: Tensor, rewards: Tensor) -> Tensor:
    """For each b the draw x[n, b] with the largest reward; x (N, B, *D), rewards (N, B) → (B, *D)."""
    arguments.finite("rewards", rewards)
    if rewards.ndim != 2 or x.shape[:2] != rewards.shape:
        raise ValueError(f"x must be (N, B, *D) and rewards (N, B), got {tuple(x.shape)} and {tuple(rewards.shape)}")
    return x[rewards.argmax(0), torch.arange(x.shape[1], device=x.device)]


def best_weights(pool: int, n: int) -> Tensor:
    """P(the best of n rows, drawn without replacement from `pool`, is the i-th smallest) = C(i−1, n−1)/C(pool, n).

    (pool,) float64, i ascending. With the values sorted by reward, Σ_i weight_i value_i is an unbiased estimate, from
    one pool, of what the best of n has on average. Raises ValueError unless 1 ≤ n ≤ pool.
    """
    arguments.positive_integer("pool", pool)
    arguments.positive_integer("n", n)
    if n > pool:
        raise ValueError(f"n must be at most the pool's {pool} draws, got {n}")
    counts = [math.comb(i, n - 1) / math.comb(pool, n) for i in range(pool)]
    return torch.tensor(counts, dtype=torch.float64)


def expected_best(rewards: Tensor, n: int, values: Tensor | None = None) -> Tensor:
    """The mean of `values` (default: the reward) at the draw of largest reward among n, by `best_weights`.

    rewards and values: (M, …), a pool of M ≥ n draws; the result is (…), float64.
    """
    arguments.finite("rewards", rewards)
    order = rewards.argsort(0)
    chosen = (rewards if values is None else values).double().gather(0, order)
    weights = best_weights(len(rewards), n).to(rewards.device)
    return (weights.reshape(-1, *[1] * (rewards.ndim - 1)) * chosen).sum(0)


class Found(NamedTuple):
    """The noise z (B, *D) that a search found, its sample x (B, *D), its reward (B,), and the draws it took."""

    z: Tensor
    x: Tensor
    reward: Tensor
    draws: int


def search_noise(
    draw: Callable[[Tensor], Tensor],
    reward: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    rounds: int,
    neighbours: int = 1,
    radius: float = 0.3,
    generator: Generators = None,
) -> Found:
    """Zero-order search (Ma et al. 2025): in each round, the best of a noise and of its neighbours.

    A neighbour is √(1 − ρ²) z + ρ ξ with ρ = radius and ξ ~ N(0, I), itself standard normal if z is; radius 1 forgets
    z, and the search is best-of-n. `draw` maps noise (B, *D) to samples and must be deterministic; `reward` maps
    samples to (B,). 1 + rounds · neighbours draws. Raises ValueError for rounds or neighbours < 1 and a radius outside
    (0, 1].
    """
    arguments.finite("z", z)
    arguments.positive_integer("rounds", rounds)
    arguments.positive_integer("neighbours", neighbours)
    arguments.real("radius", radius, 1e-12, 1.0)
    keep = math.sqrt(1 - radius**2)
    x = draw(z)
    best = reward(x)
    arguments.finite("the reward", best)
    for _ in range(rounds):
        pivot = z
        for _ in range(neighbours):
            other = keep * pivot + radius * standard_normal(z.shape, generator, z.dtype, z.device)
            made = draw(other)
            value = reward(made)
            better = value > best
            wide = better.reshape(-1, *[1] * (z.ndim - 1))
            z, x, best = torch.where(wide, other, z), torch.where(wide, made, x), torch.where(better, value, best)
    return Found(z, x, best, 1 + rounds * neighbours)
