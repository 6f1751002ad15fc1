"""What the chapter on five names stores: three meanings of an output in many dimensions; gradients by noise level.

python -m minidiff.bench five_names [predictions] [gradients]     (default: both; about 6 CPU-minutes)

predictions: a spiral in the plane is turned into 2 to 512 dimensions by a random isometry. One small network learns it
three times for each number of dimensions, with the same loss and three meanings of its output (after Li & He 2025).
Finished rows are kept in `build/five_names` and reused, so an interrupted run goes on where it stopped; delete the
folder to start over. gradients: the second moment of the noise error's gradient for the digits network of the zoo.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minidiff import data, objectives, times, zoo
from minidiff.bench import results, resume, run_stages
from minidiff.denoiser import Denoiser
from minidiff.metrics import sliced_wasserstein
from minidiff.nets import MLP
from minidiff.process import LinearVP
from minidiff.samplers import ddim, last
from minidiff.train import EMA, device, fit, noised, seeded

FOLDER = Path("build/five_names")  # what an interrupted run goes on from
PROCESS = LinearVP()
WIDTH = 128
STEPS = 2500
DIMENSIONS = (2, 32, 128, 512)
PREDICTIONS = ("x0", "v", "eps")
SEEDS = (0,)
POINTS = 20_000
DRAWN = 2000
EDGES = torch.linspace(-4, 5, 13, dtype=torch.float64)  # bins of λ for the gradients
SAMPLES = 512  # in each bin


def frame(dimension: int, seed: int = 0) -> Tensor:
    """Two random orthonormal columns (dimension, 2): the plane in which the data lie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dimension, 2, generator=generator, dtype=torch.float64)).Q.float()


def batches(plane: Tensor, seed: int, size: int = 256) -> Iterator[tuple[Tensor]]:
    """Endless batches (size, dimension) of the spiral, turned into the plane."""
    points = data.swiss_roll(POINTS, seed=1)
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield (points[torch.randint(len(points), (size,), generator=generator)] @ plane.mT,)


def train(plane: Tensor, predicts: Literal["x0", "v", "eps"], steps: int, seed: int = 0) -> tuple[Denoiser, float]:
    """The averaged network whose output means `predicts`, trained with the loss on v, and its loss over the last tenth.

    Only what the output means differs between the three: they see the same points, times and noise. The times are
    uniform on [0.001, 1], so that the largest weight of the loss is finite.
    """
    with seeded(seed):
        D = Denoiser(MLP(len(plane), WIDTH), PROCESS, predicts).to(device())
    ema = EMA(D, 0.995)
    stream = noised(batches(plane.to(device()), seed), times.uniform_density(low=1e-3), seed)
    logs = fit(
        lambda x0, t, eps: objectives.denoising_loss(D, x0, t, eps, weight=objectives.v),
        D.parameters(),
        stream,
        steps=steps,
        lr=2e-3,
        warmup=min(100, steps // 4),
        ema=ema,
    )
    losses = [log.loss for log in logs]
    end = losses[-max(1, steps // 10) :]
    return ema.module, sum(end) / len(end)


@torch.no_grad()
def drawn(D: Denoiser, plane: Tensor, calls: int = 50) -> tuple[Tensor, float]:
    """2000 samples: their places in the plane (2000, 2), and the root mean square of their distance from it."""
    generator = torch.Generator().manual_seed(5)
    x = PROCESS.prior((DRAWN, len(plane)), generator, device=device())
    grid = times.log_snr(PROCESS, calls, r_max=1e3, r_min=0.005, zero=True)
    made = last(ddim(D, x, grid)).cpu()
    within = made @ plane
    outside = (made - within @ plane.mT).square().sum(1).mean().sqrt()
    return within, float(outside)


def gradient_moments(
    D: Denoiser, low: Tensor, high: Tensor, generator: torch.Generator, n: int, draws: int = 4
) -> tuple[float, float]:
    """E|g|² and |E g|² for the gradient g of one digit's |ε − ε̂|² in the parameters of D, λ uniform on [low, high].

    The error is the mean over pixels. The first moment is unbiased by random signs, E|Σ s_i g_i|² = Σ|g_i|², averaged
    over `draws` backward passes of n samples. The second is that of the batch, so it contains E|g|²/n of noise.
    """
    digits, classes = data.digits("train")
    lam = low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)
    row = torch.randint(len(digits), (n,), generator=generator)
    eps = torch.randn(n, *digits.shape[1:], generator=generator)
    t = D.process.time(lam)
    loss = objectives.denoising_loss(D, digits[row], t, eps, classes[row], weight=objectives.snr)
    signs = torch.randint(2, (draws, n), generator=generator) * 2.0 - 1
    single = [_length2(D, (s * loss).sum()) / n for s in signs]
    return sum(single) / draws, _length2(D, loss.mean())


def _length2(D: nn.Module, value: Tensor) -> float:
    """The squared length of the gradient of a number."""
    parameters = [p for p in D.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return sum(float(g.square().sum()) for g in gradient if g is not None)


def gradients() -> None:
    """names-gradients: the two moments in each bin of λ, for the stored network of the digits."""
    D = zoo.load("digits-unet").requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    moments = [gradient_moments(D, low, high, generator, SAMPLES) for low, high in itertools.pairwise(EDGES)]
    single, mean = zip(*moments, strict=True)
    centre = (EDGES[1:] + EDGES[:-1]) / 2
    stored = {"lam": centre.tolist(), "second_moment": single, "mean_squared": mean, "samples": SAMPLES}
    results.save("names-gradients", stored, "python -m minidiff.bench five_names gradients")


def predictions() -> None:
    """names-predictions: every network trained and judged."""
    reference = data.swiss_roll(DRAWN, seed=9)

    def row(setting: tuple[int, int, Literal["x0", "v", "eps"]]) -> dict[str, Any]:
        seed, dimension, predicts = setting
        start = time.process_time()
        plane = frame(dimension, seed)
        D, loss = train(plane, predicts, STEPS, seed)
        within, outside = drawn(D, plane)
        return {
            "dimension": dimension,
            "predicts": predicts,
            "seed": seed,
            "loss": loss,
            "off_plane": outside,
            "in_plane": sliced_wasserstein(within, reference),
            "cpu_seconds": time.process_time() - start,
        }

    rows = resume.rows(FOLDER / "rows.json", list(itertools.product(SEEDS, DIMENSIONS, PREDICTIONS)), row)
    floor = sliced_wasserstein(data.swiss_roll(DRAWN, seed=10), reference)
    stored = {"steps": STEPS, "width": WIDTH, "drawn": DRAWN, "floor": floor, "table": rows}
    results.save("names-predictions", stored, "python -m minidiff.bench five_names predictions")


STAGES = {"predictions": predictions, "gradients": gradients}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or both. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
