"""What the chapter on five names stores: x_0, v and ε as a network's output, for data in few of many dimensions.

python -m minidiff.bench five_names                                        (about 5 CPU-minutes)

A spiral in the plane is turned into 2 to 512 dimensions by a random isometry. One small network learns it three times
for each number of dimensions, with the same loss and three meanings of its output (after Li & He 2025). Finished rows
are kept in `build/five_names` and reused, so an interrupted run goes on where it stopped; delete the folder to start
over.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from minidiff import data, objectives, times
from minidiff.bench import results
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


def main(argv: Sequence[str]) -> None:
    """Train and judge every network, and store `names-predictions`. Raises ValueError for any argument."""
    if argv:
        raise ValueError(f"this benchmark takes no arguments, got {list(argv)}")
    kept = FOLDER / "rows.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    reference = data.swiss_roll(DRAWN, seed=9)
    for seed, dimension, predicts in list(itertools.product(SEEDS, DIMENSIONS, PREDICTIONS))[len(rows) :]:
        start = time.process_time()
        plane = frame(dimension, seed)
        D, loss = train(plane, predicts, STEPS, seed)
        within, outside = drawn(D, plane)
        rows.append(
            {
                "dimension": dimension,
                "predicts": predicts,
                "seed": seed,
                "loss": loss,
                "off_plane": outside,
                "in_plane": sliced_wasserstein(within, reference),
                "cpu_seconds": time.process_time() - start,
            }
        )
        print(rows[-1], flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(rows))
    floor = sliced_wasserstein(data.swiss_roll(DRAWN, seed=10), reference)
    stored = {"steps": STEPS, "width": WIDTH, "drawn": DRAWN, "floor": floor, "table": rows}
    results.save("names-predictions", stored, "python -m minidiff.bench five_names")
