"""Answers to the exercises of the chapter on CausalVAE: right ones, and wrong ones that the checks must catch."""

import math

import torch


def ring(n):
    A = torch.zeros(n, n)
    A[torch.arange(n), (torch.arange(n) + 1) % n] = 1.0
    return A


def solved(A, eps):
    return torch.linalg.solve(torch.eye(len(A)).to(A) - A.mT, eps)


def noise_of(A, seen):
    if not seen:
        return torch.zeros(len(A)).to(A)
    rows = torch.linalg.inv(torch.eye(len(A)).to(A) - A.mT)[list(seen)]
    return rows.mT @ torch.linalg.solve(rows @ rows.mT, torch.tensor(list(seen.values()), dtype=A.dtype))


def what_if(A, seen, do):
    eps, cut = noise_of(A, seen), A.clone()
    for i, value in do.items():
        cut[:, i], eps[i] = 0, value
    return solved(cut, eps)


def forgetful(A, seen, do):
    return what_if(A, {}, do) if do else what_if(A, seen, do)


def cut_too_early(A, seen, do):
    """Reads the evidence in the cut model."""
    cut = A.clone()
    for i in do:
        cut[:, i] = 0
    return what_if(cut, {i: v for i, v in seen.items() if i not in do}, do)


def uncut(A, seen, do):
    eps = noise_of(A, seen)
    for i, value in do.items():
        eps[i] = value
    return solved(A, eps)


def sortability(A, variances):
    i, j = (A != 0).nonzero(as_tuple=True)
    return float(((variances[j] > variances[i]).double() + (variances[j] == variances[i]).double() / 2).mean())


def no_ties(A, variances):
    i, j = (A != 0).nonzero(as_tuple=True)
    return float((variances[j] > variances[i]).double().mean())


def weighted(A, variances):
    i, j = (A != 0).nonzero(as_tuple=True)
    up = (variances[j] > variances[i]).double() + (variances[j] == variances[i]).double() / 2
    return float((up * A[i, j].abs()).sum() / A[i, j].abs().sum())


def shrunken(a0, variance, labels, k):
    low, high = 0.0, abs(a0)
    for _ in range(60):
        a = (low + high) / 2
        if (2 * labels + 1) * variance * (abs(a0) - a) > k * a / (1 + a**2):
            low = a
        else:
            high = a
    return math.copysign((low + high) / 2, a0)


def ridge(a0, variance, labels, k):
    return a0 * (2 * labels + 1) * variance / ((2 * labels + 1) * variance + k)


RIGHT = {
    "causal-01": lambda S: S[0, 2] / S[0, 1],
    "causal-02": ring,
    "causal-03": what_if,
    "causal-04": sortability,
    "causal-05": shrunken,
    "causal-06": lambda a, b, w: -a * b / math.sqrt((a**2 + w) * (b**2 + w)),
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "causal-01": [
        (lambda S: S[1, 2] / S[1, 1], "whatever the hidden cause does"),
        (lambda S: torch.linalg.solve(S[:2, :2], S[:2, 2])[1], "whatever the hidden cause does"),
        (lambda S: S[0, 2] / S[0, 0], "whatever the hidden cause does"),
        (lambda S: None, "must be a number"),
    ],
    "causal-02": [
        (lambda n: torch.triu(torch.ones(n, n), 1), "has a directed cycle"),
        (lambda n: torch.ones(n, n), "degree n − 1 is zero"),
        (lambda n: ring(n) + torch.diag(torch.full((n,), 0.1)), "degree n − 1 is zero"),
        (
            lambda n: torch.zeros(n, n).index_put((torch.tensor([0, 1]), torch.tensor([1, 0])), torch.tensor(1e-4)),
            "zero",
        ),
        (lambda n: ring(n + 1), "size asked for"),
    ],
    "causal-03": [
        (forgetful, "is kept in the new one"),
        (cut_too_early, "is kept in the new one"),
        (uncut, "is kept in the new one"),
    ],
    "causal-04": [
        (no_ties, "equal variances give one half"),
        (lambda A, variances: 1 - sortability(A, variances), "grow along all arrows"),
        (weighted, "share of arrows"),
    ],
    "causal-05": [
        (ridge, "checker's grid"),
        (lambda a0, variance, labels, k: a0, "becomes smaller"),
        (lambda a0, variance, labels, k: shrunken(a0, variance, labels, 2 * k), "checker's grid"),
    ],
    "causal-06": [
        (lambda a, b, w: 0.0, "conditional Gaussian"),
        (lambda a, b, w: a * b / math.sqrt((a**2 + w) * (b**2 + w)), "conditional Gaussian"),
        (lambda a, b, w: -a * b / (a**2 + b**2 + w), "conditional Gaussian"),
    ],
}
