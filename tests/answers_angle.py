"""Answers to the exercises of *A better variable*: right ones, and wrong ones that the checks must catch."""

import itertools
import math

import torch


def distance(lam, sigma_d):
    return math.hypot(lam + math.log(sigma_d), math.pi / 2)


def moments(theta_s, theta_t):
    tan = math.tan(theta_t)
    first = [1 - tan / math.tan(theta_s), 1 / math.cos(theta_t) - tan / math.sin(theta_s)]
    second = first[0] - tan * (theta_s - theta_t)
    return [*first, second, first[1] - tan * (math.sin(theta_s) - math.sin(theta_t))]


def combined(known, thetas):
    cosines = torch.tensor(thetas, dtype=torch.float64).cos()
    powers = torch.stack([cosines**m for m in range(len(thetas))])
    return torch.linalg.solve(powers, torch.tensor(known[: len(thetas)], dtype=torch.float64)).tolist()


def weights(theta_s, theta_t, thetas):
    return combined(moments(theta_s, theta_t), thetas)


def sign_of_the_recurrence(theta_s, theta_t, thetas):
    m = moments(theta_s, theta_t)
    return combined([*m[:2], 2 * m[0] - m[2], m[3]], thetas)


def without_the_kernel(theta_s, theta_t, thetas):
    return [v / math.tan(theta_t) for v in weights(theta_s, theta_t, thetas)]


def shrink(s, rs):
    angles = [math.atan(r / s) for r in rs]
    return math.prod(math.cos(a - b) for a, b in itertools.pairwise(angles))


def relative_error(sigma_d, theta_1, theta_2):
    c_1, c_2 = math.cos(theta_1), math.cos(theta_2)
    d_1, d_2 = (1 / math.hypot(1, sigma_d * math.tan(theta)) for theta in (theta_1, theta_2))
    return d_2 + (1 - c_2) * (d_2 - d_1) / (c_2 - c_1) - 1


def in_theta(sigma_d, theta_1, theta_2):
    d_1, d_2 = (1 / math.hypot(1, sigma_d * math.tan(theta)) for theta in (theta_1, theta_2))
    return d_2 + theta_2 * (d_2 - d_1) / (theta_1 - theta_2) - 1


def amplification(cosines):
    newest, *others = cosines
    return math.prod((1 - c) / (newest - c) for c in (*others, 0.0))


def without_the_node(cosines):
    newest, *others = cosines
    return math.prod((1 - c) / (newest - c) for c in others)


def order(counts, errors):
    n, e = (torch.tensor(v, dtype=torch.float64).log() for v in (counts, errors))
    return -float(((n - n.mean()) @ (e - e.mean())) / ((n - n.mean()) @ (n - n.mean())))


RIGHT = {
    "angle-01": distance,
    "angle-02": weights,
    "angle-03": shrink,
    "angle-04": relative_error,
    "angle-05": amplification,
    "angle-06": order,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "angle-01": [
        (lambda lam, sigma_d: math.pi / 2, "Newton's method"),
        (lambda lam, sigma_d: math.hypot(lam - math.log(sigma_d), math.pi / 2), "Newton's method"),
        (lambda lam, sigma_d: math.hypot(lam + math.log(sigma_d), math.pi), "Newton's method"),
    ],
    "angle-02": [
        (sign_of_the_recurrence, "powers of cos θ"),
        (without_the_kernel, "add up to"),
        (lambda theta_s, theta_t, thetas: weights(theta_s, theta_t, thetas)[:1], "one weight for each"),
    ],
    "angle-03": [
        (lambda s, rs: math.cos(math.atan(rs[0] / s) - math.atan(rs[-1] / s)), "step by step"),
        (lambda s, rs: shrink(s, rs) ** 2, "step by step"),
        (lambda s, rs: shrink(1.0, rs), "step by step"),
    ],
    "angle-04": [
        (in_theta, "line through the two values"),
        (lambda *a: abs(relative_error(*a)), "line through the two values"),
        (
            lambda sigma_d, theta_1, theta_2: relative_error(1 / sigma_d, theta_1, theta_2),
            "line through the two values",
        ),
    ],
    "angle-05": [
        (without_the_node, "at c = 1"),
        (lambda cosines: 1 / cosines[0], "at c = 1"),
        (lambda cosines: -amplification(cosines), "at c = 1"),
    ],
    "angle-06": [
        (lambda counts, errors: -order(counts, errors), "have the order q"),
        (
            lambda counts, errors: math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0]),
            "least-squares slope",
        ),
        (lambda counts, errors: order(counts, errors) / math.log(10), "have the order q"),
    ],
}
