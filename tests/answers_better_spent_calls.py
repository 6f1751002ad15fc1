"""Answers to the exercises of *Start late, run in parallel, choose*: right ones, and wrong ones to be caught."""

import math

import torch


def best_time(c, eps):
    root = eps * math.sqrt(1 + eps**2 / 4)
    excess = eps**2 / 2 + root if c > 1 else eps**2 / 2 - root
    ratio = (c**2 - 1) / excess
    return math.log(ratio) if ratio > 1 else 0.0


def first_order_time(c, eps):
    return max(0.0, math.log(abs(c**2 - 1) / eps)) if c != 1 else 0.0


def one_sign(c, eps):
    ratio = abs(c**2 - 1) / (eps**2 / 2 + eps * math.sqrt(1 + eps**2 / 4))
    return math.log(ratio) if ratio > 1 else 0.0


def couple(mean, draft_mean, std, z, u, reflected=True, sign=-1, always=False):
    delta = (draft_mean - mean) / std
    along = (z * delta).sum(1)
    kept = u.log() <= sign * along - delta.square().sum() / 2
    if always:
        kept = torch.ones_like(kept)
    mirrored = z - 2 * along[:, None] * delta / delta.square().sum() if reflected else z
    return torch.where(kept[:, None], draft_mean + std * z, mean + std * mirrored), kept


def sweep(F, G, path):
    new = [path[0]]
    for n in range(len(path) - 1):
        new.append(F(n, path[n]) + G(n, new[n]) - G(n, path[n]))
    return new


def sequential(F, G, path):
    new = [path[0]]
    for n in range(len(path) - 1):
        new.append(F(n, new[n]))
    return new


def without_correction(F, G, path):
    return [path[0], *(F(n, path[n]) for n in range(len(path) - 1))]


def uncancelled(F, G, path):
    new = [path[0]]
    for n in range(len(path) - 1):
        new.append(F(n, path[n]) + G(n, new[n]) - G(n, new[n] * 0 + path[0]))
    return new


def best_kl(p, n):
    top = p.cumsum(0).clamp(max=1)
    law = top**n - (top - p).clamp(min=0) ** n
    return torch.where(law > 0, law * (law / p).log(), torch.zeros_like(p)).sum()


def reversed_kl(p, n):
    top = p.cumsum(0)
    law = top**n - (top - p).clamp(min=0) ** n
    return (p * (p / law).log()).sum()


def depth(needs):
    level = []
    for parents in needs:
        level.append(1 + max((level[i] for i in parents), default=0))
    return max(level, default=0)


def recursive(needs):
    def level(i):
        return 1 + max((level(j) for j in needs[i]), default=0)

    return max((level(i) for i in range(len(needs))), default=0)


def first_parent(needs):
    level = []
    for parents in needs:
        level.append(1 + (level[parents[0]] if parents else 0))
    return max(level, default=0)


def forget(alpha, sigma, c):
    cos = alpha * c / math.sqrt(alpha**2 * c**2 + sigma**2)
    return cos, cos**2


RIGHT = {
    "calls-01": best_time,
    "calls-02": couple,
    "calls-03": sweep,
    "calls-04": best_kl,
    "calls-05": depth,
    "calls-06": forget,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "calls-01": [
        (first_order_time, "smaller budget"),
        (one_sign, "smaller budget"),
        (lambda c, eps: 0.0, "smaller budget|longer chain"),
        (lambda c, eps: best_time(c, eps) / 2, "smaller budget"),
    ],
    "calls-02": [
        (lambda m, d, s, z, u: couple(m, d, s, z, u, reflected=False), "of the target"),
        (lambda m, d, s, z, u: couple(m, d, s, z, u, sign=1), "of the target"),
        (lambda m, d, s, z, u: couple(m, d, s, z, u, always=True), "as often as the overlap"),
        (lambda m, d, s, z, u: (m + s * z, u > 2), "as often as the overlap"),
    ],
    "calls-03": [
        (sequential, "old path alone"),
        (without_correction, "slope times what has changed"),
        (uncancelled, "slope times what has changed"),
        (lambda F, G, path: path, "once for each step"),
    ],
    "calls-04": [
        (lambda p, n: math.log(n) - (n - 1) / n, "n-tuples"),
        (lambda p, n: math.log(n), "n-tuples"),
        (reversed_kl, "n-tuples"),
    ],
    "calls-05": [
        (recursive, "RecursionError|raised"),
        (first_parent, "longest branch|deepest|rounds"),
        (len, "one deep"),
    ],
    "calls-06": [
        (lambda a, s, c: forget(a, s, c)[::-1], "exact map"),
        (lambda a, s, c: (forget(a, s, c)[0], forget(a, s, c)[0]), "posterior mean"),
        (lambda a, s, c: forget(1.0, s, c), "exact map"),
    ],
}
