"""What a sampler costs beside its network: CPU microseconds a call of a trivial denoiser, one thread, set-up apart.

50 steps on the log-SNR grid; D returns a tensor that is already there. Every method, ours and diffusers' where it is
installed, runs once in each round, so that other work on the machine meets all alike; the median is taken over rounds.
The time of the noise a stochastic method draws is measured beside it and subtracted in the last column.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from minidiff import samplers, times
from minidiff.bench import results
from minidiff.denoiser import Denoiser
from minidiff.process import LinearVP

STEPS = 50
SHAPES = ((1, 2), (64, 3, 32, 32))
COMMAND = "python -m minidiff.bench overhead --save"
Run = Callable[[Tensor], tuple[Iterator[object], int]]  # x -> the states to consume, and the calls of D in them


class Trivial:
    """D(x, t) = a tensor that is already there."""

    process, sigma_data, coupled = LinearVP(), 1.0, False

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The stored answer."""
        return self.answer


class Echo(nn.Module):
    """The network that returns its input: what `Denoiser.forward` adds to it is the algebra."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x."""
        return x


def ours(method: Callable[..., Iterator[samplers.State]], calls: int, x: Tensor) -> tuple[Iterator[object], int]:
    """One of our samplers, its coefficients computed and its first state taken."""
    states = method(Trivial(torch.zeros_like(x)), x, times.log_snr(LinearVP(), STEPS))
    next(states)
    return states, calls


def diffusers(name: str, options: dict[str, object], x: Tensor) -> tuple[Iterator[object], int]:
    """The loop a user of diffusers writes: scale the input, step; `set_timesteps` counted as set-up."""
    import diffusers as library

    scheduler = getattr(library, name)(**options)
    scheduler.set_timesteps(STEPS)
    answer = torch.zeros_like(x)

    def loop(x: Tensor) -> Iterator[Tensor]:
        for t in scheduler.timesteps:
            scheduler.scale_model_input(x, t)
            x = scheduler.step(answer, t, x).prev_sample
            yield x

    return loop(x), len(scheduler.timesteps)


def forward(predicts: str, x: Tensor) -> tuple[Iterator[object], int]:
    """`Denoiser.forward` around a network that does nothing, at the times of a grid."""
    D = Denoiser(Echo(), LinearVP(), predicts)
    grid = times.log_snr(LinearVP(), STEPS).unbind()[:-1]
    for t in grid:
        D(x, t)
    return (D(x, t) for t in grid), STEPS


def contenders() -> dict[str, Run]:
    """Every method by name; diffusers' are left out where it is not installed."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Run] = {
        "minidiff ddim": partial(ours, samplers.ddim, STEPS),
        "minidiff euler": partial(ours, samplers.euler, STEPS),
        "minidiff heun": partial(ours, samplers.heun, 2 * STEPS),
        **{
            f"minidiff exponential order {k}": partial(ours, partial(samplers.exponential, order=k), STEPS)
            for k in (1, 2, 3, 4)
        },
        "minidiff exponential order 3 corrected": partial(
            ours, partial(samplers.exponential, order=3, corrector=True), STEPS
        ),
        "minidiff sample": partial(  # its method; the grid does not change the cost of a step
            ours,
            partial(samplers.exponential, order=4, variable="cos", corrector=True, collocate=False),
            STEPS,
        ),
        "minidiff ancestral": partial(ours, partial(samplers.ancestral, generator=generator), STEPS),
        "minidiff ddim eta 1": partial(ours, partial(samplers.ddim, eta=1.0, generator=generator), STEPS),
        **{f"Denoiser.forward, {name}": partial(forward, name) for name in ("x0", "eps", "v", "velocity", "edm")},
        "torch.randn": lambda x: ((torch.randn(x.shape, generator=generator) for _ in range(STEPS)), STEPS),
    }
    try:
        import diffusers as _  # noqa: F401
    except ImportError:
        print('diffusers is not installed and not measured: pip install "minidiff[interop]"')
        return found
    for name in ("DDIM", "DDPM", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep"):
        found[f"diffusers {name}"] = partial(diffusers, f"{name}Scheduler", {})
    return found


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Median CPU microseconds a call, {contender: {shape: value}}, all contenders once in each of `rounds` rounds."""
    found = contenders()
    samples: dict[tuple[str, str], list[float]] = {}
    for shape in SHAPES:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        label = "x".join(map(str, shape))
        for _ in range(rounds):
            for name, run in found.items():
                states, calls = run(x)
                start = time.process_time()
                for _state in states:
                    pass
                samples.setdefault((name, label), []).append((time.process_time() - start) / calls * 1e6)
    table: dict[str, dict[str, float]] = {name: {} for name in found}
    for (name, label), values in samples.items():
        table[name][label] = round(statistics.median(values), 1)
    return table


def main(argv: Sequence[str]) -> None:
    """Print the table; --save stores it under book/results, --rounds N (default 21) sets how often all are run."""
    parser = argparse.ArgumentParser(prog="python -m minidiff.bench overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with torch.no_grad():
        table = measure(arguments.rounds)
    noise = table["torch.randn"]
    print(f"{'CPU microseconds a call':<40}" + "".join(f"{label:>14}" for label in noise) + f"{'less noise':>14}")
    stochastic = ("ancestral", "eta 1", "DDPM")
    for name, row in table.items():
        largest = list(row)[-1]
        net = f"{row[largest] - noise[largest]:14.1f}" if name.endswith(stochastic) else ""
        print(f"{name:<40}" + "".join(f"{value:14.1f}" for value in row.values()) + net)
    if arguments.save:
        print("saved to", results.save("overhead", table, COMMAND))
