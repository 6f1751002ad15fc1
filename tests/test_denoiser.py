"""The parametrisation algebra and the denoiser, against their definitions."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import three as mixture
from processes import FORMULAS, PROCESSES, name
from torch import nn

from minidiff.denoiser import Denoiser, Given, check_denoiser, convert, predict
from minidiff.process import EDM, VE, CosineVP, LinearVP, RectifiedFlow, TrigFlow

F64 = torch.float64
NAMES = ("x0", "eps", "v", "score", "velocity")
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)


def five_names(process, t, n=7, seed=0):
    """x_t and its five predictions, each by its own definition; t is () or (n,)."""
    g = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, n, 3, generator=g, dtype=F64)
    alpha, sigma = (v.reshape(-1, 1) for v in (process.alpha(t), process.sigma(t)))
    alpha_rate, sigma_rate = (v.reshape(-1, 1) for v in process.rates(t))
    values = {
        "x0": x0,
        "eps": eps,
        "v": alpha * eps - sigma * x0,
        "score": -eps / sigma,
        "velocity": alpha_rate * x0 + sigma_rate * eps,
    }
    return alpha * x0 + sigma * eps, values


@pytest.mark.parametrize(("source", "target"), list(itertools.product(NAMES, NAMES)))
@every_process
def test_every_pair_converts(process, source, target):
    t = torch.linspace(1e-3, 1 - 1e-3, 7, dtype=F64)
    x, values = five_names(process, t)
    r = (-process.lam(t)).exp()
    error = (convert(values[source], x, t, process, source, target) - values[target]).abs()
    scale = 1 + values[target].abs() + values[source].abs() + x.abs()
    assert (error <= 1e-12 * ((1 + r + 1 / r) ** 2)[:, None] * scale).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    process=st.sampled_from(PROCESSES),
    t=st.floats(1e-3, 1 - 1e-3),
    pair=st.sampled_from(list(itertools.permutations(NAMES, 2))),
    seed=st.integers(0, 99),
)
def test_round_trip(process, t, pair, seed):
    t = torch.tensor(t, dtype=F64)
    x, values = five_names(process, t, seed=seed)
    there = convert(values[pair[0]], x, t, process, *pair)
    back = convert(there, x, t, process, pair[1], pair[0])
    r = float((-process.lam(t)).exp())
    scale = 1 + values[pair[0]].abs() + there.abs() + x.abs()
    assert ((back - values[pair[0]]).abs() <= 1e-12 * (1 + r + 1 / r) ** 2 * scale).all()


@every_process
def test_one_time_equals_a_batch_of_times(process):
    t = torch.full((7,), 0.3, dtype=F64)
    x, values = five_names(process, t)
    for source, target in itertools.permutations(NAMES, 2):
        one = convert(values[source], x, t[0], process, source, target)
        torch.testing.assert_close(one, convert(values[source], x, t, process, source, target), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("process", [LinearVP(), CosineVP(), RectifiedFlow(), TrigFlow(0.5)], ids=name)
def test_at_the_data_x0_is_x_whatever_the_finite_prediction(process, batched):
    x, value = torch.randn(2, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    t = torch.zeros(4, dtype=F64) if batched else torch.zeros((), dtype=F64)
    for source in ("eps", "v", "score", "velocity"):
        torch.testing.assert_close(convert(value, x, t, process, source, "x0"), x, rtol=1e-14, atol=0)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("process", "t", "source", "target", "message"),
    [
        (RectifiedFlow(), 0.0, "x0", "eps", "x0 does not determine eps where σ = 0"),
        (RectifiedFlow(), 0.0, "x0", "velocity", "x0 does not determine velocity where σ = 0"),
        (LinearVP(), 0.0, "x0", "v", "x0 does not determine v where σ = 0"),
        (LinearVP(), 0.0, "eps", "score", "eps does not determine score where σ = 0"),
        (LinearVP(), 0.0, "eps", "velocity", "velocity is infinite where σ′ is"),
        (LinearVP(), 0.0, "velocity", "eps", "velocity does not determine eps where σ′ is infinite"),
        (RectifiedFlow(), 1.0, "eps", "x0", "eps does not determine x0 where α = 0"),
        (CosineVP(), 1.0, "score", "v", "eps does not determine x0 where α = 0"),
    ],
)
def test_at_an_end_the_undetermined_pair_and_time_are_named(process, t, source, target, message, batched):
    x = torch.ones(2, 3, dtype=F64)
    t = torch.tensor([t, 0.5] if batched else t, dtype=F64)
    with pytest.raises(ValueError, match=message) as error:
        convert(x, x, t, process, source, target)
    assert "t = [" in str(error.value)


def test_at_an_end_what_is_finite_is_returned():
    x, value = torch.randn(2, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    zero, one = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
    torch.testing.assert_close(convert(value, x, one, RectifiedFlow(), "x0", "eps"), x)
    torch.testing.assert_close(convert(value, x, one, RectifiedFlow(), "velocity", "x0"), x - value)
    torch.testing.assert_close(convert(value, x, zero, RectifiedFlow(), "velocity", "eps"), value + x)
    torch.testing.assert_close(convert(value, x, zero, CosineVP(), "v", "eps"), value)
    torch.testing.assert_close(convert(value, x, one, CosineVP(), "v", "x0"), -value)
    torch.testing.assert_close(convert(value, x, one, CosineVP(), "eps", "score"), -value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conversion_never_computes_in_half_precision(dtype):
    t = torch.tensor(0.02, dtype=F64)
    value, x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = convert(value, x, t, LinearVP(), "v", "x0")
    assert result.dtype == torch.float32
    exact = convert(value.double(), x.double(), t, LinearVP(), "v", "x0")
    torch.testing.assert_close(result.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"source": "noise"}, ValueError, "source and target must be among"),
        ({"value": torch.zeros(2, 4)}, ValueError, r"value and x must have the same shape, got \(2, 4\) and \(2, 3\)"),
        ({"value": torch.zeros(2, 3).int()}, TypeError, "value must be a floating-point tensor"),
        ({"t": torch.tensor(1.5)}, ValueError, r"t must lie in \[0, 1\], got values from 1.5"),
        ({"t": torch.tensor(math.nan)}, ValueError, r"t must lie in \[0, 1\]"),
        ({"t": torch.zeros(5)}, ValueError, r"t must have shape \(\) or \(B,\)"),
    ],
)
def test_convert_refuses_bad_arguments(arguments, error, message):
    good = {
        "value": torch.zeros(2, 3),
        "x": torch.zeros(2, 3),
        "t": torch.tensor(0.5),
        "process": LinearVP(),
        "source": "eps",
        "target": "x0",
    }
    with pytest.raises(error, match=message):
        convert(**{**good, **arguments})


class Oracle(nn.Module):
    """A network that knows the answer: the exact denoiser's prediction under a given name."""

    def __init__(self, exact, predicts):
        super().__init__()
        self.exact, self.predicts = exact, predicts

    def forward(self, x, t, y):
        return convert(self.exact(x, t), x, t, self.exact.process, "x0", self.predicts)


DETERMINED = [(p, n) for p in PROCESSES for n in NAMES if n not in ("eps", "score") or math.isfinite(p.lam_range[0])]


@pytest.mark.parametrize(("process", "predicts"), DETERMINED, ids=name)
def test_a_denoiser_returns_x0_whatever_its_network_predicts(process, predicts):
    exact = mixture(process)
    D = Denoiser(Oracle(exact, predicts), process, predicts)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for t in (torch.linspace(0.05, 0.95, 6, dtype=F64), torch.tensor(0.4, dtype=F64)):
        torch.testing.assert_close(D(x, t), exact(x, t), rtol=1e-8, atol=1e-8)
        for target in NAMES:
            expected = convert(exact(x, t), x, t, process, "x0", target)
            torch.testing.assert_close(predict(D, x, t, target), expected, rtol=1e-6, atol=1e-7)


class Constant(nn.Module):
    """Returns one value and remembers what it was called with."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = value

    def forward(self, x, t, y):
        self.seen = x, t, y
        return torch.full_like(x, self.value)


def preconditioning(process, t, sigma_data):
    """(c_skip, c_out, c_in, c_noise) read off the denoiser: D = c_skip x + c_out F(c_in x, c_noise)."""
    net = Constant()
    D = Denoiser(net, process, "edm", sigma_data)
    x = torch.ones(1, 1, dtype=F64)
    c_skip = float(D(x, t))
    c_in, c_noise = float(net.seen[0]), float(net.seen[1])
    net.value = 1.0
    return c_skip, float(D(x, t)) - c_skip, c_in, c_noise


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_edm_preconditioning_has_unit_input_and_target_and_the_least_output(process, sigma_data):
    """For data of variance s²: Var(c_in x) = 1, Var((x_0 − c_skip x)/c_out) = 1, and c_skip makes c_out least."""
    for time in (0.02, 0.3, 0.7, 0.98):
        t = torch.tensor(time, dtype=F64)
        alpha, sigma, s = float(process.alpha(t)), float(process.sigma(t)), sigma_data
        c_skip, c_out, c_in, _ = preconditioning(process, t, s)
        assert c_in**2 * (alpha**2 * s**2 + sigma**2) == pytest.approx(1)

        def target_variance(skip, alpha=alpha, sigma=sigma, s=s):
            return (1 - skip * alpha) ** 2 * s**2 + skip**2 * sigma**2

        assert target_variance(c_skip) == pytest.approx(c_out**2, rel=1e-8)
        assert target_variance(c_skip) <= min(target_variance(c_skip * 1.01), target_variance(c_skip * 0.99))


def test_edm_preconditioning_is_karras_table_1_where_alpha_is_one():
    t = torch.linspace(0.05, 0.95, 7, dtype=F64)
    for time in t:
        sigma, s = float(EDM().sigma(time)), 0.5
        c_skip, c_out, c_in, c_noise = preconditioning(EDM(), time, s)
        assert c_skip == pytest.approx(s**2 / (sigma**2 + s**2))
        assert c_out == pytest.approx(sigma * s / math.sqrt(sigma**2 + s**2))
        assert c_in == pytest.approx(1 / math.sqrt(sigma**2 + s**2))
        assert c_noise == pytest.approx(math.log(sigma) / 4)


def test_edm_on_unit_vp_is_v_prediction_with_the_sign_turned():
    t = torch.tensor(0.4, dtype=F64)
    x, out = torch.randn(2, 5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))

    class Fixed(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x, t, y):
            return self.value

    edm = Denoiser(Fixed(out), LinearVP(), "edm")(x, t)
    torch.testing.assert_close(edm, Denoiser(Fixed(-out), LinearVP(), "v")(x, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", FORMULAS, ids=name)
def test_edm_is_finite_at_both_ends_and_equal_for_one_time_and_a_batch(process):
    D = Denoiser(Constant(0.7), process, "edm", 0.5)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    for time in (0.0, 0.37, 1.0):
        one = D(x, torch.tensor(time, dtype=F64))
        assert torch.isfinite(one).all()
        assert abs(float(D.net.seen[1])) <= 5
        torch.testing.assert_close(one, D(x, torch.full((2,), time, dtype=F64)), rtol=1e-12, atol=1e-14)


def test_c_noise_is_minus_a_quarter_of_lambda_clamped_to_five():
    """On σ = 1e-12…1e12 a quarter of ln σ runs from −6.9 to 6.9; one time and a batch of times are told the same."""
    process = VE(1e-12, 1e12)
    t = torch.linspace(0, 1, 41, dtype=F64)
    expected = (process.sigma(t).log() / 4).clamp(-5, 5)
    assert bool(((expected.abs() > 4.5) & (expected.abs() < 5)).any())
    D = Denoiser(Constant(), process, "edm")
    D(torch.zeros(41, 3, dtype=F64), t)
    torch.testing.assert_close(D.net.seen[1], expected, rtol=1e-12, atol=1e-12)
    for time, value in zip(t, expected, strict=True):
        D(torch.zeros(2, 3, dtype=F64), time)
        torch.testing.assert_close(D.net.seen[1], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow(), TrigFlow(0.5)], ids=name)
def test_c_noise_is_the_log_of_the_noise_to_signal_ratio_over_four(process):
    t = torch.linspace(0.02, 0.98, 9, dtype=F64)
    expected = (process.sigma(t) / process.alpha(t)).log() / 4
    D = Denoiser(Constant(), process, "edm", 0.5)
    D(torch.zeros(9, 3, dtype=F64), t)
    torch.testing.assert_close(D.net.seen[1], expected, rtol=1e-12, atol=1e-12)


def test_the_network_clock_is_never_half_precision():
    D = Denoiser(Constant(), LinearVP(), "v")
    x = torch.zeros(2, 3, dtype=torch.bfloat16)
    D(x, torch.tensor(0.501, dtype=F64))
    assert D.net.seen[1].dtype == torch.float32
    assert float(D.net.seen[1]) == pytest.approx(0.501, abs=1e-7)


@pytest.mark.parametrize("predicts", ["eps", "score"])
@pytest.mark.parametrize("process", [RectifiedFlow(), CosineVP(), TrigFlow()], ids=name)
def test_a_prediction_undetermined_at_one_is_refused_at_construction(process, predicts):
    with pytest.raises(ValueError, match=rf"{predicts} does not determine x0 at t = 1.*predict x0, v or velocity"):
        Denoiser(Constant(), process, predicts)


def test_construction_refuses_bad_arguments():
    with pytest.raises(ValueError, match="predicts must be among"):
        Denoiser(Constant(), VE(), "noise")
    with pytest.raises(ValueError, match="sigma_data must be"):
        Denoiser(Constant(), VE(), "x0", sigma_data=0.0)
    with pytest.raises(ValueError, match="the score is not −eps/σ"):
        Denoiser(Constant(), VE(), "score", coupled=True)


def test_under_a_coupling_the_score_is_refused_and_the_other_names_are_not():
    """x_0 = s ε: with m = (1 − t) s + t the true score of x_t = m ε is −x/m², which −ε̂/σ is not."""
    s, t = 1.6, torch.tensor(0.5, dtype=F64)
    m = (1 - float(t)) * s + float(t)

    class Coupled(nn.Module):
        def forward(self, x, t, y):
            return s * x / m

    D = Denoiser(Coupled(), RectifiedFlow(), "x0", coupled=True)
    x = torch.ones(1, 1, dtype=F64)
    assert float(predict(D, x, t, "velocity")) == pytest.approx((1 - s) / m)
    wrong = convert(D(x, t), x, t, D.process, "x0", "score")
    assert float(wrong) == pytest.approx(-1.538, abs=1e-3)
    assert -1 / m**2 == pytest.approx(-0.592, abs=1e-3)
    with pytest.raises(ValueError, match="under a coupling of x0 and eps the score is not"):
        predict(D, x, t, "score")


def test_forward_refuses_bad_arguments():
    D = Denoiser(Constant(), LinearVP())
    x = torch.zeros(2, 3)
    for arguments, error, message in (
        ((x.int(), torch.tensor(0.5)), TypeError, "x must be a floating-point tensor, got torch.int32"),
        ((x, torch.tensor(2.0)), ValueError, r"t must lie in \[0, 1\], got values from 2.0"),
        ((x, torch.tensor([0.5])), ValueError, r"got \(1,\) for x \(2, 3\)"),
        ((x, torch.tensor(0.5), torch.zeros(3).long()), ValueError, r"one label a sample, got shape \(3,\)"),
    ):
        with pytest.raises(error, match=message):
            D(*arguments)


def test_given_binds_the_condition_and_forwards_the_attributes():
    D = Denoiser(Constant(), RectifiedFlow(), "velocity", sigma_data=0.5, coupled=True)
    y = torch.tensor([3, 1])
    bound = D.given(y)
    assert isinstance(bound, Given)
    assert (bound.process, bound.sigma_data, bound.coupled) == (RectifiedFlow(), 0.5, True)
    bound(torch.zeros(2, 3), torch.tensor(0.5, dtype=F64))
    assert D.net.seen[2] is y
    check_denoiser(bound)


def test_what_is_no_denoiser_is_named():
    with pytest.raises(TypeError, match="lacks process, sigma_data, coupled"):
        check_denoiser(lambda x, t: x)
    with pytest.raises(TypeError, match="lacks process, sigma_data, coupled"):
        predict(lambda x, t: x, torch.zeros(2, 3), torch.tensor(0.5), "eps")
    with pytest.raises(TypeError, match="lacks a call"):
        check_denoiser(SimpleNamespace(process=VE(), sigma_data=1.0, coupled=False))
