"""The angle of the default sampler from a spectrum: closed forms, equivariance, and what it is good for."""

import math

import pytest
import torch

from minidiff import data, zoo
from minidiff.analytic import Gaussian
from minidiff.bench import results
from minidiff.denoiser import Angle, Denoiser
from minidiff.linear import Wiener
from minidiff.metrics import CountCalls, path_error
from minidiff.nets import MLP
from minidiff.process import EDM, RectifiedFlow, TrigFlow
from minidiff.samplers import angle_grid, calibrated_angle, exponential, last, sample, spectral_angle, spectral_error
from minidiff.samplers.spectrum import CALLS, FACTORS, MIDDLES

F64 = torch.float64
WIDE = torch.logspace(-1.5, 1, 60, dtype=F64)


def principal_stds(images):
    rows = images.double().flatten(1)
    rows = rows - rows.mean(0)
    return torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp(min=0).sqrt()


def test_two_calls_by_hand():
    """One scale, power 1, two calls at θ = π/2 and π/4. D = 0 at the first, so DDIM's step shortens x by cos π/4.

    D is linear in cos θ, so the line through its two values is exact but for that factor, which stays to the end.
    """
    assert spectral_error(torch.tensor([0.7], dtype=F64), Angle(0.7, 1.0), 2) == pytest.approx(
        1 - math.cos(math.pi / 4)
    )


@pytest.mark.parametrize("nfe", [1, 3, 6])
@pytest.mark.parametrize("process", [RectifiedFlow(), TrigFlow(sigma_data=0.5)], ids=str)
def test_the_error_is_that_of_sample_on_gaussian_data(process, nfe):
    """The same as on correlated data, from noise; every process that begins at α = 0 has the same r."""
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=F64))[0]
    stds = torch.tensor([0.05, 0.4, 0.9, 3.0], dtype=F64)
    D = Wiener(process, torch.zeros(4, dtype=F64), turn @ torch.diag(stds**2) @ turn.T)
    D.angle = Angle(1.1, 0.7)
    along = torch.eye(4, dtype=F64) * float(process.sigma(torch.ones(())))  # start at the noise e_j of each axis
    made = sample(D, along @ turn.T, nfe)
    want = float((made - stds[:, None] * turn.T).norm() / stds.norm())
    assert spectral_error(stds, D.angle, nfe) == pytest.approx(want, rel=1e-6)


def test_a_single_scale_asks_for_that_scale():
    """There D is linear in cos θ, and from the third call on nothing is wrong but the first step."""
    assert spectral_angle(torch.full((3,), 0.2, dtype=F64), calls=(2, 3, 4)).scale == pytest.approx(0.2)


def test_the_scale_follows_the_units():
    one, other = spectral_angle(WIDE), spectral_angle(5 * WIDE)
    assert other.power == one.power
    assert other.scale == pytest.approx(5 * one.scale)
    assert spectral_error(5 * WIDE, other, 6) == pytest.approx(spectral_error(WIDE, one, 6), rel=1e-5)


def test_a_wide_spectrum_asks_for_a_lower_power():
    assert spectral_angle(WIDE).power < spectral_angle(torch.linspace(0.4, 0.6, 20, dtype=F64)).power


def test_no_angle_of_the_table_is_better():
    """Of the joint ones, and of those with this scale and another middle."""
    found = spectral_angle(WIDE, calls=(5,))
    rms = float(WIDE.square().mean().sqrt())
    best = spectral_error(WIDE, found, 5)
    others = [Angle(rms * factor, power) for factor in FACTORS for power in (0.5, 0.7, 0.9)]
    others += [Angle(found.scale, power, middle * found.scale) for middle in MIDDLES for power in (0.5, 0.7, 0.9)]
    assert best <= min(spectral_error(WIDE, angle, 5) for angle in others)
    assert best < spectral_error(WIDE, None, 5)


def test_the_middle_moves_the_steps_and_not_the_polynomial():
    """The twin has the grid of one angle and the polynomial of the other; no middle is one at the scale."""
    D = Gaussian(TrigFlow(), torch.zeros(2, dtype=F64), std=0.5)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    times = angle_grid(D.process, 6, 0.4, 0.7)
    twin = Gaussian(TrigFlow(), torch.zeros(2, dtype=F64), std=0.5)
    twin.sigma_data = 2.0
    want = last(exponential(twin, x, times, order=4, variable="cos", corrector=True, collocate=False))
    torch.testing.assert_close(sample(D, x, 6, Angle(2.0, 0.7, 0.4)), want, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(sample(D, x, 6, Angle(2.0, 0.7)), sample(D, x, 6, Angle(2.0, 0.7, 2.0)))


def test_the_angle_of_the_call_goes_before_that_of_the_denoiser():
    D = Gaussian(EDM(), torch.zeros(2, dtype=F64), std=0.5)
    x = 80 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    want = sample(D, x, 5, Angle(1.0, 0.7))
    D.angle = Angle(0.5, 0.9)
    torch.testing.assert_close(sample(D, x, 5, Angle(1.0, 0.7)), want)
    D.angle = Angle(1.0, 0.7)
    torch.testing.assert_close(sample(D, x, 5), want)


def test_calibration_finds_the_angle_whose_paths_are_best():
    """On a Gaussian the angle of its own scale wins, wherever it stands; on a wide spectrum it is not σ_data's."""
    D = Gaussian(TrigFlow(sigma_data=0.5), torch.zeros(3, dtype=F64), std=0.5)
    x = 0.5 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    angles = [Angle(2.0, 0.8), Angle(0.5, 1.0), Angle(0.1, 1.0), Angle(0.5, 1.0, 0.05)]
    assert calibrated_angle(D, x, x, angles) == angles[1]  # the exact path ends where it began: s ε from s ε
    assert calibrated_angle(D, x, x, angles[2:]) == angles[2]  # steps in the wrong place cost more than the wrong scale

    wide = Wiener(TrigFlow(), torch.zeros(60, dtype=F64), torch.diag(WIDE**2))
    eps = torch.randn(40, 60, generator=torch.Generator().manual_seed(1), dtype=F64)
    table = [Angle(wide.sigma_data, 0.8), spectral_angle(WIDE)]
    assert calibrated_angle(wide, eps, eps * WIDE, table) == table[1]


def test_calibration_refuses_what_it_cannot_use():
    D = Gaussian(EDM(), torch.zeros(2), std=0.5)
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="got 0 angles and 4 calls"):
        calibrated_angle(D, x, x, [])
    with pytest.raises(ValueError, match="got 1 angles and 0 calls"):
        calibrated_angle(D, x, x, [Angle(1.0, 0.8)], calls=())
    with pytest.raises(ValueError, match="end"):
        calibrated_angle(D, x, x[:2], [Angle(1.0, 0.8)])


def test_sample_obeys_the_angle_and_wrappers_pass_it_on():
    D = Gaussian(EDM(), torch.zeros(2, dtype=F64), std=0.5)
    x = 80 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    plain = sample(D, x, 5)
    D.angle = Angle(0.5, 0.8)
    torch.testing.assert_close(sample(D, x, 5), plain)
    D.angle = Angle(2.0, 0.6)
    counted = CountCalls(D)
    moved = sample(counted, x, 5)
    assert counted.calls == 5
    assert float(path_error(moved, plain).min()) > 1e-4
    torch.testing.assert_close(sample(D, x, 5), moved)

    wide = Denoiser(MLP(2), RectifiedFlow(), "velocity", angle=(2.0, 0.6))
    assert wide.angle == wide.given(torch.zeros(1)).angle == Angle(2.0, 0.6)
    assert Denoiser(MLP(2), RectifiedFlow(), "velocity", angle=(2.0, 0.6, 1.5)).angle == Angle(2.0, 0.6, 1.5)
    assert Denoiser(MLP(2), RectifiedFlow(), "velocity").angle is None


def test_the_polynomial_is_in_the_cosine_of_that_scale():
    """Half the range at α = 0 shows nothing, so from a finite start: the twin has σ_data itself at that scale."""
    D = Gaussian(TrigFlow(), torch.zeros(2, dtype=F64), std=0.5)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    D.angle = Angle(2.0, 1.0)
    times = 2 / math.pi * torch.atan(2.0 * torch.tan(math.pi / 2 * torch.arange(6, -1, -1, dtype=F64) / 6))
    times[0] = 1.0
    twin = Gaussian(TrigFlow(), torch.zeros(2, dtype=F64), std=0.5)
    twin.sigma_data = 2.0
    want = last(exponential(twin, x, times, order=4, variable="cos", corrector=True, collocate=False))
    torch.testing.assert_close(sample(D, x, 6), want, rtol=1e-6, atol=1e-9)


def test_the_angle_of_the_patches_is_near_that_of_their_spectrum():
    """The shipped one was calibrated on paths; the spectrum of 4000 other patches has its scale within a factor 1.5."""
    stds = principal_stds(data.photo_patches(32, 4000, seed=5)[0])
    shipped, found = zoo.load("photos-unet").angle, spectral_angle(stds)
    assert abs(math.log2(shipped.scale / found.scale)) < 0.6
    assert abs(math.log2(shipped.middle / found.middle)) < 0.6
    assert shipped.power == pytest.approx(found.power, abs=0.11)
    for nfe in (5, 8):
        assert spectral_error(stds, shipped, nfe) < 0.4 * spectral_error(stds, None, nfe)


def test_the_angle_of_the_patches_is_the_best_of_its_benchmark():
    stored = results.load("angles-photos")["data"]
    few = [stored["calls"].index(n) for n in CALLS]
    best = min(stored["rows"], key=lambda row: math.prod(row["rms"][i] for i in few))
    D = zoo.load("photos-unet")
    want = [best["scale"] * D.sigma_data, best["power"], best["middle"] * D.sigma_data]
    assert list(D.angle) == pytest.approx(want, rel=0.002)


@pytest.mark.parametrize(
    "angle", [(0.0, 0.8), (1.0, 0.0), (1.0, 1.5), (math.nan, 0.8), (1.0, 0.8, 0.0), (1.0, 0.8, math.nan)]
)
def test_a_denoiser_refuses_an_impossible_angle(angle):
    with pytest.raises(ValueError, match="of angle"):
        Denoiser(MLP(2), RectifiedFlow(), "velocity", angle=angle)


@pytest.mark.parametrize(
    "stds", [torch.zeros(3), torch.tensor([1.0, -1.0]), torch.ones(2, 2), torch.tensor([math.nan])]
)
def test_a_spectrum_that_is_none(stds):
    with pytest.raises(ValueError, match="stds must be"):
        spectral_angle(stds)
