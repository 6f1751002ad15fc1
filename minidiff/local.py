"""What the minimiser of the training loss becomes when each pixel may see a window of the noisy picture only."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff import arguments
from minidiff.process import Process

ENTRIES = 2**22  # of the largest table that is held at once


class LocalEmpirical:
    """The least training loss among denoisers whose pixel p depends on the window x_Ω(p) of the noisy picture alone.

    For images x_1 … x_N, D(x, t)_p = Σ_i w_i x_{i,p} with w_i ∝ exp(−|x_Ω(p) − α x_{i,Ω(p)}|² / 2σ²): one posterior for
    each pixel, over the windows at its place. Ω(p) is the square of side 2 radius + 1 around p, cut at the border, all
    channels. With `equivariant` the rule must be the same at all places, and the sum runs over the windows of all
    places q as well, w_{iq} ∝ exp(−|x_Ω(p) − α x_{i,Ω(q)}|² / 2σ²), those that the border cuts in the same way.
    A radius that covers the image gives `analytic.Empirical`.

    data (N, C, H, W), x (B, C, H, W) on its device, t () or (B,). Arithmetic is in float64, answers return in the dtype
    of x. At σ = 0 the nearest window counts alone. Memory beyond the data is bounded; the work of a call is O(B N H W)
    per channel, with `equivariant` another H W times the pixels of a window.
    Raises TypeError for data that are not floating point, ValueError for other shapes, NaN or a negative radius.

    Source: Kamb & Ganguli 2025, the local and the equivariant local score machine.
    """

    coupled = False

    def __init__(self, process: Process, data: Tensor, radius: int, equivariant: bool = False) -> None:
        arguments.finite("data", data)
        arguments.positive_integer("radius", radius, at_least=0)
        if data.ndim != 4 or not data.numel():
            raise ValueError(f"data must have shape (N, C, H, W) and hold something, got {tuple(data.shape)}")
        self.process = process
        self.data = data
        self.radius = radius
        self.equivariant = equivariant
        rows = data.double()
        self.sigma_data = math.sqrt(float((rows - rows.mean(0)).square().mean()))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of the shape of x."""
        arguments.floating("x", x)
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.data.shape[1:]))}), got {tuple(x.shape)}")
        arguments.time_of_batch(t, x)
        alpha = self.process.alpha(t.double()).to(x.device).expand(len(x))
        variance = self.process.sigma(t.double()).to(x.device).square().clamp(min=1e-300).expand(len(x))
        rule = self._anywhere if self.equivariant else self._in_place
        return rule(x.double(), alpha, variance).to(x.dtype)

    def _in_place(self, x: Tensor, alpha: Tensor, variance: Tensor) -> Tensor:
        """One posterior over the N windows at each place."""
        images = self.data.double()
        half_squares = self._window_sums(images.square().sum(1, keepdim=True))[:, 0] / 2
        size = max(1, ENTRIES // images[:, 0].numel())
        parts = []
        for rows in torch.arange(len(x), device=x.device).split(size):
            a = alpha[rows, None, None, None]
            overlap = self._window_sums(torch.einsum("bchw,nchw->bnhw", x[rows], images))
            posterior = _softmax(a * overlap - a**2 * half_squares, variance[rows, None, None, None])
            parts.append(torch.einsum("bnhw,nchw->bchw", posterior, images))
        return torch.cat(parts)

    def _window_sums(self, values: Tensor) -> Tensor:
        """The sum over the window of each pixel, of (B, N, H, W)."""
        side = 2 * self.radius + 1
        return F.avg_pool2d(values, side, stride=1, padding=self.radius, divisor_override=1)

    def _anywhere(self, x: Tensor, alpha: Tensor, variance: Tensor) -> Tensor:
        """One posterior over the windows of all places that the border cuts as it cuts this one."""
        seen, known = self._windows(x), self._windows(self.data.double())
        targets, made = self.data.double().flatten(2), torch.empty_like(x).flatten(2)
        for places in self._kinds(x.device):
            keys, values = known[:, places].flatten(0, 1), targets[:, :, places].transpose(1, 2).flatten(0, 1)
            half_squares = keys.square().sum(1) / 2
            queries = seen[:, places].flatten(0, 1)
            a, v = (c.repeat_interleave(len(places))[:, None] for c in (alpha, variance))
            answers = []
            for rows in torch.arange(len(queries), device=x.device).split(max(1, ENTRIES // len(keys))):
                energies = a[rows] * (queries[rows] @ keys.T) - a[rows] ** 2 * half_squares
                answers.append(_softmax(energies, v[rows]) @ values)
            made[:, :, places] = torch.cat(answers).unflatten(0, (len(x), -1)).transpose(1, 2)
        return made.reshape(x.shape)

    def _windows(self, images: Tensor) -> Tensor:
        """The window of each pixel, zero outside the image; (B, H W, C (2 radius + 1)²)."""
        return F.unfold(images, 2 * self.radius + 1, padding=self.radius).transpose(1, 2)

    def _kinds(self, device: torch.device) -> Iterator[Tensor]:
        """The places, as indices into H W, of each kind of window that the border cuts alike."""
        height, width = self.data.shape[2:]
        inside = self._windows(torch.ones(1, 1, height, width, dtype=torch.float64, device=device))[0]
        _, kind = inside.unique(dim=0, return_inverse=True)
        for k in range(int(kind.max()) + 1):
            yield (kind == k).nonzero()[:, 0]


def _softmax(energies: Tensor, variance: Tensor) -> Tensor:
    """softmax(energies / variance) over the second dimension, also for the least positive variance."""
    return ((energies - energies.amax(1, keepdim=True)) / variance).softmax(1)
