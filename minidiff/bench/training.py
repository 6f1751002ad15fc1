"""A training step at equal blocks: ours, diffusers' UNet2DModel and smalldiffusion's U-Net, CPU time on one thread.

The twin: `UNet()` as it comes (channels 32, multipliers (1, 2), one block, attention at 4×4) against
UNet2DModel(block_out_channels=(32, 64), layers_per_block=1) with attention at the lower level, and Unet(ch=32,
ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,)): all have one block a level on the way down, two on the way up,
and block, attention, block in the middle. Each library makes its own step: ours is `fit` on `denoising_loss`;
diffusers' is that of its unconditional example (add noise, mean squared error, clip, AdamW, learning-rate schedule);
smalldiffusion's is its `training_loop`. The steps are interleaved (A B C A B C …), so that other work on the machine
meets all alike, and the median is taken over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff import data, train
from minidiff.bench import results
from minidiff.denoiser import Denoiser
from minidiff.nets import UNet
from minidiff.objectives import denoising_loss
from minidiff.process import LinearVP
from minidiff.times import uniform_density

ENDLESS = 10**6
COMMAND = "python -m minidiff.bench training --save"


class Contender(NamedTuple):
    """A library: its network, one call of it on a batch (for counting), and its endless stream of training steps."""

    net: nn.Module
    forward: Callable[[Tensor], Tensor]
    steps: Iterator[Any]


def ours(images: Tensor, batch: int) -> Contender:
    """`fit` on the simple loss of ε under the linear VP process."""
    net = UNet(images.shape[1], images.shape[-1])
    denoiser = Denoiser(net, LinearVP())
    batches = train.noised(data.batches(images, batch_size=batch, seed=0), uniform_density(1e-3), seed=1)
    steps = train.fit(partial(denoising_loss, denoiser), net.parameters(), batches, steps=ENDLESS, lr=1e-4, warmup=500)
    return Contender(net, lambda x: net(x, torch.full((len(x),), 0.5)), steps)


def diffusers(images: Tensor, batch: int) -> Contender:
    """The step of diffusers' unconditional training example with its default settings, without its EMA."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler

    net = UNet2DModel(
        sample_size=images.shape[-1],
        in_channels=images.shape[1],
        out_channels=images.shape[1],
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    noise_scheduler, accelerator = DDPMScheduler(1000), Accelerator()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=ENDLESS)

    def steps() -> Iterator[float]:
        for (x0,) in data.batches(images, batch_size=batch, seed=0):
            noise = torch.randn_like(x0)
            timesteps = torch.randint(0, 1000, (len(x0),))
            noisy = noise_scheduler.add_noise(x0, noise, timesteps)
            loss = F.mse_loss(net(noisy, timesteps).sample, noise)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
            yield loss.detach().item()

    return Contender(net, lambda x: net(x, torch.full((len(x),), 500)).sample, steps())


def smalldiffusion(images: Tensor, batch: int) -> Contender:
    """smalldiffusion's own training loop, its constant learning rate and no clipping included."""
    from torch.utils.data import DataLoader

    with _without_torchvision():
        from smalldiffusion import ScheduleDDPM, Unet, training_loop

    net = Unet(
        images.shape[-1],
        images.shape[1],
        images.shape[1],
        ch=32,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_resolutions=(4,),
        dropout=0.0,
    )
    loader = DataLoader(images, batch_size=batch, shuffle=True, drop_last=True)
    steps = training_loop(loader, net, ScheduleDDPM(), lr=1e-4)
    return Contender(net, lambda x: net(x, torch.ones(len(x), 1, 1, 1)), steps)


@contextlib.contextmanager
def _without_torchvision() -> Iterator[None]:
    """smalldiffusion imports torchvision to load pictures, which nothing here does: where it is missing, a stand-in."""
    missing = importlib.util.find_spec("torchvision") is None
    if missing:
        sys.modules["torchvision"] = MagicMock()
    try:
        yield
    finally:
        if missing:
            del sys.modules["torchvision"]


CONTENDERS = {"minidiff": ours, "diffusers": diffusers, "smalldiffusion": smalldiffusion}
MISSING = {
    "diffusers": 'not installed: pip install "minidiff[interop]"',
    "smalldiffusion": "not installed: pip install --no-deps smalldiffusion",
}


def measure(rounds: int, steps: int, batch: int) -> dict[str, dict[str, float]]:
    """For each installed library: parameters, forward GFLOP a batch, CPU ms a step by round, and their median."""
    from torch.utils.flop_counter import FlopCounterMode

    images, _ = data.digits("train")
    contenders, table = {}, {}
    for name, build in CONTENDERS.items():
        try:
            with train.seeded(0):
                contender = build(images, batch)
        except ImportError as error:
            print(f"{name}: {MISSING.get(name, '')} ({error})")
            continue
        with FlopCounterMode(display=False) as counter:
            contender.forward(images[:batch])
        parameters = sum(p.numel() for p in contender.net.parameters())
        contenders[name] = contender.steps
        table[name] = {"parameters": parameters, "forward GFLOP": counter.get_total_flops() / 1e9, "rounds": []}
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # progress bars
        for name in contenders:  # warm up
            _advance(contenders[name], 2)
        for _ in range(rounds):
            for name, stream in contenders.items():
                table[name]["rounds"].append(1e3 * _advance(stream, steps))
    for row in table.values():
        row["ms"] = statistics.median(row["rounds"])
    return table


def _advance(stream: Iterator[Any], steps: int) -> float:
    """CPU seconds a step."""
    begin = time.process_time()
    for _ in range(steps):
        next(stream)
    return (time.process_time() - begin) / steps


def main(argv: Sequence[str]) -> None:
    """Measure and print the table; --save keeps it as `book/results/training.json`."""
    parser = argparse.ArgumentParser(prog="python -m minidiff.bench training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps of each library in a round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--save", action="store_true")
    chosen = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        table = measure(chosen.rounds, chosen.steps, chosen.batch)
    finally:
        torch.set_num_threads(threads)
    own = table["minidiff"]
    print(f"1×8×8, batch {chosen.batch:<7} {'parameters':>10} {'fwd GFLOP':>10} {'CPU ms/step':>12}   ours / this")
    for name, row in table.items():
        against = "  ".join(
            f"{label} {own[key] / row[key]:.3f}"
            for label, key in (("time", "ms"), ("parameters", "parameters"), ("FLOP", "forward GFLOP"))
        )
        row["ours / this"] = own["ms"] / row["ms"]
        print(f"{name:<20} {row['parameters']:>10} {row['forward GFLOP']:>10.3f} {row['ms']:>12.1f}   {against}")
    if chosen.save:
        print(results.save("training", {"batch": chosen.batch, "libraries": table}, COMMAND))
