"""Answers to the exercises of the chapter on five relatives: right ones, and wrong ones that the checks must catch."""

import math

import torch


def gap(W, s):
    M = torch.eye(W.shape[1], dtype=W.dtype) + W.T @ W / s**2
    return (M.diagonal().log().sum() - torch.logdet(M)) / 2


def turned(W):
    return W @ torch.linalg.eigh(W.T @ W).eigenvectors


def posterior_marginals(W, s):
    """The variances of the posterior instead of its precisions."""
    C = torch.linalg.inv(torch.eye(W.shape[1], dtype=W.dtype) + W.T @ W / s**2)
    return (C.diagonal().log().sum() - torch.logdet(C)) / 2


def repaired(f, logit, nu):
    share = logit.softmax(0)
    return (share * f).sum(), (share * (logit + math.log(nu))).sum()


def planar(x, u, w, b):
    h = torch.tanh(x @ w + b)
    return x + u * h[:, None], torch.log((1 + (1 - h**2) * (u @ w)).abs())


def without_slope(x, u, w, b):
    y, _ = planar(x, u, w, b)
    return y, torch.full((len(x),), float((1 + u @ w).abs().log()))


def entropy(p, axes):
    gone = [i for i in range(p.ndim) if i not in axes]
    return torch.special.entr(p.sum(gone) if gone else p).sum()


def parallel_price(p, groups):
    before, price = [], 0.0
    for group in groups:
        known = entropy(p, before)
        price += sum(entropy(p, [*before, i]) - known for i in group) - (entropy(p, before + group) - known)
        before = before + group
    return price


def forgetful(p, groups):
    """Each group by itself, as if nothing had been drawn before."""
    return sum(sum(entropy(p, [i]) for i in group) - entropy(p, group) for group in groups)


def largest_variance(m, s):
    return s**4 / (m**2 - s**2) if m > s else math.inf


def undominated(rows):
    def beaten(row):
        return any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in rows)

    return [k for k, row in enumerate(rows) if not beaten(row)]


def strictly(rows):
    """Beaten only where another row is better in every column."""
    return [
        k
        for k, row in enumerate(rows)
        if not any(all(a < b for a, b in zip(other, row, strict=True)) for other in rows)
    ]


RIGHT = {
    "relatives-01": lambda W, s: (gap(W, s), turned(W)),
    "relatives-02": repaired,
    "relatives-03": planar,
    "relatives-04": parallel_price,
    "relatives-05": largest_variance,
    "relatives-06": undominated,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "relatives-01": [
        (lambda W, s: (posterior_marginals(W, s), turned(W)), "Monte-Carlo ELBO"),
        (lambda W, s: (gap(W, 1.0), turned(W)), "Monte-Carlo ELBO"),
        (lambda W, s: (gap(W, s), W), "the new weights have no gap"),
        (lambda W, s: (gap(W, s), torch.linalg.qr(W).Q), "the same density"),
        (lambda W, s: gap(W, s), "two values"),
    ],
    "relatives-02": [
        (lambda f, logit, nu: ((logit.sigmoid() * f).mean(), repaired(f, logit, nu)[1]), "mean is that under the data"),
        (lambda f, logit, nu: (repaired(f, logit, nu)[0], repaired(f, logit, 1.0)[1]), "the divergence is that"),
        (lambda f, logit, nu: (repaired(f, logit, nu)[0], -(logit + math.log(nu)).mean()), "the divergence is that"),
    ],
    "relatives-03": [
        (without_slope, "the log-determinant is that of the Jacobian"),
        (lambda x, u, w, b: (planar(x, u, w, b)[0], -planar(x, u, w, b)[1]), "the log-determinant is that"),
        (lambda x, u, w, b: (x + w * torch.tanh(x @ u + b)[:, None], planar(x, u, w, b)[1]), "f\\(x\\) is x"),
    ],
    "relatives-04": [
        (forgetful, "the divergence of p"),
        (lambda p, groups: parallel_price(p, groups) / math.log(2), "the divergence of p"),
        (lambda p, groups: parallel_price(p, groups[::-1]), "the divergence of p"),
    ],
    "relatives-05": [
        (lambda m, s: s**4 / m**2, "two humps just above"),
        (lambda m, s: s**2 / (m**2 - s**2) if m > s else math.inf, "hump"),
        (lambda m, s: s**4 / abs(m**2 - s**2) if m != s else 1e9, "never have two humps"),
        (lambda m, s: m**2 - s**2, "hump"),
    ],
    "relatives-06": [
        (strictly, "as good in all and better in one"),
        (lambda rows: [min(range(len(rows)), key=rows.__getitem__)], "as good in all|of a pure exchange"),
        (lambda rows: [k for k in undominated(rows) if rows.index(rows[k]) == k], "as good in all|equal rows"),
        (lambda rows: None, "a list of row numbers"),
    ],
}
