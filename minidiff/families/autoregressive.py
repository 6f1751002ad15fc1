"""An autoregressive model of images with grey levels: MADE (Germain et al. 2015), one softmax for each pixel.

The chain rule p(x) = Π_i p(x_i | x_1, …, x_{i−1}), pixels in raster order, is exact for every distribution. The masks
of one network give all its factors in one pass, so that the likelihood costs one call, and a sample one call a pixel.
Masked diffusion averages the same objective over all orders of the pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff import arguments
from minidiff.bound import check_levels
from minidiff.noise import Generators, standard_normal


class MaskedLinear(nn.Linear):
    """y = (M ⊙ W) x + b with a fixed mask M (outputs, inputs) of zeros and ones."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs) → (B, outputs)."""
        return F.linear(x, self.mask * self.weight, self.bias)


class Autoregressive(nn.Module):
    """p(x_i | x_<i) over `levels` grey levels in [−1, 1] for each of the d values of an image (B, *shape).

    Value i = 1…d has degree i; a hidden unit of degree m sees the values of degree ≤ m and is seen by the logits of
    values of degree > m, so that no path leads from x_i to the logits of x_1, …, x_i (Germain et al., eq. 8 and 9).
    Level k enters as k + 1 ones, then zeros, a thermometer: neighbouring levels look alike, which indicators do not.
    width, depth, dropout: of the hidden layers. Raises ValueError for sizes below 1, levels below 2 or a dropout
    outside [0, 1).
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 8, 8),
        levels: int = 17,
        width: int = 512,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, least in (("width", width, 1), ("depth", depth, 1), ("levels", levels, 2)):
            arguments.positive_integer(name, value, least)
        arguments.real("dropout", dropout, 0.0, 1 - 1e-9)
        self.shape, self.levels = tuple(shape), levels
        self.dimensions = d = math.prod(self.shape)
        arguments.positive_integer("the number of values of x", d)
        of_value = torch.arange(1, d + 1).repeat_interleave(levels)
        of_unit = torch.arange(width) % max(1, d - 1) + 1
        layers: list[nn.Module] = []
        seen = of_value
        for _ in range(depth):
            layers += [MaskedLinear(of_unit[:, None] >= seen), nn.SiLU(), nn.Dropout(dropout)]
            seen = of_unit
        self.net = nn.Sequential(*layers, MaskedLinear(of_value[:, None] > seen))

    def tokens(self, x: Tensor) -> Tensor:
        """Images (B, *shape) on the grey levels → their numbers 0…levels − 1 in raster order, (B, d) int64."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        check_levels(x, self.levels)
        return ((x.flatten(1) + 1) * (self.levels - 1) / 2).round().long()

    def logits(self, tokens: Tensor) -> Tensor:
        """log p(x_i = k | x_<i) up to a constant, (B, d, levels); tokens (B, d) int64.

        Raises ValueError for another shape, or a token outside 0…levels − 1.
        """
        if tokens.dtype != torch.int64 or tokens.ndim != 2 or tokens.shape[1] != self.dimensions:
            raise ValueError(
                f"tokens must be int64 of shape (B, {self.dimensions}), got {tokens.dtype} of {tuple(tokens.shape)}"
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.levels:
            raise ValueError(
                f"tokens must lie in 0…{self.levels - 1}, got values from {int(tokens.min())} to {int(tokens.max())}"
            )
        thermometers = tokens[..., None] >= torch.arange(self.levels, device=tokens.device)
        rows = thermometers.flatten(1).to(self.net[0].weight.dtype)
        return self.net(rows).reshape(-1, self.dimensions, self.levels)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = Σ_i log p(x_i | x_<i), exact; (B,) nats. Its negative is the loss. Raises for x off the levels."""
        tokens = self.tokens(x)
        return self.logits(tokens).log_softmax(2).gather(2, tokens[..., None]).sum((1, 2))

    @torch.no_grad()
    def sample(self, n: int, generator: Generators = None) -> Tensor:
        """n images (n, *shape), value after value from p(x_i | x_<i): d calls of the network.

        x_i is the first level at which the distribution function exceeds a uniform number u_i = Φ(ε_i).
        """
        arguments.positive_integer("n", n)
        device = self.net[0].weight.device
        u = torch.special.ndtr(standard_normal((n, self.dimensions), generator, torch.float64, device))
        tokens = torch.zeros(n, self.dimensions, dtype=torch.int64, device=device)
        for i in range(self.dimensions):
            below = self.logits(tokens)[:, i].double().softmax(1).cumsum(1)
            tokens[:, i] = (below < u[:, i, None]).sum(1).clamp(max=self.levels - 1)
        return (tokens * 2 / (self.levels - 1) - 1).float().reshape(n, *self.shape)
