"""Answers to the exercises of the benchmark chapter: right ones, and wrong ones that the checks must catch."""

import math

import numpy as np


def errors(x, reference, sigma_data):
    e = (x - reference).flatten(1).square().mean(1).sqrt() / sigma_data
    return e.square().mean().sqrt(), e.median()


def summed_coordinates(x, reference, sigma_data):
    e = (x - reference).flatten(1).norm(dim=1) / sigma_data
    return e.square().mean().sqrt(), e.median()


def mean_of_errors(x, reference, sigma_data):
    e = (x - reference).flatten(1).square().mean(1).sqrt() / sigma_data
    return e.mean(), e.median()


def median_of_pixels(x, reference, sigma_data):
    e = (x - reference).abs() / sigma_data
    return e.square().mean().sqrt(), e.median()


def without_units(x, reference, sigma_data):
    return errors(x, reference, 1.0)


def paired(a, b):
    d = a - b
    return d.mean(), d.std() / math.sqrt(len(d))


def unpaired(a, b):
    return a.mean() - b.mean(), ((a.var() + b.var()) / len(a)).sqrt()


def with_n(a, b):
    d = a - b
    return d.mean(), d.std(correction=0) / math.sqrt(len(d))


def scatter(a, b):
    return (a - b).mean(), (a - b).std()


def cut_error(mu, s, r_max, r_min):
    shrink = math.sqrt((s**2 + r_min**2) / (s**2 + r_max**2))
    return math.hypot(shrink * r_max - s, mu * shrink) / s


def without_mean(mu, s, r_max, r_min):
    return cut_error(0.0, s, r_max, r_min)


def only_mean(mu, s, r_max, r_min):
    return abs(mu) / r_max


def in_pixels(mu, s, r_max, r_min):
    return s * cut_error(mu, s, r_max, r_min)


def cheaper_from(calls_a, overhead_a, calls_b, overhead_b):
    more = calls_a * overhead_a - calls_b * overhead_b
    if calls_a > calls_b:
        return math.inf
    if calls_a == calls_b:
        return 0.0 if more <= 0 else math.inf
    return max(0.0, more / (calls_b - calls_a))


def blind_to_calls(calls_a, overhead_a, calls_b, overhead_b):
    """Takes the sign at c = 0 for the sign at every c."""
    more = calls_a * overhead_a - calls_b * overhead_b
    if calls_a >= calls_b:
        return 0.0 if more < 0 else math.inf
    return max(0.0, more / (calls_b - calls_a))


def by_division(calls_a, overhead_a, calls_b, overhead_b):
    return (calls_a * overhead_a - calls_b * overhead_b) / (calls_b - calls_a)


def of_overheads(calls_a, overhead_a, calls_b, overhead_b):
    return (overhead_a - overhead_b) / (calls_b - calls_a)


def backwards(calls_a, overhead_a, calls_b, overhead_b):
    return cheaper_from(calls_b, overhead_b, calls_a, overhead_a)


def excess(fd, n, m, floor, sizes):
    return fd - floor * (1 / n + 1 / m) / (1 / sizes[0] + 1 / sizes[1])


def same_floor(fd, n, m, floor, sizes):
    return fd - floor


def one_side(fd, n, m, floor, sizes):
    return fd - floor * sizes[0] / n


def ratio(fd, n, m, floor, sizes):
    return fd / floor


def optimism(k):
    z = np.linspace(-9, 9, 4001)
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])
    return float(np.trapezoid(z * np.gradient(cdf**k, z), z))


RIGHT = {
    "bench-01": errors,
    "bench-02": paired,
    "bench-03": cut_error,
    "bench-04": cheaper_from,
    "bench-05": excess,
    "bench-06": optimism,
}
# Each wrong answer with a piece of the message that it gets.
WRONG = {
    "bench-01": [
        (summed_coordinates, "one a sample"),
        (mean_of_errors, "one a sample"),
        (median_of_pixels, "fifth of nine"),
        (without_units, "in other units"),
    ],
    "bench-02": [
        (unpaired, "scatter of the differences"),
        (with_n, "n − 1"),
        (scatter, "scatter of the differences"),
        (lambda a, b: float((a - b).mean()), "two values"),
    ],
    "bench-03": [
        (without_mean, "rms over the noise"),
        (only_mean, "rms over the noise"),
        (in_pixels, "in units of s"),
    ],
    "bench-04": [
        (by_division, "always wins"),
        (blind_to_calls, "as many calls"),
        (of_overheads, "same time|costs nothing"),
        (backwards, "costs nothing|finite"),
    ],
    "bench-05": [
        (same_floor, "half the bias"),
        (one_side, "both sizes"),
        (ratio, "the floor is subtracted"),
    ],
    "bench-06": [
        (lambda k: math.sqrt(2 * math.log(k)), "largest of k"),
        (lambda k: -optimism(k), "largest of k"),
        (lambda k: 1 / math.sqrt(k), "nothing to choose"),
    ],
}
