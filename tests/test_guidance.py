"""Guidance by a difference: its limits, its calls, what CFG samples in closed form, and where it acts."""

import math

import pytest
import torch
from test_conditional import mixture
from torch import nn

from minidiff.affine_law import affine_law
from minidiff.analytic import Gaussian
from minidiff.denoiser import Denoiser, Given, predict
from minidiff.guidance import autoguidance, cfg, classifier, extrapolate, projected, rescaled
from minidiff.metrics import CountCalls
from minidiff.nets.mlp import MLP
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow
from minidiff.samplers import ancestral, last, sample
from minidiff.times import uniform

F64 = torch.float64
HALF = torch.tensor(0.5, dtype=F64)
SCALES = [-0.5, 0.0, 0.3, 1.0, 2.0, 7.5]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


def gaussian(process, mean, std, dimension=1):
    return Gaussian(process, torch.full((dimension,), float(mean), dtype=F64), std=std)


class Centred:
    """c ~ N(0, τ²) and x | c ~ N(c, s²), so that x ~ N(0, S²), S² = s² + τ²: a consistent conditional denoiser."""

    coupled, angle = False, None

    def __init__(self, process, s=0.5, S=1.0):
        self.process, self.sigma_data, self.s, self.S = process, S, s, S

    def __call__(self, x, t, y=None):
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        mean, std = (torch.zeros(()), self.S) if y is None else (y[:, None], self.s)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)

    def given(self, y):
        return Given(self, y)


class Counted(nn.Module):
    """A network that counts its calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.calls, self.rows = MLP(3, 16, 1, classes=4), 0, 0
        for parameter in self.net.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x, t, y=None):
        self.calls += 1
        return self.net(x, t, y)


# What CFG samples


@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), EDM(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_the_ode_of_the_consistent_case_ends_too_narrow(process, w):
    """In y = x/α the guided path at c = 0 is y ∝ (s² + r²)^{w/2} (S² + r²)^{(1−w)/2}: from any r_1 in closed form."""
    s, S = 0.5, 1.0
    guided = cfg(Centred(process, s, S), torch.zeros(4, dtype=F64), w)
    x = normal(4, 1)
    one = torch.ones((), dtype=F64)
    r, alpha = float(process.sigma(one) / process.alpha(one)), float(process.alpha(one))
    if math.isinf(r):  # (s² + r²)^{w/2} (S² + r²)^{(1−w)/2} → r, and x = σ y/r
        gain = s**w * S ** (1 - w) / float(process.sigma(one))
    else:
        gain = (s**2 / (s**2 + r**2)) ** (w / 2) * (S**2 / (S**2 + r**2)) ** ((1 - w) / 2) / alpha
        assert gain * math.hypot(1, r) * alpha == pytest.approx(s * (s / S) ** (w - 1), rel=2e-4)
    torch.testing.assert_close(sample(guided, x, 300), gain * x, rtol=2e-4, atol=0)


def test_the_end_is_not_the_sharpened_density():
    """s = ½, S = 1, w = 3: the ODE ends with std 0.125, the sharpened density has 0.316."""
    s, S, w = 0.5, 1.0, 3.0
    guided = cfg(Centred(RectifiedFlow(), s, S), torch.zeros(20_000, dtype=F64), w)
    x = normal(20_000, 1)
    std = float(sample(guided, x, 60).std())
    assert std == pytest.approx(0.125 * float(x.std()), rel=1e-3)
    grid = torch.linspace(-4, 4, 4001, dtype=F64)
    p = (-w * grid**2 / (2 * s**2) - (1 - w) * grid**2 / (2 * S**2)).softmax(0)
    sharpened = float((p * grid**2).sum().sqrt())
    assert sharpened == pytest.approx((w / s**2 - (w - 1) / S**2) ** -0.5, rel=1e-6)
    assert std < 0.5 * sharpened


@pytest.mark.parametrize("w", [0.0, 1.0, 2.0, 3.0])
def test_the_sde_of_the_same_scores_ends_elsewhere(w):
    """With k(ρ) = w/(s² + ρ) + (1 − w)/(S² + ρ), ρ = r², the reverse SDE has dv/dρ = 2kv − 1, hence at the end

    v = s^{4w} S^{4−4w} ((S/s)^{4w−2} − 1)/((2w − 1)(S² − s²)): s² and S² at w = 1 and 0, 0.0666 at w = 3 with s = ½ and
    S = 1, where the ODE has 0.0156 and the sharpened density 0.1. The exact variance of the finite chain approaches it.
    """
    s, S, process = 0.5, 1.0, RectifiedFlow()
    limit = s ** (4 * w) * S ** (4 - 4 * w) * ((S / s) ** (4 * w - 2) - 1) / ((2 * w - 1) * (S**2 - s**2))
    assert {0.0: 1.0, 1.0: 0.25, 3.0: 0.0666}.get(w, limit) == pytest.approx(limit, rel=1e-3)
    errors = []
    for n in (50, 100, 200):
        guided = cfg(Centred(process, s, S), torch.zeros(n + 7, dtype=F64), w)
        law = affine_law(lambda x, g, n=n, D=guided: last(ancestral(D, x, uniform(n), generator=g)), n - 1)
        errors.append(abs(law.variance(1.0) / limit - 1))
    assert errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2]
    assert errors[2] < 0.11


def test_no_diffusion_of_a_sharpened_density_has_this_score():
    """Variances ¼ and 1, w = 3, σ = 0.8: the guided slope is 2.151, that of the noised sharpened density 1.351."""
    process = VE(0.01, 50.0)
    t = process.time(torch.tensor(-math.log(0.8), dtype=F64))
    x = torch.ones(1, 1, dtype=F64)
    guided = autoguidance(gaussian(process, 0, 0.5), gaussian(process, 0, 1.0), 3.0)
    sharpened = gaussian(process, 0, (3 / 0.25 - 2) ** -0.5)
    assert -float(predict(guided, x, t, "score")) == pytest.approx(3 / 0.89 - 2 / 1.64, rel=1e-9)
    assert -float(predict(guided, x, t, "score")) == pytest.approx(2.151, abs=5e-4)
    assert -float(sharpened.score(x, t)) == pytest.approx(1.351, abs=5e-4)


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("w", SCALES)
def test_equal_variances_only_move_the_mean(process, w):
    """N(μ_u, s²) and N(μ_c, s²): x̂_0 is exactly that of N(μ_u + w (μ_c − μ_u), s²), which is also the sharpened law."""
    guided = autoguidance(gaussian(process, 1.5, 0.7, 2), gaussian(process, -0.5, 0.7, 2), w)
    moved = gaussian(process, -0.5 + 2 * w, 0.7, 2)
    for t in (HALF, torch.tensor([0.1, 0.4, 0.9], dtype=F64)):
        x = normal(3, 2)
        torch.testing.assert_close(guided(x, t), moved(x, t))


@pytest.mark.parametrize("target", ["x0", "eps", "v", "score", "velocity"])
def test_the_line_is_the_same_in_all_five_predictions(target):
    process = CosineVP()
    D1, D0 = gaussian(process, 1.0, 0.5, 2), gaussian(process, 0.0, 1.2, 2)
    x = normal(3, 2)
    one, zero = (predict(D, x, HALF, target) for D in (D1, D0))
    torch.testing.assert_close(predict(autoguidance(D1, D0, 2.5), x, HALF, target), zero + 2.5 * (one - zero))


# Limits and calls


@pytest.mark.parametrize("w", SCALES)
def test_the_scale_and_its_calls(w):
    D = Denoiser(Counted(), LinearVP(), "v")
    x, y = torch.randn(5, 3, generator=gen()), torch.tensor([0, 1, 2, 3, 4])
    zero, one = D(x, HALF), D(x, HALF, y)
    assert (zero - one).abs().max() > 0.01
    D.net.calls = 0
    guided = cfg(D, y, w)(x, HALF)
    assert D.net.calls == (1 if w in (0.0, 1.0) else 2)
    if w in (0.0, 1.0):
        assert torch.equal(guided, one if w else zero)
    else:
        torch.testing.assert_close(guided, zero + w * (one - zero))


def test_a_negative_prompt_takes_the_place_of_no_label():
    D = Denoiser(Counted(), LinearVP(), "v")
    x, y, null = torch.randn(4, 3, generator=gen()), torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 1, 1])
    x0 = D(x, HALF, null)
    torch.testing.assert_close(cfg(D, y, 3.0, null)(x, HALF), x0 + 3 * (D(x, HALF, y) - x0))
    assert torch.equal(cfg(D, y, 0.0, null)(x, HALF), x0)
    none = torch.full((4,), 4)  # the label of no class
    torch.testing.assert_close(cfg(D, y, 3.0, none)(x, HALF), cfg(D, y, 3.0)(x, HALF))


def test_one_scale_a_row():
    D = Denoiser(Counted(), LinearVP(), "v")
    x, y, w = torch.randn(4, 3, generator=gen()), torch.tensor([0, 1, 2, 3]), torch.tensor([0.0, 1.0, 2.0, -1.0])
    guided = cfg(D, y, w)(x, HALF)
    for i, one in enumerate(w.tolist()):
        torch.testing.assert_close(guided[i : i + 1], cfg(D, y[i : i + 1], one)(x[i : i + 1], HALF))
    assert torch.equal(guided[0], D(x, HALF)[0])
    assert torch.equal(guided[1], D(x, HALF, y)[1])
    D.net.calls = 0
    for ends in (torch.zeros(4), torch.ones(4)):
        cfg(D, y, ends)(x, HALF)
    assert D.net.calls == 2


@pytest.mark.parametrize("w", SCALES)
def test_autoguidance_by_itself_is_nothing(w):
    D = mixture(LinearVP())
    x = normal(6, 2)
    assert torch.equal(autoguidance(D, D, w)(x, HALF), D(x, HALF))


def test_autoguidance_is_the_good_model_plus_its_lead():
    process = LinearVP()
    D1, D0 = mixture(process), gaussian(process, 0.0, 1.0, 2)
    x = normal(6, 2)
    expected = D1(x, HALF) + (2.5 - 1) * (D1(x, HALF) - D0(x, HALF))
    torch.testing.assert_close(autoguidance(D1, D0, 2.5)(x, HALF), expected)


def test_it_forwards_what_samplers_read():
    D = Denoiser(Counted(), RectifiedFlow(), "velocity", sigma_data=0.4, coupled=True, angle=(0.3, 0.7))
    free = Denoiser(Counted(), RectifiedFlow(), "velocity")
    guided = cfg(D, torch.tensor([0]), 2.0)
    assert (guided.process, guided.sigma_data, guided.coupled) == (RectifiedFlow(), 0.4, True)
    assert guided.angle == D.angle
    assert autoguidance(free, D, 2.0).coupled
    assert not autoguidance(free, free, 2.0).coupled
    assert autoguidance(gaussian(LinearVP(), 0, 0.4), gaussian(LinearVP(), 0, 1.0), 2.0).angle is None


def test_mixed_precision_is_that_of_the_positive_denoiser():
    process = LinearVP()
    D = gaussian(process, 0, 0.5)
    weak = CountCalls(D)
    weak.D = lambda x, t: D(x, t).bfloat16()
    assert autoguidance(D, weak, 2.0)(normal(2, 1).float(), HALF).dtype == torch.float32


# The interval


def test_the_interval_is_open_below_and_closed_above():
    process = EDM()
    times = torch.tensor([0.9, 0.6, 0.4, 0.1], dtype=F64)
    r = process.sigma(times).tolist()
    D1, D0 = (CountCalls(gaussian(process, 0, std)) for std in (0.5, 1.0))
    x = normal(4, 1)
    guided = autoguidance(D1, D0, 3.0, (r[3], r[1]))
    everywhere = autoguidance(gaussian(process, 0, 0.5), gaussian(process, 0, 1.0), 3.0)
    for t, inside in zip(times, (False, True, True, False), strict=True):
        D1.calls = D0.calls = 0
        assert torch.equal(guided(x, t), (everywhere if inside else D1.D)(x, t))
        assert (D1.calls, D0.calls) == (1, int(inside))
    rows = guided(x, times)
    for i, t in enumerate(times):
        torch.testing.assert_close(rows[i : i + 1], guided(x[i : i + 1], t))
    assert torch.equal(rows[0], D1.D(x, times)[0])
    D0.calls = 0
    guided(x, times[:1].expand(4))  # all rows outside
    assert D0.calls == 0
    w = torch.tensor([3.0, 2.0, 5.0, 4.0], dtype=F64)
    both = autoguidance(D1, D0, w, (r[3], r[1]))
    assert both.scale(x, times).tolist() == [1.0, 2.0, 5.0, 1.0]
    assert both.scale(x, times[1]).tolist() == w.tolist()
    assert autoguidance(D1, D0, 0.3, (r[3], r[1])).scale(x, times).tolist() == [1.0, 0.3, 0.3, 1.0]  # not float32's


def test_an_interval_over_all_noise_is_none():
    process = RectifiedFlow()  # r = ∞ at t = 1, where an endless interval still acts
    D1, D0 = gaussian(process, 1.0, 0.5), gaussian(process, 0.0, 1.0)
    x = normal(3, 1)
    for t in (torch.ones((), dtype=F64), HALF, torch.tensor([1.0, 0.5, 0.1], dtype=F64)):
        assert torch.equal(autoguidance(D1, D0, 3.0, (0.0, math.inf))(x, t), autoguidance(D1, D0, 3.0)(x, t))


# Rescaled and projected


def pictures(seed=0):
    """A guided pair on 6 numbers a sample, and points."""
    process = LinearVP()
    D1, D0 = gaussian(process, 0.5, 0.4, 6), gaussian(process, -0.2, 1.0, 6)
    return autoguidance(D1, D0, 4.0), normal(5, 6, seed=seed)


def test_rescaling_matches_the_contrast():
    guided, x = pictures()
    one, plain = guided.positive(x, HALF), guided(x, HALF)
    full, part = rescaled(guided, 1.0)(x, HALF), rescaled(guided, 0.3)(x, HALF)
    torch.testing.assert_close(full.std(1), one.std(1))
    assert (plain.std(1) - one.std(1)).abs().min() > 0.01
    torch.testing.assert_close(part, 0.7 * plain + 0.3 * full)
    torch.testing.assert_close(full / plain, (full / plain)[:, :1].expand(-1, 6))


def test_rescaling_changes_nothing_where_it_must_not():
    guided, x = pictures()
    assert torch.equal(rescaled(guided, 0.0)(x, HALF), guided(x, HALF))
    at_one = autoguidance(guided.positive, guided.negative, torch.tensor([1.0, 4, 1, 1, 1], dtype=F64))
    for made in (rescaled(at_one, 0.7), projected(at_one)):
        assert torch.equal(made(x, HALF)[[0, 2, 3, 4]], guided.positive(x, HALF)[[0, 2, 3, 4]])
    away = autoguidance(guided.positive, guided.negative, 4.0, (5.0, 6.0))
    assert torch.equal(rescaled(away, 0.7)(x, HALF), guided.positive(x, HALF))
    flat = CountCalls(guided.positive)
    flat.D = lambda x, t: torch.ones_like(x)
    assert torch.equal(rescaled(autoguidance(flat, flat, 4.0), 1.0)(x, HALF), torch.ones_like(x))


def test_only_the_plain_rule_may_skip_the_positive_denoiser():
    guided, x = pictures()
    one = CountCalls(guided.positive)
    unconditional = autoguidance(one, guided.negative, 0.0)
    assert torch.equal(unconditional(x, HALF), guided.negative(x, HALF))
    assert one.calls == 0
    made = rescaled(unconditional, 1.0)(x, HALF)
    assert one.calls == 1
    torch.testing.assert_close(made.std(1), guided.positive(x, HALF).std(1))


def test_projection_row_by_row():
    guided, x = pictures()
    one, zero = guided.positive(x, HALF), guided.negative(x, HALF)
    made = projected(guided, eta=0.4, radius=1.5)(x, HALF)
    for i in range(5):
        delta = one[i] - zero[i]
        delta = delta * min(1.0, 1.5 / float(delta.norm()))
        unit = one[i] / one[i].norm()
        along = (delta @ unit) * unit
        torch.testing.assert_close(made[i], one[i] + 3 * (delta - along + 0.4 * along))


def test_projection_is_across_and_bounded():
    guided, x = pictures()
    one = guided.positive(x, HALF)
    across = projected(guided)(x, HALF) - one
    torch.testing.assert_close((across * one).sum(1), torch.zeros(5, dtype=F64), rtol=0, atol=1e-12)
    assert across.norm(dim=1).min() > 0.1
    short = projected(guided, 1.0, radius=0.2)(x, HALF) - one
    torch.testing.assert_close(short.norm(dim=1), torch.full((5,), 3 * 0.2, dtype=F64))
    torch.testing.assert_close(projected(guided, 1.0)(x, HALF), guided(x, HALF))
    torch.testing.assert_close(projected(guided, 1.0, radius=1e6)(x, HALF), guided(x, HALF))
    nothing = CountCalls(guided.positive)
    nothing.D = lambda x, t: torch.zeros_like(x)
    made = projected(autoguidance(nothing, guided.negative, 4.0), 0.0)(x, HALF)
    torch.testing.assert_close(made, -3 * guided.negative(x, HALF))


def test_rules_compose():
    guided, x = pictures()
    both = rescaled(projected(guided, 0.2, 1.0), 1.0)(x, HALF)
    torch.testing.assert_close(both.std(1), guided.positive(x, HALF).std(1))
    inner = projected(guided, 0.2, 1.0)(x, HALF)
    torch.testing.assert_close(both / inner, (both / inner)[:, :1].expand(-1, 6))


# The classifier


@pytest.mark.parametrize("process", [LinearVP(), VE(0.05, 20.0), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("w", SCALES)
def test_an_exact_classifier_is_cfg(process, w):
    """Bayes: ∇ log p(y | x_t) is the difference of the two scores."""
    D = mixture(process)
    x, y = normal(9, 2), torch.arange(9) % 3

    def log_prob(x, t):
        return D.log_posterior(x, t)[torch.arange(9), y]

    for t in (HALF, torch.linspace(0.1, 0.95, 9, dtype=F64)):
        torch.testing.assert_close(classifier(D, log_prob, w)(x, t), cfg(D, y, w)(x, t), rtol=1e-6, atol=1e-8)


def test_the_classifier_s_calls():
    D, asked = CountCalls(mixture(LinearVP())), []

    def log_prob(x, t):
        asked.append(x.requires_grad)
        return -x.square().sum(1)

    x = normal(3, 2)
    assert torch.equal(classifier(D, log_prob, 0.0)(x, HALF), D.D(x, HALF))
    assert (D.calls, asked) == (1, [])
    with torch.no_grad():
        made = classifier(D, log_prob, 2.0)(x, HALF)
    assert (D.calls, asked) == (2, [True])
    assert not x.requires_grad
    assert not made.requires_grad
    alpha, sigma = float(D.process.alpha(HALF)), float(D.process.sigma(HALF))
    torch.testing.assert_close(made, D.D(x, HALF) - 4 * sigma**2 / alpha * x)


# Refusals


def test_refusals():
    process = LinearVP()
    D1, D0, D = gaussian(process, 0, 1.0), gaussian(RectifiedFlow(), 0, 1.0), Denoiser(Counted(), process, "v")
    coupled = Denoiser(Counted(), RectifiedFlow(), "velocity", coupled=True)
    x, y, one = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.ones((), dtype=F64)
    guided, wide = autoguidance(D1, D1, 2.0), torch.zeros(2, 1, dtype=F64)
    for call, error, message in (
        (lambda: cfg(D1, y, 2.0), TypeError, "with a method given"),
        (lambda: autoguidance(D1, "weak", 2.0), TypeError, "a denoiser is callable as"),
        (lambda: autoguidance(D1, D0, 2.0), ValueError, "must share one process, got LinearVP.* and RectifiedFlow"),
        (lambda: cfg(D, y, math.nan), ValueError, "w must be a finite number"),
        (lambda: cfg(D, y, "3"), TypeError, "w must be a real number"),
        (lambda: cfg(D, y, torch.tensor([1.0, math.nan])), ValueError, "w must be finite"),
        (lambda: cfg(D, y, torch.ones(2, 1)), ValueError, r"w must be a number or have shape \(B,\)"),
        (lambda: cfg(D, y, torch.ones(3))(x, HALF), ValueError, "one number a sample, got 3 for a batch of 2"),
        (lambda: cfg(D, y[:1], 2.0)(x, HALF), ValueError, "y must hold one label a sample"),
        (lambda: cfg(D, y, 2.0, y[:1])(x, HALF), ValueError, "y must hold one label a sample"),
        (lambda: cfg(D, y, 2.0)(x, one + 1), ValueError, r"t must lie in \[0, 1\]"),
        *(
            (lambda bad=bad: autoguidance(D1, D1, 2.0, bad), ValueError, r"interval must be \(low, high\)")
            for bad in ((2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (1.0,), 0.3, ("a", "b"))
        ),
        (lambda: cfg(D, 1, 2.0)(x, HALF), TypeError, "y must be a tensor with one label a sample, or None, got int"),
        (
            lambda: cfg(mixture(process), 1, 2.0)(x.double(), HALF),
            TypeError,
            "y must be a tensor with one label a sample, got int",
        ),
        (lambda: rescaled(D1, 0.0), TypeError, "rescaled needs both denoisers"),
        (lambda: projected(D1), TypeError, "projected needs both denoisers"),
        (lambda: rescaled(guided, 1.5), ValueError, "phi must be"),
        (lambda: rescaled(guided, 0.5)(wide, HALF), ValueError, "needs at least two"),
        (lambda: projected(guided, math.nan), ValueError, "eta must be"),
        (lambda: projected(guided, 0.0, 0.0), ValueError, "radius must be"),
        (lambda: classifier(coupled, lambda x, t: x[:, 0], 1.0), ValueError, "under a coupling"),
        (lambda: classifier(D1, lambda x, t: x[:, 0], math.inf), ValueError, "w must be a finite number"),
        (lambda: classifier(D1, None, 1.0), TypeError, "log_prob must be a function"),
        (lambda: classifier(D1, lambda x, t: x, 1.0)(wide, HALF), ValueError, "one value a row"),
        (lambda: classifier(D1, lambda x, t: (x[:, 0] - 1).log(), 1.0)(wide, HALF), ValueError, "must be finite"),
        (lambda: classifier(D1, lambda x, t: torch.zeros(2), 1.0)(wide, HALF), ValueError, "differentiable in x"),
        (lambda: classifier(D0, lambda x, t: x[:, 0], 1.0)(wide, one), ValueError, "start where α > 0"),
        (lambda: classifier(D0, lambda x, t: x[:, 0], 1.0)(wide, one.expand(2)), ValueError, "start where α > 0"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_extrapolate_is_exact_at_its_ends():
    a, b = normal(3, 2), normal(3, 2, seed=1) * 1e9
    assert torch.equal(extrapolate(a, b, 1.0), a)
    assert torch.equal(extrapolate(a, b, 0.0), b)
    assert torch.equal(extrapolate(a, b, torch.tensor([1.0, 0.0, 1.0])), torch.stack([a[0], b[1], a[2]]))
