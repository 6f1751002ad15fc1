"""Answers to the exercises on grids: right ones, and wrong ones that the checks must catch."""

import itertools
import math

import torch

from minidiff.metrics import path_error
from minidiff.samplers import last


def best_factor(r_max, r_min, s, n):
    whole = (math.atan(r_max / s) if math.isfinite(r_max) else math.pi / 2) - math.atan(r_min / s)
    return math.cos(whole / n) ** n


def in_log_r(r_max, r_min, s, n):
    if not math.isfinite(r_max) or r_min == 0:
        return 0.5
    theta = torch.atan(torch.linspace(math.log(r_max), math.log(r_min), n + 1, dtype=torch.float64).exp() / s)
    return float(theta.diff().cos().prod())


def cheapest(cost, n):
    best = {0: (0.0, [0])}
    for _ in range(n):
        ahead = {}
        for j in range(1, len(cost)):
            ways = [(c + float(cost[i, j]), [*way, j]) for i, (c, way) in best.items() if i < j]
            if ways:
                ahead[j] = min(ways)
        best = ahead
    return best[len(cost) - 1][1]


def greedy(cost, n):
    path, last_node = [0], len(cost) - 1
    for k in range(n - 1):
        path.append(min(range(path[-1] + 1, last_node - (n - 2 - k)), key=lambda j: float(cost[path[-1], j])))
    return [*path, last_node]


def at_most(cost, n):
    """The cheapest path with up to n steps."""
    paths = (cheapest(cost, k) for k in range(1, n + 1))
    return min(paths, key=lambda path: float(sum(cost[i, j] for i, j in itertools.pairwise(path))))


def below_the_diagonal(cost, n):
    steps = [int(i) for i in torch.linspace(0, len(cost) - 1, n + 1).round()]
    return steps[:-2] + steps[-2:][::-1] if n > 1 else steps


def place(u, m, p, n):
    root = m ** (1 / (p + 1))
    total = torch.cat([u.new_zeros(1), torch.cumulative_trapezoid(root, u)])
    shares = torch.linspace(0, float(total[-1]), n + 1, dtype=torch.float64)
    cell = torch.searchsorted(total, shares).clamp(1, len(u) - 1) - 1
    inner = u[cell] + (shares - total[cell]) / (total[cell + 1] - total[cell]) * (u[cell + 1] - u[cell])
    return torch.cat([u[:1], inner[1:-1], u[-1:]])


def control(h, error, q):
    if not math.isfinite(error):
        return False, 0.2 * h
    return error <= 1, h * min(2.0, max(0.2, 0.9 * max(error, 1e-30) ** (-1 / q)))


def nan_passes(h, error, q):
    if error > 1:
        return False, h * max(0.2, 0.9 * error ** (-1 / q))
    return True, h * min(2.0, 0.9 * max(error, 1e-30) ** (-1 / q)) if error == error else h


def ranking(D, x, reference, grids, method, reduce=torch.median):
    errors = {k: float(reduce(path_error(last(method(D, x, g)), reference, D.sigma_data))) for k, g in grids.items()}
    return sorted(errors, key=errors.get)


def information_grid(snr_noise, snr_data, s, n):
    low, high = math.log1p(s**2 * snr_noise), math.log1p(s**2 * snr_data)
    return torch.linspace(low, high, n + 1, dtype=torch.float64).expm1() / s**2


def equal_angles(snr_noise, snr_data, s, n):
    low, high = (math.atan(1 / (s * math.sqrt(snr))) for snr in (snr_noise, snr_data))
    return 1 / (s * torch.tan(torch.linspace(low, high, n + 1, dtype=torch.float64))) ** 2


RIGHT = {
    "steps-01": best_factor,
    "steps-02": cheapest,
    "steps-03": place,
    "steps-04": control,
    "steps-05": ranking,
    "steps-06": information_grid,
    "steps-07": lambda p, batch: (1 - p.cumsum(0) ** batch).sum(),
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "steps-01": [
        (in_log_r, "no grid that DDIM runs on keeps more"),
        (lambda r_max, r_min, s, n: math.exp(-(math.pi**2) / 8 / n), "no grid that DDIM runs on keeps more|is reached"),
        (lambda r_max, r_min, s, n: 0.999999, "is reached by a grid"),
    ],
    "steps-02": [
        (greedy, "its cost is the least of all subsets"),
        (at_most, "the path has n steps"),
        (below_the_diagonal, "the path has n steps|the nodes increase"),
        (lambda cost, n: None, "must be a list of integers"),
    ],
    "steps-03": [
        (lambda u, m, p, n: place(u, m, 0, n), "every step makes the same local error"),
        (lambda u, m, p, n: place(u, 1 / m, p, n), "every step makes the same local error"),
        (lambda u, m, p, n: torch.linspace(1, 5, n + 1, dtype=torch.float64), "every step makes the same local error"),
        (lambda u, m, p, n: place(u, m, p, n + 1), r"there are n \+ 1 nodes"),
    ],
    "steps-04": [
        (nan_passes, "an error that is infinite or NaN is never accepted"),
        (lambda h, error, q: (error <= 1, control(h, error, q + 1)[1]), "where E ∝ h"),
        (lambda h, error, q: (error < 1, control(h, error, q)[1]), "accepted exactly if its error is at most 1"),
        (lambda h, error, q: (error <= 1, 0.9 * h * error ** (-1 / q)), "raised ZeroDivisionError"),
    ],
    "steps-05": [
        (
            lambda D, x, reference, grids, method: ranking(D, x, reference, grids, method, torch.mean),
            "the best grid comes first",
        ),
        (lambda *a: ranking(*a)[::-1], "the best grid comes first"),
        (lambda D, x, reference, grids, method: list(grids), "the best grid comes first|the order is that of"),
    ],
    "steps-06": [
        (
            lambda a, b, s, n: torch.linspace(math.log(a), math.log(b), n + 1, dtype=torch.float64).exp(),
            "no other nodes have a smaller bound",
        ),
        (equal_angles, "no other nodes have a smaller bound"),
        (lambda a, b, s, n: information_grid(a, b, 1.0, n), "no other nodes have a smaller bound"),
    ],
    "steps-07": [
        (lambda p, batch: (p * torch.arange(len(p))).sum(), "expected maximum over the batch"),
        (lambda p, batch: 1 + (1 - p.cumsum(0) ** batch).sum(), "the mean number of calls"),
        (lambda p, batch: batch * (p * torch.arange(len(p))).sum(), "expected maximum over the batch"),
    ],
}
