"""The oracles against Bayes by quadrature, torch.distributions, autograd, Tweedie's formulas and naive sums."""

import math

import pytest
import torch
from odes import rk4
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from minidiff.analytic import Empirical, Gaussian, GaussianMixture
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow, SubVP, TrigFlow

PROCESSES = [LinearVP(), SubVP(), CosineVP(), TrigFlow(0.5), VE(), EDM(), RectifiedFlow()]
ZERO_SIGMA = [p for p in PROCESSES if not isinstance(p, VE | EDM)]
ZERO_ALPHA = [CosineVP(), TrigFlow(0.5), RectifiedFlow()]
TIMES = [1e-3, 0.2, 0.5, 0.9, 0.999]


def name(process):
    return type(process).__name__


def time(value):
    return torch.tensor(value, dtype=torch.float64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[1.0, 0.0, -0.5], [-1.0, 0.8, 0.3], [0.2, -1.2, 1.0]], dtype=torch.float64)
ROOTS = normal(3, 3, 3, seed=1) * 0.4 + 0.3 * torch.eye(3, dtype=torch.float64)
FULL = ROOTS @ ROOTS.mT + 0.02 * torch.eye(3, dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
ISOTROPIC = STDS.square()[:, None, None] * torch.eye(3, dtype=torch.float64)
KINDS = {
    "full": ({"covariances": FULL}, FULL),
    "stds": ({"stds": STDS}, ISOTROPIC),
    "one std": ({"stds": 0.4}, 0.16 * torch.eye(3, dtype=torch.float64).expand(3, 3, 3)),
}


def mixture(process, kind="full"):
    return GaussianMixture(process, 7 * WEIGHTS, MEANS, **KINDS[kind][0])  # weights need not sum to 1


def marginal(process, t, kind):
    """The law of x_t from torch.distributions."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    covariances = alpha**2 * KINDS[kind][1] + sigma**2 * torch.eye(3, dtype=torch.float64)
    return MixtureSameFamily(Categorical(WEIGHTS), MultivariateNormal(alpha * MEANS, covariances))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
class TestMixture:
    def state(self, process, t, kind):
        oracle, t = mixture(process, kind), time(t)
        x = process.noise(oracle.sample(6, gen(2)), t, normal(6, 3, seed=3))
        return oracle, x.requires_grad_(), t

    def test_density(self, process, t, kind):
        oracle, x, t = self.state(process, t, kind)
        torch.testing.assert_close(oracle.log_prob(x, t), marginal(process, t, kind).log_prob(x))

    def test_score_is_the_gradient_of_the_density(self, process, t, kind):
        oracle, x, t = self.state(process, t, kind)
        (gradient,) = torch.autograd.grad(marginal(process, t, kind).log_prob(x).sum(), x)
        torch.testing.assert_close(oracle.score(x, t), gradient, rtol=1e-7, atol=1e-9)

    def test_first_tweedie_formula(self, process, t, kind):
        """E[x_0 | x] = (x + σ² ∇ log p)/α, with the score from autograd."""
        oracle, x, t = self.state(process, t, kind)
        (score,) = torch.autograd.grad(marginal(process, t, kind).log_prob(x).sum(), x)
        expected = (x + process.sigma(t) ** 2 * score) / process.alpha(t)
        size = 1 + float((process.sigma(t) / process.alpha(t)) ** 2)
        torch.testing.assert_close(oracle(x, t), expected, rtol=1e-9, atol=1e-11 * size)

    def test_second_tweedie_formula(self, process, t, kind):
        """Cov[x_0 | x] = (σ²/α) ∂D/∂x."""
        oracle, x, t = self.state(process, t, kind)
        jacobian = torch.stack([torch.autograd.grad(oracle(x, t)[:, i].sum(), x)[0] for i in range(3)], 1)
        expected = process.sigma(t) ** 2 / process.alpha(t) * jacobian
        size = 1 + float((process.sigma(t) / process.alpha(t)) ** 2)
        torch.testing.assert_close(oracle.covariance(x, t), expected, rtol=1e-7, atol=1e-11 * size)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_posterior_moments_by_quadrature(process, t):
    """Bayes on a grid in one dimension: E and Var of p(x_0 | x_t) ∝ p(x_0) N(x_t; α x_0, σ²)."""
    weights, means = WEIGHTS, MEANS[:, :1]
    oracle = GaussianMixture(process, weights, means, stds=STDS)
    t, x = time(t), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    grid = torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    prior = (weights[:, None] / STDS[:, None] * (-((grid - means) ** 2) / (2 * STDS[:, None] ** 2)).exp()).sum(0)
    x = x * process.sigma(t).clamp(min=1)
    r2 = (process.sigma(t) / process.alpha(t)) ** 2
    posterior = prior * (-((x / process.alpha(t) - grid) ** 2) / (2 * r2)).double().softmax(1)
    posterior = posterior / posterior.sum(1, keepdim=True)
    mean = (posterior * grid).sum(1, keepdim=True)
    variance = (posterior * (grid - mean) ** 2).sum(1)
    torch.testing.assert_close(oracle(x, t), mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(oracle.covariance(x, t)[:, 0, 0], variance, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_single_times_and_batched_times_agree(kind):
    oracle, x = mixture(LinearVP(), kind), normal(5, 3)
    t = torch.tensor([0.0, 0.1, 0.4, 0.8, 1.0], dtype=torch.float64)
    for method in (oracle, oracle.log_prob, oracle.score, oracle.covariance):
        rows = torch.cat([method(x[i : i + 1], t[i]) for i in range(5)])
        torch.testing.assert_close(method(x, t), rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_mixture_is_finite_at_both_ends_and_keeps_the_dtype(process, dtype, kind):
    oracle, x = mixture(process, kind), normal(4, 3).to(dtype)
    for t in (time(0.0), time(1.0), torch.tensor([0.0, 1e-12, 1 - 1e-12, 1.0])):
        for value in (oracle(x, t), oracle.log_prob(x, t), oracle.score(x, t), oracle.covariance(x, t)):
            assert value.dtype == dtype and bool(torch.isfinite(value).all())


@pytest.mark.parametrize("process", ZERO_SIGMA, ids=name)
def test_without_noise_the_mixture_returns_the_data(process):
    oracle, x, t = mixture(process), normal(4, 3), time(0.0)
    torch.testing.assert_close(oracle(x, t), x / process.alpha(t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(oracle.covariance(x, t), torch.zeros(4, 3, 3, dtype=x.dtype), rtol=0, atol=1e-25)


@pytest.mark.parametrize("process", ZERO_ALPHA, ids=name)
def test_without_signal_the_mixture_returns_its_moments(process):
    oracle, x, t = mixture(process), normal(4, 3), time(1.0)
    mean = WEIGHTS @ MEANS
    second = torch.einsum("k,kij->ij", WEIGHTS, FULL + MEANS[:, :, None] * MEANS[:, None])
    covariance = second - mean[:, None] * mean
    torch.testing.assert_close(oracle(x, t), mean.expand(4, 3), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(oracle.covariance(x, t), covariance.expand(4, 3, 3), rtol=1e-12, atol=1e-12)
    assert oracle.sigma_data == pytest.approx(math.sqrt(float(covariance.trace()) / 3), rel=1e-12)
    torch.testing.assert_close(oracle.mean, mean)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_mixtures_moments(kind):
    """n = 40 000: each mean within 5 standard errors, each second moment within 5 of its own, sqrt(Var(x x))/√n."""
    n, oracle = 40_000, mixture(EDM(), kind)
    x = oracle.sample(n, gen(4))
    truth = marginal(EDM(sigma_min=1e-9), time(0.0), kind)
    assert bool(((x.mean(0) - truth.mean).abs() < 5 * truth.variance.sqrt() / math.sqrt(n)).all())
    products = x[:, :, None] * x[:, None]
    second = torch.einsum("k,kij->ij", WEIGHTS, KINDS[kind][1] + MEANS[:, :, None] * MEANS[:, None])
    assert bool(((products.mean(0) - second).abs() < 5 * products.std(0) / math.sqrt(n)).all())


def test_samples_fill_the_components_as_weighted():
    """Far-apart components: the counts of n = 20 000 draws within 5 standard errors of n π_k."""
    n, means = 20_000, 100 * MEANS
    x = GaussianMixture(EDM(), 7 * WEIGHTS, means, stds=0.1).sample(n, gen(5))
    share = torch.cdist(x, means).argmin(1).bincount() / n
    assert bool(((share - WEIGHTS).abs() < 5 * (WEIGHTS * (1 - WEIGHTS) / n).sqrt()).all())


def test_samples_keep_the_dtype_of_the_means_and_follow_the_generator():
    oracle = GaussianMixture(EDM(), WEIGHTS.float(), MEANS.float(), stds=1)
    assert oracle.sample(2).dtype == torch.float32
    torch.testing.assert_close(oracle.sample(9, gen(1)), oracle.sample(9, gen(1)), rtol=0, atol=0)
    assert not torch.equal(oracle.sample(9, gen(1)), oracle.sample(9, gen(2)))


GAUSSIANS = {
    "full": lambda process: Gaussian(process, MEANS[0], covariance=FULL[0]),
    "std": lambda process: Gaussian(process, MEANS[0], std=0.4),
}


@pytest.mark.parametrize("kind", GAUSSIANS)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_flow_solves_the_probability_flow_ode(process, kind):
    """Runge–Kutta of order 4 on dx/dt = α′ D + σ′ (x − α D)/σ, from λ = −1 to λ = 2 in 150 steps."""
    oracle, x = GAUSSIANS[kind](process), 2 * normal(5, 3)

    def velocity(t, x):
        alpha, sigma = process.alpha(t), process.sigma(t)
        alpha_rate, sigma_rate = process.rates(t)
        D = oracle(x, t)
        return alpha_rate * D + sigma_rate * (x - alpha * D) / sigma

    grid = process.time(torch.linspace(-1, 2, 151, dtype=torch.float64))
    torch.testing.assert_close(oracle.flow(x, grid[0], grid[-1]), rk4(velocity, x, grid), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", GAUSSIANS)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_flow_is_a_group_and_carries_the_density(process, kind):
    """x_s → x_u → x_t is x_s → x_t, also for a time a row, and log p_s(x_s) − log p_t(x_t) = log |∂x_t/∂x_s|."""
    oracle, x = GAUSSIANS[kind](process), normal(2, 3)
    s, u, t = torch.tensor([0.9, 1.0]).double(), time(0.5), torch.tensor([0.1, 0.0]).double()
    y = oracle.flow(x, s, t)
    torch.testing.assert_close(oracle.flow(oracle.flow(x, s, u), u, t), y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(oracle.flow(y, t, s), x, rtol=1e-9, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda x: oracle.flow(x, s, t).sum(0), x).transpose(0, 1)
    torch.testing.assert_close(
        oracle.log_prob(x, s) - oracle.log_prob(y, t), torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-8, atol=1e-8
    )


def mixture_with(**changed):
    arguments = {"process": EDM(), "weights": WEIGHTS, "means": MEANS, "covariances": FULL} | changed
    return GaussianMixture(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mixture_with(weights=WEIGHTS[:2]), ValueError, r"weights must be \(K,\) .* got \(2,\) and \(3, 3\)"),
        (lambda: mixture_with(means=MEANS[0]), ValueError, r"means \(K, D\), got"),
        (lambda: mixture_with(weights=-WEIGHTS), ValueError, r"positive, got \[-0.5"),
        (
            lambda: mixture_with(weights=WEIGHTS.long()),
            TypeError,
            "weights must be a floating-point tensor, got torch.int64",
        ),
        (lambda: mixture_with(means=MEANS * math.nan), ValueError, "means must be finite"),
        (lambda: mixture_with(covariances=None), ValueError, "got neither"),
        (lambda: mixture_with(stds=1.0), ValueError, "got both"),
        (lambda: mixture_with(covariances=FULL[:, :2]), ValueError, r"shape \(3, 3, 3\), got \(3, 2, 3\)"),
        (lambda: mixture_with(covariances=ROOTS), ValueError, "symmetric"),
        (lambda: mixture_with(covariances=-FULL), ValueError, "positive definite, got the eigenvalue -"),
        (lambda: mixture_with(covariances=None, stds=STDS[:2]), ValueError, r"shape \(3,\), got \(2,\)"),
        (lambda: mixture_with(covariances=None, stds=0.0), ValueError, "stds must be positive"),
        (lambda: mixture_with(covariances=None, stds=math.nan), ValueError, "stds must be finite"),
        (lambda: mixture_with()(normal(2, 4), time(0.5)), ValueError, r"x must have shape \(B, 3\), got \(2, 4\)"),
        (lambda: mixture_with()(normal(3), time(0.5)), ValueError, r"got \(3,\)"),
        (
            lambda: mixture_with()(torch.zeros(2, 3).long(), time(0.5)),
            TypeError,
            "x must be a floating-point tensor, got torch.int64",
        ),
        (lambda: mixture_with()(normal(2, 3), time(1.5)), ValueError, r"t must lie in \[0, 1\]"),
        (lambda: mixture_with()(normal(2, 3), torch.zeros(3)), ValueError, r"t must have shape .* got \(3,\)"),
        (lambda: mixture_with().flow(normal(2, 3), time(0.5), time(0.1)), ValueError, "one Gaussian, got 3"),
        (lambda: mixture_with().sample(0), ValueError, "n must be at least 1"),
        (lambda: Empirical(EDM(), torch.zeros(3)), ValueError, r"\(N, \*D\) .* got \(3,\)"),
        (lambda: Empirical(EDM(), torch.zeros(0, 3)), ValueError, r"got \(0, 3\)"),
        (
            lambda: Empirical(EDM(), torch.zeros(2, 3).long()),
            TypeError,
            "data must be a floating-point tensor, got torch.int64",
        ),
        (lambda: Empirical(EDM(), torch.full((2, 3), math.inf)), ValueError, "data must be finite"),
        (lambda: Empirical(EDM(), torch.zeros(2, 3), chunk=0), ValueError, "chunk must be at least 1"),
        (lambda: POINTS(EDM())(normal(2, 64), time(0.5)), ValueError, r"\(B, 1, 2, 3\), got \(2, 64\)"),
        (lambda: POINTS(EDM())(normal(2, 1, 2, 3), torch.zeros(3)), ValueError, "t must have shape"),
        (
            lambda: POINTS(EDM())(torch.zeros(2, 1, 2, 3).int(), time(0.5)),
            TypeError,
            "x must be a floating-point tensor, got torch.int32",
        ),
        (lambda: POINTS(EDM()).sample(0), ValueError, "n must be at least 1"),
        (lambda: POINTS(CosineVP()).log_prob(normal(2, 1, 2, 3), time(0.0)), ValueError, "only where σ > 0"),
        (lambda: POINTS(CosineVP()).score(normal(2, 1, 2, 3), time(0.0)), ValueError, "only where σ > 0"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


DATA = normal(37, 1, 2, 3, seed=6)


def POINTS(process, **options):
    return Empirical(process, DATA, **options)


def naive_posterior(process, x, t):
    """softmax of −|x/α − x_i|²/(2 r²), the formula and nothing else."""
    r = process.sigma(t) / process.alpha(t)
    distances = (x / process.alpha(t) - DATA[:, None]).flatten(2).square().sum(2).T
    return (-distances / (2 * r**2)).softmax(1)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("process", PROCESSES, ids=name)
class TestEmpirical:
    def state(self, process, t):
        t = time(t)
        return POINTS(process), process.noise(DATA[:6], t, normal(6, 1, 2, 3, seed=7)).requires_grad_(), t

    def test_posterior_is_the_naive_softmax(self, process, t):
        oracle, x, t = self.state(process, t)
        weights = naive_posterior(process, x, t)
        torch.testing.assert_close(oracle.weights(x, t), weights, rtol=1e-7, atol=1e-9)
        expected = torch.einsum("bn,n...->b...", weights, DATA)
        torch.testing.assert_close(oracle(x, t), expected, rtol=1e-7, atol=1e-9)

    def test_density_and_score(self, process, t):
        """log p against torch.distributions, the score against the gradient of that."""
        oracle, x, t = self.state(process, t)
        points = process.alpha(t) * DATA.flatten(1)
        covariance = process.sigma(t) ** 2 * torch.eye(6, dtype=torch.float64)
        law = MixtureSameFamily(
            Categorical(torch.ones(37, dtype=torch.float64)), MultivariateNormal(points, covariance)
        )
        log_prob = law.log_prob(x.flatten(1))
        (gradient,) = torch.autograd.grad(log_prob.sum(), x)
        torch.testing.assert_close(oracle.log_prob(x, t), log_prob, rtol=1e-7, atol=1e-7)
        size = 1 + float(1 / process.sigma(t))
        torch.testing.assert_close(oracle.score(x, t), gradient, rtol=1e-6, atol=1e-8 * size)

    def test_chunks_change_nothing(self, process, t):
        """Chunks of 1, 5 and 36 rows against one of all; log p loses |x|²/σ² to rounding."""
        whole, x, t = self.state(process, t)
        each = t.expand(6) * torch.linspace(0.5, 1, 6, dtype=torch.float64)
        rounding = 1e-14 / float(process.sigma(each[:1])) ** 2
        for pieces in (POINTS(process, chunk=chunk) for chunk in (1, 5, 36)):
            assert pieces.sigma_data == pytest.approx(whole.sigma_data, rel=1e-12)
            for u in (t, each):
                for a, b in ((pieces, whole), (pieces.weights, whole.weights)):
                    torch.testing.assert_close(a(x, u), b(x, u), rtol=1e-9, atol=1e-12 + rounding)
                torch.testing.assert_close(pieces.log_prob(x, u), whole.log_prob(x, u), rtol=1e-9, atol=rounding)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_empirical_tends_to_the_nearest_point(process):
    """At t = 0 a point with a little disturbance comes back as itself, in float32 and float64, chunked or not."""
    for dtype in (torch.float32, torch.float64):
        x = (DATA + 1e-3 * normal(*DATA.shape, seed=8)).to(dtype)
        for t in (time(0.0), torch.zeros(37)):
            for chunk in (8, 2048):
                found = POINTS(process, chunk=chunk)(x, t)
                assert found.dtype == dtype
                torch.testing.assert_close(found, DATA.to(dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e-30])
def test_empirical_resolves_points_as_near_as_the_noise_is_small(scale):
    """The posterior depends on points, x and σ through their ratios alone, however small all of them are."""
    z, x = normal(7, 2, seed=12), normal(5, 2, seed=13)
    oracle, t = Empirical(RectifiedFlow(), scale * z), time(scale)
    truth = (-torch.cdist(x, (1 - scale) * z).square() / 2).softmax(1)
    torch.testing.assert_close(oracle.weights(scale * x, t), truth, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(oracle(scale * x, t) / scale, truth @ z, rtol=1e-9, atol=1e-12)


def test_empirical_shares_a_tie_at_sigma_zero():
    oracle = Empirical(RectifiedFlow(), torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 9.0]]))
    x = torch.zeros(1, 2)
    torch.testing.assert_close(oracle.weights(x, time(0.0)), torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(oracle(x, time(0.0)), torch.zeros(1, 2))


@pytest.mark.parametrize("process", ZERO_ALPHA, ids=name)
def test_empirical_without_signal_is_the_mean(process):
    oracle, x = POINTS(process), normal(4, 1, 2, 3)
    torch.testing.assert_close(oracle(x, time(1.0)), DATA.mean(0).expand(4, 1, 2, 3), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(oracle.mean, DATA.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(oracle.weights(x, time(1.0)), torch.full((4, 37), 1 / 37, dtype=torch.float64))
    expected = -(x.square().flatten(1).sum(1) / process.sigma(time(1.0)) ** 2) / 2
    constant = 3 * torch.log(2 * math.pi * process.sigma(time(1.0)) ** 2)
    torch.testing.assert_close(oracle.log_prob(x, time(1.0)), expected - constant)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_empirical_is_a_mixture_of_narrow_gaussians(process):
    """Gaussians of std 1e-5 on the points give the same denoiser where σ is far above 1e-5."""
    narrow = GaussianMixture(process, torch.ones(37).double(), DATA.flatten(1), stds=1e-5)
    t = time(0.3)
    x = process.noise(DATA, t, normal(*DATA.shape, seed=9))
    torch.testing.assert_close(POINTS(process)(x, t).flatten(1), narrow(x.flatten(1), t), rtol=1e-6, atol=1e-6)


def test_empirical_spread_and_samples():
    oracle = POINTS(EDM())
    truth = DATA.var(0, correction=0).mean().sqrt()
    assert oracle.sigma_data == pytest.approx(float(truth), rel=1e-12)
    draws = oracle.sample(37 * 400, gen(10))
    index = torch.cdist(draws.flatten(1), DATA.flatten(1)).argmin(1)
    torch.testing.assert_close(draws, DATA[index], rtol=0, atol=0)
    # chi-squared with 36 degrees of freedom exceeds 80 less than once in 30 000 seeds
    assert float((index.bincount(minlength=37) - 400.0).square().sum() / 400) < 80


def test_empirical_reads_half_precision_data():
    """Data may be stored in float16: the arithmetic is float64 on the stored values."""
    stored = DATA.half()
    x = normal(5, 1, 2, 3, seed=11)
    torch.testing.assert_close(
        Empirical(VE(), stored)(x, time(0.4)), Empirical(VE(), stored.double())(x, time(0.4)), rtol=1e-12, atol=1e-12
    )
