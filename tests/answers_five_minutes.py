"""Answers to the exercises of the five-minute chapter: right ones, and wrong ones that the checks must catch."""

import math

import torch

from minidiff import sample
from minidiff.metrics import copy_rate, frechet_distance


def guess(x, t, m, s):
    signal = (1 - t) * s
    if signal == 0:
        return torch.full_like(x, m)
    return m + signal * s / (signal**2 + t**2) * (x - (1 - t) * m)


def undone(x, t, m, s):
    """Undoes the fading and leaves the noise."""
    return x / (1 - t) if t < 1 else torch.full_like(x, m)


def by_division(x, t, m, s):
    """Right inside, 0/0 at s = t = 0 and at s = 0."""
    return (m * t**2 / s**2 + (1 - t) * x) / (t**2 / s**2 + (1 - t) ** 2)


def step(x, guess, s, t):
    eps = (x - (1 - s) * guess) / s
    return (1 - t) * guess + t * eps


def bias(variances, n):
    pairs = variances[:, None] * variances / (variances[:, None] + variances)
    return (2 * variances.sum() + pairs.sum() + pairs.diagonal().sum()) / n


def half_of_the_pairs(variances, n):
    """Counts each pair of coordinates once."""
    pairs = variances[:, None] * variances / (variances[:, None] + variances)
    return (2 * variances.sum() + pairs.triu().sum() + pairs.diagonal().sum()) / n


def verdict(fd, sizes, samples, training):
    x = 1 / torch.tensor(sizes, dtype=torch.float64)
    y = torch.tensor([fd(n) for n in sizes], dtype=torch.float64)
    slope = ((x - x.mean()) * y).sum() / (x - x.mean()).square().sum()
    return y.mean() - slope * x.mean(), copy_rate(samples, training)


def path_error(D, x, calls, reference):
    return (sample(D, x, calls) - sample(D, x, reference)).square().mean().sqrt()


RIGHT = {
    "five-01": guess,
    "five-02": step,
    "five-03": bias,
    "five-04": verdict,
    "five-05": path_error,
    "five-06": lambda floor, half, n, m: floor * half * (1 / n + 1 / m) / 2,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "five-01": [
        (undone, "Bayes' rule gives on a grid"),
        (by_division, "ZeroDivisionError"),
        (lambda x, t, m, s: guess(x, max(t, 1e-3), m, s), "without noise the best guess is x itself"),
        (lambda x, t, m, s: m + s**2 / (s**2 + t**2) * (x - m), "Bayes' rule gives on a grid"),
    ],
    "five-02": [
        (lambda x, guess, s, t: (1 - t) * guess + t * x, "the right point on the line"),
        (lambda x, guess, s, t: x + (s - t) * guess, "the right point on the line"),
        (lambda x, guess, s, t: (1 - t) * guess + t * (x - guess) / s, "the right point on the line"),
    ],
    "five-03": [
        (lambda variances, n: 3 * variances.sum() / n, "correlations are estimated too"),
        (lambda variances, n: 2 * variances.sum() / n, "in one dimension it is 3 σ²/n"),
        (
            lambda variances, n: bias(variances, n) + variances.sum() * (len(variances) - 1) / n,
            "a coordinate that does not vary adds nothing",
        ),
        (half_of_the_pairs, "agrees with the mean over 300"),
    ],
    "five-04": [
        (lambda fd, sizes, x, y: (fd(sizes[-1]), copy_rate(x, y)), "a bias of exactly c/n is removed"),
        (lambda fd, sizes, x, y: (verdict(fd, sizes, x, y)[0], frechet_distance(x, y)), "sets a memoriser apart"),
        (lambda fd, sizes, x, y: (abs(verdict(fd, sizes, x, y)[0]), copy_rate(x, y)), "are at distance 0"),
        (lambda fd, sizes, x, y: (verdict(fd, sizes, x, y)[0], float((x == y).double().mean())), "a memoriser apart"),
    ],
    "five-05": [
        (lambda D, x, calls, reference: path_error(D, x, calls, reference).square(), "the root of the mean squared"),
        (lambda D, x, calls, reference: path_error(D, x, calls, calls + 1), "times"),
        (
            lambda D, x, calls, reference: (sample(D, x, calls) - sample(D, x, reference)).square().sum().sqrt(),
            "the root of the mean squared",
        ),
    ],
    "five-06": [
        (lambda floor, half, n, m: floor * half / n, "the two sets play the same part"),
        (lambda floor, half, n, m: floor * 2 * half / (n + m), "against the law itself"),
        (lambda floor, half, n, m: floor * half / math.sqrt(n * m), "against the law itself"),
    ],
}
