"""The fast solvers on the digit network: distance to its own exact solution at 5 to 20 calls (2 CPU-minutes).

python -m minidiff.bench solvers

One noise and one label for each of 100 images, EDM's grid (ρ = 7) from r = 80 to r = 0.02, path errors there against a
run of 200 calls of the fourth order. Multistep methods start with a ramp, so that N calls are N steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from minidiff import data, times, zoo
from minidiff.bench import results
from minidiff.denoiser import DenoiserLike
from minidiff.metrics import path_error
from minidiff.noise import standard_normal
from minidiff.samplers import ddim, deis, dpm_solver, dpmpp_2m, dpmpp_3m, exponential, last, pndm, unipc
from minidiff.samplers.catalogue import Sampler
from minidiff.train import device

CALLS = (5, 6, 8, 10, 14, 20)
IMAGES = 100
RANGE = {"r_max": 80.0, "r_min": 0.02}
REFERENCE_CALLS = 200
SOLVERS: dict[str, tuple[Sampler, int]] = {  # and the calls a step
    "DDIM": (ddim, 1),
    "DPM-Solver-2": (dpm_solver, 2),
    "DPM-Solver++(2S)": (partial(dpm_solver, quantity="x0"), 2),
    "PLMS-4": (pndm, 1),
    "DEIS tAB-3": (partial(deis, order=3, collocate=False), 1),
    "DEIS ρAB-3": (partial(deis, order=3, variable="r", collocate=False), 1),
    "DPM-Solver++(2M)": (dpmpp_2m, 1),
    "DPM-Solver++(3M), released": (partial(dpmpp_3m, second_difference="released", collocate=False), 1),
    "DPM-Solver++(3M)": (partial(dpmpp_3m, collocate=False), 1),
    "UniPC-2": (unipc, 1),
    "UniPC-3": (partial(unipc, order=3), 1),
    "exponential(3), cos θ, corrected": (
        partial(exponential, order=3, variable="cos", corrector=True, collocate=False),
        1,
    ),
}


def starts(D: DenoiserLike) -> Tensor:
    """x (100, 1, 8, 8) at the first time of the grid: noise of its σ."""
    sigma = float(D.process.sigma(times.karras(D.process, 1, **RANGE)[0]))
    return sigma * standard_normal((IMAGES, 1, 8, 8), torch.Generator().manual_seed(40)).to(device())


def main(argv: Sequence[str]) -> None:
    """Measure and store `book/results/solvers-digits.json`. Raises ValueError for any argument."""
    if argv:
        raise ValueError(f"no arguments are known, got {list(argv)}")
    labels = data.digits("test")[1][:IMAGES].to(device())
    D = zoo.load("digits-unet").to(device()).given(labels)
    with torch.no_grad():
        rows = measured(D, starts(D))
    stored = {"images": IMAGES, "range": RANGE, "reference_calls": REFERENCE_CALLS, "table": rows}
    results.save("solvers-digits", stored, "python -m minidiff.bench solvers")


def measured(D: DenoiserLike, x: Tensor) -> list[dict[str, object]]:
    """A row for each solver and number of calls that it divides: the median path error."""
    fine = times.karras(D.process, REFERENCE_CALLS, **RANGE)
    exact = last(exponential(D, x, fine, order=4, variable="cos", corrector=True, collocate=False))
    rows = []
    for name, (method, a_step) in SOLVERS.items():
        for calls in CALLS:
            if calls % a_step == 0:
                made = last(method(D, x, times.karras(D.process, calls // a_step, **RANGE)))
                error = float(path_error(made, exact, D.sigma_data).median())
                rows.append({"solver": name, "calls": calls, "path_error": error})
                print(rows[-1], flush=True)
    return rows
