"""What the chapter on grids stores: path errors of grids × solvers, and learned solvers (about 5 CPU-minutes).

python -m minidiff.bench steps [grids] [taylor] [learned]      (default: all three)

The network is the zoo's `digits-unet`; it is not trained. Grids that are computed, and solvers that are learned, see
the noise images of one set only and are judged on another. Finished rows are kept in `build/steps` and reused, so an
interrupted run goes on where it stopped; delete the folder to start over.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff import data, grids, times, zoo
from minidiff.bench import results, resume, run_stages
from minidiff.denoiser import DenoiserLike
from minidiff.metrics import path_error
from minidiff.noise import standard_normal
from minidiff.samplers import ddim, dpmpp_2m, exponential, last, sample, taylor
from minidiff.samplers.state import State
from minidiff.train import device, fit

FOLDER = Path("build/steps")  # what an interrupted run goes on from
LEARNING, HELD_OUT = 64, 150  # images in the two sets
FINE = 48  # steps of the fine grid from which nodes are chosen, uniform in θ
CALLS = (5, 8, 10)
REFERENCE = 100  # calls of the default sampler
PRIOR_DRAWS = 180  # clean digits at which the mean squared error of D is measured
LEARNED_CALLS = 5
TEACHER_CALLS, PAIRS = 40, 192
ITERATIONS, BATCH, RATE = 100, 16, 0.02
SEEDS = (0, 1, 2)
Solver = Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]]
SOLVERS: dict[str, Solver] = {
    "ddim": ddim,
    "2M": dpmpp_2m,
    "2 in cos": lambda D, x, grid: exponential(D, x, grid, order=2, variable="cos"),
    "4 in cos": lambda D, x, grid: exponential(
        D, x, grid, order=4, variable="cos", corrector=True, collocate=False
    ),  # what the default sampler runs, on its own grid
}


def kept(name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401
    """The rows stored in `build/steps/NAME.json`, made and stored if they are not there."""
    return resume.once(FOLDER / f"{name}.json", make)


def problem(count: int, seed: int) -> tuple[DenoiserLike, Tensor]:
    """The digits' denoiser with the labels 0, 1, …, 9, 0, … bound, and as many noise images."""
    D = zoo.load("digits-unet").to(device())
    y = (torch.arange(count) % 10).to(device())
    x = standard_normal((count, 1, 8, 8), torch.Generator().manual_seed(seed)).to(device())
    return D.given(y), x


def fine_grid(D: DenoiserLike) -> Tensor:
    """FINE steps uniform in θ over the whole range of the process."""
    return times.cosine_angle(D.process, FINE, sigma_data=D.sigma_data, r_max=math.inf, r_min=0.0)


def computed_grids(D: DenoiserLike, x: Tensor, n: int) -> dict[str, Tensor]:
    """The grids of n steps that follow from one fine run on x: by equal shares, and by dynamic programming."""
    fine = fine_grid(D)
    states = list(exponential(D, x, fine, order=2, variable="cos", corrector=True))
    # A corrected run yields each state with the prediction that made it: D at node i is x0 of state i + 1.
    local = grids.local_errors(
        D.process, fine, torch.stack([s.x for s in states]), torch.stack([s.x0 for s in states[1:]]), D.sigma_data
    )
    theta = grids.angle(D.process, fine, D.sigma_data)
    shares = grids.equidistribute(theta, local.diagonal(1), n, order=1)
    equal = grids.time_of_angle(D.process, shares[1:-1], D.sigma_data)
    return {
        "equal shares": torch.cat([fine[:1], equal, fine[-1:]]),
        "least local error": fine[grids.least_cost_path(local, n)],
        "coarse to fine": fine[grids.align(local, n)],
        "least bound": fine[grids.least_cost_path(bound_matrix(D, fine), n)],
    }


def bound_matrix(D: DenoiserLike, fine: Tensor) -> Tensor:
    """The costs of the bound on the fine grid; its end at σ = 0 is reached from the last node before it."""
    unconditional = zoo.load("digits-unet").to(device())
    images, labels = (a[:PRIOR_DRAWS].to(device()) for a in data.digits("test"))
    bound = unconditional.given(labels)
    generator = torch.Generator().manual_seed(7)
    mse = []
    for t in fine[:-1]:
        eps = standard_normal(images.shape, generator).to(images.device)
        error = images - bound(D.process.noise(images, t, eps), t)
        mse.append(float(error.double().square().flatten(1).sum(1).mean()))
    snr = (2 * D.process.lam(fine[:-1])).exp()
    inner = grids.bound_costs(snr, torch.tensor(mse, dtype=torch.float64))
    cost = torch.full((len(fine), len(fine)), torch.inf, dtype=torch.float64)
    cost[:-1, :-1] = inner
    cost[-2, -1] = 0.0  # the last step, to σ = 0, is the decoder's, and every path takes it from the finest node
    return cost


def formula_grids(D: DenoiserLike, n: int) -> dict[str, Tensor]:
    """The grids of n steps that are formulas, from t = 1 or the largest r that they allow down to σ = 0."""
    return {
        "uniform t": times.uniform(n),
        "uniform angle": times.cosine_angle(D.process, n, sigma_data=D.sigma_data, r_max=math.inf, r_min=0.0),
        "Karras, 7": times.karras(D.process, n, zero=True),
        "log-SNR": times.log_snr(D.process, n, zero=True),
    }


@functools.cache
def held_out(count: int) -> tuple[DenoiserLike, Tensor, Tensor]:
    """The held-out problem, and where its reference solution ends."""
    D, x = problem(count, 1)
    with torch.no_grad():
        return D, x, sample(D, x, REFERENCE)


def median(errors: Tensor) -> float:
    """The median over the samples."""
    return float(errors.median())


@torch.no_grad()
def grid_rows() -> dict[str, Any]:
    """Path errors on the held-out noise of every grid, solver and number of calls, and the default sampler's."""
    D, x, reference = held_out(HELD_OUT)
    other, noise = problem(LEARNING, 0)
    rows = []
    for n in CALLS:
        chosen = {**formula_grids(D, n), **computed_grids(other, noise, n)}
        for name, grid in chosen.items():
            row: dict[str, Any] = {"calls": n, "grid": name, "times": grid.tolist()}
            for solver, method in SOLVERS.items():
                row[solver] = median(path_error(last(method(D, x, grid)), reference, D.sigma_data))
            rows.append(row)
        default = median(path_error(sample(D, x, n), reference, D.sigma_data))
        rows.append({"calls": n, "grid": "default", "default": default})
    return {"rows": rows, "held_out": HELD_OUT, "learning": LEARNING, "reference": REFERENCE}


@torch.no_grad()
def taylor_rows() -> dict[str, Any]:
    """The Taylor step, which costs about three calls, against DDIM and the default sampler at as many calls."""
    D, x, reference = held_out(HELD_OUT // 2)
    rows = []
    for n in (4, 6, 8, 12):
        grid = times.cosine_angle(D.process, n, sigma_data=D.sigma_data, r_max=math.inf, r_min=0.0)
        error = {"taylor": taylor(D, x, grid), "ddim": ddim(D, x, grid)}
        rows.append({"steps": n} | {k: median(path_error(last(v), reference, D.sigma_data)) for k, v in error.items()})
        rows[-1]["default at 3n"] = median(path_error(sample(D, x, 3 * n), reference, D.sigma_data))
    return {"rows": rows}


def learned_rows(learn: str, order: int, seed: int) -> dict[str, Any]:
    """One learned solver: its path error on held-out noise before and after, and its times and coefficients."""
    D, x, reference = held_out(HELD_OUT)
    with torch.no_grad():
        teacher, noise = problem(PAIRS, 100 + seed)
        target = sample(teacher, noise, TEACHER_CALLS)
    start = times.cosine_angle(D.process, LEARNED_CALLS, sigma_data=D.sigma_data, r_max=math.inf, r_min=0.0)
    solver = grids.StepSolver(D.process, start, D.sigma_data, order, learn).to(device())

    def error(method: Callable[[], Tensor]) -> float:
        with torch.no_grad():
            return median(path_error(method(), reference, D.sigma_data))

    before = error(lambda: solver(D, x))
    teacher.denoiser.requires_grad_(False)

    def loss(x: Tensor, target: Tensor, y: Tensor) -> Tensor:
        return (solver(teacher.denoiser.given(y), x) - target).square().flatten(1).mean(1).sqrt() / D.sigma_data

    stream = data.batches(noise, target, teacher.y, batch_size=BATCH, seed=seed)
    trainable = [p for p in solver.parameters() if p.requires_grad]
    logs = [log.loss for log in fit(loss, trainable, stream, steps=ITERATIONS, lr=RATE, warmup=10)]
    with torch.no_grad():
        found = solver.times()
    row = {
        "learn": learn,
        "order": order,
        "seed": seed,
        "before": before,
        "after": error(lambda: solver(D, x)),
        "training loss": sum(logs[-20:]) / len(logs[-20:]),
        "times": found.tolist(),
        "deltas": solver.deltas.tolist(),
    }
    # Does the learned grid help a solver that it was not learned for?
    for name, method in SOLVERS.items():
        row[f"grid under {name}"] = error(lambda method=method: last(method(D, x, found)))
    return row


def grids_stage() -> None:
    """steps-grids: every grid under every solver, 5, 8 and 10 calls."""
    results.save("steps-grids", kept("grids", grid_rows), "python -m minidiff.bench steps grids")


def taylor_stage() -> None:
    """steps-taylor: the second-order Taylor step on digits."""
    results.save("steps-taylor", kept("taylor", taylor_rows), "python -m minidiff.bench steps taylor")


def learned_stage() -> None:
    """steps-learned: five calls; times (order 1), or times and coefficients (order 2), are learned; three seeds."""
    rows = []
    for learn, order in (("times", 1), ("both", 2)):
        for seed in SEEDS:
            name = f"learned-{learn}-{order}-{seed}"
            rows.append(kept(name, lambda learn=learn, order=order, seed=seed: learned_rows(learn, order, seed)))
    D, x, reference = held_out(HELD_OUT)
    error = median(path_error(sample(D, x, LEARNED_CALLS), reference, D.sigma_data))
    results.save(
        "steps-learned",
        {"rows": rows, "default": error, "calls": LEARNED_CALLS, "pairs": PAIRS, "iterations": ITERATIONS},
        "python -m minidiff.bench steps learned",
    )


STAGES = {"grids": grids_stage, "taylor": taylor_stage, "learned": learned_stage}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or all of them."""
    run_stages(STAGES, argv)
