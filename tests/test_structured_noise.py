"""SAM-DiffSR's noise: its mean by step-by-step simulation, E = 0 is DDPM, its coupling, its regions, its refusals."""

import pytest
import torch

from minidiff.denoiser import convert
from minidiff.inverse import paper_factors, region_pattern, released_factors, rotary_code, structured_noise
from minidiff.process import Tabulated

F64 = torch.float64
BETAS = torch.linspace(0.01, 0.2, 30, dtype=F64)
SIGNAL = torch.cumprod(1 - BETAS, 0)  # ᾱ


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


def test_the_paper_s_factors_are_those_of_the_steps():
    """The mean of x_k = √(1 − β) x_{k−1} + √β (ε + E), carried step by step, and the sum as the paper prints it."""
    x0, E, mean = 0.7, -1.3, 0.7
    phi = paper_factors(BETAS)
    for k, beta in enumerate(BETAS):
        mean = (1 - beta).sqrt() * mean + beta.sqrt() * E
        assert float(mean) == pytest.approx(float(SIGNAL[k].sqrt() * x0 + phi[k] * E), rel=1e-14)
        printed = (SIGNAL[k] * BETAS[: k + 1] / SIGNAL[: k + 1]).sqrt().sum()
        assert float(printed) == pytest.approx(float(phi[k]), rel=1e-13)


def test_the_released_factors_are_those_of_the_code():
    """√(1 − ᾱ) · c with c = √(1 − ᾱ) β; far below the paper's."""
    c = (1 - SIGNAL).sqrt() * BETAS
    torch.testing.assert_close(released_factors(BETAS), (1 - SIGNAL).sqrt() * c)
    assert bool((released_factors(BETAS) < 0.2 * paper_factors(BETAS)).all())


@pytest.mark.parametrize("factors", [paper_factors, released_factors])
def test_the_noised_image_and_its_target(factors):
    x0, eps, E = rand(3, 2, 4), rand(3, 2, 4, seed=1), rand(3, 2, 4, seed=2)
    k, phi = torch.tensor([1, 12, 30]), factors(BETAS)
    x, target = structured_noise(x0, k, eps, E, BETAS, phi)
    alpha, sigma, shift = (v[k - 1].reshape(3, 1, 1) for v in (SIGNAL.sqrt(), (1 - SIGNAL).sqrt(), phi))
    torch.testing.assert_close(x, alpha * x0 + sigma * eps + shift * E)
    torch.testing.assert_close(target, eps + shift / sigma * E)
    # A network that knows the target knows x_0, by the algebra of any coupling.
    process = Tabulated(tuple(BETAS.tolist()))
    torch.testing.assert_close(convert(target, x, k.double() / 30, process, "eps", "x0"), x0)


@pytest.mark.parametrize("factors", [paper_factors, released_factors])
def test_without_a_pattern_it_is_ddpm(factors):
    x0, eps, k = rand(3, 4), rand(3, 4, seed=1), torch.tensor([1, 12, 30])
    x, target = structured_noise(x0, k, eps, torch.zeros_like(x0), BETAS, factors(BETAS))
    process = Tabulated(tuple(BETAS.tolist()))
    torch.testing.assert_close(x, process.noise(x0, k.double() / 30, eps))
    assert torch.equal(target, eps)


def test_the_unchanged_sampler_leaves_a_drift_behind():
    """q(x_{k−1} | x_k, x_0) has DDPM's mean plus (φ_{k−1} − a_k φ_k) E, a_k its factor of x_k: by Gaussian algebra.

    The paper's reverse step has no such term.
    """
    phi, E, x0, k = paper_factors(BETAS), 0.8, 0.3, 17
    previous, now, beta = SIGNAL[k - 1], SIGNAL[k], BETAS[k]
    x = torch.tensor(0.4, dtype=F64)
    mean, v = previous.sqrt() * x0 + phi[k - 1] * E, 1 - previous  # of x_{k−1}
    gain = v * (1 - beta).sqrt() / (v * (1 - beta) + beta)
    exact = mean + gain * (x - (1 - beta).sqrt() * mean - beta.sqrt() * E)
    a = (1 - beta).sqrt() * (1 - previous) / (1 - now)
    ddpm = a * x + previous.sqrt() * beta / (1 - now) * x0
    torch.testing.assert_close(exact, ddpm + (phi[k - 1] - a * phi[k]) * E)
    assert abs(float(phi[k - 1] - a * phi[k])) > 0.1


def test_a_region_is_filled_with_its_mean():
    regions = torch.tensor([[[0, 0, 2], [1, 1, 2]], [[0, 0, 0], [0, 0, 5]]])
    code = torch.arange(6, dtype=F64).reshape(2, 3)
    E = region_pattern(regions, code)
    assert E[0].tolist() == [[0.5, 0.5, 3.5], [3.5, 3.5, 3.5]]
    assert E[1].tolist() == [[2.0, 2.0, 2.0], [2.0, 2.0, 5.0]]
    torch.testing.assert_close(region_pattern(torch.arange(6).reshape(1, 2, 3), code)[0], code)


def test_the_rotary_code_turns_ones():
    """Pairs of columns keep their length √2, row 0 is all ones, and one row down turns pair j by 10000^{−2j/width}."""
    code = rotary_code(5, 6).reshape(5, 3, 2)
    torch.testing.assert_close(code.square().sum(-1), torch.full((5, 3), 2.0, dtype=F64))
    assert bool((code[0] == 1).all())
    for j in range(3):
        theta = torch.tensor(10_000.0 ** (-2 * j / 6), dtype=F64)
        turn = torch.stack([torch.stack([theta.cos(), -theta.sin()]), torch.stack([theta.sin(), theta.cos()])])
        torch.testing.assert_close(code[1:, j], code[:-1, j] @ turn.T)


def test_refusals():
    x, k, phi = rand(2, 4), torch.tensor([1, 2]), paper_factors(BETAS)
    code = rotary_code(2, 4)
    for call, message in (
        (lambda: paper_factors(torch.tensor([0.0, 0.1])), "betas must be"),
        (lambda: released_factors(torch.ones(2, 2)), "betas must be"),
        (lambda: structured_noise(x, k, x[:1], x, BETAS, phi), "x0 and eps must have the same shape"),
        (lambda: structured_noise(x, k, x, x[:, :1], BETAS, phi), "x0 and pattern must have the same shape"),
        (lambda: structured_noise(x, k, x, x, BETAS, phi[:3]), "betas and factors must have the same shape"),
        (lambda: structured_noise(x, k, x, x, BETAS, phi * torch.nan), "factors must be finite"),
        (lambda: structured_noise(x, k - 1, x, x, BETAS, phi), r"k must be int64 \(B,\) in 1…30"),
        (lambda: structured_noise(x, k.double(), x, x, BETAS, phi), "k must be int64"),
        (lambda: rotary_code(2, 3), "width must be even"),
        (lambda: region_pattern(torch.zeros(1, 2, 3, dtype=torch.int64), code), "regions must be int64"),
        (lambda: region_pattern(-torch.ones(1, 2, 4, dtype=torch.int64), code), "regions must be int64"),
        (lambda: region_pattern(torch.zeros(1, 2, 4), code), "regions must be int64"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
