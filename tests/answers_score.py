"""Answers to the exercises of the score-matching chapter: right ones, and wrong ones that the checks must catch."""

import math

import torch

from minidiff.samplers import annealed_langevin, langevin, last


def jacobian(D, x, t):
    """∂D_i/∂x_j row by row; (B, d, d)."""
    return torch.stack(
        [torch.autograd.functional.jacobian(lambda row: D(row[None], t)[0], row, vectorize=False) for row in x]
    )


def target_covariance(D, x, t):
    return D.process.alpha(t) / D.process.sigma(t) ** 2 * jacobian(D, x, t)


def posterior_covariance(D, x, t):
    """The covariance of x_0, not of the target."""
    return D.process.sigma(t) ** 2 / D.process.alpha(t) * jacobian(D, x, t)


def for_alpha_one(D, x, t):
    return jacobian(D, x, t) / D.process.sigma(t) ** 2


def only_its_trace(D, x, t):
    trace = target_covariance(D, x, t).diagonal(dim1=1, dim2=2).mean(1)
    return trace[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype)


def hutchinson_variance(A, kind):
    S = (A + A.T) / 2
    return 2 * (S.square().sum() - (S.diagonal().square().sum() if kind == "rademacher" else 0))


def for_symmetric(A, kind):
    return 2 * (A.square().sum() - (A.diagonal().square().sum() if kind == "rademacher" else 0))


def fit_gaussian(x):
    centred = x - x.mean(0)
    return x.mean(0), torch.linalg.inv(centred.T @ centred / len(x))


def best_step(C):
    low, high = torch.linalg.eigvalsh(C)[[0, -1]]
    step = 4 / (1 / low + 1 / high)
    return step, C @ torch.linalg.inv(torch.eye(len(C), dtype=C.dtype) - step / 4 * torch.linalg.inv(C))


def share(D, times, step, steps, n, generator):
    x = D.process.prior((n, 1), generator, dtype=torch.float64)
    right = (last(annealed_langevin(D, x, times, step=step, steps=steps, generator=generator)) > 0).double()
    return right.mean(), right.std() / n**0.5


def one_level(D, times, step, steps, n, generator):
    x = D.process.prior((n, 1), generator, dtype=torch.float64)
    x = last(langevin(D, x, times[-1], step=step, steps=steps * len(times), generator=generator))
    right = (x > 0).double()
    return right.mean(), right.std() / n**0.5


def spread_of_one(D, times, step, steps, n, generator):
    value, error = share(D, times, step, steps, n, generator)
    return value, error * n**0.5


RIGHT = {
    "score-01": target_covariance,
    "score-02": hutchinson_variance,
    "score-03": fit_gaussian,
    "score-04": lambda x, s, slope: x * (1 - x) * (slope + s**2 / 2) + (1 - 2 * x) * s,
    "score-05": best_step,
    "score-06": share,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "score-01": [
        (posterior_covariance, "covariance of the target on a mixture"),
        (for_alpha_one, "for any α and σ"),
        (only_its_trace, "covariance of the target on a mixture"),
        (lambda D, x, t: torch.eye(2).expand(5, 2, 2) / D.process.sigma(t) ** 2, "covariance of the target"),
    ],
    "score-02": [
        (for_symmetric, "over rademacher v, for any square A"),
        (lambda A, kind: hutchinson_variance(A, "gaussian"), "over rademacher v"),
        (lambda A, kind: hutchinson_variance(A, "rademacher"), "over gaussian v"),
        (lambda A, kind: hutchinson_variance(A, kind) ** 0.5, "over rademacher v"),
    ],
    "score-03": [
        (lambda x: (x.mean(0), torch.cov(x.T)), "no slope in the precision"),
        (lambda x: (x.mean(0), torch.linalg.inv(torch.cov(x.T))), "no slope in the precision"),
        (lambda x: (x.mean(0), (1 / x.var(0, correction=0)).diag()), "no slope in the precision"),
        (lambda x: (x.median(0).values, fit_gaussian(x)[1]), "no slope in the mean"),
    ],
    "score-04": [
        (lambda x, s, slope: slope + s**2 / 2, "half the weighted squared error"),
        (lambda x, s, slope: x * (1 - x) * (slope + s**2 / 2), "half the weighted squared error"),
        (lambda x, s, slope: x * (1 - x) * (slope + s**2 / 2) - (1 - 2 * x) * s, "half the weighted squared error"),
        (lambda x, s, slope: (x * (1 - x) * slope).mean(), "one loss for each sample"),
    ],
    "score-05": [
        (lambda C: (2 * torch.linalg.eigvalsh(C)[0], C), "forgets the start faster"),
        (lambda C: (best_step(C)[0], C), "one more step leaves the covariance"),
        (lambda C: (2 * best_step(C)[0], C), "the chain converges"),
        (lambda C: (best_step(C)[0] / 2, best_step(C)[1]), "forgets the start faster"),
    ],
    "score-06": [
        (one_level, "annealing recovers the weight"),
        (spread_of_one, "standard error"),
        (lambda *a: share(*a[:-1], None), "same generator"),
        (lambda *a: math.nan, "two values"),
    ],
}
