"""Metrics against closed forms, exact invariances, naive twins and their own standard errors."""

import math
import time
from itertools import product

import pytest
import torch

from minidiff import metrics
from minidiff.metrics import frechet, neighbours, two_sample
from minidiff.metrics.samples import Estimate


def gaussian(n, d, seed, shift=0.0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype) + shift


def with_moments(mean, covariance, n, seed):
    """A sample whose own mean and unbiased covariance are exactly the given ones."""
    x = gaussian(n, len(mean), seed)
    x = x - x.mean(0)
    scatter = x.mT @ x / (n - 1)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(scatter)).mT
    return x @ torch.linalg.cholesky(covariance).mT + mean


def random_covariance(d, seed):
    root = gaussian(d, d, seed)
    return root @ root.mT + 0.1 * torch.eye(d, dtype=torch.float64)


def rotation(d, seed):
    return torch.linalg.qr(gaussian(d, d, seed)).Q


# --- Fréchet distance


@pytest.mark.parametrize("d", [1, 3, 6])
def test_frechet_of_exact_moments_is_the_closed_form(d):
    # tr (A^½ B A^½)^½ is the sum of the roots of the eigenvalues of A B, here by a general eigenvalue routine.
    a, b = random_covariance(d, 1), random_covariance(d, 2)
    mean_a, mean_b = gaussian(2, d, 3)
    overlap = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    truth = (mean_a - mean_b).square().sum() + a.trace() + b.trace() - 2 * overlap
    got = metrics.frechet_distance(with_moments(mean_a, a, 40, 4), with_moments(mean_b, b, 30, 5))
    assert got == pytest.approx(float(truth), rel=1e-10)


def test_frechet_of_commuting_gaussians_is_the_distance_of_means_and_deviations():
    # Independent coordinates: Σ (Δμ)² + (s_a − s_b)² = 4 + 9 + (1 − 3)² + (2 − 0.5)².
    a = with_moments(torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 4.0]).double()), 50, 0)
    b = with_moments(torch.tensor([2.0, -2.0]).double(), torch.diag(torch.tensor([9.0, 0.25]).double()), 50, 1)
    assert metrics.frechet_distance(a, b) == pytest.approx(4 + 9 + 4 + 2.25, rel=1e-12)


def test_frechet_of_shifted_and_scaled_copies():
    x, shift = gaussian(200, 5, 0) @ random_covariance(5, 1), gaussian(1, 5, 2)
    assert metrics.frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()), rel=1e-10)
    # x → c x moves the mean by (c − 1) μ and every deviation by its (c − 1)-fold.
    truth = 0.3**2 * (x.mean(0).square().sum() + torch.cov(x.mT).trace())
    assert metrics.frechet_distance(x, 1.3 * x) == pytest.approx(float(truth), rel=1e-10)


def test_frechet_is_symmetric_and_does_not_see_rotations():
    x, y, turn = gaussian(100, 6, 0) * torch.arange(1, 7), gaussian(80, 6, 1, shift=0.5), rotation(6, 2)
    truth = metrics.frechet_distance(x, y)
    assert metrics.frechet_distance(y, x) == pytest.approx(truth, rel=1e-12)
    assert metrics.frechet_distance(x @ turn, y @ turn) == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frechet_of_a_set_with_itself_is_exactly_zero(dtype):
    x = gaussian(90, 7, 0, dtype=dtype)
    assert metrics.frechet_distance(x, x.clone()) == 0.0
    assert metrics.frechet_distance(x, x.flip(0)) < 1e-13
    for seed in range(20):  # where rounding could leave it below zero
        x = gaussian(90, 7, seed, dtype=dtype)
        assert 0 <= metrics.frechet_distance(x, x.flip(0)) < 1e-12


def test_frechet_with_fewer_rows_than_columns_stays_real():
    x, shift = gaussian(10, 60, 0), gaussian(1, 60, 1)
    assert metrics.frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()), rel=1e-6)
    assert 0 < metrics.frechet_distance(x, gaussian(12, 60, 2)) < math.inf


@pytest.mark.parametrize("n", [500, 1000])
def test_frechet_bias_is_the_second_order_formula(n):
    # Same law N(0, I_d): means differ by 2d/n; for C = I + E, FD ≈ |E_a − E_b|²/4 and E|E|² = (d² + d)/n, so that
    # E FD = 2d/n + (d² + d)/(2n) = 52/n for d = 8, up to O(1/n²), here less than 2 %.
    values = torch.tensor([metrics.frechet_distance(gaussian(n, 8, s), gaussian(n, 8, 1000 + s)) for s in range(60)])
    error = float(values.std()) / math.sqrt(60)
    assert abs(float(values.mean()) - 52 / n) < 4 * error + 0.02 * 52 / n


def test_frechet_in_chunks_is_the_same(monkeypatch):
    x, y = gaussian(101, 4, 0), gaussian(77, 4, 1)
    whole = metrics.frechet_distance(x, y)
    monkeypatch.setattr(frechet, "CHUNK", 8)
    assert metrics.frechet_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_frechet_survives_a_large_offset():
    # One pass sums of squares would lose 1e8² · 1e-16 = 1.
    x, y = gaussian(60, 3, 0), gaussian(60, 3, 1)
    assert metrics.frechet_distance(x + 1e6, y + 1e6) == pytest.approx(metrics.frechet_distance(x, y), rel=1e-6)


def test_floor_is_the_bias_at_half_the_size():
    floor = metrics.frechet_floor(gaussian(2001, 8, 0), splits=20, seed=1)
    # 52/n as above; 20 splits of one set scatter by about its std each, and share the set.
    assert floor.n == 1000
    assert abs(floor.mean - 52 / 1000) < 3 * floor.std
    assert 0 < floor.std < 0.3 * floor.mean
    assert floor == metrics.frechet_floor(gaussian(2001, 8, 0), splits=20, seed=1)
    assert floor != metrics.frechet_floor(gaussian(2001, 8, 0), splits=20, seed=2)


def test_floor_is_mean_and_deviation_over_disjoint_random_halves(monkeypatch):
    seen, values = [], iter([3.0, 5.0, 10.0])
    monkeypatch.setattr(frechet, "frechet_distance", lambda a, b: (seen.append((a, b)), next(values))[1])
    floor = metrics.frechet_floor(torch.arange(21.0)[:, None], splits=3)
    assert floor == (6.0, pytest.approx(math.sqrt((9 + 1 + 16) / 2)), 10)
    assert all(len(a) == len(b) == 10 and len(torch.cat([a, b]).unique()) == 20 for a, b in seen)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_frechet_of_equal_means_compares_the_deviations():
    a, b = torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0], [-2.0]])
    assert metrics.frechet_distance(a, b) == pytest.approx((math.sqrt(2) - math.sqrt(8)) ** 2, rel=1e-12)


def test_standard_error_of_the_extrapolation_is_the_jackknifes(monkeypatch):
    left_out = [1.0, 4.0, 2.0, 2.0, 7.0, 3.0, 1.5, 2.5, 0.0, 2.0]
    values = iter([3.0, *left_out])
    monkeypatch.setattr(frechet, "_intercept", lambda a, b, sizes: next(values))
    estimate = metrics.frechet_extrapolated(gaussian(40, 2, 0), gaussian(40, 2, 1), sizes=[10, 20])
    truth = math.sqrt(0.9 * sum((value - 2.5) ** 2 for value in left_out))  # (g − 1)/g Σ (θ_k − mean)², g = 10
    assert estimate == (3.0, pytest.approx(truth))


def test_extrapolation_shuffles_sets_that_are_sorted():
    a, b = (gaussian(400, 2, seed).sort(dim=0).values for seed in (0, 1))
    estimate = metrics.frechet_extrapolated(a, b.flip(0), sizes=[50, 100, 200, 400])
    assert abs(estimate.value) < 4 * estimate.standard_error < 1


def test_extrapolation_removes_the_bias_within_its_standard_error():
    # Truth |δ|² = 0.25. The standard errors must neither be too small nor absurdly large: rms of z near one.
    def z(seed):
        a, b = gaussian(400, 4, seed), gaussian(500, 4, 1000 + seed, shift=0.25)
        estimate = metrics.frechet_extrapolated(a, b, sizes=[50, 100, 200, 400], seed=seed)
        return (estimate.value - 0.25) / estimate.standard_error

    scores = torch.tensor([z(seed) for seed in range(24)])
    assert abs(float(scores.mean())) < 4 / math.sqrt(24)
    assert 0.5 < float(scores.square().mean().sqrt()) < 1.6


@pytest.mark.parametrize("seed", range(5))
def test_extrapolation_of_one_law_is_zero_within_three_standard_errors(seed):
    a, b = gaussian(400, 6, seed), gaussian(400, 6, 50 + seed)
    estimate = metrics.frechet_extrapolated(a, b, sizes=[50, 100, 200, 400])
    assert abs(estimate.value) < 3 * estimate.standard_error
    assert estimate.standard_error < metrics.frechet_distance(a, b)


def test_extrapolation_is_the_intercept_of_a_straight_line(monkeypatch):
    monkeypatch.setattr(frechet, "frechet_distance", lambda a, b: 7 + 20 / len(a) + 10 / len(b))
    estimate = metrics.frechet_extrapolated(gaussian(120, 2, 0), gaussian(90, 2, 1), sizes=[20, 45, 90])
    assert estimate.value == pytest.approx(7, rel=1e-12)
    assert estimate.standard_error < 1e-12


# --- MMD


def mmd_naive(a, b, kernel):
    pairs = [kernel(x, y) for (i, x), (j, y) in product(enumerate(a), enumerate(a)) if i != j]
    others = [kernel(x, y) for (i, x), (j, y) in product(enumerate(b), enumerate(b)) if i != j]
    cross = [kernel(x, y) for x, y in product(a, b)]
    return sum(pairs) / len(pairs) + sum(others) / len(others) - 2 * sum(cross) / len(cross)


@pytest.mark.parametrize(
    ("kernel", "bandwidth", "formula"),
    [
        ("gaussian", 1.7, lambda x, y: math.exp(-float((x - y).square().sum()) / (2 * 1.7**2))),
        ("cubic", None, lambda x, y: (float(x @ y) / 3 + 1) ** 3),
    ],
)
def test_mmd_is_the_mean_over_blocks_of_the_double_sums(kernel, bandwidth, formula):
    a, b = gaussian(11, 3, 0), gaussian(9, 3, 1, shift=0.5)
    generator = torch.Generator().manual_seed(6)
    rows_a = a[torch.randperm(11, generator=generator)].tensor_split(2)
    rows_b = b[torch.randperm(9, generator=generator)].tensor_split(2)
    first, second = (mmd_naive(x, y, formula) for x, y in zip(rows_a, rows_b, strict=True))
    got = metrics.mmd(a, b, kernel, bandwidth, blocks=2, seed=6)
    assert got.value == pytest.approx((first + second) / 2, rel=1e-10)
    assert got.standard_error == pytest.approx(abs(first - second) / 2, rel=1e-10)


def gaussian_kernel_truth(d, square, h):
    # x − y is N(0 or δ, 2 I): E exp(−|x − y|²/2h²) = (1 + 2/h²)^{−d/2} exp(−|δ|²/(2(h² + 2))).
    return 2 * (1 + 2 / h**2) ** (-d / 2) * (1 - math.exp(-square / (2 * (h**2 + 2))))


def cubic_kernel_truth(d, square):
    # Moments of s = x·y/d: both at 0: s² → 1/d. Both at δ and one at each, from E (m·y) |y|² = m·δ (|δ|² + d + 2).
    at_zero = 1 + 3 / d
    at_shift = 1 + 3 * square / d + 3 * (square**2 + 2 * square + d) / d**2
    at_shift += (square**3 + 3 * square**2 + 3 * square * (square + d + 2)) / d**3
    across = 1 + 3 * (square + d) / d**2
    return at_zero + at_shift - 2 * across


@pytest.mark.parametrize("shift", [0.0, 0.4])
@pytest.mark.parametrize("kernel", ["gaussian", "cubic"])
def test_mmd_is_unbiased_and_its_standard_error_is_right(kernel, shift):
    d, bandwidth = 3, 1.5 if kernel == "gaussian" else None
    square = d * shift**2
    truth = gaussian_kernel_truth(d, square, 1.5) if kernel == "gaussian" else cubic_kernel_truth(d, square)
    runs = [
        metrics.mmd(gaussian(200, d, s), gaussian(150, d, 999 + s, shift), kernel, bandwidth, seed=s) for s in range(80)
    ]
    values, errors = torch.tensor(runs).mT
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / math.sqrt(80)
    # Over repetitions the mean of the estimated variances is the variance; its relative error is about sqrt(2/80).
    assert float(errors.square().mean() / values.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / 80))


def test_mmd_with_the_median_bandwidth_does_not_see_units():
    a, b = gaussian(100, 4, 0), gaussian(100, 4, 1, shift=1.0)
    assert metrics.mmd(1e3 * a, 1e3 * b).value == pytest.approx(metrics.mmd(a, b).value, rel=1e-9)


def test_mmd_shuffles_sets_that_are_sorted():
    # Sorted by class, blocks of the same place would compare the wrong classes: here one block in two.
    a = torch.cat([gaussian(100, 2, 0), gaussian(100, 2, 1, shift=8.0)])
    b = torch.cat([gaussian(100, 2, 2, shift=8.0), gaussian(100, 2, 3)])
    estimate = metrics.mmd(a, b, bandwidth=2.0)
    assert abs(estimate.value) < 4 * estimate.standard_error


def test_mmd_in_chunks_is_the_same(monkeypatch):
    a, b = gaussian(60, 3, 0), gaussian(60, 3, 1)
    whole = [metrics.mmd(a, b, kernel, blocks=2).value for kernel in ("gaussian", "cubic")]
    monkeypatch.setattr(two_sample, "CHUNK", 7)
    assert [metrics.mmd(a, b, kernel, blocks=2).value for kernel in ("gaussian", "cubic")] == pytest.approx(whole)


# --- Sliced Wasserstein


def test_sliced_wasserstein_of_shifted_and_scaled_copies_is_exact():
    x, shift = gaussian(70, 4, 0), gaussian(1, 4, 1)
    # Whole frames of 4 directions: Σ (θ·v)² over a frame is |v|².
    assert metrics.sliced_wasserstein(x, x + shift, projections=24) == pytest.approx(
        math.sqrt(float(shift.square().sum()) / 4), rel=1e-10
    )
    assert metrics.sliced_wasserstein(x, 3 * x, projections=24) == pytest.approx(
        2 * math.sqrt(float(x.square().sum(1).mean()) / 4), rel=1e-10
    )


def test_sliced_wasserstein_of_an_incomplete_frame_averages_over_directions():
    # (θ·δ)² has mean |δ|²/d over uniform directions; 400 seeds of one direction in 3 dimensions.
    x = torch.zeros(1, 3, dtype=torch.float64)
    squares = torch.tensor([metrics.sliced_wasserstein(x, x + 1, projections=1, seed=s) ** 2 for s in range(400)])
    assert abs(float(squares.mean()) - 1) < 4 * float(squares.std()) / 20


def test_sliced_wasserstein_with_different_sizes_is_the_integral_over_quantiles():
    a, b = gaussian(6, 3, 0), gaussian(4, 3, 1)
    same = metrics.sliced_wasserstein(a.repeat_interleave(2, 0), b.repeat(3, 1))  # both 12: sorted differences
    assert metrics.sliced_wasserstein(a, b) == pytest.approx(same, rel=1e-12)
    assert metrics.sliced_wasserstein(a, a.repeat(5, 1)) < 1e-12  # a projection is rounded by the shape of its matrix
    assert metrics.sliced_wasserstein(b, a) == pytest.approx(metrics.sliced_wasserstein(a, b), rel=1e-12)


def test_sliced_wasserstein_in_one_dimension_by_hand():
    # Quantiles 0 | 0 1 | 1 against 0 | 3 | 3 on thirds and halves: (1/3 0² + 1/6 (0 − 3)² + 1/2 (1 − 3)²) = 3.5.
    a, b = torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [0.0], [3.0]])
    assert metrics.sliced_wasserstein(a, b) == pytest.approx(math.sqrt(3.5), rel=1e-12)


# --- Neighbours


def precision_naive(samples, data, k):
    radius = torch.cdist(data, data, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values[:, k]
    inside = torch.cdist(samples, data, compute_mode="donot_use_mm_for_euclid_dist") <= radius
    return float(inside.any(1).double().mean())


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_the_definition(k, monkeypatch):
    samples, data = gaussian(90, 3, 0) * 0.8, gaussian(70, 3, 1, shift=0.4)
    monkeypatch.setattr(neighbours, "CHUNK", 32)
    got = metrics.precision_recall(samples, data, k)
    assert got == (precision_naive(samples, data, k), precision_naive(data, samples, k))
    assert 0 < min(got) <= max(got) < 1
    monkeypatch.undo()
    assert metrics.precision_recall(samples, data, k) == got


def test_precision_and_recall_of_equal_distant_and_partial_sets():
    x = gaussian(80, 5, 0)
    assert metrics.precision_recall(x, x.flip(0)) == (1, 1)
    assert metrics.precision_recall(x, x + 100) == (0, 0)
    both = torch.cat([x, x + 100])
    assert metrics.precision_recall(x, both) == (1, 0.5)  # a mode is missing: faithful, half of the data covered
    assert metrics.precision_recall(both, x) == (0.5, 1)


def test_a_point_on_the_rim_of_a_ball_is_inside():
    samples, data = torch.tensor([[-1.0], [2.5]]), torch.tensor([[0.0], [1.0]])  # balls of radius 1 around the data
    assert metrics.precision_recall(samples, data, k=1) == (0.5, 1)


def test_nearest_distance_is_euclidean_and_exactly_zero_for_copies():
    training = gaussian(50, 48, 1).reshape(50, 3, 4, 4)
    samples = torch.cat([training[::5], gaussian(30, 48, 2).reshape(30, 3, 4, 4)])
    got = metrics.nearest_distance(samples, training)
    truth = (samples[:, None] - training).square().sum((2, 3, 4)).sqrt().min(1).values
    assert (got[:10] == 0).all()
    torch.testing.assert_close(got, truth, rtol=1e-12, atol=0)
    assert torch.equal(metrics.nearest_distance(samples.float(), training.float())[:10], torch.zeros(10).double())


@pytest.mark.parametrize("seed", range(5))
def test_copy_rate_of_copies_is_one_and_of_fresh_samples_zero(seed):
    training, fresh = gaussian(100, 64, seed), gaussian(60, 64, 90 + seed)
    assert metrics.copy_rate(training, training) == 1
    assert metrics.copy_rate(fresh, training) == 0
    assert metrics.copy_rate(torch.cat([fresh, training[:20]]), training) == 0.25
    near = training + 0.01 * gaussian(100, 64, seed)
    assert metrics.copy_rate(near, training) == 1


def test_copy_rate_compares_the_two_nearest():
    training = torch.tensor([[0.0], [4.0], [50.0], [50.0]])
    samples = torch.tensor([[0.99], [1.01], [-1.99], [-2.01], [50.0]])  # d₂/d₁ = 3.04, 2.96, 3.01, 2.99, 0/0
    assert metrics.copy_rate(samples, training) == 0.6
    assert metrics.copy_rate(samples, training, ratio=2) == 1


# --- Judges


def test_class_accuracy_counts_agreements():
    logits = torch.tensor([[0.1, 0.9], [2.0, -1.0], [0.0, 1.0], [3.0, 2.0]])
    assert metrics.class_accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75


@pytest.mark.parametrize("classes", [2, 10])
def test_inception_score_reaches_its_ends(classes):
    certain = 1000 * torch.eye(classes).repeat(3, 1)
    assert metrics.inception_score(certain).value == pytest.approx(classes, rel=1e-12)
    assert metrics.inception_score(certain).ceiling == classes
    assert metrics.inception_score(torch.zeros(7, classes)).value == pytest.approx(1, rel=1e-12)
    assert metrics.inception_score(certain[:1].repeat(7, 1)).value == pytest.approx(1, rel=1e-12)


def test_inception_score_of_a_judge_that_errs_is_the_mutual_information():
    # Balanced classes, right with probability 0.7, else uniform over the others: log IS = log 5 − H(y|x).
    p = torch.full((5, 5), 0.075, dtype=torch.float64).fill_diagonal_(0.7)
    entropy = -0.7 * math.log(0.7) - 0.3 * math.log(0.075)
    score = metrics.inception_score(p.log() + torch.arange(5)[:, None])  # logits are known up to a constant
    assert score.value == pytest.approx(5 * math.exp(-entropy), rel=1e-12)
    assert str(score) == f"{score.value:.3f} (of at most 5)"


# --- Cost


class Half:
    process, sigma_data, coupled = "a process", 0.5, True

    def __call__(self, x, t):
        return x * t / 2


def test_count_calls_counts_and_is_otherwise_the_denoiser():
    D = metrics.CountCalls(Half())
    x, t = torch.ones(3, 2), torch.tensor(0.5)
    for calls in range(4):
        assert D.calls == calls
        assert torch.equal(D(x, t), Half()(x, t))
    assert (D.process, D.sigma_data, D.coupled) == ("a process", 0.5, True)


def test_timer_takes_differences_and_waits_for_the_gpu(monkeypatch):
    order = []
    clocks = {"process_time": iter([2.0, 5.0]), "perf_counter": iter([10.0, 14.5])}
    for name, clock in clocks.items():
        monkeypatch.setattr(time, name, lambda name=name, clock=clock: (order.append(name), next(clock))[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    with metrics.Timer() as timer:
        order.append("work")
    assert (timer.cpu, timer.wall) == (3.0, 4.5)
    assert order == ["wait", "process_time", "perf_counter", "work", "wait", "process_time", "perf_counter"]


def test_estimate_prints_its_error():
    assert str(Estimate(0.123456, 0.0456)) == "0.1235 ± 0.046"


# --- Bad input

X = torch.zeros(30, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.frechet_distance(X, X[:, :1]), ValueError, "number of columns, got 2 and 1"),
        (lambda: metrics.frechet_distance(X[:1], X), ValueError, r"n of at least 2, got shape \(1, 2\)"),
        (lambda: metrics.frechet_distance(X, X / 0), ValueError, "b must be finite, got NaN"),
        (
            lambda: metrics.frechet_distance(X, X.long()),
            TypeError,
            "b must be a floating-point tensor, got torch.int64",
        ),
        (lambda: metrics.frechet_distance(X[None], X), ValueError, r"matrix \(n, d\).*got shape \(1, 30, 2\)"),
        (lambda: metrics.frechet_floor(X[:3]), ValueError, "n of at least 4"),
        (lambda: metrics.frechet_floor(X, splits=1), ValueError, "splits must be at least 2, got 1"),
        (
            lambda: metrics.frechet_extrapolated(X, X, [10, 10]),
            ValueError,
            r"different numbers from 3 to 30, got \[10, 10\]",
        ),
        (lambda: metrics.frechet_extrapolated(X, X, [10, 31]), ValueError, "from 3 to 30"),
        (lambda: metrics.frechet_extrapolated(X[:5], X, [3, 5]), ValueError, "n of at least 20"),
        (lambda: metrics.mmd(X, X, "linear"), ValueError, "'gaussian' or 'cubic', got 'linear'"),
        (lambda: metrics.mmd(X, X, "cubic", bandwidth=1.0), ValueError, "no bandwidth, got 1.0"),
        (lambda: metrics.mmd(X, X, bandwidth=0.0), ValueError, "bandwidth must be a finite number.*got 0.0"),
        (lambda: metrics.mmd(X, X, blocks=1), ValueError, "blocks must be at least 2, got 1"),
        (lambda: metrics.mmd(X, X[:19]), ValueError, "b must be a matrix.*at least 20"),
        (lambda: metrics.sliced_wasserstein(X, X, projections=0), ValueError, "projections must be at least 1"),
        (lambda: metrics.precision_recall(X[:3], X), ValueError, "samples must be a matrix.*at least 4"),
        (lambda: metrics.precision_recall(X, X, k=0), ValueError, "k must be at least 1, got 0"),
        (lambda: metrics.nearest_distance(X, X[:, :1]), ValueError, "columns, got 2 and 1"),
        (lambda: metrics.copy_rate(X, X[:1]), ValueError, "at least two images, got 1"),
        (lambda: metrics.copy_rate(X, X, ratio=0.5), ValueError, "ratio must be a finite number.*got 0.5"),
        (lambda: metrics.class_accuracy(X, torch.zeros(29).long()), ValueError, r"shape \(30,\), got \(29,\)"),
        (lambda: metrics.class_accuracy(X, torch.zeros(30)), TypeError, "int64 tensor, got torch.float32"),
        (lambda: metrics.inception_score(X[0]), ValueError, "logits must be a matrix"),
    ],
)
def test_metrics_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()
