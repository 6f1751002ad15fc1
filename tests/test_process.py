"""Forward processes against their defining equations, closed forms and limits."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from processes import LINEAR_BETAS, PROCESSES, name

from minidiff.noise import standard_normal
from minidiff.process import (
    EDM,
    VE,
    CosineVP,
    LinearVP,
    Process,
    RectifiedFlow,
    Shifted,
    SigmoidVP,
    SNRShifted,
    SubVP,
    Tabulated,
    TrigFlow,
    zero_terminal,
)

F64 = torch.float64
INF = math.inf
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)


def inside(n=1001):
    """Times in (0, 1), both ends approached."""
    return torch.cat([torch.logspace(-6, -1, 50, dtype=F64), torch.linspace(0.1, 1 - 1e-6, n, dtype=F64)])


def ends():
    return torch.tensor([0.0, 1.0], dtype=F64)


@every_process
def test_rates_equal_forward_mode_derivatives(process):
    t = inside()
    derived = Process.rates(process, t)
    for closed, derivative in zip(process.rates(t), derived, strict=True):
        torch.testing.assert_close(closed, derivative, rtol=1e-9, atol=1e-12)


@every_process
def test_drift_and_diffusion_equal_their_definitions(process):
    t = inside()
    torch.testing.assert_close(process.f(t), Process.f(process, t), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(process.g2(t), Process.g2(process, t), rtol=1e-6, atol=1e-10)
    lam_rate = torch.func.jvp(process.lam, (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(process.g2(t), -2 * process.sigma(t) ** 2 * lam_rate, rtol=1e-6, atol=1e-10)


@every_process
def test_the_sde_transports_the_moments_of_the_marginal(process):
    """dm/dt = f m and dV/dt = 2 f V + g² carry (α_s, σ_s²) to (α_t, σ_t²): 4th-order Runge–Kutta, 2000 steps."""
    t = torch.linspace(0.05, 0.95, 4001, dtype=F64)  # knots and midpoints
    f, g2 = process.f(t), process.g2(t)
    h = float(t[2] - t[0])
    m, v = float(process.alpha(t[0])), float(process.sigma(t[0])) ** 2
    for i in range(0, 4000, 2):
        km, kv, rates_m, rates_v = m, v, [], []
        for stage, fraction in ((0, 0.5), (1, 0.5), (1, 1.0), (2, 1.0)):
            fi, gi = float(f[i + stage]), float(g2[i + stage])
            rates_m.append(fi * km)
            rates_v.append(2 * fi * kv + gi)
            km, kv = m + fraction * h * rates_m[-1], v + fraction * h * rates_v[-1]
        m += h * (rates_m[0] + 2 * rates_m[1] + 2 * rates_m[2] + rates_m[3]) / 6
        v += h * (rates_v[0] + 2 * rates_v[1] + 2 * rates_v[2] + rates_v[3]) / 6
    assert m == pytest.approx(float(process.alpha(t[-1])), rel=1e-8)
    assert v == pytest.approx(float(process.sigma(t[-1])) ** 2, rel=1e-8)


@every_process
def test_time_inverts_lam(process):
    t = inside()
    torch.testing.assert_close(process.time(process.lam(t)), t, rtol=0, atol=1e-12)
    torch.testing.assert_close(process.time(process.lam(ends())), ends(), rtol=0, atol=1e-12)


@every_process
def test_bisection_agrees_with_the_closed_form(process):
    lam = process.lam(torch.linspace(0.01, 0.99, 57, dtype=F64))
    torch.testing.assert_close(Process.time(process, lam), process.time(lam), rtol=0, atol=1e-12)


@every_process
def test_lam_outside_the_range_is_refused(process):
    low, high = process.lam_range
    for lam in (low - 1 if math.isfinite(low) else math.nan, high + 1 if math.isfinite(high) else math.nan):
        with pytest.raises(ValueError, match="λ must lie in"):
            process.time(torch.tensor(lam, dtype=F64))


@every_process
def test_lam_beyond_the_range_by_rounding_is_an_end_and_by_more_is_refused(process):
    ends32 = process.time(process.lam(ends().float()))
    torch.testing.assert_close(ends32, ends().float(), rtol=0, atol=2e-5)
    for lam, outward in zip(process.lam_range, (-1, 1), strict=True):
        if not math.isfinite(lam):
            continue
        end = 0.0 if outward > 0 else 1.0
        for dtype, rounding, much in ((F64, 5e-10, 1e-7), (torch.float32, 5e-6, 1e-3)):
            size = outward * (1 + abs(lam))
            t = float(process.time(torch.tensor(lam + rounding * size, dtype=dtype)))
            assert t == pytest.approx(end, abs=1e-12)
            assert 0 <= t <= 1
            with pytest.raises(ValueError, match="λ must lie in"):
                process.time(torch.tensor(lam + much * size, dtype=dtype))


ENDS = {  # α, σ, f, g² at t = 0 and 1: the limits, written out
    LinearVP(): ([1, math.exp(-5.025)], [0, math.sqrt(1 - math.exp(-10.05))], [-0.05, -10], [0.1, 20]),
    SubVP(): ([1, math.exp(-5.025)], [0, 1 - math.exp(-10.05)], [-0.05, -10], [0, 20 * (1 - math.exp(-20.1))]),
    TrigFlow(0.5): ([1, 0], [0, 0.5], [0, -INF], [0, INF]),
    VE(0.01, 50.0): ([1, 1], [0.01, 50], [0, 0], [2e-4 * math.log(5000), 5000 * math.log(5000)]),
    RectifiedFlow(): ([1, 0], [0, 1], [-1, -INF], [0, INF]),
    Shifted(RectifiedFlow(), 3.0): ([1, 0], [0, 1], [-3, -INF], [0, INF]),
    CosineVP(0.0): ([1, 0], [0, 1], [0, -INF], [0, INF]),
}


@pytest.mark.parametrize("process", ENDS, ids=name)
def test_values_at_the_ends(process):
    alpha, sigma, f, g2 = (torch.tensor(v, dtype=F64) for v in ENDS[process])
    torch.testing.assert_close(process.alpha(ends()), alpha, rtol=1e-13, atol=0)
    torch.testing.assert_close(process.sigma(ends()), sigma, rtol=1e-13, atol=0)
    torch.testing.assert_close(process.f(ends()), f, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(process.g2(ends()), g2, rtol=1e-12, atol=1e-15)


@every_process
def test_no_value_is_ever_nan_and_the_inside_is_finite(process):
    t = torch.cat([ends(), inside()])
    values = [process.alpha(t), process.sigma(t), process.lam(t), *process.rates(t), process.f(t), process.g2(t)]
    for value in values:
        assert not value.isnan().any()
        assert torch.isfinite(value[2:]).all()


def test_the_rate_of_sigma_is_infinite_where_sigma_is_a_square_root():
    assert LinearVP().rates(ends())[1][0] == INF
    assert CosineVP().rates(ends())[1][0] == INF


def test_closed_forms_from_the_papers():
    t = inside()
    beta = 0.1 + 19.9 * t
    torch.testing.assert_close(LinearVP().g2(t), beta)
    decay = torch.exp(-2 * (0.1 * t + 19.9 * t**2 / 2))
    torch.testing.assert_close(SubVP().g2(t), beta * (1 - decay), rtol=1e-7, atol=0)  # Song et al. 2021, eq. 34
    cosine = torch.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    torch.testing.assert_close(CosineVP().alpha(t), cosine, rtol=1e-9, atol=1e-15)  # Nichol & Dhariwal, eq. 17
    sigma = (80 ** (1 / 7) + (1 - t) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(EDM().sigma(t), sigma)  # Karras et al. 2022, eq. 5, from t = 1 down
    torch.testing.assert_close(TrigFlow(0.5).sigma(t) ** 2 / 0.25 + TrigFlow(0.5).alpha(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("s", [0.0, 0.008, 0.2])
def test_sigma_of_the_cosine_keeps_its_digits_at_the_data(s):
    """α = cos(at) − cot(a) sin(at), so σ² = (1 − cot² a) sin²(at) + cot(a) sin(2at): a sum, whatever t."""
    t, a = torch.logspace(-12, -0.5, 60, dtype=F64), math.pi / (2 * (1 + s))
    cot = math.cos(a) / math.sin(a) if s else 0.0
    sigma2 = (1 - cot**2) * torch.sin(a * t) ** 2 + cot * torch.sin(2 * a * t)
    torch.testing.assert_close(CosineVP(s).sigma(t), sigma2.sqrt(), rtol=1e-12 if s else 1e-3, atol=0)


def test_shift_multiplies_the_noise_to_signal_ratio_and_is_undone_by_its_inverse():
    t = inside()
    ratio = Shifted(RectifiedFlow(), 3.0).lam(t) - RectifiedFlow().lam(t)
    torch.testing.assert_close(ratio, torch.full_like(t, -math.log(3)), rtol=0, atol=1e-9)
    back = Shifted(Shifted(CosineVP(), 3.0), 1 / 3)
    torch.testing.assert_close(back.alpha(t), CosineVP().alpha(t), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@every_process
def test_low_precision_times_are_evaluated_in_float64(process, dtype):
    t = torch.linspace(0, 1, 33).to(dtype)
    for method in (process.alpha, process.sigma, process.lam, process.f, process.g2):
        value = method(t)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, method(t.double()).float(), rtol=0, atol=0)
    assert all(rate.dtype == torch.float32 for rate in process.rates(t))


def test_shape_of_t_is_kept():
    for shape in ((), (3,)):
        t = torch.full(shape, 0.3, dtype=F64)
        assert all(v.shape == shape for v in (LinearVP().alpha(t), CosineVP().lam(t), EDM().g2(t)))


def test_an_integer_time_is_refused():
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
        LinearVP().alpha(torch.tensor(1))


@dataclass(frozen=True)
class Sigmoid(Process):
    """A user's process: α and σ alone, σ ~ √t at 0, α = 0 at 1."""

    rate: float = 1.0

    def alpha(self, t):
        return (1 - t).sqrt()

    def sigma(self, t):
        return (self.rate * t).sqrt()


def test_a_subclass_needs_only_alpha_and_sigma():
    t = torch.linspace(0.01, 0.99, 31, dtype=F64)
    process = Sigmoid()
    torch.testing.assert_close(process.f(t), -0.5 / (1 - t))
    torch.testing.assert_close(process.g2(t), 1 + t / (1 - t))
    torch.testing.assert_close(process.time(process.lam(t)), t, rtol=0, atol=1e-12)
    assert process.alpha(t.float()).dtype == torch.float32
    for value in (process.f(ends()), process.g2(ends()), *process.rates(ends())):
        assert not value.isnan().any()
    assert float(process.g2(ends())[0]) == pytest.approx(1, rel=1e-6)  # 0/0 as written; the limit is 1


def test_infinite_rates_of_a_subclass_are_infinite():
    alpha_rate, sigma_rate = Sigmoid().rates(ends())
    assert (float(alpha_rate[0]), float(alpha_rate[1])) == (-0.5, -INF)
    assert (float(sigma_rate[0]), float(sigma_rate[1])) == (INF, 0.5)


class Disguised(Process):
    """The straight line with t written as √t², whose derivative is 0/0 at t = 0 for automatic differentiation."""

    def alpha(self, t):
        return 1 - (t**2).sqrt()

    def sigma(self, t):
        return (t**2).sqrt()


def test_a_rate_that_is_zero_over_zero_as_written_is_its_limit():
    t, line = torch.tensor([0.0, 1e-9, 0.3, 1.0], dtype=F64), RectifiedFlow()
    for ours, truth in zip(Disguised().rates(t), line.rates(t), strict=True):
        torch.testing.assert_close(ours, truth)
    torch.testing.assert_close(Disguised().f(t), line.f(t))


def test_lam_that_does_not_decrease_is_refused():
    with pytest.raises(ValueError, match="λ must be strictly decreasing"):
        Sigmoid(rate=-1.0)  # σ is NaN
    with pytest.raises(NotImplementedError, match="must define alpha"):
        Process()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearVP(0.0), "beta_min must be"),
        (lambda: LinearVP(5.0, 1.0), "beta_max must be a finite number in"),
        (lambda: CosineVP(-0.1), "s must be"),
        (lambda: CosineVP(math.nan), "s must be"),
        (lambda: TrigFlow(0.0), "sigma_data must be"),
        (lambda: VE(0.0), "sigma_min must be"),
        (lambda: VE(1.0, 1.0), "λ must be strictly decreasing"),
        (lambda: EDM(2.0, 1.0), "sigma_max must be"),
        (lambda: EDM(rho=0.0), "rho must be"),
        (lambda: Shifted(RectifiedFlow(), 0.0), "k must be"),
        (lambda: Tabulated((0.1, 0.0)), "beta_2 must be"),
        (lambda: Tabulated((0.1, math.nan)), "beta_2 must be"),
        (lambda: Tabulated((1.0, 0.5)), "only the last beta may be 1"),
        (lambda: Tabulated((0.5, 1e-6, 0.5)), "too uneven"),
    ],
)
def test_bad_parameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="betas must be a non-empty tuple of floats, got list"):
        Tabulated([0.1])
    with pytest.raises(TypeError, match="beta_min must be a real number, got str"):
        LinearVP("0.1")


def cosine_betas(steps):
    """Nichol & Dhariwal 2021, eq. 17, clipped at 0.999."""
    signal = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
    return tuple(min(0.999, 1 - after / before) for before, after in itertools.pairwise(signal))


@pytest.mark.parametrize("betas", [LINEAR_BETAS, cosine_betas(1000), (0.1, 0.2, 0.3, 1.0), (0.5,)], ids=len)
def test_the_table_is_met_at_every_knot_and_is_smooth_between(betas):
    process, steps = Tabulated(betas), len(betas)
    knots = torch.arange(steps + 1, dtype=F64) / steps
    products = torch.cat([torch.ones(1, dtype=F64), (1 - torch.tensor(betas, dtype=F64)).cumprod(0)])
    torch.testing.assert_close(process.alpha(knots) ** 2, products, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(process.sigma(knots) ** 2, 1 - products, rtol=1e-9, atol=1e-15)
    interior = knots[1:-1]
    gap = 1e-9
    for order in range(3):  # C²: value, first and second derivative agree on both sides of each knot
        alpha = process.alpha
        for _ in range(order):
            alpha = (lambda inner: lambda t: torch.func.jvp(inner, (t,), (torch.ones_like(t),))[1])(alpha)
        left, right = alpha(interior - gap), alpha(interior + gap)
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * steps**order)


def test_zero_terminal_snr_is_exact():
    process = Tabulated((0.1, 0.2, 0.3, 1.0))
    assert float(process.alpha(torch.tensor(1.0, dtype=F64))) == 0
    assert process.lam_range[0] == -INF


def test_table_agrees_with_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02)
    step = torch.arange(1000, dtype=F64)
    ours = Tabulated(LINEAR_BETAS).alpha((step + 1) / 1000) ** 2
    torch.testing.assert_close(ours.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7)  # theirs is float32


@every_process
def test_noise_has_the_moments_of_the_marginal(process):
    """20 000 draws: standard error of the mean 1/141 and of the variance √2/141 in units of σ_t and σ_t²."""
    g = torch.Generator().manual_seed(3)
    x0 = torch.full((20_000, 1), 0.7, dtype=F64)
    eps = torch.randn(20_000, 1, generator=g, dtype=F64)
    t = torch.full((20_000,), 0.6, dtype=F64)
    alpha, sigma = float(process.alpha(t[0])), float(process.sigma(t[0]))
    x = process.noise(x0, t, eps)
    assert abs(float(x.mean()) - alpha * 0.7) < 4 * sigma / 141
    assert abs(float(x.var()) / sigma**2 - 1) < 4 * math.sqrt(2) / 141
    torch.testing.assert_close(x, process.noise(x0, t[0], eps))


def test_noise_keeps_unit_variance_and_works_on_images():
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 500, 3, 8, 8, generator=g)
    x = LinearVP().noise(x0, torch.rand(500, generator=g), eps)
    assert x.shape == (500, 3, 8, 8)
    assert x.dtype == torch.float32
    assert abs(float(x.var()) - 1) < 4 * math.sqrt(2 / x.numel())


@pytest.mark.parametrize(
    ("x0", "t", "eps", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 4), ValueError, r"got \(2, 3\) and \(2, 4\)"),
        (torch.zeros(2, 3), torch.zeros(3), torch.zeros(2, 3), ValueError, r"got \(3,\) for x \(2, 3\)"),
        (torch.zeros(2, 3), torch.tensor([0.5, 1.5]), torch.zeros(2, 3), ValueError, r"t must lie in \[0, 1\]"),
        (torch.zeros(2, 3), torch.tensor(math.nan), torch.zeros(2, 3), ValueError, r"t must lie in \[0, 1\]"),
        (torch.zeros(2, 3), torch.tensor(1), torch.zeros(2, 3), TypeError, "t must be a floating-point tensor"),
        (torch.zeros(2, 3).int(), torch.zeros(2), torch.zeros(2, 3).int(), TypeError, "x0 must be a floating-point"),
    ],
)
def test_noise_refuses_bad_arguments(x0, t, eps, error, message):
    with pytest.raises(error, match=message):
        LinearVP().noise(x0, t, eps)


@every_process
def test_prior_has_the_second_moment_of_the_marginal_at_one(process):
    one = torch.ones((), dtype=F64)
    expected = float(process.alpha(one)) ** 2 + float(process.sigma(one)) ** 2
    x = process.prior((5000, 2), torch.Generator().manual_seed(0), dtype=F64)
    assert abs(float(x.var()) / expected - 1) < 4 * math.sqrt(2 / 10_000)


@pytest.mark.parametrize("process", [VE(0.01, 2.0), LinearVP(0.1, 1.0), RectifiedFlow()], ids=name)
def test_prior_is_standard_noise_times_the_root_of_the_second_moment(process):
    one = torch.ones((), dtype=F64)
    z = standard_normal((7, 2), torch.Generator().manual_seed(4), dtype=F64)
    scale = (process.alpha(one) ** 2 + process.sigma(one) ** 2).sqrt()
    torch.testing.assert_close(process.prior((7, 2), torch.Generator().manual_seed(4), dtype=F64), scale * z)


def test_one_generator_a_sample_makes_rows_independent_of_the_batch():
    def generators(n):
        return [torch.Generator().manual_seed(i) for i in range(n)]

    batch = standard_normal((4, 3), generators(4))
    for i in range(4):
        torch.testing.assert_close(batch[i : i + 1], standard_normal((1, 3), generators(4)[i : i + 1]), rtol=0, atol=0)
    assert standard_normal((2, 3), generators(2), device="meta").device.type == "meta"  # drawn on the CPU, then moved
    with pytest.raises(ValueError, match="got 2 generators for a batch of 3"):
        standard_normal((3, 3), generators(2))


@pytest.mark.parametrize(("start", "end", "tau"), [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.3), (-2.0, 1.0, 1.1)])
def test_sigmoid_schedule_is_the_published_one_up_to_its_floor(start, end, tau):
    """γ(t) = (s(end/τ) − s((t (end − start) + start)/τ))/(s(end/τ) − s(start/τ)) (Chen 2023, algorithm 1)."""
    process, t = SigmoidVP(start, end, tau), torch.linspace(0, 1, 101, dtype=F64)
    first, final = torch.sigmoid(torch.tensor([start / tau, end / tau], dtype=F64))
    published = (final - torch.sigmoid((t * (end - start) + start) / tau)) / (final - first)
    torch.testing.assert_close(process.alpha(t) ** 2, 1e-9 + (1 - 1e-9) * published, rtol=1e-9, atol=1e-15)
    assert float(process.sigma(t[0])) == 0.0 and float(process.alpha(t[-1])) ** 2 == pytest.approx(1e-9)


def test_sigmoid_schedule_becomes_a_straight_line_for_large_tau():
    t = torch.linspace(0, 1, 11, dtype=F64)
    torch.testing.assert_close(SigmoidVP(temperature=1e3).alpha(t) ** 2, 1e-9 + (1 - 1e-9) * (1 - t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("inner", [LinearVP(), CosineVP(), RectifiedFlow(), VE()], ids=name)
def test_shifting_the_snr_divides_it_by_k_squared(inner, k):
    t, shifted = inside(100), SNRShifted(inner, k)
    ratio = (inner.alpha(t) / inner.sigma(t)) ** 2 / (shifted.alpha(t) / shifted.sigma(t)) ** 2
    torch.testing.assert_close(ratio, torch.full_like(t, k**2))
    torch.testing.assert_close(shifted.alpha(t) ** 2 + shifted.sigma(t) ** 2, torch.ones_like(t))


def test_on_the_straight_line_a_shifted_clock_is_a_shifted_snr():
    """Shifted(RectifiedFlow, k) has SNR/k² at every t (Esser et al. 2024, section 5.3.2), so its λ is that of both."""
    t = inside(100)
    clock, ratio = Shifted(RectifiedFlow(), 3.0), SNRShifted(RectifiedFlow(), 3.0)
    torch.testing.assert_close(clock.lam(t), ratio.lam(t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("betas", [LINEAR_BETAS, (0.5, 0.5), (0.1, 0.2, 0.3, 0.4)])
def test_zero_terminal_rescaling_is_affine_in_alpha(betas):
    before = (1 - torch.tensor(betas, dtype=F64)).cumprod(0).sqrt()
    after = (1 - torch.tensor(zero_terminal(betas), dtype=F64)).cumprod(0).sqrt()
    torch.testing.assert_close(after, before[0] * (before - before[-1]) / (before[0] - before[-1]), rtol=1e-7, atol=0)
    assert zero_terminal(betas)[0] == betas[0] and zero_terminal(betas)[-1] == 1.0
    assert float(Tabulated(zero_terminal(betas)).alpha(torch.ones((), dtype=F64))) == 0.0
    assert zero_terminal(zero_terminal(betas)) == pytest.approx(zero_terminal(betas), rel=1e-9)


def test_zero_terminal_rescaling_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    theirs = diffusers.rescale_zero_terminal_snr(torch.tensor(LINEAR_BETAS, dtype=F64))
    torch.testing.assert_close(torch.tensor(zero_terminal(LINEAR_BETAS), dtype=F64), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: SigmoidVP(start=3.0, end=3.0), ValueError, "start must be below end, got 3.0 and 3.0"),
        (lambda: SigmoidVP(temperature=0.0), ValueError, "temperature must be a finite number"),
        (lambda: SigmoidVP(floor=0.0), ValueError, "floor must be a finite number"),
        (lambda: SNRShifted(LinearVP(), -1.0), ValueError, "k must be a finite number"),
        (lambda: zero_terminal([0.1, 0.2]), TypeError, "betas must be a tuple of floats, got list"),
        (lambda: zero_terminal((0.1,)), ValueError, "at least two steps, got 1"),
        (lambda: zero_terminal((0.1, 1.5)), ValueError, "beta_2 must be a finite number"),
    ],
)
def test_bad_schedules_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_long_table_is_shown_by_its_ends():
    assert repr(Tabulated((0.1, 0.2))) == "Tabulated(betas=(0.1, 0.2))"
    assert repr(Tabulated(LINEAR_BETAS)) == "Tabulated(1000 betas, 0.0001 … 0.02)"
