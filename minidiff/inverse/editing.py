"""SDEdit and purification: a given image is noised part of the way and drawn again from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.denoiser import DenoiserLike
from minidiff.noise import Generators
from minidiff.process import Process
from minidiff.samplers.posterior import ancestral
from minidiff.samplers.state import State, last
from minidiff.samplers.truncation import late_start
from minidiff.times import check_times

Method = Callable[[DenoiserLike, Tensor, Tensor], Iterator[State]]


def sdedit(
    D: DenoiserLike, guide: Tensor, times: Tensor, *, method: Method | None = None, generator: Generators = None
) -> Tensor:
    """An image like `guide` and like the data: noise to times[0] by `late_start`, then a sampler (Meng et al. 2022).

    Low times[0] keeps the guide, high times[0] trusts the prior. With an exact reverse process the result is a draw
    from p(x_0 | x_t); on N(0, v) data its mean given the guide g is ϱ g with ϱ = α² v/(α² v + σ²), its variance
    v (1 − ϱ²). With an attacked image as guide and repeated draws this is diffusion purification (Nie et al. 2022).

    guide: (B, *D); method(D, x, times): default `ancestral` with the same generator. One call of D a step. Raises what
    `late_start` and the method raise.
    """
    check_times(times)
    x = late_start(D, guide, float(times[0]), generator)
    states = ancestral(D, x, times, generator=generator) if method is None else method(D, x, times)
    return last(states)


def surviving_kl(process: Process, delta: Tensor, t: Tensor) -> Tensor:
    """KL between the noised laws of x_0 and x_0 + δ for one image: ½ SNR_t |δ|², with SNR = α²/σ²; (B,), float64.

    What of an attack δ (B, *D) still shows at time t, () or (B,). By the data processing inequality it bounds what any
    purifier can tell apart from there, and it decreases in t (Nie et al. 2022, theorem 1, for any two laws).
    Raises ValueError for t outside [0, 1] or where σ = 0.
    """
    arguments.finite("delta", delta)
    arguments.time_of_batch(t, delta)
    lam = process.lam(t.double())
    if bool((lam == torch.inf).any()):
        raise ValueError("the divergence is infinite where σ = 0: give t > 0")
    return (2 * lam).exp() * delta.double().flatten(1).square().sum(1) / 2
