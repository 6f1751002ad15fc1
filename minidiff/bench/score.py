"""What the score-matching chapter stores: digits by annealed Langevin beside the default sampler (about 6 CPU-minutes).

python -m minidiff.bench score

Both use the zoo's `digits-unet`, so that only the sampler differs. Finished rows are kept in `build/score` and reused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minidiff import data, times
from minidiff.bench import results, resume
from minidiff.denoiser import DenoiserLike
from minidiff.metrics import class_accuracy, copy_rate, frechet_distance, frechet_floor, nearest_distance
from minidiff.samplers import annealed_langevin, last, sample
from minidiff.train import device

FOLDER = Path("build/score")
R_MAX, R_MIN = 15.0, 0.03  # the ends of the ladder: noise-to-signal ratios
LADDERS = ((10, 2, 1.0), (10, 5, 0.2), (10, 5, 0.5), (10, 5, 1.0), (10, 10, 0.2), (20, 10, 0.2))
DEFAULT = (5, 10, 20)  # calls of the default sampler
CHUNK = 300  # images that are drawn together


def annealed(D: DenoiserLike, shape: Sequence[int], levels: int, steps: int, gamma: float, seed: int = 0) -> Tensor:
    """Draws (B, *D) by annealed Langevin with ε_i = γ σ_i², `steps` updates at each of the levels, and D at the end.

    The levels are a geometric ladder of σ/α from R_MAX to R_MIN; the start is a Gaussian with the variance that data
    of D.sigma_data have at the first. levels · steps + 1 calls.
    """
    grid = times.log_snr(D.process, levels - 1, r_max=R_MAX, r_min=R_MIN)
    ends = grid[[0, -1]]
    (alpha, _), (sigma, last_sigma) = D.process.alpha(ends).tolist(), D.process.sigma(ends).tolist()
    generator = torch.Generator(device()).manual_seed(seed)
    x = math.hypot(alpha * D.sigma_data, sigma) * torch.randn(*shape, generator=generator, device=device())
    x = last(annealed_langevin(D, x, grid, step=gamma * last_sigma**2, steps=steps, generator=generator))
    return D(x, grid[-1])


def draw(D: nn.Module, labels: Tensor, shape: Sequence[int], setting: tuple[Any, ...]) -> Tensor:
    """One image for each label by one setting: (calls,) of the default sampler, or (levels, steps, gamma)."""
    parts = []
    for i, y in enumerate(labels.split(CHUNK)):
        of_class = D.given(y)
        if len(setting) == 3:
            parts.append(annealed(of_class, (len(y), *shape), *setting, seed=i))
        else:
            generator = torch.Generator(device()).manual_seed(i)
            noise = D.process.prior((len(y), *shape), generator, device=device())
            parts.append(sample(of_class, noise, *setting))
    return torch.cat(parts)


@torch.no_grad()
def judged(D: nn.Module, judge: nn.Module, settings: Sequence[tuple[Any, ...]], kept: Path) -> dict[str, Any]:
    """A row for each setting: calls, Fréchet distance to the digits, accuracy, copies, cost; and the floor."""
    digits, labels = (x.to(device()) for x in data.digits("all"))
    training, held_out = (data.digits(split)[0].to(device()) for split in ("train", "test"))
    reference = judge.features(digits).double()

    def row(setting: tuple[Any, ...]) -> dict[str, Any]:
        start = time.process_time()
        made = draw(D, labels, digits.shape[1:], setting)
        ladder = len(setting) == 3
        return {
            "method": "annealed Langevin" if ladder else "default",
            **(dict(zip(("levels", "steps", "gamma"), setting, strict=True)) if ladder else {}),
            "calls": setting[0] * setting[1] + 1 if ladder else setting[0],
            "frechet": frechet_distance(judge.features(made).double(), reference),
            "as_asked": class_accuracy(judge(made), labels),
            "copy_rate": copy_rate(made, training),
            "nearest": float(nearest_distance(made, training).mean()),
            "cpu_seconds": time.process_time() - start,
        }

    floor = frechet_floor(reference)
    return {
        "n": len(digits),
        "floor": floor.mean,
        "floor_n": floor.n,
        "nearest_held_out": float(nearest_distance(held_out, training).mean()),
        "r_max": R_MAX,
        "r_min": R_MIN,
        "table": resume.rows(kept, settings, row),
    }


def main(argv: Sequence[str]) -> None:
    """Run the comparison and store it as score-samples. Raises ValueError for arguments, of which there are none."""
    if argv:
        raise ValueError(f"bench score takes no arguments, got {list(argv)}")
    from minidiff import zoo

    D, judge = zoo.load("digits-unet").to(device()), zoo.load("digits-classifier").to(device())
    settings = [*((calls,) for calls in DEFAULT), *LADDERS]
    stored = judged(D, judge, settings, FOLDER / "samples.json")
    results.save("score-samples", stored, "python -m minidiff.bench score")
