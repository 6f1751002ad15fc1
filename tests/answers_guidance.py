"""Answers to the exercises of the guidance chapter: right ones, and wrong ones that the checks must catch."""

import math

import numpy as np
import torch


def ends(s, tau, w):
    S = math.hypot(s, tau)
    return s * (s / S) ** (w - 1), (w / s**2 - (w - 1) / S**2) ** -0.5


def the_same_twice(s, tau, w):
    return (ends(s, tau, w)[1],) * 2


def spread_of_the_mean(s, tau, w):
    """τ in the place of S."""
    return s * (s / tau) ** (w - 1), (w / s**2 - (w - 1) / tau**2) ** -0.5


def variances(s, tau, w):
    return tuple(value**2 for value in ends(s, tau, w))


def ho_and_salimans(s, tau, w):
    return ends(s, tau, 1 + w)


def interval_std(s, S, w, low, high):
    ratio = (s**2 + low**2) * (S**2 + high**2) / ((s**2 + high**2) * (S**2 + low**2))
    return s * ratio ** ((w - 1) / 2)


def unguided_outside(s, S, w, low, high):
    """w = 0 outside the interval."""
    ratio = (s**2 + low**2) * (S**2 + high**2) / ((s**2 + high**2) * (S**2 + low**2))
    return S * ratio ** (w / 2)


def upside_down(s, S, w, low, high):
    return s**2 / interval_std(s, S, w, low, high)


def without_the_root(s, S, w, low, high):
    return interval_std(s, S, 2 * w - 1, low, high)


def weight(delta_a, delta_b, u, v):
    moved = (u * delta_a + v * delta_b).square().sum(1)
    return (moved - u * delta_a.square().sum(1) - v * delta_b.square().sum(1)) / 2


def one_at_a_time(delta_a, delta_b, u, v):
    return (u * (u - 1) * delta_a.square().sum(1) + v * (v - 1) * delta_b.square().sum(1)) / 2


def opposite(delta_a, delta_b, u, v):
    return -weight(delta_a, delta_b, u, v)


def summed(delta_a, delta_b, u, v):
    return weight(delta_a, delta_b, u, v).sum()


def batched(D, x, t, y, null, w):
    t = t if t.ndim == 0 else torch.cat([t, t])
    one, zero = D(torch.cat([x, x]), t, torch.cat([y, torch.full_like(y, null)])).chunk(2)
    return zero + w * (one - zero)


def in_turn(D, x, t, y, null, w):
    """One row with its label, one without, and so on."""
    rows = torch.stack([y, torch.full_like(y, null)], 1).flatten()
    made = D(x.repeat_interleave(2, 0), t.expand(len(x)).repeat_interleave(2), rows).unflatten(0, (len(x), 2))
    return (1 - w) * made[:, 1] + w * made[:, 0]


def two_calls(D, x, t, y, null, w):
    zero = D(x, t, torch.full_like(y, null))
    return zero + w * (D(x, t, y) - zero)


def swapped(D, x, t, y, null, w):
    t = t if t.ndim == 0 else torch.cat([t, t])
    zero, one = D(torch.cat([x, x]), t, torch.cat([y, torch.full_like(y, null)])).chunk(2)
    return zero + w * (one - zero)


def one_time_only(D, x, t, y, null, w):
    one, zero = D(torch.cat([x, x]), t, torch.cat([y, torch.full_like(y, null)])).chunk(2)
    return zero + w * (one - zero)


def one_more(D, x, t, y, null, w):
    """(1 + w) x̂_1 − w x̂_0."""
    return batched(D, x, t, y, null, 1 + w)


def summary(x, log_weights):
    share = log_weights.softmax(1)
    means = (share * x).sum(1)
    size = 1 / share.square().sum(1)
    return means.mean(), means.std() / len(x) ** 0.5, size.mean()


def overflowing(x, log_weights):
    weights = log_weights.exp()
    means = (weights * x).sum(1) / weights.sum(1)
    return means.mean(), means.std() / len(x) ** 0.5, (weights.sum(1) ** 2 / weights.square().sum(1)).mean()


def one_pool(x, log_weights):
    """All systems in one, as if their weights could be compared."""
    share = log_weights.flatten().softmax(0)
    return (share * x.flatten()).sum(), x.std() / x.numel() ** 0.5, 1 / share.square().sum()


def all_independent(x, log_weights):
    mean, _, size = summary(x, log_weights)
    return mean, x.std() / x.numel() ** 0.5, size


def best_scale(kappa, phi):
    lead = kappa - 1
    return 1 + lead / (lead**2 + phi**2) if lead else 1.0


def as_if_aligned(kappa, phi):
    return kappa / (kappa - 1) if kappa != 1 else 1.0


def without_the_one(kappa, phi):
    return best_scale(kappa, phi) - 1


def too_far(kappa, phi):
    return 1 + 2 * (best_scale(kappa, phi) - 1)


RIGHT = {
    "guide-01": ends,
    "guide-02": interval_std,
    "guide-03": weight,
    "guide-04": batched,
    "guide-05": summary,
    "guide-06": best_scale,
}
# The same in other forms: other routes, tensors and arrays in the place of floats.
ALSO_RIGHT = {
    "guide-01": [
        lambda *arguments: torch.tensor(ends(*arguments)),
        lambda *arguments: np.array(ends(*arguments)),
    ],
    "guide-04": [in_turn],
    "guide-05": [lambda *arguments: torch.stack(summary(*arguments))],
    "guide-06": [lambda kappa, phi: (kappa * (kappa - 1) + phi**2) / ((kappa - 1) ** 2 + phi**2)],
}
WRONG = {
    "guide-01": [
        (the_same_twice, "the first std is that of the path"),
        (spread_of_the_mean, "w = 0 gives S in both"),
        (variances, "w = 1 gives s in both"),
        (ho_and_salimans, "w = 1 gives s in both"),
    ],
    "guide-02": [
        (unguided_outside, "with w = 1 the std is s"),
        (upside_down, "an interval over all noise is guidance"),
        (without_the_root, "an interval over all noise is guidance"),
    ],
    "guide-03": [
        (one_at_a_time, "the same condition twice"),
        (opposite, "that of the chapter"),
        (summed, r"the shape must be \(4,\)"),
    ],
    "guide-04": [
        (two_calls, "D is called once"),
        (swapped, "x̂_0 \\+ w"),
        (one_time_only, "t is one number, or one for each row"),
        (one_more, "x̂_0 \\+ w"),
    ],
    "guide-05": [
        (overflowing, "the mean, its standard error and the effective number is finite"),
        (one_pool, "a factor on all weights of a system"),
        (all_independent, "standard error over systems"),
    ],
    "guide-06": [
        (as_if_aligned, "no other scale leaves less"),
        (without_the_one, "a weak model with the same fault"),
        (too_far, "a weak model with the same fault"),
    ],
}
