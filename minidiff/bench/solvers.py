"""Samplers on problems with a known answer, ours and every installed peer's (about 8 CPU-minutes).

python -m minidiff.bench solvers [exact] [peers] [network]      (default: all three)

exact: the six problems against the committed bar, wrong scales, orders of convergence, and twenty other mixtures.
peers: diffusers' schedulers on the six problems; two known rows are reproduced first. network: the shipped digits
network, by path error and by Fréchet distance. Each stage keeps its own stored result.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff import data, times, zoo
from minidiff.bench import problems, results, run_stages
from minidiff.bench.problems import BUDGETS, F64, Problem
from minidiff.denoiser import DenoiserLike
from minidiff.metrics import frechet_distance, path_error
from minidiff.samplers import dpmpp_2m, edm, euler, heun, last, sample

Solver = Callable[[Problem, int], Tensor]
COMMAND = "python -m minidiff.bench solvers"
SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
OTHERS = range(20)
FEW = (3, 5, 8, 10, 15, 20, 40)
# Rows measured once with diffusers 0.42 on the 2-D ring from VP-linear, at BUDGETS.
KNOWN = {
    "2M lu": (5.7e-2, 8.8e-2, 6.8e-2, 2.8e-2, 1.4e-2, 2.7e-3, 7.6e-4),
    "2M karras": (0.16, 0.15, 0.17, 8.6e-2, 4.5e-2, 8.3e-3, 1.6e-3),
}


def ours(problem: Problem, n: int) -> Tensor:
    """`minidiff.sample`."""
    return sample(problem.D, problem.y, n)


def log_snr_2m(problem: Problem, n: int) -> Tensor:
    """DPM-Solver++(2M) in equal steps of λ from the start, or from r = 160 σ_d if that is less, to 0.004 σ_d, then 0.

    For data of spread 0.5 these are EDM's ends, 80 and 0.002. A start further out is moved to the first r by its scale.
    """
    D, scale = problem.D, problem.D.sigma_data
    r_max = min(problem.r_max, 160 * scale)
    grid = times.log_snr(D.process, n, r_max=r_max, r_min=0.004 * scale, zero=True)
    moved = math.hypot(r_max, scale) / math.hypot(problem.r_max, scale)
    return last(dpmpp_2m(D, problem.y * moved, grid))


def exact() -> None:
    """solvers: ours on the six problems, with wrong scales, on other mixtures, and its order of convergence."""
    six = [(problem, problems.solution(problem)) for problem in problems.six()]
    rows = {p.name: problems.errors(p, e, ours) for p, e in six}
    two = {p.name: problems.errors(p, e, log_snr_2m) for p, e in six}
    show("minidiff.sample", rows)
    show("2M log-SNR", two)
    scales = []
    for factor in SCALES:
        wrong = {p.name: problems.errors(p.with_scale(factor), e, ours) for p, e in six}
        wrong = {name: [v * factor for v in row] for name, row in wrong.items()}  # in units of the true spread
        worst = [max(wrong[name][i] / two[name][i] for name in wrong) for i in range(len(BUDGETS))]
        scales.append({"factor": factor, **means(wrong), "worst against 2M": worst})
        print(scales[-1], flush=True)
    stored = {"budgets": BUDGETS, "errors": rows, "2M log-SNR": two, **means(rows), "scales": scales}
    stored |= {"orders": orders(*six[0]), "others": others(), "other budgets": FEW}
    print("saved to", results.save("solvers", stored, f"{COMMAND} exact"))


def orders(problem: Problem, end: Tensor) -> list[dict[str, float]]:
    """The errors of `sample` at 40 to 320 calls, and the order between each two."""
    counts = (40, 80, 160, 320)
    measured = [problems.error(problem, ours(problem, n), end) for n in counts]
    slopes = [math.nan, *(math.log2(a / b) for a, b in itertools.pairwise(measured))]
    return [
        {"calls": n, "error": e} | ({} if math.isnan(s) else {"order": s})
        for n, e, s in zip(counts, measured, slopes, strict=True)
    ]


def others() -> list[dict[str, Any]]:
    """Random mixtures: the errors of ours, right or told a σ_data wrong by 2, and of 2M on the log-SNR grid."""
    made = []
    for seed in OTHERS:
        problem = problems.other(seed)
        end = problems.solution(problem)
        row: dict[str, Any] = {"problem": problem.name}
        for name, factor in (("ours", 1.0), ("doubled", 2.0), ("halved", 0.5)):
            told = problem.with_scale(factor)
            row[name] = [problems.error(problem, ours(told, n), end) for n in FEW]
        row["2M log-SNR"] = [problems.error(problem, log_snr_2m(problem, n), end) for n in FEW]
        made.append(row)
        print(row, flush=True)
    return made


def means(rows: dict[str, list[float]]) -> dict[str, float]:
    """Geometric means of the ratio to the bar: over all budgets, and over 8 to 20 calls."""
    ratios = {name: [e / b for e, b in zip(row, problems.bar()[name], strict=True)] for name, row in rows.items()}
    few = slice(BUDGETS.index(8), BUDGETS.index(20) + 1)
    return {
        "all budgets": problems.geometric_mean([q for row in ratios.values() for q in row]),
        "8 to 20 calls": problems.geometric_mean([q for row in ratios.values() for q in row[few]]),
    }


def show(name: str, rows: dict[str, list[float]]) -> None:
    """Print a solver's errors with their ratios to the bar, and the two geometric means."""
    print(name, {key: round(value, 3) for key, value in means(rows).items()})
    for problem, row in rows.items():
        cells = zip(row, problems.bar()[problem], strict=True)
        print(f"  {problem:15}" + "".join(f"{e:9.1e} ({e / b:5.2f})" for e, b in cells), flush=True)


# diffusers: the loop that its users write, around the exact denoiser. A network of its thousand-step chains sees whole
# steps, so the denoiser is asked at the level of the step that the scheduler names.

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "2M lu": ("DPMSolverMultistep", {"use_lu_lambdas": True}),
    "2M karras": ("DPMSolverMultistep", {"use_karras_sigmas": True}),
    "2M trailing": ("DPMSolverMultistep", {"timestep_spacing": "trailing"}),
    "3M lu": ("DPMSolverMultistep", {"use_lu_lambdas": True, "solver_order": 3}),
    "3M karras": ("DPMSolverMultistep", {"use_karras_sigmas": True, "solver_order": 3}),
    "UniPC-2 karras": ("UniPCMultistep", {"use_karras_sigmas": True, "final_sigmas_type": "zero"}),
    "DEIS-2 trailing": ("DEISMultistep", {"timestep_spacing": "trailing"}),
    "DDIM trailing": ("DDIM", {"timestep_spacing": "trailing", "clip_sample": False}),
    "Euler karras": ("EulerDiscrete", {"use_karras_sigmas": True}),
    "LMS-4 linspace": ("LMSDiscrete", {"timestep_spacing": "linspace"}),
    "Heun karras": ("HeunDiscrete", {"use_karras_sigmas": True}),
}
EDM_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "2M karras": ("EDMDPMSolverMultistep", {"sigma_schedule": "karras"}),
    "2M log-uniform": ("EDMDPMSolverMultistep", {"sigma_schedule": "exponential"}),
    "3M log-uniform": ("EDMDPMSolverMultistep", {"sigma_schedule": "exponential", "solver_order": 3}),
    "Euler karras": ("EDMEuler", {"sigma_schedule": "karras"}),
}
TWO_CALLS = ("Heun karras",)
CHAINS = {"VP-linear": ("linear", 1e-4, 0.02), "VP-cosine": ("squaredcos_cap_v2", 1e-4, 0.02)}


def denoised(problem: Problem, y: Tensor, r: float) -> Tensor:
    """D at any r, through a process that has it."""
    at = problem.D.process.time(torch.tensor(-math.log(r), dtype=F64))
    return problem.D(y, at)


def peer(name: str, problem: Problem, n: int) -> Tensor:
    """One of diffusers' schedulers of the thousand-step chains on a problem, in at most n calls."""
    import diffusers

    kind, options = SCHEDULERS[name]
    schedule, start, end = CHAINS[problem.name.split()[1]]
    scheduler = getattr(diffusers, f"{kind}Scheduler")(
        beta_schedule=schedule, beta_start=start, beta_end=end, num_train_timesteps=1000, **options
    )
    scheduler.set_timesteps((n + 1) // 2 if name in TWO_CALLS else n)
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).double().sqrt()
    exploding = float(scheduler.init_noise_sigma) > 2  # its state is y = x/α
    alpha_1 = 1 / math.hypot(1, problem.r_max)
    x = problem.y if exploding else alpha_1 * problem.y
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t).double()
        r = float(np.exp(np.interp(float(t), np.arange(1000), levels.log().numpy())))
        alpha = 1 / math.hypot(1, r)
        eps = (seen - alpha * denoised(problem, seen / alpha, r)) * math.hypot(1, r) / r
        x = scheduler.step(eps, t, x).prev_sample
    return x


def edm_peer(name: str, problem: Problem, n: int) -> Tensor:
    """One of diffusers' EDM schedulers on a problem in n calls; they take the raw output F of the network."""
    import diffusers

    kind, options = EDM_SCHEDULERS[name]
    scheduler = getattr(diffusers, f"{kind}Scheduler")(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, **options)
    scheduler.set_timesteps(n)
    x = problem.y
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        q = math.hypot(0.5, sigma)
        seen = scheduler.scale_model_input(x, t).double() * q
        inner = (denoised(problem, seen, max(sigma, 0.0020001)) - (0.5 / q) ** 2 * seen) / (0.5 * sigma / q)
        x = scheduler.step(inner, t, x).prev_sample
    return x


def attempt(solver: Solver, problem: Problem, n: int, end: Tensor) -> float | None:
    """The error, or None where the peer raises or its samples are not finite."""
    try:
        error = problems.error(problem, solver(problem, n), end)
    except Exception as failure:  # whatever a peer raises is a result
        print(f"  {problem.name}, {n} calls: {type(failure).__name__}: {failure}")
        return None
    return error if math.isfinite(error) else None


def peers() -> None:
    """solvers-peers: diffusers' schedulers on the six problems, after two known rows have come out again."""
    try:
        import diffusers as _  # noqa: F401
    except ImportError:
        print('diffusers is not installed and not measured: pip install "minidiff[interop]"')
        return
    six = [(problem, problems.solution(problem)) for problem in problems.six()]
    reproduce(*six[0])
    rows: dict[str, dict[str, list[float | None]]] = {}
    for problem, end in six:
        of_edm = problem.name.endswith("EDM")
        for name in EDM_SCHEDULERS if of_edm else SCHEDULERS:
            solver = functools.partial(edm_peer if of_edm else peer, name)
            row = [attempt(solver, problem, n, end) for n in BUDGETS]
            rows.setdefault(name, {})[problem.name] = row
            cells = "".join(f"{e:9.1e}" if e is not None else f"{'-':>9}" for e in row)
            print(f"diffusers {name:16} {problem.name:15}{cells}", flush=True)
    print("saved to", results.save("solvers-peers", {"budgets": BUDGETS, "errors": rows}, f"{COMMAND} peers"))


def reproduce(problem: Problem, end: Tensor) -> None:
    """Run the two known rows again. Raises RuntimeError if one is off by more than 5 % (the rows have two digits)."""
    for name, known in KNOWN.items():
        row = [problems.error(problem, peer(name, problem, n), end) for n in BUDGETS]
        print(f"diffusers {name}: " + " ".join(f"{e:.2e} (known {k:.1e})" for e, k in zip(row, known, strict=True)))
        off = max(abs(e / k - 1) for e, k in zip(row, known, strict=True))
        if off > 0.05:
            raise RuntimeError(f"diffusers {name} is off by {off:.1%} from its known row: the harness has changed")


# The network


def moved(D: DenoiserLike, x: Tensor, grid: Tensor) -> Tensor:
    """Noise from t = 1, scaled to the first time of a grid that starts below 1."""
    alpha, sigma = float(D.process.alpha(grid[0])), float(D.process.sigma(grid[0]))
    return x * math.hypot(alpha * D.sigma_data, sigma)


def two_m(D: DenoiserLike, x: Tensor, n: int, r_max: float = 80.0, r_min: float = 0.002) -> Tensor:
    """DPM-Solver++(2M) in equal steps of λ from r_max to r_min, then to 0."""
    grid = times.log_snr(D.process, n, r_max=r_max, r_min=r_min, zero=True)
    return last(dpmpp_2m(D, moved(D, x, grid), grid))


NETWORK: dict[str, Callable[[DenoiserLike, Tensor, int], Tensor]] = {
    "minidiff.sample": sample,
    "2M log-SNR, r 80 to 0.002": two_m,
    "2M log-SNR, r 20 to 0.002": functools.partial(two_m, r_max=20.0),
    "2M log-SNR, r 80 to 0.03": functools.partial(two_m, r_min=0.03),
    "2M log-SNR, r 20 to 0.03": functools.partial(two_m, r_max=20.0, r_min=0.03),
    "Euler in t": lambda D, x, n: last(euler(D, x, times.uniform(n))),
}
REFERENCE = 300  # steps of Heun's method
CALLS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 40)


@torch.no_grad()
def network(images: int = 60, seeds: Sequence[int] = (0, 1, 2), calls: Sequence[int] = CALLS) -> None:
    """solvers-network: path errors of the digits network, and Fréchet distances of 1797 samples from each seed."""
    D, judge = zoo.load("digits-unet"), zoo.load("digits-classifier")
    digits, labels = data.digits("all")
    given, x = D.given(torch.arange(images) % 10), D.process.prior((images, 1, 8, 8), torch.Generator().manual_seed(5))
    reference = last(heun(given, x, times.uniform(REFERENCE)))
    paths: dict[str, list[dict[str, float]]] = {}
    for name, method in NETWORK.items():
        for n in calls:
            each = path_error(method(given, x, n), reference, D.sigma_data)
            row = {"calls": n, "median": float(each.median()), "rms": float(each.square().mean().sqrt())}
            paths.setdefault(name, []).append(row)
        print(name, [round(row["median"], 4) for row in paths[name]], flush=True)
    given, features = D.given(labels), judge.features(digits).double()
    karras = times.karras(D.process, 18, zero=True)
    contenders = {
        **{f"minidiff.sample, {n} calls": functools.partial(sample, given, nfe=n) for n in (1, 2, 3, 5, 8)},
        **{f"Euler in t, {n} calls": lambda x, n=n: last(euler(given, x, times.uniform(n))) for n in (1, 2, 3)},
        **{f"2M log-SNR, {n} calls": functools.partial(two_m, given, n=n) for n in (5, 8)},
        "Heun on Karras's grid, 35 calls": lambda x: last(edm(given, moved(given, x, karras), karras)),
    }
    distances: dict[str, list[float]] = {}
    for name, method in contenders.items():
        for seed in seeds:
            x = D.process.prior(digits.shape, torch.Generator().manual_seed(seed))
            distance = float(frechet_distance(judge.features(method(x)).double(), features))
            distances.setdefault(name, []).append(distance)
            print(name, seed, round(distance, 3), flush=True)
    stored = {"images": images, "paths": paths, "distances": distances}
    print("saved to", results.save("solvers-network", stored, f"{COMMAND} network"))


STAGES = {"exact": exact, "peers": peers, "network": network}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or all of them. Raises ValueError for an unknown name."""
    torch.set_num_threads(1)
    run_stages(STAGES, argv)
