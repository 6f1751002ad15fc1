"""When noise helps: an exact denoiser with a known error, and the digits' network (about 7 CPU-minutes).

python -m minidiff.bench noise [mixture] [digits]      (default: both)

Finished rows are kept in `build/noise` and reused.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import data, times
from minidiff.analytic import GaussianMixture
from minidiff.bench import results, resume, run_stages
from minidiff.denoiser import Denoiser, DenoiserLike
from minidiff.metrics import class_accuracy, frechet_distance
from minidiff.process import LinearVP
from minidiff.samplers import edm, last, restart, sa_solver
from minidiff.train import device

F64 = torch.float64
FOLDER = Path("build/noise")

# The mixture on a line: a walk from r = 10 to 0.01 and on to the data.
BANDS = {"early": (1.5, 6.0), "middle": (0.4, 1.6), "late": (0.05, 0.2)}  # where the error is: noise-to-signal ratios
R_MAX, R_MIN = 10.0, 0.01
PARTICLES = 10_000
TAUS = (0.0, 0.5, 1.0, 1.5, 2.0)
STEPS = (10, 20, 40, 80, 160)
SIZES = (0.1, 0.3)
ORDERS = (1, 2)
FIELDS = 4  # seeds of the error
FEATURES = 16

# The digits.
IMAGES = 400
CALLS = (10, 30, 100)
RUNS = (("as trained", 0, CALLS), ("as trained", 1, CALLS[:2]), ("spoiled", 0, CALLS[:2]), ("spoiled", 1, CALLS[:2]))
SPOILED = 0.2  # relative size of the noise on the weights
ANGLE_R_MIN = 0.03


class ErrorField:
    """A denoiser with a known error: D̂(x, t) = D(x, t) + δ σ_data w(λ) Σ_j √(2/m) cos(ω_j · y/√(σ_data² + r²) + φ_j).

    y = x/α, r = σ/α. The sum is a random Fourier series with m = 16 terms for each coordinate, of root mean square 1,
    fixed by `seed`; ω_j ~ N(0, 2² I), so that it varies over half the width of the cloud. w = sin² of a half
    turn over the band [low, high] of r (in λ), 0 outside. δ is `size`.
    """

    coupled = False

    def __init__(self, D: DenoiserLike, band: tuple[float, float], size: float, seed: int, dimension: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.D, self.process, self.sigma_data = D, D.process, D.sigma_data
        self.start, self.end = (-math.log(r) for r in reversed(band))
        self.size = size * D.sigma_data
        self.frequencies = 2 * torch.randn(dimension, dimension, FEATURES, generator=generator, dtype=F64)
        self.phases = 2 * math.pi * torch.rand(dimension, FEATURES, generator=generator, dtype=F64)

    def error(self, x: Tensor, t: Tensor) -> Tensor:
        """D̂ − D at x (B, d) and one time t."""
        lam = float(self.process.lam(t))
        if not self.start < lam < self.end:
            return torch.zeros_like(x)
        window = math.sin(math.pi * (lam - self.start) / (self.end - self.start)) ** 2
        y = x / float(self.process.alpha(t)) / math.hypot(self.sigma_data, math.exp(-lam))
        waves = torch.einsum("bi,oij->boj", y, self.frequencies.to(x)) + self.phases.to(x)
        return self.size * window * math.sqrt(2 / FEATURES) * waves.cos().sum(-1)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """D̂(x, t)."""
        return self.D(x, t) + self.error(x, t)


def line() -> GaussianMixture:
    """Three narrow peaks on a line."""
    means = torch.tensor([[-1.2], [0.3], [1.5]], dtype=F64)
    return GaussianMixture(LinearVP(), torch.tensor([0.35, 0.4, 0.25], dtype=F64), means, stds=0.12)


def quantiles(D: GaussianMixture, n: int) -> Tensor:
    """The quantiles of a mixture on a line at (i + ½)/n, i = 0…n − 1; (n,)."""
    spread = D.variances.sqrt().expand(-1, 1)
    x = torch.linspace(
        float(D.means.min()) - 8 * float(spread.max()), float(D.means.max()) + 8 * float(spread.max()), 20_001
    )
    x = x.double()
    cdf = (D.weights[:, None] * torch.special.ndtr((x - D.means) / spread)).sum(0)
    levels = (torch.arange(n, dtype=F64) + 0.5) / n
    i = torch.searchsorted(cdf, levels).clamp(1, len(x) - 1)
    return x[i - 1] + (levels - cdf[i - 1]) / (cdf[i] - cdf[i - 1]) * (x[i] - x[i - 1])


def wasserstein(x: Tensor, exact: Tensor) -> float:
    """W₁ between equally many points x (n, 1) and the exact quantiles (n,): both in order, and one by one.

    W₁ and not W₂: that grows like the root of a wrong share of the peaks, and drowns in the scatter of few particles.
    """
    return float((x.flatten().sort().values - exact).abs().mean())


def walk(D: DenoiserLike, exact: GaussianMixture, n: int, tau: float, order: int, seed: int, particles: int) -> Tensor:
    """Particles (particles, 1) at t = 0 after n calls of `sa_solver`, from the exact law at r = 10."""
    grid = times.log_snr(exact.process, n, r_max=R_MAX, r_min=R_MIN, zero=True)
    generator = torch.Generator().manual_seed(1000 + seed)
    start = exact.sample(particles, generator)
    eps = torch.randn(start.shape, generator=generator, dtype=F64)
    x = exact.process.noise(start, grid[0], eps)
    return last(sa_solver(D, x, grid, tau=tau, order=order, corrector=False, generator=generator))


def mixture_rows(kept: Path) -> list[dict[str, Any]]:
    """A row for each order, size, band, field, number of steps and τ: W₁ to the data. size 0 has no band."""
    exact = line()
    target = quantiles(exact, PARTICLES)

    def row(setting: tuple[int, float, str, int, int, float]) -> dict[str, Any]:
        order, size, band, field, n, tau = setting
        D = ErrorField(exact, BANDS[band], size, field) if size else exact
        distance = wasserstein(walk(D, exact, n, tau, order, field, PARTICLES), target)
        return {"order": order, "size": size, "band": band, "field": field, "steps": n, "tau": tau, "w1": distance}

    cases = [(order, 0.0, "none", field) for order in ORDERS for field in range(FIELDS)]
    cases += itertools.product(ORDERS, SIZES, BANDS, range(FIELDS))
    return resume.rows(kept, [(*case, n, tau) for case in cases for n in STEPS for tau in TAUS], row)


def mixture() -> None:
    """noise-mixture: W₁ of the exact denoiser with an error in one band, against τ, steps, size and solver."""
    rows = mixture_rows(FOLDER / "mixture.json")
    exact = line()
    floor = [
        wasserstein(exact.sample(PARTICLES, torch.Generator().manual_seed(seed)), quantiles(exact, PARTICLES))
        for seed in range(20)
    ]
    stored = {
        "particles": PARTICLES,
        "bands": BANDS,
        "r_max": R_MAX,
        "r_min": R_MIN,
        "sigma_data": exact.sigma_data,
        "floor": sum(floor) / len(floor),
        "table": rows,
    }
    results.save("noise-mixture", stored, "python -m minidiff.bench noise mixture")


def spoiled(D: Denoiser, size: float = SPOILED, seed: int = 0) -> Denoiser:
    """A copy of a network, each weight matrix plus `size` times its own root mean square times Gaussian noise."""
    D, generator = copy.deepcopy(D), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in D.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.add_(noise * weight.square().mean().sqrt(), alpha=size)
    return D


def stochastic(calls: int, tau: float) -> Callable[..., Tensor]:
    """SA-Solver of order 2 with noise τ, in `calls` steps uniform in the angle."""

    def run(D: DenoiserLike, x: Tensor, generator: torch.Generator) -> Tensor:
        grid = times.cosine_angle(
            D.process, calls, sigma_data=D.sigma_data, r_max=math.inf, r_min=ANGLE_R_MIN, zero=True
        )
        return last(sa_solver(D, x, grid, tau=tau, order=2, corrector=False, generator=generator))

    return run


def churned(calls: int, churn: float) -> Callable[..., Tensor]:
    """EDM's sampler with churn for 0.05 ≤ r ≤ 5, in calls/2 + 1 steps: two of them cost one call."""

    def run(D: DenoiserLike, x: Tensor, generator: torch.Generator) -> Tensor:
        grid = times.cosine_angle(
            D.process, calls // 2 + 1, sigma_data=D.sigma_data, r_max=math.inf, r_min=ANGLE_R_MIN, zero=True
        )
        return last(edm(D, x, grid, churn=churn, churn_range=(0.05, 5.0), generator=generator))

    return run


def restarted(calls: int, loops: int) -> Callable[..., Tensor]:
    """Restart: 0.4 of the calls along the way, the rest in `loops` visits of r from 2 to 0.3; second order."""

    def run(D: DenoiserLike, x: Tensor, generator: torch.Generator) -> Tensor:
        main = calls * 2 // 5
        grid = times.cosine_angle(
            D.process, main, sigma_data=D.sigma_data, r_max=math.inf, r_min=ANGLE_R_MIN, zero=True
        )
        r = (-D.process.lam(grid)).exp()
        top, bottom = (int((r - level).abs().argmin()) for level in (2.0, 0.3))
        ends = r[[top, bottom]].tolist()
        interval = times.log_snr(D.process, (calls - main) // loops, r_max=ends[0], r_min=ends[1])
        interval[-1] = grid[bottom]
        method = functools.partial(sa_solver, tau=0.0, order=2, corrector=False)
        return last(restart(D, x, grid, interval=interval, repeats=loops, method=method, generator=generator))

    return run


def methods(budgets: Sequence[int]) -> list[tuple[str, int, Callable[..., Tensor]]]:
    """(name, calls, sampler) of every row of the digits; churn and Restart need a few steps to be what they are."""
    made = [(f"tau = {tau:g}", calls, stochastic(calls, tau)) for calls in budgets for tau in (0.0, 0.5, 1.0)]
    for calls in budgets:
        if calls >= 20:
            made += [("churn", calls, churned(calls, calls / 10)), ("restart", calls, restarted(calls, 3))]
    return made


@torch.no_grad()
def digit_rows(D: Denoiser, judge: nn.Module, kept: Path) -> list[dict[str, Any]]:
    """A row for each network, seed and method: Fréchet distance to all digits, and the share of classes as asked."""
    digits, labels = (x.to(device()) for x in data.digits("all"))
    reference = judge.features(digits).double()
    y = torch.arange(IMAGES, device=labels.device) % 10
    nets = {"as trained": D, "spoiled": spoiled(D)}

    def row(setting: tuple[str, int, tuple[str, int, Callable[..., Tensor]]]) -> dict[str, Any]:
        network, seed, (name, calls, draw) = setting
        generator = torch.Generator().manual_seed(seed)
        x = D.process.prior((IMAGES, *digits.shape[1:]), generator).to(device())
        made = draw(nets[network].given(y), x, generator)
        return {
            "network": network,
            "method": name,
            "calls": calls,
            "seed": seed,
            "frechet": frechet_distance(judge.features(made).double(), reference),
            "as_asked": class_accuracy(judge(made), y),
        }

    cases = [(network, seed, method) for network, seed, budgets in RUNS for method in methods(budgets)]
    return resume.rows(kept, cases, row)


def digits() -> None:
    """noise-digits: the digits' network, as trained and with spoiled weights, with and without noise."""
    from minidiff import zoo

    D, judge = zoo.load("digits-unet").to(device()), zoo.load("digits-classifier").to(device())
    rows = digit_rows(D, judge, FOLDER / "digits.json")
    images, labels = (x.to(device()) for x in data.digits("all"))
    features = judge.features(images).double()
    generator, floor = torch.Generator().manual_seed(0), []
    for _ in range(10):  # as many of each class as are drawn
        mixed = torch.randperm(len(images), generator=generator).to(labels.device)
        chosen = torch.cat([mixed[labels[mixed] == k][: IMAGES // 10] for k in range(10)])
        floor.append(frechet_distance(features[chosen], features))
    stored = {"images": IMAGES, "spoiled": SPOILED, "floor": sum(floor) / len(floor), "table": rows}
    results.save("noise-digits", stored, "python -m minidiff.bench noise digits")


STAGES = {"mixture": mixture, "digits": digits}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or all of them. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
