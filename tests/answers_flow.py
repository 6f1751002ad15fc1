"""Answers to the exercises of the flow-matching chapter: right ones, and wrong ones that the checks must catch."""

import itertools
import math

import torch
from scipy.optimize import linear_sum_assignment

normal_cdf = torch.special.ndtr


def rectified(x, t, s):
    m = (1 - t) * s + t
    return s * x / m, (1 - s) * x / m, -x / m**2


def score_by_conversion(x, t, s):
    m = (1 - t) * s + t
    return s * x / m, (1 - s) * x / m, -x / (m * t)


def independent_pairs(x, t, s):
    v = (1 - t) ** 2 * s**2 + t**2
    return (1 - t) * s**2 * x / v, (t - (1 - t) * s**2) * x / v, -x / v


def towards_data(x, t, s):
    denoised, velocity, score = rectified(x, t, s)
    return denoised, -velocity, score


def euler_std(s, times):
    def slope(t):
        return (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2)

    return math.prod(1 + (b - a) * slope(a) for a, b in itertools.pairwise(times))


def quantile_flow(eps, weights, means, stds):
    candidates = means + stds * eps[..., None]
    low, high = candidates.amin(-1), candidates.amax(-1)
    for _ in range(60):
        middle = (low + high) / 2
        below = normal_cdf((middle[..., None] - means) / stds) @ weights < normal_cdf(eps)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


def mean_of_components(eps, weights, means, stds):
    return (means + stds * eps[..., None]) @ weights


def five_bisections(eps, weights, means, stds):
    return (quantile_flow(eps, weights, means, stds) * 1e4).round() / 1e4


def one_gaussian(eps, weights, means, stds):
    mean = weights @ means
    return mean + (weights @ (stds**2 + (means - mean) ** 2)).sqrt() * eps


def gaussian_budget(s, rho):
    phi = math.acos(rho)
    return s * (2 - 2 * math.cos(phi) - phi * math.sin(phi)), s * phi * math.sin(phi)


def fitted(p, q, kernel, sweeps):
    plan = kernel
    for _ in range(sweeps):
        plan = plan * (p / plan.sum(1))[:, None]
        plan = plan * (q / plan.sum(0))
    return plan


def columns_first(p, q, kernel, sweeps):
    return fitted(q, p, kernel.T, sweeps).T


def stale(p, q, kernel, sweeps):
    a, b = torch.ones_like(p), torch.ones_like(q)
    for _ in range(sweeps):
        a, b = p / (kernel @ b), q / (a @ kernel)
    return a[:, None] * kernel * b


def effective_weight(lam, m, s):
    return torch.sigmoid(-lam) ** -2 * torch.exp(-(((lam + m) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))


def assigned(a, b):
    rows, columns = linear_sum_assignment(torch.cdist(a, b).square().numpy())
    return float((a[rows] - b[columns]).square().sum())


def saving(x0, eps, batch):
    after = sum(assigned(a, b) for a, b in zip(x0.split(batch), eps.split(batch), strict=True))
    return 1 - after / float((x0 - eps).square().sum())


def greedy(x0, eps, batch):
    """Each picture takes the nearest noise that is left."""
    after = 0.0
    for a, b in zip(x0.split(batch), eps.split(batch), strict=True):
        cost = torch.cdist(a, b).square()
        for row in cost:
            best = int(row.argmin())
            after += float(row[best])
            cost[:, best] = math.inf
    return 1 - after / float((x0 - eps).square().sum())


RIGHT = {
    "flow-01": rectified,
    "flow-02": euler_std,
    "flow-03": lambda s: math.pi**2 / 4 * s,
    "flow-04": quantile_flow,
    "flow-05": gaussian_budget,
    "flow-06": lambda s, rho, t: (t * (1 - t) * (1 + s**2 - 2 * rho * s)) ** 0.5,
    "flow-07": fitted,
    "flow-08": effective_weight,
    "flow-09": saving,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "flow-01": [
        (score_by_conversion, "derivative of the logarithm"),
        (independent_pairs, "the x_0 that belongs to x"),
        (towards_data, "one Euler step is exact"),
        (lambda x, t, s: rectified(x, t, s)[:2], "denoiser, velocity and score"),
    ],
    "flow-02": [
        (lambda s, times: s, "each step follows"),
        (lambda s, times: 1 / euler_std(s, times[::-1]) if times[1] else 0.0, "each step follows"),
        (lambda s, times: euler_std(s**0.5, times), "each step follows"),
    ],
    "flow-03": [
        (lambda s: math.pi / 2 * s, "linear regression"),
        (lambda s: math.pi**2 / 4 * s**2, "linear regression"),
        (lambda s: (math.pi / 2) ** 2 * (1 + s**2) / 2, "linear regression"),
    ],
    "flow-04": [
        (mean_of_components, "as much of the data lies below"),
        (one_gaussian, "as much of the data lies below"),
        (five_bisections, "as much of the data lies below"),
        (lambda eps, weights, means, stds: quantile_flow(-eps, weights, means, stds), "keep their order"),
    ],
    "flow-05": [
        (lambda s, rho: (s * (2 - math.pi / 2), s * math.pi / 2), "what regression leaves"),
        (lambda s, rho: gaussian_budget(s, rho)[::-1], "what regression leaves"),
        (lambda s, rho: (0.0, gaussian_budget(s, rho)[1]), "add up to the cost"),
        (lambda s, rho: 2 * s * (1 - rho), "two values"),
    ],
    "flow-06": [
        (lambda s, rho, t: t * (1 - t) * (1 + s**2 - 2 * rho * s), "linearly from"),
        (lambda s, rho, t: (2 * t * (1 - t)) ** 0.5, "linearly from"),
        (lambda s, rho, t: (t * (1 - t) * (1 - s) ** 2) ** 0.5, "linearly from"),
    ],
    "flow-07": [
        (columns_first, "columns, set last"),
        (stale, "columns, set last|brings the rows closer|one sweep sets"),
        (lambda p, q, kernel, sweeps: torch.outer(p, q), "rescaled rows and columns"),
        (lambda p, q, kernel, sweeps: fitted(p, q, kernel, 2 * sweeps), "one sweep sets"),
    ],
    "flow-08": [
        (lambda lam, m, s: effective_weight(lam, -m, s), "for any error"),
        (lambda lam, m, s: effective_weight(lam, m, s) * torch.sigmoid(-lam) ** 2, "for any error"),
        (lambda lam, m, s: effective_weight(-lam, -m, s), "for any error"),
    ],
    "flow-09": [
        (greedy, "best of all orders"),
        (lambda x0, eps, batch: saving(x0, eps, len(x0)), "batches of one"),
        (lambda x0, eps, batch: 1 - (1 - saving(x0, eps, batch)) ** 0.5, "best of all orders"),
    ],
}
