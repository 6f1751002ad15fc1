"""*Known deviations*: every statement of that page about diffusers, run with the version that is installed.

A test that fails after an upgrade says that the page has to be corrected.
"""

import importlib.metadata
import math
from functools import partial

import pytest
import torch
from processes import LINEAR_BETAS
from test_parity import BETAS, TRAILING, start, walk

from minidiff import times
from minidiff.bench import results
from minidiff.bench.orders import LAM, STEPS, has_order, mixture, reference
from minidiff.process import LinearVP, RectifiedFlow, Shifted, Tabulated
from minidiff.samplers import ddim, dpmpp_2m, exponential, last, unipc
from minidiff.samplers.phi import phi

diffusers = pytest.importorskip("diffusers")
F64 = torch.float64
CHAIN = Tabulated(LINEAR_BETAS)
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def made(name, steps, **options):
    scheduler = getattr(diffusers, name)(1000, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def test_the_version_that_the_page_names():
    assert importlib.metadata.version("diffusers").startswith("0.42.")


# ---- the third-order multistep update ------------------------------------------------------------------------------


def third_order_update(lam, i, outputs, x):
    """One call of the installed function, with σ = e^{−λ} handed over in float64."""
    scheduler = diffusers.DPMSolverMultistepScheduler(1000, solver_order=3)
    scheduler.set_timesteps(len(lam) - 1)
    scheduler.sigmas = (-lam).exp()
    scheduler._step_index = i
    return scheduler.multistep_dpm_solver_third_order_update(outputs, sample=x)


def test_the_second_difference_lacks_a_factor_2():
    """On D = λ² a step with exact weights is exact; theirs misses half of h φ_3(−h) h² D″ α_t."""
    lam = torch.tensor([-0.7, -0.2, 0.1, 0.5], dtype=F64)
    alpha, h = (1 + (-2 * lam).exp()).rsqrt(), 0.4
    x = torch.tensor([[0.3]], dtype=F64)
    theirs = third_order_update(lam, 2, [v.reshape(1, 1) for v in lam[:3] ** 2], x)
    z = torch.linspace(0, h, 20001, dtype=F64)
    integral = torch.trapezoid((z - h).exp() * (lam[2] + z) ** 2, z)
    exact = alpha[3] / alpha[2] * math.exp(-h) * x + alpha[3] * integral
    missing = alpha[3] * h * phi(3, -h) * h**2 * 2 / 2
    torch.testing.assert_close(exact - theirs, missing.reshape(1, 1), rtol=1e-6, atol=1e-9)


def test_at_few_calls_the_released_form_is_no_worse():
    """The stored runs of the book's digit network."""
    error = {
        (row["solver"], row["calls"]): row["path_error"] for row in results.load("solvers-digits")["data"]["table"]
    }
    for calls in (5, 6, 8, 10, 14, 20):
        assert error["DPM-Solver++(3M), released", calls] < error["DPM-Solver++(3M)", calls]


def test_its_order_is_2_with_an_exact_start():
    y, exact = reference()
    process = LinearVP()
    D, errors = mixture(process), []
    fine = partial(exponential, order=4, corrector=True)
    for n in STEPS[:3]:
        lam = torch.linspace(*LAM, n + 1, dtype=F64)
        T, alpha = process.time(lam), (1 + (-2 * lam).exp()).rsqrt()
        x, outputs = alpha[0] * y, []
        for i in range(n):
            outputs = [*outputs, D(x, T[i])][-3:]
            if i < 2:  # exact to rounding
                x = last(fine(D, x, process.time(torch.linspace(float(lam[i]), float(lam[i + 1]), 33, dtype=F64))))
            else:
                x = third_order_update(lam, i, outputs, x)
        errors.append(float((x / alpha[-1] - exact).norm(dim=1).median()))
    assert has_order(math.log2(errors[0] / errors[-1]) / 2, 2)
    assert math.log2(errors[0] / errors[-1]) / 2 < 2.2


# ---- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_bh1_is_not_a_number_at_zero(order):
    options = {**TRAILING, "solver_order": order, "solver_type": "bh1"}
    assert walk(made("UniPCMultistepScheduler", 10, final_sigmas_type="zero", **options), start())[-1].isnan().all()
    assert walk(made("UniPCMultistepScheduler", 10, final_sigmas_type="sigma_min", **options), start()).isfinite().all()
    ours = last(unipc(mixture(CHAIN), start(), times.trailing(10), order=order, variant="bh1"))
    assert ours.isfinite().all()


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "PNDMScheduler"])
def test_these_end_at_the_first_entry_of_the_table(name):
    """At σ = 0.01 instead of 0: the noise of the first step of the chain is left."""
    scheduler = made(name, 10, **TRAILING)
    if name == "PNDMScheduler":
        assert float(scheduler.final_alpha_cumprod) == pytest.approx(1 - 1e-4, rel=1e-6)
    else:
        assert float(scheduler.sigmas[-1]) == pytest.approx(0.01, rel=1e-3)


def test_the_first_entry_of_the_table_is_rounded():
    sigma = float(made("DEISMultistepScheduler", 10, **TRAILING).sigmas[-1])
    exact = math.sqrt(1e-4 / (1 - 1e-4))
    assert 1e-5 < abs(sigma / exact - 1) < 2e-4


@pytest.mark.parametrize(("steps", "lowered"), [(10, True), (14, True), (15, False), (20, False)])
def test_karras_sigma_min_and_order_3_is_not_a_number(steps, lowered):
    """The last σ stands twice; below 15 steps the default lowers the order at the end and hides it."""
    options = {**BETAS, "solver_order": 3, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
    scheduler = made("DPMSolverMultistepScheduler", steps, **options)
    assert scheduler.sigmas[-1] == scheduler.sigmas[-2]
    assert bool(walk(scheduler, start())[-1].isnan().any()) is not lowered
    always = made("DPMSolverMultistepScheduler", steps, lower_order_final=False, **options)
    assert walk(always, start())[-1].isnan().any()


def test_ddpm_with_forward_variance_adds_noise_to_the_last_step():
    shared = torch.Generator().manual_seed(0)
    scheduler = made("DDPMScheduler", 20, **TRAILING, clip_sample=False, variance_type="fixed_large")
    states = walk(scheduler, start(), shared)
    k = scheduler.timesteps[-1]
    predicted = mixture(CHAIN)(states[-2], (k.double() + 1) / 1000)
    left = float((states[-1] - predicted).std())
    beta = 1 - float(CHAIN.alpha(torch.tensor(0.05, dtype=F64))) ** 2
    assert left == pytest.approx(math.sqrt(beta), rel=0.5)
    assert left > 0.05
    leading = made("DDPMScheduler", 20, **BETAS, clip_sample=False, variance_type="fixed_large")
    assert int(leading.timesteps[-1]) == 0
    states = walk(leading, start(), torch.Generator().manual_seed(0))
    assert float((states[-1] - mixture(CHAIN)(states[-2], torch.tensor(1e-3, dtype=F64))).abs().max()) < 1e-3
    small = made("DDPMScheduler", 20, **TRAILING, clip_sample=False, variance_type="fixed_small")
    states = walk(small, start(), torch.Generator().manual_seed(0))
    assert float((states[-1] - mixture(CHAIN)(states[-2], (k.double() + 1) / 1000)).abs().max()) < 1e-4


def test_ddpm_fixed_large_log_is_not_a_number():
    scheduler = made("DDPMScheduler", 10, **BETAS, clip_sample=False, variance_type="fixed_large_log")
    assert walk(scheduler, start(), torch.Generator().manual_seed(0))[-1].isnan().all()


# ---- grids ---------------------------------------------------------------------------------------------------------


def wrong_steps(spacing, steps):
    """How many of DDIM's steps do not lead to the next timestep, read off what a step without noise scales x by."""
    scheduler = made("DDIMScheduler", steps, **BETAS, timestep_spacing=spacing, clip_sample=False)
    alpha2, one = scheduler.alphas_cumprod.double(), torch.ones(1, 1, dtype=F64)
    wrong = 0
    for k, following in zip(scheduler.timesteps, scheduler.timesteps[1:], strict=False):
        scaled = float(scheduler.step(0 * one, k, one).prev_sample) ** 2 * float(alpha2[k])
        wrong += int((alpha2 - scaled).abs().argmin()) != int(following)
    return wrong


WRONG = {("leading", 10): 0, ("leading", 13): 0, ("trailing", 10): 0, ("trailing", 13): 11}
WRONG |= {("linspace", 10): 9, ("linspace", 13): 12, ("linspace", 20): 19}


@pytest.mark.parametrize("spacing_and_steps", WRONG)
def test_ddim_steps_to_another_time_than_the_next(spacing_and_steps):
    assert wrong_steps(*spacing_and_steps) == WRONG[spacing_and_steps]


def test_what_the_wrong_steps_of_ddim_cost():
    """The same timesteps with steps from one to the next: the ends differ by a few hundredths of the data's scale."""
    scheduler = made("DDIMScheduler", 10, **BETAS, timestep_spacing="linspace", clip_sample=False)
    T = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.zeros(1, dtype=F64)])
    x = start(200)
    apart = (walk(scheduler, x)[-1] - last(ddim(mixture(CHAIN), x, T))).square().mean().sqrt()
    assert 0.03 < float(apart) / mixture(CHAIN).sigma_data < 0.1


def exactly(x, s, t, steps=1000):
    """The exact denoiser's flow from s to t > 0."""
    lam = torch.linspace(*CHAIN.lam(torch.stack([s, t])).tolist(), steps + 1, dtype=F64)
    T = torch.cat([s[None], CHAIN.time(lam[1:-1]), t[None]])
    return last(exponential(mixture(CHAIN), x, T, order=4, variable="cos"))


@pytest.mark.parametrize(("name", "order"), [("DPMSolverMultistep", 2), ("UniPCMultistep", 2)])
def test_on_the_default_grid_the_last_interval_decides(name, order):
    """From 10 to 40 steps the error at σ = 0 falls like 1/N, and the last step alone, taken from the exact state at its
    start, makes more than two thirds of it."""
    D, x, one = mixture(CHAIN), start(64), torch.ones((), dtype=F64)
    end = torch.tensor(1e-9, dtype=F64)
    exact = exactly(x, one, end)
    errors = []
    for steps in (10, 20, 40):
        scheduler = made(f"{name}Scheduler", steps, **BETAS, solver_order=order)
        errors.append(float((walk(scheduler, x)[-1] - exact).norm(dim=1).median()))
        t = (scheduler.timesteps[-1].double() + 1) / 1000
        alone = float((D(exactly(x, one, t), t) - exact).norm(dim=1).median())
        assert alone > 2 / 3 * errors[-1]
    assert 0.7 < math.log2(errors[0] / errors[-1]) / 2 < 1.3


@pytest.mark.parametrize(
    ("name", "steps", "repeated"),
    [
        ("DPMSolverMultistep", 10, 3),
        ("DPMSolverMultistep", 20, 8),
        ("UniPCMultistep", 20, 8),
    ],
)
def test_karras_sigmas_on_the_cosine_chain_repeat_timesteps(name, steps, repeated):
    scheduler = made(f"{name}Scheduler", steps, beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True)
    assert len(scheduler.timesteps) - len(set(scheduler.timesteps.tolist())) == repeated
    with pytest.raises((IndexError, AssertionError)):
        for k in scheduler.timesteps:
            scheduler.step(torch.zeros(1, 2), k, torch.zeros(1, 2))


def test_the_shift_of_flow_matching_is_applied_twice():
    scheduler = made("FlowMatchEulerDiscreteScheduler", 10, shift=3.0)
    once = Shifted(RectifiedFlow(), 3.0).sigma(torch.tensor(1e-3, dtype=F64))
    twice = Shifted(RectifiedFlow(), 3.0).sigma(once)
    assert scheduler.sigma_min == pytest.approx(float(once), rel=1e-5)
    assert float(scheduler.sigmas[-2]) == pytest.approx(float(twice), rel=1e-5)
    assert (round(float(once), 4), round(float(twice), 4)) == (0.0030, 0.0089)


def test_as_many_steps_as_the_chain_and_an_offset():
    for name in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"):
        scheduler = made(name, 1000, **BETAS, steps_offset=1, timestep_spacing="leading")
        assert int(scheduler.timesteps[0]) == 1000
        with pytest.raises(IndexError, match="1000"):
            scheduler.step(torch.zeros(1, 2), scheduler.timesteps[0], torch.zeros(1, 2))


def test_the_first_noise_of_euler_depends_on_the_spacing():
    first = {
        spacing: float(made("EulerDiscreteScheduler", 10, **BETAS, timestep_spacing=spacing).init_noise_sigma)
        for spacing in ("linspace", "trailing", "leading")
    }
    assert {spacing: round(sigma, 1) for spacing, sigma in first.items()} == {
        "linspace": 157.4,
        "trailing": 157.4,
        "leading": 60.8,
    }


# ---- use -----------------------------------------------------------------------------------------------------------


def test_a_second_run_needs_its_times_set_again():
    scheduler = made("DPMSolverMultistepScheduler", 5, **TRAILING)
    walk(scheduler, start())
    with pytest.raises(IndexError):
        walk(scheduler, start())
    D, T = mixture(CHAIN), times.trailing(5)
    assert torch.equal(*(last(dpmpp_2m(D, start(), T)) for _ in range(2)))


def test_plms_asks_once_more_than_its_steps():
    scheduler = made("PNDMScheduler", 10, **TRAILING, skip_prk_steps=True)
    assert len(scheduler.timesteps) == 11
    assert int(scheduler.timesteps[1]) == int(scheduler.timesteps[2])
