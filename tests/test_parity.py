"""Our samplers against those of the installed diffusers, wherever the two conventions describe the same computation.

Where they do not, *Known deviations* says why, and `test_deviations.py` measures by how much. Both sides call one exact
denoiser in float64. diffusers keeps its tables of ᾱ and σ in float32, which bounds the agreement: hence the tolerances.
"""

from functools import partial

import pytest
import torch
from processes import LINEAR_BETAS

from minidiff import times
from minidiff.bench.orders import mixture
from minidiff.process import EDM, RectifiedFlow, Shifted, Tabulated
from minidiff.samplers import (
    ancestral,
    ddim,
    deis,
    dpmpp_2m,
    dpmpp_3m,
    euler,
    exponential,
    heun,
    last,
    path,
    pndm,
    unipc,
)

diffusers = pytest.importorskip("diffusers")
F64 = torch.float64
CHAIN = Tabulated(LINEAR_BETAS)
BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
TRAILING = {**BETAS, "timestep_spacing": "trailing"}
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def start(n=8, scale=1.0):
    return scale * torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=F64)


def predicted_noise(D, x, t):
    return (x - D.process.alpha(t) * D(x, t)) / D.process.sigma(t)


def walk(scheduler, x, generator=None):
    """x after each step of a scheduler that predicts ε on the discrete chain."""
    D, states = mixture(CHAIN), [x]
    noisy = {} if generator is None else {"generator": generator}
    for k in scheduler.timesteps:
        eps = predicted_noise(D, x, (k.double() + 1) / 1000)
        x = scheduler.step(eps, k, x, **noisy).prev_sample
        states.append(x)
    return torch.stack(states)


ZERO, TABLE = {"final_sigmas_type": "zero"}, {"final_sigmas_type": "sigma_min"}
UNLOWERED = {"lower_order_final": False}
ramped_deis = partial(deis, variable="lam", collocate=False)
ON_THE_CHAIN = {  # scheduler, its options, ours, and the step of the table where it ends
    "DDIM": ("DDIMScheduler", {"clip_sample": False}, ddim, 0),
    "DPM-Solver++(1)": ("DPMSolverMultistepScheduler", {"solver_order": 1, **ZERO}, ddim, 0),
    "DPM-Solver++(2M)": ("DPMSolverMultistepScheduler", {"solver_order": 2, **ZERO}, dpmpp_2m, 0),
    "DPM-Solver++(3M), as released": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, **ZERO, **UNLOWERED, "euler_at_final": True},
        partial(dpmpp_3m, second_difference="released", collocate=False),
        0,
    ),
    "UniPC-1, bh2": ("UniPCMultistepScheduler", {"solver_order": 1, **ZERO}, partial(unipc, order=1), 0),
    "UniPC-2, bh2": ("UniPCMultistepScheduler", {"solver_order": 2, **ZERO}, unipc, 0),
    "UniPC-2, bh1": (
        "UniPCMultistepScheduler",
        {"solver_order": 2, "solver_type": "bh1", **TABLE, **UNLOWERED},
        partial(unipc, variant="bh1"),
        1,
    ),
    "UniPC-3, bh2": (
        "UniPCMultistepScheduler",
        {"solver_order": 3, **TABLE, **UNLOWERED},
        partial(unipc, order=3),
        1,
    ),
    "UniP-2, bh2": (
        "UniPCMultistepScheduler",
        {"solver_order": 2, "disable_corrector": list(range(100)), **ZERO},
        partial(unipc, corrector=False),
        0,
    ),
    "DEIS-1": ("DEISMultistepScheduler", {"solver_order": 1}, partial(ramped_deis, order=1), 1),
    "DEIS-2": ("DEISMultistepScheduler", {"solver_order": 2, **UNLOWERED}, partial(ramped_deis, order=2), 1),
    "DEIS-3": ("DEISMultistepScheduler", {"solver_order": 3, **UNLOWERED}, partial(ramped_deis, order=3), 1),
}


@pytest.mark.parametrize("name", ON_THE_CHAIN)
@pytest.mark.parametrize("steps", [10, 20])
def test_on_the_chain(name, steps):
    """Trailing spacing with N dividing T, where every σ is an entry of its table.

    The last step is compared apart: the first entry of the float32 table is off by a relative 1.3e-4.
    """
    scheduler, options, ours, end = ON_THE_CHAIN[name]
    theirs = getattr(diffusers, scheduler)(1000, **TRAILING, **options)
    theirs.set_timesteps(steps)
    states, D, T = walk(theirs, start()), mixture(CHAIN), times.trailing(steps)
    T[-1] = end / 1000
    close(last(ours(D, start(), T[:-1])), states[-2])
    close(last(ours(D, start(), T)), states[-1], 1e-4 if end else 1e-5)


class Shared:
    """Both sides draw the same noise: ours from one generator, theirs from another with the same seed."""

    def __init__(self):
        self.ours, self.theirs = (torch.Generator().manual_seed(11) for _ in range(2))


@pytest.mark.parametrize(("name", "variance"), [("fixed_small", "posterior"), ("fixed_large", "forward")])
def test_ddpm(name, variance):
    shared = Shared()
    theirs = diffusers.DDPMScheduler(1000, **TRAILING, clip_sample=False, variance_type=name)
    theirs.set_timesteps(20)
    states = walk(theirs, start(), shared.theirs)
    ours = path(ancestral(mixture(CHAIN), start(), times.trailing(20), variance=variance, generator=shared.ours))
    end = -1 if name == "fixed_large" else None  # with β it adds noise in its last step too: *Known deviations*
    close(ours[:end], states[:end])


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta):
    shared, D, x = Shared(), mixture(CHAIN), start()
    theirs = diffusers.DDIMScheduler(1000, **TRAILING, clip_sample=False)
    theirs.set_timesteps(20)
    for k in theirs.timesteps:
        eps = predicted_noise(D, x, (k.double() + 1) / 1000)
        x = theirs.step(eps, k, x, eta=eta, generator=shared.theirs).prev_sample
    close(last(ddim(D, start(), times.trailing(20), eta=eta, generator=shared.ours)), x)


# ---- α = 1 ---------------------------------------------------------------------------------------------------------


def on_sigmas(scheduler, steps):
    """A scheduler in k-diffusion's coordinates from y at its first σ, and our α = 1 process with its σ as times."""
    scheduler.set_timesteps(steps)
    D = mixture(EDM(sigma_min=1e-9, sigma_max=200.0, rho=1.0))
    y = begin = start(scale=float(scheduler.sigmas[0]))
    for k in scheduler.timesteps:
        sigma = scheduler.sigmas[scheduler.step_index or 0].double()
        scheduler.scale_model_input(y, k)
        t = D.process.time(-sigma.log())
        y = scheduler.step((y - D(y, t)) / sigma, k, y).prev_sample
    return D, begin, y


def at(D, sigmas):
    T = D.process.time(-sigmas.double().log()).clamp(0, 1)
    return T


def finite(scheduler):
    """Distinct positive σ; the final 0 is our process's σ_min of 10⁻⁹."""
    sigmas = scheduler.sigmas.double().unique().flip(0)
    return sigmas.clamp(min=1e-9)


def test_euler_in_sigma_is_ddim_and_euler():
    theirs = diffusers.EulerDiscreteScheduler(1000, **TRAILING)
    D, y, end = on_sigmas(theirs, 20)
    T = at(D, finite(theirs))
    close(last(euler(D, y, T)), end)
    close(last(ddim(D, y, T)), end)


def test_heun_in_sigma():
    theirs = diffusers.HeunDiscreteScheduler(1000, **TRAILING)
    D, y, end = on_sigmas(theirs, 20)
    T = at(D, finite(theirs))
    # Its last step is Euler's; ours, which ends at σ = 10⁻⁹ > 0, would ask D there.
    before = last(heun(D, y, T[:-1]))
    close(last(euler(D, before, T[-2:])), end)


def test_linear_multistep_is_rho_adams_bashforth():
    theirs = diffusers.LMSDiscreteScheduler(1000, **TRAILING)
    D, y, end = on_sigmas(theirs, 20)
    close(last(deis(D, y, at(D, finite(theirs)), order=4, variable="r", collocate=False)), end)


def edm_walk(scheduler, steps):
    """EDM's schedulers precondition by themselves: they are handed F = (D − c_skip y)/c_out."""
    scheduler.set_timesteps(steps)
    D = mixture(EDM(sigma_min=1e-9, sigma_max=200.0, rho=1.0))
    y = begin = start(scale=80.0)
    s = scheduler.config.sigma_data
    for k in scheduler.timesteps:
        sigma = scheduler.sigmas[scheduler.step_index or 0].double()
        scheduler.scale_model_input(y, k)
        q = sigma**2 + s**2
        F = (D(y, D.process.time(-sigma.log())) - s**2 / q * y) / (sigma * s / q.sqrt())
        y = scheduler.step(F, k, y).prev_sample
    return D, begin, y


def test_edm_euler():
    theirs = diffusers.EDMEulerScheduler()
    D, y, end = edm_walk(theirs, 18)
    close(last(ddim(D, y, at(D, finite(theirs)))), end)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_edm_dpm_solver(order):
    theirs = diffusers.EDMDPMSolverMultistepScheduler(solver_order=order, euler_at_final=True, lower_order_final=False)
    D, y, end = edm_walk(theirs, 18)
    T = at(D, finite(theirs))
    method = {1: ddim, 2: dpmpp_2m, 3: partial(dpmpp_3m, second_difference="released", collocate=False)}[order]
    close(last(ddim(D, last(method(D, y, T[:-1])), T[-2:])), end)  # its last step is Euler's, which is DDIM


# ---- flow matching -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler(shift):
    """Its σ handed over, so that its own shift is applied once; its velocity is dx/dσ = ε − x_0, ours dx/dt."""
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(1000, shift=shift)
    grid = torch.linspace(1, 0, 21, dtype=F64)
    theirs.set_timesteps(sigmas=grid[:-1].tolist())
    D, x = mixture(RectifiedFlow()), start()
    for k, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
        t = sigma.double()
        x = theirs.step((x - D(x, t)) / t, k, x).prev_sample.double()
    T = Shifted(RectifiedFlow(), shift).sigma(grid)
    close(last(euler(D, start(), T)), x)


# ---- PLMS: the same formula, another start --------------------------------------------------------------------------


def test_plms_after_its_start():
    """Its first step averages two calls; from then on each step is ours, given the ε̂ that it kept."""
    theirs = diffusers.PNDMScheduler(1000, **TRAILING, skip_prk_steps=True)
    theirs.set_timesteps(20)
    D, x, kept, compared = mixture(CHAIN), start(), [], 0
    weights = ((3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    for n, k in enumerate(theirs.timesteps):
        t = (k.double() + 1) / 1000
        eps = predicted_noise(D, x, t)
        if n != 1:
            kept = [eps, *kept][:4]
        before, x = x, theirs.step(eps, k, x).prev_sample
        if n >= 2:
            s = (t - 1 / 20).clamp(min=1 / 1000)  # like DEIS it ends at the first entry of its table
            b = weights[len(kept) - 2]
            mean = sum(w * value for w, value in zip(b, kept, strict=True))
            a = CHAIN.alpha(s) / CHAIN.alpha(t)
            close(a * before + (CHAIN.sigma(s) - a * CHAIN.sigma(t)) * mean, x)
            compared += 1
    assert compared == 19
    assert len(theirs.timesteps) == 21  # one call more than ours
    assert float((last(pndm(mixture(CHAIN), start(), times.trailing(20))) - x).abs().max()) > 1e-4


def test_what_is_compared_differs():
    """So that the comparisons above can fail: exact weights, a collocated start, another η."""
    D, x, T = mixture(CHAIN), start(), times.trailing(10)
    ends = torch.stack([last(m(D, x, T)) for m in (ddim, dpmpp_2m, unipc, exponential, partial(dpmpp_3m))])
    apart = (ends[:, None] - ends[None]).abs().amax((2, 3)) + torch.eye(len(ends))
    assert apart.min() > 1e-3
